"""The extended linear program as one HiGHS model that is kept between episodes. No Ray.

Source: specification online_crl, section 6. After an episode only the rows of the pairs that were visited changed:
their coefficients are written into the model, and the simplex method goes on from the basis that it ended with.
"""

from __future__ import annotations

import time

import highspy
import numpy as np
from scipy import sparse

from algorithms.crl.confidence import Ball
from algorithms.crl.evaluation import policy_of
from algorithms.crl.linear_programs import extended_objective, extended_skeleton, skeleton_sides
from algorithms.crl.plan import Plan
from envs.tabular import Array, Task
from solver_pool.errors import SolverPoolError


class KeptModel:
    """Plans over one ball after another with the same model.

    It has all ``2 H S^2 A`` confidence rows, ``z - high q <= 0`` and ``z - low q >= 0``; those that say nothing
    (``high >= 1``, ``low <= 0``) have no sides. Columns are ``q`` and ``z`` as in `extended_program`.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        (states, actions), horizon = task.shape, task.horizon
        self._each = states * actions * states
        entries = np.arange(horizon * self._each)
        ones = np.ones(len(entries))
        width = horizon * states * actions
        self._first = task.constraints + horizon * states + width
        shape = (len(entries), width + len(entries))
        # Any number but zero keeps a place for the coefficient of q.
        confidence = sparse.csr_array(
            (
                np.concatenate([ones, -ones]),
                (np.concatenate([entries, entries]), np.concatenate([width + entries, entries // states])),
            ),
            shape=shape,
        )
        A = sparse.csc_array(sparse.vstack([extended_skeleton(task), confidence, confidence]))
        low, high = skeleton_sides(task)
        free = np.full(2 * len(entries), highspy.kHighsInf)
        lp = highspy.HighsLp()
        lp.num_row_, lp.num_col_ = A.shape
        lp.col_cost_ = extended_objective(task)
        lp.col_lower_ = np.zeros(lp.num_col_)
        lp.col_upper_ = np.full(lp.num_col_, highspy.kHighsInf)
        lp.row_lower_, lp.row_upper_ = np.concatenate([low, -free]), np.concatenate([high, free])
        lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        lp.a_matrix_.num_row_, lp.a_matrix_.num_col_ = A.shape
        lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = A.indptr, A.indices, A.data
        self._highs = highspy.Highs()
        for name, value in (("output_flag", False), ("threads", 1), ("solver", "simplex")):
            self._highs.setOptionValue(name, value)
        self._highs.passModel(lp)
        self._high, self._low = np.ones(self._each), np.zeros(self._each)

    def plan(self, ball: Ball) -> Plan | None:
        """The optimistic plan; None where no kernel in the ball and no policy keep the budgets.

        Raises:
            SolverPoolError: if HiGHS found neither an optimum nor a proof that there is none.
        """
        began = time.perf_counter()
        self._change(ball.high.ravel(), ball.low.ravel())
        self._highs.run()
        status = self._highs.getModelStatus()
        if status == highspy.HighsModelStatus.kInfeasible:
            return None
        if status != highspy.HighsModelStatus.kOptimal:
            raise SolverPoolError(
                f"The kept model ended with {status.name}; plan with engine='pool' instead."
            )
        task = self.task
        found = np.array(self._highs.getSolution().col_value)[: task.horizon * task.rewards.size]
        occupation = np.maximum(found.reshape(task.horizon, *task.shape), 0.0)
        total = occupation.sum(axis=0)
        return Plan(
            policy=policy_of(occupation),
            value=float((total * task.rewards).sum()),
            costs=np.asarray(np.tensordot(task.costs, total, axes=2)),
            occupation=occupation,
            seconds=time.perf_counter() - began,
            solves=int(self._highs.getInfo().simplex_iteration_count),
        )

    def _change(self, high: Array, low: Array) -> None:
        """Write what differs from the ball before."""
        changed = np.flatnonzero(high != self._high)
        self._write(self._first, changed, high, np.flatnonzero((high < 1.0) != (self._high < 1.0)), True)
        changed = np.flatnonzero(low != self._low)
        rows = self._first + self.task.horizon * self._each
        self._write(rows, changed, low, np.flatnonzero((low > 0.0) != (self._low > 0.0)), False)
        self._high, self._low = high, low

    def _write(
        self,
        first: int,
        changed: np.ndarray[tuple[int], np.dtype[np.int64]],
        bound: Array,
        switched: np.ndarray[tuple[int], np.dtype[np.int64]],
        upper: bool,
    ) -> None:
        """The coefficients of `changed` entries, and the sides of those whose row came into force or left it."""
        highs, states = self._highs, self.task.shape[0]
        for h in range(self.task.horizon):
            at = h * self._each
            for entry in changed.tolist():
                highs.changeCoeff(first + at + entry, (at + entry) // states, -float(bound[entry]))
            for entry in switched.tolist():
                inforce = bound[entry] < 1.0 if upper else bound[entry] > 0.0
                side = 0.0 if inforce else highspy.kHighsInf
                highs.changeRowBounds(
                    first + at + entry,
                    -highspy.kHighsInf if upper else -side,
                    side if upper else highspy.kHighsInf,
                )

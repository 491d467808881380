"""The projection of proposals on the safe set of a tube MPC, its derivative, and what happens when a solver fails."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from envs.errors import InvalidSetting
from envs.linear_tube.disturbance import Array
from envs.linear_tube.tube import TubeMPC
from solver_pool.options import SolveOptions
from solver_pool.pool import SolverPool
from solver_pool.problem import LinearProgram

logger = logging.getLogger(__name__)

ACTIVE = 1e-9
"""Multiplier above which a row, scaled to length one, counts as active."""

RANK = 1e-7
"""Singular value above which a direction counts."""

FEASIBLE = 1e-8
"""Largest violation of a row by a plan that still counts as feasible [units of the row]."""


class Source(IntEnum):
    """Where an action comes from."""

    PROJECTED = 0
    """The program was solved: the safe action nearest to the proposal."""
    SHIFTED = 1
    """The solver gave up; the previous plan, shifted, satisfies the rows and was taken."""
    REPLANNED = 2
    """The solver gave up and no previous plan was of use; a linear program found a plan."""
    EMPTY = 3
    """No plan satisfies the rows, for the state is outside the feasible set; the one that violates them least."""


@dataclass(frozen=True, eq=False)
class Projection:
    """Safe actions for a batch of states.

    Attributes:
        tube: whose rows.
        actions: ``u_0 (B, m)``.
        plans: ``(v_0, .., v_{N-1}) (B, N, m)``; hand them to the next call as `previous`.
        multipliers: of the rows, ``(B, k)``; zero where the program was not solved.
        status: of the program, ``(B,)`` values of `Status`.
        source: ``(B,)`` values of `Source`.
        violation: of the rows by the plan, ``(B,)``, recomputed.
    """

    tube: TubeMPC
    actions: Array
    plans: Array
    multipliers: Array
    status: NDArray[np.int8]
    source: NDArray[np.int8]
    violation: Array

    @cached_property
    def M(self) -> Array:
        """``d actions / d proposals (B, m, m)`` for rho to 0, symmetric: see `derivative`.

        Zero where the program was not solved, for such an action does not depend on the proposal.
        """
        M = derivative(self.tube, self.multipliers)
        M[self.source != Source.PROJECTED] = 0.0
        return M


def project(
    tube: TubeMPC,
    states: Array,
    proposals: Array,
    pool: SolverPool,
    *,
    previous: Array | None = None,
    options: SolveOptions = SolveOptions(),
) -> Projection:
    """The safe actions nearest to `proposals`: the program of `TubeMPC.quadratic`, solved by `pool`.

    Where the solver gives up, the shifted previous plan is executed, ``u = K x + v_1``, which the theorem of
    `TubeMPC` proves safe; it is verified here all the same. Without a previous plan that satisfies the rows, a
    linear program looks for the plan of least violation. If that is positive, ``S(x)`` is empty: the state, the
    rows in conflict and the action chosen are logged as an error, and the other states of the batch keep their
    answers.

    Args:
        states: ``(B, n)``. proposals: ``(B, m)``.
        previous: ``plans (B, N, m)`` of the step before, in the same order, or None. NaN marks a state that
            has none, such as the first of an episode.

    Raises:
        InvalidSetting: on states or proposals that are not finite, or arrays of a wrong shape.
    """
    system = tube.system
    states = system.checked("states", states, system.n)
    proposals = system.checked("proposals", proposals, system.m)
    size, shape = len(states), (len(states), tube.horizon, system.m)
    if len(proposals) != size:
        raise InvalidSetting("proposals", f"are {len(proposals)} for {size} states", "Give one for each.")
    if previous is not None and previous.shape != shape:
        raise InvalidSetting(
            "previous",
            f"has shape {previous.shape}, expected {shape}",
            "Give one plan for each state, or None.",
        )
    answer = pool.solve(tube.quadratic(states, proposals), options)
    plans = answer.x.reshape(shape).copy()
    multipliers = np.where(answer.usable[:, None], answer.row_duals, 0.0)
    source = np.full(size, Source.PROJECTED, dtype=np.int8)
    failed = np.flatnonzero(~answer.usable)
    if failed.size and previous is not None:
        shifted = tube.shifted(previous[failed])
        good = tube.violation(states[failed], shifted) <= FEASIBLE  # never so for NaN
        plans[failed[good]], source[failed[good]] = shifted[good], Source.SHIFTED
        failed = failed[~good]
    for i in failed.tolist():
        plans[i] = least_violation(tube, states[i], pool)
        safe = tube.violation(states[i, None], plans[i, None])[0] <= FEASIBLE
        source[i] = Source.REPLANNED if safe else Source.EMPTY
    actions = tube.first_input(states, plans)
    result = Projection(
        tube, actions, plans, multipliers, answer.status, source, tube.violation(states, plans)
    )
    _log(result, states, answer.message)
    return result


def derivative(tube: TubeMPC, multipliers: Array, rho: float = 0.0) -> Array:
    """``M = d u_0 / d pi``, ``(B, m, m)``, of the projection with multipliers ``(B, k)`` of its rows.

    With the rows of positive multiplier ``A_AS``, ``N_z = null(A_AS)`` and ``E_0 = (I_m, 0)`` (specification
    projected_pg, section 6)::

        rho > 0:     M = E_0 N_z (N_z' diag(I, rho I) N_z)^-1 N_z' E_0'
        rho to 0:    M = orthogonal projector onto range(E_0 N_z)
    """
    m, size = tube.system.m, tube.Hz.shape[1]
    lengths = np.linalg.norm(tube.Hz, axis=1)
    unit = tube.Hz / np.where(lengths > 0, lengths, 1.0)[:, None]
    scaled = multipliers * lengths
    # At most N m rows are independent; the largest multipliers first, the others are zero.
    order = np.argsort(-scaled, axis=1)[:, :size]
    active = np.take_along_axis(scaled, order, axis=1) > ACTIVE
    rows = unit[order] * active[:, :, None]
    _, values, directions = np.linalg.svd(rows, full_matrices=True)
    free = np.ones((len(multipliers), size))
    free[:, : values.shape[1]] = values <= RANK
    null = directions * free[:, :, None]  # (B, size, size): rows are directions, zero where they are not free
    first = null[:, :, :m].swapaxes(1, 2)  # E_0 N_z
    if rho == 0.0:
        left, values, _ = np.linalg.svd(first, full_matrices=False)
        left = left * (values > RANK)[:, None, :]
        return np.asarray(left @ left.swapaxes(1, 2))
    weight = np.full(size, rho)
    weight[:m] = 1.0
    inner = (null * weight) @ null.swapaxes(1, 2)
    # Directions that are not free get a one on the diagonal: they are zero in E_0 N_z and add nothing.
    inner += (1.0 - free)[:, :, None] * np.eye(size)
    return np.asarray(first @ np.linalg.solve(inner, first.swapaxes(1, 2)))


def least_violation(tube: TubeMPC, state: Array, pool: SolverPool) -> Array:
    """The plan ``(N, m)`` that violates the rows least in sum at ``state (n,)``; zero sum if it is feasible::

        min_{z, t} sum_k t_k   s.t.   Hz z - t <= c - Hx x,   G (K x + v_0) <= g,   t >= 0

    A sum leaves most rows as they are, where a maximum would spread what one row lacks over many. The input's own
    limits are kept in any case. If even this program fails, the plan is zero: the gain alone.
    """
    system, (k, size) = tube.system, tube.Hz.shape
    H = np.zeros((k + len(system.g), size + k))
    H[:k, :size], H[:k, size:], H[k:, : system.m] = tube.Hz, -np.eye(k), system.G
    high = np.concatenate([tube.room(state[None])[0], system.g - system.G @ (tube.gain @ state)])
    low = np.concatenate([np.full(size, -np.inf), np.zeros(k)])
    cost = (low == 0.0).astype(np.float64)
    answer = pool.solve(
        LinearProgram(cost, H, np.full(len(H), -np.inf), high, low, np.full(size + k, np.inf))
    )
    plan = np.zeros(size) if answer.x is None else answer.x[:size]
    return np.asarray(plan.reshape(tube.horizon, system.m))


def log_empty(tube: TubeMPC, index: int, state: Array, plan: Array) -> None:
    """Log that no plan is feasible at ``state (n,)``, the rows that ``plan (N, m)`` violates, and its action."""
    excess = tube.Hz @ plan.ravel() - tube.room(state[None])[0]
    rows = [k for k in np.argsort(-excess).tolist() if excess[k] > FEASIBLE]
    logger.error(
        "Empty safe set: state %d of the batch is %s, outside the feasible set. The fallback is u = %s, whose plan"
        " violates the rows least: %s.",
        index, state.tolist(), tube.first_input(state[None], plan[None])[0].tolist(),
        "; ".join(f"{tube.describe(k, state)} by {excess[k]:.3g}" for k in rows),
    )  # fmt: skip


def _log(result: Projection, states: Array, message: str) -> None:
    for source in (Source.SHIFTED, Source.REPLANNED):
        which = np.flatnonzero(result.source == source)
        if which.size:
            logger.warning(
                "The solver gave up on %d of %d states (%s): %s plan executed, first at state %s with u = %s.",
                len(which), len(states), message, source.name.lower(), states[which[0]].tolist(),
                result.actions[which[0]].tolist(),
            )  # fmt: skip
    for i in np.flatnonzero(result.source == Source.EMPTY).tolist():
        log_empty(result.tube, i, states[i], result.plans[i])

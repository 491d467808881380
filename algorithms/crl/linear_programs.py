"""Linear programs over occupation measures: of a known model, and extended over a ball of models. No Ray.

Source: seed 003, equations (11) and (12), section 8.1; specification online_crl, sections 2 and 6. Large ones belong to
the solver pool; `kept_model.py` keeps one model between episodes.
"""

from __future__ import annotations

import time

import numpy as np
from scipy import sparse

from algorithms.crl.confidence import Ball
from algorithms.crl.evaluation import policy_of
from algorithms.crl.plan import Plan
from envs.tabular import Array, ConstrainedMDP, Task
from solver_pool.errors import SolverPoolError
from solver_pool.pool import SolverPool
from solver_pool.problem import LinearProgram
from solver_pool.solution import Solution, Status


def occupancy_program(problem: ConstrainedMDP) -> LinearProgram:
    """Over ``q (H S A)``, non-negative (equation (12))::

        max  sum r[s, a] q[h, s, a]
        s.t. sum c_i[s, a] q[h, s, a] <= budget_i                               i = 1 .. N
             sum_a q[0, s, a] = 1{s = s_0}                                      all s
             sum_a q[h, s, a] = sum_{s', a'} P[s', a', s] q[h-1, s', a']        h = 1 .. H-1, all s

    Each step's q sums to one by itself.
    """
    task = problem.task
    (states, actions), horizon = task.shape, task.horizon
    arriving = sparse.csr_array(problem.kernel.reshape(states * actions, states).T)
    flow = sparse.kron(sparse.eye_array(horizon), _leaving(states, actions)) - sparse.kron(
        sparse.eye_array(horizon, k=-1), arriving
    )
    mass = _mass(task)
    size = horizon * states * actions
    return LinearProgram(
        c=-np.tile(task.rewards.ravel(), horizon),
        A=sparse.vstack([_budget_rows(task), flow], format="csc"),
        row_low=np.concatenate([np.full(task.constraints, -np.inf), mass]),
        row_high=np.concatenate([task.budgets, mass]),
        low=np.zeros(size),
        high=np.full(size, np.inf),
    )


def extended_program(task: Task, ball: Ball) -> LinearProgram:
    """Over ``q (H S A)`` and ``z (H S A S)``, non-negative, ``z[h, s, a, s']`` = Pr(s_h = s, a_h = a, s_{h+1} = s')::

        max  sum r[s, a] q[h, s, a]
        s.t. sum c_i[s, a] q[h, s, a] <= budget_i                               i = 1 .. N
             sum_a q[0, s, a] = 1{s = s_0}                                      all s
             sum_a q[h, s, a] = sum_{s', a'} z[h-1, s', a', s]                  h = 1 .. H-1, all s
             q[h, s, a] = sum_s' z[h, s, a, s']                                 all h, s, a
             z[h, s, a, s'] <= high[s, a, s'] q[h, s, a]                        where high < 1
             z[h, s, a, s'] >= low[s, a, s'] q[h, s, a]                         where low > 0

    (section 8.1 with q as columns of their own, which takes S times fewer non-zeros than z alone; the rows left out
    follow from ``0 <= z <= q``). The kernel ``z / q`` may change with h: a relaxation of problem (7).
    """
    high, low = ball.high.ravel(), ball.low.ravel()
    upper, lower = np.flatnonzero(high < 1.0), np.flatnonzero(low > 0.0)
    skeleton = extended_skeleton(task)
    (states, actions), horizon = task.shape, task.horizon
    each, width = states * actions * states, horizon * states * actions
    rows = [skeleton]
    for sign, bound, kept in ((1.0, high, upper), (-1.0, low, lower)):
        steps = np.repeat(np.arange(horizon), len(kept))
        entry = np.tile(kept, horizon)
        row = np.arange(len(entry))
        rows.append(
            sparse.csr_array(
                (
                    np.concatenate([np.full(len(entry), sign), -sign * bound[entry]]),
                    (
                        np.concatenate([row, row]),
                        np.concatenate(
                            [
                                width + steps * each + entry,
                                steps * (states * actions) + entry // states,
                            ]
                        ),
                    ),
                ),
                shape=(len(entry), skeleton.shape[1]),
            )
        )
    count = rows[1].shape[0] + rows[2].shape[0]
    row_low, row_high = skeleton_sides(task)
    size = skeleton.shape[1]
    return LinearProgram(
        c=extended_objective(task),
        A=sparse.vstack(rows, format="csc"),
        row_low=np.concatenate([row_low, np.full(count, -np.inf)]),
        row_high=np.concatenate([row_high, np.zeros(count)]),
        low=np.zeros(size),
        high=np.full(size, np.inf),
    )


def extended_skeleton(task: Task) -> sparse.csr_array:
    """The rows of the extended program that no ball changes: budgets, flow, and ``q = sum z``."""
    (states, actions), horizon = task.shape, task.horizon
    pairs = states * actions
    # Columns z are ordered (h, s, a, s'): of each step, those that arrive in s'.
    arriving = sparse.kron(np.ones((1, pairs)), sparse.eye_array(states))
    flow = sparse.hstack(
        [
            sparse.kron(sparse.eye_array(horizon), _leaving(states, actions)),
            -sparse.kron(sparse.eye_array(horizon, k=-1), arriving),
        ]
    )
    tie = sparse.hstack(
        [
            sparse.eye_array(horizon * pairs),
            -sparse.kron(sparse.eye_array(horizon * pairs), np.ones((1, states))),
        ]
    )
    budgets = sparse.hstack(
        [_budget_rows(task), sparse.csr_array((task.constraints, horizon * pairs * states))]
    )
    return sparse.csr_array(sparse.vstack([budgets, flow, tie]))


def skeleton_sides(task: Task) -> tuple[Array, Array]:
    """Lower and upper sides of the rows of `extended_skeleton`."""
    states, actions = task.shape
    fixed = np.concatenate([_mass(task), np.zeros(task.horizon * states * actions)])
    return (
        np.concatenate([np.full(task.constraints, -np.inf), fixed]),
        np.concatenate([task.budgets, fixed]),
    )


def extended_objective(task: Task) -> Array:
    """The costs of the columns ``(q, z)`` for a minimiser."""
    states, actions = task.shape
    rewards = np.tile(task.rewards.ravel(), task.horizon)
    return np.concatenate([-rewards, np.zeros(task.horizon * states * actions * states)])


def program_size(task: Task) -> tuple[int, int, int]:
    """Columns, rows and non-zeros of the extended program, at most: all confidence rows kept."""
    (states, actions), horizon = task.shape, task.horizon
    pairs = states * actions
    entries = horizon * pairs * states
    columns = entries + horizon * pairs
    rows = horizon * (pairs + states) + task.constraints + 2 * entries
    nonzeros = (
        horizon * pairs * (states + 1)
        + horizon * pairs
        + (horizon - 1) * pairs * states
        + 4 * entries
        + horizon * int(np.count_nonzero(task.costs))
    )
    return columns, rows, nonzeros


def plan_known(problem: ConstrainedMDP, pool: SolverPool) -> Plan | None:
    """An optimal policy of a known model; None where no policy keeps the budgets.

    Raises:
        SolverPoolError: if the solver found neither an optimum nor a proof that there is none.
    """
    began = time.perf_counter()
    return plan_of(pool.solve(occupancy_program(problem)), problem.task, began)


def plan_extended(task: Task, ball: Ball, pool: SolverPool) -> Plan | None:
    """An optimistic policy over the ball; None where no kernel in it and no policy keep the budgets.

    Raises:
        SolverPoolError: if the solver found neither an optimum nor a proof that there is none.
    """
    began = time.perf_counter()
    return plan_of(pool.solve(extended_program(task, ball)), task, began)


def plan_of(answer: Solution, task: Task, began: float) -> Plan | None:
    """The plan in a solution whose first columns are q; None if the program is infeasible."""
    if answer.status == Status.INFEASIBLE:
        return None
    if answer.x is None:
        raise SolverPoolError(f"The linear program was not solved: {answer.message}.")
    columns = task.horizon * task.rewards.size
    occupation = np.maximum(answer.x[:columns].reshape(task.horizon, *task.shape), 0.0)
    total = occupation.sum(axis=0)
    return Plan(
        policy=policy_of(occupation),
        value=float((total * task.rewards).sum()),
        costs=np.asarray(np.tensordot(task.costs, total, axes=2)),
        occupation=occupation,
        seconds=time.perf_counter() - began,
        solves=answer.iterations,
    )


def _leaving(states: int, actions: int) -> sparse.coo_array:
    """``(S, S A)``: sums each state's actions."""
    return sparse.kron(sparse.eye_array(states), np.ones((1, actions)))


def _budget_rows(task: Task) -> sparse.csr_array:
    return sparse.csr_array(
        np.tile(task.costs.reshape(task.constraints, task.rewards.size), (1, task.horizon))
    )


def _mass(task: Task) -> Array:
    mass = np.zeros(task.horizon * task.shape[0])
    mass[task.start] = 1.0
    return mass

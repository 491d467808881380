"""What the tracking system could cost at least, by quadratic programs, and playing policies on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from envs.tracking.system import N_ACTIONS, N_STATE, Array, TrackingSystem, step
from solver_pool.errors import SolverPoolError
from solver_pool.options import SolveOptions
from solver_pool.pool import SolverPool
from solver_pool.problem import QuadraticBatch

Policy: TypeAlias = Callable[[Array], Array]
"""``policy(observations (B, 3)) -> actions (B, 2)``."""

HORIZON = 12
"""Periods that policies look ahead; what comes later is discounted and decayed away."""

OVER = 1e-6
"""Overload from which a period counts as a violation."""


@dataclass(frozen=True)
class Played:
    """What a policy cost and broke.

    Attributes:
        costs: ``(E,)``, ``sum_t gamma^t L_t`` of each episode.
        violations: ``(E,)``, periods with an overload.
        actions: ``(E, T, 2)``.
    """

    costs: Array
    violations: NDArray[np.int64]
    actions: Array


def play(policy: Policy, system: TrackingSystem, states: Array, supplies: Array) -> Played:
    """Play `policy` in episodes that begin in `states` ``(E, 2)`` with `supplies` ``(E, T + 1)``."""
    costs, violations = np.zeros(len(states)), np.zeros(len(states), dtype=np.int64)
    actions = []
    for t in range(system.periods):
        supply = supplies[:, t]
        actions.append(np.asarray(policy(np.column_stack([states, supply])), dtype=np.float64))
        states, cost, overload = step(system, states, supply, actions[-1])
        costs += system.gamma**t * cost
        violations += overload > OVER
    return Played(costs, violations, np.stack(actions, axis=1))


def optimum(system: TrackingSystem, states: Array, supplies: Array) -> tuple[Array, Array]:
    """Actions ``(E, T, 2)`` of least cost where all supplies ``(E, T)`` are known, and these costs ``(E,)``.

    One convex program in ``u_0 ... u_{T-1}`` for each of the `states` ``(E, 2)``::

        min  sum_t gamma^t (|x_{t+1} - g|^2 + rho |u_t|^2),   x_{t+1} = a^{t+1} x_0 + sum_{k <= t} a^{t-k} B u_k
        s.t. n'u_t <= w_t,   0 <= u_t <= 1

    No policy costs less, for none knows more: its certificate is one of the global optimum. An infinite supply is
    no limit.

    Raises:
        SolverPoolError: if a program was not solved to optimality.
    """
    E, T = supplies.shape
    ages = np.arange(T)[:, None] - np.arange(T)
    moved = np.kron(np.where(ages >= 0, system.decay ** np.maximum(ages, 0), 0.0), system.B)  # (2T, 2T)
    weights = np.repeat(system.gamma ** np.arange(T), N_ACTIONS)
    left = np.repeat(system.decay ** np.arange(1, T + 1), N_STATE) * np.tile(states, (1, T))
    errors = left - np.tile(system.goal, T)  # where no action is taken
    P = 2.0 * (moved.T @ (weights[:, None] * moved) + system.effort * np.diag(weights))
    q = 2.0 * (errors * weights) @ moved
    zero, one = np.zeros(N_ACTIONS * T), np.ones(N_ACTIONS * T)
    rows = np.asarray(np.kron(np.eye(T), system.n), dtype=np.float64)
    program = QuadraticBatch(P, q, rows, supplies, zero, one)
    answer = SolverPool().solve(program, SolveOptions(tolerance=1e-7))
    if not answer.certified.all():
        failed = int((~answer.certified).sum())
        raise SolverPoolError(f"{failed} of {E} plans were not solved: {answer.message}")
    costs = answer.objective + (errors**2 * weights).sum(axis=1)
    return answer.x.reshape(E, T, N_ACTIONS), np.asarray(costs)


def perfect_information(system: TrackingSystem, states: Array, supplies: Array) -> Policy:
    """`optimum` as a policy, to be played once in the same episodes."""
    left = list(np.moveaxis(optimum(system, states, supplies[:, : system.periods])[0], 1, 0))
    return lambda observations: left.pop(0)


def constrained_controller(system: TrackingSystem) -> Policy:
    """Equation (14) with the model: the first action of `optimum`, the coming supplies taken as their mean."""
    return lambda observations: _first(system, observations, observations[:, N_STATE])


def projected_controller(system: TrackingSystem) -> Policy:
    """Equations (3) and (12) with the model: what seed 002, section 3.1, warns of.

    ``pi(x)`` is the first action where this period has no limit and the coming ones their mean supply, and
    ``pi_perp(x) = argmin_u |u - pi(x)|^2  s.t.  n'u <= w, 0 <= u <= 1``.
    """
    zero, one = np.zeros(N_ACTIONS), np.ones(N_ACTIONS)

    def policy(observations: Array) -> Array:
        wanted = _first(system, observations, np.full(len(observations), np.inf))
        rows = QuadraticBatch(
            np.eye(N_ACTIONS), -wanted, system.n[None], observations[:, N_STATE:], zero, one
        )
        return SolverPool().solve(rows).x

    return policy


def _first(system: TrackingSystem, observations: Array, supply: Array) -> Array:
    """The first action ``(B, 2)`` of a plan over `HORIZON` with that supply ``(B,)`` now and the mean afterwards."""
    later = np.full((len(observations), HORIZON - 1), float(np.mean(system.supply)))
    plans, _ = optimum(system, observations[:, :N_STATE], np.column_stack([supply, later]))
    return plans[:, 0]

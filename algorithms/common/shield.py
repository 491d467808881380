"""The shield: what stands between a proposed action and the environment. No Ray here.

Every executed action is checked against its rows by `envs.safe_set.violation`, which knows nothing of
who proposed it, and is logged as certified, repaired, fallback or unsafe.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from envs.safe_set import SafeSet, violation
from solver_pool.pool import SolverPool
from solver_pool.problem import Array, QuadraticBatch

Mode = Literal["raw", "repair"]

SAFE_WITHIN = 1e-6
"""Largest violation of a row by an executed action that still counts as safe [action units]."""


class Outcome(IntEnum):
    """What the shield did with a proposed action."""

    CERTIFIED = 0
    """The proposed action satisfies its rows and was executed."""
    REPAIRED = 1
    """It did not; its projection on the rows was executed and verified."""
    FALLBACK = 2
    """The projection failed too; the safe set's fallback was executed."""
    UNSAFE = 3
    """It violates its rows and was executed all the same, because the shield was told not to interfere."""


@dataclass(frozen=True)
class Shielded:
    """Executed actions ``(B, n_a)``, their `Outcome` ``(B,)`` and violation of their rows ``(B,)``."""

    actions: Array
    outcome: NDArray[np.int8]
    violation: Array


def shield(safe_set: SafeSet, observations: Array, proposed: Array, pool: SolverPool, mode: Mode) -> Shielded:
    """Turn proposed actions ``(B, n_a)`` into executable ones, and verify them independently.

    With ``mode="repair"`` an unsafe proposal is replaced by its projection on the rows,
    ``min_a |a - proposed|^2  s.t.  G a <= h, low <= a <= high``, rounded by the safe set; if even that
    does not verify, by the safe set's fallback. With ``mode="raw"`` it is clipped to the box, executed, and counted
    as unsafe.
    A proposal that is not finite counts as unsafe and is never executed: the fallback is.
    """
    finite = np.asarray(np.isfinite(proposed).all(axis=1))
    wanted = np.where(finite[:, None], proposed, safe_set.fallback(observations))
    if mode == "raw":
        wanted = np.clip(wanted, safe_set.low, safe_set.high)
    actions = safe_set.executable(wanted)
    excess = violation(safe_set, observations, actions)
    outcome = np.zeros(len(actions), dtype=np.int8)
    outcome[~finite] = Outcome.FALLBACK
    unsafe = np.flatnonzero(excess > SAFE_WITHIN)
    if mode == "raw":
        outcome[unsafe] = Outcome.UNSAFE
        return Shielded(actions, outcome, excess)
    if unsafe.size:
        actions[unsafe] = safe_set.executable(_project(safe_set, observations[unsafe], wanted[unsafe], pool))
        outcome[unsafe] = Outcome.REPAIRED
        excess = violation(safe_set, observations, actions)
        failed = np.flatnonzero(~(excess <= SAFE_WITHIN))
        if failed.size:
            actions[failed] = safe_set.fallback(observations[failed])
            outcome[failed] = Outcome.FALLBACK
            excess = violation(safe_set, observations, actions)
    noisy = np.flatnonzero((excess > 0.0) & (excess <= SAFE_WITHIN))
    if noisy.size:
        # A solver's last digits: an environment that checks its bounds exactly would still break on them.
        inside = safe_set.executable(
            _project(safe_set, observations[noisy], wanted[noisy], pool, margin=SAFE_WITHIN)
        )
        better = violation(safe_set, observations[noisy], inside) == 0.0
        actions[noisy[better]] = inside[better]
        excess = violation(safe_set, observations, actions)
    return Shielded(actions, outcome, excess)


def _project(
    safe_set: SafeSet, observations: Array, wanted: Array, pool: SolverPool, margin: float = 0.0
) -> Array:
    """Euclidean projection of each row of `wanted` on its polytope; NaN where the solver found none.

    Args:
        margin: by which rows are tightened [action units]. A polytope that this leaves empty gives NaN.
    """
    G, h = safe_set.rows(observations)
    h = h - margin
    return pool.solve(QuadraticBatch(np.eye(wanted.shape[1]), -wanted, G, h, safe_set.low, safe_set.high)).x

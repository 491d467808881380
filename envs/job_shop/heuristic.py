"""List scheduling, compiled: a good feasible schedule within milliseconds, from which the MILP solver starts.

Without it a solver stopped at its limit may have found next to nothing. It changes no optimum and no constraint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np

from envs.cutting_planes.cuts import Cut
from envs.job_shop.instance import OPERATIONS, Ints, JobShop
from envs.job_shop.milp import busy_machines
from envs.job_shop.simulation import NEVER, ShopState

EXCHANGES = 2000
"""Of jobs in the order of a list schedule, each kept unless it is worse."""


def list_schedule(
    instance: JobShop,
    state: ShopState,
    cuts: Sequence[Cut],
    rng: np.random.Generator,
    exchanges: int = EXCHANGES,
) -> Ints:
    """Planned starts ``(J, 3)`` that are good for ``min_k b_k + w_k'y``; `NEVER` for what is not planned.

    Jobs are placed one after another, each operation as early as it fits; the order begins with weight per month of
    work and is improved by `exchanges` of two jobs, each kept unless it is worse. Where all jobs worth planning found
    their place no exchange is tried: it could not gain, and would let them start in any order.
    """
    stage, ready = state.stage, state.ready
    left = np.array([instance.durations[j, stage[j] :].sum() for j in range(len(instance))])
    W, b = np.array([cut.w for cut in cuts]), np.array([cut.b for cut in cuts])
    worth = W.mean(axis=0)
    # Jobs that gain by no cut, or cannot be finished any more, stay out.
    able = np.flatnonzero((left > 0) & (ready + left <= instance.months) & (W.max(axis=0) > 0))
    order = able[np.argsort(-worth[able] / left[able], kind="stable")]
    free = np.maximum(instance.copies - busy_machines(instance, state), 0)
    swaps = rng.integers(0, max(len(order), 1), (exchanges if len(order) > 1 else 0, 2))
    return np.asarray(_search(order, instance.durations, stage, ready, free, W, b, swaps))


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _place(order: Any, durations: Any, stage: Any, ready: Any, free: Any, starts: Any) -> None:
    """Fill ``starts (J, 3)`` with the jobs in this order, each whole or not at all."""
    starts[:] = NEVER
    free = free.copy()
    horizon = free.shape[1]
    for j in order:
        at, fits = ready[j], True
        for m in range(stage[j], OPERATIONS):
            length = durations[j, m]
            run = 0
            while at < horizon and run < length:  # the first `length` free months in a row
                run = run + 1 if free[m, at] > 0 else 0
                at += 1
            if run < length:
                fits = False
                break
            starts[j, m] = at - length
        for m in range(stage[j], OPERATIONS):
            if not fits:
                starts[j, m] = NEVER
                continue
            for t in range(starts[j, m], starts[j, m] + durations[j, m]):
                free[m, t] -= 1


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _search(order: Any, durations: Any, stage: Any, ready: Any, free: Any, W: Any, b: Any, swaps: Any) -> Any:
    starts, best = np.full(durations.shape, NEVER), np.full(durations.shape, NEVER)
    best_value = b.min()
    wanted = True  # by every cut, so that all jobs together are the best there can be
    for row in range(len(b)):
        for j in order:
            wanted = wanted and W[row, j] >= 0.0
    for s in range(len(swaps) + 1):
        if s:
            i, k = swaps[s - 1]
            order[i], order[k] = order[k], order[i]
        _place(order, durations, stage, ready, free, starts)
        value, placed = np.inf, True
        for row in range(len(b)):
            total = b[row]
            for j in order:
                if starts[j, OPERATIONS - 1] != NEVER:
                    total += W[row, j]
                else:
                    placed = False
            value = min(value, total)
        if value >= best_value:
            best_value = value
            best[:] = starts
            if wanted and placed:
                break
        elif s:
            order[i], order[k] = order[k], order[i]
    return best

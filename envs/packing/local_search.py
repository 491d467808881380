"""Local search on the packing problem, compiled: a cheap and strong lower bound on the optimum.

From each start, the best of all flips of one item and swaps of two is made until none improves. It sees A, as the
global solver does and a policy does not.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from envs.packing.instance import Array, Packing


def local_search(instance: Packing, rng: np.random.Generator, starts: int = 50) -> Array:
    """The best plan ``(N,)`` of a number of random starts, the first of them empty."""
    n = len(instance)
    best, best_value = np.zeros(n), instance.objective(np.zeros(n))
    for s in range(starts):
        x = np.zeros(n)
        if s:
            order = rng.permutation(n)
            keep = np.cumsum(instance.k[order]) <= instance.p * rng.uniform(0.3, 1.0)
            x[order[keep]] = 1.0
        _climb(instance.A, instance.b, instance.k, instance.p, x)
        value = instance.objective(x)
        if value > best_value:
            best, best_value = x, value
    return best


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _climb(A: Any, b: Any, k: Any, p: float, x: Any) -> None:
    """Improve ``x (N,)`` in place, steepest move first. ``g = b + diag(A) + 2 (A x without the diagonal)``: what an
    item is worth when it enters."""
    n = len(b)
    g = b.copy()
    load = 0.0
    for i in range(n):
        g[i] += A[i, i]
        load += k[i] * x[i]
        for j in range(n):
            if j != i:
                g[i] += 2.0 * A[i, j] * x[j]
    while True:
        gain, out, into = 1e-9, -1, -1
        for i in range(n):
            if x[i] == 0.0:
                if load + k[i] <= p and g[i] > gain:
                    gain, out, into = g[i], -1, i
                continue
            if -g[i] > gain:
                gain, out, into = -g[i], i, -1
            for j in range(n):
                if x[j] == 0.0 and load - k[i] + k[j] <= p:
                    swap = g[j] - g[i] - 2.0 * A[i, j]
                    if swap > gain:
                        gain, out, into = swap, i, j
        if out < 0 and into < 0:
            return
        for item, sign in ((out, -1.0), (into, 1.0)):
            if item >= 0:
                x[item] += sign
                load += sign * k[item]
                for j in range(n):
                    if j != item:
                        g[j] += sign * 2.0 * A[item, j]

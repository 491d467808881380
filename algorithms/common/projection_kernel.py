"""Null spaces of the strictly active constraints, compiled, for batches of small polytopes.

Constraints are numbered rows, lower bounds, upper bounds: ``G x <= h``, ``-x <= -low``, ``x <= high``. Each is
`INACTIVE`, `WEAK` (it holds with equality, without a multiplier) or `STRICT` (with a positive one).
"""

from __future__ import annotations

import numpy as np
from numba import njit

INACTIVE, WEAK, STRICT = 0, 1, 2

DEPENDENT = 1e-10
"""Length of a unit normal outside the span of others below which it counts as their combination."""


@njit(nogil=True, error_model="numpy", cache=True)
def classify(G, h, low, high, x, row_duals, bound_duals, pull, slack, kind):
    """Write the kind of every constraint of every program.

    Args:
        G: ``(1 or B, m, n)``; h ``(B, m)``, infinite where a row is off; low, high ``(1 or B, n)``.
        x: ``(B, n)``, NaN where there is no point, which leaves all constraints INACTIVE.
        row_duals: ``(B, m)``; bound_duals ``(B, n)``, positive at upper and negative at lower bounds.
        pull: ``(B,)``, the multiplier of a normal of length one above which a constraint is strictly active.
        slack: ``(B,)``, the distance up to which one holds with equality.
        kind: ``(B, m + 2 n)``, written. Both sides of a fixed variable are STRICT.
    """
    size, n = x.shape
    m = h.shape[1]
    for b in range(size):
        rows = G[b] if G.shape[0] > 1 else G[0]
        lo = low[b] if low.shape[0] > 1 else low[0]
        hi = high[b] if high.shape[0] > 1 else high[0]
        known = True
        for j in range(n):
            known = known and np.isfinite(x[b, j])
        for i in range(m + 2 * n):
            kind[b, i] = INACTIVE
        if not known:
            continue
        for i in range(m):
            square, room = 0.0, h[b, i]
            for j in range(n):
                square += rows[i, j] * rows[i, j]
                room -= rows[i, j] * x[b, j]
            length = np.sqrt(square)
            if length == 0.0:
                continue
            if row_duals[b, i] * length > pull[b]:
                kind[b, i] = STRICT
            elif room <= slack[b] * length:
                kind[b, i] = WEAK
        for j in range(n):
            fixed = lo[j] == hi[j]
            if fixed or bound_duals[b, j] < -pull[b]:
                kind[b, m + j] = STRICT
            elif x[b, j] - lo[j] <= slack[b]:
                kind[b, m + j] = WEAK
            if fixed or bound_duals[b, j] > pull[b]:
                kind[b, m + n + j] = STRICT
            elif hi[j] - x[b, j] <= slack[b]:
                kind[b, m + n + j] = WEAK


@njit(nogil=True, error_model="numpy", cache=True)
def _outside(vector, Q, first, rank):
    """Take the directions ``Q[first:rank]`` out of `vector`, in place; returns the length that is left."""
    n = vector.shape[0]
    for k in range(first, rank):
        inside = 0.0
        for j in range(n):
            inside += Q[k, j] * vector[j]
        for j in range(n):
            vector[j] -= inside * Q[k, j]
    square = 0.0
    for j in range(n):
        square += vector[j] * vector[j]
    return np.sqrt(square)


@njit(nogil=True, error_model="numpy", cache=True)
def _unit_normal(i, rows, normal):
    """Write the unit normal of constraint `i`."""
    m, n = rows.shape
    for j in range(n):
        normal[j] = rows[i, j] if i < m else 0.0
    if i >= m + n:
        normal[i - m - n] = 1.0
    elif i >= m:
        normal[i - m] = -1.0
    else:
        square = 0.0
        for j in range(n):
            square += normal[j] * normal[j]
        for j in range(n):
            normal[j] /= np.sqrt(square)


@njit(nogil=True, error_model="numpy", cache=True)
def projectors(G, kind, M, weak, dependent):
    """Write the orthogonal projector on the null space of the STRICT normals, for every program.

    The rank is revealed by Gram-Schmidt with pivoting, so that dependent normals do no harm. A WEAK normal in
    their span becomes STRICT: as a combination of them, it can take a share of their multipliers.

    Args:
        G: ``(1 or B, m, n)``. kind: ``(B, m + 2 n)``, changed as said.
        M: ``(B, n, n)``, written.
        weak: ``(B,)``, written: whether WEAK constraints are left.
        dependent: ``(B,)``, written: whether, outside the span of the STRICT ones, their normals are dependent.
    """
    size, n = M.shape[0], M.shape[1]
    m = kind.shape[1] - 2 * n
    Q, rest, left = np.empty((n, n)), np.empty((max(m, 1), n)), np.empty(max(m, 1))
    normal = np.empty(n)
    for b in range(size):
        rows = G[b] if G.shape[0] > 1 else G[0]
        # Bounds first: their unit vectors are orthonormal as they are.
        rank = 0
        for j in range(n):
            if kind[b, m + j] == STRICT or kind[b, m + n + j] == STRICT:
                for k in range(n):
                    Q[rank, k] = 1.0 if k == j else 0.0
                rank += 1
        bounds, count = rank, 0
        for i in range(m):
            if kind[b, i] == STRICT:
                _unit_normal(i, rows, rest[count])
                left[count] = _outside(rest[count], Q, 0, rank)
                count += 1
        while rank < n:
            best, length = -1, DEPENDENT
            for i in range(count):
                if left[i] > length:
                    best, length = i, left[i]
            if best < 0:
                break
            for j in range(n):
                Q[rank, j] = rest[best, j] / length
            length = _outside(Q[rank], Q, 0, rank)  # twice is enough
            for j in range(n):
                Q[rank, j] /= length
            rank += 1
            left[best] = 0.0
            for i in range(count):
                if left[i] > DEPENDENT:
                    left[i] = _outside(rest[i], Q, rank - 1, rank)
        for i in range(n):
            for j in range(n):
                M[b, i, j] = 1.0 if i == j and rank < n else 0.0
        if rank < n:
            for k in range(rank):
                for i in range(n):
                    for j in range(n):
                        M[b, i, j] -= Q[k, i] * Q[k, j]
            for k in range(bounds):  # exact zeros
                for i in range(n):
                    if Q[k, i] == 1.0:
                        for j in range(n):
                            M[b, i, j] = 0.0
                            M[b, j, i] = 0.0

        weak[b], dependent[b] = False, False
        wide = rank
        for i in range(m + 2 * n):
            if kind[b, i] != WEAK:
                continue
            _unit_normal(i, rows, normal)
            _outside(normal, Q, 0, rank)
            if rank == n or _outside(normal, Q, 0, rank) <= DEPENDENT:
                kind[b, i] = STRICT
                continue
            weak[b] = True
            length = _outside(normal, Q, rank, wide) if wide < n else 0.0
            if length <= DEPENDENT:
                dependent[b] = True
                continue
            for j in range(n):
                Q[wide, j] = normal[j] / length
            length = _outside(Q[wide], Q, 0, wide)
            for j in range(n):
                Q[wide, j] /= length
            wide += 1

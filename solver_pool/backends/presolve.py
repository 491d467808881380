"""Compiled reduction of polytopes to the unit box and the rows that can still cut it, and the way back."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, error_model="numpy", cache=True)
def presolve(G, h, low, high, tolerance, rows, limits, row_scale, row_source, n_rows,
             base, width, upper_source, lower_source, fixed_order, n_fixed, empty):  # fmt: skip
    """Reduce every sample's polytope to the unit box and the rows that can still cut it.

    A row with one free action tightens that action's bound; an action whose bounds meet is fixed; a row
    that the box implies is dropped. What became of each row is kept, so that duals can be restored.

    Args:
        G: ``(B, m, n)``; h ``(B, m)``; low, high ``(B, n)``.
    """
    size, m, n = G.shape
    alive = np.empty(m, dtype=np.bool_)
    fixed = np.empty(n, dtype=np.bool_)
    upper = np.empty(n)
    for b in range(size):
        empty[b] = False
        n_fixed[b] = 0
        for j in range(n):
            base[b, j] = low[b, j]
            upper[j] = high[b, j]
            upper_source[b, j] = -1
            lower_source[b, j] = -1
            fixed[j] = False
        for r in range(m):
            alive[r] = h[b, r] < np.inf
        again = True
        while again:
            again = False
            for j in range(n):
                if not fixed[j] and upper[j] - base[b, j] <= 1e-9:
                    if upper[j] < base[b, j] - tolerance:
                        empty[b] = True
                    middle = min(max(0.5 * (upper[j] + base[b, j]), low[b, j]), high[b, j])
                    base[b, j] = middle
                    upper[j] = middle
                    fixed[j] = True
                    fixed_order[b, n_fixed[b]] = j
                    n_fixed[b] += 1
            for r in range(m):
                if not alive[r]:
                    continue
                free, last = 0, -1
                constant = h[b, r]
                for j in range(n):
                    if G[b, r, j] != 0.0:
                        if fixed[j]:
                            constant -= G[b, r, j] * base[b, j]
                        else:
                            free += 1
                            last = j
                if free == 0:
                    if constant < -tolerance:
                        empty[b] = True
                    alive[r] = False
                elif free == 1:
                    bound = constant / G[b, r, last]
                    if G[b, r, last] > 0.0:
                        if bound < upper[last]:
                            upper[last] = bound
                            upper_source[b, last] = r
                            again = True
                    elif bound > base[b, last]:
                        base[b, last] = bound
                        lower_source[b, last] = r
                        again = True
                    alive[r] = False
        count = 0
        for j in range(n):
            width[b, j] = upper[j] - base[b, j]
        for r in range(m):
            if not alive[r]:
                continue
            least, most, largest = 0.0, 0.0, 0.0
            limit = h[b, r]
            for j in range(n):
                coefficient = G[b, r, j] * width[b, j]
                limit -= G[b, r, j] * base[b, j]
                least += min(coefficient, 0.0)
                most += max(coefficient, 0.0)
                largest = max(largest, abs(coefficient))
            if least > limit + tolerance:
                empty[b] = True
            if most <= limit or largest <= 1e-12:
                continue
            for j in range(n):
                rows[b, count, j] = G[b, r, j] * width[b, j] / largest
            limits[b, count] = limit / largest
            row_scale[b, count] = largest
            row_source[b, count] = r
            count += 1
        n_rows[b] = count


@njit(nogil=True, error_model="numpy", cache=True)
def restore_duals(G, row_source, n_rows, width, upper_source, lower_source, fixed_order, n_fixed,
                  row_scale, scaled_rows, scaled_bounds, gradient, row_duals, bound_duals):  # fmt: skip
    """Duals of the original rows and bounds from those of the reduced problem.

    The multiplier of a tightened bound belongs to the row that tightened it. Fixed actions come last, in
    reverse order of their fixing: whatever their stationarity still lacks is the multiplier that holds them.

    Args:
        scaled_rows: ``(B, m)``; scaled_bounds ``(B, n)``, upper minus lower, in scaled variables.
        gradient: ``(B, n)``, dQ/da at the answer.
    """
    size, m, n = G.shape
    for b in range(size):
        for r in range(m):
            row_duals[b, r] = 0.0
        for j in range(n):
            bound_duals[b, j] = 0.0
        for r in range(n_rows[b]):
            row_duals[b, row_source[b, r]] = scaled_rows[b, r] / row_scale[b, r]
        for j in range(n):
            if width[b, j] > 0.0:
                dual = scaled_bounds[b, j] / width[b, j]
                source = upper_source[b, j] if dual > 0.0 else lower_source[b, j]
                if source < 0:
                    bound_duals[b, j] = dual
                else:
                    row_duals[b, source] += dual / G[b, source, j]
        for f in range(n_fixed[b] - 1, -1, -1):
            j = fixed_order[b, f]
            dual = gradient[b, j]
            for r in range(m):
                dual -= G[b, r, j] * row_duals[b, r]
            source = upper_source[b, j] if dual > 0.0 else lower_source[b, j]
            if source < 0:
                bound_duals[b, j] = dual
            else:
                row_duals[b, source] += dual / G[b, source, j]

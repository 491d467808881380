"""The dual active-set method of Goldfarb and Idnani, compiled, for batches of small strictly convex QPs.

Every constraint is a normal and a level, ``n_i'x >= b_i``, numbered: lower bounds, upper bounds, rows. With
``P = L L'`` and ``J = L^-T Q`` such that the active normals ``N`` satisfy ``J'N = (R; 0)``::

    d = J'n_p = (d_1, d_2),     z = J_2 d_2 (the step of x),     r = R^-1 d_1 (the step of the multipliers)

Starting from the unconstrained minimum, the most violated constraint ``p`` is made active by steps along
``z`` that keep the point optimal for the active constraints; a multiplier that reaches zero on the way
drops its constraint. The dual objective never falls, so that the method ends unless it stalls in degenerate
steps, against which the steps are counted. The answer is polished by one step of iterative refinement.

Source: Goldfarb and Idnani, A numerically stable dual method for solving strictly convex quadratic
programs, Mathematical Programming 27, 1983, section 4.
"""

from __future__ import annotations

import numpy as np
from numba import njit

SOLVED, INFEASIBLE, NOT_DEFINITE, UNDECIDED = 0, 1, 2, 3

FEASIBLE = 1e-13
"""Violations below this, of a row of length one and relative to its level, are rounding."""
DEPENDENT = 1e-22
"""Share of a normal's squared length outside the active ones, below which it counts as their combination."""
DEFINITE = 1e-14
"""Share of a diagonal entry of P that has to be left as a pivot."""


@njit(nogil=True, error_model="numpy", cache=True)
def factor(P, L, J):
    """Write ``L`` with ``L L' = P`` and ``J = L^-T``, all ``(n, n)``; returns whether P is positive definite."""
    n = P.shape[0]
    for i in range(n):
        for j in range(i + 1):
            total = P[i, j]
            for k in range(j):
                total -= L[i, k] * L[j, k]
            if i == j:
                if not total > DEFINITE * abs(P[i, i]):
                    return False
                L[i, i] = np.sqrt(total)
            else:
                L[i, j] = total / L[j, j]
    # J' = L^-1, by forward substitution on the columns of the identity.
    for c in range(n):
        for i in range(n):
            total = 1.0 if i == c else 0.0
            for k in range(c, i):
                total -= L[i, k] * J[c, k]
            J[c, i] = total / L[i, i] if i >= c else 0.0
    return True


@njit(nogil=True, error_model="numpy", cache=True)
def _rotate(a, b):
    """Cosine, sine and length of the rotation that takes ``(a, b)`` to ``(length, 0)``."""
    length = np.hypot(a, b)
    if length == 0.0:
        return 1.0, 0.0, 0.0
    return a / length, b / length, length


@njit(nogil=True, error_model="numpy", cache=True)
def _drop(position, count, J, R, active, duals):
    """Take the active constraint at `position` out, and restore R's triangle; returns how many are left."""
    n = J.shape[0]
    for k in range(position, count - 1):
        active[k] = active[k + 1]
        duals[k] = duals[k + 1]
        for i in range(k + 2):
            R[i, k] = R[i, k + 1]
    count -= 1
    for k in range(position, count):
        c, s, length = _rotate(R[k, k], R[k + 1, k])
        R[k, k] = length
        R[k + 1, k] = 0.0
        for j in range(k + 1, count):
            upper, lower = R[k, j], R[k + 1, j]
            R[k, j] = c * upper + s * lower
            R[k + 1, j] = c * lower - s * upper
        for i in range(n):
            left, right = J[i, k], J[i, k + 1]
            J[i, k] = c * left + s * right
            J[i, k + 1] = c * right - s * left
    return count


@njit(nogil=True, error_model="numpy", cache=True)
def _add(count, d, J, R):
    """Rotate J so that the new normal, ``d = J'n``, becomes R's next column."""
    n = J.shape[0]
    for k in range(n - 1, count, -1):
        c, s, length = _rotate(d[k - 1], d[k])
        d[k - 1] = length
        d[k] = 0.0
        for i in range(n):
            left, right = J[i, k - 1], J[i, k]
            J[i, k - 1] = c * left + s * right
            J[i, k] = c * right - s * left
    for i in range(count + 1):
        R[i, count] = d[i]


@njit(nogil=True, error_model="numpy", cache=True)
def _normal(p, sign, G, normal):
    """Write the normal of constraint `p` into ``normal (n,)``; `sign` turns that of an equality."""
    n = normal.shape[0]
    if p >= 2 * n:
        for j in range(n):
            normal[j] = -G[p - 2 * n, j]
    else:
        for j in range(n):
            normal[j] = 0.0
        if p < n:
            normal[p] = sign[p]
        else:
            normal[p - n] = -1.0


@njit(nogil=True, error_model="numpy", cache=True)
def _level(p, sign, h, low, high):
    n = low.shape[0]
    if p < n:
        return sign[p] * low[p]
    return -high[p - n] if p < 2 * n else -h[p - 2 * n]


@njit(nogil=True, error_model="numpy", cache=True)
def _proves_infeasible(p, count, active, r, sign, G, h, low, high, normal, total):
    """Whether constraint `p` less the active ones, weighted by `r`, excludes every point of the box (Farkas)."""
    n = normal.shape[0]
    _normal(p, sign, G, total)
    level = _level(p, sign, h, low, high)
    size = 0.0
    for j in range(n):
        size = max(size, abs(total[j]))
    for k in range(count):
        i = active[k]
        equal = i < n and low[i] == high[i]
        weight = r[k] if equal else min(r[k], 0.0)
        _normal(i, sign, G, normal)
        level -= weight * _level(i, sign, h, low, high)
        for j in range(n):
            size = max(size, abs(weight * normal[j]))
            total[j] -= weight * normal[j]
    # Every feasible point has total'x >= level; the largest total'x of the box has to be less.
    for j in range(n):
        if abs(total[j]) > 1e-14 * size:
            side = total[j] * (high[j] if total[j] > 0.0 else low[j])
            if not np.isfinite(side):
                return False
            level -= side
    return level > 0.0


@njit(nogil=True, error_model="numpy", cache=True)
def _refine(count, P, q, G, h, low, high, sign, J, R, x, active, duals, normal, pull, y, w):
    """One step of iterative refinement on the conditions of the active set: ``P x + q = N u, N'x = b``."""
    n = x.shape[0]
    for i in range(n):
        total = -q[i]
        for j in range(n):
            total -= P[i, j] * x[j]
        pull[i] = total
    for k in range(count):
        _normal(active[k], sign, G, normal)
        short = _level(active[k], sign, h, low, high)
        for j in range(n):
            pull[j] += duals[k] * normal[j]
            short -= normal[j] * x[j]
        # R' y = N'-residual, by forward substitution.
        for i in range(k):
            short -= R[i, k] * y[i]
        y[k] = short / R[k, k]
    for k in range(n):
        w[k] = 0.0
    for i in range(n):
        for k in range(n):
            w[k] += J[i, k] * pull[i]
    for k in range(count):
        w[k], y[k] = y[k], y[k] - w[k]
    for i in range(n):
        for k in range(n):
            x[i] += J[i, k] * w[k]
    for k in range(count - 1, -1, -1):
        total = y[k]
        for j in range(k + 1, count):
            total -= R[k, j] * y[j]
        y[k] = total / R[k, k]
        duals[k] += y[k]


@njit(nogil=True, error_model="numpy", cache=True)
def solve_batch(P, q, G, h, low, high, tolerance, x_out, row_duals, bound_duals, ended, iterations):
    """Solve ``min 1/2 x'P x + q'x  s.t.  G x <= h,  low <= x <= high`` for every program of a batch.

    Args:
        P: ``(1 or B, n, n)``; q ``(B, n)``; G ``(1 or B, m, n)``; h ``(B, m)``, infinite where a row is off.
        low, high: ``(1 or B, n)``, infinite where there is no bound, equal where the variable is fixed.
        tolerance: violations up to this are accepted where a constraint depends on others that contradict it.
        x_out: ``(B, n)``, written; row_duals ``(B, m)``, bound_duals ``(B, n)``, positive at upper bounds.
        ended: ``(B,)``: SOLVED, INFEASIBLE (with a Farkas proof), NOT_DEFINITE, or UNDECIDED (numerical trouble).
        iterations: ``(B,)``, steps taken.
    """
    size, n = q.shape
    m = h.shape[1]
    total_constraints = 2 * n + m
    cap = 50 + 10 * total_constraints
    L, J0, J, R = np.zeros((n, n)), np.zeros((n, n)), np.empty((n, n)), np.zeros((n, n))
    d, z, r, w, y = np.empty(n), np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    normal, total, x, sign = np.empty(n), np.empty(n), np.empty(n), np.ones(n)
    duals = np.empty(n + 1)
    active = np.empty(n + 1, dtype=np.int64)
    idle = np.empty(total_constraints, dtype=np.bool_)
    length = np.empty(m)
    definite = True
    for b in range(size):
        at_P = b if P.shape[0] > 1 else 0
        at_G = b if G.shape[0] > 1 else 0
        lo = low[b] if low.shape[0] > 1 else low[0]
        hi = high[b] if high.shape[0] > 1 else high[0]
        rows, limits = G[at_G], h[b]
        for j in range(n):
            x_out[b, j] = np.nan
            bound_duals[b, j] = 0.0
        for i in range(m):
            row_duals[b, i] = 0.0
        iterations[b] = 0
        if b == 0 or P.shape[0] > 1:
            definite = factor(P[at_P], L, J0)
        if not definite:
            ended[b] = NOT_DEFINITE
            continue
        if b == 0 or G.shape[0] > 1:
            for i in range(m):
                square = 0.0
                for j in range(n):
                    square += rows[i, j] * rows[i, j]
                length[i] = np.sqrt(square)

        # The unconstrained minimum: x = -J J'q.
        for k in range(n):
            d[k] = 0.0
        for i in range(n):
            for k in range(n):
                J[i, k] = J0[i, k]
                d[k] -= J[i, k] * q[b, i]
        for i in range(n):
            x[i] = 0.0
            for k in range(n):
                x[i] += J[i, k] * d[k]

        # What never has to be looked at: sides that do not exist, and those of fixed variables, taken first.
        fixed = 0
        outcome = -1
        for j in range(n):
            equal = lo[j] == hi[j]
            fixed += equal
            sign[j] = 1.0
            idle[j] = equal or lo[j] == -np.inf
            idle[n + j] = equal or hi[j] == np.inf
        for i in range(m):
            idle[2 * n + i] = limits[i] == np.inf or length[i] == 0.0
            if length[i] == 0.0 and limits[i] < -tolerance:
                outcome = INFEASIBLE
        count, steps, next_fixed = 0, 0, 0
        while outcome < 0:
            # Choose: a fixed variable, or the constraint violated most.
            p, violation = -1, 0.0
            if next_fixed < n and fixed > 0:
                while next_fixed < n and lo[next_fixed] != hi[next_fixed]:
                    next_fixed += 1
                if next_fixed < n:
                    p = next_fixed
                    sign[p] = 1.0 if x[p] <= lo[p] else -1.0
                    violation = abs(x[p] - lo[p])
                    next_fixed += 1
            if p < 0:
                worst = 0.0
                for j in range(n):
                    if not idle[j]:
                        below = lo[j] - x[j]
                        if below > worst and below > FEASIBLE * max(1.0, abs(lo[j])):
                            p, worst, violation = j, below, below
                    if not idle[n + j]:
                        above = x[j] - hi[j]
                        if above > worst and above > FEASIBLE * max(1.0, abs(hi[j])):
                            p, worst, violation = n + j, above, above
                for i in range(m):
                    if not idle[2 * n + i]:
                        above = -limits[i]
                        for j in range(n):
                            above += rows[i, j] * x[j]
                        relative = above / length[i]
                        if relative > worst and relative > FEASIBLE * max(1.0, abs(limits[i]) / length[i]):
                            p, worst, violation = 2 * n + i, relative, above
                if p < 0:
                    outcome = SOLVED
                    break

            # Step until p is active.
            _normal(p, sign, rows, normal)
            dual = 0.0
            while True:
                steps += 1
                if steps > cap:
                    outcome = UNDECIDED
                    break
                if p < n:
                    for k in range(n):
                        d[k] = sign[p] * J[p, k]
                elif p < 2 * n:
                    for k in range(n):
                        d[k] = -J[p - n, k]
                else:
                    for k in range(n):
                        d[k] = 0.0
                    for j in range(n):
                        for k in range(n):
                            d[k] += J[j, k] * normal[j]
                inside, outside = 0.0, 0.0
                for k in range(count):
                    inside += d[k] * d[k]
                for k in range(count, n):
                    outside += d[k] * d[k]
                for k in range(count - 1, -1, -1):
                    r[k] = d[k]
                    for j in range(k + 1, count):
                        r[k] -= R[k, j] * r[j]
                    r[k] /= R[k, k]
                blocking, dual_step = -1, np.inf
                largest = 0.0
                for k in range(count):
                    largest = max(largest, abs(r[k]))
                for k in range(count):
                    i = active[k]
                    # A weight that is only rounding must not drop anything.
                    if r[k] > 1e-14 * largest and not (i < n and lo[i] == hi[i]):
                        ratio = duals[k] / r[k]
                        if ratio < dual_step:
                            blocking, dual_step = k, ratio
                independent = count < n and outside > DEPENDENT * (inside + outside)
                step = violation / outside if independent else np.inf
                if blocking < 0 and not independent:
                    if violation <= tolerance:
                        idle[p] = (
                            True  # dependent, and as good as satisfied; the certificate has the last word
                        )
                    elif _proves_infeasible(p, count, active, r, sign, rows, limits, lo, hi, total, w):
                        outcome = INFEASIBLE
                    else:
                        outcome = UNDECIDED
                    break
                full = step <= dual_step
                if not full:
                    step = dual_step
                if independent:
                    for i in range(n):
                        z[i] = 0.0
                        for k in range(count, n):
                            z[i] += J[i, k] * d[k]
                        x[i] += step * z[i]
                for k in range(count):
                    duals[k] -= step * r[k]
                dual += step
                if full:
                    _add(count, d, J, R)
                    active[count] = p
                    duals[count] = dual
                    count += 1
                    idle[p] = True
                    break
                dropped = active[blocking]
                idle[dropped] = False
                count = _drop(blocking, count, J, R, active, duals)
                if independent:
                    violation = _level(p, sign, limits, lo, hi)
                    for j in range(n):
                        violation -= normal[j] * x[j]
                    if violation <= 0.0:  # rounding: the partial step was the full one
                        violation = 0.0

        iterations[b] = steps
        if outcome == SOLVED:
            _refine(
                count, P[at_P], q[b], rows, limits, lo, hi, sign, J, R, x, active, duals, normal, total, y, w
            )
            for j in range(n):
                x_out[b, j] = min(max(x[j], lo[j]), hi[j])
            for k in range(count):
                i = active[k]
                if i < n and lo[i] == hi[i]:
                    bound_duals[b, i] -= sign[i] * duals[k]
                elif i < n:
                    bound_duals[b, i] -= max(duals[k], 0.0)
                elif i < 2 * n:
                    bound_duals[b, i - n] += max(duals[k], 0.0)
                else:
                    row_duals[b, i - 2 * n] = max(duals[k], 0.0)
        ended[b] = outcome

"""Compiled kernel of the branch and bound: linear bounds of a network on many boxes of actions at once.

For a box of actions the kernel finds ``U(a) = g'a + c`` with ``Q(s, a) <= U(a)`` on the whole box, by linear
relaxation of every neuron (CROWN: Zhang et al., Efficient neural network robustness certification with
general activation functions, NeurIPS 2018). Pre-activations get their intervals by a forward pass that
carries each neuron as a linear function of the action and a radius, which is cheap because there are few
actions; the output gets its bound by a backward pass, in which signs are known and errors cancel.

The rows ``G a <= h`` enter by Lagrangian duality: for every ``y >= 0``::

    max_{a in box, G a <= h} Q(s, a)  <=  y'h + c + max_{a in box} (g - G'y)'a

so no linear program has to be solved to optimality for the bound to hold.

Rounding: a sum of k products in any order, fused or not, is off by at most ``k u / (1 - k u)`` times the sum
of the magnitudes, u = 2^-53 (Higham, Accuracy and stability of numerical algorithms, section 3.1).
`branch_and_bound` computes such margins from magnitudes that hold on the whole action box; here they
widen every interval, every intercept and every bound. Activations are evaluated to a few ulp and are
allowed `ACTIVATION_ERROR`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from solver_pool.backends.interior_point_kernel import (
    ELU,
    SOFTPLUS,
    TANH,
    activation_row,
    exp_negative,
    multiply_blocks,
)

LANES = 16
"""Boxes that are bounded together: enough for the matrix products to run at speed."""
RELU = 4
ACTIVATION_ERROR = 1e-14
"""Allowed error of an activation at ``z``, relative to ``1 + |z|``; tests find less than 1e-15."""
ROUNDING = 2.0**-53

OPEN, CLOSED, FULL = 0, 1, 2
"""How a round of the search ends: boxes are left, none is left, or there is no room for more boxes."""


@njit(inline="always", error_model="numpy")
def _offset(code, slope, high):
    """``max_{0 <= z <= high} f(z) - f(0) - slope z`` of an S-shaped activation, which is concave there."""
    if code == TANH:
        root = math.sqrt(max(1.0 - slope, 0.0))
        z = 0.5 * math.log((1.0 + root) / max(1.0 - root, 1e-300))
    else:
        root = math.sqrt(max(1.0 - 4.0 * slope, 0.0))
        z = math.log((1.0 + root) / max(1.0 - root, 1e-300))
    # A point that is off a little gives a value that is off by its square: the activation's margin covers it.
    z = min(z, high)
    if code == TANH:
        e = exp_negative(-2.0 * z)
        return (1.0 - e) / (1.0 + e) - slope * z
    return 1.0 / (1.0 + exp_negative(-z)) - 0.5 - slope * z


@njit(nogil=True, error_model="numpy", fastmath={"contract", "nsz", "reassoc"}, cache=True)
def relax_row(
    code, width, low, high, upper_slope, upper, lower_slope, lower, slope, middle, radius, scratch
):  # fmt: skip
    """Lines above and below the activation on the intervals ``[low, high] (width,)`` of a row of neurons.

    ``lower_slope z + lower <= f(z) <= upper_slope z + upper``, and for the forward pass the parallel pair
    ``f(z) in slope z + middle +- radius``. All slopes are in [0, 1]. A convex activation has its chord
    above and the tangent at the middle below (for ReLU: slope 0 or 1, whichever leaves the smaller area);
    on a concave stretch it is the other way round, and across an inflection both lines are parallel to the
    chord. `scratch (8, width)`.
    """
    if code == RELU:
        for k in range(width):
            l, u = low[k], high[k]
            # A stable neuron is its own line: chord 1 or 0 to the bit, and no offset.
            chord = max(u, 0.0) / max(max(u, 0.0) - min(l, 0.0), 1e-300)
            above = -chord * min(l, 0.0)
            above += 4.0 * ROUNDING * above
            upper_slope[k], upper[k] = chord, above
            lower_slope[k], lower[k] = (1.0 if l + u > 0.0 else 0.0), 0.0
            slope[k], middle[k], radius[k] = chord, 0.5 * above, 0.5 * above
        return
    centre, f_l, f_u, f_m, tangent, slope_l, slope_u = (
        scratch[0], scratch[1], scratch[2], scratch[3], scratch[4], scratch[5], scratch[6],
    )  # fmt: skip
    for k in range(width):
        centre[k] = 0.5 * (low[k] + high[k])
    activation_row(code, width, low, f_l, slope_l, scratch[7])
    activation_row(code, width, high, f_u, slope_u, scratch[7])
    activation_row(code, width, centre, f_m, tangent, scratch[7])
    for k in range(width):
        l, u, t = low[k], high[k], tangent[k]
        rise = u - l
        wide = 0.5 + math.copysign(0.5, rise - 1e-7)  # any slope will do, but rounding must not tilt it
        chord = t + wide * ((f_u[k] - f_l[k]) / max(rise, 1e-7) - t)
        chord = min(max(chord, 0.0), 1.0)
        margin = ACTIVATION_ERROR * (1.0 + abs(l) + abs(u))
        at_l, at_u = f_l[k] - chord * l, f_u[k] - chord * u
        at_tangent = f_m[k] - t * centre[k]
        # Between the tangent and the chord's slope there is a line through each end.
        skew_l, skew_u = (t - chord) * l, (t - chord) * u
        above = max(at_l, at_u) + margin
        below = at_tangent - margin
        parallel = below + min(skew_l, skew_u) - margin
        upper_slope[k], upper[k] = chord, above
        lower_slope[k], lower[k] = t, below
        slope[k], middle[k], radius[k] = chord, 0.5 * (above + parallel), 0.5 * (above - parallel) + margin
    if code == SOFTPLUS or code == ELU:  # noqa: SIM109 (no tuples in compiled code)
        return
    zero = 0.0 if code == TANH else 0.5  # f - zero is odd, convex below zero and concave above
    for k in range(width):
        l, u, t, chord = low[k], high[k], tangent[k], slope[k]
        if u <= 0.0:
            continue
        margin = ACTIVATION_ERROR * (1.0 + abs(l) + abs(u))
        at_l, at_u = f_l[k] - chord * l, f_u[k] - chord * u
        if l >= 0.0:
            above = f_m[k] - t * centre[k] + margin
            below = min(at_l, at_u) - margin
            parallel = above + max((t - chord) * l, (t - chord) * u) + margin
            upper_slope[k], upper[k] = t, above
            lower_slope[k], lower[k] = chord, below
            middle[k], radius[k] = 0.5 * (parallel + below), 0.5 * (parallel - below) + margin
        else:
            above = max(max(at_l, at_u), zero + _offset(code, chord, u)) + margin
            below = min(min(at_l, at_u), zero - _offset(code, chord, -l)) - margin
            upper_slope[k], upper[k] = chord, above
            lower_slope[k], lower[k] = chord, below
            middle[k], radius[k] = 0.5 * (above + below), 0.5 * (above - below) + margin


@njit(nogil=True, error_model="numpy", fastmath={"contract", "nsz", "reassoc"}, cache=True)
def bound_boxes(
    code, blocks, sizes, flat, flat_transposed, flat_absolute, offsets, bias, bias_offsets, last, last_bias,
    first, folded, errors, active, low, high,
    stack, product, spread, spread_next, upper_slope, upper, lower_slope, lower, slope, middle, radius,
    back, back_next, interval_low, interval_high, scratch, gradient, constant, score,
):  # fmt: skip
    """Linear upper bounds ``gradient (K, n)``, ``constant (K,)`` of the network on boxes ``low, high (K, n)``.

    Args:
        folded: ``(w_1,)`` pre-activations of the first layer at ``a = 0``.
        errors: ``(layers, w)`` rounding error of each pre-activation.
        active: how many of the K boxes are in use.

    `score (K, n)` is how much of the bound's slack hangs on the width of each action.
    """
    n = low.shape[1]
    layers = sizes.shape[0]
    for layer in range(layers):
        w = sizes[layer]
        if layer == 0:
            for i in range(active):
                z = product[0, i]
                for k in range(w):
                    z[k] = folded[k]
                for j in range(n):
                    column, centre = first[j], 0.5 * (low[i, j] + high[i, j])
                    half = max(high[i, j] - centre, centre - low[i, j])
                    tangent = product[0, (j + 1) * active + i]
                    for k in range(w):
                        tangent[k] = column[k] * half
                    for k in range(w):
                        z[k] += column[k] * centre
                for k in range(w):
                    spread[i, k] = 0.0
        else:
            previous, begin = sizes[layer - 1], offsets[layer - 1]
            rows = (1 + n) * active
            multiply_blocks(stack, flat_transposed, begin, blocks, previous, w, product[layer], rows)
            multiply_blocks(spread, flat_absolute, begin, blocks, previous, w, spread_next, active)
            b = bias[bias_offsets[layer - 1] : bias_offsets[layer - 1] + w]
            for i in range(active):
                z, e, f = product[layer, i], spread[i], spread_next[i]
                for k in range(w):
                    z[k] += b[k]
                for k in range(w):
                    e[k] = f[k]
        error = errors[layer]
        for i in range(active):
            l, u, z, e = interval_low[layer, i], interval_high[layer, i], product[layer, i], spread[i]
            for k in range(w):
                e[k] += error[k]
            for k in range(w):
                u[k] = e[k]
            for j in range(n):
                tangent = product[layer, (j + 1) * active + i]
                for k in range(w):
                    u[k] += abs(tangent[k])
            for k in range(w):
                l[k] = z[k] - u[k]
                u[k] = z[k] + u[k]
            relax_row(
                code, w, l, u,
                upper_slope[layer, i], upper[layer, i], lower_slope[layer, i], lower[layer, i],
                slope[layer, i], middle[layer, i], radius[layer, i], scratch,
            )  # fmt: skip
            s, centre, r = slope[layer, i], middle[layer, i], radius[layer, i]
            h = stack[i]
            for k in range(w):
                h[k] = s[k] * z[k] + centre[k]
            for k in range(w):
                e[k] = s[k] * e[k] + r[k]
            for j in range(n):
                source, target = product[layer, (j + 1) * active + i], stack[(j + 1) * active + i]
                for k in range(w):
                    target[k] = source[k] * s[k]

    w = sizes[layers - 1]
    for i in range(active):
        constant[i] = last_bias
        for j in range(n):
            score[i, j] = 0.0
        for k in range(w):
            back[i, k] = last[k]
    for layer in range(layers - 1, -1, -1):
        w = sizes[layer]
        for i in range(active):
            d, r = back[i], radius[layer, i]
            su, iu, sl, il = upper_slope[layer, i], upper[layer, i], lower_slope[layer, i], lower[layer, i]
            share = spread_next[i]
            total = 0.0
            l, u = interval_low[layer, i], interval_high[layer, i]
            for k in range(w):
                share[k] = abs(d[k]) * r[k] / (u[k] - l[k] + 1e-300)
            for k in range(w):
                positive, negative = max(d[k], 0.0), min(d[k], 0.0)
                total += positive * iu[k] + negative * il[k]
                d[k] = positive * su[k] + negative * sl[k]
            for j in range(n):
                tangent = product[layer, (j + 1) * active + i]
                part = 0.0
                for k in range(w):
                    part += share[k] * abs(tangent[k])
                score[i, j] += part
            if layer:
                b = bias[bias_offsets[layer - 1] : bias_offsets[layer - 1] + w]
                for k in range(w):
                    total += d[k] * b[k]
            else:
                for k in range(w):
                    total += d[k] * folded[k]
                for j in range(n):
                    column = first[j]
                    part = 0.0
                    for k in range(w):
                        part += d[k] * column[k]
                    gradient[i, j] = part
            constant[i] += total
        if layer:
            previous = sizes[layer - 1]
            multiply_blocks(back, flat, offsets[layer - 1], blocks, w, previous, back_next, active)
            for i in range(active):
                d, e = back[i], back_next[i]
                for k in range(previous):
                    d[k] = e[k]


@njit(nogil=True, error_model="numpy", cache=True)
def tighten_by_rows(G, h, low, high):
    """Shrink a box to what rows ``G a <= h`` leave of it; False if nothing is left. `h` carries its margin."""
    m, n = G.shape
    for _ in range(2):
        changed = False
        for r in range(m):
            if not h[r] < np.inf:
                continue
            least, size = 0.0, abs(h[r])
            for j in range(n):
                least += min(G[r, j] * low[j], G[r, j] * high[j])
                size += abs(G[r, j]) * max(abs(low[j]), abs(high[j]))
            margin = 4.0 * (n + 2) * ROUNDING * size
            if least > h[r] + margin:
                return False
            for j in range(n):
                entry = G[r, j]
                if entry == 0.0:
                    continue
                room = h[r] - least + margin
                edge = low[j] + room / entry if entry > 0.0 else high[j] + room / entry
                slack = 8.0 * ROUNDING * (abs(edge) + abs(low[j]) + abs(high[j]) + room / abs(entry))
                if entry > 0.0 and edge + slack < high[j]:
                    changed = changed or high[j] - (edge + slack) > 0.1 * (high[j] - low[j])
                    high[j] = max(edge + slack, low[j])
                elif entry < 0.0 and edge - slack > low[j]:
                    changed = changed or edge - slack - low[j] > 0.1 * (high[j] - low[j])
                    low[j] = min(edge - slack, high[j])
        if not changed:
            break
    return True


@njit(nogil=True, error_model="numpy", cache=True)
def best_multipliers(G, h, low, high, gradient, duals, point, table, value, cost, basic, nonbasic):
    """Maximise ``gradient'a`` over rows and box by the dual simplex method with bounded variables.

    Gives the multipliers ``duals (m,) >= 0`` of the rows and the vertex ``point (n,)``, and returns True; if
    rows and box exclude each other, it returns False, and the multipliers are a Farkas certificate of that
    (`excludes` checks it). Nothing rests on their accuracy: `lagrangian_bound` is a bound for any multipliers,
    so a method that stops early costs nothing but tightness. `table (m, n), value (n + m,), cost (n,),
    basic (m,), nonbasic (n,)` are working space.
    """
    m, n = G.shape
    for j in range(n):
        nonbasic[j] = j
        cost[j] = gradient[j]
        value[j] = high[j] if gradient[j] > 0.0 else low[j]
    for r in range(m):
        basic[r] = n + r
        value[n + r] = h[r]
        for j in range(n):
            table[r, j] = G[r, j]
            value[n + r] -= G[r, j] * value[j]
    for _ in range(3 * (m + n)):
        # The basic variable that is farthest outside its bounds leaves.
        row, worst, rising = -1, 1e-13, True
        for r in range(m):
            v, k = value[basic[r]], basic[r]
            if not v < np.inf:
                continue
            below = low[k] - v if k < n else -v
            above = v - high[k] if k < n else -1.0
            if below > worst:
                row, worst, rising = r, below, True
            if above > worst:
                row, worst, rising = r, above, False
        if row < 0:
            break
        # The nonbasic variable that pays least for bringing it back enters.
        column, least = -1, np.inf
        for j in range(n):
            entry, k = table[row, j], nonbasic[j]
            at_upper = k < n and value[k] >= high[k] and (cost[j] > 0.0 or value[k] > low[k])
            toward = entry if at_upper else -entry
            if (toward if rising else -toward) > 1e-12:
                ratio = abs(cost[j]) / abs(entry)
                if ratio < least:
                    column, least = j, ratio
        if column < 0:
            # However the others move, the leaving variable stays outside: its row, a combination of the rows
            # of G, shows it.
            sign = 1.0 if rising else -1.0
            for r in range(m):
                duals[r] = 0.0
            for j in range(n):
                point[j] = min(max(value[j], low[j]), high[j])
                if nonbasic[j] >= n:
                    duals[nonbasic[j] - n] = max(sign * table[row, j], 0.0)
            if basic[row] >= n:
                duals[basic[row] - n] = 1.0
            return False
        leaving, entering, pivot = basic[row], nonbasic[column], table[row, column]
        bound = (low[leaving] if rising else high[leaving]) if leaving < n else 0.0
        step = (value[leaving] - bound) / pivot
        for r in range(m):
            value[basic[r]] -= table[r, column] * step
        value[entering] += step
        value[leaving] = bound
        price = cost[column] / pivot
        for j in range(n):
            table[row, j] /= pivot
        table[row, column] = 1.0 / pivot
        for r in range(m):
            if r != row:
                factor = table[r, column]
                for j in range(n):
                    table[r, j] -= factor * table[row, j]
                table[r, column] = -factor / pivot
        for j in range(n):
            cost[j] -= price * pivot * table[row, j]
        cost[column] = -price
        basic[row], nonbasic[column] = entering, leaving
    for r in range(m):
        duals[r] = 0.0
    for j in range(n):
        point[j] = min(max(value[j], low[j]), high[j])
        if nonbasic[j] >= n and h[nonbasic[j] - n] < np.inf:
            duals[nonbasic[j] - n] = max(-cost[j], 0.0)
    return True


@njit(nogil=True, error_model="numpy", cache=True)
def lagrangian_bound(G, h, low, high, gradient, constant, duals, reduced):
    """``y'h + constant + max_{a in box} (gradient - G'y)'a`` for multipliers ``y >= 0``, rounded upwards.

    `reduced (n,)` gets ``gradient - G'y``.
    """
    m, n = G.shape
    bound, size = constant, abs(constant)
    for j in range(n):
        reduced[j] = gradient[j]
        for r in range(m):
            if duals[r] > 0.0:
                reduced[j] -= duals[r] * G[r, j]
    for r in range(m):
        if duals[r] > 0.0:
            bound += duals[r] * h[r]
            size += abs(duals[r] * h[r])
    for j in range(n):
        bound += max(reduced[j] * low[j], reduced[j] * high[j])
        terms = abs(gradient[j])
        for r in range(m):
            terms += duals[r] * abs(G[r, j])
        size += terms * max(abs(low[j]), abs(high[j]))
    return bound + 8.0 * (n + m + 4) * ROUNDING * size


@njit(nogil=True, error_model="numpy", cache=True)
def excludes(G, h, low, high, duals, nothing, reduced):
    """Whether ``y'h < min_{a in box} (G'y)'a`` for ``y >= 0``, rounding included: no action satisfies the rows.

    `nothing (n,)` is zero, `reduced (n,)` working space.
    """
    return lagrangian_bound(G, h, low, high, nothing, 0.0, duals, reduced) < 0.0


@njit(nogil=True, error_model="numpy", cache=True)
def _evaluate(code, blocks, sizes, flat_transposed, offsets, bias, bias_offsets, last, last_bias,
              first, folded, action, here, there, scratch):  # fmt: skip
    """The network's value at one action; `here, there (1, w)` and `scratch (2, w)` are working space."""
    w = sizes[0]
    for k in range(w):
        here[0, k] = folded[k]
    for j in range(action.shape[0]):
        for k in range(w):
            here[0, k] += first[j, k] * action[j]
    for layer in range(sizes.shape[0]):
        w = sizes[layer]
        if layer:
            multiply_blocks(there, flat_transposed, offsets[layer - 1], blocks, sizes[layer - 1], w, here, 1)
            for k in range(w):
                here[0, k] += bias[bias_offsets[layer - 1] + k]
        if code == RELU:
            for k in range(w):
                there[0, k] = max(here[0, k], 0.0)
        else:
            activation_row(code, w, here[0], there[0], scratch[0], scratch[1])
    total = last_bias
    for k in range(w):
        total += there[0, k] * last[k]
    return total


@njit(nogil=True, error_model="numpy", cache=True)
def _sift_up(keys, heap, at):
    while at > 0:
        parent = (at - 1) // 2
        if keys[heap[parent]] >= keys[heap[at]]:
            break
        heap[parent], heap[at] = heap[at], heap[parent]
        at = parent


@njit(nogil=True, error_model="numpy", cache=True)
def _sift_down(keys, heap, count):
    at = 0
    while True:
        child = 2 * at + 1
        if child >= count:
            break
        if child + 1 < count and keys[heap[child + 1]] > keys[heap[child]]:
            child += 1
        if keys[heap[at]] >= keys[heap[child]]:
            break
        heap[at], heap[child] = heap[child], heap[at]
        at = child


@njit(nogil=True, error_model="numpy", cache=True)
def _put(lows, highs, keys, heap, free, counts, low, high, key):
    """Make a box an open one; returns its slot."""
    counts[1] -= 1
    slot = free[counts[1]]
    lows[slot], highs[slot], keys[slot] = low, high, key
    heap[counts[0]] = slot
    counts[0] += 1
    _sift_up(keys, heap, counts[0] - 1)
    return slot


@njit(inline="always", error_model="numpy")
def _threshold(value, gap):
    """The bound at which a box is of no interest; minus infinity while no action is known."""
    return value + gap * max(1.0, abs(value)) if value > -np.inf else value


@njit(nogil=True, error_model="numpy", cache=True)
def search(
    code, blocks, sizes, flat, flat_transposed, flat_absolute, offsets, bias, bias_offsets, last, last_bias,
    first, folded, errors, output_error, G, h, tolerance, gap, budget,
    lows, highs, keys, heap, free, counts, best_action, record,
):  # fmt: skip
    """One round of best-first branch and bound for one state.

    Boxes ``lows, highs (capacity, n)`` with upper bounds ``keys (capacity,)``; ``heap (capacity,)`` holds the
    slots of open boxes, the highest bound first, ``free (capacity,)`` the unused slots.

    Args:
        errors, output_error: margins for rounding, see `branch_and_bound`.
        G, h: rows ``(m, n)``, ``(m,)``; `h` carries its margin. tolerance: by which a candidate may violate
            rows. gap: relative to ``max(1, |value|)``. budget: boxes to bound in this round.
        counts: ``(open, free, bounded)`` so far, updated. best_action: ``(n,)``, updated.
        record: ``(best value, bound of all that was closed)``, updated.

    Returns:
        `OPEN`, `CLOSED` or `FULL`.
    """
    n, m, wide, layers = lows.shape[1], G.shape[0], sizes.max(), sizes.shape[0]
    stack = np.zeros(((1 + n) * LANES, wide))
    product = np.zeros((layers, (1 + n) * LANES, wide))
    spread, spread_next = np.zeros((LANES, wide)), np.zeros((LANES, wide))
    lines = np.zeros((9, layers, LANES, wide))
    back, back_next = np.zeros((LANES, wide)), np.zeros((LANES, wide))
    scratch = np.zeros((8, wide))
    gradient, constant = np.zeros((LANES, n)), np.zeros(LANES)
    score = np.zeros((LANES, n))
    low, high = np.zeros((LANES, n)), np.zeros((LANES, n))
    old_low, old_high = np.zeros(n), np.zeros(n)
    again = np.zeros(LANES, dtype=np.bool_)
    reduced, duals, point, cost = np.zeros(n), np.zeros(m), np.zeros(n), np.zeros(n)
    nothing = np.zeros(n)
    table, value = np.zeros((m, n)), np.zeros(n + m)
    basic, nonbasic = np.zeros(m, dtype=np.int64), np.zeros(n, dtype=np.int64)
    here, there = np.zeros((1, wide)), np.zeros((1, wide))
    key = np.zeros(LANES)

    spent, ended = 0, OPEN
    active = 0  # boxes in the lanes; those marked `again` are bounded once more before they are split
    while spent < budget:
        threshold = _threshold(record[0], gap)
        while active < LANES and counts[0] > 0:
            slot = heap[0]
            counts[0] -= 1
            heap[0] = heap[counts[0]]
            _sift_down(keys, heap, counts[0])
            free[counts[1]] = slot
            counts[1] += 1
            if keys[slot] <= threshold:
                record[1] = max(record[1], keys[slot])
                continue
            low[active], high[active], key[active] = lows[slot], highs[slot], keys[slot]
            if not tighten_by_rows(G, h, low[active], high[active]):
                continue
            again[active] = False
            active += 1
        if active == 0:
            return CLOSED
        if counts[1] < 2 * LANES:
            ended = FULL
            break
        bound_boxes(
            code, blocks, sizes, flat, flat_transposed, flat_absolute, offsets, bias, bias_offsets, last,
            last_bias, first, folded, errors, active, low, high,
            stack, product, spread, spread_next,
            lines[0], lines[1], lines[2], lines[3], lines[4], lines[5], lines[6],
            back, back_next, lines[7], lines[8], scratch, gradient, constant, score,
        )  # fmt: skip
        spent += active
        counts[2] += active

        kept = 0
        for i in range(active):
            solved = best_multipliers(
                G, h, low[i], high[i], gradient[i], duals, point, table, value, cost, basic, nonbasic
            )  # fmt: skip
            if not solved and excludes(G, h, low[i], high[i], duals, nothing, reduced):
                continue
            own = lagrangian_bound(G, h, low[i], high[i], gradient[i], constant[i], duals, reduced)
            own += output_error
            bound = min(own, key[i])  # a smaller box may have the looser lines
            if bound > threshold:  # the vertex where the bound is attained is a candidate
                inside = True
                for r in range(m):
                    activity = 0.0
                    for j in range(n):
                        activity += G[r, j] * point[j]
                    inside = inside and activity <= h[r] + tolerance
                if inside:
                    found = _evaluate(
                        code, blocks, sizes, flat_transposed, offsets, bias, bias_offsets, last,
                        last_bias, first, folded, point, here, there, scratch,
                    )  # fmt: skip
                    # The engine's points have verified multipliers: the last digits are not worth losing them.
                    if found > record[0] + 1e-9 * max(1.0, abs(found)):
                        record[0] = found
                        best_action[:] = point
                        threshold = _threshold(found, gap)
            if bound <= threshold:
                record[1] = max(record[1], bound)
                continue
            # Where even the bound stays below the threshold there is nothing to find.
            volume = 1.0
            for j in range(n):
                old_low[j], old_high[j] = low[i, j], high[i, j]
                width = high[i, j] - low[i, j]
                if abs(reduced[j]) * width > own - threshold:
                    reach = (own - threshold) / abs(reduced[j])
                    reach += 1e-12 * (reach + abs(low[i, j]) + abs(high[i, j]))
                    record[1] = max(record[1], threshold)
                    if reduced[j] > 0.0:
                        low[i, j] = max(low[i, j], high[i, j] - reach)
                    else:
                        high[i, j] = min(high[i, j], low[i, j] + reach)
                    volume *= (high[i, j] - low[i, j]) / width
            if not tighten_by_rows(G, h, low[i], high[i]):
                continue
            if volume < 0.5 and not again[i]:
                low[kept], high[kept], key[kept], again[kept] = low[i], high[i], bound, True
                kept += 1
                continue
            split = 0
            largest = -1.0
            for j in range(n):
                # Where the lines are exact, by what the action can still change.
                width = high[i, j] - low[i, j]
                weight = score[i, j] / max(old_high[j] - old_low[j], 1e-300) + 1e-9 * abs(gradient[i, j])
                if width > 0.0 and weight * width > largest:
                    largest, split = weight * width, j
            middle = 0.5 * (low[i, split] + high[i, split])
            if not low[i, split] < middle < high[i, split]:  # as small as numbers allow
                record[1] = max(record[1], bound)
                continue
            slot = _put(lows, highs, keys, heap, free, counts, low[i], high[i], bound)
            highs[slot, split] = middle
            slot = _put(lows, highs, keys, heap, free, counts, low[i], high[i], bound)
            lows[slot, split] = middle
        active = kept
    for i in range(active):
        _put(lows, highs, keys, heap, free, counts, low[i], high[i], key[i])
    return ended

"""Compiled kernel of the interior-point engine: many small non-convex programs that share one network.

The kernel keeps a few dozen programs in flight. One sweep evaluates the network with its gradient and
Hessian for all of them at once (matrix products over the batch), then takes one Newton step for each;
a program that converged hands its slot to the next. See `interior_point` for the mathematics.

Everything here is in scaled variables ``t`` in [0, 1], ``a = low + width * t``. Nothing allocates inside
the sweep, nothing holds the interpreter lock, and no global state exists.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

SLOTS = 32
"""Programs in flight: enough for the matrix products to run at speed, few enough to stay in the cache."""

SOFTPLUS, TANH, SIGMOID, ELU = 0, 1, 2, 3
CODES = {"softplus": SOFTPLUS, "tanh": TANH, "sigmoid": SIGMOID, "elu": ELU}

CONVERGED, ITERATION_LIMIT, NOT_FINITE, STALLED, EMPTY = 0, 1, 2, 3, 4

_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_LOG2_E = 1.4426950408889634


@intrinsic
def _power_of_two(typingctx, exponent):  # type: ignore[no-untyped-def]
    """``2.0 ** exponent`` for an int64 in [-1022, 1023], by writing the exponent bits; vectorises."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        biased = builder.add(args[0], ir.Constant(ir.IntType(64), 1023))
        bits = builder.shl(biased, ir.Constant(ir.IntType(64), 52))
        return builder.bitcast(bits, ir.DoubleType())

    return types.float64(types.int64), codegen


@njit(inline="always", error_model="numpy")
def exp_negative(x):
    """``exp(x)`` for ``x <= 0`` to about one ulp, without a library call so that loops vectorise."""
    x = max(x, -700.0)
    n = np.floor(x * _LOG2_E + 0.5)
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    p = 1.0 / 6227020800.0
    p = p * r + 1.0 / 479001600.0
    p = p * r + 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    return p * _power_of_two(np.int64(n))


@njit(inline="always", error_model="numpy")
def log1p_unit(u):
    """``log(1 + u)`` for ``u`` in [0, 1], by the series of the inverse hyperbolic tangent."""
    # Above sqrt(2) - 1 halve the argument: 1 + u = 2 (1 + f). As arithmetic, not as a branch, to vectorise.
    large = 0.5 + math.copysign(0.5, u - 0.41421356237309515)
    f = u + large * (0.5 * (u - 1.0) - u)
    t = f / (2.0 + f)
    w = t * t
    p = 1.0 / 21.0
    p = p * w + 1.0 / 19.0
    p = p * w + 1.0 / 17.0
    p = p * w + 1.0 / 15.0
    p = p * w + 1.0 / 13.0
    p = p * w + 1.0 / 11.0
    p = p * w + 1.0 / 9.0
    p = p * w + 1.0 / 7.0
    p = p * w + 1.0 / 5.0
    p = p * w + 1.0 / 3.0
    return 2.0 * (t + t * w * p) + large * 0.6931471805599453


@njit(nogil=True, error_model="numpy", fastmath={"contract", "nsz", "reassoc"}, cache=True)
def activation_row(code, width, z, value, slope, curvature):
    """Activation, first and second derivative for the first `width` pre-activations of a row."""
    if code == SOFTPLUS:
        for k in range(width):
            e = exp_negative(-abs(z[k]))
            inverse = 1.0 / (1.0 + e)
            rising = 0.5 + math.copysign(0.5, z[k])
            value[k] = max(z[k], 0.0) + log1p_unit(e)
            slope[k] = (e + rising * (1.0 - e)) * inverse
            curvature[k] = e * inverse * inverse
    elif code == TANH:
        for k in range(width):
            e = exp_negative(-2.0 * abs(z[k]))
            inverse = 1.0 / (1.0 + e)
            h = math.copysign((1.0 - e) * inverse, z[k])
            d = 4.0 * e * inverse * inverse
            value[k] = h
            slope[k] = d
            curvature[k] = -2.0 * h * d
    elif code == SIGMOID:
        for k in range(width):
            e = exp_negative(-abs(z[k]))
            inverse = 1.0 / (1.0 + e)
            rising = 0.5 + math.copysign(0.5, z[k])
            h = (e + rising * (1.0 - e)) * inverse
            d = e * inverse * inverse
            value[k] = h
            slope[k] = d
            curvature[k] = d * (1.0 - 2.0 * h)
    else:
        for k in range(width):
            e = exp_negative(min(z[k], 0.0))
            rising = 0.5 + math.copysign(0.5, z[k])
            value[k] = max(z[k], 0.0) + (e - 1.0)
            slope[k] = e
            curvature[k] = e * (1.0 - rising)


@njit(nogil=True, error_model="numpy", fastmath={"contract", "nsz", "reassoc"}, cache=True)
def multiply(left, right, out, rows, source, target):
    """``out[:rows, target:] = left[:rows, source:] @ right``, over as many columns as `right` has.

    Two rows and four terms at a time keep the FMA units busy.
    """
    inner, width = right.shape
    even = rows - rows % 2
    quads = inner - inner % 4
    for r in range(0, even, 2):
        a, b = left[r, source:], left[r + 1, source:]
        oa, ob = out[r, target:], out[r + 1, target:]
        for j in range(width):
            oa[j] = 0.0
            ob[j] = 0.0
        for k in range(0, quads, 4):
            a0, a1, a2, a3 = a[k], a[k + 1], a[k + 2], a[k + 3]
            b0, b1, b2, b3 = b[k], b[k + 1], b[k + 2], b[k + 3]
            w0, w1, w2, w3 = right[k], right[k + 1], right[k + 2], right[k + 3]
            for j in range(width):
                oa[j] += a0 * w0[j] + a1 * w1[j] + a2 * w2[j] + a3 * w3[j]
                ob[j] += b0 * w0[j] + b1 * w1[j] + b2 * w2[j] + b3 * w3[j]
        for k in range(quads, inner):
            a0, b0, w0 = a[k], b[k], right[k]
            for j in range(width):
                oa[j] += a0 * w0[j]
                ob[j] += b0 * w0[j]
    for r in range(even, rows):
        a, oa = left[r, source:], out[r, target:]
        for j in range(width):
            oa[j] = 0.0
        for k in range(inner):
            a0, w0 = a[k], right[k]
            for j in range(width):
                oa[j] += a0 * w0[j]


@njit(nogil=True, error_model="numpy", cache=True)
def multiply_blocks(left, flat, begin, blocks, inner, outer, out, rows):
    """``out[:rows, :outer] = left[:rows, :inner] @ M``; M's equal diagonal blocks stand in `flat` from `begin`."""
    high, wide = inner // blocks, outer // blocks
    for block in range(blocks):
        at = begin + block * high * wide
        matrix = flat[at : at + high * wide].reshape(high, wide)
        multiply(left, matrix, out, rows, block * high, block * wide)


@njit(nogil=True, error_model="numpy", fastmath={"contract", "nsz", "reassoc"}, cache=True)
def _network(
    code, blocks, sizes, flat, flat_transposed, offsets, bias, bias_offsets, last, last_bias,
    first, active, n, x, folded, item, width, n_starts,
    stack, product, slope, curvature, back, back_next, value, gradient, hessian,
):  # fmt: skip
    """Value, gradient ``(S, n)`` and Hessian ``(S, n, n)`` of the network at the trial points ``x (S, n)``.

    Tangents run forward through the layers beside the values (``stack`` holds 1 + n rows for each slot);
    one backward pass gives dQ/dh, and the Hessian is the sum over neurons of
    ``dQ/dh_k * f''(z_k) * J_k J_k'`` with ``J_k = dz_k/dt``.
    """
    layers = sizes.shape[0]
    for i in range(active):
        gradient[i, :n] = 0.0
        hessian[i] = 0.0
    # First layer: the state is folded into `folded`, tangents are the scaled columns of the action weights.
    w0 = sizes[0]
    for i in range(active):
        sample = item[i] // n_starts
        z = product[0, i]
        source = folded[sample]
        for k in range(w0):
            z[k] = source[k]
        for j in range(n):
            column, step, tangent = first[j], x[i, j], product[0, (j + 1) * active + i]
            scale = width[sample, j]
            for k in range(w0):
                tangent[k] = column[k] * scale
            for k in range(w0):
                z[k] += tangent[k] * step
    for layer in range(layers):
        w = sizes[layer]
        if layer:
            previous, begin = sizes[layer - 1], offsets[layer - 1]
            rows = (1 + n) * active
            multiply_blocks(stack, flat_transposed, begin, blocks, previous, w, product[layer], rows)
            b = bias[bias_offsets[layer - 1] : bias_offsets[layer - 1] + w]
            for i in range(active):
                z = product[layer, i]
                for k in range(w):
                    z[k] += b[k]
        for i in range(active):
            activation_row(code, w, product[layer, i], stack[i], slope[layer, i], curvature[layer, i])
            s = slope[layer, i]
            for j in range(n):
                source, target = product[layer, (j + 1) * active + i], stack[(j + 1) * active + i]
                for k in range(w):
                    target[k] = source[k] * s[k]
    w = sizes[layers - 1]
    for i in range(active):
        total = 0.0
        h = stack[i]
        for k in range(w):
            total += h[k] * last[k]
        value[i] = total + last_bias
        for j in range(n):
            total = 0.0
            h = stack[(j + 1) * active + i]
            for k in range(w):
                total += h[k] * last[k]
            gradient[i, j] = total
        for k in range(w):
            back[i, k] = last[k]
    for layer in range(layers - 1, -1, -1):
        w = sizes[layer]
        for i in range(active):
            c = curvature[layer, i]
            d = back[i]
            for k in range(w):
                c[k] *= d[k]
            for j in range(n):
                u = product[layer, (j + 1) * active + i]
                for q in range(j + 1):
                    v = product[layer, (q + 1) * active + i]
                    total = 0.0
                    for k in range(w):
                        total += c[k] * u[k] * v[k]
                    hessian[i, j, q] += total
        if layer:
            previous = sizes[layer - 1]
            for i in range(active):
                d, s = back[i], slope[layer, i]
                for k in range(w):
                    d[k] *= s[k]
            multiply_blocks(back, flat, offsets[layer - 1], blocks, w, previous, back_next, active)
            for i in range(active):
                d, e = back[i], back_next[i]
                for k in range(previous):
                    d[k] = e[k]


@njit(nogil=True, error_model="numpy", cache=True)
def _factor_solve(matrix, factor, rhs, n):
    """Cholesky of the leading n x n block (lower triangle used); solves in place. False if not definite."""
    for i in range(n):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= factor[i, k] * factor[j, k]
            if i == j:
                if not total > 1e-14 * (1.0 + abs(matrix[i, i])):
                    return False
                factor[i, i] = np.sqrt(total)
            else:
                factor[i, j] = total / factor[j, j]
    for i in range(n):
        total = rhs[i]
        for k in range(i):
            total -= factor[i, k] * rhs[k]
        rhs[i] = total / factor[i, i]
    for i in range(n - 1, -1, -1):
        total = rhs[i]
        for k in range(i + 1, n):
            total -= factor[k, i] * rhs[k]
        rhs[i] = total / factor[i, i]
    return True


@njit(nogil=True, error_model="numpy", cache=True)
def solve_items(
    code, blocks, sizes, flat, flat_transposed, offsets, bias, bias_offsets, last, last_bias,
    first, folded, width, rows, limits, row_scale, n_rows, starts, warm,
    tolerance, max_iterations,
    out_x, out_value, out_rows, out_lower, out_upper, out_status, out_iterations,
):  # fmt: skip
    """Solve ``max_t Q(t)  s.t.  R t <= l,  0 <= t <= 1`` for every item ``(sample, start)``.

    Args:
        folded: ``(B, w_1)`` pre-activations at ``a = low``; width ``(B, n)``, zero where an action is fixed.
        rows: ``(B, m, n)`` scaled rows of each sample, the first ``n_rows[sample]`` in use; limits ``(B, m)``;
            row_scale ``(B, m)``: what the original rows were divided by.
        starts: ``(B * k, n)``; warm ``(B * k,)``: whether the start is a guess of the optimum.
        out_*: per item: point ``(B * k, n)``, value, duals of rows ``(B * k, m)`` and of both bounds.
    """
    items = starts.shape[0]
    n_starts = items // folded.shape[0]
    n = starts.shape[1]
    m = rows.shape[1]
    layers = sizes.shape[0]
    wide = sizes.max()
    slots = min(SLOTS, items)

    stack = np.empty(((1 + n) * slots, wide))
    product = np.empty((layers, (1 + n) * slots, wide))
    slope = np.empty((layers, slots, wide))
    curvature = np.empty((layers, slots, wide))
    back = np.empty((slots, wide))
    back_next = np.empty((slots, wide))
    value = np.empty(slots)
    gradient = np.empty((slots, n))
    hessian = np.empty((slots, n, n))

    item = np.empty(slots, dtype=np.int64)
    x = np.empty((slots, n))  # accepted point
    s = np.empty((slots, m))
    y = np.empty((slots, m))
    zl = np.empty((slots, n))
    zu = np.empty((slots, n))
    trial = np.empty((slots, n))
    trial_s = np.empty((slots, m))
    dx = np.empty((slots, n))
    ds = np.empty((slots, m))
    dy = np.empty((slots, m))
    dl = np.empty((slots, n))
    du = np.empty((slots, n))
    mu = np.empty(slots)
    scale = np.empty(slots)  # objective scaling
    alpha = np.empty(slots)
    alpha_dual = np.empty(slots)
    merit = np.empty(slots)
    merit_slope = np.empty(slots)
    penalty = np.empty(slots)
    shift = np.empty(slots)  # last inertia correction
    steps = np.empty(slots, dtype=np.int64)
    cuts = np.empty(slots, dtype=np.int64)
    fresh = np.empty(slots, dtype=np.bool_)

    matrix = np.empty((n, n))
    work = np.empty((n, n))
    factor = np.empty((n, n))
    rhs = np.empty(n)

    active = 0
    following = 0
    while True:
        while active < slots and following < items:
            i = active
            item[i] = following
            push = 1e-3 if warm[following] else 1e-2
            for j in range(n):
                trial[i, j] = min(max(starts[following, j], push), 1.0 - push)
            fresh[i] = True
            steps[i] = 0
            cuts[i] = 0
            active += 1
            following += 1
        if active == 0:
            break
        _network(
            code, blocks, sizes, flat, flat_transposed, offsets, bias, bias_offsets, last, last_bias,
            first, active, n, trial, folded, item, width, n_starts,
            stack, product, slope, curvature, back, back_next, value, gradient, hessian,
        )  # fmt: skip
        i = 0
        while i < active:
            sample = item[i] // n_starts
            m_i = n_rows[sample]
            R, limit = rows[sample], limits[sample]
            done = -1
            finite = np.isfinite(value[i])
            for j in range(n):
                finite = finite and np.isfinite(gradient[i, j])
            if not finite:
                done = NOT_FINITE
            accepted = True
            if fresh[i] and done < 0:
                steepest = 0.0
                for j in range(n):
                    steepest = max(steepest, abs(gradient[i, j]))
                scale[i] = 1.0 / max(steepest, 1e-8)
                mu[i] = 1e-3 if warm[item[i]] else 1e-1
                penalty[i] = 1.0
                shift[i] = 0.0
                for j in range(n):
                    x[i, j] = trial[i, j]
                    zl[i, j] = mu[i] / x[i, j]
                    zu[i, j] = mu[i] / (1.0 - x[i, j])
                for r in range(m_i):
                    activity = 0.0
                    for j in range(n):
                        activity += R[r, j] * x[i, j]
                    s[i, r] = max(limit[r] - activity, 1e-2)
                    y[i, r] = mu[i] / s[i, r]
                fresh[i] = False
            elif done < 0:
                # Merit of the trial point: barrier function and the one-norm of the row residuals.
                phi = -scale[i] * value[i]
                for j in range(n):
                    phi -= mu[i] * (np.log(trial[i, j]) + np.log(1.0 - trial[i, j]))
                for r in range(m_i):
                    activity = 0.0
                    for j in range(n):
                        activity += R[r, j] * trial[i, j]
                    phi -= mu[i] * np.log(trial_s[i, r])
                    phi += penalty[i] * abs(activity + trial_s[i, r] - limit[r])
                # The last digits of the merit are rounding noise; near the optimum they must not reject a step.
                noise = 1e-13 * (1.0 + abs(merit[i]) + abs(scale[i] * value[i]))
                accepted = phi <= merit[i] + 1e-4 * alpha[i] * merit_slope[i] + noise
                if accepted:
                    for j in range(n):
                        x[i, j] = trial[i, j]
                        zl[i, j] += alpha_dual[i] * dl[i, j]
                        zu[i, j] += alpha_dual[i] * du[i, j]
                        # Keep the duals within reach of the central path (Waechter and Biegler 2006, eq. 16).
                        low = mu[i] / x[i, j]
                        high = mu[i] / (1.0 - x[i, j])
                        zl[i, j] = min(max(zl[i, j], 1e-10 * low), 1e10 * low)
                        zu[i, j] = min(max(zu[i, j], 1e-10 * high), 1e10 * high)
                    for r in range(m_i):
                        s[i, r] = trial_s[i, r]
                        y[i, r] += alpha_dual[i] * dy[i, r]
                        centre = mu[i] / s[i, r]
                        y[i, r] = min(max(y[i, r], 1e-10 * centre), 1e10 * centre)
                    steps[i] += 1
                    cuts[i] = 0
                else:
                    cuts[i] += 1
                    if cuts[i] > 30:
                        done = STALLED
            if done < 0 and accepted:
                # Residuals of the first-order conditions at the accepted point.
                steepest = 1.0
                for j in range(n):
                    if width[sample, j] > 0.0:
                        steepest = max(steepest, abs(gradient[i, j]) / width[sample, j])
                allowed = 0.5 * tolerance * steepest * scale[i]
                stationarity = 0.0  # relative to what is allowed
                worst_pull = 0.0
                complementarity = 0.0
                primal = 0.0
                for j in range(n):
                    pull = -scale[i] * gradient[i, j] - zl[i, j] + zu[i, j]
                    for r in range(m_i):
                        pull += R[r, j] * y[i, r]
                    worst_pull = max(worst_pull, abs(pull))
                    if width[sample, j] > 0.0:
                        stationarity = max(stationarity, abs(pull) / (allowed * width[sample, j]))
                    complementarity = max(
                        complementarity, max(zl[i, j] * x[i, j], zu[i, j] * (1.0 - x[i, j]))
                    )
                for r in range(m_i):
                    activity = 0.0
                    for j in range(n):
                        activity += R[r, j] * x[i, j]
                    primal = max(primal, abs(activity + s[i, r] - limit[r]) * row_scale[sample, r])
                    complementarity = max(complementarity, y[i, r] * s[i, r])
                # Tolerances are on the original problem, relative to its slope as in the certificate.
                if stationarity <= 1.0 and complementarity <= allowed and primal <= 0.5 * tolerance:
                    done = CONVERGED
                elif steps[i] >= max_iterations:
                    done = ITERATION_LIMIT
                else:
                    floor = 0.1 * allowed
                    # Barrier update: as soon as this subproblem is solved roughly, shrink superlinearly.
                    for _ in range(4):
                        error = max(worst_pull, primal)
                        for j in range(n):
                            error = max(error, abs(zl[i, j] * x[i, j] - mu[i]))
                            error = max(error, abs(zu[i, j] * (1.0 - x[i, j]) - mu[i]))
                        for r in range(m_i):
                            error = max(error, abs(y[i, r] * s[i, r] - mu[i]))
                        if error > 10.0 * mu[i] or mu[i] <= floor:
                            break
                        mu[i] = max(floor, min(0.1 * mu[i], mu[i] ** 1.6))
                    # Newton matrix, with the inertia corrected until it is positive definite.
                    for j in range(n):
                        for q in range(j + 1):
                            total = -scale[i] * hessian[i, j, q]
                            for r in range(m_i):
                                total += R[r, j] * R[r, q] * (y[i, r] / s[i, r])
                            matrix[j, q] = total
                        matrix[j, j] += zl[i, j] / x[i, j] + zu[i, j] / (1.0 - x[i, j])
                    correction = 0.0
                    for _attempt in range(40):
                        for j in range(n):
                            for q in range(j + 1):
                                work[j, q] = matrix[j, q]
                            work[j, j] += correction
                            total = scale[i] * gradient[i, j]
                            total += mu[i] / x[i, j] - mu[i] / (1.0 - x[i, j])
                            for r in range(m_i):
                                activity = 0.0
                                for q in range(n):
                                    activity += R[r, q] * x[i, q]
                                residual = activity + s[i, r] - limit[r]
                                total -= R[r, j] * (mu[i] + y[i, r] * residual) / s[i, r]
                            rhs[j] = total
                        if _factor_solve(work, factor, rhs, n):
                            break
                        if correction == 0.0:
                            correction = max(1e-4, shift[i] / 3.0)
                        else:
                            correction *= 4.0
                    if correction > 0.0:
                        shift[i] = correction
                    # Directions, and the longest steps that stay inside.
                    tau = max(0.99, 1.0 - mu[i])
                    longest, longest_dual = 1.0, 1.0
                    slope_phi = 0.0
                    residual_norm = 0.0
                    largest_y = 0.0
                    phi = -scale[i] * value[i]
                    for j in range(n):
                        d = rhs[j]
                        dx[i, j] = d
                        dl[i, j] = mu[i] / x[i, j] - zl[i, j] - zl[i, j] / x[i, j] * d
                        du[i, j] = mu[i] / (1.0 - x[i, j]) - zu[i, j] + zu[i, j] / (1.0 - x[i, j]) * d
                        if d < 0.0:
                            longest = min(longest, -tau * x[i, j] / d)
                        elif d > 0.0:
                            longest = min(longest, tau * (1.0 - x[i, j]) / d)
                        if dl[i, j] < 0.0:
                            longest_dual = min(longest_dual, -tau * zl[i, j] / dl[i, j])
                        if du[i, j] < 0.0:
                            longest_dual = min(longest_dual, -tau * zu[i, j] / du[i, j])
                        slope_phi += d * (
                            -scale[i] * gradient[i, j] - mu[i] / x[i, j] + mu[i] / (1.0 - x[i, j])
                        )
                        phi -= mu[i] * (np.log(x[i, j]) + np.log(1.0 - x[i, j]))
                    for r in range(m_i):
                        activity, move = 0.0, 0.0
                        for j in range(n):
                            activity += R[r, j] * x[i, j]
                            move += R[r, j] * dx[i, j]
                        residual = activity + s[i, r] - limit[r]
                        ds[i, r] = -residual - move
                        dy[i, r] = mu[i] / s[i, r] - y[i, r] + y[i, r] / s[i, r] * (residual + move)
                        if ds[i, r] < 0.0:
                            longest = min(longest, -tau * s[i, r] / ds[i, r])
                        if dy[i, r] < 0.0:
                            longest_dual = min(longest_dual, -tau * y[i, r] / dy[i, r])
                        slope_phi -= mu[i] / s[i, r] * ds[i, r]
                        phi -= mu[i] * np.log(s[i, r])
                        residual_norm += abs(residual)
                        largest_y = max(largest_y, abs(y[i, r] + dy[i, r]))
                    # The penalty must dominate the multipliers for the step to descend on the merit.
                    if residual_norm > 1e-14:
                        needed = max(1.1 * largest_y, 2.0 * slope_phi / residual_norm)
                        if penalty[i] < needed:
                            penalty[i] = 1.5 * needed
                    merit[i] = phi + penalty[i] * residual_norm
                    merit_slope[i] = min(slope_phi - penalty[i] * residual_norm, 0.0)
                    alpha[i] = longest
                    alpha_dual[i] = longest_dual
            if done < 0:
                if not accepted:
                    alpha[i] *= 0.5 if cuts[i] < 3 else 0.2
                for j in range(n):
                    trial[i, j] = x[i, j] + alpha[i] * dx[i, j]
                for r in range(m_i):
                    trial_s[i, r] = s[i, r] + alpha[i] * ds[i, r]
                i += 1
                continue
            target = item[i]
            out_status[target] = done
            out_iterations[target] = steps[i]
            out_value[target] = value[i]
            if steps[i] == 0 and done != CONVERGED:
                for j in range(n):
                    out_x[target, j] = trial[i, j]
                    out_lower[target, j] = 0.0
                    out_upper[target, j] = 0.0
                out_rows[target] = 0.0
            else:
                for j in range(n):
                    out_x[target, j] = x[i, j]
                    out_lower[target, j] = zl[i, j] / scale[i]
                    out_upper[target, j] = zu[i, j] / scale[i]
                for r in range(m_i):
                    out_rows[target, r] = y[i, r] / scale[i]
            # The last slot moves into the one that became free, evaluation included.
            final = active - 1
            if i != final:
                item[i] = item[final]
                value[i] = value[final]
                mu[i], scale[i], alpha[i], alpha_dual[i] = (
                    mu[final],
                    scale[final],
                    alpha[final],
                    alpha_dual[final],
                )
                merit[i], merit_slope[i], penalty[i] = merit[final], merit_slope[final], penalty[final]
                shift[i], steps[i], cuts[i], fresh[i] = shift[final], steps[final], cuts[final], fresh[final]
                for j in range(n):
                    x[i, j], trial[i, j], dx[i, j] = x[final, j], trial[final, j], dx[final, j]
                    zl[i, j], zu[i, j] = zl[final, j], zu[final, j]
                    dl[i, j], du[i, j] = dl[final, j], du[final, j]
                    gradient[i, j] = gradient[final, j]
                    for q in range(n):
                        hessian[i, j, q] = hessian[final, j, q]
                for r in range(m):
                    s[i, r], trial_s[i, r], ds[i, r] = s[final, r], trial_s[final, r], ds[final, r]
                    y[i, r], dy[i, r] = y[final, r], dy[final, r]
            active = final

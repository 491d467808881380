"""Residuals of the first-order conditions, compiled; they know the problem's data and nothing of any solver."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, error_model="numpy", cache=True)
def kkt_residuals(
    G, h, low, high, x, gradient, row_duals, bound_duals, primal, stationarity, complementarity
):
    """Residuals of ``max f(x)  s.t.  G x <= h, low <= x <= high`` for every program of a batch.

    Args:
        G: ``(1 or B, m, n)``; h ``(B, m)``, infinite where a row is switched off; low, high ``(1 or B, n)``.
        x: ``(B, n)``, NaN where there is no point; gradient of f there ``(B, n)``.
        row_duals: ``(B, m)``; bound_duals ``(B, n)``, positive at the upper and negative at the lower bound.
        primal, stationarity, complementarity: ``(B,)``, written; infinite where there is no point. The last
            two are relative to ``max(1, |gradient|_inf)``.
    """
    size, n = x.shape
    m = h.shape[1]
    for b in range(size):
        g = b if G.shape[0] > 1 else 0
        lo = b if low.shape[0] > 1 else 0
        hi = b if high.shape[0] > 1 else 0
        known = True
        scale, worst, pull_worst, product = 1.0, 0.0, 0.0, 0.0
        for j in range(n):
            known = known and np.isfinite(x[b, j]) and np.isfinite(gradient[b, j])
            scale = max(scale, abs(gradient[b, j]))
        if not known:
            primal[b], stationarity[b], complementarity[b] = np.inf, np.inf, np.inf
            continue
        for j in range(n):
            above, below = high[hi, j] - x[b, j], x[b, j] - low[lo, j]
            worst = max(worst, max(-above, -below))
            dual = bound_duals[b, j]
            product = max(product, dual * abs(above) if dual > 0.0 else -dual * abs(below))
            pull = gradient[b, j] - dual
            for r in range(m):
                pull -= G[g, r, j] * row_duals[b, r]
            pull_worst = max(pull_worst, abs(pull))
        for r in range(m):
            slack = h[b, r]
            for j in range(n):
                slack -= G[g, r, j] * x[b, j]
            worst = max(worst, -slack)
            # A multiplier of the wrong sign, or of a row that is switched off, is an error of its own size.
            if row_duals[b, r] < 0.0 or not np.isfinite(slack):
                pull_worst = max(pull_worst, abs(row_duals[b, r]))
            else:
                product = max(product, row_duals[b, r] * abs(slack))
        primal[b] = worst
        stationarity[b] = pull_worst / scale
        complementarity[b] = product / scale


@njit(nogil=True, error_model="numpy", cache=True)
def duality_gaps(G, h, low, high, x, row_duals, bound_duals, gap):
    """Sum of the complementarity products of every program of a batch: its duality gap, at a stationary point.

    Args:
        gap: ``(B,)``, written; infinite where a multiplier pulls at a side that does not exist, NaN where
            there is no point. The others are those of `kkt_residuals`.
    """
    size, n = x.shape
    m = h.shape[1]
    for b in range(size):
        g = b if G.shape[0] > 1 else 0
        lo = b if low.shape[0] > 1 else 0
        hi = b if high.shape[0] > 1 else 0
        total = 0.0
        for j in range(n):
            dual = bound_duals[b, j]
            if dual > 0.0:
                total += dual * abs(high[hi, j] - x[b, j])
            elif dual < 0.0:
                total -= dual * abs(x[b, j] - low[lo, j])
        for r in range(m):
            if row_duals[b, r] != 0.0:
                slack = h[b, r]
                for j in range(n):
                    slack -= G[g, r, j] * x[b, j]
                total += abs(row_duals[b, r] * slack)
        gap[b] = total

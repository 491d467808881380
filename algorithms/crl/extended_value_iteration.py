"""Extended value iteration: the best policy and the best kernel of a ball, compiled. No Ray.

Source: specification online_crl, section 7; the inner step is that of UCRL (Jaksch, Ortner and Auer, 2010).

For weights ``w (S, A)`` it solves ``max E[sum_h w(s_h, a_h)]`` over policies and kernels ``low <= P_h <= high``, which
may change with h, by backward induction: each pair's row begins with `low` and gives the rest of its mass to the
successors of the greatest value, up to `high`.

A ball is passed as `start (S A + 1)`, `index`, `value` (the non-zeros of low, pair by pair), `room (S, A, S)`
(high - low) and `slack (S, A)` (one minus the sum of low).
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, error_model="numpy", cache=True)
def compress(low):
    """The non-zeros of ``low (S, A, S)``: where those of each pair begin, their states, their values."""
    states, actions, _ = low.shape
    start = np.zeros(states * actions + 1, dtype=np.int64)
    for s in range(states):
        for a in range(actions):
            count = 0
            for t in range(states):
                if low[s, a, t] > 0.0:
                    count += 1
            start[s * actions + a + 1] = start[s * actions + a] + count
    index = np.empty(start[-1], dtype=np.int64)
    value = np.empty(start[-1])
    j = 0
    for s in range(states):
        for a in range(actions):
            for t in range(states):
                if low[s, a, t] > 0.0:
                    index[j] = t
                    value[j] = low[s, a, t]
                    j += 1
    return start, index, value


@njit(nogil=True, error_model="numpy", cache=True)
def backward(weights, start, index, value, room, slack, horizon):
    """Values ``(H + 1, S)`` and best actions ``(H, S)``; among equal actions the first."""
    states, actions = weights.shape
    values = np.zeros((horizon + 1, states))
    best = np.zeros((horizon, states), dtype=np.int64)
    for h in range(horizon - 1, -1, -1):
        after = values[h + 1]
        order = np.argsort(-after)
        for s in range(states):
            most = -np.inf
            for a in range(actions):
                total = weights[s, a]
                if h < horizon - 1:
                    pair = s * actions + a
                    for j in range(start[pair], start[pair + 1]):
                        total += value[j] * after[index[j]]
                    left = slack[s, a]
                    for t in order:
                        if left <= 0.0:
                            break
                        given = min(room[s, a, t], left)
                        total += given * after[t]
                        left -= given
                if total > most:
                    most = total
                    best[h, s] = a
            values[h, s] = most
    return values, best


@njit(nogil=True, error_model="numpy", cache=True)
def forward(values, best, actions, start, index, value, room, slack, first):
    """Probabilities ``(H, S)`` of the states under the policy and the kernel that `backward` chose."""
    horizon, states = best.shape
    there = np.zeros((horizon, states))
    there[0, first] = 1.0
    for h in range(horizon - 1):
        after = values[h + 1]
        order = np.argsort(-after)
        for s in range(states):
            mass = there[h, s]
            if mass == 0.0:
                continue
            a = best[h, s]
            pair = s * actions + a
            for j in range(start[pair], start[pair + 1]):
                there[h + 1, index[j]] += mass * value[j]
            left = slack[s, a]
            for t in order:
                if left <= 0.0:
                    break
                given = min(room[s, a, t], left)
                there[h + 1, t] += mass * given
                left -= given
    return there


@njit(nogil=True, error_model="numpy", cache=True)
def chosen_kernel(values, best, actions, start, index, value, room, slack):
    """``(H, S, S)``: the row that `backward` chose for each state and its best action; the last step's too."""
    horizon, states = best.shape
    rows = np.zeros((horizon, states, states))
    for h in range(horizon):
        order = np.argsort(-values[h + 1])
        for s in range(states):
            a = best[h, s]
            pair = s * actions + a
            for j in range(start[pair], start[pair + 1]):
                rows[h, s, index[j]] = value[j]
            left = slack[s, a]
            for t in order:
                if left <= 0.0:
                    break
                given = min(room[s, a, t], left)
                rows[h, s, t] += given
                left -= given
    return rows

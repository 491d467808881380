"""Branch and bound on the 0-1 knapsack, compiled: depth first, with Dantzig's bound.

``max p'x  s.t.  w'x <= room,  x in {0, 1}^n`` with ``p, w > 0`` and items in decreasing order of ``p_i / w_i``. The
relaxation takes items in that order until one does not fit, and a part of that one: Dantzig's bound, for what is
left after any decision on the first items. From a node the search takes what fits, leaves out the item that does
not, and on its way back leaves out the item it took last.

Source: Horowitz and Sahni, Computing partitions with applications to the knapsack problem, J. ACM 21, 1974, as given
by Martello and Toth, Knapsack Problems, 1990, section 2.5.1.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, error_model="numpy", cache=True)
def search(profit, weight, room, offset, gap, budget, best):
    """Write the best selection into ``best (n,)``; returns its profit, an upper bound, and the nodes visited.

    Args:
        profit, weight: ``(n,)``, positive, ratios decreasing. room: at least 0.
        offset: the caller minimises ``offset - profit``; `gap` is relative to ``max(1, |offset - profit|)``.
        budget: nodes after which the search stops; the bound is the root's then.
    """
    n = profit.shape[0]
    x = np.zeros(n)
    best[:] = 0.0
    value, record = 0.0, 0.0
    root = cut_off = -np.inf
    begin, nodes = 0, 0
    while nodes < budget:
        nodes += 1
        bound, left, end = value, room, begin
        while end < n and weight[end] <= left:
            left -= weight[end]
            bound += profit[end]
            end += 1
        if end < n:
            bound += profit[end] * (left / weight[end])
        if nodes == 1:
            root = bound
        if bound > record + gap * max(1.0, abs(offset - record)):
            for i in range(begin, end):
                x[i] = 1.0
                value += profit[i]
                room -= weight[i]
            if value > record:
                record = value
                best[:] = x
            begin = end + 1
            if begin < n:
                continue
        else:
            cut_off = max(cut_off, bound)
        last = min(begin, n) - 1
        while last >= 0 and x[last] == 0.0:
            last -= 1
        if last < 0:
            return record, max(record, cut_off), nodes
        x[last] = 0.0
        value -= profit[last]
        room += weight[last]
        begin = last + 1
    return record, max(record, root), nodes

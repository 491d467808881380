"""One period of the chain for a batch of states: pure functions on arrays.

The state is the observation (`Layout`), so a planner may step any batch of observations it likes. Arrays
``(B, n)`` that come out are Fortran-ordered: the batch is contiguous, and NumPy runs along it and not along
the few stages, which is what makes large batches fast. Arrays that go in may have any order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from envs.inventory.chain import Array, InventoryChain


@dataclass(frozen=True)
class Outcome:
    """What one period brought, for each state of a batch.

    Attributes:
        state: ``(B, n)``, the next state.
        reward: ``(B,)``, the profit of the period times ``alpha**n`` [money].
        profit: ``(B,)``, without the factor [money].
        ordered: ``(B, M)``, the requests after truncation to whole units.
        shipped: ``(B, M)``, what each stage's supplier sent.
        sold: ``(B,)``, to customers.
        peak: ``(B, M)``, stock after arrivals and before anything leaves, the most that the period sees.
    """

    state: Array
    reward: Array
    profit: Array
    ordered: Array
    shipped: Array
    sold: Array
    peak: Array

    def excess(self, chain: InventoryChain) -> Array:
        """``max(0, I_j - Cap_j)`` at the end of the period, ``(B, M)``: the penalty of the specification."""
        return np.maximum(self.state[:, chain.layout.stock] - chain.capacity, 0.0)

    def peak_excess(self, chain: InventoryChain) -> Array:
        """``max(0, peak_j - Cap_j)``, ``(B, M)`` [units]; never below the excess at the end."""
        return np.maximum(self.peak - chain.capacity, 0.0)


def _columns(batch: int, n: int) -> Array:
    """An uninitialised Fortran-ordered ``(batch, n)``."""
    return np.empty((n, batch)).T


def initial_state(chain: InventoryChain, batch: int) -> Array:
    """The first state of an episode, ``(batch, n)``: initial stock, nothing ordered, all periods to come."""
    state = np.zeros((chain.layout.size, batch)).T
    state[:, chain.layout.stock] = chain.initial_stock
    state[:, chain.layout.periods_left] = chain.periods
    return state


def step(chain: InventoryChain, state: Array, actions: Array, demand: Array) -> Outcome:
    """Play one period (OR-Gym's order of events; specification omlt_ddpg, section 2)::

        a   = trunc(max(a, 0)),  req = a + BO
        R   = min(req, c, I_up)                        I_up: start-of-period stock of the supplier
        rec_j = R_j(n - L_j),  peak = I + rec          L_j = 0: the R of this period
        S0  = min(peak_0, D + B0)
        I  <- peak - (S0, R_0, .., R_{M-2});  BO <- req - R;  B0 <- D + B0 - S0   (lost sales: both 0)
        profit = sum( price (S0, R) - r (R, R_{M-1}) - k (D + B0 - S0, req - R) - h (I, 0) )

    Args:
        state: ``(B, n)`` [units]. actions: ``(B, M)``, orders [units]. demand: ``(B,)`` [units].
    """
    lay, m = chain.layout, chain.stages
    batch = len(state)
    stock = state[:, lay.stock]
    ordered = _columns(batch, m)
    np.trunc(np.maximum(actions, 0.0), out=ordered)

    requested = ordered + state[:, lay.unfilled]
    shipped = np.minimum(requested, chain.supply)
    if m > 1:
        np.minimum(shipped[:, :-1], stock[:, 1:], out=shipped[:, :-1])

    peak = stock.copy(order="K")
    for j, own in enumerate(lay.stages):
        peak[:, j] += shipped[:, j] if own.start == own.stop else state[:, own.start]

    wanted = demand + state[:, lay.backlog.start]
    sold = np.minimum(peak[:, 0], wanted)

    # Customers first, then each stage's orders: (B, M + 1), as the prices and costs are.
    sales, asked, bought, held = (_columns(batch, m + 1) for _ in range(4))
    sales[:, 0], sales[:, 1:] = sold, shipped
    asked[:, 0], asked[:, 1:] = wanted, requested
    bought[:, :m], bought[:, m] = shipped, shipped[:, -1]
    held[:, :m], held[:, m] = peak - sales[:, :m], 0.0
    unmet = asked - sales

    # The same operations in the same order as OR-Gym's, so that rewards agree to the last bit.
    prices, unit_cost, backlog_cost, holding_cost = chain.money
    profit = (prices * sales - (unit_cost * bought + backlog_cost * unmet + holding_cost * held)).sum(axis=1)
    period = chain.periods - state[:, lay.periods_left.start].astype(np.intp)

    following = _columns(batch, lay.size)
    following[:, lay.stock] = held[:, :m]
    following[:, lay.unfilled] = unmet[:, 1:] if chain.backlog else 0.0
    following[:, lay.backlog] = unmet[:, :1] if chain.backlog else 0.0
    # Everything moves up by one; what a stage's last place takes from its neighbour is then overwritten.
    first, last = lay.pipeline.start, lay.pipeline.stop
    following[:, first : last - 1] = state[:, first + 1 : last]
    for j, own in enumerate(lay.stages):
        if own.start < own.stop:
            following[:, own.stop - 1] = shipped[:, j]
    following[:, lay.periods_left] = state[:, lay.periods_left] - 1.0
    return Outcome(following, chain.discounts[period] * profit, profit, ordered, shipped, sold, peak)


def position(chain: InventoryChain, state: Array) -> Array:
    """Inventory position ``X = I + T + BO``, ``(B, M)``: on hand, on the way, and ordered [units]."""
    lay = chain.layout
    total = state[:, lay.stock] + state[:, lay.unfilled]
    for j, own in enumerate(lay.stages):
        total[:, j] += state[:, own].sum(axis=1)
    return np.asarray(total)


def arriving(chain: InventoryChain, state: Array) -> Array:
    """What arrives in this period out of the pipeline, ``(B, M)``; zero where the lead time is zero."""
    result = _columns(len(state), chain.stages)
    for j, own in enumerate(chain.layout.stages):
        result[:, j] = state[:, own.start] if own.start < own.stop else 0.0
    return result

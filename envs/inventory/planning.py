"""The whole horizon as a linear program: the shrinking-horizon policy and the perfect-information bound.

For periods ``t = 0 .. H - 1`` from a state, with demand ``d`` known or expected::

    max   sum_t alpha^t ( p S(t) - r_M R_{M-1}(t) - k_0 U(t) - sum_j h_j I_j(t + 1) )
    s.t.  I_j(t + 1) = I_j(t) + rec_j(t) - out_j(t),     out_0 = S, out_j = R_{j-1}
          S(t) + U(t) = d(t) + U(t - 1)                  lost sales: without U(t - 1)
          R_j(t) <= I_{j+1}(t),   R_j(t) <= c_j
          I_j(t + 1) + out_j(t) <= max(Cap_j, X_j)       the peak
          S, U, R, I >= 0

``rec_j(t) = R_j(t - L_j)``, or what the state's pipeline holds. What one stage pays another cancels, which
leaves the customer's price and the raw material. Orders are planned as shipments: nothing is requested that
cannot be shipped, so stages have no back-orders. ``max(Cap_j, X_j)`` keeps the program feasible where a
position starts above its capacity (order nothing), and is ``Cap_j`` in every state of the safe set.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.sparse import csc_matrix

from envs.inventory.chain import Array, InventoryChain
from envs.inventory.dynamics import initial_state, position
from envs.inventory.safe_set import InventorySafeSet
from solver_pool.backends import solve
from solver_pool.problem import LinearProgram


@dataclass(frozen=True)
class Plan:
    """The optimal plan.

    Attributes:
        shipments: ``R (H, M)`` [units].
        value: discounted from the plan's first period [money].
    """

    shipments: Array
    value: float


def plan(chain: InventoryChain, state: Array, demand: Array) -> Plan:
    """Plan shipments from `state` ``(n,)`` for demand ``(H,)`` [units], ``H`` periods to the end.

    Raises:
        RuntimeError: if the solver fails; the program itself is always feasible and bounded.
    """
    lay, m, horizon = chain.layout, chain.stages, len(demand)
    columns = _Columns(m, horizon)
    c, A = _structure(chain, horizon)

    # Right-hand sides: what the state brings into the first periods.
    balance = np.zeros((horizon, m))
    balance[0] = state[lay.stock]
    for j, own in enumerate(lay.stages):
        known = state[own][:horizon]
        balance[: len(known), j] += known
    waiting = demand.astype(np.float64)
    waiting[0] += state[lay.backlog.start]
    supply = np.zeros((horizon, m - 1))
    supply[0] = state[lay.stock][1:]
    limit = np.maximum(chain.capacity, position(chain, state[None])[0])
    row_high = np.concatenate([balance.ravel(), waiting, supply.ravel(), np.tile(limit, horizon)])
    row_low = row_high.copy()
    row_low[balance.size + waiting.size :] = -np.inf

    high = np.full(columns.size, np.inf)
    high[columns.shipped.ravel()] = np.tile(chain.supply, horizon)
    solution = solve(LinearProgram(-c, A, row_low, row_high, np.zeros(columns.size), high))
    if solution.x is None:
        raise RuntimeError(f"The plan was not solved: {solution.status.name}. {solution.message}")
    return Plan(solution.x[columns.shipped], float(c @ solution.x))


class ShrinkingHorizonLP:
    """Plan the rest of the episode for the expected demand in every period, and order its first shipments.

    The orders are rounded down and cut to the safe set, as the plan respects the capacities for the
    expected demand only.
    """

    def __init__(self, chain: InventoryChain) -> None:
        self.chain = chain
        self._safe = InventorySafeSet(chain)

    def __call__(self, observations: Array) -> Array:
        """Orders ``(B, M)`` for observations ``(B, n)`` [units]; one linear program each."""
        lay = self.chain.layout
        orders = np.zeros((len(observations), self.chain.stages))
        for i, state in enumerate(observations):
            expected = np.full(int(state[lay.periods_left.start]), self.chain.demand_mean)
            first = plan(self.chain, state, expected).shipments[0]
            orders[i] = np.maximum(first - state[lay.unfilled], 0.0)  # back-orders ship without being asked
        return self._safe.clip(observations, self._safe.executable(orders))


def perfect_information(chain: InventoryChain, demand: Array) -> Array:
    """The most that any policy can earn on each path of demand ``(E, periods)``; ``(E,)`` [money].

    The value of the plan that knows the path. Continuous, hence an upper bound also on whole orders; with the
    chain's capacities, if it has any.
    """
    state = initial_state(chain, 1)[0]
    return np.array([plan(chain, state, path).value for path in demand])


class _Columns:
    """Column numbers: ``shipped (H, M)``, ``sold (H,)``, ``stock (H, M)``, ``unmet (H,)``."""

    def __init__(self, stages: int, horizon: int) -> None:
        numbers = np.arange(horizon * (2 * stages + 2)).reshape(horizon, 2 * stages + 2)
        self.shipped = numbers[:, :stages]
        self.sold = numbers[:, stages]
        self.stock = numbers[:, stages + 1 : -1]
        self.unmet = numbers[:, -1]
        self.size = int(numbers.size)


@lru_cache(maxsize=64)
def _structure(chain: InventoryChain, horizon: int) -> tuple[Array, csc_matrix]:
    """Objective (to maximise) and matrix; only the right-hand sides depend on state and demand."""
    m = chain.stages
    v = _Columns(m, horizon)
    c = np.zeros(v.size)
    weight = chain.discounts[:horizon]
    c[v.sold] = weight * chain.price
    c[v.shipped[:, -1]] = -weight * chain.unit_cost[-1]
    c[v.unmet] = -weight * chain.backlog_cost[0]
    c[v.stock] = -weight[:, None] * np.array(chain.holding_cost)

    rows: list[list[tuple[int, float]]] = []
    leaving = np.column_stack([v.sold, v.shipped[:, :-1]])
    for t in range(horizon):
        for j in range(m):
            row = [(v.stock[t, j], 1.0), (leaving[t, j], 1.0)]
            if t:
                row.append((v.stock[t - 1, j], -1.0))
            if t >= chain.lead_times[j]:
                row.append((v.shipped[t - chain.lead_times[j], j], -1.0))
            rows.append(row)
    for t in range(horizon):
        row = [(v.sold[t], 1.0), (v.unmet[t], 1.0)]
        rows.append([*row, (v.unmet[t - 1], -1.0)] if t and chain.backlog else row)
    for t in range(horizon):
        for j in range(m - 1):
            row = [(v.shipped[t, j], 1.0)]
            rows.append([*row, (v.stock[t - 1, j + 1], -1.0)] if t else row)
    for t in range(horizon):
        rows.extend([(v.stock[t, j], 1.0), (leaving[t, j], 1.0)] for j in range(m))
    index = [i for i, row in enumerate(rows) for _ in row]
    column = [int(k) for row in rows for k, _ in row]
    value = [a for row in rows for _, a in row]
    return c, csc_matrix((value, (index, column)), shape=(len(rows), v.size))

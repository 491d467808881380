"""The safe orders of the chain: linear rows that keep every stock below its storage capacity for ever."""

from __future__ import annotations

from typing import Literal

import numpy as np

from envs.errors import InvalidSetting
from envs.inventory.chain import Array, InventoryChain
from envs.inventory.dynamics import arriving, position


class InventorySafeSet:
    """The orders that keep ``I_j <= Cap_j`` now and leave "order nothing" safe for ever.

    Source: specification omlt_ddpg, section 3. With the position ``X_j = I_j + T_j + BO_j`` (on hand, on the
    way, and ordered but not shipped), read from the observation, the rows ``G a <= h`` are, for a chain of
    ``M`` stages (``3 M - 2`` rows)::

        stage 0:   a_0           <= Cap_0 - X_0 + min(I_0 + rec_0, B0)
        stage j:   a_j - a_{j-1} <= Cap_j - X_j + BO_{j-1}
                   a_j           <= Cap_j - X_j + c_{j-1}
                   a_j           <= Cap_j - X_j + I_j

    The credits on the right are what surely leaves stage `j` in this period: customers in backlog at stage 0,
    and the shipment to the stage below, ``R_{j-1} = min(a_{j-1} + BO_{j-1}, c_{j-1}, I_j)``, elsewhere. "At
    most the minimum of three" is three linear rows. Only the difference row couples the stages, so that `G`
    is the same in every state.

    **Theorem.** Let ``X(0) <= Cap``. If every action satisfies the rows, then ``X(n) <= Cap`` in every
    period, whatever the demand and whatever the suppliers curtail; hence ``I_j <= Cap_j`` at every period's
    end and ``peak_j <= Cap_j`` within every period; and ``a = 0`` always satisfies the rows.

    *Proof.* Whatever is curtailed, what is ordered and not shipped stays in `BO`, so that
    ``X_j(n+1) = X_j(n) + a_j - out_j``, with ``out_0 = S0`` and ``out_j = R_{j-1}`` (where sales are lost,
    what is not shipped is forgotten: ``<=``). The credits never exceed `out`: demand is at least zero, so
    ``S0 = min(peak_0, D + B0) >= min(I_0 + rec_0, B0)``, and the minimum of three is `R` itself. So the rows
    say ``a_j - out_j <= Cap_j - X_j``, which gives ``X_j(n+1) <= Cap_j``. As ``T, BO >= 0``, ``I_j <= X_j``;
    as what arrives was on the way, ``peak_j = I_j + rec_j <= I_j + T_j <= X_j``. For ``a = 0`` the left sides
    are 0 and the right sides at least ``Cap_j - X_j >= 0``. QED

    Variants:
        (i) ``capacity_at="end"`` asks for ``I_j <= Cap_j`` at period ends only. Row 0 then credits the whole
        backlog, ``a_0 <= Cap_0 - X_0 + B0``: for ``Y = X_0 - B0``, ``Y(n+1) = Y(n) + a_0 - D <= Cap_0``
        (where sales are lost ``B0 = 0`` and nothing changes), and ``I_0 > 0`` only if ``B0 = 0``, so that
        ``I_0 <= max(Y, 0)``.

        (ii) ``L_j = 0``: what ships arrives at once and meets the stock before anything leaves,
        ``peak_j = I_j + R_j <= X_j + a_j``. For peaks, the rows of that stage have no credit and the right
        side ``Cap_j - X_j``. At period ends the rows above suffice: the identity knows no lead time.

        (iii) ``X_j > Cap_j`` at the start (or ``Y > Cap_0`` in variant (i)): every right side of that stage
        is 0, so that ``a_j = 0`` until its position has drained, ``X_j(n+1) = X_j(n) - out_j <= X_j(n)``.
        An excess never grows, the other stages are safe as before, and ``a = 0`` stays inside.

    With ``availability=True`` no stage orders more than its supplier can ship it now beyond what it already
    owes, ``a_j <= max(I_{j+1} - BO_j, 0)`` (``M - 1`` rows more): the availability constraint of seed 000,
    "constrained by available inventory", which its capacities leave open. The theorem holds as before, for
    fewer actions are safe and ``a = 0`` is among them.

    The set is exact for the plan "order nothing more" under zero demand, and smaller than the set of all safe
    actions, which may also count on shipments of later periods (section 4).

    Args:
        chain: the chain; stages with infinite capacity have rows with ``h = inf``.
        capacity_at: ``"peak"`` (every moment) or ``"end"`` (period ends only).
        availability: whether orders are limited to what suppliers have.
    """

    def __init__(
        self,
        chain: InventoryChain,
        capacity_at: Literal["peak", "end"] = "peak",
        availability: bool = False,
    ) -> None:
        if capacity_at not in ("peak", "end"):
            raise InvalidSetting("capacity_at", f"is {capacity_at!r}", "Use 'peak' or 'end'.")
        self.chain = chain
        self.capacity_at = capacity_at
        m = chain.stages
        self._G = np.zeros((3 * m - 2, m))
        self._G[0, 0] = 1.0
        stage = [0]
        for j in range(1, m):
            self._G[3 * j - 2 : 3 * j + 1, j] = 1.0
            self._G[3 * j - 2, j - 1] = -1.0
            stage += [j, j, j]
        self._stage = np.array(stage)
        self.availability = availability
        if availability:
            self._G = np.concatenate([self._G, np.eye(m)[:-1]])

    @property
    def low(self) -> Array:
        """``(M,)``: no negative orders [units]."""
        return np.zeros(self.chain.stages)

    @property
    def high(self) -> Array:
        """``(M,)``: the supply capacity [units]."""
        return self.chain.supply.copy()

    def rows(self, observations: Array) -> tuple[Array, Array]:
        """``G (m, M)``, shared by all states, and ``h (B, m)`` [units], for observations ``(B, n)``; ``m`` is
        ``3 M - 2``, with availability ``4 M - 3``.

        Raises:
            InvalidSetting: if the observations are not the chain's state.
        """
        chain, lay = self.chain, self.chain.layout
        state = self._checked(observations)
        backlog = state[:, lay.backlog.start]
        room = chain.capacity - position(chain, state)
        credit = np.empty((len(self._stage), len(state))).T
        if self.capacity_at == "end":  # variant (i): the backlog is part of the position Y, not a credit
            room[:, 0] += backlog
            credit[:, 0] = 0.0
        else:
            on_hand = state[:, lay.stock.start] + arriving(chain, state)[:, 0]
            credit[:, 0] = np.minimum(on_hand, backlog)
        credit[:, 1::3] = state[:, lay.unfilled][:, :-1]
        credit[:, 2::3] = chain.supply[:-1]
        credit[:, 3::3] = state[:, lay.stock][:, 1:]
        if self.capacity_at == "peak":
            for j, lead_time in enumerate(chain.lead_times):
                if lead_time == 0:  # variant (ii)
                    credit[:, self._stage == j] = 0.0
        room = room[:, self._stage]
        # Variant (iii): a stage without room orders nothing until it has drained.
        h = np.where(room < 0, 0.0, room + credit)
        if self.availability:
            free = state[:, lay.stock][:, 1:] - state[:, lay.unfilled][:, :-1]
            h = np.concatenate([h, np.maximum(free, 0.0)], axis=1)
        return self._G, np.ascontiguousarray(h)

    def executable(self, actions: Array) -> Array:
        """Whole orders for ``actions (B, M)``: ``floor(a + 1e-6)`` on all stages together, at least zero.

        Every right side is a whole number, and rounding down is monotone and commutes with adding one, so
        that it keeps the single rows and the difference rows of an action inside. All stages must be rounded
        alike: with 3.9999999 taken as 3 at one stage and as 4 at the next, a difference row would break. A
        solver's residual `eps` matters only where a fraction lies within `eps` of ``1 - 1e-6``; check the
        executed action (`envs.safe_set.violation`) and take `fallback` or `clip` if it ever does.
        """
        return np.maximum(np.floor(np.asarray(actions, dtype=np.float64) + 1e-6), 0.0)

    def fallback(self, observations: Array) -> Array:
        """Order nothing, ``(B, M)``: safe in every state."""
        return np.zeros((len(observations), self.chain.stages))

    def clip(self, observations: Array, actions: Array) -> Array:
        """The largest safe action below each wanted one, ``(B, M)``.

        Stage after stage from the retailer, each order is cut to its rows. The safe set is closed under the
        componentwise maximum, so this one point is above every other safe action that is below the wanted
        one. Whole orders stay whole.
        """
        _, h = self.rows(observations)
        safe = np.clip(actions, 0.0, self.chain.supply)
        if self.availability:
            safe[:, :-1] = np.minimum(safe[:, :-1], h[:, 3 * self.chain.stages - 2 :])
        safe[:, 0] = np.minimum(safe[:, 0], h[:, 0])
        for j in range(1, self.chain.stages):
            limit = np.minimum(h[:, 3 * j - 1], h[:, 3 * j])
            limit = np.minimum(limit, h[:, 3 * j - 2] + safe[:, j - 1])
            safe[:, j] = np.minimum(safe[:, j], limit)
        return np.asarray(safe)

    def _checked(self, observations: Array) -> Array:
        state = np.asarray(observations, dtype=np.float64)
        if state.ndim != 2 or state.shape[1] != self.chain.layout.size:
            raise InvalidSetting(
                "observations",
                f"have shape {state.shape}, expected (B, {self.chain.layout.size})",
                "The safe set reads the state: use observation='state', unscaled, with a batch in front.",
            )
        return state

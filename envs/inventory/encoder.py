"""What networks see of the chain: its state in units of demand, projected stocks, a basis over periods."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from envs.inventory.chain import Array, InventoryChain


@dataclass(frozen=True)
class InventoryEncoder:
    """Features of the default observation; none needs to know the demand that is to come.

    In this order, with `d` the mean demand of a period [units]:

    - the state: stocks, own orders unfilled and retail backlog over ``2.5 d``, pipeline over ``1.25 d``;
    - the period: linear in [-1, 1], and `basis` Gaussian bumps over the horizon;
    - projected stock of each stage after each coming arrival if nothing left it, less what it owes:
      ``(I_j - owed_j + sum of the first arrivals - 3 d) / 2d``, one number for each pipeline entry;
    - post-decision quantities, which the critic sees *after* the action through `mixing`: the net position
      ``Y_j = I_j + T_j + BO_j - owed_j`` over ``1.5 d``, stock left at each supplier over ``d``, the net
      position over ``2.5 d``, and its sum from the retailer up to each stage over ``5 d``.

    With orders `a`, ``Y_j`` becomes ``Y_j + a_j - a_{j-1}``, a supplier is left with ``a`` less, and the sum
    up to stage `j` grows by ``a_j``: linear in the action, so that the critic stays a plain network of
    features and action.

    Attributes:
        chain: whose observations these are.
        basis: number of bumps over the periods.
    """

    chain: InventoryChain
    basis: int = 8

    @property
    def n_features(self) -> int:
        m = self.chain.stages
        pipeline = sum(self.chain.lead_times)
        return (2 * m + 1 + pipeline) + (1 + self.basis) + pipeline + self._n_decided

    @property
    def _n_decided(self) -> int:
        return 4 * self.chain.stages - 1

    @property
    def _unit(self) -> float:
        return max(float(self.chain.demand_mean), 1.0)

    def encode(self, observations: Array) -> Array:
        """Features ``(B, n_features)`` of observations ``(B, n_s)`` [units]."""
        state = np.asarray(observations, dtype=np.float64)
        matrix, constant = self._affine
        features = state @ matrix + constant
        # The bumps over the periods are the only features that are not affine in the state.
        left = state[:, self.chain.layout.periods_left]
        centres = np.linspace(0.0, self.chain.periods, self.basis)
        width = self.chain.periods / max(self.basis - 1, 1)
        begin = self.chain.layout.size
        features[:, begin : begin + self.basis] = np.exp(-0.5 * ((left - centres) / width) ** 2)
        return np.asarray(features)

    @cached_property
    def _affine(self) -> tuple[Array, Array]:
        """Matrix ``(n_s, n_features)`` and constant of the affine features, read off the zero and unit states."""
        zero = np.zeros((1, self.chain.layout.size))
        constant = self._affine_features(zero)
        return self._affine_features(np.eye(zero.shape[1])) - constant, constant

    def _affine_features(self, state: Array) -> Array:
        """Every feature but the bumps, whose place is left at zero."""
        chain, d = self.chain, self._unit
        lay = chain.layout
        stock, unfilled, backlog = state[:, lay.stock], state[:, lay.unfilled], state[:, lay.backlog]
        left = state[:, lay.periods_left]
        # What each stage owes: the retailer to customers in backlog, the others unfilled orders from below.
        owed = np.concatenate([backlog, unfilled[:, :-1]], axis=1)
        available = stock - owed
        projected = [available[:, [j]] + np.cumsum(state[:, own], axis=1) for j, own in enumerate(lay.stages)]
        on_the_way = np.stack([state[:, own].sum(axis=1) for own in lay.stages], axis=1)
        net = available + on_the_way + unfilled
        return np.concatenate(
            [
                stock / (2.5 * d),
                unfilled / (2.5 * d),
                backlog / (2.5 * d),
                state[:, lay.pipeline] / (1.25 * d),
                2.0 * left / chain.periods - 1.0,
                np.zeros((len(state), self.basis)),
                (np.concatenate(projected, axis=1) - 3.0 * d) / (2.0 * d),
                (net - 4.5 * d) / (1.5 * d),
                available[:, 1:] / d,
                (net - 4.0 * d) / (2.5 * d),
                (np.cumsum(net, axis=1) - 10.0 * d) / (5.0 * d),
            ],
            axis=1,
        )

    @cached_property
    def mixing(self) -> Array:
        """``(n_features + M, n_features + M)``: adds the effect of the scaled action ``a / c`` to the last
        features, and is the identity elsewhere."""
        m, d, n = self.chain.stages, self._unit, self.n_features
        matrix = np.eye(n + m)
        narrow = n - self._n_decided
        suppliers, wide, total = narrow + m, narrow + 2 * m - 1, narrow + 3 * m - 1
        for j, c in enumerate(self.chain.supply):
            for first, scale in ((narrow, 1.5 * d), (wide, 2.5 * d)):
                matrix[n + j, first + j] = c / scale
                if j + 1 < m:
                    matrix[n + j, first + j + 1] = -c / scale
            if j + 1 < m:
                matrix[n + j, suppliers + j] = -c / d
            matrix[n + j, total + j] = c / (5.0 * d)
        return matrix

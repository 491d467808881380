"""The module-to-env connector that stands between a policy and the environment."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core.columns import Columns

from algorithms.common.shield import Mode, Outcome, shield
from envs.safe_set import SafeSet
from solver_pool.pool import SolverPool
from solver_pool.problem import Array


class Exploration(Protocol):
    """How an algorithm departs from its greedy action. Deterministic given its state; no global generator."""

    def explore(self, episode: str, G: Array, h: Array, low: Array, high: Array, greedy: Array) -> Array:
        """The action wanted instead of `greedy` ``(n_a,)``; rows ``(m, n_a)``, ``(m,)`` [action units]."""
        ...

    def divide(self, index: int, runners: int) -> None:
        """Become the part of runner `index` of several, which must not all draw the same."""
        ...

    def get_state(self) -> dict[str, Any]: ...

    def set_state(self, state: dict[str, Any]) -> None: ...


class ShieldActions(ConnectorV2):
    """Explore, then shield: every action on its way to the environment becomes executable and is verified.

    The executed action replaces the proposed one, which is what off-policy learners must store. Works for
    any module that returns actions in the environment's units. Counts of what the shield did are logged
    under ``shield/``.

    Args:
        safe_set: gives the rows. mode: see `shield`.
        exploration: used while exploring; None means none.
    """

    def __init__(
        self,
        input_observation_space: Any = None,
        input_action_space: Any = None,
        *,
        safe_set: SafeSet,
        mode: Mode,
        exploration: Exploration | None = None,
    ) -> None:
        super().__init__(input_observation_space, input_action_space)
        self.safe_set, self.mode, self.exploration = safe_set, mode, exploration
        self._pool = SolverPool()

    def __call__(
        self,
        *,
        rl_module: Any,
        batch: dict[str, Any],
        episodes: list[Any],
        explore: bool | None = None,
        shared_data: dict[str, Any] | None = None,
        metrics: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        # An episode that waits for its reset has no observation yet; its action goes nowhere.
        acting = [episode for episode in episodes if episode.is_reset]
        if not acting:
            return batch
        observations = np.stack([np.asarray(e.get_observations(-1), dtype=np.float64) for e in acting])
        wanted = np.stack([np.asarray(batch[Columns.ACTIONS][(e.id_,)][0], dtype=np.float64) for e in acting])
        if explore and self.exploration is not None:
            G, h = self.safe_set.rows(observations)
            G = np.broadcast_to(G, (len(acting), *G.shape[-2:]))
            low, high = self.safe_set.low, self.safe_set.high
            for i, episode in enumerate(acting):
                wanted[i] = self.exploration.explore(episode.id_, G[i], h[i], low, high, wanted[i])
        result = shield(self.safe_set, observations, wanted, self._pool, self.mode)
        for episode, action in zip(acting, result.actions, strict=True):
            batch[Columns.ACTIONS][(episode.id_,)] = [action]
        if metrics is not None:
            for outcome in Outcome:
                count = int((result.outcome == outcome).sum())
                if count:
                    metrics.log_value(("shield", outcome.name.lower()), count, reduce="lifetime_sum")
        return batch

    def get_state(
        self, components: Any = None, *, not_components: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        return {} if self.exploration is None else {"exploration": self.exploration.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        if self.exploration is not None and "exploration" in state:
            self.exploration.set_state(state["exploration"])

"""The connectors that stand between a policy and the environment."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core.columns import Columns

from algorithms.common.scaling import ActionScale, CastSafeSet
from algorithms.common.shield import Mode, Outcome, shield
from envs.safe_set import SafeSet
from solver_pool.pool import SolverPool
from solver_pool.problem import Array

Store = Literal["executed", "sampled"]

OBSERVED = "solverl_observed"
"""Key of `ReadObservations` in the data that the connectors of a runner share."""


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


class ReadObservations(ConnectorV2):
    """Env-to-module, first of its pipeline: keep what the environments returned, for `ShieldActions`.

    Connectors after this one may overwrite an episode's observations, as RLlib's filters do; a safe set
    must not read those.
    """

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
        if shared_data is not None:
            shared_data[OBSERVED] = {
                episode.id_: np.array(episode.get_observations(-1), dtype=np.float64) for episode in episodes
            }
        return batch


class ShieldActions(ConnectorV2):
    """Explore, then shield: every action on its way to the environment becomes executable and is verified.

    Counts of what the shield did are logged under ``shield/``.

    Args:
        safe_set: gives the rows. mode: see `shield`.
        exploration: used while exploring; None means none.
        scale: of the module's actions; None for modules whose actions are in the environment's units. With
            one, the observations are those of `ReadObservations`.
        store: what the episode keeps and the learner sees. The executed action is what off-policy learners
            must store. On-policy learners need the sampled one with its log-probability; it needs a `scale`.
    """

    def __init__(
        self,
        input_observation_space: Any = None,
        input_action_space: Any = None,
        *,
        safe_set: SafeSet,
        mode: Mode,
        exploration: Exploration | None = None,
        scale: ActionScale | None = None,
        store: Store = "executed",
    ) -> None:
        super().__init__(input_observation_space, input_action_space)
        self.safe_set = safe_set if scale is None else CastSafeSet(safe_set, scale.space.dtype)
        self.mode, self.exploration, self.scale, self.store = mode, exploration, scale, store
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
        if self.scale is not None:
            # Also for episodes that wait for their reset: the runner wants an action for each environment.
            batch[Columns.ACTIONS_FOR_ENV] = {
                key: [self.scale.to_env(np.asarray(items[0], dtype=np.float64))]
                for key, items in batch[Columns.ACTIONS].items()
            }
        # An episode that waits for its reset has no observation yet; its action goes nowhere.
        acting = [episode for episode in episodes if episode.is_reset]
        if not acting:
            return batch
        column = batch[Columns.ACTIONS if self.scale is None else Columns.ACTIONS_FOR_ENV]
        wanted = np.stack([np.asarray(column[(e.id_,)][0], dtype=np.float64) for e in acting])
        observations = self._observations(acting, shared_data)
        if explore and self.exploration is not None:
            G, h = self.safe_set.rows(observations)
            G = np.broadcast_to(G, (len(acting), *G.shape[-2:]))
            low, high = self.safe_set.low, self.safe_set.high
            for i, episode in enumerate(acting):
                wanted[i] = self.exploration.explore(episode.id_, G[i], h[i], low, high, wanted[i])
        result = shield(self.safe_set, observations, wanted, self._pool, self.mode)
        for episode, action in zip(acting, result.actions, strict=True):
            key = (episode.id_,)
            if self.scale is None:
                batch[Columns.ACTIONS][key] = [action]
                continue
            column[key] = [action.astype(self.scale.space.dtype)]
            if self.store == "executed":
                sampled = np.asarray(batch[Columns.ACTIONS][key][0])
                batch[Columns.ACTIONS][key] = [self.scale.to_module(action).astype(sampled.dtype)]
        if metrics is not None:
            for outcome in Outcome:
                count = int((result.outcome == outcome).sum())
                metrics.log_value(("shield", outcome.name.lower()), count, reduce="lifetime_sum")
        return batch

    def _observations(self, acting: list[Any], shared_data: dict[str, Any] | None) -> Array:
        """What the environments returned ``(B, n_s)``, unscaled."""
        if self.scale is None:
            return np.stack([np.asarray(e.get_observations(-1), dtype=np.float64) for e in acting])
        if shared_data is None or OBSERVED not in shared_data:
            raise RuntimeError(
                "env_to_module_connector: was set after `shielded`, so that the shield does not see what the "
                "environment returned. Set connectors first and call shielded(config, ...) last."
            )
        return np.stack([shared_data[OBSERVED][e.id_] for e in acting])

    def get_state(
        self, components: Any = None, *, not_components: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        return {} if self.exploration is None else {"exploration": self.exploration.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        if self.exploration is not None and "exploration" in state:
            self.exploration.set_state(state["exploration"])

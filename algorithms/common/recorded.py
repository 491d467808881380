"""RLlib's own PPO and SAC with what an experiment of the command line needs, and nothing else changed.

They keep the record of every training episode, and their checkpoints are sealed, continue that record, and hold
the policy for deployment without Ray.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.algorithms.sac import SAC, SACConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from torch import nn

from algorithms.common.connectors import ShieldActions
from algorithms.common.deployed import DeployedPolicy
from algorithms.common.episodes import EpisodeLog, EpisodeRecord
from algorithms.common.sealed import Deployable, Sealed

EPISODES = "finished_episodes"

Broken = Callable[[NDArray[Any], list[dict[str, Any]]], NDArray[np.bool_]]
"""Which steps broke a constraint ``(T,)``, from what was observed after them ``(T, n_s)`` and their infos."""


@dataclass
class RecordEpisodes:
    """RLlib's callback ``on_sample_end``: tell of the episodes that ended.

    Attributes:
        broken: says which steps count as unsafe, by the environment's own state.
    """

    broken: Broken
    _log: EpisodeLog = field(default_factory=EpisodeLog, repr=False)

    def __call__(self, *, env_runner: Any, metrics_logger: Any, samples: list[Any], **kwargs: Any) -> None:
        for chunk in samples:
            if len(chunk):
                infos = chunk.get_infos()[1:]
                unsafe = self.broken(np.asarray(chunk.get_observations())[1:], infos)
                self._log.add(chunk.id_, chunk.get_rewards().tolist(), infos, unsafe.tolist(), chunk.is_done)
        for record in self._log.finished:
            metrics_logger.log_value(EPISODES, asdict(record), reduce="item_series")
        self._log.finished.clear()


class Recorded(Sealed):
    """Mixed in before an algorithm of RLlib whose config has `RecordEpisodes`."""

    def setup(self, config: Any) -> None:
        super().setup(config)
        self.episodes = EpisodeLog()

    def step(self) -> dict[str, Any]:
        result: dict[str, Any] = super().step()
        told = result.get("env_runners", {}).pop(EPISODES, [])
        self.episodes.finished += [EpisodeRecord(**record) for record in told]
        return result

    def policy(self) -> DeployedPolicy:
        """The greedy policy behind the shield of training."""
        module = self.get_module(DEFAULT_MODULE_ID)
        encoder = module.encoder.actor_encoder if isinstance(self, PPO) else module.pi_encoder
        layers = [*encoder.net.mlp.children(), *module.pi.net.mlp.children()]
        network = nn.Sequential(*layers).cpu()
        shield = next(p for p in self.env_runner._module_to_env.connectors if isinstance(p, ShieldActions))
        assert shield.scale is not None
        return DeployedPolicy(network, isinstance(self, SAC), shield.scale, shield.safe_set, shield.mode)

    def get_state(
        self, components: Any = None, *, not_components: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        state: dict[str, Any] = super().get_state(components, not_components=not_components, **kwargs)
        if components is None:
            state["recorded"] = self.episodes.get_state()
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        if "recorded" in state:
            self.episodes.set_state(state["recorded"])

    def deployable(self) -> Deployable:
        return self.policy()


class RecordedPPO(Recorded, PPO):
    """RLlib's PPO."""

    @classmethod
    def get_default_config(cls) -> AlgorithmConfig:
        return PPOConfig(algo_class=cls)


class RecordedSAC(Recorded, SAC):
    """RLlib's SAC."""

    @classmethod
    def get_default_config(cls) -> AlgorithmConfig:
        return SACConfig(algo_class=cls)

"""The networks of OMLT-DDPG as an RLlib module: actor, critics, their targets and their averages."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import Tensor

from algorithms.common.networks import Ensemble
from envs.encoder import Encoder


class OMLTDDPGModule(TorchRLModule, InferenceOnlyAPI):
    """Deterministic actor ``mu(s)`` in scaled actions [0, 1], and an ensemble of critics ``Q(s, a)``.

    `model_config` carries ``encoder``, ``low``, ``high`` (action box), ``actor_hidden``, ``critic_hidden``,
    ``activation``, ``n_critics`` and ``seed``. Environment runners hold the averaged actor alone
    (``inference_only``); observations arrive raw and leave as actions in the environment's units.
    """

    def setup(self) -> None:
        config: dict[str, Any] = self.model_config
        self.encoder: Encoder = config["encoder"]
        self.low = np.asarray(config["low"], dtype=np.float64)
        self.high = np.asarray(config["high"], dtype=np.float64)
        n_actions, n_features = len(self.low), self.encoder.n_features
        generator = torch.Generator().manual_seed(config["seed"])

        def actor() -> Ensemble:
            return Ensemble(1, n_features, config["actor_hidden"], n_actions, "softplus", generator, 0.3)

        def critics() -> Ensemble:
            return Ensemble(
                config["n_critics"],
                n_features + n_actions,
                config["critic_hidden"],
                1,
                config["activation"],
                generator,
                0.3,
                self.encoder.mixing,
            )

        self.actor, self.critics = actor(), critics()
        # Targets follow slowly; deployed networks are what acts, an average of the last steps.
        self.target_actor, self.deployed_actor = actor(), actor()
        self.target_critics, self.deployed_critics = critics(), critics()
        for copy, source in (
            (self.target_actor, self.actor),
            (self.deployed_actor, self.actor),
            (self.target_critics, self.critics),
            (self.deployed_critics, self.critics),
        ):
            copy.load_state_dict(source.state_dict())
            copy.requires_grad_(False)

    def get_non_inference_attributes(self) -> list[str]:
        return ["actor", "critics", "target_actor", "target_critics", "deployed_critics"]

    @staticmethod
    def squash(raw: Tensor) -> Tensor:
        """The actor's output layer: into [0, 1], with slope where it matters and exact bounds."""
        return raw.clamp(0.0, 1.0)

    def act(self, observations: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Actions ``(B, n_a)`` in the environment's units for raw observations ``(B, n_s)``."""
        features = torch.as_tensor(self.encoder.encode(observations), dtype=torch.float32)
        with torch.no_grad():
            scaled = self.squash(self.deployed_actor(features)[0])
        return np.asarray(self.low + (self.high - self.low) * scaled.numpy().astype(np.float64))

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        observations = batch[Columns.OBS].detach().cpu().numpy().astype(np.float64)
        return {Columns.ACTIONS: torch.from_numpy(self.act(observations))}

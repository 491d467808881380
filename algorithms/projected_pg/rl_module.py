"""The networks of projected policies as RLlib modules: what they return are proposals, in the environment's units."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import Tensor

from algorithms.common.networks import Ensemble
from algorithms.projected_pg.estimators import gaussian_log_prob
from algorithms.projected_pg.least_squares import PolynomialCritic
from envs.encoder import Encoder


class ProposingModule(TorchRLModule):
    """An actor whose output 0 is the middle of the action box, and +-1 its bounds; nothing keeps it inside.

    `model_config` carries ``encoder``, ``low``, ``high`` (action box), ``actor_hidden``, ``activation``,
    ``initial_action`` and ``seed``, and what the subclasses say. Observations arrive raw, in float64.
    """

    def setup(self) -> None:
        config: dict[str, Any] = self.model_config
        self.encoder: Encoder = config["encoder"]
        low, high = (torch.as_tensor(np.asarray(config[name], dtype=np.float64)) for name in ("low", "high"))
        self.middle, self.half = (low + high) / 2.0, (high - low) / 2.0
        self.n_actions = len(low)
        self._initial = torch.Generator().manual_seed(config["seed"])
        self.generator = torch.Generator().manual_seed(config["seed"])
        self.actor = self._make_actor()

    def _make_actor(self) -> Ensemble:
        config = self.model_config
        actor = Ensemble(
            1,
            self.encoder.n_features,
            config["actor_hidden"],
            self.n_actions,
            config["activation"],
            self._initial,
            0.1,
        )
        if config["initial_action"] is not None:
            first = torch.as_tensor(config["initial_action"], dtype=torch.float64)
            with torch.no_grad():
                actor.biases[-1].copy_(self.scaled(first))
        return actor

    def features(self, observations: Tensor) -> Tensor:
        """``(B, n_features)`` of raw observations ``(B, n_s)``."""
        encoded = self.encoder.encode(observations.detach().cpu().numpy().astype(np.float64))
        return torch.as_tensor(encoded, dtype=torch.float32)

    def in_units(self, raw: Tensor) -> Tensor:
        """Actions ``(B, n_a)`` in the environment's units, float64, of the actor's outputs."""
        return self.middle + self.half * raw.double()

    def scaled(self, actions: Tensor) -> Tensor:
        """The other way, float32: what critics see."""
        return ((actions.double() - self.middle) / self.half).float()


class ProjectedDPGModule(ProposingModule, InferenceOnlyAPI):
    """Deterministic actor and a critic ``Q(x, u)`` of executed actions: an ensemble of networks, or a polynomial.

    Targets and averages of the networks beside them. ``model_config`` besides: ``critic_hidden``, ``n_critics``,
    ``critic_degree`` (0 for networks), ``noise`` [half widths of the box].
    """

    def setup(self) -> None:
        super().setup()
        config = self.model_config

        def critics() -> Ensemble:
            return Ensemble(
                config["n_critics"],
                self.encoder.n_features + self.n_actions,
                config["critic_hidden"],
                1,
                config["activation"],
                self._initial,
                0.3,
                self.encoder.mixing,
            )

        self.critics, self.target_critics = critics(), critics()
        degree = config["critic_degree"]
        self.polynomial = (
            PolynomialCritic(self.encoder.n_features + self.n_actions, degree) if degree else None
        )
        self.target_actor, self.deployed_actor = self._make_actor(), self._make_actor()
        for copy, source in (
            (self.target_critics, self.critics),
            (self.target_actor, self.actor),
            (self.deployed_actor, self.actor),
        ):
            copy.load_state_dict(source.state_dict())
            copy.requires_grad_(False)

    def get_non_inference_attributes(self) -> list[str]:
        return ["critics", "target_critics", "target_actor", "polynomial"]

    def q(self, features: Tensor, actions: Tensor) -> Tensor:
        """``Q (B,)`` of features ``(B, n_features)`` and scaled executed actions ``(B, n_a)``."""
        z = torch.cat([features, actions], dim=1)
        value: Tensor = self.critics(z)[..., 0].mean(dim=0) if self.polynomial is None else self.polynomial(z)
        return value

    def _forward_inference(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTIONS: self.in_units(self.deployed_actor(self.features(batch[Columns.OBS]))[0])}

    def _forward_exploration(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        raw = self.actor(self.features(batch[Columns.OBS]))[0]
        noise = self.model_config["noise"] * torch.randn(raw.shape, generator=self.generator)
        return {Columns.ACTIONS: self.in_units(raw + noise)}


class ProjectedPGModule(ProposingModule, ValueFunctionAPI):
    """Gaussian proposals and a value function of the projected policy. ``model_config`` besides: ``log_std``,
    ``learn_std``, ``value_hidden``."""

    def setup(self) -> None:
        super().setup()
        config = self.model_config
        self.log_std = torch.nn.Parameter(
            torch.full((self.n_actions,), config["log_std"]), requires_grad=config["learn_std"]
        )
        self.value = Ensemble(
            1, self.encoder.n_features, config["value_hidden"], 1, config["activation"], self._initial, 0.3
        )

    def log_prob(self, features: Tensor, actions: Tensor) -> Tensor:
        """``(B,)``, of proposals ``(B, n_a)`` in the environment's units; density per half width of the box."""
        return gaussian_log_prob(self.actor(features)[0], self.log_std, self.scaled(actions))

    def _forward_inference(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTIONS: self.in_units(self.actor(self.features(batch[Columns.OBS]))[0])}

    def _forward_exploration(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        features = self.features(batch[Columns.OBS])
        mean = self.actor(features)[0]
        actions = self.in_units(mean + self.log_std.exp() * torch.randn(mean.shape, generator=self.generator))
        return {Columns.ACTIONS: actions, Columns.ACTION_LOGP: self.log_prob(features, actions)}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        values: Tensor = self.value(self.features(batch[Columns.OBS]))[0, :, 0]
        return values

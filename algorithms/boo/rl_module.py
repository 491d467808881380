"""The graph policy as an RLlib module: masters in, cuts out."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule

from algorithms.boo.graphs import GraphBatch
from algorithms.boo.policy import CutPolicy, Generators

DISTRIBUTION = "distribution"
"""Entry of a training pass: a `Distribution`."""
SEEDS = "seeds"
"""Entry of an exploration pass: the seed of each episode's noise, where it is held."""


class BOOModule(TorchRLModule):
    """A policy on lists of graph observations: `CutPolicy`, or a baseline that is built like it.

    `model_config` carries ``policy_class``, ``width``, ``rounds``, ``log_std``, ``supersede``, ``prior`` and ``seed``.
    ``batch["obs"]`` is a list of `GraphObservation`; ``actions`` come back as a list of `Cut`. While exploring, cuts
    are drawn by a generator of the module's own; otherwise they are the distribution's modes.
    """

    def setup(self) -> None:
        config: dict[str, Any] = self.model_config
        space = self.observation_space
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config["seed"])
            self.policy: CutPolicy = config["policy_class"](
                space.variable_features,
                space.constraint_features,
                config["width"],
                config["rounds"],
                config["log_std"],
                config["supersede"],
                config["prior"],
            )
        # What is deployed: an average over the last updates, whose noise it does not follow.
        self.deployed = deepcopy(self.policy).requires_grad_(False)
        self.generator = torch.Generator().manual_seed(config["seed"])

    def _forward_inference(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        distribution, _ = self.deployed(self._graph(batch))
        return {Columns.ACTIONS: distribution.mode()}

    def _forward_exploration(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        distribution, values = self.policy(self._graph(batch))
        # Where the runner gives seeds, each episode draws by a generator of its own, begun anew at every step.
        generators: Generators = self.generator
        if SEEDS in batch:
            generators = [torch.Generator().manual_seed(seed) for seed in batch[SEEDS]]
        cuts, log_prob = distribution.sample(generators)
        return {
            Columns.ACTIONS: cuts,
            Columns.ACTION_LOGP: log_prob.tolist(),
            Columns.VF_PREDS: values.tolist(),
        }

    def average(self, rate: float) -> None:
        """Move the deployed policy by `rate` of its distance to the learning one."""
        with torch.no_grad():
            for kept, new in zip(self.deployed.parameters(), self.policy.parameters(), strict=True):
                kept.lerp_(new, rate)

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        distribution, values = self.policy(self._graph(batch))
        return {DISTRIBUTION: distribution, Columns.VF_PREDS: values}

    def _graph(self, batch: dict[str, Any]) -> GraphBatch:
        return GraphBatch.of(batch[Columns.OBS], next(self.policy.parameters()).device)

"""The graph policy as an RLlib module: masters in, cuts out."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule

from algorithms.boo.graphs import GraphBatch, tensors_as_cuts
from algorithms.boo.policy import CutPolicy

DISTRIBUTION = "distribution"
"""Entry of a training pass: a `CutDistribution`."""


class BOOModule(TorchRLModule):
    """`CutPolicy` on lists of graph observations.

    `model_config` carries ``width``, ``rounds``, ``log_std``, ``supersede`` and ``seed``. ``batch["obs"]`` is a list of
    `GraphObservation`; ``actions`` come back as a list of `Cut`. While exploring, cuts are drawn by a generator of the
    module's own; otherwise they are the means.
    """

    def setup(self) -> None:
        config: dict[str, Any] = self.model_config
        space = self.observation_space
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config["seed"])
            self.policy = CutPolicy(
                space.variable_features,
                space.constraint_features,
                config["width"],
                config["rounds"],
                config["log_std"],
                config["supersede"],
            )
        self.generator = torch.Generator().manual_seed(config["seed"])

    def _forward_inference(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        graphs = batch[Columns.OBS]
        distribution, _ = self.policy(GraphBatch.of(graphs, self._device))
        return {Columns.ACTIONS: tensors_as_cuts(distribution.w, distribution.b, graphs)}

    def _forward_exploration(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        graphs = batch[Columns.OBS]
        distribution, values = self.policy(GraphBatch.of(graphs, self._device))
        w, b = distribution.sample(self.generator)
        return {
            Columns.ACTIONS: tensors_as_cuts(w, b, graphs),
            Columns.ACTION_LOGP: distribution.log_prob(w, b).tolist(),
            Columns.VF_PREDS: values.tolist(),
        }

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        distribution, values = self.policy(GraphBatch.of(batch[Columns.OBS], self._device))
        return {DISTRIBUTION: distribution, Columns.VF_PREDS: values}

    @property
    def _device(self) -> torch.device:
        return self.policy.log_std.device

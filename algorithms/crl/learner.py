"""The learner of tabular algorithms: it keeps the module, and has no gradient to follow."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core.learner.torch.torch_learner import TorchLearner


class TabularLearner(TorchLearner):
    """Holds the tables and their checkpoints; `training_step` writes into them."""

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """None: no table is a parameter."""

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> torch.Tensor:
        raise RuntimeError("A tabular algorithm counts; it has no loss.")

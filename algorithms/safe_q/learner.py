"""SafeQ's learner: critic steps on one batch whose targets are at solver-made actions."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns

from algorithms.omlt_ddpg.learner import OMLTDDPGLearner, _first
from algorithms.safe_q.updates import solved_gradients


class SafeQLearner(OMLTDDPGLearner):
    """OMLT-DDPG's learner without an actor: the TD target is always at ``next_best``, the solver's action.

    A batch holds `critic_updates` minibatches one behind the other. Columns: ``obs``, ``actions`` (executed, scaled),
    ``rewards``, ``next_obs``, ``done``, ``next_best``, and ``solved``, 0 where the target's action is not certified.
    """

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        critics = self.module[module_id].unwrapped().critics
        parameters = list(critics.parameters())
        # Decay is for the hidden layers' matrices; the output layer carries the scale of the returns.
        decayed = list(critics.weights)[:-1]
        rest = [p for p in parameters if not any(p is d for d in decayed)]
        rate, decay = self.config.critic_lr, self.config.critic_weight_decay
        groups = [{"params": decayed, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]
        self.register_optimizer(
            module_id=module_id,
            optimizer_name="critic",
            optimizer=torch.optim.AdamW(groups, lr=_first(rate), fused=True),
            params=parameters,
            lr_or_lr_schedule=rate,
        )

    def _uncompiled_update(self, batch: dict[str, Any], **kwargs: Any) -> tuple[Any, Any, Any]:
        config, module = self.config, self.module[DEFAULT_MODULE_ID].unwrapped()
        data = {k: v for k, v in batch[DEFAULT_MODULE_ID].items() if isinstance(v, torch.Tensor)}
        optimiser = self.get_optimizer(DEFAULT_MODULE_ID, "critic")
        size = len(data[Columns.OBS]) // config.critic_updates
        for k in range(config.critic_updates):
            part = {name: value[k * size : (k + 1) * size] for name, value in data.items()}
            target = self._td_target(module, part)
            loss = solved_gradients(
                module.critics, part[Columns.OBS], part[Columns.ACTIONS], target, part["solved"]
            )
            self._all_reduce(module.critics.parameters())
            optimiser.step()
            module.target_critics.move_towards(module.critics, config.tau)
        self.metrics.log_value((DEFAULT_MODULE_ID, "critic_loss"), loss.item(), window=100)
        return {}, {DEFAULT_MODULE_ID: loss}, {}

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> torch.Tensor:
        """The loss of `solved_gradients`, summed over critics, with autograd's graph; updates are explicit."""
        module = self.module[module_id].unwrapped()
        inputs = torch.cat([batch[Columns.OBS], batch[Columns.ACTIONS]], dim=1)
        errors: torch.Tensor = module.critics(inputs)[..., 0] - self._td_target(module, batch)
        solved = batch["solved"]
        loss: torch.Tensor = (solved * errors**2).sum() / solved.sum().clamp(min=1.0)
        return loss

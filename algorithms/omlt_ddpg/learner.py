"""OMLT-DDPG's learner: several critic and actor steps on one batch, then the soft updates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.torch.torch_learner import TorchLearner

from algorithms.omlt_ddpg.rl_module import OMLTDDPGModule
from algorithms.omlt_ddpg.updates import actor_gradients, critic_gradients, td_target


class OMLTDDPGLearner(TorchLearner):
    """Lines 8, 9, 12, 14 and 15 of Algorithm 1 (seed 000).

    A batch holds `critic_updates` minibatches one behind the other; the first `actor_updates` of them also
    train the actor. Columns: ``obs``, ``actions`` (executed, scaled), ``rewards``, ``next_obs``, ``done``,
    ``best`` and ``solved`` (solver-made actor targets), and ``next_best`` where the TD target takes the
    solver's action. Column ``solved`` is zero during the warm-up, which leaves the actor as it is.
    """

    def build(self) -> None:
        # Networks of this size gain nothing from a second thread, and threads that spin beside the solver's
        # and other processes' make everything ten times slower.
        torch.set_num_threads(1)
        super().build()

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        module = self._networks(module_id)
        for name, network, rate, decay in (
            ("critic", module.critics, self.config.critic_lr, self.config.critic_weight_decay),
            ("actor", module.actor, self.config.actor_lr, 0.0),
        ):
            parameters = list(network.parameters())
            # Decay is for the hidden layers' matrices; the output layer carries the scale of the returns.
            decayed = list(network.weights)[:-1]
            rest = [p for p in parameters if not any(p is d for d in decayed)]
            groups = [{"params": decayed, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]
            self.register_optimizer(
                module_id=module_id,
                optimizer_name=name,
                optimizer=torch.optim.AdamW(groups, lr=_first(rate), fused=True),
                params=parameters,
                lr_or_lr_schedule=rate,
            )

    def _uncompiled_update(self, batch: dict[str, Any], **kwargs: Any) -> tuple[Any, Any, Any]:
        config, module = self.config, self._networks(DEFAULT_MODULE_ID)
        data = {k: v for k, v in batch[DEFAULT_MODULE_ID].items() if isinstance(v, torch.Tensor)}
        critic = self.get_optimizer(DEFAULT_MODULE_ID, "critic")
        actor = self.get_optimizer(DEFAULT_MODULE_ID, "actor")
        size = len(data[Columns.OBS]) // config.critic_updates
        actor_loss = None
        for k in range(config.critic_updates):
            part = {name: value[k * size : (k + 1) * size] for name, value in data.items()}
            state = part[Columns.OBS]
            target = self._td_target(module, part)
            critic_loss = critic_gradients(module.critics, state, part[Columns.ACTIONS], target)
            self._all_reduce(module.critics.parameters())
            critic.step()
            module.target_critics.move_towards(module.critics, config.tau)
            module.deployed_critics.move_towards(module.critics, config.deployed_rate)
            if k < config.actor_updates and self._total(part["solved"].sum()) > 0:
                actor_loss = actor_gradients(module.actor, state, part["best"], part["solved"])
                self._all_reduce(module.actor.parameters())
                actor.step()
                module.target_actor.move_towards(module.actor, config.tau)
                module.deployed_actor.move_towards(module.actor, config.deployed_rate)
        self.metrics.log_value((DEFAULT_MODULE_ID, "critic_loss"), critic_loss.item(), window=100)
        if actor_loss is not None:
            self.metrics.log_value((DEFAULT_MODULE_ID, "actor_loss"), actor_loss.item(), window=100)
        return {}, {DEFAULT_MODULE_ID: critic_loss}, {}

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> torch.Tensor:
        """The TD loss of line 9 with autograd's graph, summed over critics; updates are explicit."""
        module = self._networks(module_id)
        inputs = torch.cat([batch[Columns.OBS], batch[Columns.ACTIONS]], dim=1)
        target = self._td_target(module, batch)
        errors: torch.Tensor = module.critics(inputs)[..., 0] - target
        return (errors**2).mean(dim=1).sum()

    def _td_target(self, module: OMLTDDPGModule, batch: dict[str, Any]) -> torch.Tensor:
        next_state = batch[Columns.NEXT_OBS]
        next_action = batch.get("next_best")
        if next_action is None:
            next_action = module.squash(module.target_actor(next_state)[0])
        return td_target(
            module.target_critics,
            batch[Columns.REWARDS],
            next_state,
            next_action,
            batch["done"],
            self.config.gamma,
            self.config.pessimism,
        )

    def _networks(self, module_id: str) -> OMLTDDPGModule:
        module: OMLTDDPGModule = self.module[module_id].unwrapped()
        return module

    def _total(self, count: torch.Tensor) -> float:
        """The sum of `count` over learners, so that all of them take the same branch."""
        if self.config.num_learners > 1:
            torch.distributed.all_reduce(count)
        return float(count)

    def _all_reduce(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Average gradients over learners; explicit gradients bypass the wrapper that would do it."""
        if self.config.num_learners < 2:
            return
        for parameter in parameters:
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= self.config.num_learners


def _first(schedule: float | list[list[float]]) -> float:
    """The rate that a schedule ``[[env step, rate], ...]`` or a number begins with."""
    return schedule if isinstance(schedule, int | float) else schedule[0][1]

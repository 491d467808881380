"""The learners of the projected policy gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.evaluation.postprocessing import Postprocessing
from torch import Tensor

from algorithms.common.networks import Ensemble
from algorithms.common.policy_gradient import clipped_surrogate
from algorithms.common.projection import Projected, project
from algorithms.omlt_ddpg.updates import critic_gradients, td_target
from algorithms.projected_pg.estimators import executed
from algorithms.projected_pg.rl_module import ProjectedDPGModule, ProjectedPGModule
from solver_pool.pool import SolverPool

ROUNDED = "_rounded"
"""Ending of a column's name: what float32, to which RLlib converts columns, rounds away. Rows need exact states."""


def in_two(name: str, values: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """A float64 column as two of float32 whose sum it is, to 1e-14 of its size."""
    high = values.astype(np.float32)
    return {name: high, name + ROUNDED: (values - high).astype(np.float32)}


class _Learner(TorchLearner):
    """Adam for each of a module's networks, whose names and rates `networks` gives."""

    def build(self) -> None:
        torch.set_num_threads(1)  # as in the other learners: threads that spin slow the solvers down
        super().build()

    def networks(self, module: Any) -> dict[str, tuple[list[torch.nn.Parameter], Any]]:
        """Parameters and learning rate, by the optimiser's name."""
        raise NotImplementedError

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        for name, (parameters, rate) in self.networks(self._own(module_id)).items():
            first = rate if isinstance(rate, int | float) else rate[0][1]
            self.register_optimizer(
                module_id=module_id,
                optimizer_name=name,
                optimizer=torch.optim.Adam(parameters, lr=first),
                params=parameters,
                lr_or_lr_schedule=rate,
            )

    def _own(self, module_id: str = DEFAULT_MODULE_ID) -> Any:
        return self.module[module_id].unwrapped()

    def _step(self, name: str, loss: Tensor) -> bool:
        """A step of one optimiser; False, and no step, where loss or gradient is not finite."""
        optimizer = self.get_optimizer(DEFAULT_MODULE_ID, name)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = torch.autograd.grad(loss, parameters)
        if not all(torch.isfinite(g).all() for g in gradients):
            self.metrics.log_value((DEFAULT_MODULE_ID, "skipped_minibatches"), 1, reduce="lifetime_sum")
            return False
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        return True


class ProjectedDPGLearner(_Learner):
    """Critic steps on TD errors of the projected policy, and actor steps up ``grad pi M grad_u Q`` (equation 32).

    A batch holds `updates` minibatches one behind the other. Columns: ``obs`` and ``new_obs`` (raw, each in two parts:
    `in_two`), ``actions`` (executed, scaled), ``rewards``, ``done``, ``discount`` (``gamma^t``).
    """

    def build(self) -> None:
        super().build()
        self._safe_set, _ = self.config.probed()
        self._pool = SolverPool()

    def networks(self, module: ProjectedDPGModule) -> dict[str, tuple[list[torch.nn.Parameter], Any]]:
        return {
            "critic": (list(module.critics.parameters()), self.config.critic_lr),
            "actor": (list(module.actor.parameters()), self.config.actor_lr),
        }

    def _uncompiled_update(self, batch: dict[str, Any], **kwargs: Any) -> tuple[Any, Any, Any]:
        config, module = self.config, self._own()
        data = {k: v for k, v in batch[DEFAULT_MODULE_ID].items() if isinstance(v, Tensor)}
        states = {name: data.pop(name).double() + data.pop(name + ROUNDED) for name in ("obs", "new_obs")}
        data |= states
        size = len(data["done"]) // config.updates
        parts = [
            {name: column[k * size : (k + 1) * size] for name, column in data.items()}
            for k in range(config.updates)
        ]
        if module.polynomial is not None:
            critic_loss = self._fit(module, data)
        value, bound = torch.zeros(()), 0.0
        for k, part in enumerate(parts):
            features = module.features(part["obs"])
            if module.polynomial is None:
                critic_loss = self._critic_step(module, features, part)
            if k % config.actor_delay:
                continue
            value, projected = self._value(module, features, part["obs"], part["discount"])
            if self._step("actor", -value):
                module.target_actor.move_towards(module.actor, config.tau)
                module.deployed_actor.move_towards(module.actor, config.deployed_rate)
            bound = float((projected.active.any(axis=1) | projected.active_bounds.any(axis=1)).mean())
        for name, figure in (
            ("critic_loss", critic_loss.item()), ("value", value.item()), ("bound_fraction", bound),
        ):  # fmt: skip
            self.metrics.log_value((DEFAULT_MODULE_ID, name), figure, window=1)
        return {}, {DEFAULT_MODULE_ID: critic_loss}, {}

    @torch.no_grad()
    def _following(
        self, module: ProjectedDPGModule, states: Tensor, actor: Ensemble
    ) -> tuple[Tensor, Tensor]:
        """Features of next states, and what the policy of `actor` executes there, scaled."""
        features = module.features(states)
        proposals = module.in_units(actor(features)[0])
        projected = self._projected(states, proposals)
        failed = int((~projected.solved).sum())
        self.metrics.log_value((DEFAULT_MODULE_ID, "empty_safe_sets"), failed, reduce="lifetime_sum")
        return features, module.scaled(executed(proposals, projected))

    def _fit(self, module: ProjectedDPGModule, data: dict[str, Tensor]) -> Tensor:
        """The polynomial critic of the present policy, by least squares on the whole batch."""
        assert module.polynomial is not None
        now = torch.cat([module.features(data["obs"]), data[Columns.ACTIONS]], dim=1)
        after = torch.cat(self._following(module, data["new_obs"], module.actor), dim=1)
        return module.polynomial.fit(now, data[Columns.REWARDS], after, 1.0 - data["done"], self.config.gamma)

    def _critic_step(self, module: ProjectedDPGModule, features: Tensor, part: dict[str, Tensor]) -> Tensor:
        """One step of the critic networks towards their TD targets."""
        following, after = self._following(module, part["new_obs"], module.target_actor)
        target = td_target(
            module.target_critics,
            part[Columns.REWARDS],
            following,
            after,
            part["done"],
            self.config.gamma,
            0.0,
        )
        loss = critic_gradients(module.critics, features, part[Columns.ACTIONS], target)
        self.get_optimizer(DEFAULT_MODULE_ID, "critic").step()
        module.target_critics.move_towards(module.critics, self.config.tau)
        return loss

    def _value(
        self, module: ProjectedDPGModule, features: Tensor, states: Tensor, discount: Tensor
    ) -> tuple[Tensor, Projected]:
        """The mean of ``gamma^t Q(x, Proj(pi(x)))``, with Corollary 1's gradient, less the penalty on the excess."""
        proposals = module.in_units(module.actor(features)[0])
        projected = self._projected(states, proposals)
        actions = module.scaled(executed(proposals, projected, self.config.correction))
        q = module.q(features, actions)
        excess = ((module.scaled(proposals) - actions.detach()) ** 2).sum(dim=1)
        value = (discount * (q - self.config.excess_coeff * excess)).sum() / discount.sum()
        return value, projected

    def _projected(self, states: Tensor, proposals: Tensor) -> Projected:
        # No state of the buffer should have an empty safe set; if rounding makes it so, the sample counts for nothing.
        return project(
            self._safe_set, states.numpy(), proposals.detach().numpy(), self._pool, on_failure="mask"
        )

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """Minus the value that the actor climbs; `_uncompiled_update` makes the steps."""
        module: ProjectedDPGModule = self._own(module_id)
        states = batch["obs"].double() + batch["obs" + ROUNDED]
        return -self._value(module, module.features(states), states, batch["discount"])[0]


class ProjectedPGLearner(_Learner):
    """PPO's epochs. Columns: ``features``, ``actions`` (where the score is taken, in units), ``action_logp`` there,
    ``advantages``, ``value_targets``, ``counts`` (which samples have a score)."""

    def build(self) -> None:
        super().build()
        self._generator = np.random.default_rng(self.config.seed or 0)

    def networks(self, module: ProjectedPGModule) -> dict[str, tuple[list[torch.nn.Parameter], Any]]:
        actor = [*module.actor.parameters(), *([module.log_std] if module.log_std.requires_grad else [])]
        return {
            "actor": (actor, self.config.lr),
            "value": (list(module.value.parameters()), self.config.value_lr),
        }

    def _uncompiled_update(self, batch: dict[str, Any], **kwargs: Any) -> tuple[Any, Any, Any]:
        config, module = self.config, self._own()
        data = {k: v for k, v in batch[DEFAULT_MODULE_ID].items() if isinstance(v, Tensor)}
        size = len(data["counts"])
        for _ in range(config.num_epochs):
            order = self._generator.permutation(size)
            for which in np.array_split(order, max(round(size / config.minibatch_size), 1)):
                losses = self._losses(module, {name: column[which] for name, column in data.items()})
                self._step("actor", losses.policy - config.entropy_coeff * losses.entropy)
                self._step("value", losses.value)
        for name, figure in (
            ("policy_loss", losses.policy), ("value_loss", losses.value), ("entropy", losses.entropy),
            ("kl", losses.kl), ("clipped_fraction", losses.clipped),
        ):  # fmt: skip
            self.metrics.log_value((DEFAULT_MODULE_ID, name), float(figure.detach()), window=1)
        return {}, {DEFAULT_MODULE_ID: losses.total.detach()}, {}

    def _losses(self, module: ProjectedPGModule, part: dict[str, Tensor]) -> Any:
        features = part["features"]
        log_prob = module.log_prob(features, part[Columns.ACTIONS])
        entropy = (module.log_std + 0.5 * np.log(2.0 * np.pi * np.e)).sum().expand(len(features))
        return clipped_surrogate(
            log_prob,
            part[Columns.ACTION_LOGP],
            part[Postprocessing.ADVANTAGES] * part["counts"],
            module.value(features)[0, :, 0],
            part[Postprocessing.VALUE_TARGETS],
            entropy,
            clip=self.config.clip_param,
            value_coefficient=1.0,
            entropy_coefficient=self.config.entropy_coeff,
        )

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """The loss of one minibatch; `_uncompiled_update` makes the steps."""
        loss: Tensor = self._losses(self._own(module_id), batch).total
        return loss

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        state: dict[str, Any] = super().get_state(*args, **kwargs)
        return state | {"generator": self._generator.bit_generator.state}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        if "generator" in state:
            self._generator.bit_generator.state = state["generator"]

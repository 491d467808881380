"""PPO's epochs over graphs of different sizes, as an RLlib learner."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.evaluation.postprocessing import Postprocessing

from algorithms.boo.rl_module import DISTRIBUTION, BOOModule
from algorithms.common.policy_gradient import Losses, clipped_surrogate


class BOOLearner(TorchLearner):
    """Several epochs of clipped policy gradient on one batch of cuts.

    Columns of a batch, one entry for each cut: ``obs`` (array of `GraphObservation`), ``actions`` (array of `Cut`,
    as drawn), ``action_logp``, ``advantages``, ``value_targets``. A minibatch with a loss or gradient that is not
    finite is left out and counted (metric ``skipped_minibatches``), so that weights stay finite.
    """

    def build(self) -> None:
        torch.set_num_threads(1)  # as in the other learners: threads that spin slow the solvers down
        super().build()
        self._generator = np.random.default_rng(self.config.seed or 0)

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        parameters = list(self._boo_module(module_id).policy.parameters())
        self.register_optimizer(
            module_id=module_id,
            optimizer=torch.optim.Adam(parameters, lr=self._first_rate()),
            params=parameters,
            lr_or_lr_schedule=self.config.lr,
        )

    def _first_rate(self) -> float:
        rate = self.config.lr
        return float(rate if isinstance(rate, int | float) else rate[0][1])

    def _uncompiled_update(self, batch: dict[str, Any], **kwargs: Any) -> tuple[Any, Any, Any]:
        config, data = self.config, batch[DEFAULT_MODULE_ID]
        optimizer = self.get_optimizer(DEFAULT_MODULE_ID)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        size = len(data[Columns.OBS])
        skipped, losses = 0, None
        for minibatch in self._minibatches(size):
            losses = self._losses({name: column[minibatch] for name, column in data.items()})
            if self._beyond(losses.kl):
                break
            optimizer.zero_grad()
            losses.total.backward()  # type: ignore[no-untyped-call]
            self._all_reduce(parameters)
            norm = torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip or torch.inf)
            if not (torch.isfinite(losses.total) and torch.isfinite(norm)):
                skipped += 1
                continue
            optimizer.step()
        assert losses is not None
        self._boo_module(DEFAULT_MODULE_ID).average(config.deployed_rate)
        for name, value in (
            ("policy_loss", losses.policy), ("value_loss", losses.value), ("entropy", losses.entropy),
            ("kl", losses.kl), ("clipped_fraction", losses.clipped),
        ):  # fmt: skip
            self.metrics.log_value((DEFAULT_MODULE_ID, name), float(value.detach()), window=1)
        self.metrics.log_value((DEFAULT_MODULE_ID, "skipped_minibatches"), skipped, reduce="lifetime_sum")
        return {}, {DEFAULT_MODULE_ID: losses.total.detach()}, {}

    def _minibatches(self, size: int) -> Iterator[Any]:
        """Indices of each minibatch of all epochs, every epoch in an order of its own."""
        for _ in range(self.config.num_epochs):
            order = self._generator.permutation(size)
            yield from np.array_split(order, max(round(size / self.config.minibatch_size), 1))

    def _beyond(self, kl: torch.Tensor) -> bool:
        """Whether the policy is as far from the one that sampled as it may go; all learners agree on it."""
        if self.config.target_kl is None:
            return False
        if self.config.num_learners > 1:
            torch.distributed.all_reduce(kl)
            kl = kl / self.config.num_learners
        return bool(kl > self.config.target_kl)

    def _losses(self, data: dict[str, Any]) -> Losses:
        out = self._boo_module(DEFAULT_MODULE_ID).forward_train({Columns.OBS: list(data[Columns.OBS])})
        distribution, values = out[DISTRIBUTION], out[Columns.VF_PREDS]
        return clipped_surrogate(
            distribution.log_prob(data[Columns.ACTIONS]),
            data[Columns.ACTION_LOGP],
            data[Postprocessing.ADVANTAGES],
            values,
            data[Postprocessing.VALUE_TARGETS],
            distribution.entropy(),
            clip=self.config.clip_param,
            value_coefficient=self.config.vf_loss_coeff,
            entropy_coefficient=self.config.entropy_coeff,
        )

    def _boo_module(self, module_id: str) -> BOOModule:
        module: BOOModule = self.module[module_id].unwrapped()
        return module

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> torch.Tensor:
        """The loss of one minibatch; `_uncompiled_update` makes the steps."""
        return self._losses(batch).total

    def _all_reduce(self, parameters: list[torch.nn.Parameter]) -> None:
        """Average gradients over learners; `_uncompiled_update` bypasses the wrapper that would do it."""
        if self.config.num_learners < 2:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= self.config.num_learners

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        state: dict[str, Any] = super().get_state(*args, **kwargs)
        return state | {"generator": self._generator.bit_generator.state}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        if "generator" in state:
            self._generator.bit_generator.state = state["generator"]

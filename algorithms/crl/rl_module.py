"""A tabular policy with everything learned beside it, as an RLlib module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule

from algorithms.crl.evaluation import uniform_policy
from algorithms.crl.policy import drawn
from envs.tabular import Array, Ints

POLICY = "policy"


class TabularModule(TorchRLModule, InferenceOnlyAPI):
    """``pi (H, S, A)`` and the tables it was made of (transition counts), all of them buffers.

    `model_config` carries ``tables`` (each one's name, shape and type) and ``seed``. Environment runners hold the
    policy alone (``inference_only``). Observations are ``(h, s)``; actions are drawn by a generator of the module's
    own, whether it explores or not, as an optimal policy of a constrained problem is random.
    """

    def setup(self) -> None:
        config: dict[str, Any] = self.model_config
        horizon, states = (int(n) for n in self.observation_space.nvec)
        policy = uniform_policy(horizon - 1, states, int(self.action_space.n))
        self.register_buffer(POLICY, torch.from_numpy(policy))
        self._tables: Mapping[str, tuple[tuple[int, ...], str]] = config["tables"]
        for name, (shape, kind) in self._tables.items():
            self.register_buffer(name, torch.from_numpy(np.zeros(shape, dtype=kind)))
        self.generator = np.random.default_rng(config["seed"])

    def get_non_inference_attributes(self) -> list[str]:
        return list(self._tables)

    def table(self, name: str) -> NDArray[Any]:
        """A buffer as an array that shares its memory."""
        found: NDArray[Any] = getattr(self, name).numpy()
        return found

    def act(self, observations: Ints) -> Ints:
        """Actions ``(B,)`` for observations ``(B, 2)``."""
        return drawn(self.table(POLICY), observations, self.generator)

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        observations = np.asarray(batch[Columns.OBS]).astype(np.int64)
        return {Columns.ACTIONS: torch.from_numpy(self.act(observations))}

    # RLlib's would round numbers to 32 bits: counts overflow, and a resumed run would differ.

    def get_state(
        self,
        components: Any = None,
        *,
        not_components: Any = None,
        inference_only: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        buffers = self.state_dict()
        return {
            name: value.numpy().copy()
            for name, value in buffers.items()
            if name == POLICY or not inference_only
        }

    def set_state(self, state: Mapping[str, Array]) -> None:
        own = self.state_dict()
        self.load_state_dict(
            {name: torch.from_numpy(np.array(state[name])) for name in own if name in state}, strict=False
        )

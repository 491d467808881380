"""The networks of SafeQ as an RLlib module: critics and their targets. There is no actor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule

from algorithms.common.networks import Ensemble
from algorithms.safe_q.maximisers import Selection, safe_maximisers
from envs.encoder import Encoder
from envs.safe_set import SafeSet
from solver_pool.options import SolveOptions
from solver_pool.pool import SolverPool
from solver_pool.problem import MLP, Array, CriticBatch


class SafeQModule(TorchRLModule, InferenceOnlyAPI):
    """An ensemble of critics ``Q(s, a)``, and the safe action of their slowly following targets.

    `model_config` carries ``encoder``, ``safe_set``, ``critic_hidden``, ``activation``, ``n_critics``, ``selection``,
    ``solve_options`` and ``seed``. Environment runners hold the target critics alone (``inference_only``), whose
    average over updates is what acts; observations arrive raw and leave as actions in the environment's units.
    """

    def setup(self) -> None:
        config: dict[str, Any] = self.model_config
        self.encoder: Encoder = config["encoder"]
        self.safe_set: SafeSet = config["safe_set"]
        self.selection: Selection = config["selection"]
        self.solve_options: SolveOptions = config["solve_options"]
        self._solvers = SolverPool()
        n_actions, n_features = len(self.safe_set.low), self.encoder.n_features
        generator = torch.Generator().manual_seed(config["seed"])

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

        self.critics, self.target_critics = critics(), critics()
        self.target_critics.load_state_dict(self.critics.state_dict())
        self.target_critics.requires_grad_(False)

    def get_non_inference_attributes(self) -> list[str]:
        return ["critics"]

    def act(self, observations: Array) -> Array:
        """Safe actions ``(B, n_a)`` in the environment's units, or NaN, for raw observations ``(B, n_s)``.

        Raises:
            InvalidProblem: if a weight is NaN or infinite.
        """
        low = self.safe_set.low
        width = self.safe_set.high - low
        G, h = self.safe_set.rows(observations)
        problem = CriticBatch(
            MLP.mean(self.target_critics.networks()),
            self.encoder.encode(observations),
            G * width,
            h - G @ low,
            np.zeros(len(low)),
            np.ones(len(low)),
        )
        scaled = safe_maximisers(self.selection, problem, width, self._solvers, self.solve_options)
        return np.asarray(low + width * scaled)

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        observations = batch[Columns.OBS].detach().cpu().numpy().astype(np.float64)
        return {Columns.ACTIONS: torch.from_numpy(self.act(observations))}

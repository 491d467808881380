"""Projected policy gradients: the policy proposes, the projection on the safe set is executed, the gradient knows it.

Source: seed 002 (Gros, Zanon and Bemporad), Corollary 1 for the deterministic gradient; specification projection_pg,
section 5, for the stochastic one, which the seed lost. Read each `training_step`: play, store or judge, learn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing

from algorithms.common.environments import required
from algorithms.common.replay import ReplayBuffer
from algorithms.common.rollout_algorithm import RolloutAlgorithm
from algorithms.common.rollouts import Rollouts
from algorithms.projected_pg.config import ProjectedDPGConfig, ProjectedPGConfig
from algorithms.projected_pg.estimators import gaussian_log_prob, scored
from algorithms.projected_pg.learner import in_two
from algorithms.projected_pg.policy import ProjectedPolicy
from solver_pool.errors import InvalidProblem


class ProjectedDPG(RolloutAlgorithm):
    """Deterministic policy gradient of the projected policy (seed 002, Corollary 1)."""

    config: ProjectedDPGConfig

    @classmethod
    def get_default_config(cls) -> ProjectedDPGConfig:
        return ProjectedDPGConfig()

    def setup(self, config: Any) -> None:
        super().setup(config)
        self.replay = ReplayBuffer(self.config.buffer_capacity, seed=self.config.seed or 0)

    def training_step(self) -> None:
        """One episode in every environment, then `updates` critic steps and an actor step for every few of them."""
        episodes = self.rollouts()
        if episodes is None:
            return
        self._store(episodes)
        batch = self.replay.sample(self.config.train_batch_size_per_learner * self.config.updates)
        columns = {
            **in_two("obs", batch["obs"]),
            **in_two("new_obs", batch["new_obs"]),
            **{name: batch[name].astype(np.float32) for name in ("actions", "rewards", "done", "discount")},
        }
        self.learn(columns)
        self.copy_weights()

    def _store(self, episodes: Rollouts) -> None:
        alive = episodes.alive
        middle, half = _box(self.config)
        self.replay.add(
            {
                "obs": episodes.observations[:-1][alive],
                "actions": (episodes.executed[alive] - middle) / half,
                "rewards": episodes.rewards[alive] / self.config.reward_scale,
                "new_obs": episodes.observations[1:][alive],
                "done": episodes.done[alive].astype(np.float64),
                "discount": episodes.discounts(self.config.gamma)[alive],
            }
        )

    def policy(self) -> ProjectedPolicy:
        """The averaged actor under its safe set."""
        return _policy(self, "deployed_actor")

    deployable = policy

    def get_state(
        self, components: Any = None, *, not_components: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        state = super().get_state(components, not_components=not_components, **kwargs)
        return state | ({"replay": self.replay.get_state()} if components is None else {})

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        if "replay" in state:
            self.replay.set_state(state["replay"])


class ProjectedPG(RolloutAlgorithm):
    """Stochastic policy gradient of the projected policy: the proposal's score, the executed action's advantage."""

    config: ProjectedPGConfig

    def setup(self, config: Any) -> None:
        super().setup(config)
        _, self._encoder = self.config.probed()

    @classmethod
    def get_default_config(cls) -> ProjectedPGConfig:
        return ProjectedPGConfig()

    def training_step(self) -> None:
        """One episode in every environment, then PPO's epochs on its proposals."""
        episodes = self.rollouts()
        if episodes is None:
            return
        self.learn(self._judged(episodes))
        self.copy_weights()

    def _judged(self, episodes: Rollouts) -> dict[str, np.ndarray[Any, Any]]:
        config, alive = self.config, episodes.alive
        values = episodes.values[..., 0]
        advantages = episodes.advantages(
            episodes.rewards / config.reward_scale, values, config.gamma, config.lambda_
        )[alive]
        targets = advantages + values[:-1][alive]
        observations = episodes.observations[:-1][alive]
        proposed, executed = (torch.from_numpy(a[alive]) for a in (episodes.proposed, episodes.executed))
        at, counts = scored(config.score, proposed, executed)
        log_prob = episodes.log_prob[alive]
        if config.score == "executed":
            policy = self.policy()
            middle, half = _box(config)
            means = (policy.propose(observations) - middle) / half
            assert policy.log_std is not None
            log_prob = gaussian_log_prob(
                torch.from_numpy(means), torch.from_numpy(policy.log_std), (at - middle) / half
            ).numpy()
        columns = {
            "features": self._encoder.encode(observations),
            Columns.ACTIONS: at.numpy(),
            Columns.ACTION_LOGP: log_prob,
            Postprocessing.ADVANTAGES: (advantages - advantages.mean()) / max(float(advantages.std()), 1e-8),
            Postprocessing.VALUE_TARGETS: targets,
            "counts": counts.numpy(),
        }
        return {name: column.astype(np.float32) for name, column in columns.items()}

    def policy(self) -> ProjectedPolicy:
        """The present policy under its safe set."""
        return _policy(self, "actor")

    deployable = policy


def _box(config: ProjectedDPGConfig | ProjectedPGConfig) -> tuple[Any, Any]:
    """Middle and half widths of the action box, ``(n_a,)``."""
    safe_set = required(config, config.probed()[0])
    return (safe_set.low + safe_set.high) / 2.0, (safe_set.high - safe_set.low) / 2.0


def _policy(algorithm: RolloutAlgorithm, actor: str) -> ProjectedPolicy:
    """The learner's actor of that name as plain arrays.

    Raises:
        InvalidProblem: if a weight is not finite.
    """

    def export(learner: Any) -> ProjectedPolicy:
        module = learner.module[DEFAULT_MODULE_ID].unwrapped()
        network = getattr(module, actor)
        weights, biases = network.layers()
        if not all(np.isfinite(a).all() for a in (*weights, *biases)):
            raise InvalidProblem(
                "actor", "has weights that are not finite", "Lower the learning rate, and resume."
            )
        log_std = getattr(module, "log_std", None)
        safe_set, encoder = algorithm.config.probed()
        return ProjectedPolicy(
            weights, biases, network.activation, encoder, required(algorithm.config, safe_set),
            None if log_std is None else log_std.detach().numpy().astype(np.float64),
        )  # fmt: skip

    exported: ProjectedPolicy = algorithm.of_learner(export)
    return exported

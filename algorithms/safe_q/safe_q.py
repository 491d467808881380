"""SafeQ: Q-learning whose maximum, in the TD target and to act, is over the safe actions alone.

Source: seed 002 (Gros, Zanon and Bemporad), section 3: equations (11) to (14), Figure 1, and the remark that the TD
error needs the same restriction. Returns are maximised here where the paper minimises costs. There is no actor: the
action is the solver's.

OMLT-DDPG's `training_step` plays, stores and copies weights; what it calls for every update that the sampled steps have
earned is `SafeQ._update`, which is the whole algorithm: draw, pose, solve, learn.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import LEARNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME

from algorithms.omlt_ddpg.omlt_ddpg import OMLTDDPG
from algorithms.safe.policy import SafePolicy
from algorithms.safe_q.config import SafeQConfig
from algorithms.safe_q.maximisers import safe_maximisers
from algorithms.safe_q.policy import selected
from solver_pool.problem import MLP, Array, CriticBatch


class SafeQ(OMLTDDPG):
    """``Q(s, a) <- r + gamma max_{a' in S(s')} Q'(s', a')``; acts with ``argmax_{a in S(s)} Q'(s, a)`` and explores."""

    config: SafeQConfig

    @classmethod
    def get_default_config(cls) -> SafeQConfig:
        return SafeQConfig()

    def _update(self) -> None:
        config = self.config
        # Draw.
        batch = self.replay.sample(config.train_batch_size_per_learner * config.critic_updates)
        # Pose and solve: the safe action of every next state, from the one that is known there.
        best = self._safe_actions(batch["next_obs"], batch["next_G"], batch["next_h"], batch["next_best"])
        solved = np.asarray(np.isfinite(best).all(axis=1))
        # Where an episode ended nothing follows, so that its target is known without a solve.
        known = solved | (batch["done"] > 0)
        # Learn.
        columns = {
            Columns.OBS: batch["obs"],
            Columns.ACTIONS: batch["action"],
            Columns.REWARDS: batch["reward"],
            Columns.NEXT_OBS: batch["next_obs"],
            "done": batch["done"],
            "next_best": np.where(solved[:, None], best, 0.0),
            "solved": known.astype(np.float64),
        }
        data = SampleBatch({name: value.astype(np.float32) for name, value in columns.items()})
        results = self.learner_group.update(
            batch=MultiAgentBatch({DEFAULT_MODULE_ID: data}, len(known)),
            timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: self._steps},
            # Reducing the metrics costs more than the update; the last one of an iteration is enough.
            _no_metrics_reduce=self._owed >= 1.0 or self._steps % config.steps_per_iteration != 0,
        )
        if results and results[0]:
            self.metrics.aggregate(results, key=LEARNER_RESULTS)

    def _safe_actions(self, state: Array, G: Array, h: Array, starts: Array) -> Array:
        """Scaled safe actions ``(B, n_a)`` of the target critics by the configured selection; NaN where it failed.

        Raises:
            InvalidProblem: if a critic's weight is NaN or infinite; training cannot go on.
        """
        box = np.zeros(len(self._low)), np.ones(len(self._low))
        problem = CriticBatch(self._target_critic(), state, G, h, *box, starts=starts)
        return safe_maximisers(
            self.config.selection, problem, self._width, self.pool, self.config.solve_options
        )

    def _target_critic(self) -> MLP:
        """The mean of the learner's target critics as one plain network."""

        def export(learner: Any) -> list[MLP]:
            critics: list[MLP] = learner.module[DEFAULT_MODULE_ID].unwrapped().target_critics.networks()
            return critics

        if self.learner_group.is_local:
            return MLP.mean(export(self.learner_group._learner))
        return MLP.mean(next(iter(self.learner_group.foreach_learner(export))).get())

    def _copy_weights(self) -> None:
        """Give the environment runners the target critics."""
        if self.learner_group.is_local and self.env_runner_group.num_remote_workers() == 0:
            source = self.learner_group._learner.module[DEFAULT_MODULE_ID].unwrapped().target_critics
            self.env_runner_group.local_env_runner.module.target_critics.load_state_dict(source.state_dict())
            return
        super()._copy_weights()

    def safe_policy(self, n_starts: int = 4) -> SafePolicy:
        """What is deployed: the target critics with the configured selection."""
        options = replace(self.config.solve_options, n_starts=n_starts)
        policy = SafePolicy(self._target_critic(), self._safe_set, self._encoder, options=options)
        return selected(policy, self.config.selection)

"""Optimistic-GMBL: sample every state and action equally often from a generative model, then plan optimistically.

Source: seed 003, Algorithm 1; specification online_crl, section 4.
"""

from __future__ import annotations

import numpy as np
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    EPISODE_RETURN_MEAN,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES_LIFETIME,
)

from algorithms.common.episodes import EpisodeRecord
from algorithms.crl.algorithm import TabularAlgorithm
from algorithms.crl.config import OptimisticGMBLConfig
from algorithms.crl.policy import drawn
from algorithms.crl.sample_sizes import gmbl_samples
from envs.tabular import Array


class OptimisticGMBL(TabularAlgorithm):
    """Algorithm 1: sample, count, plan.

    Its samples are no episodes. So that it can be compared with algorithms that play, samples count as environment
    steps, and one episode of the new plan, which nobody learns from, stands in the log for as many episodes as the
    samples would have made.
    """

    config: OptimisticGMBLConfig

    @classmethod
    def get_default_config(cls) -> OptimisticGMBLConfig:
        return OptimisticGMBLConfig()

    def training_step(self) -> None:
        """Samples of every pair, and one plan."""
        task = self.env.task
        epsilon = self.config.epsilon
        per_pair = (
            self.config.samples_per_pair
            if epsilon is None
            else gmbl_samples(task, epsilon, self.config.delta)
        )
        self.agent.count_samples(self.env.sample_counts(self._generator, per_pair))
        policy = self.agent.policy()
        self.hand_out(policy)
        self._log(self._shown(policy), per_pair * task.rewards.size)
        self.report()

    def _shown(self, policy: Array) -> EpisodeRecord:
        """An episode of the plan, which is not learned from."""
        record, over = EpisodeRecord(), False
        observation, _ = self.env.reset(seed=int(self._generator.integers(2**31)))
        while not over:
            action = drawn(policy, observation[None], self._generator)[0]
            observation, reward, over, _, info = self.env.step(action)
            record.add(reward, info, unsafe=False)
        return record

    def _log(self, shown: EpisodeRecord, samples: int) -> None:
        log = self.metrics.log_value
        seen = samples + int(
            self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), default=0)
        )
        before = sum(record.count for record in self.episodes.finished)
        shown.count = max(int(np.ceil(seen / self.env.task.horizon)) - before, 1)
        self.episodes.finished.append(shown)
        log((ENV_RUNNER_RESULTS, EPISODE_RETURN_MEAN), shown.reward, window=20)
        log((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED), samples, reduce="sum")
        log((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), samples, reduce="lifetime_sum")
        log((ENV_RUNNER_RESULTS, NUM_EPISODES_LIFETIME), shown.count, reduce="lifetime_sum")

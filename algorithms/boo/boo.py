"""BOO: a graph neural network writes cutting planes into a MILP, and learns from what the plans are worth.

Source: seed 001, section 4; resolved in the specification boo, sections 1 and 2. Read `BOO.training_step` top to
bottom: sample, judge, learn. The safety is in the environment: whatever cuts the policy writes, the set of feasible
plans stays what it is (`envs/cutting_planes/cuts.py`), and every plan is checked by code that did not build the master.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.execution.rollout_ops import synchronous_parallel_sample
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
)

from algorithms.boo.config import BOOConfig
from algorithms.boo.env_runner import GROUP
from algorithms.boo.writer import CutWriter
from algorithms.common.episodes import EpisodeLog, EpisodeRecord
from algorithms.common.policy_gradient import centred, generalised_advantages
from algorithms.common.runners import players, reseed, reserved
from algorithms.common.sealed import Deployable, Sealed, accept_older_weights
from envs.cutting_planes.graph import as_objects


class BOO(Sealed):
    """PPO over cuts (seed 001: "learned end-to-end using reinforcement learning")."""

    config: BOOConfig

    @classmethod
    def get_default_config(cls) -> BOOConfig:
        return BOOConfig()

    @classmethod
    def default_resource_request(cls, config: Any) -> Any:
        """RLlib's bundles, with those of every runner's solver pool appended."""
        runners = config["num_env_runners"] if isinstance(config, dict) else config.num_env_runners
        request = super().default_resource_request(config)
        return reserved(request, config, cls.get_default_config(), max(runners, 1))

    def setup(self, config: Any) -> None:
        super().setup(config)
        self.episodes = EpisodeLog()

    def training_step(self) -> None:
        """One episode in every environment of every runner, then PPO's epochs on their cuts."""
        episodes = self._sample()
        if not episodes:  # every remote runner is lost; Ray restarts them where there is room
            self.restore_env_runners(self.env_runner_group)
            return
        batch = self._judged(episodes)
        results = self.learner_group.update(
            batch=batch,
            timesteps={
                NUM_ENV_STEPS_SAMPLED_LIFETIME: self.metrics.peek(
                    (ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), default=0
                )
            },
        )
        self.metrics.aggregate(results, key=LEARNER_RESULTS)
        self.env_runner_group.sync_weights(
            from_worker_or_learner_group=self.learner_group, inference_only=True
        )
        self._report(episodes)

    def restore_env_runners(self, env_runner_group: Any) -> list[int]:
        """RLlib's, after which restarted runners play instances unseen so far."""
        restored: list[int] = super().restore_env_runners(env_runner_group)
        if restored:
            reseed(env_runner_group, restored, self._counters["total_num_restored_workers"])
        return restored

    def _sample(self) -> list[SingleAgentEpisode]:
        episodes, results = synchronous_parallel_sample(
            worker_set=self.env_runner_group,
            concat=True,
            sample_timeout_s=self.config.sample_timeout_s,
            _uses_new_env_runners=True,
            _return_metrics=True,
        )
        self.metrics.aggregate(results, key=ENV_RUNNER_RESULTS)
        played: list[SingleAgentEpisode] = episodes
        return played

    def _judged(self, episodes: list[SingleAgentEpisode]) -> MultiAgentBatch:
        """The cuts of all episodes with their advantages and the targets of their states' values."""
        config = self.config
        values = [np.array(e.get_extra_model_outputs(Columns.VF_PREDS), dtype=np.float64) for e in episodes]
        advantages = [
            generalised_advantages(
                np.array(e.get_rewards(), dtype=np.float64),
                v,
                np.append(v[1:], 0.0),
                config.gamma,
                config.lambda_,
            )
            for e, v in zip(episodes, values, strict=True)
        ]
        targets = np.concatenate([a + v for a, v in zip(advantages, values, strict=True)])
        judged = np.concatenate(centred(advantages, [e.get_infos(0)[GROUP] for e in episodes]))
        judged = (judged - judged.mean()) / max(float(judged.std()), 1e-8)
        log_probs = [p for e in episodes for p in e.get_extra_model_outputs(Columns.ACTION_LOGP)]
        columns = {
            Columns.OBS: as_objects([o for e in episodes for o in e.get_observations()[:-1]]),
            Columns.ACTIONS: as_objects([a for e in episodes for a in e.get_actions()]),
            Columns.ACTION_LOGP: np.array(log_probs, dtype=np.float32),
            Postprocessing.ADVANTAGES: judged.astype(np.float32),
            Postprocessing.VALUE_TARGETS: targets.astype(np.float32),
        }
        return MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(columns)}, len(targets))

    def _report(self, episodes: list[SingleAgentEpisode]) -> None:
        """The iteration as one record of the log, and what the solvers of all runners did."""
        infeasible = int(self.metrics.peek((ENV_RUNNER_RESULTS, "plans", "infeasible"), default=0))
        self.episodes.finished.append(
            EpisodeRecord(
                reward=float(np.mean([e.get_return() for e in episodes])),
                length=round(np.mean([len(e) for e in episodes])),
                unsafe_steps=infeasible - sum(record.unsafe_steps for record in self.episodes.finished),
                count=len(episodes),
            )
        )
        for metrics in players(self.env_runner_group, lambda runner: runner.env.pool.drain()):
            for name, value in metrics.items():
                how = {"reduce": "mean", "window": 1} if name.endswith("/utilisation") else {"reduce": "sum"}
                self.metrics.log_value(("solver", *name.split("/")), value, **how)

    def writer(self) -> CutWriter:
        """The deployed policy as it is now; it needs no Ray."""
        return CutWriter(deepcopy(self.get_module().deployed), str(self.config.env), self.config.env_config)

    # Checkpoints: everything that the next step depends on.

    def get_state(
        self, components: Any = None, *, not_components: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        state: dict[str, Any] = super().get_state(components, not_components=not_components, **kwargs)
        if components is None:
            state["boo"] = {
                "episodes": self.episodes.get_state(),
                "runners": dict(players(self.env_runner_group, lambda runner: runner.generators())),
            }
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        # RLlib's runners pass over weights that are older than their own; a checkpoint's may be.
        self.env_runner_group.foreach_env_runner(accept_older_weights)
        self.env_runner_group.sync_weights(
            from_worker_or_learner_group=self.learner_group, inference_only=True
        )
        if "boo" in state:
            self.episodes.set_state(state["boo"]["episodes"])
            generators = state["boo"]["runners"]
            players(self.env_runner_group, lambda runner: runner.set_generators(generators))

    def deployable(self) -> Deployable:
        return self.writer()

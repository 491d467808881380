"""What tabular algorithms share: tables in the learner's module, whole episodes, checkpoints, reports."""

from __future__ import annotations

from typing import Any

import numpy as np
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.execution.rollout_ops import synchronous_parallel_sample
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS

from algorithms.common.episodes import EpisodeLog
from algorithms.common.runners import players, reseed, reserved
from algorithms.common.sealed import Deployable, Sealed
from algorithms.crl.confidence import Ball
from algorithms.crl.config import TabularConfig
from algorithms.crl.evaluation import evaluate
from algorithms.crl.fast_planner import plan_fast
from algorithms.crl.policy import TabularPolicy
from algorithms.crl.rl_module import POLICY, TabularModule
from envs.tabular import Array, Ints
from solver_pool.pool import SolverPool


class TabularAlgorithm(Sealed):
    """An agent on tables, played by RLlib's runners; subclasses say what a training step is."""

    config: TabularConfig

    @classmethod
    def default_resource_request(cls, config: Any) -> Any:
        """RLlib's bundles, with the solver's appended, so that Tune reserves them with the trial."""
        return reserved(super().default_resource_request(config), config, cls.get_default_config())

    def setup(self, config: Any) -> None:
        super().setup(config)
        self.env = self.config.make_env()
        self.pool = SolverPool(self.config.solver_pool)
        module = self.module
        tables = {name: module.table(name) for name in module.get_non_inference_attributes()}
        self.agent = self.config.make_agent(self.env.task, tables, self.pool)
        self.episodes = EpisodeLog()
        self._generator = np.random.default_rng([self.config.seed or 0, 1])
        problem = self.env.problem
        best = None if problem is None else plan_fast(problem.task, Ball.point(problem.kernel))
        self._optimum = None if best is None else best.value
        self._told = (0, 0)  # plans and infeasible ones that were reported
        self._plan_seconds = 0.0

    @property
    def module(self) -> TabularModule:
        """The learner's module, which holds the tables."""
        module: TabularModule = self.learner_group._learner.module[DEFAULT_MODULE_ID].unwrapped()
        return module

    def hand_out(self, policy: Array) -> None:
        """Have the next episodes played with a policy ``(H, S, A)``."""
        np.copyto(self.module.table(POLICY), policy)
        self._plan_seconds += self.agent.plan_seconds
        if self.env_runner_group.num_remote_workers() == 0:
            np.copyto(self.env_runner_group.local_env_runner.module.table(POLICY), policy)
            return
        self.env_runner_group.sync_weights(
            from_worker_or_learner_group=self.learner_group, inference_only=True
        )

    def play(self) -> list[SingleAgentEpisode]:
        """One episode in each environment of every runner; none if all runners are lost."""
        if self.env_runner_group.num_remote_workers() == 0:
            runner = self.env_runner_group.local_env_runner
            episodes: list[SingleAgentEpisode] = runner.sample()
            results = [runner.get_metrics()]
        else:
            episodes, results = synchronous_parallel_sample(
                worker_set=self.env_runner_group,
                concat=True,
                sample_timeout_s=self.config.sample_timeout_s,
                _uses_new_env_runners=True,
                _return_metrics=True,
            )
            if not episodes:  # Ray restarts runners where there is room
                self.restore_env_runners(self.env_runner_group)
        self.metrics.aggregate(results, key=ENV_RUNNER_RESULTS)
        for episode in episodes:
            rewards, infos = episode.get_rewards(), episode.get_infos()[1:]
            self.episodes.add(episode.id_, rewards, infos, [False] * len(episode), episode.is_done)
        return episodes

    def restore_env_runners(self, env_runner_group: Any) -> list[int]:
        """RLlib's, after which restarted runners play episodes unseen so far."""
        restored: list[int] = super().restore_env_runners(env_runner_group)
        if restored:
            reseed(env_runner_group, restored, self._counters["total_num_restored_workers"])
        return restored

    def report(self) -> None:
        """What planning did in this iteration, and what the policy is truly worth where the model is known."""
        agent, log = self.agent, self.metrics.log_value
        planned, infeasible = agent.planned - self._told[0], agent.infeasible - self._told[1]
        self._told = agent.planned, agent.infeasible
        if planned:
            name = f"elp_{agent.settings.engine}"
            for counter, value in (
                ("solves", planned),
                ("status_optimal", planned - infeasible),
                ("solver_seconds", self._plan_seconds),
            ):
                log(("solver", name, counter), float(value), reduce="sum")
        self._plan_seconds = 0.0
        log(("crl", "infeasible"), agent.infeasible, window=1)
        problem = self.env.problem
        if problem is not None:
            worth = evaluate(problem, self.agent.deployed())
            log(("crl", "value"), worth.value, window=1)
            log(("crl", "violation"), problem.task.violation(worth.costs), window=1)
            if self._optimum is not None:
                log(("crl", "value_gap"), abs(worth.value - self._optimum), window=1)

    def deployed(self) -> TabularPolicy:
        """What was learned so far; it needs no Ray."""
        config = self.config
        return TabularPolicy(self.agent.deployed(), type(self).__name__, str(config.env), config.env_config)

    # Checkpoints: everything that the next step depends on.

    def get_state(
        self, components: Any = None, *, not_components: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        state: dict[str, Any] = super().get_state(components, not_components=not_components, **kwargs)
        if components is None:
            state["tabular"] = {
                "episodes": self.episodes.get_state(),
                "planned": (self.agent.planned, self.agent.infeasible),
                "generator": self._generator.bit_generator.state,
                "runners": dict(players(self.env_runner_group, lambda runner: runner.generators())),
            }
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        if "tabular" not in state:
            return
        own = state["tabular"]
        self.episodes.set_state(own["episodes"])
        self.agent.planned, self.agent.infeasible = self._told = own["planned"]
        self._generator.bit_generator.state = own["generator"]
        generators = own["runners"]
        players(self.env_runner_group, lambda runner: runner.set_generators(generators))

    def deployable(self) -> Deployable:
        return self.deployed()

    def cleanup(self) -> None:
        self.pool.close()
        super().cleanup()


def transitions(episode: SingleAgentEpisode) -> tuple[Ints, Ints]:
    """States ``(H + 1,)`` and actions ``(H,)`` of an episode."""
    observations = np.asarray(episode.get_observations(), dtype=np.int64)
    return observations[:, 1], np.asarray(episode.get_actions(), dtype=np.int64)

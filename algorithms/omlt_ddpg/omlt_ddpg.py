"""OMLT-DDPG: the actor learns from ``argmax_a Q(s, a)`` under the safe rows, solved for each replay sample.

Source: seed 000 (Burtea and Tsay), Algorithm 1; resolved in the specification omlt_ddpg, section 1. Read
`OMLTDDPG.training_step` top to bottom: sample, store, pose, solve, learn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.execution.rollout_ops import synchronous_parallel_sample
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
)

from algorithms.common.connectors import Exploration, ShieldActions
from algorithms.common.episodes import EpisodeLog
from algorithms.common.replay import ReplayBuffer
from algorithms.common.runners import players, reseed, reserved
from algorithms.common.sealed import Deployable, Sealed
from algorithms.common.shield import SAFE_WITHIN
from algorithms.omlt_ddpg.config import OMLTDDPGConfig
from algorithms.safe.policy import PlainActor, SafePolicy
from envs.safe_set import violation
from solver_pool.pool import SolverPool
from solver_pool.problem import MLP, Array, CriticBatch


class OMLTDDPG(Sealed):
    """DDPG whose actor regresses on the solver's maximisers of the critic (seed 000, Algorithm 1)."""

    config: OMLTDDPGConfig

    @classmethod
    def get_default_config(cls) -> OMLTDDPGConfig:
        return OMLTDDPGConfig()

    @classmethod
    def default_resource_request(cls, config: Any) -> Any:
        """RLlib's bundles, with the solver's appended, so that Tune reserves them with the trial."""
        return reserved(super().default_resource_request(config), config, cls.get_default_config())

    def setup(self, config: Any) -> None:
        super().setup(config)
        self._safe_set, self._encoder = self.config.probed()
        self._low, self._width = self._safe_set.low, self._safe_set.high - self._safe_set.low
        seed = self.config.seed or 0
        self.replay = ReplayBuffer(self.config.buffer_capacity, seed=seed)
        self.episodes = EpisodeLog()
        self.pool = SolverPool(self.config.solver_pool)
        self._steps = 0
        runners = self.env_runner_group.num_remote_workers()
        if runners:
            players(self.env_runner_group, lambda runner: _divide_exploration(runner, runners))
        self._latest: dict[str, int] = {}  # serial number of the last transition of each episode under way
        self._renewed = 0
        self._owed = 0.0  # learner updates that the sampled steps have earned and not yet had

    def training_step(self) -> None:
        """`steps_per_iteration` environment steps, and after each round the learner updates it has earned."""
        config = self.config
        target = self._steps + config.steps_per_iteration
        while self._steps < target:
            chunks = self._sample(min(config.rollout_fragment_length, target - self._steps))
            if not chunks:  # every remote runner is lost; Ray restarts them where there is room
                self.restore_env_runners(self.env_runner_group)
            self._store(chunks)
            if len(self.replay) < config.train_batch_size_per_learner:
                self._owed = 0.0
                continue
            while self._owed >= 1.0:
                self._owed -= 1.0
                self._update()
            self._copy_weights()
        for name, value in self.pool.drain().items():
            path = ("solver", *name.split("/"))
            if name.endswith("/utilisation"):
                self.metrics.log_value(path, value, reduce="mean", window=1)
            else:
                self.metrics.log_value(path, value, reduce="sum")

    def restore_env_runners(self, env_runner_group: Any) -> list[int]:
        """RLlib's, after which restarted runners explore in their own ways and meet customers unseen so far."""
        restored: list[int] = super().restore_env_runners(env_runner_group)
        if restored:
            runners = env_runner_group.num_remote_workers()
            reseed(env_runner_group, restored, self._counters["total_num_restored_workers"])
            env_runner_group.foreach_env_runner(
                lambda runner: _divide_exploration(runner, runners),
                local_env_runner=False,
                remote_worker_ids=restored,
            )
        return restored

    # Lines 4 to 6 of Algorithm 1: act, observe, store.

    def _sample(self, steps: int) -> list[Any]:
        if self.env_runner_group.num_remote_workers() == 0:
            runner = self.env_runner_group.local_env_runner
            episodes: list[Any] = runner.sample(num_timesteps=steps)
            self.metrics.aggregate([runner.get_metrics()], key=ENV_RUNNER_RESULTS)
            return episodes
        episodes, results = synchronous_parallel_sample(
            worker_set=self.env_runner_group,
            max_env_steps=steps,
            concat=True,
            _uses_new_env_runners=True,
            _return_metrics=True,
        )
        self.metrics.aggregate(results, key=ENV_RUNNER_RESULTS)
        return episodes

    def _store(self, chunks: list[Any]) -> None:
        """Add the executed transitions to the replay buffer, with the rows of both states beside them."""
        for chunk in chunks:
            steps = len(chunk)
            if not steps:
                continue
            observed = np.asarray(chunk.get_observations(), dtype=np.float64)
            actions = np.asarray(chunk.get_actions(), dtype=np.float64)
            rewards = np.asarray(chunk.get_rewards(), dtype=np.float64)
            infos = chunk.get_infos()[1:]
            key = self.config.reward_key
            learned = (
                rewards
                if key is None
                else np.array([i.get(key, r) for i, r in zip(infos, rewards, strict=True)])
            )
            G, h = self._safe_set.rows(observed)
            # Rows of scaled actions u, a = low + width * u.
            h = h - G @ self._low
            G = np.broadcast_to(G, (steps + 1, *G.shape[-2:])) * self._width
            features = self._encoder.encode(observed)
            done = np.zeros(steps)
            done[-1] = float(chunk.is_terminated)
            scaled = (actions - self._low) / self._width
            serials = self.replay.added + np.arange(steps)
            before = np.concatenate([[self._latest.pop(chunk.id_, -1)], serials[:-1]])
            if not chunk.is_done:
                self._latest[chunk.id_] = int(serials[-1])
            self.replay.add(
                {
                    "obs": features[:-1],
                    "action": scaled,
                    "reward": learned / self.config.reward_scale,
                    "next_obs": features[1:],
                    "done": done,
                    "G": G[:-1],
                    "h": h[:-1],
                    "next_G": G[1:],
                    "next_h": h[1:],
                    # The last known maximisers at both states: at first what was executed there.
                    "best": scaled,
                    "solved": np.zeros(steps),
                    "next_best": np.concatenate([scaled[1:], scaled[-1:]]),
                    "before": before.astype(np.float64),
                }
            )
            self.replay.write(before, next_best=scaled)
            unsafe = violation(self._safe_set, observed[:-1], actions) > SAFE_WITHIN
            self.episodes.add(chunk.id_, rewards.tolist(), infos, unsafe.tolist(), chunk.is_done)
            self._steps += steps
            self._owed += steps * self.config.updates_per_step

    # Lines 7 to 15: draw, solve, learn.

    def _update(self) -> None:
        config = self.config
        if config.refresh and self._steps > config.warm_up:
            self._refresh()
        batch = self.replay.sample(config.train_batch_size_per_learner * config.critic_updates)
        best, solved = np.zeros_like(batch["action"]), np.zeros(len(batch["done"]))
        if config.refresh:
            best, solved = batch["best"], batch["solved"]
        elif self._steps > config.warm_up:
            taught = config.train_batch_size_per_learner * config.actor_updates
            actor, critics = self._networks("actor", "critics")
            prefix = "next_" if config.constraint_lag else ""
            rows = batch[prefix + "G"][:taught], batch[prefix + "h"][:taught]
            state = batch["obs"][:taught]
            best[:taught], solved[:taught] = self._best_actions(critics, state, *rows, actor(state))
        columns = {
            Columns.OBS: batch["obs"],
            Columns.ACTIONS: batch["action"],
            Columns.REWARDS: batch["reward"],
            Columns.NEXT_OBS: batch["next_obs"],
            "done": batch["done"],
            "best": best,
            "solved": solved,
        }
        if config.refresh:
            columns["next_best"] = batch["next_best"]
        size = len(solved)
        results = self.learner_group.update(
            batch=MultiAgentBatch(
                {DEFAULT_MODULE_ID: SampleBatch({k: v.astype(np.float32) for k, v in columns.items()})}, size
            ),
            timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: self._steps},
            # Reducing the metrics costs more than the update; the last one of an iteration is enough.
            _no_metrics_reduce=self._owed >= 1.0 or self._steps % config.steps_per_iteration != 0,
        )
        if results and results[0]:
            self.metrics.aggregate(results, key=LEARNER_RESULTS)

    def _refresh(self) -> None:
        """Renew the kept maximisers of the next `refresh` transitions, from the actor and the last one."""
        kept = self.replay.serials()
        serials = kept[(self._renewed + np.arange(min(self.config.refresh, len(kept)))) % len(kept)]
        self._renewed = (self._renewed + len(serials)) % len(kept)
        prefix = "next_" if self.config.constraint_lag else ""
        state, G, h, last, before = self.replay.read(
            serials, "obs", prefix + "G", prefix + "h", "best", "before"
        )
        actor, critics = self._networks("deployed_actor", "target_critics")
        best, solved = self._best_actions(critics, state, G, h, np.stack([actor(state), last], axis=1))
        best = np.where(solved[:, None] > 0, best, last)
        self.replay.write(serials, best=best, solved=solved)
        self.replay.write(before.astype(np.int64), next_best=best)

    def _best_actions(
        self, critics: list[MLP], state: Array, G: Array, h: Array, starts: Array
    ) -> tuple[Array, Array]:
        """Line 11: ``a*_i = argmax_a Q(s_i, a)`` under the stored rows, and which of them are certified.

        What failed is masked and counted (metrics ``solver/...``), never replaced by a guess.
        """
        n_actions = len(self._low)
        problem = CriticBatch(
            MLP.mean(critics), state, G, h, np.zeros(n_actions), np.ones(n_actions), starts=starts
        )
        answer = self.pool.solve(problem, self.config.solve_options)
        gaps = np.asarray(answer.certificate.gap)
        if np.isfinite(gaps).any():  # only a solver that bounds the global optimum has one
            self.metrics.log_value(("solver", "gap"), float(gaps[np.isfinite(gaps)].mean()), window=100)
        return np.where(answer.certified[:, None], answer.x, 0.0), answer.certified.astype(np.float64)

    # Weights: learner to solver, and learner to environment runners.

    def _networks(self, actor: str, critics: str) -> tuple[PlainActor, list[MLP]]:
        """The named actor and critics of the learner as plain arrays.

        Raises:
            InvalidProblem: if a critic's weight is NaN or infinite; training cannot go on.
        """

        def export(learner: Any) -> tuple[PlainActor, list[MLP]]:
            module = learner.module[DEFAULT_MODULE_ID].unwrapped()
            policy = getattr(module, actor)
            weights, biases = policy.layers()
            return PlainActor(weights, biases, policy.activation), getattr(module, critics).networks()

        if self.learner_group.is_local:
            return export(self.learner_group._learner)
        first = next(iter(self.learner_group.foreach_learner(export)))
        networks: tuple[PlainActor, list[MLP]] = first.get()
        return networks

    def _copy_weights(self) -> None:
        """Give the environment runners the deployed actor."""
        if self.learner_group.is_local and self.env_runner_group.num_remote_workers() == 0:
            source = self.learner_group._learner.module[DEFAULT_MODULE_ID].unwrapped().deployed_actor
            self.env_runner_group.local_env_runner.module.deployed_actor.load_state_dict(source.state_dict())
            return
        self.env_runner_group.sync_weights(
            from_worker_or_learner_group=self.learner_group, inference_only=True
        )

    def safe_policy(self, n_starts: int = 1) -> SafePolicy:
        """SAFE with the deployed critics and actor."""
        actor, critics = self._networks("deployed_actor", "deployed_critics")
        return SafePolicy(
            MLP.mean(critics),
            self._safe_set,
            self._encoder,
            actor,
            replace(self.config.solve_options, n_starts=n_starts),
        )

    def actor_policy(self) -> Callable[[Array], Array]:
        """The actor alone, of observations ``(B, n_s)``: clipped to the box, without a look at the rows."""
        actor, _ = self._networks("deployed_actor", "deployed_critics")
        low, width, executable = self._low, self._width, self._safe_set.executable
        encode = self._encoder.encode
        return lambda observations: executable(low + width * actor(encode(observations)))

    # Checkpoints: everything that the next step depends on.

    def get_state(
        self, components: Any = None, *, not_components: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        state: dict[str, Any] = super().get_state(components, not_components=not_components, **kwargs)
        if components is None:
            state["omlt_ddpg"] = {
                "replay": self.replay.get_state(),
                "episodes": self.episodes.get_state(),
                "steps": self._steps,
                "owed": self._owed,
                "latest": self._latest,
                "renewed": self._renewed,
                "runners": players(self.env_runner_group, _runner_state),
            }
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        if "omlt_ddpg" not in state:
            return
        own = state["omlt_ddpg"]
        self.replay.set_state(own["replay"])
        self.episodes.set_state(own["episodes"])
        self._steps, self._owed = own["steps"], own["owed"]
        self._latest, self._renewed = own["latest"], own["renewed"]
        runners = dict(own["runners"])
        players(
            self.env_runner_group, lambda runner: _continue_runner(runner, runners.get(runner.worker_index))
        )
        self._copy_weights()

    def deployable(self) -> Deployable:
        return self.safe_policy()

    def cleanup(self) -> None:
        self.pool.close()
        super().cleanup()


def _explorations(runner: Any) -> list[Exploration]:
    """The exploration of a runner's connectors, if it has any."""
    pieces = [p for p in runner._module_to_env.connectors if isinstance(p, ShieldActions)]
    return [piece.exploration for piece in pieces if piece.exploration is not None]


def _divide_exploration(runner: Any, runners: int) -> None:
    """Let each of several runners explore in its own way."""
    for exploration in _explorations(runner):
        exploration.divide(runner.worker_index, runners)


def _runner_state(runner: Any) -> tuple[int, dict[str, Any]]:
    """A runner's index, and what its next actions and episodes are drawn from."""
    generators = [env.unwrapped.np_random.bit_generator.state for env in runner.env.unwrapped.envs]
    return runner.worker_index, {
        "generators": generators,
        "explorations": [exploration.get_state() for exploration in _explorations(runner)],
    }


def _continue_runner(runner: Any, state: dict[str, Any] | None) -> None:
    """Let a runner draw on from where the checkpoint left it, instead of from its seed."""
    if state is None:  # a runner that the checkpointed run did not have
        return
    for env, generator in zip(runner.env.unwrapped.envs, state["generators"], strict=True):
        env.unwrapped.np_random.bit_generator.state = generator
    for exploration, saved in zip(_explorations(runner), state["explorations"], strict=True):
        exploration.set_state(saved)
    runner._seed = None

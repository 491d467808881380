"""OMLT-DDPG: the actor learns from ``argmax_a Q(s, a)`` under the safe rows, solved for each replay sample.

Source: seed 000 (Burtea and Tsay), Algorithm 1; resolved in the specification omlt_ddpg, section 1. Read
`OMLTDDPG.training_step` top to bottom: sample, store, pose, solve, learn.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import ray.tune.registry
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.execution.rollout_ops import synchronous_parallel_sample
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
)

from algorithms.common import checkpoint
from algorithms.common.connectors import Exploration, ShieldActions
from algorithms.common.episodes import EpisodeLog
from algorithms.common.replay import ReplayBuffer
from algorithms.common.shield import SAFE_WITHIN, Mode
from algorithms.omlt_ddpg.learner import OMLTDDPGLearner
from algorithms.omlt_ddpg.rl_module import OMLTDDPGModule
from algorithms.safe.policy import PlainActor, SafePolicy
from envs.encoder import Encoder, Scaled
from envs.registry import register_with_ray
from envs.safe_set import SafeSet, violation
from solver_pool.options import SolveOptions
from solver_pool.pool import PoolConfig, SolverPool, pool_bundles
from solver_pool.problem import ACTIVATIONS, MLP, Array, CriticBatch

Schedule = float | list[list[float]]


class OMLTDDPGConfig(AlgorithmConfig):
    """Every knob of OMLT-DDPG. The defaults are the paper's; `tuned` uses what today's practice adds.

    Example::

        config = (
            OMLTDDPGConfig()
            .environment("solverl/MultiEchelonInventory-v0")
            .training(tau=0.01)
            .debugging(seed=1)
        )
        algorithm = config.build_algo()
    """

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or OMLTDDPG)
        register_with_ray()
        # The environment: found on it unless given (see `safety`).
        self.safe_set: SafeSet | None = None
        self.encoder: Encoder | None = None
        self.shield: Mode = "raw"
        self.exploration: Exploration | None = None
        # Algorithm 1. Section 1 of the specification numbers what the paper leaves open.
        self.gamma = 0.97
        self.tau = 0.005
        self.critic_lr: Schedule = 0.001
        self.actor_lr: Schedule = 0.005
        self.train_batch_size_per_learner = 8
        self.buffer_capacity = 35_000
        self.warm_up = 300
        self.constraint_lag: Literal[0, 1] = 0
        self.activation = "tanh"
        self.critic_hidden: tuple[int, ...] = (64, 64)
        self.actor_hidden: tuple[int, ...] = (64, 64)
        self.reward_key: str | None = "reward_undiscounted"
        self.reward_scale = 1.0
        # Solving.
        self.solve_options = SolveOptions()
        self.solver_pool = PoolConfig()
        # What the paper does once: one critic, one step of each network a sample.
        self.n_critics = 1
        self.updates_per_step = 1.0
        self.critic_updates = 1
        self.actor_updates = 1
        self.deployed_rate = 1.0
        self.refresh = 0
        self.pessimism = 1.0
        self.critic_weight_decay = 0.0
        self.steps_per_iteration = 150
        # RLlib.
        self.rollout_fragment_length = 1
        self.normalize_actions = False
        self.clip_actions = False
        self.num_env_runners = 0
        self.lr = 0.0  # not used: see critic_lr and actor_lr

    def safety(
        self,
        *,
        safe_set: SafeSet | None = NotProvided,
        encoder: Encoder | None = NotProvided,
        shield: Mode = NotProvided,
        exploration: Exploration | None = NotProvided,
    ) -> OMLTDDPGConfig:
        """What is safe, and who sees to it.

        Args:
            safe_set: rows for each observation. Default: the environment's own ``safe_set``.
            encoder: features of each observation. Default: the environment's own ``encoder``, else the
                observation divided by the observation space's bounds.
            shield: ``"raw"`` executes the actor's action while training, violations included, as the paper
                does; ``"repair"`` projects it on the rows. Deployment by SAFE is always safe.
            exploration: how training departs from the actor. None: not at all, as in the paper.
        """
        for name, value in (
            ("safe_set", safe_set), ("encoder", encoder), ("shield", shield), ("exploration", exploration),
        ):  # fmt: skip
            if value is not NotProvided:
                setattr(self, name, value)
        return self

    def training(  # type: ignore[override]
        self,
        *,
        tau: float = NotProvided,
        critic_lr: Schedule = NotProvided,
        actor_lr: Schedule = NotProvided,
        buffer_capacity: int = NotProvided,
        warm_up: int = NotProvided,
        constraint_lag: Literal[0, 1] = NotProvided,
        activation: str = NotProvided,
        critic_hidden: tuple[int, ...] = NotProvided,
        actor_hidden: tuple[int, ...] = NotProvided,
        reward_key: str | None = NotProvided,
        reward_scale: float = NotProvided,
        solve_options: SolveOptions = NotProvided,
        solver_pool: PoolConfig = NotProvided,
        n_critics: int = NotProvided,
        updates_per_step: float = NotProvided,
        critic_updates: int = NotProvided,
        actor_updates: int = NotProvided,
        deployed_rate: float = NotProvided,
        refresh: int = NotProvided,
        pessimism: float = NotProvided,
        critic_weight_decay: float = NotProvided,
        steps_per_iteration: int = NotProvided,
        **kwargs: Any,
    ) -> OMLTDDPGConfig:
        """Set the algorithm's parameters; `gamma` and `train_batch_size_per_learner` are RLlib's own.

        Args:
            tau: rate of the soft target updates (lines 14 and 15).
            critic_lr, actor_lr: of Adam; a number or RLlib's ``[[env step, rate], ...]``.
            buffer_capacity: transitions kept.
            warm_up: sigma, environment steps before the actor learns (line 10). 0 is the paper's "NW".
            constraint_lag: 0 optimises at `s` under the rows of `s`; 1, the literal reading of line 11,
                under those observed after the step.
            activation: of the critic; smooth ones take the fast engine, ReLU the exact MILP.
            critic_hidden, actor_hidden: widths of the hidden layers.
            reward_key: entry of ``info`` to learn from instead of the reward, if the environment has it (the
                inventory chain's reward is already discounted); None learns from the reward.
            reward_scale: the learned reward is the reward divided by this.
            solve_options, solver_pool: how and where the solver solves.
            n_critics: ensemble members; the solver maximises their mean.
            pessimism: the TD target's place between the mean (0) and the minimum (1) over the critics.
            critic_weight_decay: of AdamW, on the hidden layers.
            updates_per_step: learner updates for each environment step.
            critic_updates, actor_updates: steps of each network in one learner update.
            deployed_rate: rate of the averaging of the deployed networks; 1 deploys the latest.
            refresh: 0 solves for every sample that the actor learns from, as the paper does. A number instead
                keeps the last maximiser beside each transition, renews that many of them in turn before each
                learner update, and takes them for the TD target too: ``a' = a*(s')``.
            steps_per_iteration: environment steps of one ``train()``.
        """
        super().training(**kwargs)
        given = {k: v for k, v in locals().items() if k not in ("self", "kwargs", "__class__")}
        for name, value in given.items():
            if value is not NotProvided:
                setattr(self, name, value)
        return self

    def validate(self) -> None:
        """Check every field before anything is built; the error names field, value and remedy."""
        super().validate()
        positive = (
            "buffer_capacity", "n_critics", "critic_updates", "actor_updates", "steps_per_iteration",
            "train_batch_size_per_learner", "reward_scale", "updates_per_step",
        )  # fmt: skip
        for name in positive:
            if not getattr(self, name) > 0:
                self._value_error(f"{name}: is {getattr(self, name)}; it must be positive.")
        for name in ("tau", "deployed_rate"):
            if not 0 < getattr(self, name) <= 1:
                self._value_error(f"{name}: is {getattr(self, name)}; it must lie in (0, 1].")
        if not 0 <= self.gamma <= 1:
            self._value_error(f"gamma: is {self.gamma}; it must lie in [0, 1].")
        if self.warm_up < 0:
            self._value_error(f"warm_up: is {self.warm_up}; 0 means no warm-up.")
        if self.activation not in ACTIVATIONS:
            self._value_error(
                f"activation: {self.activation!r} is unknown; use one of {', '.join(ACTIVATIONS)}."
            )
        if self.actor_updates > self.critic_updates:
            self._value_error(
                f"actor_updates: is {self.actor_updates}, more than critic_updates ({self.critic_updates}); "
                "the actor learns on the first minibatches of the critic's."
            )
        if self.shield not in ("raw", "repair"):
            self._value_error(f"shield: is {self.shield!r}; use 'raw' or 'repair'.")
        if self.constraint_lag not in (0, 1):
            self._value_error(f"constraint_lag: is {self.constraint_lag!r}; use 0 or 1.")
        if self.normalize_actions or self.clip_actions:
            self._value_error(
                "normalize_actions, clip_actions: must stay False; actions leave the module in the "
                "environment's units, and RLlib's own scaling would move them off their rows."
            )

    def probed(self) -> tuple[SafeSet, Encoder]:
        """The safe set and the encoder: as given, else the environment's own.

        Raises:
            ValueError: if the environment has no safe set and none was given.
        """
        safe_set, encoder = self.safe_set, self.encoder
        if safe_set is None or encoder is None:
            env = self.make_env()
            safe_set = safe_set or getattr(env.unwrapped, "safe_set", None)
            encoder = encoder or getattr(env.unwrapped, "encoder", None) or _scaled(env)
            env.close()
        if safe_set is None:
            raise ValueError(
                f"safe_set: the environment {self.env!r} has none. Give one with "
                "config.safety(safe_set=...): rows(observations) -> (G, h), as in envs/safe_set.py."
            )
        return safe_set, encoder

    def make_env(self) -> gym.Env[Any, Any]:
        """One environment as the runners make theirs."""
        if self.env is None:
            raise ValueError("environment: none was given. Call config.environment(...) first.")
        if not isinstance(self.env, str):
            env: gym.Env[Any, Any] = self.env(dict(self.env_config))
            return env
        registry = ray.tune.registry
        if registry._global_registry.contains(registry.ENV_CREATOR, self.env):
            creator = registry._global_registry.get(registry.ENV_CREATOR, self.env)
            created: gym.Env[Any, Any] = creator(dict(self.env_config))
            return created
        return gym.make(self.env, **self.env_config)

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        return RLModuleSpec(module_class=OMLTDDPGModule)

    def get_default_learner_class(self) -> type:
        return OMLTDDPGLearner

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        safe_set, encoder = self.probed()
        included: dict[str, Any] = super()._model_config_auto_includes
        return included | {
            "encoder": encoder,
            "low": safe_set.low,
            "high": safe_set.high,
            "actor_hidden": tuple(self.actor_hidden),
            "critic_hidden": tuple(self.critic_hidden),
            "activation": self.activation,
            "n_critics": self.n_critics,
            "seed": self.seed or 0,
        }

    def build_module_to_env_connector(self, env: Any = None, spaces: Any = None) -> Any:
        safe_set, _ = self.probed()
        pipeline = super().build_module_to_env_connector(env, spaces)
        # Before RLlib's last piece, which turns the batch into a list for the vector environment.
        pipeline.connectors.insert(
            -1, ShieldActions(safe_set=safe_set, mode=self.shield, exploration=deepcopy(self.exploration))
        )
        return pipeline


class OMLTDDPG(Algorithm):
    """DDPG whose actor regresses on the solver's maximisers of the critic (seed 000, Algorithm 1)."""

    config: OMLTDDPGConfig

    @classmethod
    def get_default_config(cls) -> OMLTDDPGConfig:
        return OMLTDDPGConfig()

    @classmethod
    def default_resource_request(cls, config: Any) -> Any:
        """RLlib's bundles, with the solver's appended, so that Tune reserves them with the trial."""
        request = super().default_resource_request(config)
        pool = (
            config
            if isinstance(config, AlgorithmConfig)
            else cls.get_default_config().update_from_dict(config)
        ).solver_pool
        if not pool.n_workers:
            return request
        from ray.tune import PlacementGroupFactory

        return PlacementGroupFactory([*request.bundles, *pool_bundles(pool)], strategy=request.strategy)

    def setup(self, config: Any) -> None:
        super().setup(config)
        self._safe_set, self._encoder = self.config.probed()
        self._low, self._width = self._safe_set.low, self._safe_set.high - self._safe_set.low
        seed = self.config.seed or 0
        self.replay = ReplayBuffer(self.config.buffer_capacity, seed=seed)
        self.episodes = EpisodeLog()
        self.pool = SolverPool(self.config.solver_pool)
        self._steps = 0
        self._latest: dict[str, int] = {}  # serial number of the last transition of each episode under way
        self._renewed = 0
        self._owed = 0.0  # learner updates that the sampled steps have earned and not yet had

    def training_step(self) -> None:
        """`steps_per_iteration` environment steps, and after each round the learner updates it has earned."""
        config = self.config
        target = self._steps + config.steps_per_iteration
        while self._steps < target:
            self._store(self._sample(min(config.rollout_fragment_length, target - self._steps)))
            if len(self.replay) < config.train_batch_size_per_learner:
                self._owed = 0.0
                continue
            while self._owed >= 1.0:
                self._owed -= 1.0
                self._update()
            self._copy_weights()
        for name, value in self.pool.drain().items():
            self.metrics.log_value(("solver", *name.split("/")), value, reduce="sum")

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
            G = np.broadcast_to(G, (steps + 1, *G.shape[-2:])) * self._width
            h = h - np.einsum("bmn,n->bm", G, self._low / self._width)
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

    def safe_policy(self, n_starts: int = 2) -> SafePolicy:
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
                "generators": self._players(_environment_generators),
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
        generators = dict(own["generators"])
        self._players(lambda runner: _continue_generators(runner, generators.get(runner.worker_index)))
        self._copy_weights()

    def _players(self, call: Callable[[Any], Any]) -> list[Any]:
        """Call a function on every runner that plays: the local one, or the remote ones if there are any."""
        alone = self.env_runner_group.num_remote_workers() == 0
        results: list[Any] = self.env_runner_group.foreach_env_runner(call, local_env_runner=alone)
        return results

    def save_to_path(self, path: Any = None, **kwargs: Any) -> str:
        """Save everything, the SAFE policy for deployment, and a manifest that detects damage."""
        folder: str = super().save_to_path(path, **kwargs)
        self.safe_policy().save(Path(folder))
        checkpoint.seal(Path(folder))
        return folder

    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """Restore a checkpoint written by `save_to_path`.

        Raises:
            CheckpointError: before anything changes, if the checkpoint is missing, cut off or damaged.
        """
        checkpoint.verify(str(path))
        super().restore_from_path(path, *args, **kwargs)

    def cleanup(self) -> None:
        self.pool.close()
        super().cleanup()


def _environment_generators(runner: Any) -> tuple[int, list[Any]]:
    """A runner's index, and the state of the generator of each of its environments."""
    states = [env.unwrapped.np_random.bit_generator.state for env in runner.env.unwrapped.envs]
    return runner.worker_index, states


def _continue_generators(runner: Any, states: list[Any] | None) -> None:
    """Let a runner's environments draw on from where the checkpoint left them, instead of from their seed."""
    if states is None:
        return
    for env, state in zip(runner.env.unwrapped.envs, states, strict=True):
        env.unwrapped.np_random.bit_generator.state = state
    runner._seed = None


def _scaled(env: gym.Env[Any, Any]) -> Scaled:
    """Observations divided by the bounds of their space, where it has any."""
    space = env.observation_space
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
        raise ValueError(f"observation_space: is {space}; give an encoder with config.safety(encoder=...).")
    bound = np.maximum(np.abs(space.low), np.abs(space.high)).astype(np.float64)
    scale = np.where(np.isfinite(bound) & (bound > 0), bound, 1.0)
    return Scaled(tuple(scale.tolist()), int(np.prod(env.action_space.shape or (1,))))

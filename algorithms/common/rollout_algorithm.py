"""What algorithms that learn from whole episodes share: configuration, sampling, records and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, LEARNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME

from algorithms.common.environments import make_env, probe
from algorithms.common.episodes import EpisodeLog
from algorithms.common.rollout_runner import RolloutEnvRunner
from algorithms.common.rollouts import Rollouts
from algorithms.common.runners import players
from algorithms.common.sealed import Sealed, accept_older_weights
from algorithms.common.shield import Mode
from envs.encoder import Encoder
from envs.registry import register_with_ray
from envs.safe_set import SafeSet


class RolloutConfig(AlgorithmConfig):
    """Common to the algorithms whose `RolloutEnvRunner` plays whole episodes; see `safety` for what is executed.

    ``num_envs_per_env_runner`` episodes are played side by side in each runner and iteration.
    """

    def __init__(self, algo_class: type) -> None:
        super().__init__(algo_class=algo_class)
        register_with_ray()
        self.safe_set: SafeSet | None = None
        self.encoder: Encoder | None = None
        self.shield: Mode = "repair"
        self.env_runner_cls = RolloutEnvRunner
        self.num_env_runners = 0
        self.num_envs_per_env_runner = 32
        self.sample_timeout_s = 3600.0  # whole episodes can take longer than RLlib's minute
        self.normalize_actions = False
        self.clip_actions = False

    def safety(
        self,
        *,
        safe_set: SafeSet | None = NotProvided,
        encoder: Encoder | None = NotProvided,
        shield: Mode = NotProvided,
    ) -> Any:
        """What is safe, and who sees to it.

        Args:
            safe_set: rows for each observation. Default: the environment's own ``safe_set``.
            encoder: features of each observation. Default: the environment's own ``encoder``, else the observation
                divided by the observation space's bounds.
            shield: ``"repair"`` executes the projection of what the policy proposes, ``"raw"`` the proposal itself.
        """
        for name, value in (("safe_set", safe_set), ("encoder", encoder), ("shield", shield)):
            if value is not NotProvided:
                setattr(self, name, value)
        return self

    def validate(self) -> None:
        """Check every field before anything is built; the error names field, value and remedy."""
        super().validate()
        if self.shield not in ("raw", "repair"):
            self._value_error(f"shield: is {self.shield!r}; use 'raw' or 'repair'.")
        if self.normalize_actions or self.clip_actions:
            self._value_error(
                "normalize_actions, clip_actions: must stay False; actions are in the environment's units."
            )
        if not issubclass(self.env_runner_cls, RolloutEnvRunner):
            self._value_error(f"env_runner_cls: is {self.env_runner_cls}; derive it from RolloutEnvRunner.")
        if not 0 <= self.gamma <= 1:
            self._value_error(f"gamma: is {self.gamma}; it must lie in [0, 1].")
        if not (self.seed or 0) >= 0:
            self._value_error(f"seed: is {self.seed}; it must not be negative.")

    def positive(self, *names: str) -> None:
        """Raise unless all these fields are positive."""
        for name in names:
            if not (getattr(self, name) or 0) > 0:
                self._value_error(f"{name}: is {getattr(self, name)}; it must be positive.")

    def rates(self, *names: str) -> None:
        """Raise unless all these fields lie in (0, 1]."""
        for name in names:
            if not 0 < getattr(self, name) <= 1:
                self._value_error(f"{name}: is {getattr(self, name)}; it must lie in (0, 1].")

    def make_env(self) -> gym.Env[Any, Any]:
        """One environment as the runners make theirs."""
        return make_env(self)

    def probed(self) -> tuple[SafeSet | None, Encoder]:
        """The safe set and the encoder: as given, else the environment's own."""
        return probe(self, self.safe_set, self.encoder)


class RolloutAlgorithm(Sealed):
    """Rounds of whole episodes. An algorithm adds `training_step` and `deployable`."""

    config: RolloutConfig

    def setup(self, config: Any) -> None:
        # Before the runners are made, which have no environment of their own to ask.
        super().setup(config)
        self.episodes = EpisodeLog()
        self._round = 0

    def rollouts(self) -> Rollouts | None:
        """One episode in every environment of every runner; None if all remote runners are lost.

        Ray restarts lost runners where there is room. Their episodes of this round are missing, not repeated.
        """
        number = self._round
        self._round += 1
        parts = players(self.env_runner_group, lambda runner: (runner.play(number), runner.get_metrics()))
        if not parts:
            self.restore_env_runners(self.env_runner_group)
            return None
        self.metrics.aggregate([metrics for _, metrics in parts], key=ENV_RUNNER_RESULTS)
        episodes = Rollouts.side_by_side([played for played, _ in parts])
        self.episodes.finished.append(episodes.record())
        return episodes

    def learn(self, columns: dict[str, np.ndarray[Any, Any]]) -> None:
        """One update of the learners with these columns, one entry for each sample."""
        name = NUM_ENV_STEPS_SAMPLED_LIFETIME
        size = len(next(iter(columns.values())))
        results = self.learner_group.update(
            batch=MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(columns)}, size),
            timesteps={name: int(self.metrics.peek((ENV_RUNNER_RESULTS, name), default=0))},
        )
        self.metrics.aggregate(results, key=LEARNER_RESULTS)

    def of_learner(self, call: Callable[[Any], Any]) -> Any:
        """What `call` returns of the learner, wherever it runs."""
        if self.learner_group.is_local:
            return call(self.learner_group._learner)
        return next(iter(self.learner_group.foreach_learner(call))).get()

    def copy_weights(self) -> None:
        """Give the learner's weights to the runners."""
        self.env_runner_group.sync_weights(
            from_worker_or_learner_group=self.learner_group, inference_only=True
        )

    # Checkpoints: everything that the next step depends on.

    def get_state(
        self, components: Any = None, *, not_components: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        state: dict[str, Any] = super().get_state(components, not_components=not_components, **kwargs)
        if components is None:
            state["rollouts"] = {"round": self._round, "episodes": self.episodes.get_state()}
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        # RLlib's runners pass over weights that are older than their own; a checkpoint's may be.
        self.env_runner_group.foreach_env_runner(accept_older_weights)
        self.copy_weights()
        if "rollouts" in state:
            self._round = state["rollouts"]["round"]
            self.episodes.set_state(state["rollouts"]["episodes"])

"""Every knob of OMLT-DDPG, and how its safe set and encoder are found."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any, Literal

import gymnasium as gym
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from algorithms.common.connectors import Exploration, ShieldActions
from algorithms.common.environments import make_env, probe, required
from algorithms.common.shield import Mode
from algorithms.omlt_ddpg.learner import OMLTDDPGLearner
from algorithms.omlt_ddpg.rl_module import OMLTDDPGModule
from envs.encoder import Encoder
from envs.registry import register_with_ray
from envs.safe_set import SafeSet
from solver_pool.options import SolveOptions
from solver_pool.pool import PoolConfig
from solver_pool.problem import ACTIVATIONS

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
        from algorithms.omlt_ddpg.omlt_ddpg import OMLTDDPG

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
        certify: bool = NotProvided,
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
            activation: of the critic; smooth ones take the fast engine, ReLU is always solved to a proved gap.
            critic_hidden, actor_hidden: widths of the hidden layers.
            reward_key: entry of ``info`` to learn from instead of the reward, if the environment has it (the
                inventory chain's reward is already discounted); None learns from the reward.
            reward_scale: the learned reward is the reward divided by this.
            solve_options, solver_pool: how and where the solver solves.
            certify: the actor learns from, and SAFE deploys, maximisers proved global within
                ``solve_options.gap``; what is not proved is masked and counted. Short for ``certify`` of
                `solve_options`.
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
        given = {k: v for k, v in locals().items() if k not in ("self", "kwargs", "certify", "__class__")}
        for name, value in given.items():
            if value is not NotProvided:
                setattr(self, name, value)
        if certify is not NotProvided:
            self.solve_options = replace(self.solve_options, certify=certify)
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
        safe_set, encoder = probe(self, self.safe_set, self.encoder)
        return required(self, safe_set), encoder

    def make_env(self) -> gym.Env[Any, Any]:
        """One environment as the runners make theirs."""
        return make_env(self)

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

"""Every knob of the projected policy gradients."""

from __future__ import annotations

from typing import Any, get_args

from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from algorithms.common.environments import required
from algorithms.common.rollout_algorithm import RolloutConfig
from algorithms.projected_pg.estimators import Score
from algorithms.projected_pg.learner import ProjectedDPGLearner, ProjectedPGLearner
from algorithms.projected_pg.rl_module import ProjectedDPGModule, ProjectedPGModule
from solver_pool.problem import ACTIVATIONS


class _ProjectedConfig(RolloutConfig):
    """What both have in common: an actor that proposes, and a safe set to project on."""

    def __init__(self, algo_class: type) -> None:
        super().__init__(algo_class)
        self.actor_hidden: tuple[int, ...] = (64, 64)
        self.activation = "tanh"
        self.initial_action: tuple[float, ...] | None = None
        self.reward_scale = 1.0

    def validate(self) -> None:
        super().validate()
        self.positive("reward_scale")
        if self.activation not in ACTIVATIONS:
            self._value_error(
                f"activation: {self.activation!r} is unknown; use one of {', '.join(ACTIVATIONS)}."
            )

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        safe_set, encoder = self.probed()
        known = required(self, safe_set)
        included: dict[str, Any] = super()._model_config_auto_includes
        return included | {
            "encoder": encoder, "low": known.low, "high": known.high, "seed": self.seed or 0,
            "actor_hidden": tuple(self.actor_hidden), "activation": self.activation,
            "initial_action": self.initial_action,
        }  # fmt: skip

    def _set(self, given: dict[str, Any]) -> None:
        for name, value in given.items():
            if name not in ("self", "kwargs", "__class__") and value is not NotProvided:
                setattr(self, name, value)


class ProjectedDPGConfig(_ProjectedConfig):
    """Every knob of projected deterministic policy gradients.

    Example::

        config = ProjectedDPGConfig().environment("solverl/LinearTube-v0").training(gamma=0.95)
        algorithm = config.debugging(seed=1).build_algo()
    """

    def __init__(self, algo_class: type | None = None) -> None:
        from algorithms.projected_pg.projected_pg import ProjectedDPG

        super().__init__(algo_class or ProjectedDPG)
        self.correction = True
        self.excess_coeff = 0.0
        self.critic_hidden: tuple[int, ...] = (64, 64)
        self.n_critics = 2
        self.critic_degree = 0
        self.critic_lr: float | list[list[float]] = 1e-3
        self.actor_lr: float | list[list[float]] = 3e-4
        self.tau = 0.02
        self.deployed_rate = 0.02
        self.noise = 0.2
        self.buffer_capacity = 100_000
        self.updates = 100
        self.actor_delay = 2
        self.train_batch_size_per_learner = 256
        self.lr = 0.0  # not used: see critic_lr and actor_lr

    def training(  # type: ignore[override]
        self,
        *,
        correction: bool = NotProvided,
        excess_coeff: float = NotProvided,
        initial_action: tuple[float, ...] | None = NotProvided,
        actor_hidden: tuple[int, ...] = NotProvided,
        critic_hidden: tuple[int, ...] = NotProvided,
        activation: str = NotProvided,
        n_critics: int = NotProvided,
        critic_degree: int = NotProvided,
        critic_lr: float | list[list[float]] = NotProvided,
        actor_lr: float | list[list[float]] = NotProvided,
        tau: float = NotProvided,
        deployed_rate: float = NotProvided,
        noise: float = NotProvided,
        buffer_capacity: int = NotProvided,
        updates: int = NotProvided,
        actor_delay: int = NotProvided,
        reward_scale: float = NotProvided,
        **kwargs: Any,
    ) -> ProjectedDPGConfig:
        """Set the algorithm's parameters; ``gamma`` and ``train_batch_size_per_learner`` are RLlib's own.

        Args:
            correction: multiply the gradient by M, the derivative of the projection (seed 002, Corollary 1). False is
                for comparison: the gradient passes as if nothing were projected.
            excess_coeff: of a penalty on ``|pi - Proj(pi)|^2`` [half widths of the box], which changes no executed
                action of the policy itself. At a vertex M is 0: a policy far outside would not come back without it.
            initial_action: what the actor proposes in the beginning, about [action units]; None is the box's middle.
            actor_hidden, critic_hidden: widths of the hidden layers; ``()`` is a linear policy.
            activation: of the hidden layers.
            n_critics: ensemble members; the actor climbs their mean.
            critic_degree: of a polynomial critic of features and actions, fitted by least squares to the whole batch
                before the actor's steps (`PolynomialCritic`); for few inputs, where it is exacter than networks. 0
                takes networks.
            critic_lr, actor_lr: of Adam; a number or RLlib's ``[[env step, rate], ...]``.
            tau: rate of the soft target updates. deployed_rate: of the averaging of the deployed actor.
            noise: standard deviation of the exploration added before the projection [half widths of the action box].
            buffer_capacity: transitions kept. The gradient is that of the states in the buffer: a small one keeps close
                to the policy's own.
            updates: critic steps of an iteration, one actor step for every `actor_delay` of them.
            reward_scale: the learned reward is the reward divided by this.
        """
        super().training(**kwargs)
        self._set(locals())
        return self

    def validate(self) -> None:
        """Check every field before anything is built; the error names field, value and remedy."""
        super().validate()
        self.positive(
            "n_critics", "buffer_capacity", "updates", "actor_delay", "train_batch_size_per_learner"
        )
        self.rates("tau", "deployed_rate")
        if self.critic_degree < 0:
            self._value_error(f"critic_degree: is {self.critic_degree}; 0 takes networks.")
        for name in ("noise", "excess_coeff"):
            if not getattr(self, name) >= 0:
                self._value_error(f"{name}: is {getattr(self, name)}; it must not be negative.")
        if self.num_learners > 1:
            self._value_error(f"num_learners: is {self.num_learners}; the networks are small: use 0 or 1.")

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        return RLModuleSpec(module_class=ProjectedDPGModule)

    def get_default_learner_class(self) -> type:
        return ProjectedDPGLearner

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        return super()._model_config_auto_includes | {
            "critic_hidden": tuple(self.critic_hidden), "n_critics": self.n_critics, "noise": self.noise,
            "critic_degree": self.critic_degree,
        }  # fmt: skip


class ProjectedPGConfig(_ProjectedConfig):
    """Every knob of projected stochastic policy gradients: an on-policy actor-critic with PPO's steps."""

    def __init__(self, algo_class: type | None = None) -> None:
        from algorithms.projected_pg.projected_pg import ProjectedPG

        super().__init__(algo_class or ProjectedPG)
        self.score: Score = "proposed"
        self.value_hidden: tuple[int, ...] = (64, 64)
        self.log_std = -1.0
        self.learn_std = True
        self.lr = 3e-4
        self.value_lr = 1e-3
        self.lambda_ = 0.95
        self.clip_param = 0.2
        self.num_epochs = 4
        self.minibatch_size = 512
        self.entropy_coeff = 0.0

    def training(  # type: ignore[override]
        self,
        *,
        score: Score = NotProvided,
        initial_action: tuple[float, ...] | None = NotProvided,
        actor_hidden: tuple[int, ...] = NotProvided,
        value_hidden: tuple[int, ...] = NotProvided,
        activation: str = NotProvided,
        log_std: float = NotProvided,
        learn_std: bool = NotProvided,
        value_lr: float = NotProvided,
        lambda_: float = NotProvided,
        clip_param: float = NotProvided,
        entropy_coeff: float = NotProvided,
        reward_scale: float = NotProvided,
        **kwargs: Any,
    ) -> ProjectedPGConfig:
        """Set the algorithm's parameters; ``gamma``, ``lr``, ``num_epochs`` and ``minibatch_size`` are RLlib's own.

        Args:
            score: where the score is taken. ``"proposed"`` is unbiased; ``"executed"`` and ``"interior"`` are for
                comparison (`estimators.scored`).
            initial_action: what the actor proposes in the beginning, about [action units]; None is the box's middle.
            actor_hidden, value_hidden: widths of the hidden layers; ``()`` is a linear policy. activation: of them.
            log_std: of the proposals [half widths of the action box], in the beginning.
            learn_std: whether it is learned.
            value_lr: of the value function's Adam.
            lambda_: of the generalised advantage estimate.
            clip_param, entropy_coeff: of PPO's loss.
            reward_scale: the learned reward is the reward divided by this.
        """
        super().training(**kwargs)
        self._set(locals())
        return self

    def validate(self) -> None:
        """Check every field before anything is built; the error names field, value and remedy."""
        super().validate()
        self.positive("num_epochs", "minibatch_size", "clip_param", "value_lr")
        if self.score not in get_args(Score):
            self._value_error(f"score: is {self.score!r}; use one of {', '.join(get_args(Score))}.")
        if not 0 <= self.lambda_ <= 1:
            self._value_error(f"lambda_: is {self.lambda_}; it must lie in [0, 1].")
        if not self.entropy_coeff >= 0:
            self._value_error(f"entropy_coeff: is {self.entropy_coeff}; it must not be negative.")
        if self.num_learners > 1:
            self._value_error(f"num_learners: is {self.num_learners}; the networks are small: use 0 or 1.")

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        return RLModuleSpec(module_class=ProjectedPGModule)

    def get_default_learner_class(self) -> type:
        return ProjectedPGLearner

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        return super()._model_config_auto_includes | {
            "value_hidden": tuple(self.value_hidden), "log_std": self.log_std, "learn_std": self.learn_std,
        }  # fmt: skip

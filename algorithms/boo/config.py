"""Every knob of BOO."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from torch import nn

from algorithms.boo.env_runner import CutEnvRunner
from algorithms.boo.learner import BOOLearner
from algorithms.boo.policy import CutPolicy
from algorithms.boo.rl_module import BOOModule
from algorithms.common.environments import make_env
from envs.registry import register_with_ray
from solver_pool.pool import PoolConfig


class BOOConfig(AlgorithmConfig):
    """Every knob of BOO. Defaults are the specification's (boo, section 2); the paper gives none.

    K, the reward's form and the normalisation of w belong to the environment (`env_config`).

    Example::

        config = (
            BOOConfig()
            .environment("solverl/Packing-v0", env_config={"items": 50, "cuts": 2})
            .training(group_size=16)
            .debugging(seed=1)
        )
        algorithm = config.build_algo()
    """

    def __init__(self, algo_class: type | None = None) -> None:
        from algorithms.boo.boo import BOO

        super().__init__(algo_class=algo_class or BOO)
        register_with_ray()
        # The policy.
        self.policy_class: type[nn.Module] = CutPolicy
        self.width = 64
        self.rounds = 4
        self.log_std = -0.5
        self.supersede = 2.0
        self.prior = 0.0
        self.hold_noise = False
        # PPO.
        self.gamma = 1.0
        self.lambda_ = 0.95
        self.lr = 3e-4
        self.num_epochs = 4
        self.minibatch_size = 128
        self.clip_param = 0.2
        self.vf_loss_coeff = 0.5
        self.entropy_coeff = 1e-3
        self.grad_clip = 1.0
        self.target_kl: float | None = None
        self.deployed_rate = 1.0
        self.group_size = 1
        # Solving and sampling.
        self.solver_pool = PoolConfig()
        self.num_env_runners = 0
        self.sample_timeout_s = 3600.0  # RLlib's minute is less than many rounds of episodes take
        self.num_envs_per_env_runner = 512
        self.env_runner_cls = CutEnvRunner
        self.episodes_to_numpy = False
        # RLlib's: cuts are no arrays.
        self.normalize_actions = False
        self.clip_actions = False

    def training(  # type: ignore[override]
        self,
        *,
        width: int = NotProvided,
        rounds: int = NotProvided,
        log_std: float = NotProvided,
        supersede: float = NotProvided,
        prior: float = NotProvided,
        hold_noise: bool = NotProvided,
        lambda_: float = NotProvided,
        clip_param: float = NotProvided,
        vf_loss_coeff: float = NotProvided,
        entropy_coeff: float = NotProvided,
        target_kl: float | None = NotProvided,
        deployed_rate: float = NotProvided,
        group_size: int = NotProvided,
        solver_pool: PoolConfig = NotProvided,
        **kwargs: Any,
    ) -> BOOConfig:
        """Set the algorithm's parameters; ``gamma``, ``lr``, ``num_epochs``, ``minibatch_size`` and ``grad_clip`` are
        RLlib's own, and ``num_envs_per_env_runner`` (see `env_runners`) is how many episodes a runner plays at once.

        Args:
            width, rounds: of the graph network's features, and of messages.
            log_std: of the weights of a cut, in the beginning.
            supersede: how far below the last one a cut begins, for each variable that it weighs; see `CutPolicy`.
            prior: mean of the weights of a cut in the beginning.
            hold_noise: an episode explores with the same noise in every step, as if each drew anew: what it tries adds
                up instead of cancelling out (Raffin, Kober and Stulp, Smooth exploration for robotic reinforcement
                learning, hold it for several steps likewise). A step is then credited with what the same noise earns in
                later ones too; only the last step's gradient stays unbiased.
            lambda_: of the generalised advantage estimate.
            clip_param, vf_loss_coeff, entropy_coeff: of PPO's loss.
            target_kl: divergence from the sampling policy at which the epochs of a batch end; None runs them all.
            deployed_rate: rate of the averaging, an iteration, of the deployed policy; 1 deploys the latest.
            group_size: episodes that play each instance (with the same luck), whose advantages are centred by the
                others of the group; 1 leaves the baseline to the value head. It divides the number of environments.
            solver_pool: where masters are solved; of each environment runner.
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
        for name in ("width", "rounds", "num_epochs", "minibatch_size", "clip_param", "group_size"):
            if not (getattr(self, name) or 0) > 0:
                self._value_error(f"{name}: is {getattr(self, name)}; it must be positive.")
        if self.grad_clip is not None and not self.grad_clip > 0:
            self._value_error(
                f"grad_clip: is {self.grad_clip}; it must be positive, or None for no clipping."
            )
        if self.target_kl is not None and not self.target_kl > 0:
            self._value_error(f"target_kl: is {self.target_kl}; it must be positive, or None for no limit.")
        rates = [self.lr] if isinstance(self.lr, int | float) else [rate for _, rate in self.lr]
        if not all(0 <= rate < math.inf for rate in rates):
            self._value_error(f"lr: is {self.lr}; rates must not be negative.")
        for name in ("log_std", "prior"):
            if not math.isfinite(getattr(self, name)):
                self._value_error(f"{name}: is {getattr(self, name)}; it must be finite.")
        if not 0 < self.deployed_rate <= 1:
            self._value_error(f"deployed_rate: is {self.deployed_rate}; it must lie in (0, 1].")
        for name in ("gamma", "lambda_"):
            if not 0 <= getattr(self, name) <= 1:
                self._value_error(f"{name}: is {getattr(self, name)}; it must lie in [0, 1].")
        for name in ("vf_loss_coeff", "entropy_coeff", "supersede"):
            if not getattr(self, name) >= 0:
                self._value_error(f"{name}: is {getattr(self, name)}; it must not be negative.")
        if self.num_envs_per_env_runner % self.group_size:
            self._value_error(
                f"group_size: is {self.group_size}, which does not divide num_envs_per_env_runner "
                f"({self.num_envs_per_env_runner})."
            )
        if not issubclass(self.env_runner_cls, CutEnvRunner):
            self._value_error(f"env_runner_cls: is {self.env_runner_cls}; derive it from CutEnvRunner.")

    def make_env(self) -> gym.Env[Any, Any]:
        """One environment as the runners make theirs."""
        return make_env(self)

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        return RLModuleSpec(module_class=BOOModule)

    def get_default_learner_class(self) -> type:
        return BOOLearner

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        included: dict[str, Any] = super()._model_config_auto_includes
        names = ("policy_class", "width", "rounds", "log_std", "supersede", "prior")
        own = {name: getattr(self, name) for name in names}
        return included | own | {"seed": self.seed or 0}

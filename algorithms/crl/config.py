"""Every knob of Online-CRL and Optimistic-GMBL."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import gymnasium as gym
from numpy.typing import NDArray
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from algorithms.common.environments import make_env
from algorithms.crl import sample_sizes
from algorithms.crl.agent import AgentSettings, Exploration, OptimisticAgent
from algorithms.crl.confidence import RadiusKind
from algorithms.crl.env_runner import TabularEnvRunner
from algorithms.crl.learner import TabularLearner
from algorithms.crl.planner import ENGINES, Engine
from algorithms.crl.rl_module import TabularModule
from envs.errors import InvalidSetting
from envs.registry import register_with_ray
from envs.tabular import TabularEnv, Task
from solver_pool.pool import PoolConfig, SolverPool

Tables = dict[str, tuple[tuple[int, ...], str]]
"""Name, shape and type of everything that is learned."""
Self = TypeVar("Self", bound="TabularConfig")


class TabularConfig(AlgorithmConfig):
    """What algorithms on tabular environments have in common: whole episodes, tables instead of networks."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class)
        register_with_ray()
        self.episodes_per_iteration = 10
        self.solver_pool = PoolConfig()
        self.num_env_runners = 0
        self.sample_timeout_s = 3600.0
        self.env_runner_cls = TabularEnvRunner
        self.episodes_to_numpy = False
        self.normalize_actions = False
        self.clip_actions = False
        self.lr = 0.0  # not used: there is no gradient

    def training(self: Self, **kwargs: Any) -> Self:
        """Set the algorithm's parameters, each an attribute of this class; others are RLlib's own.

        Args:
            episodes_per_iteration: of one ``train()``.
            solver_pool: where linear programs are solved that go to the pool.
        """
        own = {name: kwargs.pop(name) for name in self.parameters() if name in kwargs}
        super().training(**kwargs)
        for name, value in own.items():
            if value is not NotProvided:
                setattr(self, name, value)
        return self

    @classmethod
    def parameters(cls) -> tuple[str, ...]:
        """Names of what `training` sets beyond RLlib's."""
        return ("episodes_per_iteration", "solver_pool")

    def validate(self) -> None:
        """Check every field before anything is built; the error names field, value and remedy."""
        super().validate()
        if self.num_learners:
            self._value_error(
                f"num_learners: is {self.num_learners}; tables are kept by the algorithm, give 0."
            )
        if self.episodes_per_iteration < 1:
            self._value_error(
                f"episodes_per_iteration: is {self.episodes_per_iteration}; it must be at least 1."
            )
        if not issubclass(self.env_runner_cls, TabularEnvRunner):
            self._value_error(f"env_runner_cls: is {self.env_runner_cls}; derive it from TabularEnvRunner.")

    def make_env(self) -> TabularEnv:
        """One environment as the runners make theirs.

        Raises:
            InvalidSetting: if it is not tabular.
        """
        env: gym.Env[Any, Any] = make_env(self).unwrapped
        if not isinstance(env, TabularEnv):
            raise InvalidSetting(
                "environment", f"is a {type(env).__name__}", "Wrap it: envs.tabular.TabularGymnasium(...)."
            )
        return env

    def tables(self, task: Task) -> Tables:
        """What is learned about a task."""
        raise NotImplementedError

    def make_agent(self, task: Task, tables: Mapping[str, NDArray[Any]], pool: SolverPool) -> Any:
        """Who learns; it writes into `tables`."""
        raise NotImplementedError

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        return RLModuleSpec(module_class=TabularModule)

    def get_default_learner_class(self) -> type:
        return TabularLearner

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        included: dict[str, Any] = super()._model_config_auto_includes
        return included | {"tables": self.tables(self.make_env().task), "seed": self.seed or 0}


class OptimisticConfig(TabularConfig):
    """What the two algorithms of the paper have in common: the ball, and planning over it.

    Attributes that `training` sets:
        radius: of the ball: ``"mp"`` (valid), ``"paper"``, ``"author"`` (the published curves; about one standard
            deviation) or ``"none"`` (certainty equivalence, a baseline).
        delta: probability with which the guarantee may fail.
        epsilon: accuracy to guarantee; it sets the theorem's sample size. None: play as long as asked for.
        engine: ``"fast"``, ``"kept"`` or ``"pool"``; see `Planner`.
    """

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class)
        self.radius: RadiusKind = "mp"
        self.delta = 0.05
        self.epsilon: float | None = None
        self.engine: Engine = "fast"

    @classmethod
    def parameters(cls) -> tuple[str, ...]:
        return (*super().parameters(), "radius", "delta", "epsilon", "engine")

    def validate(self) -> None:
        super().validate()
        if not 0 < self.delta < 1:
            self._value_error(f"delta: is {self.delta}; it must lie in (0, 1).")
        if self.epsilon is not None and not 0 < self.epsilon < math.inf:
            self._value_error(f"epsilon: is {self.epsilon}; it must be positive, or None.")
        if self.engine not in ENGINES:
            self._value_error(f"engine: is {self.engine!r}; choose one of {', '.join(ENGINES)}.")
        try:
            AgentSettings(self.radius)
        except InvalidSetting as error:
            self._value_error(str(error))

    def tables(self, task: Task) -> Tables:
        states, actions = task.shape
        return {"counts": ((states, actions, states), "int64")}

    def settings(self, task: Task) -> AgentSettings:
        """How the agent of a task plans."""
        return AgentSettings(self.radius, sample_sizes.failure_for_generative(task, self.delta), self.engine)

    def make_agent(self, task: Task, tables: Mapping[str, NDArray[Any]], pool: SolverPool) -> OptimisticAgent:
        return OptimisticAgent(task, self.settings(task), tables["counts"], pool)


class OnlineCRLConfig(OptimisticConfig):
    """Every knob of Online-CRL (Algorithm 2).

    Example::

        config = (
            OnlineCRLConfig()
            .environment("solverl/GridWorld-v0", env_config={"scenario": "1a"})
            .training(radius="author", episodes_per_iteration=10)
            .debugging(seed=1)
        )
        algorithm = config.build_algo()

    Attributes that `training` sets, besides those of `OptimisticConfig`:
        exploration: ``"plan"``, or ``"uniform"`` as a baseline that plays uniformly and deploys its plan.

    With `epsilon` the ball is Theorem 2's and visits beyond ``S m H`` of a pair are not counted.
    """

    def __init__(self, algo_class: type | None = None) -> None:
        from algorithms.crl.online_crl import OnlineCRL

        super().__init__(algo_class or OnlineCRL)
        self.exploration: Exploration = "plan"

    @classmethod
    def parameters(cls) -> tuple[str, ...]:
        return (*super().parameters(), "exploration")

    def validate(self) -> None:
        super().validate()
        try:
            AgentSettings(exploration=self.exploration)
        except InvalidSetting as error:
            self._value_error(str(error))

    def settings(self, task: Task) -> AgentSettings:
        if self.epsilon is None:
            failure, cap = sample_sizes.failure_for_generative(task, self.delta), None
        else:
            failure = sample_sizes.failure_for_online(task, self.epsilon, self.delta)
            cap = sample_sizes.online_cap(task, self.epsilon, self.delta)
        return AgentSettings(self.radius, failure, self.engine, self.exploration, cap)


class OptimisticGMBLConfig(OptimisticConfig):
    """Every knob of Optimistic-GMBL (Algorithm 1), whose samples come from a generative model.

    Attributes that `training` sets, besides those of `OptimisticConfig`:
        samples_per_pair: drawn in each iteration, after which a plan is made. With `epsilon` the first iteration draws
            Theorem 1's number instead, and its one plan is the guaranteed one.
    """

    def __init__(self, algo_class: type | None = None) -> None:
        from algorithms.crl.optimistic_gmbl import OptimisticGMBL

        super().__init__(algo_class or OptimisticGMBL)
        self.samples_per_pair = 5

    @classmethod
    def parameters(cls) -> tuple[str, ...]:
        return (*super().parameters(), "samples_per_pair")

    def validate(self) -> None:
        super().validate()
        if self.samples_per_pair < 1:
            self._value_error(f"samples_per_pair: is {self.samples_per_pair}; it must be at least 1.")

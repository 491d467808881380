"""Many cutting-plane environments in step: every round of masters is solved together, on the solver pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.cutting_planes.cuts import Cut
from envs.cutting_planes.env import Result, Stepping
from envs.cutting_planes.feasibility import FeasibilityCount
from envs.cutting_planes.graph import GraphObservation, as_objects
from envs.cutting_planes.master import Master, MasterSolution
from envs.errors import InvalidSetting
from solver_pool.pool import SolverPool


class SteppingEnv(Protocol):
    """What an environment needs for its masters to be solved elsewhere; `CuttingPlaneEnv` and `JobShopEnv` have it."""

    observation_space: Any
    action_space: Any
    np_random: np.random.Generator
    feasibility: FeasibilityCount

    @property
    def again(self) -> dict[str, Any]: ...

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[GraphObservation, dict[str, Any]]: ...

    def stepping(self, action: Cut) -> Stepping: ...


class CutVectorEnv(gym.vector.VectorEnv[Any, Any, Any]):
    """N environments whose masters are solved together, in groups that play the same instance.

    Autoreset is disabled: `reset` begins an episode in all environments, and one whose episode is over waits for the
    others (its action is ignored; it repeats its last observation with reward 0 and ``terminated``).

    Args:
        envs: of one kind, with the same master settings.
        pool: solves the masters.
        group: environments that play each instance, with the same luck; 1 gives every environment its own.

    Attributes:
        solutions: of the last step, in the order in which they were asked for.

    Raises:
        InvalidSetting: if `group` does not divide N, or an environment cannot hand its masters over.
    """

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.DISABLED}

    def __init__(self, envs: Sequence[Any], pool: SolverPool, group: int = 1) -> None:
        self.pool = pool  # first: whoever is refused below is closed all the same
        self.envs: list[SteppingEnv] = [getattr(env, "unwrapped", env) for env in envs]
        for env in self.envs:
            if not hasattr(env, "stepping"):
                raise InvalidSetting(
                    "environment",
                    f"{type(env).__name__} has no method `stepping`",
                    "Derive it from CuttingPlaneEnv, or write `stepping` and `again` as JobShopEnv does.",
                )
        if group < 1 or len(envs) % group:
            raise InvalidSetting(
                "group", f"is {group} for {len(envs)} environments", "Give a divisor of their number."
            )
        self.group, self.num_envs = group, len(envs)
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.solutions: list[MasterSolution] = []
        self._last: list[GraphObservation] = []
        self._over = np.ones(self.num_envs, dtype=np.bool_)

    @property
    def leaders(self) -> list[SteppingEnv]:
        """The first environment of each group, whose generator draws the group's instances."""
        return self.envs[:: self.group]

    @property
    def infeasible(self) -> int:
        """Infeasible plans in all environments since they were made."""
        return sum(env.feasibility.infeasible for env in self.envs)

    @property
    def checked(self) -> int:
        """Plans that were checked in all environments since they were made."""
        return sum(env.feasibility.checked for env in self.envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.object_], dict[str, Any]]:
        """Begin an episode in every environment; `seed` fixes the instances of every group, each another."""
        self._last = []
        infos: dict[str, Any] = {}
        for i, env in enumerate(self.envs):
            if i % self.group == 0:
                # Sums of seed and number would repeat in the runners and runs with the seeds beside this one.
                words = [] if seed is None else [seed, i // self.group]
                own = int(np.random.SeedSequence(words).generate_state(1)[0]) if words else None
                observation, info = env.reset(seed=own, options=options)
                again = env.again
            else:
                observation, info = env.reset(options=again)
            self._last.append(observation)
            infos = self._add_info(infos, info, i)
        self._over[:] = False
        return as_objects(self._last), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Add a cut in every environment whose episode is not over, and solve until all of them have their result.

        Args:
            actions: ``(N,)`` of `Cut`; those of environments that wait may be None.

        Raises:
            InvalidSetting: for a cut that is not finite or has the wrong size. Nothing was solved; reset then.
            ResetNeeded: before the first `reset`.
        """
        if not self._last:
            raise ResetNeeded("No episode has begun. Call reset() first.")
        active = np.flatnonzero(~self._over).tolist()
        results: dict[int, Result] = {}
        self.solutions = []
        pending: list[tuple[int, Stepping, Master]] = []
        for i in active:
            step = self.envs[i].stepping(actions[i])
            pending.append((i, step, next(step)))  # a step begins with a master
        while pending:
            solutions = self._solved([master for _, _, master in pending])
            self.solutions += solutions
            waiting, pending = pending, []
            for (i, step, _), solution in zip(waiting, solutions, strict=True):
                try:
                    pending.append((i, step, step.send(solution)))
                except StopIteration as end:
                    results[i] = end.value
        rewards = np.zeros(self.num_envs)
        infos: dict[str, Any] = {}
        truncated = np.zeros(self.num_envs, dtype=np.bool_)
        for i in active:
            self._last[i], rewards[i], self._over[i], truncated[i], info = results[i]
            infos = self._add_info(infos, info, i)
        return as_objects(self._last), rewards, self._over.copy(), truncated, infos

    def _solved(self, masters: Sequence[Master]) -> list[MasterSolution]:
        """The solutions of masters, of which those that need a solver go to the pool together."""
        found = [master.settled() for master in masters]
        open_ = [master for master, solution in zip(masters, found, strict=True) if solution is None]
        answers = iter(
            self.pool.solve([m.with_cuts() for m in open_], open_[0].settings.options) if open_ else ()
        )
        return [
            master.accept(next(answers)) if solution is None else solution
            for master, solution in zip(masters, found, strict=True)
        ]

    def close_extras(self, **kwargs: Any) -> None:
        self.pool.close()

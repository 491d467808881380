"""Many constrained linear systems that are stepped together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from envs.errors import InvalidSetting
from envs.linear_tube.disturbance import Array
from envs.linear_tube.env import Kind, LinearTube
from envs.linear_tube.safe_set import TubeSafeSet
from envs.linear_tube.task import SetPoint


class LinearTubeVector(gym.vector.VectorEnv[Array, Array, NDArray[Any]]):
    """`num_envs` independent `LinearTube` environments, advanced by one call.

    Equal, number for number, to ``num_envs`` single environments with the same seeds: each has its own generator, and
    an integer seed gives environment `i` the seed ``seed + i``. All episodes have the same length; the step after the
    last ignores its actions and begins new ones (Gymnasium's next-step autoreset).
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(
        self, num_envs: int = 1, task: SetPoint | None = None, *, disturbance: Kind = "random"
    ) -> None:
        if num_envs < 1:
            raise InvalidSetting("num_envs", f"is {num_envs}", "Ask for at least one environment.")
        single = LinearTube(task, disturbance=disturbance)
        self.num_envs, self.task, self.disturbance = num_envs, single.task, disturbance
        self.single_observation_space, self.single_action_space = (
            single.observation_space,
            single.action_space,
        )
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._generators: list[np.random.Generator] | None = None
        self._states = np.zeros((num_envs, self.task.safe_set.tube.system.n))
        self._played = 0

    @property
    def safe_set(self) -> TubeSafeSet:
        """The safe actions of each observation."""
        return self.task.safe_set

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin an episode in every environment.

        Args:
            seed: None, one integer (environment `i` has ``seed + i``), or one for each.
        """
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int | np.integer) else seed
        if seeds is not None and len(seeds) != self.num_envs:
            raise InvalidSetting(
                "seed", f"has {len(seeds)} entries", f"Give one for each of {self.num_envs} environments."
            )
        if self._generators is None:
            self._generators = [seeding.np_random(s)[0] for s in seeds or [None] * self.num_envs]
        elif seeds is not None:
            self._generators = [
                old if s is None else seeding.np_random(s)[0]
                for old, s in zip(self._generators, seeds, strict=True)
            ]
        self._states = np.concatenate([self.safe_set.sample(own, 1) for own in self._generators])
        self._played = 0
        system = self.safe_set.tube.system
        costs = np.zeros((self.num_envs, len(system.f) + len(system.g)))
        return self._states.copy(), self._infos(costs, np.zeros_like(self._states))

    def step(
        self, actions: ArrayLike
    ) -> tuple[Array, Array, NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Play one step in every environment.

        Raises:
            InvalidSetting: if `actions` are not ``(num_envs, m)`` finite numbers. ResetNeeded: before a reset.
        """
        system = self.safe_set.tube.system
        inputs = system.checked("actions", np.asarray(actions), system.m)
        if len(inputs) != self.num_envs:
            raise InvalidSetting(
                "actions", f"are {len(inputs)}", f"Give one for each of {self.num_envs} environments."
            )
        if self._generators is None:
            raise ResetNeeded("No episode has begun. Call reset() first.")
        never = np.zeros(self.num_envs, dtype=np.bool_)
        if self._played == self.task.steps:
            states, infos = self.reset()
            return states, np.zeros(self.num_envs), never, never.copy(), infos
        draw = system.disturbance.sample if self.disturbance == "random" else system.disturbance.extreme
        w = np.concatenate([draw(own, 1) for own in self._generators])
        outcome = self.task.play(self._states, inputs, w)
        self._states, self._played = outcome.state, self._played + 1
        over = np.full(self.num_envs, self._played == self.task.steps)
        return self._states.copy(), outcome.reward, never, over, self._infos(outcome.cost, w)

    def _infos(self, costs: Array, disturbances: Array) -> dict[str, Any]:
        everyone = np.ones(self.num_envs, dtype=np.bool_)
        return {
            "cost": costs, "_cost": everyone, "disturbance": disturbances, "_disturbance": everyone.copy(),
        }  # fmt: skip

"""Constrained MDPs as Gymnasium environments."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded

from envs.errors import InvalidSetting
from envs.tabular.cmdp import ConstrainedMDP, Ints, Task
from envs.tabular.grid_worlds import RewardMode, Scenario, grid_world
from envs.tabular.pictures import Layout, picture


class TabularEnv(gym.Env[Ints, np.int64]):
    """Episodes of H steps of a task under a kernel that the learner does not see.

    Observation: ``(h, s)``, the step and the state, as policies depend on both; h = H after the last step.
    Action: its number. Reward: ``r(s, a)``. ``info["cost"]``: ``c(s, a) (N,)``, zeros after `reset`.

    Attributes:
        task: what a learner may know.
        problem: the true model, for exact evaluation; None where nobody knows it.
        layout: where states are drawn, or None.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 4}

    def __init__(
        self,
        task: Task,
        problem: ConstrainedMDP | None = None,
        layout: Layout | None = None,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise InvalidSetting("render_mode", f"is {render_mode!r}", "Use 'rgb_array' or None.")
        self.task, self.problem, self.layout, self.render_mode = task, problem, layout, render_mode
        states, actions = task.shape
        self.observation_space = gym.spaces.MultiDiscrete([task.horizon + 1, states])
        self.action_space = gym.spaces.Discrete(actions)
        self._step = task.horizon
        self.state = task.start

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Ints, dict[str, Any]]:
        """Begin an episode in s_0."""
        super().reset(seed=seed)
        self._step, self.state = 0, self.task.start
        self._begin()
        return self._observation(), {"cost": np.zeros(self.task.constraints)}

    def step(self, action: np.int64 | int) -> tuple[Ints, float, bool, bool, dict[str, Any]]:
        """Do an action; the episode is over after H of them.

        Raises:
            InvalidSetting: if there is no such action. ResetNeeded: after the end.
        """
        if self._step >= self.task.horizon:
            raise ResetNeeded("The episode is over. Call reset().")
        chosen = int(action)
        if not 0 <= chosen < self.task.shape[1]:
            raise InvalidSetting("action", f"is {chosen}", f"Choose one of 0 .. {self.task.shape[1] - 1}.")
        reward = float(self.task.rewards[self.state, chosen])
        cost = self.task.costs[:, self.state, chosen].copy()
        self.state = self._next(chosen)
        self._step += 1
        return self._observation(), reward, self._step == self.task.horizon, False, {"cost": cost}

    def sample_counts(self, generator: np.random.Generator, samples: int) -> Ints:
        """The generative model: next states of `samples` draws from every pair, counted ``(S, A, S)``.

        Raises:
            InvalidSetting: where there is none, as states cannot be chosen.
        """
        if self.problem is None:
            raise InvalidSetting(
                "environment",
                "cannot be put into a chosen state and has no table of probabilities",
                "Use OnlineCRL, which only plays episodes.",
            )
        return self.problem.draw_counts(generator, samples)

    def render(self) -> Any:
        """The states with the present one marked, as an array ``(height, width, 3)``."""
        if self.render_mode is None:
            return None
        if self.layout is None:
            raise InvalidSetting("render_mode", "is set for a task without layout", "Give a layout.")
        here = np.zeros(self.task.shape[0])
        here[self.state] = 1.0
        return picture(self.layout, here)

    def _begin(self) -> None:
        """What an episode begins with, for those that play another environment."""

    def _next(self, action: int) -> int:
        if self.problem is None:
            raise NotImplementedError("An environment without kernel says itself what comes next.")
        return self.problem.draw(self.np_random, self.state, action)

    def _observation(self) -> Ints:
        return np.array([self._step, self.state], dtype=np.int64)


class GridWorldEnv(TabularEnv):
    """A scenario of the paper's grid worlds; see `grid_world`.

    Args:
        scenario: ``"1a"``, ``"1b"`` or ``"2"``. reward: ``"goal"``, ``"arrival"`` or ``"author"``.
    """

    def __init__(
        self, scenario: Scenario = "1a", *, reward: RewardMode = "goal", render_mode: str | None = None
    ) -> None:
        problem = grid_world(scenario, reward)
        side = int(np.sqrt(problem.task.shape[0]))
        marks = {0: "S", side * side - 1: "G"} | ({side * side // 2: "bad"} if scenario == "2" else {})
        super().__init__(problem.task, problem, Layout(side, side, marks), render_mode)

"""A constrained linear system under disturbances as a Gymnasium environment."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import ArrayLike, NDArray

from envs.encoder import Scaled
from envs.errors import InvalidSetting
from envs.linear_tube.disturbance import Array
from envs.linear_tube.safe_set import TubeSafeSet
from envs.linear_tube.task import Outcome, SetPoint, draw_plane, reference_task

Kind: TypeAlias = Literal["random", "extreme"]


class LinearTube(gym.Env[Array, Array]):
    """Hold a linear system at a set-point next to its constraints, whatever the disturbance.

    Source: seed 002, section 6; specification projected_pg, section 7.

    Action: the input ``(m,)``, executed as it is, also beyond its limits. Observation: the state ``(n,)``. Reward:
    ``-L(x, u)``, undiscounted. Episodes begin at a uniform point of the feasible set and are truncated after
    ``task.steps`` steps, for the task itself has no end.

    ``info`` after each step, and with zeros after a reset: ``cost (n_f + n_g,)``, by how much the state reached and
    the input exceed the rows of ``F x <= f`` and ``G u <= g``; ``disturbance (n,)``, the one that was drawn.

    Args:
        task: what is played; None for `reference_task`.
        disturbance: ``"random"`` draws inside W, ``"extreme"`` at its extreme points.
        render_mode: None, or ``"rgb_array"`` for a picture of the episode so far (two states).

    ``reset(options={"state": x})`` begins at a given state of the feasible set.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(
        self,
        task: SetPoint | None = None,
        *,
        disturbance: Kind = "random",
        render_mode: Literal["rgb_array"] | None = None,
    ) -> None:
        if disturbance not in ("random", "extreme"):
            raise InvalidSetting("disturbance", f"is {disturbance!r}", "Use 'random' or 'extreme'.")
        if render_mode not in (None, "rgb_array"):
            raise InvalidSetting("render_mode", f"is {render_mode!r}", "Use 'rgb_array' or None.")
        self.task = task or reference_task()
        self.disturbance: Kind = disturbance
        self.render_mode = render_mode
        n = self.task.safe_set.tube.system.n
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (n,), dtype=np.float64)
        self.action_space = gym.spaces.Box(self.safe_set.low, self.safe_set.high, dtype=np.float64)
        self._path: list[Array] = []

    @property
    def safe_set(self) -> TubeSafeSet:
        """The safe actions of each observation."""
        return self.task.safe_set

    @property
    def encoder(self) -> Scaled:
        """Distances to the target, in units of the largest feasible states."""
        largest = np.abs(self.safe_set.vertices).max(axis=0)
        return Scaled(tuple(largest.tolist()), self.safe_set.tube.system.m, tuple(self.task.target.tolist()))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin an episode.

        Raises:
            InvalidSetting: if ``options["state"]`` is no finite state of the feasible set.
        """
        super().reset(seed=seed)
        if options and "state" in options:
            state = self.safe_set.tube.system.checked(
                "state", np.asarray([options["state"]]), self.safe_set.tube.system.n
            )
            if not self.safe_set.contains(state)[0]:
                raise InvalidSetting(
                    "state",
                    f"is {state[0].tolist()}, where the safe set is empty",
                    "Begin inside the feasible set: safe_set.contains(states), safe_set.sample(generator, size).",
                )
        else:
            state = self.safe_set.sample(self.np_random, 1)
        self._path = [state[0]]
        return state[0].copy(), self._info(None, np.zeros(self.safe_set.tube.system.n))

    def step(self, action: ArrayLike) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Play one step.

        Raises:
            InvalidSetting: if `action` is not ``(m,)`` finite numbers. ResetNeeded: if the episode is over.
        """
        system = self.safe_set.tube.system
        inputs = system.checked("action", np.asarray([action]), system.m)
        if not 0 < len(self._path) <= self.task.steps:
            raise ResetNeeded("The episode is over, or none has begun. Call reset() first.")
        draw = system.disturbance.sample if self.disturbance == "random" else system.disturbance.extreme
        w = draw(self.np_random, 1)
        outcome = self.task.play(self._path[-1][None], inputs, w)
        self._path.append(outcome.state[0])
        over = len(self._path) > self.task.steps
        return outcome.state[0].copy(), float(outcome.reward[0]), False, over, self._info(outcome, w[0])

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]
        """The states of the episode so far in the plane, ``(480, 640, 3)``, or None without a render mode."""
        if self.render_mode is None:
            return None
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 4.8), dpi=100)
        canvas = FigureCanvasAgg(figure)
        draw_plane(self.task, np.array([self._path]), figure.add_subplot())
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()

    def _info(self, outcome: Outcome | None, disturbance: Array) -> dict[str, Any]:
        system = self.safe_set.tube.system
        nothing = np.zeros(len(system.f) + len(system.g))
        return {"cost": nothing if outcome is None else outcome.cost[0], "disturbance": disturbance}

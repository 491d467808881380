"""A set-point next to a constraint, to be reached and held under disturbances: cost and dynamics for a batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from envs.errors import InvalidSetting
from envs.linear_tube.disturbance import Array, numbers
from envs.linear_tube.polytope import corners
from envs.linear_tube.safe_set import TubeSafeSet
from envs.linear_tube.tube import reference_tube


@dataclass(frozen=True)
class Outcome:
    """What one step brought, for each state of a batch.

    Attributes:
        state: ``x+ (B, n)``.
        reward: ``-L(x, u) (B,)``.
        cost: ``(B, n_f + n_g)``, what ``x+`` and `u` exceed their constraints by; zero is safe.
    """

    state: Array
    reward: Array
    cost: Array


@dataclass(frozen=True, eq=False)
class SetPoint:
    """Stage cost ``L(x, u) = |x - target|^2 + input_weight |u|^2`` on the system of a safe set.

    Source: specification projected_pg, section 7, whose example is `reference_task`.

    Attributes:
        safe_set: with the system, its constraints and its disturbances.
        target: ``(n,)`` [state units].
        input_weight: at least zero.
        discount: of the return that is reported, in (0, 1); rewards come without it.
        steps: length of an episode.

    Raises:
        InvalidSetting: on a setting that cannot be used.
    """

    safe_set: TubeSafeSet
    target: Array
    input_weight: float = 0.05
    discount: float = 0.95
    steps: int = 100

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", numbers("target", self.target, self.safe_set.tube.system.n))
        if not 0 <= self.input_weight < np.inf:
            raise InvalidSetting("input_weight", f"is {self.input_weight}", "Give a number of at least 0.")
        if not 0 < self.discount < 1:
            raise InvalidSetting("discount", f"is {self.discount}", "Choose a number in (0, 1).")
        if self.steps < 1:
            raise InvalidSetting("steps", f"is {self.steps}", "Play at least one step.")

    def play(self, states: Array, inputs: Array, disturbances: Array) -> Outcome:
        """One step for states ``(B, n)``, inputs ``(B, m)``, executed as they are, and disturbances ``(B, n)``."""
        system = self.safe_set.tube.system
        following = system.step(states, inputs, disturbances)
        stage = ((states - self.target) ** 2).sum(axis=1) + self.input_weight * (inputs**2).sum(axis=1)
        return Outcome(following, -stage, system.excess(following, inputs))


@lru_cache(maxsize=1)
def reference_task() -> SetPoint:
    """The example of the specification: `reference_tube`, target (0.9, 0) next to the bound ``x_1 <= 1``."""
    return SetPoint(TubeSafeSet(reference_tube()), np.array([0.9, 0.0]))


def draw_plane(task: SetPoint, paths: Array, axes: Any) -> None:
    """Draw states ``paths (k, T, 2)`` on Matplotlib axes, with the constraints, the feasible set and the target.

    Raises:
        InvalidSetting: if the states are not two.
    """
    system = task.safe_set.tube.system
    if system.n != 2:
        raise InvalidSetting("paths", f"have {system.n} states", "Only a plane can be drawn: two states.")
    limits = _around(corners(system.F, system.f)[0])
    feasible = _around(task.safe_set.vertices)
    axes.fill(*feasible.T, color="tab:green", alpha=0.15, label="feasible set")
    axes.plot(*np.vstack([limits, limits[:1]]).T, color="tab:red", label="constraints")
    for path in paths:
        axes.plot(*path.T, color="tab:blue", linewidth=0.8, marker=".", markersize=3)
    axes.plot(*task.target, color="black", marker="x", linestyle="none", label="target")
    axes.set(xlabel="$x_1$", ylabel="$x_2$")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)


def _around(vertices: Array) -> Array:
    """Vertices ``(p, 2)`` in the order of their angle about the origin, which is inside."""
    return np.asarray(vertices[np.argsort(np.arctan2(vertices[:, 1], vertices[:, 0]))])

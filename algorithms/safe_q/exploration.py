"""Exploration that stays inside the safe rows. No Ray."""

from __future__ import annotations

from typing import Any

import numpy as np

from envs.errors import InvalidSetting
from solver_pool.problem import Array

INSIDE = 1e-6
"""Largest violation by a greedy action that still counts as a solver's last digits [action units]."""


def chord(point: Array, direction: Array, G: Array, h: Array, low: Array, high: Array) -> tuple[float, float]:
    """The range of `t` for which ``point + t direction`` stays in ``G a <= h, low <= a <= high``.

    Args:
        point, direction, low, high: ``(n_a,)``. G: ``(m, n_a)``. h: ``(m,)``.

    Returns:
        ``(first, last)`` with ``first <= 0 <= last``; both 0 where `point` lies outside by more than `INSIDE`.
    """
    rows = np.concatenate([G, np.eye(len(point)), -np.eye(len(point))])
    room = np.concatenate([h, high, -low]) - rows @ point
    if not room.min() >= -INSIDE:
        return 0.0, 0.0
    room = np.maximum(room, 0.0)
    slope = rows @ direction
    up, down = slope > 0, slope < 0
    return float(np.max(room[down] / slope[down])), float(np.min(room[up] / slope[up]))


class RandomChords:
    """A share of the actions is a random point of a random chord of the safe set through the greedy action.

    Uniform on the chord, whose direction is uniform in scaled actions: every safe action has a density, near ones a
    higher one, and none violates its rows. The share falls linearly from `share` to `share_end` over `steps` actions.
    Where the greedy action lies outside its rows, or there is none, it is left to the shield.

    Args:
        share, share_end: in [0, 1]. steps: at least 1. seed: of the generator, which belongs to this object alone.

    Raises:
        InvalidSetting: naming the field.
    """

    def __init__(self, share: float = 1.0, share_end: float = 0.2, steps: int = 2_000, seed: int = 0) -> None:
        for name, value in (("share", share), ("share_end", share_end)):
            if not 0 <= value <= 1:
                raise InvalidSetting(name, f"is {value}", "It must lie in [0, 1].")
        if steps < 1:
            raise InvalidSetting("steps", f"is {steps}", "The schedule has at least one step.")
        self.share, self.share_end, self.steps, self._seed = share, share_end, steps, seed
        self._generator = np.random.default_rng(seed)
        self._taken, self._runners = 0, 1

    def divide(self, index: int, runners: int) -> None:
        """Become the part of runner `index` of several: draws of its own, and its share of the schedule."""
        self._generator = np.random.default_rng([self._seed, index])
        self._runners = runners

    def explore(self, episode: str, G: Array, h: Array, low: Array, high: Array, greedy: Array) -> Array:
        """The action wanted instead of `greedy` ``(n_a,)``; rows ``(m, n_a)``, ``(m,)`` [action units]."""
        late = min(self._taken / self.steps, 1.0)
        self._taken += self._runners
        # Drawn in any case, so that what comes later does not depend on what is drawn for.
        chance, place = self._generator.uniform(size=2)
        direction = self._generator.normal(size=len(greedy)) * (high - low)
        if chance >= self.share + (self.share_end - self.share) * late or not np.isfinite(greedy).all():
            return greedy
        first, last = chord(greedy, direction, G, h, low, high)
        return np.asarray(greedy + (first + place * (last - first)) * direction)

    def get_state(self) -> dict[str, Any]:
        return {"generator": self._generator.bit_generator.state, "taken": self._taken}

    def set_state(self, state: dict[str, Any]) -> None:
        self._generator.bit_generator.state = state["generator"]
        self._taken = state["taken"]

"""Between the actions of networks and those that environments execute. No Ray here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from envs.safe_set import SafeSet
from solver_pool.problem import Array


@dataclass(frozen=True)
class ActionScale:
    """RLlib's normalised actions: ``[-1, 1]`` in the module is ``[low, high]`` in the environment.

    The map is affine and not clipped, so that the shield sees what the policy proposed.

    Attributes:
        space: the environment's action space, a bounded Box ``(n_a,)``.
    """

    space: gym.spaces.Box

    @property
    def low(self) -> Array:
        return np.asarray(self.space.low, dtype=np.float64)

    @property
    def high(self) -> Array:
        return np.asarray(self.space.high, dtype=np.float64)

    def to_env(self, actions: Array) -> Array:
        """Actions ``(..., n_a)`` of the module in action units."""
        return np.asarray(self.low + 0.5 * (actions + 1.0) * (self.high - self.low))

    def to_module(self, actions: Array) -> Array:
        """The inverse; a coordinate that the environment fixes is 0 in the module."""
        width = self.high - self.low
        return np.asarray(2.0 * (actions - self.low) / np.where(width > 0.0, width, 1.0) - (width > 0.0))


@dataclass(frozen=True)
class CastSafeSet:
    """A safe set whose executable actions are numbers of the environment's type, mostly float32.

    What is verified and what is executed are then the same numbers.
    """

    safe_set: SafeSet
    dtype: np.dtype[Any]

    @property
    def low(self) -> Array:
        return self.safe_set.low

    @property
    def high(self) -> Array:
        return self.safe_set.high

    def rows(self, observations: Array) -> tuple[Array, Array]:
        return self.safe_set.rows(observations)

    def executable(self, actions: Array) -> Array:
        return self._cast(self.safe_set.executable(actions))

    def fallback(self, observations: Array) -> Array:
        return self._cast(self.safe_set.fallback(observations))

    def _cast(self, actions: Array) -> Array:
        return np.asarray(actions, dtype=self.dtype).astype(np.float64)

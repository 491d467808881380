"""The tracking system as a Gymnasium environment."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded

from envs.errors import InvalidSetting
from envs.tracking.encoder import StateEncoder
from envs.tracking.safe_set import SupplySafeSet
from envs.tracking.system import DEFAULT, N_ACTIONS, N_STATE, Array, TrackingSystem, step


class Tracking(gym.Env[Array, Array]):
    """Hold a plant at its set point without overloading the supply; see `TrackingSystem`.

    Action: ``u (2,)`` in ``Box(0, 1)``. Observation: the plant's state and the period's supply, ``(3,)``. Reward: the
    negative stage cost. An episode is truncated after ``periods`` periods: the task goes on, and what follows counts.
    ``info``: ``cost (1,)``, by how much the supply was overloaded.

    Args:
        system: the system, or None for the default.
        changes: fields of the system to replace, such as ``effort=0.1``.

    Raises:
        InvalidSetting: on an unknown or unusable setting, and on actions that are no two finite numbers.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self, system: TrackingSystem | None = None, **changes: Any) -> None:
        names = [f.name for f in fields(TrackingSystem)]
        for name in changes:
            if name not in names:
                raise InvalidSetting(
                    name, "is not a setting of the system", f"The settings are {', '.join(names)}."
                )
        self.system = replace(system or DEFAULT, **changes)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (N_STATE + 1,), np.float64)
        self.action_space = gym.spaces.Box(0.0, 1.0, (N_ACTIONS,), np.float64)
        self._state: Array | None = None
        self._supplies = np.zeros(self.system.periods + 1)
        self._period = 0

    @property
    def safe_set(self) -> SupplySafeSet:
        """The safe actions of each observation."""
        return SupplySafeSet(self.system)

    @property
    def encoder(self) -> StateEncoder:
        """What the critic sees of each observation."""
        return StateEncoder()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin an episode; ``options={"state": (2,), "supplies": (T + 1,)}`` begins a given one."""
        super().reset(seed=seed)
        self._state, self._supplies = self.system.episode(self.np_random)
        if options:
            self._state = _checked("state", options["state"], N_STATE)
            self._supplies = _checked("supplies", options["supplies"], self.system.periods + 1)
        self._period = 0
        return self._observation(), {"cost": np.zeros(1)}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Play one period."""
        if self._state is None or self._period >= self.system.periods:
            raise ResetNeeded("step: the episode is over or was never begun. Call reset first.")
        given = _checked("action", action, N_ACTIONS)
        supply = self._supplies[self._period : self._period + 1]
        states, costs, overload = step(self.system, self._state[None], supply, given[None])
        self._state = states[0]
        self._period += 1
        over = self._period >= self.system.periods
        return self._observation(), -float(costs[0]), False, over, {"cost": overload}

    def _observation(self) -> Array:
        assert self._state is not None
        return np.array([*self._state, self._supplies[self._period]])


def _checked(field: str, value: Any, size: int) -> Array:
    array = np.array(value, dtype=np.float64)
    if array.shape != (size,) or not np.isfinite(array).all():
        raise InvalidSetting(field, f"is {value}", f"Give {size} finite numbers.")
    return array

"""The tracking system: its settings, its dynamics on batches, and how episodes begin."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from envs.errors import InvalidSetting

Array = NDArray[np.float64]
Pair = tuple[float, float]
N_STATE = 2
N_ACTIONS = 2


@dataclass(frozen=True)
class TrackingSystem:
    """Two actuators hold a plant at a set point; both draw from a supply that may not be overloaded.

    With the plant's state ``x (2,)``, the set point ``g``, the action ``u`` in ``[0, 1]^2``, what a unit of each
    action draws, `n`, and the supply ``w_t`` of the period, drawn uniformly and seen before acting::

        x+ = a x + B u,     stage cost  L = |x+ - g|^2 + rho |u|^2,     safe:  n'u <= w_t

    The observation is ``(x, w_t)``. Holding the set point draws more than most periods supply.

    The point of it: the smallest constrained problem on which Figure 1 of seed 002 is a closed loop. The actuators
    pull in similar directions, so that the level sets of ``Q(x, u)`` over `u` are long and narrow, and cutting an
    action back to the limit along the shortest way leaves their valley. For one period and small `rho` that costs
    ``(n'Hn)(n'H^-1 n) / (n'n)^2`` times the least, with ``H = B'B``: 2.5 by default. The supply of a period says
    nothing about the next one, so that `Q` does not depend on it, and generous periods show what actions are worth
    that scarce ones forbid: `Q` is known on both sides of the limit without a single unsafe action.

    Attributes:
        decay: `a`, in [0, 1): what is left of the state after a period.
        actuators: `B`, row by row: what a unit of each action adds to the state.
        goal: `g`. effort: `rho`, positive.
        draw: `n`, what a unit of each action draws from the supply.
        supply: range of ``w_t``, not negative.
        start: the state begins in ``[0, start]^2``.
        gamma: discount of a period.
        periods: of an episode; the time that is left is not part of the state.

    Raises:
        InvalidSetting: naming the field.
    """

    decay: float = 0.4
    actuators: tuple[Pair, Pair] = ((0.6, 0.0), (0.8, 1.0))
    goal: Pair = (0.6, 1.4)
    effort: float = 0.01
    draw: Pair = (1.0, 0.2)
    supply: Pair = (0.0, 0.9)
    start: float = 1.0
    gamma: float = 0.8
    periods: int = 10

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise InvalidSetting("decay", f"is {self.decay}", "It must lie in [0, 1).")
        B = np.asarray(self.actuators, dtype=np.float64)
        if B.shape != (2, 2) or not np.isfinite(B).all():
            raise InvalidSetting("actuators", f"are {self.actuators}", "Give two rows of two numbers.")
        for name in ("goal", "draw", "supply"):
            value = np.asarray(getattr(self, name), dtype=np.float64)
            if value.shape != (2,) or not np.isfinite(value).all():
                raise InvalidSetting(name, f"is {getattr(self, name)}", "Give two finite numbers.")
        if not any(self.draw):
            raise InvalidSetting("draw", f"is {self.draw}", "Some action must draw from the supply.")
        if not 0 <= self.supply[0] <= self.supply[1]:
            raise InvalidSetting("supply", f"is {self.supply}", "Give (least, most), the least 0 or more.")
        if not self.effort > 0:
            raise InvalidSetting("effort", f"is {self.effort}", "It must be positive.")
        if not 0 <= self.start < np.inf:
            raise InvalidSetting("start", f"is {self.start}", "Give a finite number, 0 or more.")
        if not 0 < self.gamma < 1:
            raise InvalidSetting("gamma", f"is {self.gamma}", "It must lie in (0, 1).")
        if self.periods < 1:
            raise InvalidSetting("periods", f"is {self.periods}", "Play at least one period.")

    @cached_property
    def B(self) -> Array:
        """``(2, 2)``."""
        return np.asarray(self.actuators, dtype=np.float64)

    @cached_property
    def n(self) -> Array:
        """`draw` as an array, ``(2,)``."""
        return np.asarray(self.draw, dtype=np.float64)

    def episode(self, generator: np.random.Generator) -> tuple[Array, Array]:
        """The first state ``(2,)`` of a new episode, and its supplies ``(T + 1,)``: the last is seen and not used."""
        state = generator.uniform(0.0, self.start, size=N_STATE)
        return state, generator.uniform(*self.supply, size=self.periods + 1)

    def episodes(self, count: int, seed: int) -> tuple[Array, Array]:
        """First states ``(E, 2)`` and supplies ``(E, T + 1)`` of new episodes."""
        generator = np.random.default_rng(seed)
        drawn = [self.episode(generator) for _ in range(count)]
        return np.stack([state for state, _ in drawn]), np.stack([supply for _, supply in drawn])


DEFAULT = TrackingSystem()


def step(
    system: TrackingSystem, states: Array, supplies: Array, actions: Array
) -> tuple[Array, Array, Array]:
    """Play one period with actions ``(B, 2)`` in states ``(B, 2)`` with supplies ``(B,)``.

    Actions are cut to the box.

    Returns:
        Next states ``(B, 2)``, stage costs ``(B,)``, and by how much the supply was overloaded, ``(B,)``: nothing
        else happens then.
    """
    u = np.clip(actions, 0.0, 1.0)
    x = system.decay * states + u @ system.B.T
    cost = ((x - np.asarray(system.goal)) ** 2).sum(axis=1) + system.effort * (u**2).sum(axis=1)
    return x, cost, np.maximum(u @ system.n - supplies, 0.0)

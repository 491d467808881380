"""The safe actions of the tracking system: one half-plane."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from envs.errors import InvalidSetting
from envs.tracking.system import N_ACTIONS, N_STATE, Array, TrackingSystem


@dataclass(frozen=True)
class SupplySafeSet:
    """``n'u <= w``: both actuators together draw no more than the supply. One row, the same `G` in all states.

    **Invariance.** The row is what safety asks for now. No supply is negative, so that ``u = 0`` satisfies the row in
    every state: the next set is not empty, whatever is done.

    Attributes:
        system: whose supply it is.
    """

    system: TrackingSystem

    @property
    def low(self) -> Array:
        """``(2,)``."""
        return np.zeros(N_ACTIONS)

    @property
    def high(self) -> Array:
        """``(2,)``."""
        return np.ones(N_ACTIONS)

    def rows(self, observations: Array) -> tuple[Array, Array]:
        """``G (1, 2)`` and ``h (B, 1)``, for observations ``(x, w)``, ``(B, 3)``.

        Raises:
            InvalidSetting: if the observations are not the system's.
        """
        state = np.asarray(observations, dtype=np.float64)
        if state.ndim != 2 or state.shape[1] != N_STATE + 1:
            raise InvalidSetting(
                "observations", f"have shape {state.shape}", f"Give (B, {N_STATE + 1}): state and supply."
            )
        return self.system.n[None].copy(), state[:, N_STATE:].copy()

    def executable(self, actions: Array) -> Array:
        """The actions as they are: nothing is rounded."""
        return np.array(actions, dtype=np.float64)

    def fallback(self, observations: Array) -> Array:
        """Draw nothing, ``(B, 2)``: safe in every state."""
        return np.zeros((len(observations), N_ACTIONS))

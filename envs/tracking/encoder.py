"""What critics see of the tracking system."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from envs.tracking.system import N_ACTIONS, N_STATE, Array


@dataclass(frozen=True)
class StateEncoder:
    """The state without the supply: the supply limits what may be done, and `Q` does not depend on it."""

    @property
    def n_features(self) -> int:
        return N_STATE

    @property
    def mixing(self) -> Array:
        return np.eye(N_STATE + N_ACTIONS)

    def encode(self, observations: Array) -> Array:
        """``x (B, 2)`` of observations ``(x, w)``, ``(B, 3)``."""
        return np.array(np.asarray(observations, dtype=np.float64)[:, :N_STATE])

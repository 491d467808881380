"""The encoder: the fixed map from an environment's observation to what the networks see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@runtime_checkable
class Encoder(Protocol):
    """A fixed feature map ``phi(s)``, and a fixed linear map of ``(phi(s), a)`` before the critic.

    Environments offer one as ``env.unwrapped.encoder``; without it `Scaled` scales the observation.
    The linear map folds into the critic's first layer, so that solvers still see a plain network.
    """

    @property
    def n_features(self) -> int: ...

    @property
    def mixing(self) -> Array:
        """``(n_features + n_a, n_features + n_a)``: the critic sees ``(phi(s), a) @ mixing``."""
        ...

    def encode(self, observations: Array) -> Array:
        """Features ``(B, n_features)`` of observations ``(B, n_s)``."""
        ...


@dataclass(frozen=True)
class Scaled:
    """Observations less a centre, divided by a constant for each entry; the linear map is the identity.

    Attributes:
        scale: ``n_s`` positive numbers in the observation's units.
        n_actions: of the environment.
        centre: ``n_s`` numbers, or none for 0. What matters near a set-point is told apart there.
    """

    scale: tuple[float, ...]
    n_actions: int
    centre: tuple[float, ...] = ()

    @property
    def n_features(self) -> int:
        return len(self.scale)

    @property
    def mixing(self) -> Array:
        return np.eye(self.n_features + self.n_actions)

    def encode(self, observations: Array) -> Array:
        centred = np.asarray(observations, dtype=np.float64) - np.asarray(self.centre or 0.0)
        return np.asarray(centred / np.asarray(self.scale))

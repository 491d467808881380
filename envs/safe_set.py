"""The safe set: which actions keep a system safe now and keep the next safe set non-empty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@runtime_checkable
class SafeSet(Protocol):
    """A state-dependent polytope of safe actions, ``G(s) a <= h(s)`` and ``low <= a <= high``.

    An implementation owes two proofs, stated in its docstring and tried by a property test:
    every action inside keeps the present step safe, and the set of the next state is never empty
    (forward invariance), with `fallback` always inside.

    Attributes:
        low, high: ``(n_a,)``, the action box [action units].
    """

    @property
    def low(self) -> Array: ...

    @property
    def high(self) -> Array: ...

    def rows(self, observations: Array) -> tuple[Array, Array]:
        """``G``, ``(m, n_a)`` or ``(B, m, n_a)``, and ``h (B, m)`` for a batch of observations ``(B, n_s)``."""
        ...

    def executable(self, actions: Array) -> Array:
        """Map real actions ``(B, n_a)`` to what the environment executes (rounding), keeping safety."""
        ...

    def fallback(self, observations: Array) -> Array:
        """A safe action for each observation, ``(B, n_a)``, whatever happens."""
        ...


@dataclass(frozen=True)
class StackedSafeSet:
    """The intersection of several safe sets over the same observation: their rows, stacked.

    Invariant if some action satisfies all of them in every reachable state; the caller owes that
    argument. The fallback and the rounding are the first member's.
    """

    members: tuple[SafeSet, ...]

    @property
    def low(self) -> Array:
        return np.asarray(np.max([m.low for m in self.members], axis=0))

    @property
    def high(self) -> Array:
        return np.asarray(np.min([m.high for m in self.members], axis=0))

    def rows(self, observations: Array) -> tuple[Array, Array]:
        size = len(observations)
        parts = [m.rows(observations) for m in self.members]
        G = [np.broadcast_to(g, (size, *g.shape[-2:])) for g, _ in parts]
        return np.concatenate(G, axis=1), np.concatenate([h for _, h in parts], axis=1)

    def executable(self, actions: Array) -> Array:
        return self.members[0].executable(actions)

    def fallback(self, observations: Array) -> Array:
        return self.members[0].fallback(observations)


def violation(safe_set: SafeSet, observations: Array, actions: Array) -> Array:
    """Largest violation of rows and box by each action, ``(B,)`` [action units]; zero means safe."""
    G, h = safe_set.rows(observations)
    G = np.broadcast_to(G, (len(actions), *G.shape[-2:]))
    worst = np.maximum(safe_set.low - actions, actions - safe_set.high).max(axis=1)
    if h.shape[1]:
        worst = np.maximum(worst, (np.einsum("bmn,bn->bm", G, actions) - h).max(axis=1))
    return np.asarray(np.maximum(worst, 0.0))

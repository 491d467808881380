"""Whole episodes that were played side by side, as arrays with time in front. No Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algorithms.common.episodes import EpisodeRecord
from algorithms.common.policy_gradient import generalised_advantages

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Rollouts:
    """N episodes of at most T steps. What lies after an episode's end is zero and not `alive`.

    Attributes:
        observations: ``(T + 1, N, n_s)``, the last one of an episode included.
        proposed: ``(T, N, n_a)``, what the policy drew [action units]. log_prob: ``(T, N)``, of that.
        values: ``(T + 1, N, k)``, the policy's value functions; ``k = 0`` where it has none.
        executed: ``(T, N, n_a)``, what the environment got: the proposal, or what the shield made of it.
        rewards: ``(T, N)``. costs: ``(T, N, m)``, the environment's cost vector; ``m = 0`` where it has none.
        alive: ``(T, N)``, whether the step was played.
        terminated: ``(N,)``, whether the episode reached an end of the task's own, beyond which there is no value.
        outcomes: ``(T, N)`` of `algorithms.common.shield.Outcome`. unsafe: ``(T, N)``, executed actions outside their
            rows, by independent check.
    """

    observations: Array
    proposed: Array
    log_prob: Array
    values: Array
    executed: Array
    rewards: Array
    costs: Array
    alive: Flags
    terminated: Flags
    outcomes: NDArray[np.int8]
    unsafe: Flags

    @property
    def lengths(self) -> NDArray[np.int64]:
        """``(N,)`` [steps]."""
        return np.asarray(self.alive.sum(axis=0))

    @property
    def done(self) -> Flags:
        """``(T, N)``: the steps after which there is no value."""
        last = np.arange(len(self.alive))[:, None] == self.lengths - 1
        return np.asarray(last & self.terminated)

    def discounts(self, gamma: float) -> Array:
        """``gamma^t`` where a step was played, ``(T, N)``."""
        return np.asarray(gamma ** np.arange(len(self.alive))[:, None] * self.alive)

    def advantages(self, rewards: Array, values: Array, gamma: float, lambda_: float) -> Array:
        """`generalised_advantages` ``(T, N)`` of rewards or costs ``(T, N)``, with values ``(T + 1, N)`` of states."""
        own, following = values[:-1] * self.alive, values[1:] * (self.alive & ~self.done)
        return generalised_advantages(rewards, own, following, gamma, lambda_)

    def record(self) -> EpisodeRecord:
        """All episodes as one record of the log."""
        return EpisodeRecord(
            reward=float(self.rewards.sum(axis=0).mean()),
            length=round(float(self.lengths.mean())),
            cost=self.costs.sum(axis=0).mean(axis=0).tolist(),
            unsafe_steps=int(self.unsafe.sum()),
            count=len(self.terminated),
        )

    @staticmethod
    def side_by_side(parts: Sequence[Rollouts]) -> Rollouts:
        """The episodes of several runners, the shorter ones padded."""
        if len(parts) == 1:
            return parts[0]
        longest = max(len(part.alive) for part in parts)

        def joined(name: str) -> Any:
            arrays = [getattr(part, name) for part in parts]
            if name == "terminated":
                return np.concatenate(arrays)
            extra = [longest - len(part.alive) for part in parts]
            padded = [
                np.pad(array, [(0, more)] + [(0, 0)] * (array.ndim - 1))
                for array, more in zip(arrays, extra, strict=True)
            ]
            return np.concatenate(padded, axis=1)

        return Rollouts(**{field.name: joined(field.name) for field in fields(Rollouts)})

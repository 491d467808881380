"""A trained projected policy as a plain class. No Ray is needed to act."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from algorithms.common import checkpoint
from algorithms.common.shield import Shielded, shield
from envs.encoder import Encoder
from envs.safe_set import SafeSet
from solver_pool.pool import SolverPool
from solver_pool.problem import Array, activate

FILE = "projected_policy.pkl"


@dataclass(frozen=True)
class ProjectedPolicy:
    """``Proj(pi(x))``, verified, with the safe set's fallback where even the projection does not verify.

    Attributes:
        weights: ``(n_out, n_in)`` and biases: ``(n_out,)`` of each layer of the actor, whose output 0 is the middle of
            the action box and +-1 its bounds. activation: of the hidden layers.
        encoder: features of each observation. safe_set: gives the rows.
        log_std: ``(n_a,)`` of a stochastic policy's proposals [half widths of the box], None for a deterministic one.
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    activation: str
    encoder: Encoder
    safe_set: SafeSet
    log_std: Array | None = None

    def propose(self, observations: Array, generator: np.random.Generator | None = None) -> Array:
        """Proposals ``(B, n_a)`` [action units] for observations ``(B, n_s)``; drawn, if a generator is given."""
        h = self.encoder.encode(observations)
        for w, b in zip(self.weights[:-1], self.biases[:-1], strict=True):
            h = activate(self.activation, h @ w.T + b)[0]
        raw = h @ self.weights[-1].T + self.biases[-1]
        if generator is not None and self.log_std is not None:
            raw = raw + np.exp(self.log_std) * generator.standard_normal(raw.shape)
        low, high = self.safe_set.low, self.safe_set.high
        return np.asarray((low + high) / 2.0 + (high - low) / 2.0 * raw)

    def act_batch(self, observations: Array, generator: np.random.Generator | None = None) -> Shielded:
        """Executable actions, what became of the proposals, and the verified violation of each."""
        return shield(
            self.safe_set, observations, self.propose(observations, generator), SolverPool(), "repair"
        )

    def __call__(self, observations: Array) -> Array:
        """Actions ``(B, n_a)`` for observations ``(B, n_s)``, as reference policies give them."""
        return self.act_batch(observations).actions

    def save(self, folder: Path) -> None:
        """Write the policy into `folder` as one file."""
        (folder / FILE).write_bytes(pickle.dumps(self))

    @staticmethod
    def from_checkpoint(path: str | Path) -> ProjectedPolicy:
        """Load the policy of a training checkpoint. Neither imports nor starts Ray.

        Raises:
            CheckpointError: if the checkpoint is missing, cut off or damaged, or holds no such policy.
        """
        folder = checkpoint.verify(path)
        if not (folder / FILE).is_file():
            raise checkpoint.CheckpointError(
                f"checkpoint: {folder} holds no {FILE}. Give one of a projected policy gradient."
            )
        policy: ProjectedPolicy = pickle.loads((folder / FILE).read_bytes())
        return policy

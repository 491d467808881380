"""A trained policy network behind the shield, as a plain class. No Ray is needed to act."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from algorithms.common import checkpoint
from algorithms.common.scaling import ActionScale
from algorithms.common.shield import Mode, Shielded, shield
from envs.safe_set import SafeSet
from solver_pool.pool import SolverPool
from solver_pool.problem import Array

FILE = "policy.pkl"


@dataclass(frozen=True)
class DeployedPolicy:
    """The greedy actions of a Gaussian policy, shielded as they were while training.

    Attributes:
        network: from observations ``(B, n_s)`` to means and log standard deviations ``(B, 2 n_a)``.
        squashed: whether the mean passes through a tanh, as SAC's does.
        scale: from the network's actions to the environment's.
        safe_set, mode: of the shield.
    """

    network: nn.Module
    squashed: bool
    scale: ActionScale
    safe_set: SafeSet
    mode: Mode
    _pool: SolverPool = field(default_factory=SolverPool, repr=False)

    def act_batch(self, observations: Array) -> Shielded:
        """Executable actions for observations ``(B, n_s)``, with what the shield did."""
        with torch.no_grad():
            outputs = self.network(torch.as_tensor(observations, dtype=torch.float32)).double().numpy()
        mean = outputs[:, : len(self.scale.low)]
        proposed = self.scale.to_env(np.tanh(mean) if self.squashed else mean)
        return shield(
            self.safe_set, np.asarray(observations, dtype=np.float64), proposed, self._pool, self.mode
        )

    def __call__(self, observations: Array) -> Array:
        """Actions ``(B, n_a)``, as reference policies give them."""
        return self.act_batch(observations).actions

    def save(self, folder: Path) -> None:
        """Write the policy into `folder` as one file."""
        parts = (self.network, self.squashed, self.scale, self.safe_set, self.mode)
        (folder / FILE).write_bytes(pickle.dumps(parts))

    @staticmethod
    def from_checkpoint(path: str | Path) -> DeployedPolicy:
        """Load the policy of a training checkpoint. Neither imports nor starts Ray.

        Raises:
            CheckpointError: if the checkpoint is missing, cut off or damaged, or holds no such policy.
        """
        folder = checkpoint.verify(path)
        if not (folder / FILE).is_file():
            raise checkpoint.CheckpointError(
                f"checkpoint: {folder} holds no {FILE}. Give one that `solverl train` wrote."
            )
        return DeployedPolicy(*pickle.loads((folder / FILE).read_bytes()))

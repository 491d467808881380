"""A tabular policy for deployment. Neither imports nor starts Ray."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from algorithms.common import checkpoint
from envs.tabular import Array, Ints

FILE = "tabular_policy.pkl"


def drawn(policy: Array, observations: Ints, generator: np.random.Generator) -> Ints:
    """Actions ``(B,)`` drawn from ``policy (H, S, A)`` for observations ``(h, s)``, ``(B, 2)``.

    After the last step, where nothing is done any more, the last step's policy answers.
    """
    steps = np.minimum(observations[:, 0], len(policy) - 1)
    sums = np.cumsum(policy[steps, observations[:, 1]], axis=1)
    marks = generator.random(len(observations)) * sums[:, -1]
    return np.asarray((sums <= marks[:, None]).sum(axis=1).clip(max=policy.shape[2] - 1), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class TabularPolicy:
    """What an algorithm learned, as a function of observations.

    ::

        policy = TabularPolicy.from_checkpoint("runs/.../checkpoints/000005000")
        actions = policy(np.array([[h, s]]), generator)

    Attributes:
        policy: ``pi (H, S, A)``. name: of the algorithm. env, env_config: what it was trained on.
    """

    policy: Array
    name: str = ""
    env: str = ""
    env_config: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, observations: Ints, generator: np.random.Generator) -> Ints:
        """Actions ``(B,)`` for observations ``(B, 2)``."""
        return drawn(self.policy, observations, generator)

    def save(self, folder: Path) -> None:
        """Write the policy into `folder` as one file."""
        parts = {
            "policy": self.policy,
            "name": self.name,
            "env": self.env,
            "env_config": dict(self.env_config),
        }
        (folder / FILE).write_bytes(pickle.dumps(parts))

    @staticmethod
    def from_checkpoint(path: str | Path) -> TabularPolicy:
        """Load the policy of a training checkpoint.

        Raises:
            CheckpointError: if the checkpoint is missing, cut off or damaged, or holds no such policy.
        """
        folder = checkpoint.verify(path)
        if not (folder / FILE).is_file():
            raise checkpoint.CheckpointError(
                f"checkpoint: {folder} holds no {FILE}. Give one that a tabular algorithm wrote."
            )
        try:
            return TabularPolicy(**pickle.loads((folder / FILE).read_bytes()))
        except (TypeError, AttributeError, ImportError) as error:
            raise checkpoint.CheckpointError(
                f"checkpoint: {folder / FILE} refers to code that is gone ({error}). Train anew, or deploy it with the "
                "version that wrote it."
            ) from error

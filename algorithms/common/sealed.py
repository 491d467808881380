"""Checkpoints that hold a policy for deployment and a manifest that detects damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from ray.rllib.algorithms.algorithm import Algorithm

from algorithms.common import checkpoint


class Deployable(Protocol):
    """A policy that acts without Ray."""

    def save(self, folder: Path) -> None:
        """Write it into `folder`."""
        ...


class Sealed(Algorithm):
    """An RLlib algorithm whose checkpoints are sealed; it says what it deploys."""

    def deployable(self) -> Deployable:
        """The policy as it is now; every algorithm has its own."""
        raise NotImplementedError

    def save_to_path(self, path: Any = None, **kwargs: Any) -> str:
        """Save everything, the policy for deployment, and a manifest that detects damage."""
        folder: str = super().save_to_path(path, **kwargs)
        self.deployable().save(Path(folder))
        checkpoint.seal(Path(folder))
        return folder

    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """Restore a checkpoint written by `save_to_path`.

        Raises:
            CheckpointError: before anything changes, if the checkpoint is missing, cut off or damaged.
        """
        checkpoint.verify(str(path))
        super().restore_from_path(path, *args, **kwargs)


def accept_older_weights(runner: Any) -> None:
    """Let a restored runner take a checkpoint's weights: RLlib's pass over weights older than their own."""
    runner._weights_seq_no = 0

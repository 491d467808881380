"""The trained policy as something that writes cuts, for deployment. Neither imports nor starts Ray."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from algorithms.boo.feature_policy import FeatureCutPolicy
from algorithms.boo.graphs import GraphBatch
from algorithms.boo.policy import CutPolicy
from algorithms.common import checkpoint
from envs.cutting_planes import Cut, GraphObservation

FILE = "cut_policy.pkl"


@dataclass(frozen=True, eq=False)
class CutWriter:
    """The mean of the policy's distribution, as a function of masters.

    ::

        writer = CutWriter.from_checkpoint("runs/.../checkpoints/000200000")
        graph, _ = env.reset()
        over = False
        while not over:
            graph, _, over, _, info = env.step(writer([graph])[0])
        env.plan, env.best_plan  # the last plan, and the best where the objective can be observed

    Attributes:
        policy: the network. env, env_config: what it was trained on.
    """

    policy: CutPolicy | FeatureCutPolicy
    env: str = ""
    env_config: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, graphs: Sequence[GraphObservation]) -> list[Cut]:
        """One cut for each master.

        Raises:
            InvalidSetting: if the policy's weights are not finite.
        """
        with torch.no_grad():
            distribution, _ = self.policy(GraphBatch.of(graphs))
        cuts: list[Cut] = distribution.mode()
        return cuts

    def save(self, folder: Path) -> None:
        """Write the policy into `folder` as one file."""
        state = {name: value.cpu().numpy() for name, value in self.policy.state_dict().items()}
        parts = {
            "class": type(self.policy),
            "arguments": self.policy.arguments,
            "state": state,
            "env": self.env,
            "env_config": dict(self.env_config),
        }
        (folder / FILE).write_bytes(pickle.dumps(parts))

    @staticmethod
    def from_checkpoint(path: str | Path) -> CutWriter:
        """Load the policy of a training checkpoint.

        Raises:
            CheckpointError: if the checkpoint is missing, cut off or damaged, or holds no such policy.
        """
        folder = checkpoint.verify(path)
        if not (folder / FILE).is_file():
            raise checkpoint.CheckpointError(
                f"checkpoint: {folder} holds no {FILE}. Give one that BOO wrote."
            )
        try:
            parts = pickle.loads((folder / FILE).read_bytes())
            policy = parts["class"](*parts["arguments"])
            policy.load_state_dict({name: torch.from_numpy(value) for name, value in parts["state"].items()})
        except (RuntimeError, TypeError, AttributeError, ImportError) as error:
            raise checkpoint.CheckpointError(
                f"checkpoint: {folder / FILE} was written by another version of the network ({error}). Train anew, "
                "or deploy it with the version that wrote it."
            ) from error
        return CutWriter(policy.eval(), parts["env"], parts["env_config"])

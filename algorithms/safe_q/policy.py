"""Deployment of what SafeQ learned, as plain classes. No Ray is needed to act.

Selection ``"constrained"`` is SAFE itself, `algorithms.safe.policy.SafePolicy`; ``"projected"`` is `ProjectedPolicy`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from algorithms.common.shield import Shielded, shield
from algorithms.safe.policy import SafePolicy
from algorithms.safe_q.maximisers import Selection
from solver_pool.problem import Array, CriticBatch
from solver_pool.solution import BatchSolution

MARK = "projected.txt"


class ProjectedPolicy(SafePolicy):
    """The best action in the box, projected on the rows by the shield: equations (3) and (12) of seed 002.

    Safe like `SafePolicy`, and in general not optimal (Figure 1): it is here to be compared. An action that was moved
    has the outcome REPAIRED.
    """

    def act_batch(self, observations: Array) -> tuple[Shielded, BatchSolution]:
        """Safe actions for observations ``(B, n_s)``, and the solutions without rows behind them."""
        features = self.encoder.encode(observations)
        nothing = np.zeros((0, len(self._low))), np.zeros((len(features), 0))
        starts = None if self.actor is None else self.actor(features)
        problem = CriticBatch(self.critic, features, *nothing, *self._box, starts=starts)
        answer = self._pool.solve(problem, self.options)
        proposed = self._low + self._width * answer.x
        return shield(self.safe_set, observations, proposed, self._pool, "repair"), answer

    def save(self, folder: Path) -> None:
        """Write the policy into `folder`, and that its actions are projected."""
        super().save(folder)
        (folder / MARK).write_text(
            "The policy projects (equation 12 of seed 002); see algorithms/safe_q/policy.py.\n"
        )


def selected(policy: SafePolicy, selection: Selection) -> SafePolicy:
    """The same critic, deployed with that selection."""
    kind = SafePolicy if selection == "constrained" else ProjectedPolicy
    return kind(policy.critic, policy.safe_set, policy.encoder, policy.actor, policy.options)


def trained_selection(checkpoint: str | Path) -> Selection:
    """The selection that a checkpoint of SafeQ was trained with."""
    return "projected" if (Path(checkpoint) / MARK).is_file() else "constrained"


def load(checkpoint: str | Path) -> SafePolicy:
    """The policy of a checkpoint of SafeQ, with the selection that it was trained with. Imports no Ray.

    Raises:
        CheckpointError: if the checkpoint is missing, cut off or damaged.
    """
    return selected(SafePolicy.from_checkpoint(checkpoint), trained_selection(checkpoint))

"""SAFE as a plain class: ``a_t = argmax_a Q(s_t, a)`` under the current rows. No Ray is needed to act.

Source: seed 000, Algorithm 2; the constraint index is resolved in the specification omlt_ddpg, table row 5.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from algorithms.common import checkpoint
from algorithms.common.critic import mlp_from_torch
from algorithms.common.shield import Outcome, Shielded, shield
from envs.encoder import Encoder, Scaled
from envs.safe_set import SafeSet
from solver_pool.options import SolveOptions
from solver_pool.pool import SolverPool
from solver_pool.problem import MLP, Array, CriticBatch, activate
from solver_pool.solution import BatchSolution, Certificate, Status

FILE = "safe_policy.pkl"


@dataclass(frozen=True)
class PlainActor:
    """An actor as arrays: weights ``(n_out, n_in)`` and biases of each layer, outputs clipped to [0, 1]."""

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    activation: str

    def __call__(self, features: Array) -> Array:
        """Scaled actions ``(B, n_a)`` for features ``(B, n_f)``."""
        h = features
        for w, b in zip(self.weights[:-1], self.biases[:-1], strict=True):
            h = activate(self.activation, h @ w.T + b)[0]
        return np.asarray(np.clip(h @ self.weights[-1].T + self.biases[-1], 0.0, 1.0))


@dataclass(frozen=True)
class ActionCertificate:
    """What is known about one executed action.

    Attributes:
        outcome: whether the solver's action was executed as it was, repaired, or replaced by the fallback.
        violation: largest violation of its rows by the executed action, by independent check [action units].
        status: of the solve.
        certificate: residuals of the solve, in scaled actions; its gap is finite where the action was proved
            to be a global maximiser up to that gap.
        value: ``Q(s, a*)`` at the solver's action; NaN without one.
        solve_time: [s].
    """

    outcome: Outcome
    violation: float
    status: Status
    certificate: Certificate
    value: float
    solve_time: float


class SafePolicy:
    """Deploy any critic safely.

    Args:
        critic: an `MLP`, or a torch ``nn.Sequential`` of supported layers, of ``(features, scaled action)``.
        safe_set: gives the rows of each observation.
        encoder: features of each observation; default the observation itself.
        actor: gives the first start; optional.
        options: of the solve. Default: one start, the actor's action, and four without an actor; more
            starts find the better of several local optima, in proportional time.
        certify: prove each action to be the global maximiser within ``options.gap``, in milliseconds for a few
            actions; None leaves it to `options`.

    Raises:
        InvalidProblem: if the critic has an unsupported layer or weights that are not finite.
    """

    def __init__(
        self,
        critic: MLP | nn.Module,
        safe_set: SafeSet,
        encoder: Encoder | None = None,
        actor: PlainActor | None = None,
        options: SolveOptions | None = None,
        certify: bool | None = None,
    ) -> None:
        self.critic = critic if isinstance(critic, MLP) else mlp_from_torch(critic)
        self.safe_set, self.actor = safe_set, actor
        self.options = options or SolveOptions(n_starts=4 if actor is None else 1)
        if certify is not None:
            self.options = replace(self.options, certify=certify)
        self._low = np.asarray(safe_set.low, dtype=np.float64)
        self._width = np.asarray(safe_set.high, dtype=np.float64) - self._low
        n_actions = len(self._low)
        self.encoder = encoder or Scaled((1.0,) * (self.critic.n_inputs - n_actions), n_actions)
        self._box = np.zeros(n_actions), np.ones(n_actions)
        self._pool = SolverPool()

    def act(self, observation: Array) -> tuple[Array, ActionCertificate]:
        """The safe action ``(n_a,)`` [action units] for one observation ``(n_s,)``, and its certificate.

        Raises:
            InvalidProblem: if the observation contains NaN or infinity.
        """
        shielded, answer = self.act_batch(np.asarray(observation, dtype=np.float64)[None])
        solution = answer[0]
        return shielded.actions[0], ActionCertificate(
            Outcome(int(shielded.outcome[0])),
            float(shielded.violation[0]),
            solution.status,
            solution.certificate,
            solution.objective,
            answer.solve_time,
        )

    def act_batch(self, observations: Array) -> tuple[Shielded, BatchSolution]:
        """The same for observations ``(B, n_s)``."""
        G, h = self.safe_set.rows(observations)
        features = self.encoder.encode(observations)
        # Rows and box in scaled actions u, a = low + width * u.
        problem = CriticBatch(
            critic=self.critic,
            states=features,
            G=G * self._width,
            h=h - G @ self._low,
            low=self._box[0],
            high=self._box[1],
            starts=None if self.actor is None else self.actor(features),
        )
        answer = self._pool.solve(problem, self.options)
        # A solve that failed proposes NaN, which the shield answers with the safe set's fallback.
        proposed = self._low + self._width * answer.x
        return shield(self.safe_set, observations, proposed, self._pool, "repair"), answer

    def __call__(self, observations: Array) -> Array:
        """Actions ``(B, n_a)`` for observations ``(B, n_s)``, as reference policies give them."""
        return self.act_batch(observations)[0].actions

    def save(self, folder: Path) -> None:
        """Write the policy into `folder` as one file."""
        parts: dict[str, Any] = {
            "critic": self.critic,
            "safe_set": self.safe_set,
            "encoder": self.encoder,
            "actor": self.actor,
            "options": self.options,
        }
        (folder / FILE).write_bytes(pickle.dumps(parts))

    @staticmethod
    def from_checkpoint(path: str | Path, certify: bool | None = None) -> SafePolicy:
        """Load the deployed critic and actor of a training checkpoint. Neither imports nor starts Ray.

        Args:
            certify: as of `SafePolicy`.

        Raises:
            CheckpointError: if the checkpoint is missing, cut off or damaged, or holds no SAFE policy.
        """
        folder = checkpoint.verify(path)
        if not (folder / FILE).is_file():
            raise checkpoint.CheckpointError(
                f"checkpoint: {folder} holds no {FILE}. Give one of an algorithm with a critic."
            )
        return SafePolicy(**pickle.loads((folder / FILE).read_bytes()), certify=certify)

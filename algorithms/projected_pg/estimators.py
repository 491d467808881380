"""Policy gradients of projected policies, and how they go wrong. Pure functions of tensors; no Ray.

A policy proposes ``p``; what is executed is its projection on the safe set, ``u = Proj(p)``. Q, V and A are those of
the projected policy, rewards are maximised.

Deterministic (seed 002, Corollary 1, equation 32), with ``M`` the derivative of the projection (Proposition 1)::

    grad J = E[ sum_t gamma^t  grad pi  M  grad_u Q(x, u) ]

Stochastic (specification projection_pg, section 5): the projection is part of the environment, since u given p does not
depend on the parameters. So the score is that of the proposal, and the advantage that of the executed action::

    grad J = E[ sum_t gamma^t  grad log pi(p | x)  A(x, Proj(p)) ]

The law of u itself has mass on the boundary of the safe set, where its density, and a score made of it, do not exist.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from algorithms.common.projection import Projected, through

Score: TypeAlias = Literal["proposed", "executed", "interior"]


def executed(proposals: Tensor, projected: Projected, correction: bool = True) -> Tensor:
    """The executed actions ``(B, n_a)`` as a function of the proposals ``(B, n_a)`` they were projected from.

    Args:
        correction: the gradient is multiplied by M (Corollary 1). Without it, it passes as if there were no projection,
            which is what one gets by projecting outside the network, and is biased wherever a constraint is active.

    Where there is no point (an empty safe set, masked) the proposal stands, without a gradient.
    """
    solved = torch.from_numpy(projected.solved)[:, None].to(proposals.device)
    if correction:
        return torch.where(solved, through(proposals, projected), proposals.detach())
    point = torch.from_numpy(projected.point).to(proposals)
    return torch.where(solved, proposals + (point - proposals).detach(), proposals.detach())


def gaussian_log_prob(mean: Tensor, log_std: Tensor, at: Tensor) -> Tensor:
    """``log N(at; mean, diag(std^2))``, ``(B,)``, for ``mean, at (B, n_a)`` and ``log_std (n_a,)``."""
    standard = (at - mean) / log_std.exp()
    return (-0.5 * standard**2 - log_std - 0.5 * math.log(2.0 * math.pi)).sum(dim=1)


def scored(score: Score, proposed: Tensor, executed: Tensor) -> tuple[Tensor, Tensor]:
    """Where the score is taken ``(B, n_a)``, and which samples have one ``(B,)``.

    ``"proposed"`` is right. ``"executed"`` takes the Gaussian's score at the projected action, as a learner does that
    was only told what was executed; ``"interior"`` leaves out the samples that were projected. Both are biased.
    """
    counts = torch.ones(len(proposed), device=proposed.device)
    if score == "executed":
        return executed, counts
    if score == "interior":
        return proposed, (proposed == executed).all(dim=1).to(counts.dtype)
    return proposed, counts

"""The updates of OMLT-DDPG as pure functions of tensors and networks. No Ray.

Source: seed 000, Algorithm 1; resolved in the specification omlt_ddpg, section 1. Shapes: states
``(B, n_f)`` (encoded), actions ``(B, n_a)`` in [0, 1], rewards and `done` ``(B,)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from algorithms.common.networks import Ensemble


@torch.no_grad()
def td_target(
    target_critics: Ensemble,
    reward: Tensor,
    next_state: Tensor,
    next_action: Tensor,
    done: Tensor,
    gamma: float,
    pessimism: float,
) -> Tensor:
    """``y = r + gamma (1 - done) V'(s')``, ``(B,)``; Algorithm 1 line 8.

    ``V'`` lies between the mean over the critics (`pessimism` 0) and their minimum (1, the clipped
    estimate of Fujimoto et al. 2018) of ``Q'_e(s', a')``; with one critic it is that critic. The paper takes
    ``a' = mu'(s')``.
    """
    q = target_critics(torch.cat([next_state, next_action], dim=1))[..., 0]
    value: Tensor = (1.0 - pessimism) * q.mean(dim=0) + pessimism * q.min(dim=0).values
    target: Tensor = reward + gamma * (1.0 - done) * value
    return target


def critic_gradients(critics: Ensemble, state: Tensor, action: Tensor, target: Tensor) -> Tensor:
    """Gradients of ``sum_e mean_b (Q_e(s_b, a_b) - y_b)^2``, line 9; returns the mean squared error."""
    even = torch.full_like(target, 1.0 / len(target))
    error = critics.regression_gradients(torch.cat([state, action], dim=1), target[:, None], even)
    return (error**2).mean()


def actor_gradients(actor: Ensemble, state: Tensor, best: Tensor, solved: Tensor) -> Tensor:
    """Gradients of ``mean_b |mu(s_b) - a*_b|^2`` over the solved samples, line 12; returns that loss.

    Args:
        best: ``(B, n_a)``, solver-made maximisers.
        solved: ``(B,)``, 1 where the solver's answer is certified; the others count for nothing.
    """
    weights = solved / solved.sum().clamp(min=1.0)
    error = actor.regression_gradients(state, best, weights)[0]
    return (weights[:, None] * error**2).sum()

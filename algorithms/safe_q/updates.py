"""The update of SafeQ as a pure function of tensors and networks. No Ray."""

from __future__ import annotations

import torch
from torch import Tensor

from algorithms.common.networks import Ensemble


def solved_gradients(
    critics: Ensemble, state: Tensor, action: Tensor, target: Tensor, solved: Tensor
) -> Tensor:
    """Gradients of ``sum_e mean_b (Q_e(s_b, a_b) - y_b)^2``, equation (13), over the solved samples.

    Args:
        state: ``(B, n_f)``. action: ``(B, n_a)``. target: ``y (B,)``.
        solved: ``(B,)``, 1 where the target is known; the others count for nothing.

    Returns:
        The mean squared error over solved samples and critics.
    """
    weights = solved / solved.sum().clamp(min=1.0)
    error = critics.regression_gradients(torch.cat([state, action], dim=1), target[:, None], weights)[..., 0]
    return (weights * error**2).sum(dim=1).mean()

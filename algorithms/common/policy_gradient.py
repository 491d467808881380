"""Advantages and losses of on-policy actor-critics. Pure functions; no Ray."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def generalised_advantages(
    rewards: Array, values: Array, next_values: Array, gamma: float, lambda_: float
) -> Array:
    """``A_t = sum_k (gamma lambda)^k delta_{t+k}``,  ``delta_t = r_t + gamma V_{t+1} - V_t``, of whole episodes.

    Source: Schulman et al., High-dimensional continuous control using generalized advantage estimation, equation 16.

    Args:
        rewards, values: ``(T, ...)``, of one episode or of several side by side; zero after an episode's end.
        next_values: ``(T, ...)``, V after each step; zero where the episode terminated with it, and after its end.
    """
    deltas = rewards + gamma * next_values - values
    advantages = np.empty_like(deltas)
    running = np.zeros_like(deltas[0])
    for t in reversed(range(len(deltas))):
        running = deltas[t] + gamma * lambda_ * running
        advantages[t] = running
    return advantages


def centred(advantages: Sequence[Array], groups: Sequence[Hashable]) -> list[Array]:
    """Each episode's advantages less the mean of the others of its group, step by step.

    Episodes of a group begin alike (the same instance, the same luck) and differ by their actions alone. What the
    others earned does not depend on this episode's actions: it is a baseline, which leaves the gradient unbiased and
    takes the instance's share of the variance away. A step that no other episode of the group reached keeps its
    advantage.

    Args:
        advantages: ``(T_i,)`` of each episode. groups: of each.
    """
    members: dict[Hashable, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    out = [np.array(a) for a in advantages]
    for same in members.values():
        for t in range(max(len(advantages[i]) for i in same)):
            there = [i for i in same if len(advantages[i]) > t]
            if len(there) > 1:
                total = sum(advantages[i][t] for i in there)
                for i in there:
                    out[i][t] -= (total - advantages[i][t]) / (len(there) - 1)
    return out


@dataclass(frozen=True, eq=False)
class Losses:
    """Parts of a PPO loss, each a scalar; `total` is what is minimised."""

    total: Tensor
    policy: Tensor
    value: Tensor
    entropy: Tensor
    kl: Tensor
    clipped: Tensor


def clipped_surrogate(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    values: Tensor,
    targets: Tensor,
    entropy: Tensor,
    *,
    clip: float,
    value_coefficient: float,
    entropy_coefficient: float,
) -> Losses:
    """PPO's loss ``-min(r A, clip(r, 1 - eps, 1 + eps) A) + c_1 (V - target)^2 - c_2 H``, averaged over ``(B,)``.

    Source: Schulman et al., Proximal policy optimization algorithms, equations 7 and 9. ``kl`` is the estimate
    ``mean((log r)^2) / 2`` of the divergence from the old policy, which unlike ``mean(r - 1 - log r)`` is not ruled by
    a few samples where actions have many dimensions.
    """
    log_ratio = log_prob - old_log_prob
    ratio = log_ratio.exp()
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1.0 - clip, 1.0 + clip) * advantages)
    policy, value = -surrogate.mean(), ((values - targets) ** 2).mean()
    total = policy + value_coefficient * value - entropy_coefficient * entropy.mean()
    return Losses(
        total, policy, value, entropy.mean(), 0.5 * (log_ratio**2).mean().detach(),
        ((ratio - 1.0).abs() > clip).float().mean(),
    )  # fmt: skip

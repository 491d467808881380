"""Exact evaluation of time-dependent policies. No Ray.

Source: seed 003, equations (1) to (3) and (11); specification online_crl, sections 1 and 2.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from envs.tabular import Array, ConstrainedMDP

UNREACHED = 1e-9
"""Probability of a state at a step below which an occupancy says nothing about the actions there."""


class Worth(NamedTuple):
    """What a policy is worth under a kernel: `value` ``V_0(s_0)`` and `costs` ``C_{i,0}(s_0)``, ``(N,)``."""

    value: float
    costs: Array


def values(kernel: Array, signal: Array, policy: Array) -> Array:
    """``V (H + 1, S)``: expected sum of ``signal (S, A)`` from each step and state on.

    ``V_h(s) = sum_a pi[h, s, a] (signal[s, a] + sum_s' P_h[s, a, s'] V_{h+1}(s'))``, ``V_H = 0`` (equations (1), (3)).

    Args:
        kernel: ``(S, A, S)``, or ``(H, S, A, S)`` for one that changes with the step.
        policy: ``(H, S, A)``.
    """
    horizon, states, _ = policy.shape
    found = np.zeros((horizon + 1, states))
    for h in range(horizon - 1, -1, -1):
        step = kernel if kernel.ndim == 3 else kernel[h]
        found[h] = (policy[h] * (signal + step @ found[h + 1])).sum(axis=1)
    return found


def variances(kernel: Array, value: Array) -> Array:
    """``(H, S, A)``: ``Var_{s' ~ P(. | s, a)} V_{h+1}(s')`` of ``V (H + 1, S)`` (equation (2))."""
    mean = np.einsum("sat,ht->hsa", kernel, value[1:])
    return np.asarray(np.einsum("sat,ht->hsa", kernel, value[1:] ** 2) - mean**2)


def occupancy(kernel: Array, policy: Array, start: int) -> Array:
    """``q (H, S, A)``: probability of being in s and doing a at step h (equation (11)); each step sums to 1."""
    horizon, states, actions = policy.shape
    found = np.empty((horizon, states, actions))
    there = np.zeros(states)
    there[start] = 1.0
    for h in range(horizon):
        found[h] = there[:, None] * policy[h]
        there = np.einsum("sa,sat->t", found[h], kernel if kernel.ndim == 3 else kernel[h])
    return found


def evaluate(problem: ConstrainedMDP, policy: Array) -> Worth:
    """The policy's exact value and costs in the true model."""
    task = problem.task
    found = occupancy(problem.kernel, policy, task.start).sum(axis=0)
    costs = np.tensordot(task.costs, found, axes=2)
    return Worth(float((task.rewards * found).sum()), np.asarray(costs))


def policy_of(found: Array) -> Array:
    """``pi[h, s, a] = q[h, s, a] / sum_a q[h, s, a]``, uniform in states that are not reached."""
    found = np.maximum(found, 0.0)
    there = found.sum(axis=2, keepdims=True)
    reached = there > UNREACHED
    return np.where(reached, found / np.where(reached, there, 1.0), 1.0 / found.shape[2])


def uniform_policy(horizon: int, states: int, actions: int) -> Array:
    """``(H, S, A)``: every action with the same probability."""
    return np.full((horizon, states, actions), 1.0 / actions)

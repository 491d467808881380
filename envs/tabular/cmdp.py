"""Constrained Markov decision processes with finitely many states, as data.

Source: seed 003, section 2; specification online_crl, section 1. What a learner may know is a `Task`; the kernel that
it does not know is beside it in a `ConstrainedMDP`, so that no learner can look at it by accident.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from envs.errors import InvalidSetting

Array: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

ROW_TOLERANCE = 1e-9
"""How far from one the probabilities of a row may sum."""
FEASIBLE_WITHIN = 1e-9
"""[cost units, for each step] by which a cost may exceed its budget for rounding."""


@dataclass(frozen=True, eq=False)
class Task:
    """What is known of a constrained MDP before any sample: everything but its kernel.

    Attributes:
        rewards: ``r (S, A)`` [reward units per step]. The theorems assume [0, 1].
        costs: ``c (N, S, A)`` [cost units per step], N may be 0. The theorems assume [0, 1].
        budgets: ``(N,)``, the largest allowed expected sum of each cost over an episode.
        horizon: H, steps of an episode.
        start: s_0.

    Raises:
        InvalidSetting: on shapes that do not match, numbers that are not finite, a horizon below 1, a start outside, or
            a budget below what every kernel and policy cost.
    """

    rewards: Array
    costs: Array
    budgets: Array
    horizon: int
    start: int = 0

    def __post_init__(self) -> None:
        rewards = _finite("rewards", self.rewards)
        if rewards.ndim != 2 or not rewards.size:
            raise InvalidSetting("rewards", f"have shape {rewards.shape}", "Give r(s, a) as (S, A).")
        states, actions = rewards.shape
        budgets = np.atleast_1d(_finite("budgets", self.budgets))
        costs = _finite("costs", self.costs)
        costs = costs[None] if costs.shape == rewards.shape else costs
        if budgets.ndim != 1 or costs.shape != (len(budgets), states, actions):
            raise InvalidSetting(
                "costs",
                f"have shape {costs.shape} with budgets of shape {budgets.shape}",
                f"Give c(i, s, a) as (N, {states}, {actions}) and one budget for each of the N.",
            )
        if int(self.horizon) != self.horizon or self.horizon < 1:
            raise InvalidSetting("horizon", f"is {self.horizon}", "An episode has at least one step.")
        if not 0 <= self.start < states:
            raise InvalidSetting("start", f"is {self.start}", f"Choose a state in 0 .. {states - 1}.")
        if (costs < 0).any():
            i, s, a = (int(k) for k in np.argwhere(costs < 0)[0])
            warnings.warn(
                f"costs: c[{i}] is {costs[i, s, a]:g} in state {s} for action {a}. The sample sizes of the theory "
                "assume costs in [0, 1]; shift and scale costs and budget for them to hold.",
                stacklevel=3,
            )
        for name, value in (("rewards", rewards), ("costs", costs), ("budgets", budgets)):
            object.__setattr__(self, name, value)
        least = self.least_costs
        for i in np.flatnonzero(least > budgets + FEASIBLE_WITHIN * self.horizon).tolist():
            raise InvalidSetting(
                "budgets",
                f"of constraint {i} is {budgets[i]:g}, but no kernel and policy cost less than {least[i]:g}",
                f"Raise the budget to at least {least[i]:g}, or change the costs.",
            )

    @property
    def shape(self) -> tuple[int, int]:
        """``(S, A)``."""
        return self.rewards.shape[0], self.rewards.shape[1]

    @property
    def constraints(self) -> int:
        """N."""
        return len(self.budgets)

    @property
    def least_costs(self) -> Array:
        """``(N,)``: what each cost is at least, whatever the kernel is."""
        first = self.costs[:, self.start].min(axis=1)
        return np.asarray(first + (self.horizon - 1) * self.costs.min(axis=(1, 2)))

    def violation(self, costs: Array) -> float:
        """``max_i (C_i - budget_i)^+`` of expected costs ``(N,)``."""
        return float(np.maximum(np.asarray(costs) - self.budgets, 0.0).max(initial=0.0))


@dataclass(frozen=True, eq=False)
class ConstrainedMDP:
    """A task with the kernel it is played under.

    Attributes:
        task: the known part.
        kernel: ``P (S, A, S)``, probabilities of the next state, the same at every step.

    Raises:
        InvalidSetting: if a row has a negative entry or does not sum to one.
    """

    task: Task
    kernel: Array

    def __post_init__(self) -> None:
        states, actions = self.task.shape
        kernel = _finite("kernel", self.kernel)
        if kernel.shape != (states, actions, states):
            raise InvalidSetting(
                "kernel",
                f"has shape {kernel.shape}",
                f"Give P(s, a, s') as {(states, actions, states)}.",
            )
        if (kernel < 0).any():
            s, a, t = (int(k) for k in np.argwhere(kernel < 0)[0])
            raise InvalidSetting(
                "kernel",
                f"has probability {kernel[s, a, t]:g} from state {s} by action {a} to state {t}",
                "Probabilities must not be negative.",
            )
        sums = kernel.sum(axis=2)
        if (np.abs(sums - 1.0) > ROW_TOLERANCE).any():
            s, a = (int(k) for k in np.argwhere(np.abs(sums - 1.0) > ROW_TOLERANCE)[0])
            raise InvalidSetting(
                "kernel",
                f"sums to {sums[s, a]:.12g} over the next states of state {s} and action {a}",
                "Each row must sum to one: divide it by its sum, or add what is missing.",
            )
        object.__setattr__(self, "kernel", kernel)

    def draw(self, generator: np.random.Generator, state: int, action: int) -> int:
        """A next state."""
        return int(np.searchsorted(np.cumsum(self.kernel[state, action]), generator.random(), side="right"))

    def draw_counts(self, generator: np.random.Generator, samples: int) -> Ints:
        """Next states of `samples` draws from every pair, counted: ``(S, A, S)``. The generative model."""
        return np.asarray(
            generator.multinomial(samples, self.kernel / self.kernel.sum(axis=2, keepdims=True))
        )

    def rollout(self, generator: np.random.Generator, policy: Array) -> tuple[Ints, Ints]:
        """States ``(H + 1,)`` and actions ``(H,)`` of one episode under ``policy (H, S, A)``."""
        horizon = self.task.horizon
        states, actions = np.empty(horizon + 1, dtype=np.int64), np.empty(horizon, dtype=np.int64)
        states[0] = self.task.start
        for h in range(horizon):
            weights = np.cumsum(policy[h, states[h]])
            actions[h] = np.searchsorted(weights, generator.random() * weights[-1], side="right")
            states[h + 1] = self.draw(generator, int(states[h]), int(actions[h]))
        return states, actions


def _finite(field: str, value: Any) -> Array:
    array = np.ascontiguousarray(value, dtype=np.float64)
    if not np.isfinite(array).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise InvalidSetting(field, f"is {array[index]} at index {index}", "Give finite numbers.")
    return array

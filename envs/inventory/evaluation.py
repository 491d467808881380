"""Playing a policy on the chain and counting what happened, for references and learned policies alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from envs.errors import InvalidSetting
from envs.inventory.chain import Array, InventoryChain
from envs.inventory.dynamics import initial_state, step

Policy: TypeAlias = Callable[[Array], Array]
"""``policy(observations (B, n)) -> actions (B, M)``: the state in units, orders in units."""


@dataclass(frozen=True)
class EpisodeStats:
    """What a policy earned and broke, for `E` episodes.

    Attributes:
        rewards: ``(E,)``, the return with the chain's ``alpha**n`` [money].
        costs: ``(E, M)``, units above capacity at period ends, summed over the episode: the penalty of the
            specification.
        violations: ``(E,)``, periods at whose end some stock is above its capacity.
        peak_violations: ``(E,)``, periods in which some stock is above its capacity at any moment.
        steps: periods played in all.
    """

    rewards: Array
    costs: Array
    violations: NDArray[np.int64]
    peak_violations: NDArray[np.int64]
    steps: int

    @property
    def mean(self) -> float:
        """Mean return of an episode [money]."""
        return float(self.rewards.mean())

    @property
    def std(self) -> float:
        """Standard deviation of an episode's return, not of the mean [money]."""
        return float(self.rewards.std())

    @property
    def error(self) -> float:
        """Standard error of `mean` [money]."""
        return self.std / float(np.sqrt(len(self.rewards)))


def demand_paths(chain: InventoryChain, episodes: int, seed: int) -> Array:
    """The chain's Poisson demand for a number of episodes, ``(episodes, periods)`` [units]."""
    generator = np.random.default_rng(seed)
    return generator.poisson(chain.demand_mean, (episodes, chain.periods)).astype(np.float64)


def simulate(policy: Policy, chain: InventoryChain, demand: Array, batch: int | None = None) -> EpisodeStats:
    """Play `policy` on given demand ``(E, periods)``.

    Args:
        batch: how many episodes the policy sees at once; None for all, 1 for a policy that answers one
            observation at a time. The outcome of a deterministic policy does not depend on it.

    Raises:
        InvalidSetting: if the policy returns a wrong shape, NaN or infinity.
    """
    size = len(demand) if batch is None else batch
    parts = [_play(policy, chain, demand[i : i + size]) for i in range(0, len(demand), size)]
    rewards, costs, violations, peaks = (np.concatenate(column) for column in zip(*parts, strict=True))
    return EpisodeStats(rewards, costs, violations, peaks, int(demand.size))


def evaluate(
    policy: Policy, chain: InventoryChain, episodes: int, seed: int, batch: int | None = None
) -> EpisodeStats:
    """Play `policy` on ``demand_paths(chain, episodes, seed)``; see `simulate`.

    Two policies with the same seed meet the same customers, so that their difference has little noise.
    """
    return simulate(policy, chain, demand_paths(chain, episodes, seed), batch)


def _play(
    policy: Policy, chain: InventoryChain, demand: Array
) -> tuple[Array, Array, NDArray[np.int64], NDArray[np.int64]]:
    size, m = len(demand), chain.stages
    state = initial_state(chain, size)
    rewards, costs = np.zeros(size), np.zeros((size, m))
    violations, peaks = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    for n in range(chain.periods):
        actions = np.asarray(policy(state.copy(order="C")), dtype=np.float64)
        if actions.shape != (size, m) or not np.isfinite(actions).all():
            raise InvalidSetting(
                "policy",
                f"returned shape {actions.shape} or numbers that are not finite, expected {(size, m)}",
                "A policy maps observations (B, n) to orders (B, M); with batch=1 it sees one at a time.",
            )
        outcome = step(chain, state, actions, demand[:, n])
        state = outcome.state
        # Counted from the stock itself: nothing that a policy or a safe set says about it is used.
        ending = state[:, chain.layout.stock]
        before_leaving = ending + np.column_stack([outcome.sold, outcome.shipped[:, :-1]])
        rewards += outcome.reward
        costs += np.maximum(ending - chain.capacity, 0.0)
        violations += (ending > chain.capacity).any(axis=1)
        peaks += (before_leaving > chain.capacity).any(axis=1)
    return rewards, costs, violations, peaks

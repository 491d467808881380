"""Exploration that holds an intention for an episode. No Ray.

Where an action pays off many steps later, independent noise at every step teaches nothing: its effects
cancel before they arrive. Here an episode draws, for each action, a fraction of what the rows allow and a
step at which it changes its mind, and holds them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solver_pool.problem import Array


def fractions_of_rows(fraction: Array, G: Array, h: Array, low: Array, high: Array) -> Array:
    """The action that takes, entry after entry, a fraction of the most that the rows leave, ``(n_a,)``.

    With the earlier entries chosen and the later ones where they hinder least, entry `j` may go up to
    ``min_r (h_r - sum_{k != j} G_rk a_k) / G_rj`` over the rows with ``G_rj > 0``.

    Args:
        fraction: ``(n_a,)`` in [0, 1]. G: ``(m, n_a)``. h: ``(m,)``. low, high: ``(n_a,)``.
    """
    # What the entries not yet chosen add at least to each row.
    least = np.minimum(G * low, G * high)
    action = np.array(low, dtype=np.float64)
    used = least.sum(axis=1)
    for j in range(len(action)):
        others = used - least[:, j]
        binding = G[:, j] > 0
        room = np.min((h[binding] - others[binding]) / G[binding, j], initial=high[j])
        action[j] = low[j] + fraction[j] * max(room - low[j], 0.0)
        used = others + G[:, j] * action[j]
    return action


@dataclass
class _Intention:
    """What one episode holds: see `HeldIntentions`."""

    first: Array
    then: Array
    switch: NDArray[np.int64]
    begin: int
    end: int
    entries: NDArray[np.bool_]
    kind: int
    gain: Array
    shift: Array
    perturbs: bool
    step: int = 0


class HeldIntentions:
    """Episode-long intentions at first, then the policy with stretches of perturbation.

    In the first `intention_episodes` episodes each action entry takes a fraction of what the rows leave
    (none, all or anything between) up to a random step, then another (most often none). Later episodes
    follow the policy; a share of them, falling linearly from `perturbed` to `perturbed_end`, departs from it
    over one random stretch and for a random subset of entries: by an intention, by a common factor, or by a
    common shift. Independent normal noise is added to a share of all entries. What comes out is not yet
    safe: the shield projects it.

    Args:
        intention_episodes, episodes: counts; the second is the length of the schedule.
        horizon: steps of an episode.
        perturbed, perturbed_end: shares of perturbed episodes.
        noise: standard deviation as a fraction of the action's range; noise_share: of entries that get it.
        seed: of the generator, which belongs to this object alone.
    """

    def __init__(
        self,
        intention_episodes: int = 30,
        episodes: int = 150,
        horizon: int = 30,
        perturbed: float = 0.5,
        perturbed_end: float = 0.1,
        noise: float = 0.1,
        noise_share: float = 0.3,
        seed: int = 0,
    ) -> None:
        self.intention_episodes, self.episodes, self.horizon = intention_episodes, episodes, horizon
        self.perturbed, self.perturbed_end = perturbed, perturbed_end
        self.noise, self.noise_share = noise, noise_share
        self._seed = seed
        self._generator = np.random.default_rng(seed)
        self._begun = 0
        self._runners = 1
        self._current: dict[str, _Intention] = {}

    def divide(self, index: int, runners: int) -> None:
        """Become the part of runner `index` of several: draws of its own, and its share of the schedule."""
        self._generator = np.random.default_rng([self._seed, index])
        self._runners = runners

    def explore(self, episode: str, G: Array, h: Array, low: Array, high: Array, greedy: Array) -> Array:
        """The action wanted instead of `greedy` ``(n_a,)`` at this step; rows as in a safe set."""
        if episode not in self._current:
            # Finished episodes do not come back; keeping the last few bounds the memory.
            while len(self._current) > 1000:
                self._current.pop(next(iter(self._current)))
            self._current[episode] = self._draw(len(greedy))
            self._begun += self._runners
        plan = self._current[episode]
        rng, t = self._generator, plan.step
        plan.step += 1
        wanted = np.array(greedy, dtype=np.float64)
        held = fractions_of_rows(np.where(t < plan.switch, plan.first, plan.then), G, h, low, high)
        if plan.begin < 0:
            return held
        if plan.perturbs and plan.begin <= t < plan.end:
            by_kind = (held, greedy * plan.gain, greedy + plan.shift * (high - low))
            wanted = np.where(plan.entries, by_kind[plan.kind], wanted)
        noise = self.noise * (high - low) * rng.normal(size=len(wanted))
        return wanted + noise * (rng.uniform(size=len(wanted)) < self.noise_share)

    def _draw(self, n: int) -> _Intention:
        rng = self._generator

        def fractions() -> Array:
            kind = rng.choice(3, size=n, p=[0.2, 0.3, 0.5])
            return np.choose(kind, [np.zeros(n), np.ones(n), rng.uniform(size=n)])

        late = max(
            0.0, (self._begun - self.intention_episodes) / max(1, self.episodes - self.intention_episodes)
        )
        share = self.perturbed + (self.perturbed_end - self.perturbed) * min(late, 1.0)
        first, then = fractions(), fractions()
        begin = int(rng.integers(self.horizon))
        return _Intention(
            first=first,
            then=np.where(rng.uniform(size=n) < 0.6, 0.0, then),
            switch=rng.integers(1, self.horizon, size=n),
            # A negative begin marks an episode of pure intention.
            begin=-1 if self._begun < self.intention_episodes else begin,
            end=begin + int(rng.integers(self.horizon // 10, self.horizon // 2 + 1)),
            entries=rng.uniform(size=n) < 0.5,
            kind=int(rng.integers(3)),
            gain=np.exp(0.5 * rng.normal(size=n)),
            shift=0.1 * rng.normal(size=n),
            perturbs=bool(rng.uniform() < share),
        )

    def get_state(self) -> dict[str, Any]:
        return {
            "generator": self._generator.bit_generator.state,
            "begun": self._begun,
            "current": {name: dict(vars(plan)) for name, plan in self._current.items()},
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self._generator.bit_generator.state = state["generator"]
        self._begun = state["begun"]
        self._current = {name: _Intention(**plan) for name, plan in state["current"].items()}

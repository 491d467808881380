"""Any Gymnasium environment with discrete spaces as a constrained MDP."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike

from envs.errors import InvalidSetting
from envs.tabular import memory
from envs.tabular.cmdp import Array, ConstrainedMDP, Task
from envs.tabular.env import TabularEnv
from envs.tabular.pictures import Layout

CostFunction = Callable[[int, int], float | Sequence[float]]

MOVES = {
    "FrozenLakeEnv": ((0, -1), (1, 0), (0, 1), (-1, 0)),
    "CliffWalkingEnv": ((-1, 0), (0, 1), (1, 0), (0, -1)),
}
"""Rows and columns of each action, of the environments that are drawn as grids."""


@dataclass(frozen=True)
class StateCost:
    """A cost function: 1 for each step in one of these states, whatever is done there."""

    states: tuple[int, ...]

    def __call__(self, state: int, action: int) -> float:
        return float(state in self.states)


class TabularGymnasium(TabularEnv):
    """Episodes of `horizon` steps of another environment, with costs and budgets.

    States are those of the other environment and one behind them, the end. An episode that terminates in state s stays
    there for one step, in which ``r(s, .)`` and ``c(s, .)`` are paid, and is in the end from then on, free; what is
    reached by the last step is not paid. Where the first state is random, an episode has one more step in front, and
    one more state: the beginning, free as well.

    Rewards are known to the learner, as in the theory. Without `rewards` they are read from the environment's table
    ``P[s][a] = [(probability, next state, reward, terminated), ...]``: as ``r(s, a)`` if they depend on state and
    action alone, otherwise as ``r(s')``, paid in the step after the arrival, if they depend on the next state alone
    (FrozenLake), otherwise as their mean, with a warning, for they then tell of the kernel.

    The true model, and with it exact evaluation and the generative model, is read from the table too. Without a table
    episodes can be played, and `rewards` must be given.

    Args:
        env: its name for `gymnasium.make`, or an instance without a limit of time.
        cost: a function ``(s, a)`` that returns a number, or N of them; or a table ``(S, A)`` or ``(N, S, A)``.
        budgets: a number, or N of them: the largest allowed expected sum of each cost in an episode.
        horizon: steps of an episode.
        rewards: a function ``(s, a)`` or a table ``(S, A)``; None reads the environment's.
        env_kwargs: for `gymnasium.make`.

    Raises:
        InvalidSetting: if a space is not discrete, rewards are unknown, shapes do not match, or memory is too small.
    """

    def __init__(
        self,
        env: str | gym.Env[Any, Any],
        cost: CostFunction | ArrayLike,
        budgets: ArrayLike,
        horizon: int,
        *,
        rewards: CostFunction | ArrayLike | None = None,
        env_kwargs: Mapping[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        if horizon < 1:
            raise InvalidSetting("horizon", f"is {horizon}", "An episode has at least one step.")
        if isinstance(env, str):
            env = gym.make(
                env, max_episode_steps=horizon + 1, render_mode=render_mode, **dict(env_kwargs or {})
            )
        self.inner = env
        n, actions = (
            _size(space, name)
            for space, name in (
                (env.observation_space, "observation_space"),
                (env.action_space, "action_space"),
            )
        )
        table = getattr(env.unwrapped, "P", None)
        first = getattr(env.unwrapped, "initial_state_distrib", None)
        starts = [] if table is None or first is None else np.flatnonzero(first).tolist()
        random_start = len(starts) != 1
        self._end, self._begin_state = n, n + 1 if random_start else starts[0]
        states = n + 1 + int(random_start)
        steps = horizon + int(random_start)
        memory.check_states(states, actions, steps)
        known, kernel = None, None
        if table is not None:
            known, kernel = self._read(table, first, n, actions, states, random_start)
        if rewards is not None:
            known = _table(rewards, n, actions, "rewards")[0]
        if known is None:
            raise InvalidSetting(
                "rewards",
                f"are unknown, as {type(env.unwrapped).__name__} has no table P",
                "Give them as a function of state and action, or as a table.",
            )
        paid = _table(cost, n, actions, "cost")
        task = Task(
            np.pad(known, ((0, states - n), (0, 0))),
            np.pad(paid, ((0, 0), (0, states - n), (0, 0))),
            np.atleast_1d(np.asarray(budgets, dtype=np.float64)),
            steps,
            self._begin_state,
        )
        super().__init__(
            task, None if kernel is None else ConstrainedMDP(task, kernel), _layout(env.unwrapped, n)
        )
        self.render_mode = render_mode
        self._over = False

    def _read(
        self, table: Any, first: Any, n: int, actions: int, states: int, random_start: bool
    ) -> tuple[Array, Array]:
        """Rewards ``(n, A)`` and kernel ``(S, A, S)`` of a table."""
        outcomes = [
            (s, a, float(p), int(t), float(reward), bool(over))
            for s in range(n)
            for a in range(actions)
            for p, t, reward, over in table[s][a]
            if p > 0
        ]
        terminal = {t for *_, t, _, over in outcomes if over}
        outcomes = [row for row in outcomes if row[0] not in terminal]
        kernel = np.zeros((states, actions, states))
        for s, a, p, t, _, _ in outcomes:
            kernel[s, a, t] += p
        for s in (*terminal, self._end):
            kernel[s, :, self._end] = 1.0
        if random_start:
            kernel[self._begin_state, :, :n] = np.asarray(first) / np.sum(first)
        return _rewards(outcomes, n, actions, None if random_start else self._begin_state), kernel

    def _begin(self) -> None:
        # The generator of the other environment follows this one's, so that one seed decides everything.
        state, _ = self.inner.reset(seed=int(self.np_random.integers(2**31)))
        self._arrived, self._over = int(state), False

    def _next(self, action: int) -> int:
        if self.state == self._end or self._over:
            return self._end
        if self.state == self._end + 1:
            return self._arrived
        state, _, terminated, truncated, _ = self.inner.step(action)
        if truncated:
            raise InvalidSetting(
                "env", "was cut off by a limit of time within the horizon", "Make it with a larger one."
            )
        self._over = bool(terminated)
        return int(state)

    def render(self) -> Any:
        """What the other environment renders."""
        return self.inner.render()

    def close(self) -> None:
        """Close the other environment."""
        self.inner.close()


def _rewards(
    outcomes: list[tuple[int, int, float, int, float, bool]], n: int, actions: int, start: int | None
) -> Array:
    by_pair: dict[tuple[int, int], set[float]] = {}
    by_arrival: dict[int, set[float]] = {}
    mean = np.zeros((n, actions))
    for s, a, p, t, reward, _ in outcomes:
        by_pair.setdefault((s, a), set()).add(reward)
        by_arrival.setdefault(t, set()).add(reward)
        mean[s, a] += p * reward
    if all(len(found) == 1 for found in by_pair.values()):
        return mean
    at_start = by_arrival.get(-1 if start is None else start, {0.0})
    if all(len(found) == 1 for found in by_arrival.values()) and at_start == {0.0}:
        arrival = np.zeros((n, actions))
        for t, (reward,) in by_arrival.items():
            arrival[t] = reward
        return arrival
    warnings.warn(
        "rewards: depend on state, action and next state together; their mean over the true kernel is taken, which "
        "tells of it. Give rewards that depend on state and action for the theory to hold.",
        stacklevel=4,
    )
    return mean


def _table(values: Any, states: int, actions: int, field: str) -> Array:
    """A function ``(s, a)``, or a table ``(S, A)`` or ``(N, S, A)``, as ``(N, S, A)``."""
    if callable(values):
        rows = [[np.atleast_1d(values(s, a)) for a in range(actions)] for s in range(states)]
        found = np.moveaxis(np.asarray(rows, dtype=np.float64), 2, 0)
    else:
        found = np.asarray(values, dtype=np.float64)
        found = found[None] if found.ndim == 2 else found
    if found.ndim != 3 or found.shape[1:] != (states, actions):
        raise InvalidSetting(
            field,
            f"has shape {found.shape}",
            f"Give a function of (s, a), or a table of {(states, actions)}.",
        )
    return found


def _size(space: gym.Space[Any], name: str) -> int:
    if not isinstance(space, gym.spaces.Discrete) or space.start != 0:
        raise InvalidSetting(name, f"is {space}", "Use an environment whose spaces are Discrete(n).")
    return int(space.n)


def _layout(env: gym.Env[Any, Any], n: int) -> Layout | None:
    moves = MOVES.get(type(env).__name__)
    if moves is None:
        return None
    if hasattr(env, "desc"):
        letters = np.asarray(env.desc)
        marks = {i: letter.decode() for i, letter in enumerate(letters.ravel()) if letter != b"F"}
        return Layout(letters.shape[0], letters.shape[1], marks, moves)
    rows, columns = env.shape  # type: ignore[attr-defined]
    return Layout(rows, columns, {n - columns: "S", n - 1: "G"}, moves)

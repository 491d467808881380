"""The grid worlds of the paper (seed 003, section 5; specification online_crl, section 8).

``n x n`` cells, ``s = row n + column``; episodes begin in cell 0, and the last cell is the goal, which is never left.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import numpy as np

from envs.errors import InvalidSetting
from envs.tabular.cmdp import Array, ConstrainedMDP, Task

ACTIONS = ("left", "right", "down", "up")
MOVES = ((0, -1), (0, 1), (1, 0), (-1, 0))
"""Of each action: by how many rows and columns it moves."""
RIGHT = ACTIONS.index("right")

SUCCESS = 2 / 3
"""Probability that a move succeeds; otherwise the agent stays where it is."""
BAD_STATE_SUCCESS = 0.9
"""The same for leaving the bad cell."""

RewardMode: TypeAlias = Literal["goal", "arrival", "author"]
Scenario: TypeAlias = Literal["1a", "1b", "2"]
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)


def grid_kernel(side: int, success: Array) -> Array:
    """``P (S, 4, S)``: a move out of state s succeeds with probability ``success[s]``; off the grid it stays."""
    states = side * side
    kernel = np.zeros((states, len(ACTIONS), states))
    for s in range(states):
        for a, (down, right) in enumerate(MOVES):
            row, column = s // side + down, s % side + right
            inside = 0 <= row < side and 0 <= column < side and s != states - 1
            if inside:
                kernel[s, a, row * side + column] = success[s]
            kernel[s, a, s] = 1.0 - success[s] if inside else 1.0
    return kernel


def grid_rewards(kernel: Array, mode: RewardMode) -> Array:
    """``r (S, A)``.

    ``"goal"``: 1 for each step in the goal. ``"arrival"``: the probability of arriving there, which ties the reward to
    the kernel. ``"author"``: the public scripts' of the 3 x 3 grid, where the steps towards the goal earn 1 too.

    Raises:
        InvalidSetting: on an unknown mode, or ``"author"`` on another grid.
    """
    states, actions, _ = kernel.shape
    rewards = np.zeros((states, actions))
    if mode == "arrival":
        rewards[:] = kernel[:, :, -1]
        rewards[-1] = 0.0
    elif mode == "goal" or (mode == "author" and states == 9):
        rewards[-1] = 1.0
        if mode == "author":
            rewards[5, 2] = rewards[7, RIGHT] = 1.0
    else:
        raise InvalidSetting(
            "reward", f"is {mode!r} on {states} cells", "Use 'goal' or 'arrival', or 'author' on 9 cells."
        )
    return rewards


def action_budget(
    side: int = 3, horizon: int = 10, budget: float = 2.0, reward: RewardMode = "goal"
) -> ConstrainedMDP:
    """Few moves to the right: each costs 1, but none in the goal (scenarios 1a and 1b)."""
    states = side * side
    kernel = grid_kernel(side, np.full(states, SUCCESS))
    costs = np.zeros((1, states, len(ACTIONS)))
    costs[0, :-1, RIGHT] = 1.0
    task = Task(grid_rewards(kernel, reward), costs, np.array([budget]), horizon)
    return ConstrainedMDP(task, kernel)


def bad_state(
    side: int = 3, horizon: int = 10, budget: float = 0.0, reward: RewardMode = "goal"
) -> ConstrainedMDP:
    """Each step in the centre cell costs 1 (scenario 2); it is left more easily than others."""
    states = side * side
    centre = states // 2
    success = np.full(states, SUCCESS)
    success[centre] = BAD_STATE_SUCCESS
    kernel = grid_kernel(side, success)
    costs = np.zeros((1, states, len(ACTIONS)))
    costs[0, centre] = 1.0
    task = Task(grid_rewards(kernel, reward), costs, np.array([budget]), horizon)
    return ConstrainedMDP(task, kernel)


def grid_world(scenario: Scenario = "1a", reward: RewardMode = "goal") -> ConstrainedMDP:
    """A scenario of the paper.

    Raises:
        InvalidSetting: on an unknown scenario or reward.
    """
    if scenario == "1a":
        return action_budget(3, 10, 2.0, reward)
    if scenario == "1b":
        return action_budget(4, 15, 3.0, reward)
    if scenario == "2":
        return bad_state(3, 10, 0.0, reward)
    raise InvalidSetting("scenario", f"is {scenario!r}", f"Choose one of: {', '.join(SCENARIOS)}.")

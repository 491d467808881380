"""Constrained MDPs with finitely many states: data, the paper's grid worlds, Gymnasium environments (seed 003)."""

from envs.tabular.adapter import StateCost, TabularGymnasium
from envs.tabular.cmdp import Array, ConstrainedMDP, Ints, Task
from envs.tabular.env import GridWorldEnv, TabularEnv
from envs.tabular.grid_worlds import SCENARIOS, action_budget, bad_state, grid_world
from envs.tabular.pictures import Layout, draw_occupancy, draw_policy, picture

__all__ = [
    "SCENARIOS",
    "Array",
    "ConstrainedMDP",
    "GridWorldEnv",
    "Ints",
    "Layout",
    "StateCost",
    "TabularEnv",
    "TabularGymnasium",
    "Task",
    "action_budget",
    "bad_state",
    "draw_occupancy",
    "draw_policy",
    "grid_world",
    "picture",
]

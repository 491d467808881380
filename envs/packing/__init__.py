"""The packing problem with a hidden quadratic objective (seed 001, section 5.1)."""

from envs.packing.baselines import (
    GlobalSolution,
    frank_wolfe,
    global_optimum,
    linearised,
    random_cuts,
)
from envs.packing.env import PackingEnv, packing_problem
from envs.packing.instance import Packing, draw_packing
from envs.packing.local_search import local_search

__all__ = [
    "GlobalSolution",
    "Packing",
    "PackingEnv",
    "draw_packing",
    "frank_wolfe",
    "global_optimum",
    "linearised",
    "local_search",
    "packing_problem",
    "random_cuts",
]

"""Projected policy gradients on the three-stage inventory chain (seed 002 on the chain of seed 000)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from algorithms.projected_pg.policy import ProjectedPolicy
from envs.inventory import DEFAULT
from envs.inventory.evaluation import demand_paths
from envs.inventory.planning import perfect_information
from envs.inventory.policies import tuned_base_stock
from tune_configs import projected_pg
from tune_configs.evaluation import Columns, Evaluation, PolicyResult, Published
from tune_configs.experiment import Section
from tune_configs.omlt_ddpg_inventory import measured
from tune_configs.projected_pg import CHECKPOINT_EVERY, fit
from tune_configs.runs import Record

__all__ = ["CHECKPOINT_EVERY", "config", "evaluation", "fit", "param_space", "sections"]

TITLE = "Projected policy gradients on the inventory chain"
PRESETS = ("corrected", "uncorrected")
EPISODES = 2_560
STOP = {projected_pg.EPISODES_METRIC: EPISODES}
EVALUATION_EPISODES = 100
FLAGS = ()
PUBLISHED = Published(source="Seed 002 does not treat this problem; nothing is compared.")
COLUMNS = Columns(
    note=(
        "A step violates if a stock exceeds its capacity at any moment of the period; the bound is Clopper-Pearson's "
        "upper 95 % bound on the probability of such a step, with steps counted as independent."
    )
)


def config(preset: str = "corrected", seed: int = 0) -> Any:
    """The `ProjectedDPGConfig` of a preset, ready to build.

    Raises:
        InvalidSetting: if the preset is unknown.
    """
    return projected_pg.chosen("inventory", PRESETS, preset, seed)


def param_space(preset: str = "corrected", seeds: int = 5, rates: bool = False) -> Any:
    """What `projected_pg.opened` opens of the preset."""
    return projected_pg.opened(config(preset), seeds, rates)


def evaluation(checkpoint: Path, episodes: int, seed: int) -> Evaluation:
    """The trained policy, a tuned base-stock policy, and what perfect information would earn, with the same customers.

    Raises:
        CheckpointError: if the checkpoint is missing or damaged.
    """
    policy = ProjectedPolicy.from_checkpoint(checkpoint)
    best = perfect_information(DEFAULT, demand_paths(DEFAULT, episodes, seed))
    rows = [
        measured("projected policy", policy, DEFAULT, episodes, seed),
        measured("base-stock, tuned (reference)", tuned_base_stock(DEFAULT), DEFAULT, episodes, seed),
        PolicyResult("perfect information (upper bound)", (float(np.mean(best)), float(np.std(best)))),
    ]
    room = ", ".join(f"{c:g}" for c in DEFAULT.storage_capacity)
    return Evaluation(episodes, seed, f"capacities {room}", rows, COLUMNS)


def sections(records: Sequence[Record]) -> list[Section]:
    """Nothing besides what all reports show."""
    return []

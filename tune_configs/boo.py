"""What the experiments with BOO have in common: presets, what a sweep varies, sections of the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tune_configs import figures
from tune_configs.experiment import Section, scaled
from tune_configs.runs import Record

PRESETS = ("tuned", "paper")
EPISODES_METRIC = "env_runners/num_episodes_lifetime"
"""Training ends by episodes: how many steps one has may depend on its luck."""
CHECKPOINT_EVERY = 10.0
"""[s]; many iterations are shorter than what a checkpoint is worth."""
CUTS = (1, 2, 3)
"""K of the trials of a sweep. More cuts cost more for each master: 3 ms to 0.8 s from K = 1 to 4 at N = 50."""
FACTORS = (0.25, 0.5, 1.0, 2.0)
"""Of the learning rate that a sweep tries."""


def prepared(config: Any, seed: int) -> Any:
    """A preset of `algorithms.boo.presets` as an experiment runs it."""
    config.debugging(seed=seed)
    return config.reporting(metrics_num_episodes_for_smoothing=256)


def fit(config: Any, episodes: int) -> None:
    """No more environments than the run has episodes, in whole groups; iterations play one episode in each."""
    together = config.group_size * max(config.num_env_runners, 1)
    wanted = config.group_size * -(-episodes // together)
    config.env_runners(num_envs_per_env_runner=min(config.num_envs_per_env_runner, wanted))


def opened(config: Any, seeds: int, rates: bool) -> Any:
    """Seeds ``0 .. seeds - 1`` as a grid; `rates` adds K to the grid and draws learning rates around the preset's."""
    from ray import tune

    config.debugging(seed=tune.grid_search(list(range(seeds))))
    if rates:
        config.environment(env_config={"cuts": tune.grid_search(list(CUTS))})
        config.training(lr=tune.choice([scaled(config.lr, f) for f in FACTORS]))
    return config


def sections(records: Sequence[Record]) -> list[Section]:
    """How long masters took while the policy learned (the paper's Appendix A)."""
    lines = [[line for line in record.iterations if "master/seconds" in line] for record in records]
    drawing = figures.master_times([run for run in lines if run])
    note = (
        "Time of one master's solve and the gap it was left with, over the episodes of an iteration; the solver "
        "stops at its gap or its limit of time. The paper's Appendix A tells of such times falling while BOO learns."
    )
    return [Section("Master solve time over training", drawing, note)]

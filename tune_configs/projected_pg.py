"""What the experiments with projected policy gradients have in common: presets, what a sweep varies, the report."""

from __future__ import annotations

from typing import Any

from envs.errors import InvalidSetting
from tune_configs.experiment import scaled

EPISODES_METRIC = "env_runners/num_episodes_lifetime"
CHECKPOINT_EVERY = 10.0
"""[s]; many iterations are shorter than what a checkpoint is worth."""
FACTORS = (0.25, 0.5, 1.0, 2.0)
"""Of the learning rates that a sweep tries."""


def chosen(problem: str, presets: tuple[str, ...], name: str, seed: int) -> Any:
    """A preset of `algorithms.projected_pg.presets` as an experiment runs it.

    Raises:
        InvalidSetting: if the preset is unknown.
    """
    if name not in presets:
        raise InvalidSetting("preset", f"{name!r} is unknown", f"Choose one of: {', '.join(presets)}.")
    from algorithms.projected_pg import presets as known  # imports Ray, which an evaluation does without

    return known.preset(problem, name).debugging(seed=seed)


def fit(config: Any, episodes: int) -> None:
    """No more environments than the run has episodes; iterations play one episode in each."""
    wanted = -(-episodes // max(config.num_env_runners, 1))
    config.env_runners(num_envs_per_env_runner=min(config.num_envs_per_env_runner, wanted))


def opened(config: Any, seeds: int, rates: bool) -> Any:
    """Seeds ``0 .. seeds - 1`` as a grid; `rates` also draws the actor's learning rate around the preset's."""
    from ray import tune

    config.debugging(seed=tune.grid_search(list(range(seeds))))
    if rates:
        name = "actor_lr" if hasattr(config, "actor_lr") else "lr"
        config.training(**{name: tune.choice([scaled(getattr(config, name), f) for f in FACTORS])})
    return config

"""Online-CRL on Gymnasium's FrozenLake: reach the goal, and fall into a hole in one of twenty episodes at most.

`config` trains; `evaluation` compares what was learned with the optimum of the true model, exactly.
"""

from __future__ import annotations

from typing import Any

from algorithms.crl.names import KINDS
from envs.errors import InvalidSetting
from envs.tabular import StateCost
from tune_configs import crl
from tune_configs.crl import CHECKPOINT_EVERY, evaluation, fit, sections
from tune_configs.evaluation import Published

__all__ = ["CHECKPOINT_EVERY", "PRESETS", "config", "evaluation", "fit", "param_space", "sections"]

TITLE = "FrozenLake with a budget for falls"
PRESETS = KINDS
EPISODES = 1_000
STOP = {crl.EPISODES_METRIC: EPISODES}
EVALUATION_EPISODES = 500
FLAGS = ()
PUBLISHED = Published(source="nobody published figures of this problem.")

HOLES = (5, 7, 11, 12)
"""States of the 4 x 4 map. An episode that falls is in one for a single step."""
HORIZON = 40
BUDGET = 0.05
"""Expected falls of an episode. Without it the best policy falls in 0.15 of them at least, and reaches the goal in 0.45
instead of 0.23."""


def config(preset: str = "online", seed: int = 0) -> Any:
    """The `AlgorithmConfig` of a preset, ready to build.

    Raises:
        InvalidSetting: if the preset is unknown.
    """
    if preset not in PRESETS:
        raise InvalidSetting("preset", f"{preset!r} is unknown", f"Choose one of: {', '.join(PRESETS)}.")
    from algorithms.crl import presets  # imports Ray, which an evaluation does without

    chosen = presets.preset(preset)
    chosen.environment(
        "solverl/TabularGymnasium-v0",
        env_config={"env": "FrozenLake-v1", "cost": StateCost(HOLES), "budgets": BUDGET, "horizon": HORIZON},
    )
    return chosen.debugging(seed=seed).reporting(metrics_num_episodes_for_smoothing=100)


def param_space(preset: str = "online", seeds: int = 5, rates: bool = False) -> Any:
    """What `crl.opened` opens of the preset: seeds, and with `rates` the radius of the ball."""
    return crl.opened(config(preset), seeds, rates)

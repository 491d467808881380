"""Online-CRL and Optimistic-GMBL on the paper's grid worlds (seed 003, section 5).

`config` trains; `evaluation` compares what was learned with the optimum of the true model, exactly.
"""

from __future__ import annotations

from typing import Any

from algorithms.crl.names import KINDS
from envs.errors import InvalidSetting
from envs.tabular import SCENARIOS
from tune_configs import crl
from tune_configs.crl import CHECKPOINT_EVERY, evaluation, fit, sections
from tune_configs.evaluation import Published

__all__ = ["CHECKPOINT_EVERY", "PRESETS", "config", "evaluation", "fit", "param_space", "sections"]

TITLE = "Unknown constrained MDPs: the paper's grid worlds"
PRESETS = tuple(f"{kind}{suffix}" for suffix in ("", *(f"_{s}" for s in SCENARIOS[1:])) for kind in KINDS)
"""An algorithm on scenario 1a, or with the name of another scenario behind it."""
EPISODES = 500
STOP = {crl.EPISODES_METRIC: EPISODES}
EVALUATION_EPISODES = 500
FLAGS = ()
PUBLISHED = Published(
    source="seed 003 shows its results as curves without numbers; both algorithms reach the optimum in all scenarios."
)


def config(preset: str = "online", seed: int = 0) -> Any:
    """The `AlgorithmConfig` of a preset, ready to build.

    Raises:
        InvalidSetting: if the preset is unknown.
    """
    if preset not in PRESETS:
        raise InvalidSetting("preset", f"{preset!r} is unknown", f"Choose one of: {', '.join(PRESETS)}.")
    from algorithms.crl import presets  # imports Ray, which an evaluation does without

    scenario = next((s for s in SCENARIOS if preset.endswith(f"_{s}")), SCENARIOS[0])
    chosen = presets.preset(preset.removesuffix(f"_{scenario}"))
    chosen.environment("solverl/GridWorld-v0", env_config={"scenario": scenario})
    return chosen.debugging(seed=seed).reporting(metrics_num_episodes_for_smoothing=100)


def param_space(preset: str = "online", seeds: int = 5, rates: bool = False) -> Any:
    """What `crl.opened` opens of the preset: seeds, and with `rates` the radius of the ball."""
    return crl.opened(config(preset), seeds, rates)

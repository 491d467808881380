"""What the experiments with shielded PPO and SAC have in common: presets, recording, sections of the report."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algorithms.common.deployed import DeployedPolicy
from algorithms.common.shield import Outcome
from envs.errors import InvalidSetting
from envs.safe_set import SafeSet
from envs.statistics import clopper_pearson
from solver_pool.problem import Array
from tune_configs.experiment import Section, scaled
from tune_configs.runs import Record

PRESETS = ("ppo", "sac", "ppo-unshielded", "sac-unshielded")
EPISODES_METRIC = "env_runners/num_episodes_lifetime"
CHECKPOINT_EVERY = 10.0
"""[s]; many iterations are shorter than what a checkpoint is worth."""
FACTORS = (0.25, 0.5, 1.0, 2.0)
"""Of the learning rates that a sweep tries."""
TIMED = 50
"""Decisions that are made one at a time to measure a decision's time."""

Broken = Callable[[NDArray[Any], list[dict[str, Any]]], NDArray[np.bool_]]


def base(preset: str) -> Any:
    """RLlib's config of the algorithm that a preset names, with one environment runner in the algorithm's process.

    Raises:
        InvalidSetting: if the preset is unknown.
    """
    if preset not in PRESETS:
        raise InvalidSetting("preset", f"{preset!r} is unknown", f"Choose one of: {', '.join(PRESETS)}.")
    from algorithms.common.recorded import (
        RecordedPPO,
        RecordedSAC,
    )  # imports Ray, which an evaluation does without

    if preset.startswith("ppo"):
        config: Any = RecordedPPO.get_default_config()
        config.rl_module(model_config={"fcnet_hiddens": [64, 64]})
    else:
        config = RecordedSAC.get_default_config()
        hidden = ("fcnet_hiddens", "fusionnet_hiddens")
        config.rl_module(model_config={**{name: [64, 64] for name in hidden}, "fcnet_activation": "relu"})
        config.training(replay_buffer_config={"type": "EpisodeReplayBuffer", "capacity": 100_000}, n_step=1)
        config.reporting(min_time_s_per_iteration=None)
    return config.env_runners(num_env_runners=0)


def prepared(config: Any, preset: str, seed: int, broken: Broken, safe_set: SafeSet | None = None) -> Any:
    """A config with its environment as an experiment runs it: recorded, and shielded unless the preset says not to.

    Without the shield the same actions are checked and counted, and executed all the same.
    """
    from algorithms.common.recorded import RecordEpisodes
    from algorithms.common.shielding import shielded

    config.debugging(seed=seed)
    config.reporting(metrics_num_episodes_for_smoothing=100)
    config.callbacks(on_sample_end=RecordEpisodes(broken))
    return shielded(config, safe_set, mode="raw" if preset.endswith("unshielded") else "repair")


def fitted(config: Any, episodes: int, length: int) -> None:
    """No more environments than the run has episodes, and iterations of whole episodes of so many steps, in each."""
    config.env_runners(num_envs_per_env_runner=min(config.num_envs_per_env_runner, episodes))
    together = config.num_envs_per_env_runner * max(config.num_env_runners, 1) * length
    if config.minibatch_size:  # on-policy
        steps = min(config.train_batch_size_per_learner, episodes * length)
        batch = together * max(steps // together, 1)
        config.training(train_batch_size_per_learner=batch, minibatch_size=min(config.minibatch_size, batch))
    else:
        config.reporting(min_sample_timesteps_per_iteration=together)


def opened(config: Any, seeds: int, rates: bool) -> Any:
    """Seeds ``0 .. seeds - 1`` as a grid; `rates` draws learning rates around the preset's."""
    from ray import tune

    config.debugging(seed=tune.grid_search(list(range(seeds))))
    if rates:
        names = [name for name in ("lr", "actor_lr", "critic_lr") if getattr(config, name, None) is not None]
        config.training(**{n: tune.choice([scaled(getattr(config, n), f) for f in FACTORS]) for n in names})
    return config


class Counted:
    """A deployed policy that counts what its shield does.

    Args:
        mode: of the shield, which need not be the one of training.
    """

    def __init__(self, policy: DeployedPolicy, mode: Any) -> None:
        self._policy = replace(policy, mode=mode)
        self._outcomes = np.zeros(len(Outcome), dtype=np.int64)
        self._worst = 0.0

    def __call__(self, observations: Array) -> Array:
        """Executed actions ``(B, n_a)`` for observations ``(B, n_s)``."""
        shielded = self._policy.act_batch(observations)
        self._outcomes += np.bincount(shielded.outcome, minlength=len(Outcome))
        self._worst = max(self._worst, float(shielded.violation.max()))
        return shielded.actions

    def figures(self) -> dict[str, float]:
        """Executed actions by outcome, and the largest violation of their rows."""
        counts = {outcome.name.lower(): float(self._outcomes[outcome]) for outcome in Outcome}
        return {**counts, "largest_row_violation": self._worst}

    def milliseconds(self, observations: Array) -> float:
        """Median time of one decision [ms], over some of the observations ``(B, n_s)``."""
        taken = []
        for one in observations[:TIMED, None]:
            started = time.perf_counter()
            self._policy.act_batch(one)
            taken.append(time.perf_counter() - started)
        return 1e3 * float(np.median(taken))


def names(policy: DeployedPolicy) -> tuple[str, str]:
    """What the rows of an evaluation are called: behind the shield, and without it."""
    algorithm = "SAC" if policy.squashed else "PPO"
    trained = "trained without" if policy.mode == "raw" else "trained behind"
    return f"{algorithm} {trained}, shielded", f"{algorithm} {trained}, unshielded"


def sections(records: Sequence[Record]) -> list[Section]:
    """How often the constraint was broken while training, by the environment's own state."""
    rows = []
    for record in records:
        steps = sum(e.length for e in record.episodes)
        broken = sum(e.unsafe_steps for e in record.episodes)
        cells = (
            record.settings.get("preset"),
            record.settings.get("seed"),
            f"{broken:,} of {steps:,}",
            f"{100 * clopper_pearson(broken, steps):.3g} %",
            f"{sum(e.unsafe_steps > 0 for e in record.episodes):,} of {len(record.episodes):,}",
        )
        rows.append("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells) + "</tr>")
    head = "".join(
        f"<th>{title}</th>"
        for title in ("preset", "seed", "violating steps", "95 % bound", "violating episodes")
    )
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    note = (
        "Counted from what the environment returned after each step of a finished episode, exploration included, by "
        "code that knows neither the shield nor its rows; the bound is Clopper-Pearson's upper 95 % bound on the "
        "probability of such a step, with steps counted as independent."
    )
    return [Section("Violations while training", table, note)]

"""Projected policy gradients on robust linear MPC (seed 002, section 6): a target next to the constraints."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from algorithms.common.shield import shield
from algorithms.projected_pg.policy import ProjectedPolicy
from envs.linear_tube import SetPoint, draw_plane, reference_task
from solver_pool.pool import SolverPool
from solver_pool.problem import Array
from tune_configs import figures, projected_pg
from tune_configs.evaluation import Columns, Evaluation, PolicyResult, Published
from tune_configs.experiment import Section
from tune_configs.projected_pg import CHECKPOINT_EVERY, fit
from tune_configs.runs import Record

__all__ = ["CHECKPOINT_EVERY", "config", "evaluation", "fit", "param_space", "sections"]

TITLE = "Projected policy gradients on robust linear MPC"
PRESETS = ("corrected", "uncorrected", "stochastic", "executed")
EPISODES = 7_680
STOP = {projected_pg.EPISODES_METRIC: EPISODES}
EVALUATION_EPISODES = 200
FLAGS = ()
PUBLISHED = Published(
    source="The seed does not hold the paper's own example (its section 6); nothing is compared."
)
COLUMNS = Columns(
    reward="discounted cost",
    penalty="",
    digits=3,
    violations="steps outside the constraints",
    note=(
        "Lower is better. All policies meet the same first states and disturbances. A step violates if the state or "
        "the input breaks its own constraints, without the tightening that the safe set adds; the bound is "
        "Clopper-Pearson's upper 95 % bound."
    ),
)


def config(preset: str = "corrected", seed: int = 0) -> Any:
    """The `ProjectedDPGConfig` or `ProjectedPGConfig` of a preset, ready to build.

    Raises:
        InvalidSetting: if the preset is unknown.
    """
    return projected_pg.chosen("tube", PRESETS, preset, seed)


def param_space(preset: str = "corrected", seeds: int = 5, rates: bool = False) -> Any:
    """What `projected_pg.opened` opens of the preset."""
    return projected_pg.opened(config(preset), seeds, rates)


def evaluation(checkpoint: Path, episodes: int, seed: int) -> Evaluation:
    """The trained policy, the stabilising gain alone, and the target's own input, each under the same projection.

    Raises:
        CheckpointError: if the checkpoint is missing or damaged.
    """
    policy, task = ProjectedPolicy.from_checkpoint(checkpoint), reference_task()
    gain = task.safe_set.tube.gain
    noise = np.random.default_rng(seed)
    policies: dict[str, Callable[[Array], Array]] = {
        "trained policy": lambda x: policy.act_batch(x, noise).actions,
        "LQR gain towards the target": lambda x: _projected(task, (x - task.target) @ gain.T, x),
        "LQR gain towards the origin": lambda x: _projected(task, x @ gain.T, x),
    }
    rows, paths = [], {}
    for name, act in policies.items():
        costs, violations, steps, seconds, path = _play(task, act, episodes, seed)
        rows.append(
            PolicyResult.of(name, costs.tolist(), (), violations, steps, ms_per_action=1e3 * seconds / steps)
        )
        paths[name] = path
    shown = {name: path[:, :4].tolist() for name, path in paths.items()}
    return Evaluation(
        episodes, seed, f"{task.steps} steps, discount {task.discount}", rows, COLUMNS, {"paths": shown}
    )


def _projected(task: SetPoint, proposals: Array, x: Array) -> Array:
    return shield(task.safe_set, x, proposals, SolverPool(), "repair").actions


def _play(
    task: SetPoint, act: Callable[[Array], Array], episodes: int, seed: int
) -> tuple[Array, int, int, float, Array]:
    """Costs ``(E,)``, violating steps, steps, seconds in the policy, and states ``(T + 1, E, n)``."""
    rng, system = np.random.default_rng(seed), task.safe_set.tube.system
    x = task.safe_set.sample(rng, episodes)
    costs, violations, seconds, path = np.zeros(episodes), 0, 0.0, [x]
    for t in range(task.steps):
        began = time.perf_counter()
        u = act(x)
        seconds += time.perf_counter() - began
        outcome = task.play(x, u, system.disturbance.sample(rng, episodes))
        costs -= task.discount**t * outcome.reward
        violations += int((outcome.cost > 1e-9).any(axis=1).sum())
        x = outcome.state
        path.append(x)
    return costs, violations, task.steps * episodes, seconds, np.array(path)


def sections(records: Sequence[Record]) -> list[Section]:
    """Evaluated episodes in the plane of the states."""
    evaluated = next((record.evaluation for record in records if record.evaluation), None)
    if evaluated is None:
        return []
    drawing = figures.planes(
        {name: np.array(path) for name, path in evaluated.drawing["paths"].items()},
        lambda path, axes: draw_plane(reference_task(), path.swapaxes(0, 1), axes),
    )
    note = (
        "The first four evaluated episodes: states, the constraints, and the feasible set, from which a plan exists "
        "that keeps the constraints whatever the disturbances."
    )
    return [Section("Episodes in the plane", drawing, note)]

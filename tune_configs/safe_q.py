"""SafeQ on the tracking system: the maximum under the safe rows beside projecting the maximum (seed 002, Figure 1).

`config` trains with one selection; `evaluation` deploys the trained critic with both, beside controllers that know the
model and the optimum with perfect information.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from algorithms.safe.policy import SafePolicy
from algorithms.safe_q.maximisers import SELECTIONS, Selection
from algorithms.safe_q.policy import load, selected, trained_selection
from envs.errors import InvalidSetting
from envs.tracking import DEFAULT, SupplySafeSet, TrackingSystem
from envs.tracking.planning import (
    constrained_controller,
    perfect_information,
    play,
    projected_controller,
)
from envs.tracking.system import Array
from tune_configs import figures
from tune_configs.evaluation import Columns, Evaluation, PolicyResult, Published
from tune_configs.experiment import Section, scaled
from tune_configs.omlt_ddpg_inventory import Recorded
from tune_configs.runs import Record

TITLE = "SafeQ on the tracking system"
PRESETS = SELECTIONS
EPISODES = 250
EPISODE_LENGTH = DEFAULT.periods
STOP = {"num_env_steps_sampled_lifetime": EPISODES * EPISODE_LENGTH}
CHECKPOINT_EVERY = 10.0
EVALUATION_EPISODES = 300
FLAGS = ()
PUBLISHED = Published(source="seed 002 states no figures for its section 3; Figure 1 is a drawing.")
PERFECT = "perfect information (bound)"
COLUMNS = Columns(
    reward="return",
    penalty="",
    digits=3,
    violations="overloads",
    reference=PERFECT,
    note=(
        "The return is minus the discounted cost; the quotient is that of the costs, 1 the best there is. Perfect "
        "information knows all supplies of the episode, so that its plan is the solution of one convex program and no "
        "policy costs less. The controllers know the model and the mean of coming supplies; they are equation (14) and "
        "equation (12) without anything learned. A period violates if the supply is overloaded by more than 1e-6."
    ),
)
FACTORS = (0.25, 0.5, 1.0, 2.0)
"""Of the learning rate that a sweep tries."""
SCARCE = 0.8
"""Part of the mean supply at which the report draws `Q`."""
TIMED = 50
"""Decisions that are made one at a time to measure a decision's time."""
GRID = 61
"""Points of each axis of that drawing."""


def config(preset: str = "constrained", seed: int = 0) -> Any:
    """The `SafeQConfig` with the selection of that name, ready to build.

    Raises:
        InvalidSetting: if the preset is unknown.
    """
    if preset not in PRESETS:
        raise InvalidSetting("preset", f"{preset!r} is unknown", f"Choose one of: {', '.join(PRESETS)}.")
    from algorithms.common.schedules import decay  # what imports Ray, an evaluation does without
    from algorithms.safe_q.config import SafeQConfig
    from algorithms.safe_q.exploration import RandomChords

    steps = EPISODES * EPISODE_LENGTH
    chosen = SafeQConfig()
    chosen.environment("solverl/Tracking-v0")
    chosen.training(
        selection=preset,
        gamma=DEFAULT.gamma,
        critic_hidden=(64, 64),
        activation="elu",
        critic_lr=decay(4e-3, 0.02, steps),
        tau=0.02,
        steps_per_iteration=250,
    )
    chosen.safety(exploration=RandomChords(share=0.7, share_end=0.2, steps=steps, seed=seed))
    chosen.env_runners(rollout_fragment_length=EPISODE_LENGTH)
    chosen.debugging(seed=seed)
    return chosen.reporting(metrics_num_episodes_for_smoothing=20)


def fit(config: Any, episodes: int) -> None:
    """Iterations of a number of steps that divides the run's, so that the last one ends with the last sample."""
    config.training(steps_per_iteration=math.gcd(config.steps_per_iteration, episodes * EPISODE_LENGTH))


def param_space(preset: str = "constrained", seeds: int = 5, rates: bool = False) -> Any:
    """Seeds ``0 .. seeds - 1`` as a grid; `rates` also draws learning rates around the preset's."""
    from ray import tune

    space = config(preset).debugging(seed=tune.grid_search(list(range(seeds))))
    # It has a seed of its own, which follows the trial's.
    space.safety(exploration=tune.sample_from(lambda spec: config(preset, spec.config["seed"]).exploration))
    if rates:
        space.training(critic_lr=tune.choice([scaled(space.critic_lr, f) for f in FACTORS]))
    return space


def evaluation(checkpoint: Path, episodes: int, seed: int) -> Evaluation:
    """The trained critic with both selections, the controllers and the bound, in the same fresh episodes.

    Raises:
        CheckpointError: if the checkpoint is missing or damaged.
    """
    trained = load(checkpoint)
    system = trained.safe_set.system if isinstance(trained.safe_set, SupplySafeSet) else DEFAULT
    chosen = trained_selection(checkpoint)
    starts = system.episodes(episodes, seed)
    other: Selection = "projected" if chosen == "constrained" else "constrained"
    rows = []
    for selection, name in (
        (chosen, f"SafeQ, {chosen}"), (other, f"the same critic, {other}"),
    ):  # fmt: skip
        rows.append(_measure(name, Recorded(selected(trained, selection)), system, starts))
    rows += [
        _measure("model, constrained (14)", constrained_controller(system), system, starts),
        _measure("model, projected (12)", projected_controller(system), system, starts),
        _measure(PERFECT, perfect_information(system, *starts), system, starts, timed=False),
    ]
    setting = f"supply {system.supply[0]:g} to {system.supply[1]:g}"
    return Evaluation(episodes, seed, setting, rows, COLUMNS, _landscape(trained, system))


def sections(records: Sequence[Record]) -> list[Section]:
    """Figure 1 of seed 002 with the critic that was learned."""
    evaluated = next((record.evaluation for record in records if record.evaluation), None)
    if evaluated is None or not evaluated.drawing:
        return []
    note = (
        "Level sets of the first run's critic over both actions, at the set point, in a period that supplies little. "
        "The best action (3) is not safe (grey area). Projecting it (12) leaves the valley of the level sets; the "
        "maximum under the row (14) moves along it. The cross is what the model says."
    )
    return [Section("Figure 1, learned", figure_one(evaluated.drawing), note)]


def _measure(
    name: str,
    policy: Callable[[Array], Array],
    system: TrackingSystem,
    starts: tuple[Array, Array],
    timed: bool = True,
) -> PolicyResult:
    played = play(policy, system, *starts)
    solver = (
        policy.figures() if isinstance(policy, Recorded) else {}
    )  # of what was played, not of what is timed
    times = []
    if timed:
        states, supplies = starts
        for state, supply in zip(states[:TIMED], supplies[:TIMED, :1], strict=True):
            began = time.perf_counter()
            policy(np.concatenate([state, supply])[None])
            times.append(1e3 * (time.perf_counter() - began))
    return PolicyResult.of(
        name,
        (-played.costs).tolist(),
        (),
        int(played.violations.sum()),
        played.actions.shape[0] * played.actions.shape[1],
        ms_per_action=float(np.median(times)) if times else None,
        solver=solver,
    )


def _landscape(policy: SafePolicy, system: TrackingSystem) -> dict[str, Any]:
    """What `figure_one` draws: `Q` of the critic on a grid of actions, and the actions of all policies."""
    state, supply = np.array(system.goal), SCARCE * float(np.mean(system.supply))
    seen = np.concatenate([state, [supply]])[None]
    axis = np.linspace(0.0, 1.0, GRID)
    actions = np.stack([grid.ravel() for grid in np.meshgrid(axis, axis)], axis=1)
    features = np.repeat(policy.encoder.encode(seen), len(actions), axis=0)
    free = selected(policy, "projected").act_batch(seen)[1].x[0]
    points = {
        "best (3)": free,
        "projected (12)": selected(policy, "projected")(seen)[0],
        "constrained (14)": selected(policy, "constrained")(seen)[0],
        "optimum of the model": constrained_controller(system)(seen)[0],
    }
    values = policy.critic(np.concatenate([features, actions], axis=1)).reshape(GRID, GRID)
    return {
        "axis": axis.tolist(),
        "values": np.round(values, 5).tolist(),
        "draw": list(system.draw),
        "supply": supply,
        "points": {name: point.tolist() for name, point in points.items()},
    }


def figure_one(drawing: dict[str, Any]) -> str:
    """Level sets, the safe half-plane and the actions of `_landscape`, as an SVG element."""
    axis, values = np.array(drawing["axis"]), np.array(drawing["values"])
    (first, second), supply = drawing["draw"], drawing["supply"]
    with matplotlib.rc_context(figures._STYLE):
        figure = Figure(figsize=(6.2, 5.2), layout="constrained")
        axes = figure.subplots()
        # Levels that crowd at the top, where the valley is.
        levels = values.max() - np.ptp(values) * np.linspace(1.0, 0.02, 14) ** 2
        axes.contour(
            axis, axis, values, levels=levels, colors=figures.COLOURS[0], linewidths=0.9, linestyles="solid"
        )
        used = first * axis[None] + second * axis[:, None]
        axes.contourf(axis, axis, used - supply, levels=[0.0, np.inf], colors=[figures.GREY], alpha=0.25)
        for (name, point), mark, colour in zip(
            drawing["points"].items(),
            ("o", "s", "D", "x"),
            (figures.GREY, *figures.COLOURS[1:4]),
            strict=True,
        ):
            axes.plot(*point, mark, color=colour, markersize=9, markeredgewidth=2, label=name)
        begin, end = drawing["points"]["best (3)"], drawing["points"]["projected (12)"]
        axes.annotate("", end, begin, arrowprops={"arrowstyle": "->", "color": figures.COLOURS[1]})
        axes.set(xlabel="first action", ylabel="second action", xlim=(0, 1), ylim=(0, 1), aspect="equal")
        figure.legend(loc="outside upper center", ncols=4, fontsize=9)
        return figures._svg(figure, "figure one")

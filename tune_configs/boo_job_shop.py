"""BOO on the stochastic job shop with hidden profits (seed 001, section 5.2).

`config` trains; `evaluation` plays fresh episodes beside references, all of which meet the same jobs and delays.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from algorithms.boo.writer import CutWriter
from envs.cutting_planes import FeasibilityCount
from envs.errors import InvalidSetting
from envs.job_shop import (
    Bar,
    JobShop,
    JobShopEnv,
    Simulation,
    count_jobs,
    play,
    random_cut,
    true_profits,
)
from envs.job_shop.heuristic import EXCHANGES
from envs.job_shop.instance import Ints
from envs.job_shop.planning import SETTINGS, Cuts
from tune_configs import boo, figures
from tune_configs.boo import CHECKPOINT_EVERY, PRESETS, fit
from tune_configs.evaluation import Columns, Evaluation, PolicyResult, Published
from tune_configs.experiment import Section
from tune_configs.runs import Record

__all__ = ["CHECKPOINT_EVERY", "PRESETS", "config", "evaluation", "fit", "param_space", "sections"]

TITLE = "BOO on the stochastic job shop"
EPISODES = 14_000
STOP = {boo.EPISODES_METRIC: EPISODES}
EVALUATION_EPISODES = 30
FLAGS = ()
GREEDY = "greedy MILP"
PUBLISHED = Published(
    source=(
        "seed 001, Table 2, on J = 200 jobs and 4 machines of each type; the paper gives no unit of its rewards, "
        "so that only its ratios (1.04, 1.08 and 1.17 times the MILP) compare with ours."
    ),
    deployment=(
        PolicyResult("BOO after 50,000 episodes (paper)", (1.80, math.nan), published=True),
        PolicyResult("BOO after 100,000 episodes (paper)", (1.87, math.nan), published=True),
        PolicyResult("BOO after 150,000 episodes (paper)", (2.03, math.nan), published=True),
        PolicyResult("MILP (paper)", (1.73, math.nan), published=True),
    ),
    comparable=False,
)
COLUMNS = Columns(
    reward="profit",
    penalty="",
    digits=2,
    violations="infeasible plans, schedules",
    time="ms per plan",
    reference=GREEDY,
    note=(
        "The greedy MILP counts jobs. Masters are solved by HiGHS to a gap of 2 % within a second. All policies meet "
        "the same jobs and delays; the interval of a ratio is a bootstrap of pairs of episodes. Every plan, and every "
        "schedule as it was executed, is walked operation by operation, by code without the master's rows; the bound "
        "is Clopper-Pearson's upper 95 % bound on the probability that one is infeasible. Time is that of whole "
        "episodes, simulation and network included, over the number of plans."
    ),
)


def config(preset: str = "tuned", seed: int = 0) -> Any:
    """The `BOOConfig` of a preset, ready to build.

    Raises:
        InvalidSetting: if the preset is unknown.
    """
    if preset not in PRESETS:
        raise InvalidSetting("preset", f"{preset!r} is unknown", f"Choose one of: {', '.join(PRESETS)}.")
    from algorithms.boo import presets  # imports Ray, which an evaluation does without

    return boo.prepared(presets.job_shop_tuned() if preset == "tuned" else presets.job_shop_paper(), seed)


def param_space(preset: str = "tuned", seeds: int = 5, rates: bool = False) -> Any:
    """What `boo.opened` opens of the preset: seeds, and with `rates` K and the learning rate."""
    return boo.opened(config(preset), seeds, rates)


class Played(NamedTuple):
    """An episode that was played to its end, and how many masters were solved in it."""

    simulation: Simulation
    solves: int


Policy = Callable[[JobShop, Ints, FeasibilityCount], Played]


def evaluation(checkpoint: Path, episodes: int, seed: int) -> Evaluation:
    """BOO, the greedy MILP, the MILP that knows the profits, and random cuts, in the same fresh episodes.

    Shops have the size that the policy was trained on. All masters are solved, also where training made do with list
    schedules.

    Raises:
        CheckpointError: if the checkpoint is missing or damaged.
    """
    torch.set_num_threads(1)  # graphs of this size gain nothing from a second one
    writer = CutWriter.from_checkpoint(checkpoint)
    env = JobShopEnv(**{**writer.env_config, "settings": SETTINGS, "exchanges": EXCHANGES})
    episodes_drawn = []
    for i in range(episodes):
        env.reset(seed=seed if i == 0 else None)
        episodes_drawn.append((env.again["instance"], env.again["delays"]))
    rng = np.random.default_rng(seed)

    def deployed(instance: JobShop, delays: Ints, count: FeasibilityCount) -> Played:
        env.feasibility = count
        graph, _ = env.reset(options={"instance": instance, "delays": delays})
        over = False
        while not over:
            graph, _, over, _, _ = env.step(writer([graph])[0])
        return Played(env.planner.simulation, env.planner.solves)

    def fixed(cuts: Callable[[JobShop], Cuts]) -> Policy:
        def policy(instance: JobShop, delays: Ints, count: FeasibilityCount) -> Played:
            outcome = play(instance, delays, cuts(instance), SETTINGS, count)
            return Played(outcome.simulation, outcome.solves)

        return policy

    policies: dict[str, Policy] = {
        "BOO": deployed,
        GREEDY: fixed(count_jobs),
        "MILP of the true profits": fixed(true_profits),
        "random cuts": fixed(lambda instance: random_cut(instance, rng)),
    }
    rows, schedules = [], {}
    for name, policy in policies.items():
        count = FeasibilityCount()
        played, ms = [], []
        for instance, delays in episodes_drawn:
            started = time.perf_counter()
            played.append(policy(instance, delays, count))
            ms.append(1e3 * (time.perf_counter() - started) / played[-1].solves)
        simulations = [p.simulation for p in played]
        rows.append(
            PolicyResult.of(
                name,
                [s.profit() for s in simulations],
                (),
                count.infeasible,
                count.checked,
                ms_per_action=float(np.median(ms)),
                solver={"solves": float(sum(p.solves for p in played))} if policy is deployed else {},
                more={"jobs finished": [float(len(s.finished())) for s in simulations]},
            )
        )
        if name in ("BOO", GREEDY):
            schedules[f"{name}: profit {simulations[0].profit():.1f}"] = simulations[0].gantt()
    first: JobShop = episodes_drawn[0][0]
    setting = f"J = {len(first)}, T = {first.months}, M = {first.copies} (as trained)"
    return Evaluation(episodes, seed, setting, rows, COLUMNS, _as_data(first, schedules))


def _as_data(instance: JobShop, schedules: dict[str, list[Bar]]) -> dict[str, Any]:
    """What `sections` draws of one episode."""
    shop = {
        "durations": instance.durations.tolist(),
        "classes": instance.classes.tolist(),
        "months": instance.months,
        "copies": instance.copies,
    }
    return {"shop": shop, "schedules": schedules}


def sections(records: Sequence[Record]) -> list[Section]:
    """Solve times, and Gantt charts of one evaluated episode."""
    found = boo.sections(records)
    evaluated = next((record.evaluation for record in records if record.evaluation), None)
    if evaluated is not None:
        shop = evaluated.drawing["shop"]
        instance = JobShop(
            np.array(shop["durations"]), np.array(shop["classes"]), shop["months"], shop["copies"]
        )
        schedules = {
            name: [Bar(*bar) for bar in bars] for name, bars in evaluated.drawing["schedules"].items()
        }
        note = (
            "The first evaluated episode as it was executed, by the policy and by the greedy MILP: a line for each "
            "machine, the job's number in each bar, hatched where a delay struck. What ends after the dashed line "
            "earns nothing."
        )
        found.append(Section("Schedules", figures.gantt(schedules, instance), note))
    return found

"""BOO on the packing problem with a hidden quadratic objective (seed 001, section 5.1).

`config` trains; `evaluation` deploys the policy on fresh instances, beside references that see less or more than it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from algorithms.boo.writer import CutWriter
from envs.cutting_planes import FeasibilityCount
from envs.errors import InvalidSetting
from envs.packing import Packing, PackingEnv, frank_wolfe, linearised, local_search, random_cuts
from envs.packing.env import SETTINGS
from envs.packing.instance import Array
from tune_configs import boo
from tune_configs.boo import CHECKPOINT_EVERY, PRESETS, fit, sections
from tune_configs.evaluation import Columns, Evaluation, PolicyResult, Published

__all__ = ["CHECKPOINT_EVERY", "PRESETS", "config", "evaluation", "fit", "param_space", "sections"]

TITLE = "BOO on the packing problem"
EPISODES = 60_000
STOP = {boo.EPISODES_METRIC: EPISODES}
EVALUATION_EPISODES = 100
FLAGS = ()
PUBLISHED = Published(
    source=(
        "seed 001, Table 1: fractions of the global optimum, where the paper states neither N nor how instances "
        "were drawn; its expected regrets over training are 0.11 (BOO), 0.43 (pointer network) and 0 (MINLP)."
    ),
    deployment=(
        PolicyResult("BOO (paper)", (0.98, math.nan), ms_per_action=70.0, published=True),
        PolicyResult("pointer network (paper)", (0.60, math.nan), ms_per_action=1_100.0, published=True),
        PolicyResult("MINLP, global (paper)", (1.0, math.nan), ms_per_action=60_190.0, published=True),
    ),
    lines=(("linearised objective: 1", 1.0),),
)
COLUMNS = Columns(
    reward="fraction of best known",
    penalty="",
    digits=3,
    violations="infeasible plans",
    time="ms per instance",
    note=(
        "Best known is the best objective of local search from 50 starts and of all policies here; the reward is (12), "
        "the objective over that of the linearised one. BOO sees neither of them. A plan is infeasible if the instance "
        "itself says so; the bound is Clopper-Pearson's upper 95 % bound on the probability of such a plan. Times are "
        "medians and include everything from the instance to the plan."
    ),
)

Plans = tuple[list[Array], Array]
"""All plans that a policy was answered for an instance, and the one it settles for."""


def config(preset: str = "tuned", seed: int = 0) -> Any:
    """The `BOOConfig` of a preset, ready to build.

    Raises:
        InvalidSetting: if the preset is unknown.
    """
    if preset not in PRESETS:
        raise InvalidSetting("preset", f"{preset!r} is unknown", f"Choose one of: {', '.join(PRESETS)}.")
    from algorithms.boo import presets  # imports Ray, which an evaluation does without

    return boo.prepared(presets.packing_tuned() if preset == "tuned" else presets.packing_paper(), seed)


def param_space(preset: str = "tuned", seeds: int = 5, rates: bool = False) -> Any:
    """What `boo.opened` opens of the preset: seeds, and with `rates` K and the learning rate."""
    return boo.opened(config(preset), seeds, rates)


def evaluation(checkpoint: Path, episodes: int, seed: int) -> Evaluation:
    """BOO's last and best plan, and the references, on the same fresh instances.

    Raises:
        CheckpointError: if the checkpoint is missing or damaged.
    """
    torch.set_num_threads(1)  # graphs of this size gain nothing from a second one
    writer = CutWriter.from_checkpoint(checkpoint)
    env = PackingEnv(**writer.env_config)
    instances = []
    for i in range(episodes):
        env.reset(seed=seed if i == 0 else None)
        instances.append(env.instance)
    cuts, settings = writer.env_config.get("cuts", 2), writer.env_config.get("settings", SETTINGS)

    deployed = Deployed(writer, env)
    policies: dict[str, Callable[[Packing, np.random.Generator], Plans]] = {
        "BOO, last plan": lambda instance, rng: deployed(instance),
        "BOO, best plan (objective observable)": lambda instance, rng: deployed.settled(),
        "linearised objective": lambda instance, rng: _single(linearised(instance)),
        "random cuts": lambda instance, rng: _single(random_cuts(instance, rng, cuts, settings)),
        "Frank-Wolfe cuts (knows the objective)": lambda instance, rng: _single(frank_wolfe(instance, rng)),
        "local search (knows the objective)": lambda instance, rng: _single(local_search(instance, rng)),
    }
    values = np.zeros((len(policies), episodes))
    seconds = np.zeros_like(values)
    counts = [FeasibilityCount() for _ in policies]
    for i, instance in enumerate(instances):
        for p, policy in enumerate(policies.values()):
            rng = np.random.default_rng((seed, i, p))
            started = time.perf_counter()
            plans, chosen = policy(instance, rng)
            seconds[p, i] = time.perf_counter() - started
            values[p, i] = instance.objective(chosen)
            for plan in plans:
                counts[p].add(instance.violation(plan))
    seconds[1] += seconds[0]  # it chooses among the plans of the same episode
    fractions = values / values.max(axis=0)
    rewards = values / values[list(policies).index("linearised objective")]
    rows = [
        PolicyResult.of(
            name,
            fractions[p],
            (),
            counts[p].infeasible,
            counts[p].checked,
            ms_per_action=1e3 * float(np.median(seconds[p])),
            solver=deployed.figures() if name.startswith("BOO") else {},
            more={"reward (12)": rewards[p].tolist()},
        )
        for p, name in enumerate(policies)
    ]
    items = " to ".join(str(n) for n in dict.fromkeys(env.items))
    return Evaluation(episodes, seed, f"N = {items}, K = {cuts}", rows, COLUMNS)


class Deployed:
    """The policy as a function of instances, which keeps the episode's plans and the masters' figures."""

    def __init__(self, writer: CutWriter, env: PackingEnv) -> None:
        self._writer, self._env = writer, env
        self._plans: list[Array] = []
        self._seconds: list[float] = []
        self._gaps: list[float] = []

    def __call__(self, instance: Packing) -> Plans:
        """Play an episode; its last plan is chosen."""
        env, self._plans = self._env, []
        graph, _ = env.reset(options={"instance": instance})
        over = False
        while not over:
            graph, _, over, _, _ = env.step(self._writer([graph])[0])
            self._plans.append(env.plan)
            assert env.solution is not None
            self._seconds.append(env.solution.seconds)
            self._gaps.append(env.solution.gap)
        return self._plans, env.plan

    def settled(self) -> Plans:
        """The plans of the episode that was just played, and the best of them."""
        return self._plans, self._env.best_plan

    def figures(self) -> dict[str, float]:
        """Of all masters that were solved so far."""
        gaps = np.array(self._gaps)
        bounded = np.isfinite(gaps)
        return {
            "solves": float(len(gaps)),
            "kept_the_plan_before": float((~bounded).sum()),
            "ms_per_solve": 1e3 * float(np.mean(self._seconds)),
            "largest_gap": float(gaps[bounded].max(initial=0.0)),
        }


def _single(plan: Array) -> Plans:
    return [plan], plan

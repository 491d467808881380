"""OMLT-DDPG and SAFE on the three-stage inventory chain (seed 000: 150 episodes, five seeds).

`config` trains; `evaluation` deploys the actor alone and SAFE on fresh episodes, beside reference policies.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from algorithms.common.shield import Outcome
from algorithms.safe.policy import PlainActor, SafePolicy
from envs.errors import InvalidSetting
from envs.inventory import DEFAULT, STRESS, InventoryChain, InventorySafeSet
from envs.inventory.chain import Array
from envs.inventory.evaluation import EpisodeStats, demand_paths, evaluate
from envs.inventory.planning import perfect_information
from envs.inventory.policies import tuned_base_stock
from solver_pool.solution import BatchSolution
from tune_configs import figures
from tune_configs.evaluation import Columns, Evaluation, PolicyResult, Published
from tune_configs.experiment import Section, scaled
from tune_configs.runs import Record

TITLE = "OMLT-DDPG and SAFE on the inventory chain"
PRESETS = ("tuned", "paper")
EPISODES = 150
EPISODE_LENGTH = DEFAULT.periods
STOP = {"num_env_steps_sampled_lifetime": EPISODES * EPISODE_LENGTH}
CHECKPOINT_EVERY = 0.0
EVALUATION_EPISODES = 100
FLAGS = ("capacities", "certify")
COLUMNS = Columns(
    note=(
        "A step violates if a stock exceeds its capacity at any moment of the period; the bound is Clopper-Pearson's "
        "upper 95 % bound on the probability of such a step, with steps counted as independent."
    )
)
PUBLISHED = Published(
    source=(
        "Burtea and Tsay, Safe deployment of reinforcement learning using deterministic optimization of "
        "trained neural networks, Tables 1 and 2. The paper states neither its capacities nor the scale of "
        "its penalties, so that its penalties are not comparable with ours."
    ),
    deployment=(
        PolicyResult("OMLT-DDPG actor (paper)", (433.9, 23.9), (40.3, 21.8), published=True),
        PolicyResult("SAFE (paper)", (365.0, 35.4), (0.0, 0.0), published=True),
        PolicyResult("CPO (paper, 6 million samples)", (359.0, 10.1), (48.0, 8.8), published=True),
        PolicyResult("TRPO (paper, 6 million samples)", (340.7, 9.3), (19.2, 5.8), published=True),
    ),
    lines=(("paper, training, last 20 episodes: 316.1", 316.1), ("paper, deployed actor: 433.9", 433.9)),
)
FACTORS = (0.25, 0.5, 1.0, 2.0)
"""Of the learning rates that a sweep tries."""
LATENCY_EPISODES = 3
"""Episodes played one decision at a time to measure a decision's time."""


def config(preset: str = "tuned", seed: int = 0) -> Any:
    """The `OMLTDDPGConfig` of a preset on the default chain, ready to build.

    Raises:
        InvalidSetting: if the preset is unknown.
    """
    if preset not in PRESETS:
        raise InvalidSetting("preset", f"{preset!r} is unknown", f"Choose one of: {', '.join(PRESETS)}.")
    from algorithms.omlt_ddpg import presets  # imports Ray, which an evaluation does without

    chosen = presets.tuned(seed) if preset == "tuned" else presets.paper()
    return (
        chosen.environment("solverl/MultiEchelonInventory-v0")
        .debugging(seed=seed)
        # The metric that sweeps compare covers the paper's "final 20 episodes".
        .reporting(metrics_num_episodes_for_smoothing=20)
    )


def fit(config: Any, episodes: int) -> None:
    """Iterations of a number of steps that divides the run's, so that the last one ends with the last sample."""
    config.training(steps_per_iteration=math.gcd(config.steps_per_iteration, episodes * EPISODE_LENGTH))


def param_space(preset: str = "tuned", seeds: int = 5, rates: bool = False) -> Any:
    """Seeds ``0 .. seeds - 1`` as a grid; `rates` also draws learning rates around the preset's."""
    from ray import tune

    space = config(preset).debugging(seed=tune.grid_search(list(range(seeds))))
    if space.exploration is not None:
        # It has a seed of its own, which follows the trial's.
        space.safety(
            exploration=tune.sample_from(lambda spec: config(preset, spec.config["seed"]).exploration)
        )
    if rates:
        space.training(
            critic_lr=tune.choice([scaled(space.critic_lr, f) for f in FACTORS]),
            actor_lr=tune.choice([scaled(space.actor_lr, f) for f in FACTORS]),
        )
    return space


def chain(capacities: str | None, trained_on: InventoryChain = DEFAULT) -> InventoryChain:
    """The chain to evaluate on: `trained_on`, ``default``, ``stress`` or capacities ``a,b,c`` [units].

    Raises:
        InvalidSetting: if the capacities cannot be read, or the initial stock does not fit in.
    """
    if capacities is None:
        return trained_on
    named = {"default": DEFAULT.storage_capacity, "stress": STRESS.storage_capacity}
    advice = f"Give default, stress or {trained_on.stages} whole numbers such as 120,160,260."
    try:
        room = named.get(capacities) or tuple(float(part) for part in capacities.split(","))
        changed = replace(trained_on, storage_capacity=room)
    except ValueError as error:
        raise InvalidSetting("capacities", f"is {capacities!r}", advice) from error
    if (changed.capacity < np.array(changed.initial_stock)).any():
        stock = ",".join(str(i) for i in changed.initial_stock)
        raise InvalidSetting(
            "capacities",
            f"is {capacities!r}, less than the initial stock ({stock}), which no policy could keep",
            f"Give at least {stock}.",
        )
    return changed


def evaluation(
    checkpoint: Path,
    episodes: int,
    seed: int,
    capacities: str | None = None,
    certify: bool | None = None,
) -> Evaluation:
    """The actor alone and SAFE, a tuned base-stock policy, and what perfect information would earn.

    All of them meet the same customers.

    Args:
        certify: whether SAFE proves its actions to be global maximisers; None does as in training.

    Raises:
        InvalidSetting: on bad `capacities`. CheckpointError: if the checkpoint is missing or damaged.
    """
    safe = SafePolicy.from_checkpoint(checkpoint, certify)
    trained_on = safe.safe_set.chain if isinstance(safe.safe_set, InventorySafeSet) else DEFAULT
    played = chain(capacities, trained_on)
    if played != trained_on:
        availability = isinstance(safe.safe_set, InventorySafeSet) and safe.safe_set.availability
        rows = InventorySafeSet(played, availability=availability)
        safe = SafePolicy(safe.critic, rows, safe.encoder, safe.actor, safe.options)
    results = (
        []
        if safe.actor is None
        else [measured("actor alone", _alone(safe, safe.actor), played, episodes, seed)]
    )
    recorded = Recorded(safe)
    results.append(measured("SAFE", recorded, played, episodes, seed, recorded))
    results.append(
        measured("base-stock, tuned (reference)", tuned_base_stock(played), played, episodes, seed)
    )
    best = perfect_information(played, demand_paths(played, episodes, seed))
    results.append(PolicyResult("perfect information (upper bound)", (float(best.mean()), float(best.std()))))
    room = ", ".join(f"{c:g}" for c in played.storage_capacity)
    return Evaluation(episodes, seed, f"capacities {room}", results, COLUMNS)


def sections(records: Sequence[Record]) -> list[Section]:
    """How close stocks came to their capacities in training."""
    drawing = figures.distance_to_capacity([record.episodes for record in records])
    if not drawing:
        return []
    note = (
        "Smallest distance of each stage's stock to its capacity in every episode, and its mean over "
        f"{figures.WINDOW} episodes; below zero the capacity was exceeded (the paper's Figure 4)."
    )
    return [Section("Distance to capacity while training", drawing, note)]


class Counting(Protocol):
    """A policy that keeps figures of what it did."""

    def figures(self) -> dict[str, float]: ...


class Recorded:
    """SAFE as a policy that keeps the certificates of its solves and what became of its proposals."""

    def __init__(self, policy: SafePolicy) -> None:
        self._policy = policy
        self._outcomes = np.zeros(len(Outcome), dtype=np.int64)
        self._answers: list[BatchSolution] = []
        self._worst = 0.0

    def __call__(self, observations: Array) -> Array:
        """Safe actions ``(B, n_a)`` for observations ``(B, n_s)``."""
        shielded, answer = self._policy.act_batch(observations)
        self._outcomes += np.bincount(shielded.outcome, minlength=len(Outcome))
        self._worst = max(self._worst, float(shielded.violation.max()))
        self._answers.append(answer)
        return shielded.actions

    def figures(self) -> dict[str, float]:
        """Counts of solves and outcomes, seconds in the solver, and the worst residuals and mean gap."""
        certified = np.concatenate([answer.certified for answer in self._answers])
        residual = np.concatenate([np.atleast_1d(a.certificate.kkt_residual) for a in self._answers])
        gap = np.concatenate([np.atleast_1d(a.certificate.gap) for a in self._answers])
        seconds = sum(answer.solve_time for answer in self._answers)
        bounded = np.isfinite(gap)
        return {
            "solves": float(len(certified)),
            "failures": float((~certified).sum()),
            **{outcome.name.lower(): float(self._outcomes[outcome]) for outcome in Outcome},
            "solver_seconds": seconds,
            "ms_per_solve_in_batches": 1e3 * seconds / len(certified),
            "largest_kkt_residual": float(residual[certified].max(initial=0.0)),
            "largest_row_violation": self._worst,
            # Only a solver that bounds the global optimum has a gap.
            **({"mean_gap": float(gap[bounded].mean())} if bounded.any() else {}),
        }


def _alone(safe: SafePolicy, actor: PlainActor) -> Callable[[Array], Array]:
    """The actor without the solver: clipped to the box, rows not looked at."""
    low, high, executable = safe.safe_set.low, safe.safe_set.high, safe.safe_set.executable
    return lambda observations: executable(low + (high - low) * actor(safe.encoder.encode(observations)))


def measured(
    name: str,
    policy: Callable[[Array], Array],
    played: InventoryChain,
    episodes: int,
    seed: int,
    recorded: Counting | None = None,
) -> PolicyResult:
    """The row of a policy on fresh episodes of the chain; `recorded` is the policy, if it keeps its solves."""
    stats: EpisodeStats = evaluate(policy, played, episodes, seed)
    solver = {} if recorded is None else recorded.figures()
    times: list[float] = []

    def timed(observations: Array) -> Array:
        start = time.perf_counter()
        actions = policy(observations)
        times.append(time.perf_counter() - start)
        return actions

    evaluate(timed, played, LATENCY_EPISODES, seed, batch=1)
    return PolicyResult.of(
        name,
        stats.rewards.tolist(),
        stats.costs.sum(axis=1).tolist(),
        int(stats.peak_violations.sum()),
        stats.steps,
        ms_per_action=1e3 * float(np.median(times)),
        solver=solver,
    )

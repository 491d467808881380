"""What OMLT-DDPG and SAFE earn on the inventory chain, beside reference policies and the paper's table.

``python -m benchmarks.inventory`` trains both presets with five seeds by the command that users type
(``solverl train``, 4,500 samples each), deploys the actor alone and SAFE on 100 fresh episodes for each
seed, and stores ``results/inventory.json`` with the policy of the first tuned seed beside it. ``--quick``
deploys that stored policy alone.

Keys of the result, for the tuned preset at the default capacities (120, 160, 260):

- ``safe_reward_mean, actor_reward_mean``: mean return of an episode;
- ``safe_violations, actor_violations``: executed steps with some stock above its capacity at any moment;
- ``steps``: executed steps of each of the two policies.

A full run adds, for each preset and policy, the interquartile mean, a 95 % bootstrap interval of the mean
over training runs, the Clopper-Pearson bound on the violation rate, and the references.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from algorithms.common import checkpoint
from algorithms.safe.policy import FILE, SafePolicy
from benchmarks.common import RESULTS, print_result, store
from envs.inventory import DEFAULT
from envs.inventory.evaluation import EpisodeStats, Policy, demand_paths, evaluate
from envs.inventory.planning import perfect_information
from envs.inventory.policies import OrderTheMost, tuned_base_stock
from envs.statistics import bootstrap_interval, clopper_pearson, interquartile_mean
from tune_configs.runs import find_checkpoint

PAPER = {
    "OMLT-DDPG actor (published)": (433.9, 23.9),
    "SAFE (published)": (365.0, 35.4),
    "CPO (published)": (359.0, 10.1),
    "TRPO (published)": (340.7, 9.3),
}
EPISODES = 100
STORED = RESULTS / "inventory_policy"


def actor_alone(safe: SafePolicy) -> Policy:
    """The actor of a deployed policy, clipped to the box and rounded, without a look at the rows."""
    actor, low, high = safe.actor, safe.safe_set.low, safe.safe_set.high
    if actor is None:
        raise ValueError("actor: the checkpoint has none.")
    return lambda o: safe.safe_set.executable(low + (high - low) * actor(safe.encoder.encode(o)))


def fresh(seed: int) -> int:
    """The seed of the evaluation episodes that go with a training seed; training never sees them."""
    return 1_000_000 + seed


def train(preset: str, seed: int, folder: Path) -> Path:
    """Train by the command line and return the last checkpoint."""
    run = folder / f"{preset}{seed}"
    command = [
        sys.executable, "-m", "tune_configs.cli", "train", "omlt_ddpg_inventory", "--preset", preset,
        "--seed", str(seed), "--run", str(run), "--no-wandb", "--evaluation-episodes", "10",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return find_checkpoint(run)[0]


def summary(runs: list[EpisodeStats]) -> dict[str, Any]:
    """Figures of one policy over the episodes of all seeds."""
    rewards = np.concatenate([r.rewards for r in runs])
    violations, steps = sum(int(r.peak_violations.sum()) for r in runs), sum(r.steps for r in runs)
    # Runs are independent, episodes of one run are not: the interval is over the runs' means.
    low, high = bootstrap_interval([r.mean for r in runs], np.random.default_rng(0))
    return {
        "reward_mean": float(rewards.mean()),
        "reward_std": float(rewards.std()),
        "interquartile_mean": interquartile_mean(rewards),
        "interval_95": [float(low), float(high)],
        "seed_means": [r.mean for r in runs],
        "violations": violations,
        "steps": steps,
        "violation_rate_at_most": clopper_pearson(violations, steps),
        "capacity_excess_per_episode": float(np.mean(np.concatenate([r.costs.sum(axis=1) for r in runs]))),
    }


def deploy(policies: list[SafePolicy], seeds: list[int]) -> dict[str, dict[str, Any]]:
    """SAFE and the actor alone, each trained policy on its own fresh episodes."""
    pairs = list(zip(policies, seeds, strict=True))
    return {
        "SAFE": summary([evaluate(p, DEFAULT, EPISODES, fresh(s)) for p, s in pairs]),
        "actor": summary([evaluate(actor_alone(p), DEFAULT, EPISODES, fresh(s)) for p, s in pairs]),
    }


def references(seeds: list[int]) -> dict[str, dict[str, Any]]:
    """What planning with the known model earns on the same episodes."""
    known: dict[str, Policy] = {
        "base-stock with stops, tuned": tuned_base_stock(DEFAULT),
        "order the most": OrderTheMost(DEFAULT),
    }
    rows = {
        name: summary([evaluate(p, DEFAULT, EPISODES, fresh(s)) for s in seeds]) for name, p in known.items()
    }
    best = np.concatenate(
        [perfect_information(DEFAULT, demand_paths(DEFAULT, EPISODES, fresh(s))) for s in seeds]
    )
    rows["perfect information (bound)"] = {"reward_mean": float(best.mean()), "reward_std": float(best.std())}
    return rows


def keys(tuned: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "safe_reward_mean": tuned["SAFE"]["reward_mean"],
        "safe_violations": tuned["SAFE"]["violations"],
        "actor_reward_mean": tuned["actor"]["reward_mean"],
        "actor_violations": tuned["actor"]["violations"],
        "steps": tuned["SAFE"]["steps"],
    }


def show(rows: dict[str, dict[str, Any]]) -> None:
    table = Table(title="Inventory chain, capacities 120, 160, 260: return of an episode")
    for column in ("policy", "mean", "std", "IQM", "95 % interval", "violating steps", "rate at most"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for name, row in rows.items():
        full = "interval_95" in row
        table.add_row(
            name,
            f"{row['reward_mean']:.1f}",
            f"{row['reward_std']:.1f}",
            f"{row['interquartile_mean']:.1f}" if full else "",
            "[{:.1f}, {:.1f}]".format(*row["interval_95"]) if full else "",
            f"{row['violations']} of {row['steps']}" if full else "",
            f"{row['violation_rate_at_most']:.1e}" if full else "",
        )
    for name, (mean, std) in PAPER.items():
        table.add_row(name, f"{mean:.1f}", f"{std:.1f}", "", "", "", "")
    Console(width=120).print(table)


def draw(figures: dict[str, Any]) -> Path:
    """A bar for each policy's mean return, with what one episode scatters; returns the picture's path."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    known = figures["references"]
    bars = [("perfect information (bound)", known["perfect information (bound)"], "0.75")]
    bars += [(name, known[name], "0.75") for name in ("base-stock with stops, tuned", "order the most")]
    bars += [(f"SAFE, {preset} preset", figures[preset]["SAFE"], "#7fb3e0") for preset in ("tuned", "paper")]
    bars += [
        (f"actor, {preset} preset", figures[preset]["actor"], "#9edae5") for preset in ("tuned", "paper")
    ]
    published = [(n, {"reward_mean": m, "reward_std": s}, "#ffbb78") for n, (m, s) in PAPER.items()]
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for place, (name, row, colour) in enumerate(reversed(bars + published)):
        axes.barh(place, row["reward_mean"], xerr=row["reward_std"], color=colour, ecolor="0.4", capsize=2)
        excess = row.get("violations")
        note = "" if excess is None else f"   {excess:,} of {row['steps']:,} steps above capacity"
        axes.text(8, place, f"{row['reward_mean']:.0f}{note}", va="center", fontsize=8)
        axes.text(-6, place, name, va="center", ha="right", fontsize=8)
    axes.set_yticks([])
    axes.set_xlim(min(0.0, *(row["reward_mean"] for _, row, _ in bars)), 620)
    axes.set_xlabel("return of an episode, mean and standard deviation (capacities 120, 160, 260)")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    path = RESULTS / "inventory.png"
    FigureCanvasAgg(figure).print_png(str(path))
    return path


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.inventory", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="deploy the stored tuned policy, a few seconds")
    parser.add_argument("--seeds", type=int, default=5, help="training seeds (default 5)")
    parser.add_argument("--draw", action="store_true", help="draw the stored figures again")
    parser.add_argument("--parallel", type=int, default=2, help="runs at a time (default 2)")
    options = parser.parse_args(arguments)
    if options.quick:
        results = deploy([SafePolicy.from_checkpoint(STORED)], [0])
        show({f"{name} (tuned, seed 0)": row for name, row in results.items()})
        print_result(keys(results))
        return
    if options.draw:
        print(draw(json.loads((RESULTS / "inventory.json").read_text())["figures"]))
        return
    seeds = list(range(options.seeds))
    payload: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(options.parallel) as workers:
        jobs = {
            (preset, seed): workers.submit(train, preset, seed, Path(scratch))
            for preset in ("tuned", "paper")
            for seed in seeds
        }
        for (preset, seed), job in jobs.items():
            print(f"{preset}, seed {seed}: trained in {job.result().parent.parent.name}", flush=True)
        for preset in ("tuned", "paper"):
            policies = [SafePolicy.from_checkpoint(jobs[preset, seed].result()) for seed in seeds]
            payload[preset] = deploy(policies, seeds)
        shutil.rmtree(STORED, ignore_errors=True)
        STORED.mkdir(parents=True)
        shutil.copy(jobs["tuned", 0].result() / FILE, STORED / FILE)
        checkpoint.seal(STORED)
    payload["references"] = references(seeds)
    rows = {
        f"{name} ({preset})": row for preset in ("tuned", "paper") for name, row in payload[preset].items()
    }
    show(rows | payload["references"])
    payload = keys(payload["tuned"]) | payload
    store("inventory", payload, command="python -m benchmarks.inventory", seeds=seeds)
    draw(payload)
    print_result(keys(payload["tuned"]))


if __name__ == "__main__":
    main()

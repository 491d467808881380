"""BOO on the stochastic job shop: what it earns beside MILPs that do not know what delays cost.

``python -m benchmarks.boo_job_shop`` trains BOO by the `tuned` preset, on a smaller shop than it is judged on, for the
policy does not depend on its size; plays 200 episodes at the paper's size (T = 12, J = 200, M = 4) with the policy of
three points of training and with the baselines, all on the same jobs and the same luck; and stores
``results/boo_job_shop.json``, two pictures, and the policy. Finished parts are kept in ``--folder``, so that an
interrupted run goes on where it was. ``--quick`` plays the stored policy and the greedy MILP on a few of the episodes.

The greedy MILP maximises the number of finished jobs and plans anew after each delay, as BOO does.

Keys of the result:

- ``ratio_vs_milp``: mean profit over the greedy MILP's; ``ratio_low, ratio_high``: 95 % interval, paired bootstrap;
- ``infeasible_plans``: plans that `check_plan`, and executed schedules that `check_schedule`, found to be wrong, in
  training and evaluation.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from algorithms.boo.writer import CutWriter
from benchmarks.boo_training import copy_policy, regret, train
from benchmarks.common import RESULTS, local_cluster, print_result, store
from envs.cutting_planes import MasterSettings
from envs.cutting_planes.feasibility import FeasibilityCount
from envs.job_shop import (
    JobShop,
    JobShopEnv,
    Simulation,
    count_jobs,
    draw_delays,
    draw_gantt,
    draw_job_shop,
    play,
    random_cut,
    true_profits,
)
from envs.job_shop.heuristic import EXCHANGES
from envs.job_shop.instance import Ints
from envs.job_shop.planning import SETTINGS
from envs.statistics import bootstrap_interval, clopper_pearson

JOBS, MONTHS, COPIES = 200, 12, 4
MASTERS = replace(SETTINGS, time_limit=2.0)
"""Of all policies alike; twice the usual limit, for a busy machine must not weaken the MILPs."""
EPISODES = 200
POINTS = (1 / 3, 2 / 3, 1.0)
FEWER = 60
"""Episodes of the baselines beside the greedy MILP, whose masters take seconds."""
VALIDATION = 48
UNSEEN = 2_000_000
"""Seeds of the evaluation's episodes; those of training and validation are others."""
STORED = RESULTS / "boo_job_shop_policy"
GREEDY = "greedy MILP (counts jobs)"
PAPER = {"0.5e5": 1.80 / 1.73, "1.0e5": 1.87 / 1.73, "1.5e5": 2.03 / 1.73}


def episode(i: int, jobs: int = JOBS, copies: int = COPIES, base: int = UNSEEN) -> tuple[JobShop, Ints]:
    """Jobs and luck of an episode, the same for every policy."""
    generator = np.random.default_rng([base, i])
    instance = draw_job_shop(generator, jobs, MONTHS, copies)
    return instance, draw_delays(generator, instance)


def by_writer(
    writer: CutWriter, instance: JobShop, delays: Ints, masters: MasterSettings = MASTERS
) -> tuple[dict[str, Any], Simulation]:
    """Play an episode with the cuts of a trained policy."""
    config = {
        **writer.env_config,
        "jobs": len(instance),
        "months": instance.months,
        "copies": instance.copies,
    }
    env = JobShopEnv(**{**config, "settings": masters, "exchanges": EXCHANGES})
    began = time.perf_counter()
    graph, _ = env.reset(options={"instance": instance, "delays": delays})
    over = False
    while not over:
        graph, _, over, _, info = env.step(writer([graph])[0])
    return _row(
        info["profit"], info["finished"], info["solves"], began, env.feasibility
    ), env.planner.simulation


def by_cuts(cuts: Any, instance: JobShop, delays: Ints) -> tuple[dict[str, Any], Simulation]:
    """Play an episode with the same cuts in every plan."""
    count = FeasibilityCount()
    began = time.perf_counter()
    outcome = play(instance, delays, cuts, MASTERS, count)
    return _row(outcome.profit, outcome.finished, outcome.solves, began, count), outcome.simulation


def _row(profit: float, finished: int, solves: int, began: float, count: FeasibilityCount) -> dict[str, Any]:
    return {
        "profit": float(profit), "finished": int(finished), "solves": int(solves),
        "seconds": time.perf_counter() - began, "checked": count.checked, "infeasible": count.infeasible,
    }  # fmt: skip


BASELINES: dict[str, Callable[[JobShop, int], Any]] = {
    GREEDY: lambda instance, i: count_jobs(instance),
    "MILP with the true profits": lambda instance, i: true_profits(instance),
    "random cut": lambda instance, i: random_cut(instance, np.random.default_rng([3, i])),
}


# --- Training --------------------------------------------------------------------------------------------------


def train_one(seed: int, folder: Path) -> None:
    """Train by the preset; the curve is the ratio of profits on validation episodes of the size trained on."""
    from algorithms.boo import presets

    config = presets.job_shop_tuned().debugging(seed=seed)
    sizes = config.env_config
    episodes = [episode(i, sizes["jobs"], sizes["copies"], 3_000_000) for i in range(VALIDATION)]
    milp = float(np.mean([by_cuts(count_jobs(j), j, d)[0]["profit"] for j, d in episodes]))

    def validate(writer: CutWriter) -> dict[str, float]:
        # By list schedules, as in training: the MILP is asked once and takes its time.
        masters = replace(MASTERS, time_limit=0.0)
        profits = [by_writer(writer, j, d, masters)[0]["profit"] for j, d in episodes]
        return {"profit": float(np.mean(profits)), "ratio": float(np.mean(profits)) / milp}

    ray = local_cluster()
    try:
        train(config, presets.JOB_SHOP_EPISODES, validate, 7, folder, POINTS[:-1])
    finally:
        ray.shutdown()


# --- Evaluation ------------------------------------------------------------------------------------------------


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def policies(folder: Path, seeds: list[int]) -> dict[str, CutWriter]:
    """The policies of three points of every training."""
    found = {}
    for seed in seeds:
        for point in POINTS:
            name = "policy" if point == 1.0 else f"policy_{point:g}"
            found[f"BOO, seed {seed}, {point:.0%} of training"] = CutWriter.from_checkpoint(
                folder / f"boo_{seed}" / name
            )
    return found


def evaluate(part: int, parts: int, count: int, folder: Path, seeds: list[int]) -> None:
    """Play every ``parts``-th episode with every policy; what the file has is not played again."""
    file = folder / f"episodes_{part}.jsonl"
    have = {(row["policy"], row["episode"]) for row in lines(file)}
    writers = policies(folder, seeds)
    for i in range(part, count, parts):
        instance, delays = episode(i)
        for name in (*BASELINES, *writers):
            fewer = name in BASELINES and name != GREEDY and i >= FEWER
            if (name, i) in have or fewer:
                continue
            if name in writers:
                row, _ = by_writer(writers[name], instance, delays)
            else:
                row, _ = by_cuts(BASELINES[name](instance, i), instance, delays)
            with file.open("a") as stream:
                stream.write(json.dumps({"policy": name, "episode": i, **row}) + "\n")


def ratio(profits: np.ndarray[Any, Any], base: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """Ratio of mean profits with its 95 % interval, episodes being resampled in pairs."""

    def statistic(pairs: np.ndarray[Any, Any], axis: int) -> np.ndarray[Any, Any]:
        means = pairs.mean(axis=axis)
        return np.asarray(means[..., 0] / means[..., 1])

    pairs = np.column_stack([profits, base])
    low, high = bootstrap_interval(pairs, np.random.default_rng(0), statistic)
    return float(profits.mean() / base.mean()), float(low), float(high)


def summarise(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Figures of every policy, from its episodes."""
    by_policy: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["episode"]):
        by_policy.setdefault(row["policy"], []).append(row)
    greedy = {row["episode"]: row["profit"] for row in by_policy[GREEDY]}
    profits = {name: np.array([row["profit"] for row in played]) for name, played in by_policy.items()}
    result = {}
    for name, played in by_policy.items():
        value, low, high = ratio(profits[name], np.array([greedy[row["episode"]] for row in played]))
        plans, infeasible = (sum(row[key] for row in played) for key in ("checked", "infeasible"))
        result[name] = {
            "profit_mean": float(profits[name].mean()),
            "profit_std": float(profits[name].std()),
            "ratio": value,
            "interval_95": [low, high],
            "finished": float(np.mean([row["finished"] for row in played])),
            "seconds_per_plan": sum(row["seconds"] for row in played) / sum(row["solves"] for row in played),
            "plans": plans,
            "infeasible": infeasible,
            "infeasible_rate_at_most": clopper_pearson(infeasible, plans),
            "episodes": len(played),
        }
    return result


def show(rows: dict[str, dict[str, Any]]) -> None:
    count = next(iter(rows.values()))["episodes"]
    title = f"Job shop, T = {MONTHS}, J = {JOBS}, M = {COPIES}: profit of an episode, {count} paired"
    table = Table(title=title, title_justify="left")
    for column in ("policy", "profit", "over greedy", "95 % interval", "jobs", "s per plan", "infeasible"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for name, row in rows.items():
        table.add_row(
            name, f"{row['profit_mean']:.2f} ± {row['profit_std']:.2f}", f"{row['ratio']:.3f}",
            "[{:.3f}, {:.3f}]".format(*row["interval_95"]), f"{row['finished']:.1f}",
            f"{row['seconds_per_plan']:.3f}", f"{row['infeasible']} of {row['plans']:,}",
        )  # fmt: skip
    Console(width=120).print(table)


def keys(row: dict[str, Any], infeasible: int) -> dict[str, Any]:
    return {
        "ratio_vs_milp": row["ratio"],
        "ratio_low": row["interval_95"][0],
        "ratio_high": row["interval_95"][1],
        "infeasible_plans": infeasible,
    }


def draw(curves: list[dict[str, Any]]) -> Path:
    """Validation profit over training (the paper's Figure 3) and the solve time of masters (its Appendix A)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for curve in curves:
        points = curve["points"]
        x = [point["episodes"] for point in points]
        left.plot(x, [point["ratio"] for point in points], color="#2563ab")
        right.plot(x[1:], [point["master_seconds"] for point in points[1:]], color="#2563ab", label="mean")
        right.plot(x[1:], [point["master_seconds_p95"] for point in points[1:]], color="#2563ab", linestyle="--",
                   label="95 %")  # fmt: skip
    left.axhline(1.0, color="0.5", label="greedy MILP")
    left.set(xlabel="training episodes", ylabel="profit over the greedy MILP's, held-out episodes")
    left.legend(fontsize=8)
    right.set(xlabel="training episodes", ylabel="solve of a master [s]", ylim=(0, None))
    right.legend(fontsize=8)
    path = RESULTS / "boo_job_shop.png"
    FigureCanvasAgg(figure).print_png(str(path))
    return path


def draw_schedules(writer: CutWriter) -> Path:
    """What the greedy MILP and BOO execute of the first episode, as Gantt charts."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    instance, delays = episode(0)
    played = {
        "greedy MILP": by_cuts(count_jobs(instance), instance, delays),
        "BOO": by_writer(writer, instance, delays),
    }
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    for axes, (name, (row, simulation)) in zip(
        figure.subplots(1, 2, sharex=True), played.items(), strict=True
    ):
        draw_gantt(simulation.gantt(), instance, axes)
        axes.set_title(
            f"{name}: profit {row['profit']:.1f} from {row['finished']} jobs (hatched: delayed)", fontsize=10
        )
    path = RESULTS / "boo_job_shop_gantt.png"
    FigureCanvasAgg(figure).print_png(str(path))
    return path


def quick() -> None:
    """The stored policy and the greedy MILP, for as many episodes as half a minute allows, four at least."""
    writer, rows, began = CutWriter.from_checkpoint(STORED), [], time.perf_counter()
    for i in range(EPISODES):
        if i >= 4 and time.perf_counter() - began > 30.0:
            break
        instance, delays = episode(i)
        rows.append({"policy": GREEDY, "episode": i, **by_cuts(count_jobs(instance), instance, delays)[0]})
        rows.append({"policy": "BOO", "episode": i, **by_writer(writer, instance, delays)[0]})
    found = summarise(rows)
    show(found)
    print_result(keys(found["BOO"], found["BOO"]["infeasible"]))


def run(*arguments: str) -> None:
    """This module in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.boo_job_shop", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def full(folder: Path, seeds: list[int], episodes: int, workers: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ",".join(str(seed) for seed in seeds)
    with ThreadPoolExecutor(workers) as threads:
        jobs = [
            threads.submit(run, "--train", str(seed), "--folder", str(folder / f"boo_{seed}"))
            for seed in seeds
            if not (folder / f"boo_{seed}" / "curve.json").is_file()
        ]
        for job in jobs:
            job.result()
        parts = [
            threads.submit(
                run,
                "--evaluate",
                f"{part}/{workers}",
                "--folder",
                str(folder),
                "--seeds",
                names,
                "--episodes",
                str(episodes),
            )
            for part in range(workers)
        ]
        for job in parts:
            job.result()
    curves = [json.loads((folder / f"boo_{seed}" / "curve.json").read_text()) for seed in seeds]
    rows = [row for part in range(workers) for row in lines(folder / f"episodes_{part}.jsonl")]
    found = summarise(rows)
    pooled = {}
    for point in POINTS:
        # The mean over trainings of every episode, so that the interval is over episodes.
        of_point = [row for row in rows if row["policy"].endswith(f"{point:.0%} of training")]
        by_episode: dict[int, list[float]] = {}
        for row in of_point:
            by_episode.setdefault(row["episode"], []).append(row["profit"])
        greedy = {row["episode"]: row["profit"] for row in rows if row["policy"] == GREEDY}
        order = sorted(by_episode)
        value, low, high = ratio(
            np.array([np.mean(by_episode[i]) for i in order]), np.array([greedy[i] for i in order])
        )
        pooled[f"{point:.2f}"] = {"ratio": value, "interval_95": [low, high]}
    infeasible = sum(row["infeasible"] for row in found.values()) + sum(
        curve["infeasible"] for curve in curves
    )
    show(found)
    payload = {
        **keys(pooled["1.00"], infeasible),
        "points_of_training": pooled,
        "paper": PAPER,
        "integral_over_training": float(np.mean([1.0 - regret(c["points"], "ratio") for c in curves])),
        "policies": found,
        "curves": curves,
        "training_plans": sum(curve["plans"] for curve in curves),
    }  # fmt: skip
    copy_policy(folder / f"boo_{seeds[0]}" / "policy", STORED)
    command = "python -m benchmarks.boo_job_shop" + (
        "" if episodes == EPISODES else f" --episodes {episodes}"
    )
    store("boo_job_shop", payload, command=command, seeds=seeds)
    print(draw(curves))
    print(draw_schedules(CutWriter.from_checkpoint(STORED)))
    print_result(keys(pooled["1.00"], infeasible))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.boo_job_shop", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="play the stored policy, within a minute")
    parser.add_argument("--folder", type=Path, default=Path("runs/boo_job_shop"), help="of finished parts")
    parser.add_argument("--seeds", default="0", help="of the trainings (default 0)")
    parser.add_argument("--episodes", type=int, default=EPISODES, help=f"to evaluate (default {EPISODES})")
    parser.add_argument("--parallel", type=int, default=2, help="processes at a time (default 2)")
    parser.add_argument("--train", type=int, metavar="SEED", help="only this training, into --folder")
    parser.add_argument("--evaluate", metavar="PART/PARTS", help="only a part of the episodes, into --folder")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # a second one only waits
    seeds = [int(seed) for seed in options.seeds.split(",")]
    if options.quick:
        quick()
    elif options.train is not None:
        train_one(options.train, options.folder)
    elif options.evaluate:
        part, parts = (int(number) for number in options.evaluate.split("/"))
        evaluate(part, parts, options.episodes, options.folder, seeds)
    else:
        full(options.folder, seeds, options.episodes, options.parallel)


if __name__ == "__main__":
    main()

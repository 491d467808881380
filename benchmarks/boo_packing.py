"""BOO on the packing problem: how close to the global optimum, how fast, and what learning costs on the way.

``python -m benchmarks.boo_packing`` trains BOO with three seeds, the pointer network on as many environment
evaluations, and BOO with the paper's features alone on a third of them; plays 100 instances that training never saw, at
N = 50 and without retraining at 30, 100 and 200; solves 30 of those at N = 50 by SCIP as nonlinear mixed-integer
programs with the objective in view; and stores ``results/boo_packing.json``, a picture, and the policies. Finished
parts are kept in ``--folder``, so that an interrupted run goes on where it was. ``--quick`` plays the stored policies
on 40 of the instances, and SCIP on one of them.

The optimum is the best plan of 200 local searches that see the objective and, on the first 30 instances, of SCIP; where
SCIP closed its gap within its limit the two were compared. Seconds of SCIP are CPU time on one thread, those of
policies wall time: reading the master into a graph, the network, the solver, K times.

Keys of the result:

- ``fraction_of_optimum``: mean over instances (and seeds) of f(x) / f*, K = 3, the last plan;
- ``median_seconds``: of an instance, one at a time;
- ``speedup_vs_scip``: SCIP's mean seconds (a limit counts with the limit) over the policy's;
- ``pointer_network_fraction``: the pointer network's mean of f(x) / f*;
- ``infeasible_plans``: counted by `Packing.violation`, in training and evaluation.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from algorithms.boo.writer import CutWriter
from benchmarks.boo_training import copy_policy, regret, train
from benchmarks.common import RESULTS, local_cluster, print_result, store
from envs.packing import (
    Packing,
    PackingEnv,
    draw_packing,
    frank_wolfe,
    global_optimum,
    linearised,
    local_search,
    random_cuts,
)
from envs.packing.instance import Array
from envs.statistics import bootstrap_interval, clopper_pearson
from solver_pool.solution import Status

ITEMS = 50
INSTANCES = 100
OTHER_SIZES = (30, 100, 200)
EVALUATIONS = 180_000
"""Plans that each training executes: BOO makes K of them in an episode, the pointer network one."""
CUTS = 3
VALIDATION = 48
POINTS = 25
SCIP_SECONDS = 60.0
SCIP_INSTANCES = 30
"""The first of the instances; SCIP takes about a minute for each."""
SEEDS = (0, 1, 2)
KINDS = {"boo": SEEDS, "pointer_network": (0,), "boo_paper_features": (0,)}
SHORTER = {"boo_paper_features": 3}
"""What stalls early gets so many times fewer evaluations."""
STORED = {"boo": RESULTS / "boo_packing_policy", "pointer_network": RESULTS / "boo_packing_pointer"}
UNSEEN = 2_000_000
"""Seeds of the instances of an evaluation; those of training and validation are others."""


def unseen(i: int, items: int = ITEMS) -> Packing:
    """Instance `i` of the evaluation at this size."""
    return draw_packing(np.random.default_rng([UNSEEN, i] if items == ITEMS else [UNSEEN, i, items]), items)


def best_known(instance: Packing) -> float:
    """The best of local searches that see the objective: 200, and 40 of larger instances."""
    starts = 200 if len(instance) <= ITEMS else 40
    return instance.objective(local_search(instance, np.random.default_rng(0), starts))


# --- Playing ---------------------------------------------------------------------------------------------------


def play(writer: CutWriter, instances: Iterable[Packing]) -> list[dict[str, Any]]:
    """Value of the last and of the best plan, seconds and violation of each instance, one at a time."""
    env = PackingEnv(**{**writer.env_config, "items": 2})
    rows = []
    for instance in instances:
        began = time.perf_counter()
        graph, _ = env.reset(options={"instance": instance})
        over = False
        while not over:
            graph, _, over, _, _ = env.step(writer([graph])[0])
        seconds = time.perf_counter() - began
        rows.append(
            {
                "value": instance.objective(env.plan),
                "best_value": instance.objective(env.best_plan),
                "seconds": seconds,
                "violation": instance.violation(env.plan),
            }
        )
    return rows


def fractions(rows: list[dict[str, Any]], optima: list[float], key: str = "value") -> Array:
    """``f(x) / f*`` of each instance."""
    values: Array = np.array([row[key] for row in rows]) / np.array(optima)
    return values


# --- Training --------------------------------------------------------------------------------------------------


def configuration(kind: str, seed: int, evaluations: int) -> Any:
    from algorithms.baselines.pointer_network.config import PointerNetworkConfig
    from algorithms.boo import presets
    from algorithms.common.schedules import decay

    if kind == "boo":
        config = presets.packing_tuned(CUTS, evaluations // CUTS)
    elif kind == "boo_paper_features":
        config = presets.packing_tuned(CUTS, evaluations // CUTS)
        config.environment(presets.PACKING, env_config={**config.env_config, "couplings": False})
    else:
        config = PointerNetworkConfig()
        tuned = presets.packing_tuned(cuts=1)
        config.environment(presets.PACKING, env_config=tuned.env_config)
        config.env_runners(num_envs_per_env_runner=tuned.num_envs_per_env_runner)
        config.training(
            group_size=tuned.group_size,
            lr=decay(2e-4, 0.1, evaluations),
            target_kl=0.1,
            num_epochs=1,
            minibatch_size=tuned.minibatch_size,
            entropy_coeff=3e-3,
        )
    return config.debugging(seed=seed)


def train_one(kind: str, seed: int, evaluations: int, folder: Path) -> None:
    """Train, with the mean fraction on validation instances as the curve."""
    generator = np.random.default_rng(3_000_000)
    instances = [draw_packing(generator, ITEMS) for _ in range(VALIDATION)]
    optima = [best_known(instance) for instance in instances]

    def validate(writer: CutWriter) -> dict[str, float]:
        return {"fraction": float(fractions(play(writer, instances), optima).mean())}

    ray = local_cluster()
    try:
        evaluations //= SHORTER.get(kind, 1)
        config = configuration(kind, seed, evaluations)
        train(config, evaluations // config.env_config["cuts"], validate, POINTS, folder)
    finally:
        ray.shutdown()


def trained(kind: str, seed: int, folder: Path, evaluations: int) -> Path:
    """The folder of a finished training, which is run now unless it was."""
    target = folder / f"{kind}_{seed}"
    if not (target / "curve.json").is_file():
        command = [
            sys.executable, "-m", "benchmarks.boo_packing", "--train", kind, "--seed", str(seed),
            "--evaluations", str(evaluations), "--folder", str(target),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return target


# --- SCIP ------------------------------------------------------------------------------------------------------


def solve_by_scip(part: int, parts: int, count: int, file: Path) -> None:
    """Solve instances ``part, part + parts, ...`` and append a line for each; what the file has is not repeated."""
    have = {row["instance"] for row in lines(file)}
    for i in range(part, count, parts):
        if i in have:
            continue
        instance = unseen(i)
        answer = global_optimum(instance, SCIP_SECONDS)
        row = {
            "instance": i,
            "scip": answer.objective,
            "bound": answer.bound,
            "closed": answer.status == Status.OPTIMAL,
            "seconds": answer.seconds,
            "local": best_known(instance),
        }
        with file.open("a") as stream:
            stream.write(json.dumps(row) + "\n")


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def scip_rows(folder: Path, workers: int) -> list[dict[str, Any]]:
    """SCIP's answers for all instances, in order."""
    files = [folder / f"scip_{part}.jsonl" for part in range(workers)]
    commands = [
        [sys.executable, "-m", "benchmarks.boo_packing", "--scip", f"{part}/{workers}", "--folder", str(file)]
        for part, file in enumerate(files)
    ]
    with ThreadPoolExecutor(workers) as threads:
        for done in threads.map(
            lambda command: subprocess.run(command, capture_output=True, text=True), commands
        ):
            if done.returncode:
                raise RuntimeError(f"SCIP failed:\n{done.stderr[-4000:]}")
    return sorted((row for file in files for row in lines(file)), key=lambda row: row["instance"])


# --- Results ---------------------------------------------------------------------------------------------------


def summary(values: list[Array], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the fractions of each seed ``(instances,)``; the interval is over seeds and instances."""
    stacked = np.stack(values)
    low, high = bootstrap_interval(stacked.mean(axis=0), np.random.default_rng(0))
    infeasible = sum(row["violation"] > 1e-9 for row in rows)
    return {
        "fraction_mean": float(stacked.mean()),
        "fraction_std": float(stacked.std()),
        "fraction_worst": float(stacked.min()),
        "interval_95": [float(low), float(high)],
        "seed_means": stacked.mean(axis=1).tolist(),
        "optimal_share": float((stacked > 1.0 - 1e-6).mean()),
        "infeasible": infeasible,
        "plans": len(rows),
        "infeasible_rate_at_most": clopper_pearson(infeasible, len(rows)),
        "median_seconds": float(np.median([row["seconds"] for row in rows])),
        "mean_seconds": float(np.mean([row["seconds"] for row in rows])),
    }


def reference(
    plans: Callable[[Packing, int], Array], instances: list[Packing], optima: list[float]
) -> dict[str, Any]:
    rows = []
    for i, instance in enumerate(instances):
        began = time.perf_counter()
        plan = plans(instance, i)
        seconds = time.perf_counter() - began
        rows.append(
            {"value": instance.objective(plan), "seconds": seconds, "violation": instance.violation(plan)}
        )
    return summary([fractions(rows, optima)], rows)


def references(instances: list[Packing], optima: list[float]) -> dict[str, dict[str, Any]]:
    """What sees less (linearised, random cuts) and what sees more (Frank-Wolfe) than the policy."""
    return {
        "linearised objective": reference(lambda p, i: linearised(p), instances, optima),
        "random cuts, K = 2": reference(
            lambda p, i: random_cuts(p, np.random.default_rng(i)), instances, optima
        ),
        "Frank-Wolfe cuts (white box), 10 starts": reference(
            lambda p, i: frank_wolfe(p, np.random.default_rng(i)), instances, optima
        ),
    }


def deployed(writers: list[CutWriter], instances: list[Packing], optima: list[float]) -> dict[str, Any]:
    played = [play(writer, instances) for writer in writers]
    every = [row for rows in played for row in rows]
    result = summary([fractions(rows, optima) for rows in played], every)
    result["best_plan_fraction"] = float(np.mean([fractions(rows, optima, "best_value") for rows in played]))
    return result


def show(rows: dict[str, dict[str, Any]], title: str) -> None:
    table = Table(title=title, title_justify="left")
    for column in ("policy", "f / f*", "95 % interval", "worst", "optimal", "median s", "infeasible"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for name, row in rows.items():
        table.add_row(
            name, f"{row['fraction_mean']:.4f}", "[{:.4f}, {:.4f}]".format(*row["interval_95"]),
            f"{row['fraction_worst']:.3f}", f"{row['optimal_share']:.0%}", f"{row['median_seconds']:.4f}",
            f"{row['infeasible']} of {row['plans']}",
        )  # fmt: skip
    Console(width=120).print(table)


def keys(
    result: dict[str, Any], pointer: dict[str, Any], scip: dict[str, Any], infeasible: int
) -> dict[str, Any]:
    return {
        "fraction_of_optimum": result["fraction_mean"],
        "median_seconds": result["median_seconds"],
        "speedup_vs_scip": scip["mean_seconds"] / result["mean_seconds"],
        "pointer_network_fraction": pointer["fraction_mean"],
        "infeasible_plans": infeasible,
    }


def draw(figures: dict[str, Any]) -> Path:
    """Validation performance over environment evaluations (the paper's Figure 2), and solve time (Appendix A)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    styles = {
        "boo": ("BOO, K = 3", "#2563ab"),
        "pointer_network": ("pointer network", "#c2571a"),
        "boo_paper_features": ("BOO, the paper's features", "#7b4ea3"),
    }
    for kind, (label, colour) in styles.items():
        curves = figures["curves"][kind]
        x = np.linspace(0.0, figures["evaluations"] / SHORTER.get(kind, 1), POINTS + 1).tolist()
        y = np.array([[point["fraction"] for point in curve["points"][: len(x)]] for curve in curves])
        left.plot(x, y.mean(axis=0), color=colour, label=label)
        if len(y) > 1:
            left.fill_between(x, y.min(axis=0), y.max(axis=0), color=colour, alpha=0.2, linewidth=0)
    left.axhline(figures["references"]["linearised objective"]["fraction_mean"], color="0.5", linestyle=":",
                 label="linearised objective")  # fmt: skip
    left.axhline(1.0, color="0.5", linewidth=0.8)
    left.set(xlabel="environment evaluations", ylabel="fraction of the optimum, held-out instances")
    left.legend(fontsize=8)
    left.locator_params(axis="x", nbins=5)
    for curve in figures["curves"]["boo"]:
        points = curve["points"][1:]
        x = [point["episodes"] for point in points]
        right.plot(x, [1e3 * point["master_seconds"] for point in points], color="#2563ab", alpha=0.7)
        right.plot(
            x,
            [1e3 * point["master_seconds_p95"] for point in points],
            color="#2563ab",
            alpha=0.4,
            linestyle="--",
        )
    right.set(
        xlabel="training instances played",
        ylabel="solve of a master [ms], mean and 95 % (dashed)",
        yscale="log",
    )
    path = RESULTS / "boo_packing.png"
    FigureCanvasAgg(figure).print_png(str(path))
    return path


def quick() -> None:
    """The stored policies on 40 of the instances, and SCIP on the first."""
    instances = [unseen(i) for i in range(40)]
    stored = json.loads((RESULTS / "boo_packing.json").read_text())["figures"]["optima"]
    optima = [stored[str(ITEMS)][i] for i in range(40)]
    rows = {
        "BOO, K = 3": deployed([CutWriter.from_checkpoint(STORED["boo"])], instances, optima),
        "pointer network": deployed(
            [CutWriter.from_checkpoint(STORED["pointer_network"])], instances, optima
        ),
        **references(instances, optima),
    }
    show(rows, f"40 unseen packings, N = {ITEMS}")
    answer = global_optimum(instances[0], 25.0)
    infeasible = sum(rows[name]["infeasible"] for name in ("BOO, K = 3", "pointer network"))
    print_result(
        keys(rows["BOO, K = 3"], rows["pointer network"], {"mean_seconds": answer.seconds}, infeasible)
    )


def full(folder: Path, evaluations: int, workers: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(workers) as threads:
        jobs = {
            (kind, seed): threads.submit(trained, kind, seed, folder, evaluations)
            for kind, seeds in KINDS.items()
            for seed in seeds
        }
        folders = {key: job.result() for key, job in jobs.items()}
    curves = {
        kind: [json.loads((folders[kind, seed] / "curve.json").read_text()) for seed in seeds]
        for kind, seeds in KINDS.items()
    }
    scip = scip_rows(folder, workers)
    writers = {
        kind: [CutWriter.from_checkpoint(folders[kind, seed] / "policy") for seed in seeds]
        for kind, seeds in KINDS.items()
    }
    instances = [unseen(i) for i in range(INSTANCES)]
    optima = {ITEMS: [best_known(instance) for instance in instances]}
    for row in scip:
        optima[ITEMS][row["instance"]] = max(row["scip"], row["local"])
    rows = {
        "BOO, K = 3": deployed(writers["boo"], instances, optima[ITEMS]),
        "BOO, K = 3, the paper's features": deployed(writers["boo_paper_features"], instances, optima[ITEMS]),
        "pointer network": deployed(writers["pointer_network"], instances, optima[ITEMS]),
    }
    known = references(instances, optima[ITEMS])
    sizes = {}
    for items in OTHER_SIZES:
        others = [unseen(i, items) for i in range(INSTANCES)]
        optima[items] = [best_known(instance) for instance in others]
        sizes[items] = {
            "BOO": deployed(writers["boo"], others, optima[items]),
            "pointer network": deployed(writers["pointer_network"], others, optima[items]),
            **references(others, optima[items]),
        }
        show(sizes[items], f"Without retraining: {INSTANCES} packings, N = {items}, against the best known")
    closed = [row for row in scip if row["closed"]]
    seconds = np.array([row["seconds"] for row in scip])
    solver = {
        "mean_seconds": float(seconds.mean()),
        "median_seconds": float(np.median(seconds)),
        "limit": SCIP_SECONDS,
        "closed": len(closed),
        "fraction_mean": float(np.mean([row["scip"] / max(row["scip"], row["local"]) for row in scip])),
        "local_search_equals_proved_optimum": sum(row["local"] >= row["scip"] - 1e-6 for row in closed),
    }
    show(
        rows | known,
        f"{INSTANCES} unseen packings, N = {ITEMS}; SCIP: {solver['mean_seconds']:.1f} s, {len(closed)} closed",
    )
    in_training = {kind: sum(curve["infeasible"] for curve in found) for kind, found in curves.items()}
    infeasible = sum(in_training.values()) + sum(row["infeasible"] for row in rows.values())
    payload = {
        **keys(rows["BOO, K = 3"], rows["pointer network"], solver, infeasible),
        "expected_regret": {
            kind: float(np.mean([regret(curve["points"], "fraction") for curve in found]))
            for kind, found in curves.items()
        },
        "training_seconds": {kind: [curve["seconds"] for curve in found] for kind, found in curves.items()},
        "training_plans": {kind: sum(curve["plans"] for curve in found) for kind, found in curves.items()},
        "training_infeasible": in_training,
        "policies": rows,
        "references": known,
        "other_sizes": sizes,
        "scip": solver,
        "curves": curves,
        "optima": optima,
        "evaluations": evaluations,
    }
    for kind, target in STORED.items():
        copy_policy(folders[kind, 0] / "policy", target)
    store("boo_packing", payload, command="python -m benchmarks.boo_packing", seeds=SEEDS)
    print(draw(payload))
    print_result(keys(rows["BOO, K = 3"], rows["pointer network"], solver, infeasible))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.boo_packing", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="play the stored policies, within a minute")
    parser.add_argument("--folder", type=Path, default=Path("runs/boo_packing"), help="of finished parts")
    parser.add_argument(
        "--evaluations", type=int, default=EVALUATIONS, help=f"of each training (default {EVALUATIONS:,})"
    )
    parser.add_argument("--parallel", type=int, default=2, help="processes at a time (default 2)")
    parser.add_argument("--train", choices=KINDS, help="only this training, into --folder")
    parser.add_argument("--seed", type=int, default=0, help="of --train")
    parser.add_argument(
        "--scip", metavar="PART/PARTS", help="only SCIP on a part of the instances, into --folder"
    )
    parser.add_argument("--draw", action="store_true", help="draw the stored figures again")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # a second one only waits
    if options.quick:
        quick()
    elif options.draw:
        print(draw(json.loads((RESULTS / "boo_packing.json").read_text())["figures"]))
    elif options.train:
        train_one(options.train, options.seed, options.evaluations, options.folder)
    elif options.scip:
        part, parts = (int(number) for number in options.scip.split("/"))
        solve_by_scip(part, parts, SCIP_INSTANCES, options.folder)
    else:
        full(options.folder, options.evaluations, options.parallel)


if __name__ == "__main__":
    main()

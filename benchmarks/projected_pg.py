"""Projected policy gradients, corrected and not, on the paper's example and on the inventory chain (seed 002).

Full run: five seeds of every variant, trained by the presets of `algorithms/projected_pg/presets.py`. On the paper's
example (robust linear MPC; specification projection_pg, sections 6 and 7) costs are compared with the best linear
policy, found by descending the exact gradient of the known model in the scenarios that all policies are then evaluated
in. Every executed action is checked against the constraints by code that does not know the safe set.

Keys of the last line:

- ``corrected_gradient_error``: largest relative error of Corollary 1's gradient against finite differences, over
  problems with no, one and several active constraints and a curved one; ``uncorrected_gradient_error``: the smallest
  of the gradient without the correction, over those with active ones;
- ``optimality_gap``: cost of the corrected policies over the best linear one's, less one, mean over seeds;
- ``violations`` of ``steps``: evaluated on the example and on the inventory chain against the
  constraints themselves, and in training against the safe set's rows, by the check that follows every action.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from algorithms.common import checkpoint
from algorithms.projected_pg.exact import KnownModel
from algorithms.projected_pg.policy import ProjectedPolicy
from benchmarks.common import RESULTS, local_cluster, print_result, store
from envs.inventory import DEFAULT
from envs.inventory.evaluation import demand_paths, evaluate
from envs.inventory.planning import perfect_information
from envs.inventory.policies import tuned_base_stock
from envs.linear_tube import SetPoint, reference_task
from envs.statistics import bootstrap_interval, clopper_pearson

SEEDS = (0, 1, 2, 3, 4)
TUBE = ("corrected", "uncorrected", "stochastic", "executed score")
INVENTORY = ("corrected", "uncorrected")
NAMES = {
    "corrected": "deterministic, gradient corrected by M",
    "uncorrected": "deterministic, uncorrected",
    "stochastic": "stochastic, score of the proposal",
    "executed score": "stochastic, score of the executed action",
}
SCENARIOS = 512
UNSEEN = 2_000_000
"""Seed of the evaluation's scenarios and customers; those of training are others."""
CUSTOMERS = 500
STORED = RESULTS / "projected_pg_policies"
Array = np.ndarray[Any, np.dtype[np.float64]]


# --- Gradients --------------------------------------------------------------------------------------------------


class HalfPlanes:
    """``G u <= h + E x``: a safe set that moves with the state."""

    low, high = np.full(2, -np.inf), np.full(2, np.inf)

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(count)
        self.G, self.h = rng.normal(size=(count, 2)), rng.uniform(0.05, 0.3, count)
        self.E = 0.1 * rng.normal(size=(count, 2))

    def rows(self, observations: Array) -> tuple[Array, Array]:
        return self.G, self.h + observations @ self.E.T

    def executable(self, actions: Array) -> Array:
        return actions

    def fallback(self, observations: Array) -> Array:
        return np.zeros((len(observations), 2))


class Ellipsoid:
    """``u'E u <= r``."""

    low, high = np.full(2, -np.inf), np.full(2, np.inf)
    E, r = np.array([[3.0, 1.0], [1.0, 1.0]]), 0.3

    def value(self, observations: Array, actions: Array) -> Array:
        return np.asarray(np.einsum("bi,ij,bj->b", actions, self.E, actions)[:, None] - self.r)

    def jacobian(self, observations: Array, actions: Array) -> Array:
        return np.asarray((2.0 * actions @ self.E)[:, None, :])

    def hessian(self, observations: Array, actions: Array, multipliers: Array) -> Array:
        return np.asarray(2.0 * multipliers[:, :, None] * self.E)


def gradient_errors() -> dict[str, dict[str, float]]:
    """Relative errors against central differences of the cost, by problem."""
    A, B = np.array([[1.0, 0.2], [0.0, 1.0]]), np.array([[0.02, 0.1], [0.2, 0.05]])
    problems: dict[str, Any] = {
        "none": HalfPlanes(0), "one half-plane": HalfPlanes(1), "three half-planes": HalfPlanes(3),
        "ellipsoid": Ellipsoid(), "robust MPC": reference_task().safe_set,
    }  # fmt: skip
    found = {}
    for name, safe_set in problems.items():
        model = KnownModel(A, B, np.array([0.9, 0.0]), 0.05, 0.95, safe_set)
        rng = np.random.default_rng(3)
        theta, states = rng.normal(size=(2, 3)), 0.5 * rng.normal(size=(24, 2))
        if name == "robust MPC":
            states = reference_task().safe_set.sample(rng, 24)
        disturbances = rng.uniform(-0.02, 0.02, size=(15, 24, 2))
        differences = np.zeros_like(theta)
        for index in np.ndindex(*theta.shape):
            shift = np.zeros_like(theta)
            shift[index] = 1e-6
            up, down = (model.cost(theta + sign * shift, states, disturbances).mean() for sign in (1, -1))
            differences[index] = (up - down) / 2e-6
        norm = np.linalg.norm(differences)
        found[name] = {
            label: float(
                np.linalg.norm(model.gradient(theta, states, disturbances, correction)[1] - differences)
                / norm
            )
            for label, correction in (("corrected", True), ("uncorrected", False))
        }
    return found


# --- The paper's example ----------------------------------------------------------------------------------------


def scenarios(task: SetPoint) -> tuple[Array, Array]:
    """First states ``(SCENARIOS, n)`` and disturbances ``(T, SCENARIOS, n)``, the same for every policy."""
    rng = np.random.default_rng(UNSEEN)
    states = task.safe_set.sample(rng, SCENARIOS)
    draw = task.safe_set.tube.system.disturbance.sample
    return states, np.stack([draw(rng, SCENARIOS) for _ in range(task.steps)])


@lru_cache(maxsize=1)
def best_linear_policy() -> tuple[float, Array]:
    """Mean cost and parameters ``(m, n + 1)`` of the best linear policy in the evaluation's own scenarios."""
    task = reference_task()
    system = task.safe_set.tube.system
    model = KnownModel(system.A, system.B, task.target, task.input_weight, task.discount, task.safe_set)
    return model.best(np.zeros((system.m, system.n + 1)), *scenarios(task))


def cost_of(policy: ProjectedPolicy) -> tuple[Array, int, int]:
    """Discounted cost of each scenario, and how many of how many steps broke ``F x <= f`` or ``G u <= g``."""
    task = reference_task()
    system = task.safe_set.tube.system
    x, disturbances = scenarios(task)
    costs, violations = np.zeros(len(x)), 0
    noise = np.random.default_rng(1)
    for t, w in enumerate(disturbances):
        u = policy.act_batch(x, noise).actions
        outcome = task.play(x, u, w)
        costs -= task.discount**t * outcome.reward
        x = outcome.state
        # Against the constraints themselves, not the tightened rows that the projection used; 1e-9 is rounding.
        broken = (x @ system.F.T > system.f + 1e-9).any(axis=1) | (u @ system.G.T > system.g + 1e-9).any(
            axis=1
        )
        violations += int(broken.sum())
    return costs, violations, disturbances.shape[0] * len(x)


# --- Training ---------------------------------------------------------------------------------------------------


def train(problem: str, name: str, seed: int, folder: Path) -> ProjectedPolicy:
    """Train one variant; `folder` gets its policy and ``curve.json``."""
    from algorithms.projected_pg import presets

    config = presets.preset(problem, name).debugging(seed=seed)
    episodes = presets.TUBE_EPISODES if problem == "tube" else presets.INVENTORY_EPISODES
    folder.mkdir(parents=True, exist_ok=True)
    ray = local_cluster()
    try:
        algorithm = config.build_algo()
        began, played = time.perf_counter(), 0
        while played < episodes:
            algorithm.train()
            played = sum(record.count for record in algorithm.episodes.finished)
            if len(algorithm.episodes.finished) % 10 == 0:
                record = algorithm.episodes.finished[-1]
                print(f"{played} episodes: return {record.reward:.3f}", flush=True)
        records = algorithm.episodes.finished
        policy: ProjectedPolicy = algorithm.policy()
        algorithm.stop()
    finally:
        ray.shutdown()
    policy.save(folder)
    checkpoint.seal(folder)
    curve = {
        "episodes": np.cumsum([r.count for r in records]).tolist(),
        "returns": [r.reward for r in records],
        "unsafe": sum(r.unsafe_steps for r in records),
        "steps": sum(r.count * r.length for r in records),
        "seconds": time.perf_counter() - began,
    }
    (folder.parent / f"{folder.name}.json").write_text(json.dumps(curve))
    return policy


def train_tube(name: str, seed: int) -> ProjectedPolicy:
    """Train one variant on the paper's example."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return train("tube", name, seed, Path(folder) / "policy")


# --- Figures ----------------------------------------------------------------------------------------------------


def interval(values: Array) -> list[float]:
    """Bootstrap 95 % interval of the mean."""
    low, high = bootstrap_interval(
        np.asarray(values), np.random.default_rng(0), lambda drawn, axis: drawn.mean(axis=axis)
    )
    return [float(low), float(high)]


def on_tube(policies: dict[str, list[ProjectedPolicy]]) -> dict[str, dict[str, Any]]:
    """Costs of the variants' seeds over the best linear policy's."""
    best, _ = best_linear_policy()
    rows = {}
    for name, seeds in policies.items():
        played = [cost_of(policy) for policy in seeds]
        means = np.array([costs.mean() for costs, _, _ in played])
        violations, steps = sum(row[1] for row in played), sum(row[2] for row in played)
        rows[name] = {
            "cost": float(means.mean()), "cost_interval_95": interval(means), "costs": means.tolist(),
            "gap": float(means.mean() / best - 1.0), "violations": violations, "steps": steps,
            "violation_rate_at_most": clopper_pearson(violations, steps),
        }  # fmt: skip
    return rows


def on_inventory(policies: dict[str, list[ProjectedPolicy]]) -> dict[str, dict[str, Any]]:
    """Rewards of the variants' seeds with customers that are the same for all."""
    rows: dict[str, dict[str, Any]] = {}
    for name, seeds in policies.items():
        played = [evaluate(policy, DEFAULT, CUSTOMERS, UNSEEN) for policy in seeds]
        means = np.array([stats.mean for stats in played])
        violations = int(sum(stats.peak_violations.sum() for stats in played))
        steps = sum(stats.steps for stats in played)
        rows[name] = {
            "reward": float(means.mean()), "reward_interval_95": interval(means), "rewards": means.tolist(),
            "violations": violations, "steps": steps,
            "violation_rate_at_most": clopper_pearson(violations, steps),
        }  # fmt: skip
    return rows


def references() -> dict[str, float]:
    """What policies earn on the chain that know the model, or the future."""
    base_stock = evaluate(tuned_base_stock(DEFAULT), DEFAULT, CUSTOMERS, UNSEEN).mean
    return {
        "base-stock, tuned": base_stock,
        "perfect information": float(
            perfect_information(DEFAULT, demand_paths(DEFAULT, CUSTOMERS, UNSEEN)).mean()
        ),
    }


def show(
    gradients: dict[str, dict[str, float]],
    tube: dict[str, dict[str, Any]],
    inventory: dict[str, dict[str, Any]],
    known: dict[str, float],
) -> None:
    console = Console(width=120)
    table = Table("active constraints", "corrected", "uncorrected", title="Relative error of the gradient")
    for name, row in gradients.items():
        table.add_row(name, f"{row['corrected']:.1e}", f"{row['uncorrected']:.1e}")
    console.print(table)
    table = Table("policy", "cost", "over the best linear", "violating steps", title="Robust MPC example")
    for name, row in tube.items():
        table.add_row(
            NAMES[name],
            f"{row['cost']:.3f}",
            f"{100 * row['gap']:+.2f} %",
            f"{row['violations']} of {row['steps']:,}",
        )
    table.add_row("best linear policy (knows the model)", f"{best_linear_policy()[0]:.3f}", "", "")
    console.print(table)
    table = Table("policy", "reward", "violating steps", title="Inventory chain")
    for name, row in inventory.items():
        table.add_row(NAMES[name], f"{row['reward']:.1f}", f"{row['violations']} of {row['steps']:,}")
    for name, reward in known.items():
        table.add_row(f"{name} (reference)", f"{reward:.1f}", "")
    console.print(table)


def keys(
    gradients: dict[str, dict[str, float]],
    rows: list[dict[str, Any]],
    gap: float,
    training: tuple[int, int] = (0, 0),
) -> dict[str, Any]:
    return {
        "corrected_gradient_error": max(row["corrected"] for row in gradients.values()),
        "uncorrected_gradient_error": min(
            row["uncorrected"] for name, row in gradients.items() if name != "none"
        ),
        "optimality_gap": gap,
        "violations": sum(row["violations"] for row in rows) + training[0],
        "steps": sum(row["steps"] for row in rows) + training[1],
    }


def draw(curves: dict[str, list[dict[str, Any]]]) -> Path:
    """Return over training of every seed, by problem and variant."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    panels = figure.subplots(1, 3)
    kinds = (
        ("tube", ("corrected", "uncorrected"), "robust MPC, deterministic"),
        ("tube", ("stochastic", "executed score"), "robust MPC, stochastic"),
        ("inventory", INVENTORY, "inventory chain"),
    )
    for axes, (problem, names, title) in zip(panels, kinds, strict=True):
        for name, colour in zip(names, ("#2563ab", "#c2571a"), strict=True):
            seeds = curves[f"{problem} {name}"]
            rows = np.array([curve["returns"] for curve in seeds])
            axes.plot(seeds[0]["episodes"], rows.mean(axis=0), color=colour, label=NAMES[name])
            axes.fill_between(
                seeds[0]["episodes"], rows.min(axis=0), rows.max(axis=0), color=colour, alpha=0.2
            )
        axes.set(title=title, xlabel="episodes", ylabel="return of an episode, as explored")
        low, high = np.quantile(
            np.concatenate([c["returns"] for n in names for c in curves[f"{problem} {n}"]]), (0.1, 1)
        )
        axes.set_ylim(low - 0.1 * (high - low), high + 0.15 * (high - low))
        axes.legend(fontsize=7, loc="lower right")
    path = RESULTS / "projected_pg.png"
    FigureCanvasAgg(figure).print_png(str(path))
    return path


def run(*arguments: str) -> None:
    """This module in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.projected_pg", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    print(" ".join(arguments), "done", flush=True)


def quick() -> None:
    """The gradients, and the policies that the full run stored."""
    gradients = gradient_errors()
    stored = {path.name: ProjectedPolicy.from_checkpoint(path) for path in sorted(STORED.iterdir())}
    tube = on_tube({name: [stored[f"tube_{name}"]] for name in ("corrected", "uncorrected")})
    inventory = on_inventory({name: [stored[f"inventory_{name}"]] for name in INVENTORY})
    show(gradients, tube, inventory, {})
    print_result(keys(gradients, [*tube.values(), *inventory.values()], tube["corrected"]["gap"]))


def full(folder: Path, seeds: tuple[int, ...], workers: int) -> None:
    wanted = [("tube", name) for name in TUBE] + [("inventory", name) for name in INVENTORY]
    parts = {
        (problem, name, seed): folder / f"{problem}_{name}_{seed}"
        for problem, name in wanted
        for seed in seeds
    }
    with ThreadPoolExecutor(workers) as threads:
        jobs = [
            threads.submit(run, "--train", problem, name, str(seed), "--folder", str(path))
            for (problem, name, seed), path in parts.items()
            if not path.with_name(f"{path.name}.json").is_file()
        ]
        for job in jobs:
            job.result()
    policies = {
        (problem, name): [ProjectedPolicy.from_checkpoint(parts[problem, name, seed]) for seed in seeds]
        for problem, name in wanted
    }
    curves = {
        f"{problem} {name}": [
            json.loads(path.with_name(f"{path.name}.json").read_text())
            for path in (parts[problem, name, seed] for seed in seeds)
        ]
        for problem, name in wanted
    }
    gradients, known = gradient_errors(), references()
    tube = on_tube({name: policies["tube", name] for name in TUBE})
    inventory = on_inventory({name: policies["inventory", name] for name in INVENTORY})
    show(gradients, tube, inventory, known)
    everything = [curve for of_name in curves.values() for curve in of_name]
    training = sum(c["unsafe"] for c in everything), sum(c["steps"] for c in everything)
    found = keys(gradients, [*tube.values(), *inventory.values()], tube["corrected"]["gap"], training)
    payload = {
        **found, "gradients": gradients, "tube": tube, "inventory": inventory, "references": known,
        "best_linear_cost": best_linear_policy()[0], "best_linear_policy": best_linear_policy()[1],
        "curves": curves,
    }  # fmt: skip
    shutil.rmtree(STORED, ignore_errors=True)
    for problem, name in (
        ("tube", "corrected"),
        ("tube", "uncorrected"),
        *(("inventory", n) for n in INVENTORY),
    ):
        target = STORED / f"{problem}_{name}"
        target.mkdir(parents=True)
        policies[problem, name][0].save(target)
        checkpoint.seal(target)
    store("projected_pg", payload, command="python -m benchmarks.projected_pg", seeds=seeds)
    print(draw(curves))
    print_result(found)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.projected_pg", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="gradients and stored policies, within a minute")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/projected_pg"), help="of finished trainings"
    )
    parser.add_argument(
        "--seeds", default=",".join(map(str, SEEDS)), help="of the trainings (default 0,1,2,3,4)"
    )
    parser.add_argument("--parallel", type=int, default=2, help="trainings at a time (default 2)")
    parser.add_argument(
        "--train", nargs=3, metavar=("PROBLEM", "VARIANT", "SEED"), help="only this training, into --folder"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.quick:
        quick()
    elif options.train:
        problem, name, seed = options.train
        train(problem, name, int(seed), options.folder)
    else:
        full(options.folder, tuple(int(seed) for seed in options.seeds.split(",")), options.parallel)


if __name__ == "__main__":
    main()

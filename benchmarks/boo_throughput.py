"""Environment evaluations a second while BOO samples, by number of solver workers, and where the time goes.

``python -m benchmarks.boo_throughput`` plays rounds of episodes as training does (graph, network, all masters of a step
on the pool) with masters solved in process and by 1, 2 and 4 workers, and stores ``results/boo_throughput.json``;
``--quick`` plays fewer. The workloads differ in what a master costs: a knapsack (the last cut binds alone), two cuts
that bind together (a MILP of 51 variables for HiGHS), and schedules of the job shop.

Keys of the result, for the MILP of two binding cuts:

- ``evaluations_per_second``: by number of workers, 0 being in process;
- ``two_workers_over_in_process``: ratio of the two;
- ``solve_share, forward_share, other_share``: of the time in process. Solving on workers overlaps with itself, so that
  shares of theirs can exceed one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from algorithms.boo.graphs import GraphBatch
from algorithms.boo.policy import CutPolicy
from benchmarks.common import local_cluster, print_result, store
from envs.cutting_planes import CutVectorEnv, MasterSettings
from envs.cutting_planes.graph import as_objects
from envs.job_shop import JobShopEnv
from envs.packing import PackingEnv
from solver_pool.pool import PoolConfig, SolverPool

WORKERS = (0, 1, 2, 4)
SCHEDULES = MasterSettings(solver="highs", gap=0.02, time_limit=1.0)


def workloads(quick: bool) -> dict[str, tuple[Callable[[], list[Any]], float, int]]:
    """Environments, the policy's `supersede`, and rounds of each workload."""
    n, rounds = (16, 2) if quick else (64, 4)
    return {
        "knapsack (K = 2, the last cut binds)": (
            lambda: [PackingEnv(50, cuts=2, couplings=True) for _ in range(n)], 2.0, rounds
        ),
        "two binding cuts (K = 2)": (lambda: [PackingEnv(50, cuts=2, couplings=True) for _ in range(n)], 0.0, rounds),
        "job shop, J = 60": (
            lambda: [JobShopEnv(60, cuts=1, settings=SCHEDULES) for _ in range(n // 4)], 2.0, 1
        ),
    }  # fmt: skip


def play(envs: list[Any], supersede: float, rounds: int, workers: int) -> dict[str, float]:
    """Evaluations a second and shares of the time; an evaluation is a master that was solved."""
    pool = SolverPool(PoolConfig(n_workers=workers, cpus_per_worker=0.5))
    vector = CutVectorEnv(envs, pool)
    space = vector.single_observation_space
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = CutPolicy(space.variable_features, space.constraint_features, supersede=supersede)
    generator = torch.Generator().manual_seed(0)
    forward = solve = 0.0
    solved = 0
    observations, _ = vector.reset(seed=0)
    began = time.perf_counter()
    for r in range(rounds + 1):
        if r == 1:  # the first round starts workers and compiles
            pool.drain()
            forward, solve, solved, began = 0.0, 0.0, 0, time.perf_counter()
        if r:
            observations, _ = vector.reset()
        playing = np.ones(len(envs), dtype=np.bool_)
        while playing.any():
            clock = time.perf_counter()
            with torch.no_grad():
                distribution, _ = policy(GraphBatch.of(list(observations[playing])))
                cuts, _ = distribution.sample(generator)
            actions = np.full(len(envs), None, dtype=object)
            actions[playing] = as_objects(cuts)
            forward += time.perf_counter() - clock
            observations, _, over, _, _ = vector.step(actions)
            solved += len(vector.solutions)
            solve += sum(solution.seconds for solution in vector.solutions)
            playing &= ~over
    seconds = time.perf_counter() - began
    vector.close()
    return {
        "evaluations_per_second": solved / seconds,
        "solve_share": solve / seconds,
        "forward_share": forward / seconds,
        "other_share": 1.0 - (solve + forward) / seconds,
        "infeasible": float(vector.infeasible),
        "checked": float(vector.checked),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.boo_throughput", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, within a minute")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    table = Table(title="Masters solved a second while sampling", title_justify="left")
    for column in ("workload", "workers", "a second", "solving", "network", "rest"):
        table.add_column(column, justify="left" if column == "workload" else "right")
    ray = local_cluster()
    rows: dict[str, dict[int, dict[str, float]]] = {}
    for name, (make, supersede, rounds) in workloads(quick).items():
        rows[name] = {}
        for workers in (0, 2) if quick else WORKERS:
            row = rows[name][workers] = play(make(), supersede, rounds, workers)
            table.add_row(
                name, str(workers or "in process"), f"{row['evaluations_per_second']:.1f}",
                *(f"{row[k]:.0%}" for k in ("solve_share", "forward_share", "other_share")),
            )  # fmt: skip
    ray.shutdown()
    Console(width=110).print(table)
    milp = rows["two binding cuts (K = 2)"]
    payload: dict[str, Any] = {
        "evaluations_per_second": {str(w): row["evaluations_per_second"] for w, row in milp.items()},
        "two_workers_over_in_process": milp[2]["evaluations_per_second"] / milp[0]["evaluations_per_second"],
        **{name: milp[0][name] for name in ("solve_share", "forward_share", "other_share")},
    }
    if not quick:
        stored = {
            **payload,
            "workloads": {name: {str(w): row for w, row in by.items()} for name, by in rows.items()},
        }
        store("boo_throughput", stored, command="python -m benchmarks.boo_throughput", seeds=[0])
    print_result(payload)


if __name__ == "__main__":
    main()

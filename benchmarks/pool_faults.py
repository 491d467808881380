"""The solver pool while everything goes wrong: every answer arrives, in order, as from a serial run.

``python -m benchmarks.pool_faults [--quick]`` solves 10,000 mixed problems (quick: 1,000) on two workers, once
undisturbed and once while a worker is killed every second and solvers misbehave, and compares both with a
loop that solves one after the other in this process.

Problems: projections and QPs (DAQP), LPs and small MILPs (HiGHS), critic batches of 8 states (interior point);
one in a hundred is infeasible. Faults: one solver call in a thousand hangs in native code that holds the GIL, and
is killed at its time limit of 0.5 s and 0.5 s of grace; one in a thousand has a segmentation fault. These belong to
the call, not to the problem: the replay of the victim goes well, so there is a serial answer to compare with.
Every second an independent thread kills one of the workers with SIGKILL, in turn: nine times the solver process,
in which all native code runs, the tenth time Ray's actor as well. (Ray needs two seconds and one of CPU time to
start an actor again, so two cores could not keep up with one that is killed every second; a solver process is forked
again within milliseconds.)

An answer is equal if its status is, and its objective, bound and point are to the last bit; those of a critic batch
to 1e-7, as the last bit of a matrix product depends on how a batch was cut.

Keys of the last line:
    lost: problems without an answer. reordered: answers that belong to another problem.
    differing: answers that are not equal to the serial ones.
    time_ratio: time with faults over time without.
    solves, kills, crashes, hangs, infeasible, seconds, seconds_fault_free, seconds_serial: what happened.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import contextlib
import itertools
import signal
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import pool_backend
from benchmarks.common import local_cluster, print_result, store
from solver_pool.actors import CONTROL
from solver_pool.backends import BACKENDS
from solver_pool.options import SolveOptions
from solver_pool.pool import PoolConfig, SolverPool
from solver_pool.problem import (
    MLP,
    CriticBatch,
    LinearProgram,
    MixedIntegerProgram,
    Problem,
    QuadraticProgram,
)
from solver_pool.solution import BatchSolution, Solution, Status

SEED = 0
LIMIT, GRACE = 0.5, 0.5
"""[s] of a solve, and past it until it counts as hung."""
OPTIONS = SolveOptions(time_limit=LIMIT, n_starts=2, seed=SEED)
KILL_EVERY = 1.0
"""[s] between kills."""
ACTOR_EVERY = 10
"""One kill in so many takes the actor."""


def problems(count: int) -> list[Problem]:
    """A reproducible mixture; the first row or bound of one in a hundred contradicts another."""
    rng = np.random.default_rng(SEED)
    sizes = (8, 32, 32, 1)
    critic = MLP(
        tuple(rng.normal(size=(o, i)) / np.sqrt(i) for i, o in itertools.pairwise(sizes)),
        tuple(0.1 * rng.normal(size=o) for o in sizes[1:]),
        "softplus",
    )
    return [_problem(i, rng, critic) for i in range(count)]


def _problem(i: int, rng: np.random.Generator, critic: MLP) -> Problem:
    infeasible = i % 100 == 50
    kind = i // 100 % 3 if infeasible else i % 4  # a critic batch has no single status
    n = 20
    rows = rng.normal(size=(30, n))
    inside = rng.uniform(-0.5, 0.5, size=n)
    h = rows @ inside + rng.uniform(0.1, 1.0, size=30)
    if infeasible:
        rows[1], h[1] = -rows[0], -h[0] - 2.0
    if kind == 0:
        root = rng.normal(size=(n, n))
        return QuadraticProgram(
            root @ root.T + np.eye(n), rng.normal(size=n), rows, h, -np.ones(n), np.ones(n)
        )
    if kind == 1:
        return LinearProgram(rng.normal(size=n), rows, np.full(30, -np.inf), h, -np.ones(n), np.ones(n))
    if kind == 2:
        A, most = rows[:10, :6], rng.uniform(0.1, 1.0, size=10)  # zero is feasible
        if infeasible:
            most[1] = -most[0] - 2.0
        bound = np.ones(6)
        return MixedIntegerProgram(
            rng.normal(size=6), A, np.full(10, -np.inf), most, -bound, bound, np.arange(6) < 3
        )
    G = rng.normal(size=(8, 3, 2))
    return CriticBatch(critic, rng.normal(size=(8, 6)), G, 0.5 + rng.random((8, 3)), -np.ones(2), np.ones(2))


class Killer(threading.Thread):
    """Kills a worker every `KILL_EVERY` seconds until stopped.

    Args:
        pool: whose workers are killed, in turn.
        actor_every: one kill in so many takes Ray's actor, the others the solver process.
    """

    def __init__(self, pool: SolverPool, actor_every: int) -> None:
        super().__init__(daemon=True)
        self._pool, self._actor_every = pool, actor_every
        self._stop_now = threading.Event()
        self.kills = {"process": 0, "actor": 0}

    def run(self) -> None:
        import ray

        for i in itertools.count():
            if self._stop_now.wait(KILL_EVERY):
                return
            workers = self._pool._staffed().workers
            if not workers:
                continue
            handle = workers[i % len(workers)].handle
            try:
                call = handle.address.options(concurrency_group=CONTROL).remote()
                actor, process = ray.get(call, timeout=0.5 * KILL_EVERY)
            except ray.exceptions.RayError:
                continue
            whole = i % self._actor_every == self._actor_every - 1
            if process:  # else it is down already
                with contextlib.suppress(ProcessLookupError):
                    os.kill(actor if whole else process, signal.SIGKILL)
                    self.kills["actor" if whole else "process"] += 1

    def stop(self) -> None:
        self._stop_now.set()
        self.join()


def same(one: Solution | BatchSolution, other: Solution | BatchSolution) -> bool:
    """Whether two answers are equal, see above."""
    if isinstance(one, BatchSolution) and isinstance(other, BatchSolution):
        return bool((one.status == other.status).all()) and all(
            np.allclose(getattr(one, name), getattr(other, name), 1e-7, 1e-7, equal_nan=True)
            for name in ("objective", "x")
        )
    if isinstance(one, BatchSolution) or isinstance(other, BatchSolution) or one.status != other.status:
        return False
    if one.x is None or other.x is None:
        return one.x is other.x
    exact = np.array_equal([one.objective, one.bound], [other.objective, other.bound], equal_nan=True)
    return exact and np.array_equal(one.x, other.x)


def fits(problem: Problem, answer: Solution | BatchSolution) -> bool:
    """Whether an answer has the shape and, where it has a point, the objective of its problem."""
    if isinstance(problem, CriticBatch) or isinstance(answer, BatchSolution):
        if not isinstance(problem, CriticBatch) or not isinstance(answer, BatchSolution):
            return False
        return np.allclose(problem.values(answer.x), answer.objective, equal_nan=True)
    if answer.x is None:
        return True
    if isinstance(problem, QuadraticProgram):
        value = 0.5 * answer.x @ problem.P @ answer.x + problem.q @ answer.x
    else:
        assert isinstance(problem, LinearProgram | MixedIntegerProgram)
        value = problem.c @ answer.x
    return bool(np.isclose(value, answer.objective))


def run(
    given: Sequence[Problem], actor_every: int = 0, marks: Path | None = None
) -> tuple[list[Any], float, dict[str, int], dict[str, float]]:
    """Solve on two fresh workers; returns answers, time [s], kills and the pool's counters.

    Args:
        given: the problems.
        actor_every: see `Killer`. marks: folder for the marks of faults. Without it nothing goes wrong.
    """
    with SolverPool(PoolConfig(n_workers=2, grace=GRACE)) as pool:
        for _ in range(3):  # until both are in service and the times of solves are known
            pool.solve(given[:100], OPTIONS, placement="actors")
        pool.drain()
        killer = Killer(pool, actor_every)
        if marks is not None:
            marks.mkdir()
            killer.start()
        began = time.perf_counter()
        answers: list[Any] = pool.solve(given, OPTIONS, placement="actors")
        seconds = time.perf_counter() - began
        if marks is not None:
            killer.stop()
        return answers, seconds, killer.kills, pool.drain()


def main() -> None:
    parser = argparse.ArgumentParser(description="The solver pool while workers die and solvers misbehave.")
    parser.add_argument("--quick", action="store_true", help="the same keys within a minute; stores nothing")
    quick = parser.parse_args().quick
    console = Console(width=100)
    given = problems(1_000 if quick else 10_000)
    began = time.perf_counter()
    with SolverPool() as alone:
        serial: list[Any] = alone.solve(given, OPTIONS)
    seconds_serial = time.perf_counter() - began

    BACKENDS.update(pool_backend.MISBEHAVING)
    with tempfile.TemporaryDirectory() as temporary:
        marks = Path(temporary) / "faults"
        ray = local_cluster(**{pool_backend.FAULTS: str(marks)})
        undisturbed, seconds_fault_free, _, _ = run(given)
        answers, seconds, kills, counted = run(given, ACTOR_EVERY, marks)
        hangs_and_crashes = [int(mark.name) for mark in marks.iterdir()]
        ray.shutdown()

    reordered = sum(not fits(problem, answer) for problem, answer in zip(given, answers, strict=False))
    differing = sum(not same(a, b) for a, b in zip(answers, serial, strict=False))
    differing += sum(not same(a, b) for a, b in zip(undisturbed, serial, strict=False))
    result: dict[str, Any] = {
        "lost": len(given) - len(answers) + len(given) - len(undisturbed),
        "reordered": reordered,
        "differing": differing,
        "time_ratio": seconds / seconds_fault_free,
        "solves": len(given),
        "infeasible": sum(not isinstance(a, BatchSolution) and a.status == Status.INFEASIBLE for a in serial),
        "kills": kills,
        "restarts": sum(v for name, v in counted.items() if name.endswith("/worker_restarts")),
        "replays": sum(v for name, v in counted.items() if name.endswith("/replays")),
        "hangs": sum(seed % pool_backend.HANG_EVERY == 1 for seed in hangs_and_crashes),
        "crashes": sum(seed % pool_backend.CRASH_EVERY == 2 for seed in hangs_and_crashes),
        "seconds": seconds,
        "seconds_fault_free": seconds_fault_free,
        "seconds_serial": seconds_serial,
    }
    table = Table("figure", "value", "target")
    targets = {"lost": "0", "reordered": "0", "differing": "0", "time_ratio": "at most 2"}
    for name, value in result.items():
        shown = f"{value:.2f}" if isinstance(value, float) else str(value)
        table.add_row(name.replace("_", " "), shown, targets.get(name, ""))
    console.print(table)
    if not quick:
        store("pool_faults", result, "python -m benchmarks.pool_faults", [SEED])
    print_result(result)


if __name__ == "__main__":
    main()

"""What the solver pool costs, on one machine: overhead, two workers, tiny problems, a long stream, 1,000 workers.

``python -m benchmarks.solver_pool [--quick]``. Workers are Ray actors on a local cluster of two CPUs.

- Overhead: problems whose solver sleeps for 100 ms, through one worker, against a loop that calls the backend.
  The time is wall time, and what the solver takes is fixed, so the difference is the pool's.
- Two workers: critic batches of about 100 ms of work, against a loop over them in one process.
- Tiny problems: projections (3 variables, 9 rows) one by one; ``"auto"`` has to find the right path by itself.
- Memory: small QPs streamed through `SolverPool.solve_iter` on the workers. Resident memory of the caller, the
  actors and their solver processes, without Ray's shared memory, at the end against that after the first tenth.
- Scheduling: the caller's CPU time for each solve, with solvers that sleep for as long as keeps the caller far
  from saturated. ``loop``: `solver_pool.crew` on stand-ins for workers, a heap of times at which they are done, so
  that this is the scheduling loop and the pickling alone. ``ray``: the same on real calls of Ray actors; four
  asyncio actors stand in for all workers, as this machine holds no thousand processes, so that the cost in the
  caller is real but that of starting and feeding a thousand processes is not in it.

Keys of the last line:
    overhead_fraction: time of the pool over that of the loop, less one, at 100 ms a problem.
    efficiency_two_workers: time of the loop over twice the time on two workers.
    rss_growth_fraction: growth of resident memory after the first tenth of the stream; `streamed` problems.
    solves_per_second: tiny projections a second with ``placement="auto"``.
    tiny: the same for the loop, and for the workers; scheduling: CPU time [us] a solve at 1 to 1,000 workers.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import asyncio
import heapq
import itertools
import pickle
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import pool_backend
from benchmarks.common import local_cluster, print_result, store
from solver_pool.actors import CONTROL, Actors
from solver_pool.backends import BACKENDS, solve
from solver_pool.crew import Crew, Muster
from solver_pool.options import SolveOptions
from solver_pool.pool import PoolConfig, SolverPool
from solver_pool.problem import MLP, CriticBatch, QuadraticProgram
from solver_pool.solution import Solution
from solver_pool.tasks import Outcome, Task
from solver_pool.worker import Parcel, Report

SEED = 0
SLEEPING = SolveOptions(backend=pool_backend.NAME)
CREW_SIZES = (1, 10, 100, 1000)


def critic_batch(size: int, rng: np.random.Generator) -> CriticBatch:
    """A random 8-32-32-1 softplus critic, 2 actions, 3 rows; half a millisecond or so for each state."""
    sizes = (8, 32, 32, 1)
    weights = tuple(rng.normal(size=(o, i)) / np.sqrt(i) for i, o in itertools.pairwise(sizes))
    critic = MLP(weights, tuple(0.1 * rng.normal(size=o) for o in sizes[1:]), "softplus")
    G, h = rng.normal(size=(size, 3, 2)), 0.5 + rng.random((size, 3))
    return CriticBatch(critic, rng.normal(size=(size, 6)), G, h, -np.ones(2), np.ones(2))


def projection(rng: np.random.Generator) -> QuadraticProgram:
    """The point nearest to a random one, in a polytope of 9 rows around the origin."""
    G = rng.normal(size=(9, 3))
    return QuadraticProgram(np.eye(3), rng.normal(size=3), G, np.ones(9), -np.ones(3), np.ones(3))


def timed(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def overhead(pool: SolverPool, count: int, repeats: int) -> float:
    """The pool's time over that of a bare loop, less one; the median over repeats."""
    problems = [pool_backend.sleeping(0.1)] * count
    pool.solve(problems[:2], SLEEPING, placement="actors")
    fractions = []
    for _ in range(repeats):
        bare = timed(lambda: [pool_backend.solve(problem, SLEEPING) for problem in problems])
        fractions.append(timed(lambda: pool.solve(problems, SLEEPING, placement="actors")) / bare - 1.0)
    return statistics.median(fractions)


def efficiency(pool: SolverPool, count: int, repeats: int) -> float:
    """The time of one process over twice that of two workers; the median over repeats."""
    rng = np.random.default_rng(SEED)
    options = SolveOptions(n_starts=8)
    per_state = timed(lambda: solve(critic_batch(500, rng), options))
    per_state = min(per_state, timed(lambda: solve(critic_batch(500, rng), options))) / 500
    problems = [critic_batch(int(0.1 / per_state), rng) for _ in range(count)]
    pool.solve(problems[:4], options, placement="actors")
    ratios = []
    for _ in range(repeats):
        bare = timed(lambda: [solve(problem, options) for problem in problems])
        ratios.append(bare / (2 * timed(lambda: pool.solve(problems, options, placement="actors"))))
    return statistics.median(ratios)


def tiny(pool: SolverPool, count: int, repeats: int) -> dict[str, float]:
    """Solves a second of tiny projections, by path; the median over repeats."""
    rng = np.random.default_rng(SEED)
    problems = [projection(rng) for _ in range(count)]
    paths: dict[str, Callable[[], Any]] = {
        "loop": lambda: [solve(problem) for problem in problems],
        "auto": lambda: pool.solve(problems),
        "workers": lambda: pool.solve(problems, placement="actors"),
    }
    found: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(repeats + 1):
        for name, path in paths.items():
            found[name].append(count / timed(path))
    return {name: statistics.median(rates[1:]) for name, rates in found.items()}


def memory_growth(pool: SolverPool, count: int, console: Console) -> tuple[float, float]:
    """Growth of resident memory over a stream of `count` QPs after its first tenth, and solves a second."""
    rng = np.random.default_rng(SEED)

    def stream() -> Iterator[QuadraticProgram]:
        for _ in range(count):
            yield projection(rng)

    began, warm, failed = time.perf_counter(), 0.0, 0
    for i, answer in enumerate(pool.solve_iter(stream(), placement="actors")):
        failed += not (isinstance(answer, Solution) and answer.status.usable)
        if i == count // 10:
            warm = resident(pool)
        elif i and i % (count // 5) == 0:
            console.print(f"  {i:>9,} QPs, {resident(pool) / 2**20:.0f} MiB", highlight=False)
    if failed:
        raise RuntimeError(f"{failed} of {count} projections failed")
    return resident(pool) / warm - 1.0, count / (time.perf_counter() - began)


def resident(pool: SolverPool) -> float:
    """Resident memory [bytes] of this process, the actors, their nurseries and solver processes."""
    import ray

    pids = {os.getpid()}
    for handle in worker_handles(pool):
        address = handle.address.options(concurrency_group=CONTROL).remote()
        actor, process = ray.get(address, timeout=30)
        pids |= {actor, process, parent(process)}
    return sum(private(pid) for pid in pids)


def worker_handles(pool: SolverPool) -> list[Any]:
    """The actors of a pool."""
    return [worker.handle for worker in pool._staffed().workers]


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def private(pid: int) -> float:
    """Resident memory of a process [bytes] that is neither a file nor shared."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return 1024.0 * float(line.split()[1])
    return 0.0


class Sleepers:
    """Stand-ins for workers, in this process: each is done with a parcel once its sleep is over."""

    interval = np.inf
    capacity = np.inf
    news = False

    def __init__(self) -> None:
        self._tokens = itertools.count()
        self._done: list[tuple[float, int, Any]] = []

    def muster(self, held: Sequence[Any], wanted: int) -> Muster:
        return Muster([object() for _ in range(wanted - len(held))])

    def call(self, handle: Any, method: str, *arguments: Any) -> int:
        token, result, seconds = next(self._tokens), "", 0.0
        if method == "solve":
            seconds, result = sleep_through(arguments[0])
        heapq.heappush(self._done, (time.monotonic() + seconds, token, result))
        return token

    def collect(self, timeout: float | None) -> list[tuple[int, Any]]:
        wait = self._done[0][0] - time.monotonic() if self._done else timeout or 0.0
        time.sleep(max(0.0, min(wait, np.inf if timeout is None else timeout)))
        ended, now = [], time.monotonic()
        while self._done and self._done[0][0] <= now:
            ended.append(heapq.heappop(self._done)[1:])
        return ended

    def publish(self, data: bytes) -> Any:
        return data

    def abandon(self, handle: Any) -> None: ...
    def kill(self, handle: Any) -> None: ...
    def dismiss(self, handle: Any, broken: bool = False) -> None: ...
    def rest(self) -> bool:
        return True


def sleep_through(parcel: Parcel) -> tuple[float, Any]:
    """How long a parcel of `pool_backend.sleeping` takes [s], and what comes back."""
    tasks: list[Task] = [pickle.loads(task) for task in parcel.tasks]
    answers = [pool_backend.slept(task.problem) for task in tasks]
    outcomes = [(i, Outcome(answer, answer.solve_time, True)) for i, answer in enumerate(answers)]
    return sum(answer.solve_time for answer in answers), Report([pickle.dumps(outcomes)])


class SleepingActor:
    """Stands in for many workers: its calls sleep side by side."""

    async def prepare(self, name: str, entry: bytes) -> str:
        return ""

    async def solve(self, parcel: Parcel) -> Any:
        seconds, report = sleep_through(parcel)
        await asyncio.sleep(seconds)
        return report


class RaySleepers(Actors):
    """Workers that are calls of a few asyncio actors."""

    def __init__(self, config: PoolConfig) -> None:
        super().__init__(config)
        import ray

        actor: Any = ray.remote(SleepingActor)
        self._actors = [actor.options(num_cpus=0, max_concurrency=1000).remote() for _ in range(4)]
        self._next = itertools.count()

    def muster(self, held: Sequence[Any], wanted: int) -> Muster:
        return Muster([Alias(self._actors[next(self._next) % 4]) for _ in range(wanted - len(held))])

    def call(self, handle: Any, method: str, *arguments: Any) -> int:
        return super().call(handle.actor, method, *arguments)

    def dismiss(self, handle: Any, broken: bool = False) -> None:
        super().dismiss(handle.actor)


class Alias:
    """One of the workers for which an actor stands in."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor


def scheduling(workers: int, on_ray: bool) -> float:
    """CPU time of the caller [us] for each solve, with `workers` workers that sleep."""
    seconds = max(0.005, 0.001 * workers)
    count = max(400, 3 * workers)
    config = PoolConfig(n_workers=workers)
    pool = SolverPool(config)
    staff: Any = RaySleepers(config) if on_ray else Sleepers()
    pool._crew = Crew(staff, workers, config.grace, config.start_timeout)
    pool._estimates[pool_backend.NAME, 1] = 1.0  # a chunk for each: the cost is that of a solve
    problem = pool_backend.sleeping(seconds)
    pool.solve([problem] * workers, SLEEPING, placement="actors")
    pool._estimates[pool_backend.NAME, 1] = 1.0
    began = time.process_time()
    answers = pool.solve_iter(itertools.repeat(problem, count), SLEEPING, placement="actors")
    solved = sum(1 for _ in answers)
    spent = time.process_time() - began
    pool.close()
    return 1e6 * spent / solved


def main() -> None:
    parser = argparse.ArgumentParser(description="What the solver pool costs.")
    parser.add_argument("--quick", action="store_true", help="the same keys within a minute; stores nothing")
    quick = parser.parse_args().quick
    console = Console(width=100)
    BACKENDS[pool_backend.NAME] = pool_backend.ENTRY
    ray = local_cluster()
    streamed = 15_000 if quick else 1_000_000
    with SolverPool(PoolConfig(n_workers=1)) as one:
        overhead_fraction = overhead(one, 20 if quick else 100, 1 if quick else 5)
    with SolverPool(PoolConfig(n_workers=2)) as two:
        efficiency_two_workers = efficiency(two, 20 if quick else 60, 2 if quick else 5)
        rates = tiny(two, 3_000 if quick else 20_000, 2 if quick else 5)
        console.print("Stream:")
        growth, stream_rate = memory_growth(two, streamed, console)
    sizes = CREW_SIZES
    cost = {kind: {str(size): scheduling(size, kind == "ray") for size in sizes} for kind in ("loop", "ray")}
    ray.shutdown()

    table = Table("figure", "value", "target")
    table.add_row("overhead, 100 ms problems", f"{100 * overhead_fraction:.2f} %", "at most 2 %")
    table.add_row("efficiency of two workers", f"{100 * efficiency_two_workers:.1f} %", "at least 80 %")
    table.add_row(f"memory growth over {streamed:,} QPs", f"{100 * growth:.1f} %", "below 10 %")
    table.add_row("streamed QPs a second, on workers", f"{stream_rate:,.0f}", "")
    for name, rate in rates.items():
        table.add_row(f"tiny projections a second, {name}", f"{rate:,.0f}", "")
    for kind, figures in cost.items():
        for size, value in figures.items():
            table.add_row(f"scheduling, {kind}, {size} workers", f"{value:.0f} us a solve", "")
    console.print(table)
    result = {
        "overhead_fraction": overhead_fraction,
        "efficiency_two_workers": efficiency_two_workers,
        "rss_growth_fraction": growth,
        "streamed": streamed,
        "streamed_per_second": stream_rate,
        "solves_per_second": rates["auto"],
        "tiny": rates,
        "scheduling_us": cost,
    }
    if not quick:
        store("solver_pool", result, "python -m benchmarks.solver_pool", [SEED])
    print_result(result)


if __name__ == "__main__":
    main()

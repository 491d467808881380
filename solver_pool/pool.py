"""The solver pool: it takes problems, decides where they are solved, and returns answers in the same order.

Small smooth work is solved in the caller's process. Everything else goes to workers in chunks, because a native
solver may hang or crash and must not take the caller with it. Ray is imported only when a worker is
needed, so a policy that projects actions runs without it. Read in this order:

=============  =============================================================================================
`chunks`       requests, how they are cut into chunks, the bounded window on a stream, order restored
`crew`         the scheduling loop: free workers, waiting chunks, deadlines, replays
`actors`       the crew's workers on Ray; `shared`: workers leased from a pool of that name
`worker`       the actor, which watches over a solver process, kills a hung one and replaces it
`nursery`      the solver process, and the process that forks it within milliseconds
=============  =============================================================================================

A solve that overruns its time limit by `PoolConfig.grace` is killed, even in native code that holds the GIL. What
was lost with its process is replayed once; a program lost twice gets TIME_LIMIT or ERROR and costs nobody else an
answer. Without a time limit and a deadline a hung solver cannot be told from a slow one, and is waited for.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, TypeAlias, overload

import numpy as np

from solver_pool.backends import BACKENDS, choose_backend
from solver_pool.chunks import Bounds, Chunk, Piece, Request, Window, cut
from solver_pool.crew import Crew
from solver_pool.errors import InvalidProblem, SolverPoolError, UnsupportedProblem
from solver_pool.metrics import Tally
from solver_pool.options import SolveOptions
from solver_pool.problem import BatchProblem, Problem, SingleProblem
from solver_pool.solution import BatchSolution, Solution
from solver_pool.tasks import Answer, Outcome, Task, n_programs, solve_task, solve_tasks

__all__ = ["PoolConfig", "Request", "SolverPool", "pool_bundles"]

logger = logging.getLogger(__name__)

Placement: TypeAlias = Literal["auto", "local", "actors"]

LOCAL_SECONDS = 0.010
"""[s] Estimated work below which ``placement="auto"`` stays in process: a few remote round trips."""
CHUNK_SECONDS = (0.020, 0.500)
"""[s] Least and most estimated work of a remote call: the least hides the round trip of 1 to 2 ms, the most
keeps workers evenly loaded and little work lost with a worker that dies."""
STREAM_SECONDS = 0.100
"""[s] of estimated work in a chunk of a stream, whose length nobody knows."""
WINDOW_CHUNKS = 8
"""Chunks of a stream for each worker that may be pulled and unanswered: one is being solved, some wait for a
worker, and some are solved but wait for an earlier answer."""
FIRST_ESTIMATE = {
    "interior_point": 3e-4, "branch_and_bound": 2e-3, "daqp": 1e-4, "active_set": 1e-4, "knapsack": 2e-4,
    "highs": 2e-3,
}  # fmt: skip
"""[s] for each program, before anything was measured; other backends are taken to be slow."""
TRANSPORT_SECONDS = 2e-4
"""[s] that a problem's way to a worker and back costs on both sides: ``placement="auto"`` keeps smaller ones here."""


@dataclass(frozen=True)
class PoolConfig:
    """Where a pool may solve.

    Attributes:
        n_workers: workers at most; 0 solves everything in process. They are started at the first remote call,
            inside the caller's placement group if it captures children (Tune trials do).
        cpus_per_worker: that each worker reserves.
        resources: further Ray resources that each worker reserves, such as ``{"solver": 1}`` for nodes that are
            kept for solvers.
        shared: name of a shared pool (``solverl pool start NAME``) to lease workers from, at most `n_workers` at
            once; None starts workers of its own.
        grace: [s] past its time limit after which a solve counts as hung.
        start_timeout: [s] for a worker to start and load a backend.
        recycle_after: problems (a batch is one) after which a worker's solver process is replaced by a fresh
            one, against leaks in native code; 0 means never. It takes milliseconds.

    Raises:
        InvalidProblem: on a negative number, or a shared pool without workers.
    """

    n_workers: int = 0
    cpus_per_worker: float = 1.0
    resources: Mapping[str, float] = field(default_factory=dict)
    shared: str | None = None
    grace: float = 2.0
    start_timeout: float = 60.0
    recycle_after: int = 10_000

    def __post_init__(self) -> None:
        for name in ("n_workers", "cpus_per_worker", "grace", "start_timeout", "recycle_after"):
            if not getattr(self, name) >= 0:
                raise InvalidProblem(name, f"is {getattr(self, name)}", "Give zero or more.")
        for name, amount in self.resources.items():
            if not amount > 0 or name in ("CPU", "GPU"):
                remedy = "Give a custom resource a positive amount; CPUs are cpus_per_worker."
                raise InvalidProblem("resources", f"has {name}: {amount}", remedy)
        if self.shared is not None and not self.n_workers:
            raise InvalidProblem(
                "n_workers", f"is 0 with the shared pool {self.shared!r}", "Say how many to lease at most."
            )


def pool_bundles(config: PoolConfig) -> list[dict[str, float]]:
    """The pool's resource bundles, to append (never insert) to a trial's ``default_resource_request``.

    None for a shared pool: its workers are reserved where it was started.
    """
    need = {"CPU": config.cpus_per_worker, **config.resources}
    bundle = {name: amount for name, amount in need.items() if amount > 0}  # Ray refuses zeros
    if config.shared is not None or not bundle:
        return []
    return [dict(bundle) for _ in range(config.n_workers)]


class SolverPool:
    """Solves problems, in process or on workers. One call at a time: not for use from several threads.

    Pickling keeps the configuration alone: a copy starts its own workers when it needs them.

    Args:
        config: see `PoolConfig`.
    """

    def __init__(self, config: PoolConfig = PoolConfig()) -> None:
        self.config = config
        self._tallies: dict[str, Tally] = {}
        self._drained: dict[str, Tally] = {}
        self._estimates: dict[tuple[str, int], float] = {}
        self._crew: Crew | None = None
        self._made = self._since = time.monotonic()
        self._closed = False

    def __enter__(self) -> SolverPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[SolverPool], tuple[PoolConfig]]:
        return SolverPool, (self.config,)

    def close(self) -> None:
        """Kill the workers, or hand them back. A closed pool solves no more; closing twice is harmless."""
        self._closed = True
        self._tallies, self._drained = self._since_drain(), {}
        crew, self._crew = self._crew, None
        if crew is not None:
            crew.dismiss()
            if _ray_runs():
                from solver_pool.reports import withdraw

                withdraw(self)

    @overload
    def solve(
        self,
        problems: BatchProblem,
        options: SolveOptions = ...,
        placement: Placement = ...,
        deadline: float | None = ...,
    ) -> BatchSolution: ...
    @overload
    def solve(
        self,
        problems: SingleProblem,
        options: SolveOptions = ...,
        placement: Placement = ...,
        deadline: float | None = ...,
    ) -> Solution: ...
    @overload
    def solve(
        self,
        problems: Request,
        options: SolveOptions = ...,
        placement: Placement = ...,
        deadline: float | None = ...,
    ) -> Solution | BatchSolution: ...
    @overload
    def solve(
        self,
        problems: Sequence[BatchProblem],
        options: SolveOptions = ...,
        placement: Placement = ...,
        deadline: float | None = ...,
    ) -> list[BatchSolution]: ...
    @overload
    def solve(
        self,
        problems: Sequence[SingleProblem],
        options: SolveOptions = ...,
        placement: Placement = ...,
        deadline: float | None = ...,
    ) -> list[Solution]: ...
    @overload
    def solve(
        self,
        problems: Sequence[Problem | Request],
        options: SolveOptions = ...,
        placement: Placement = ...,
        deadline: float | None = ...,
    ) -> list[Solution | BatchSolution]: ...
    def solve(
        self,
        problems: Problem | Request | Sequence[Problem | Request],
        options: SolveOptions = SolveOptions(),
        placement: Placement = "auto",
        deadline: float | None = None,
    ) -> Any:
        """Solve one problem, or several in any mixture of kinds.

        A failed solve is a status, never an exception: what a backend raises becomes ERROR with its message,
        a hung or crashed solver TIME_LIMIT or ERROR, each for the programs concerned alone. The answers do
        not depend on the placement: problem `i` of a sequence is solved with a seed made of `options.seed`
        and `i`, and every chunk of a batch with the seed of the whole.

        Args:
            problems: one problem, or a sequence; a `Request` adds a seed, deadline or priority of its own.
            options: for all of them. Without `time_limit` and `deadline` a hung solver is waited for.
            placement: ``"local"`` solves in this process, ``"actors"`` on the workers. ``"auto"`` takes the
                workers if there are any, Ray is running and the estimated work is 10 ms or more.
            deadline: [s] from now for the whole call. Programs not begun by then get TIME_LIMIT. Remote
                solves that overrun it by `PoolConfig.grace` are killed; local ones have to end by themselves.

        Returns:
            The answer to one problem, or a list of answers in the order of the sequence.

        Raises:
            UnsupportedProblem: before any work, if a backend is unknown or takes another kind of problem.
            InvalidProblem: before any work, on a bad `placement` or `deadline`.
            SolverPoolError: if the pool is closed, if workers are asked for and Ray is not running, or if there is
                no shared pool of the name configured.
        """
        if not isinstance(problems, Sequence):
            alone = deadline is None and not self.config.n_workers and not self._closed
            if alone and placement in ("auto", "local") and not isinstance(problems, Request):
                return self._solve_here(problems, options)
            return self.solve([problems], options, placement, deadline)[0]
        for given in problems:
            _backend(given.problem if isinstance(given, Request) else given, options)
        return list(self._answers(problems, options, placement, deadline, stream=False))

    def solve_iter(
        self,
        stream: Iterable[Problem | Request],
        options: SolveOptions = SolveOptions(),
        placement: Placement = "auto",
        deadline: float | None = None,
    ) -> Iterator[Solution | BatchSolution]:
        """Solve a stream of problems that may be longer than memory, as `solve` does; answers come in its order.

        Problems are pulled ahead of the answers, but only so far: those pulled and not yet answered are at most
        `WINDOW_CHUNKS` chunks of `STREAM_SECONDS` for each worker, by estimate, `Bounds.programs` programs and
        `Bounds.bytes` bytes of arrays (and always one problem). A problem that takes long holds back those after
        it once that window is full. While the consumer does not ask, nothing new is begun; if it stops, what is
        being solved is abandoned and the workers are free.

        Args:
            stream: any iterable of problems or requests; its items must not depend on the answers.
            options, placement, deadline: as in `solve`. ``"auto"`` judges by the first chunk of the stream.

        Raises:
            Exception: what the stream raises, or UnsupportedProblem for an item that no backend takes, in the
                place of its answer: the answers before it come first.
        """
        return self._answers(stream, options, placement, deadline, stream=True)

    def metrics(self) -> dict[str, float]:
        """Counters since the last `drain`, as ``"<backend>/<counter>"``.

        ``solves`` and ``status_<name>`` count programs (each state of a batch is one), ``solver_seconds`` is
        wall time in the backend and ``queue_seconds`` the programs' waiting for a worker [s], ``replays``
        counts programs, ``worker_restarts`` the solver processes and workers lost while they ran this backend,
        ``recycled`` those replaced by plan. ``utilisation`` is ``solver_seconds`` over the time since the last
        drain and the number of workers (one if there are none), in [0, 1].
        """
        tallies = self._since_drain()
        counted = {f"{name}/{key}": v for name, tally in tallies.items() for key, v in tally.items()}
        available = (time.monotonic() - self._since) * max(self.config.n_workers, 1)
        for name, tally in tallies.items():
            counted[f"{name}/utilisation"] = tally.solver_seconds / available if available else 0.0
        return counted

    def drain(self) -> dict[str, float]:
        """`metrics`, and start counting from zero."""
        counted = self.metrics()
        self._tallies.clear()
        self._drained = {name: tally.plus(Tally()) for name, tally in self._remote().items()}
        self._since = time.monotonic()
        return counted

    def _since_drain(self) -> dict[str, Tally]:
        tallies = dict(self._tallies)
        for name, tally in self._remote().items():
            new = tally.plus(self._drained.get(name, Tally()), -1)
            if any(value for _, value in new.items()):
                tallies[name] = tallies.get(name, Tally()).plus(new)
        return tallies

    def _remote(self) -> dict[str, Tally]:
        return {} if self._crew is None else self._crew.tallies

    @property
    def age(self) -> float:
        """[s] since the pool was made."""
        return time.monotonic() - self._made

    def totals(self) -> dict[str, dict[str, float]]:
        """The counters of `metrics`, by backend, of what the workers did since the pool was made."""
        return {name: dict(tally.items()) for name, tally in self._remote().items()}

    def _solve_here(self, problem: Problem, options: SolveOptions) -> Answer:
        """One problem where there is nothing to decide: what a deployed policy does at every step."""
        piece = Piece(Task(_backend(problem, options), problem, options.seed), 0)
        outcome = solve_task(piece.task, options, None)
        self._record(piece, outcome, options, self._tallies)
        return outcome.answer

    def _answers(
        self,
        problems: Iterable[Problem | Request],
        options: SolveOptions,
        placement: Placement,
        deadline: float | None,
        *,
        stream: bool,
    ) -> Iterator[Answer]:
        """Check the call, then answer it lazily."""
        if self._closed:
            raise SolverPoolError("The pool is closed. Make a new SolverPool.")
        if placement not in ("auto", "local", "actors"):
            raise InvalidProblem("placement", f"{placement!r} is unknown", "Use 'auto', 'local' or 'actors'.")
        if placement == "actors" and not self.config.n_workers:
            raise InvalidProblem("placement", "'actors', but the pool has none", "Set PoolConfig.n_workers.")
        if placement == "actors" and not _ray_runs():
            raise SolverPoolError("Ray is not running. Call ray.init(), or use placement='local'.")
        if deadline is not None and not deadline > 0:
            raise InvalidProblem("deadline", f"is {deadline} s", "Give a positive time from now, or None.")
        workers = max(self.config.n_workers, 1)
        bounds = Bounds(4 * workers, WINDOW_CHUNKS * workers * STREAM_SECONDS) if stream else None
        window = Window(
            problems,
            lambda problem: _backend(problem, options),
            lambda name: self._estimate(name, options),
            time.monotonic,
            options.seed,
            None if deadline is None else time.monotonic() + deadline,
            bounds,
        )
        return self._run(window, options, placement)

    def _run(self, window: Window, options: SolveOptions, placement: Placement) -> Iterator[Answer]:
        block = np.inf if window.bounds is None else STREAM_SECONDS
        entries, work = window.take(block)
        remote = self._goes_remote(placement, work, len(entries))

        def quota(work: float) -> float:
            if not remote:
                return np.inf
            share = work / (4 * self.config.n_workers) if window.bounds is None else STREAM_SECONDS
            return float(np.clip(share, *CHUNK_SECONDS))

        def pull() -> list[Chunk]:
            entries, work = window.take(block)
            return cut(entries, window.cost, quota(work))

        chunks = cut(entries, window.cost, quota(work))
        solved = (
            self._staffed().run(window, chunks, options, pull)
            if remote
            else _local(window, chunks, options, pull)
        )
        tallies = self._remote() if remote else self._tallies
        try:
            for piece, outcome in solved:
                self._record(piece, outcome, options, tallies)
                yield from window.deliver(piece, outcome.answer)
        finally:
            solved.close()  # at once, not when it is collected: it frees the workers
            if remote:
                self._report()
        window.finish()

    def _staffed(self) -> Crew:
        if self._crew is None:
            from solver_pool.actors import Actors

            config = self.config
            if config.shared is None:
                staff: Any = Actors(config)
            else:
                from solver_pool.shared import Leased

                staff = Leased(config, self.totals)
            self._crew = Crew(staff, config.n_workers, config.grace, config.start_timeout)
        return self._crew

    def _report(self) -> None:
        if _ray_runs():
            from solver_pool.reports import post

            post(self)

    def _goes_remote(self, placement: Placement, work: float, n_problems: int) -> bool:
        if placement != "auto":
            return placement == "actors"
        if not self.config.n_workers or work < max(LOCAL_SECONDS, n_problems * TRANSPORT_SECONDS):
            return False
        if not _ray_runs():
            logger.info("Ray is not running: %.3g s of estimated work are solved in process", work)
            return False
        return True

    def _estimate(self, name: str, options: SolveOptions) -> float:
        return self._estimates.get(
            (name, options.n_starts), FIRST_ESTIMATE.get(name, 5e-2) * options.n_starts
        )

    def _record(
        self, piece: Piece, outcome: Outcome, options: SolveOptions, tallies: dict[str, Tally]
    ) -> None:
        name = piece.task.name
        tallies.setdefault(name, Tally()).count(outcome)
        if outcome.measured:
            # A running mean that forgets: networks and constraints change while a policy learns.
            key, sample = (name, options.n_starts), outcome.seconds / max(n_programs(piece.task.problem), 1)
            self._estimates[key] = 0.8 * self._estimates.get(key, sample) + 0.2 * sample


def _local(
    window: Window, chunks: list[Chunk], options: SolveOptions, pull: Callable[[], list[Chunk]]
) -> Generator[tuple[Piece, Outcome], None, None]:
    """Solve chunks in this process."""
    while chunks or not window.exhausted:
        for chunk in sorted(chunks, key=lambda chunk: (-chunk.priority, chunk.order)):
            outcomes = solve_tasks((piece.task for piece in chunk.pieces), options, chunk.ends)
            yield from zip(chunk.pieces, outcomes, strict=True)
        chunks = pull()


def _ray_runs() -> bool:
    # Ray can only be running where it has been imported; importing it takes seconds.
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _backend(problem: Problem, options: SolveOptions) -> str:
    name = choose_backend(problem, options)
    if not isinstance(problem, BACKENDS[name][1]):
        raise UnsupportedProblem(f"{type(problem).__name__} is no problem. See solver_pool.problem.")
    return name

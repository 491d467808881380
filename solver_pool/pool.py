"""The solver pool: it takes problems, decides where they are solved, and returns answers in the same order.

Small smooth work is solved in the caller's process. Everything else goes to Ray actors in chunks, because a
native solver may hang or crash and must not take the caller with it. Ray is imported only when an actor is
needed, so a policy that projects actions runs without it.

Three timeouts guard a remote solve: the solver's own limit T; the client's, which kills the worker after
T + grace; and, should the client be gone, the worker's own alarm (`solver_pool.worker.Alarm`) after at most
T + 2 grace. Ray restarts a killed worker. What was lost with it is replayed once, program by program and on
another worker if there is one; a program lost twice gets TIME_LIMIT or ERROR and costs nobody else an answer.
"""

from __future__ import annotations

import logging
import pickle
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, TypeAlias, cast, overload

import numpy as np
from numpy.typing import NDArray

from solver_pool.backends import BACKENDS, choose_backend
from solver_pool.errors import InvalidProblem, SolverPoolError, UnsupportedProblem
from solver_pool.options import SolveOptions
from solver_pool.problem import MLP, BatchProblem, CriticBatch, Problem, SingleProblem
from solver_pool.solution import BatchSolution, Solution, Status
from solver_pool.worker import (
    TOO_LATE,
    Answer,
    Outcome,
    SolverWorker,
    Task,
    failure,
    n_programs,
    pack,
    solve_tasks,
)

logger = logging.getLogger(__name__)

Placement: TypeAlias = Literal["auto", "local", "actors"]

LOCAL_SECONDS = 0.010
"""[s] Estimated work below which ``placement="auto"`` stays in process: a few remote round trips."""
CHUNK_SECONDS = (0.020, 0.200)
"""[s] Least and most estimated work of a remote call: the least hides the round trip of 1 to 2 ms, the most
keeps workers evenly loaded and little work lost with a worker."""
FIRST_ESTIMATE = {"interior_point": 3e-4, "daqp": 1e-4, "highs": 2e-3}
"""[s] for each program, before anything was measured; other backends are taken to be slow."""
SHARED_BYTES = 100_000
"""Critics above this size go to the object store once a call; below it, Ray sends arguments inline."""
LOSSES_PER_CHUNK = 2
"""Programs of one chunk that may cost a worker each in the replay; the others are then given up with them."""
RETRY_SECONDS = 0.1
"""[s] between attempts to reach a worker that is restarting."""


@dataclass(frozen=True)
class PoolConfig:
    """Where a pool may solve.

    Attributes:
        n_workers: Ray actors; 0 solves everything in process. They are started at the first remote call,
            inside the caller's placement group if it captures children (Tune trials do).
        cpus_per_worker: that each actor reserves.
        grace: [s] past its time limit after which a solve counts as hung. Ray takes up to 2 s to report a
            dead worker, so with less a crash may be reported as TIME_LIMIT.
        start_timeout: [s] for a worker to start and load a backend.

    Raises:
        InvalidProblem: on a negative number.
    """

    n_workers: int = 0
    cpus_per_worker: float = 1.0
    grace: float = 2.0
    start_timeout: float = 60.0

    def __post_init__(self) -> None:
        for name in ("n_workers", "cpus_per_worker", "grace", "start_timeout"):
            if not getattr(self, name) >= 0:
                raise InvalidProblem(name, f"is {getattr(self, name)}", "Give zero or more.")


def pool_bundles(config: PoolConfig) -> list[dict[str, float]]:
    """The pool's resource bundles, to append (never insert) to a trial's ``default_resource_request``."""
    return [{"CPU": config.cpus_per_worker} for _ in range(config.n_workers)]


class SolverPool:
    """Solves problems, in process or on Ray actors. One call at a time: not for use from several threads.

    Pickling keeps the configuration alone: a copy starts its own workers when it needs them.

    Args:
        config: see `PoolConfig`.
    """

    def __init__(self, config: PoolConfig = PoolConfig()) -> None:
        self.config = config
        self._tallies: dict[str, _Tally] = {}
        self._estimates: dict[tuple[str, int], float] = {}
        self._crew = _Crew(config, self._tallies)
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
        """Kill the workers. A closed pool solves no more; closing twice is harmless."""
        self._closed = True
        self._crew.dismiss()

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
        problems: Sequence[Problem],
        options: SolveOptions = ...,
        placement: Placement = ...,
        deadline: float | None = ...,
    ) -> list[Solution | BatchSolution]: ...
    def solve(
        self,
        problems: Problem | Sequence[Problem],
        options: SolveOptions = SolveOptions(),
        placement: Placement = "auto",
        deadline: float | None = None,
    ) -> Any:
        """Solve one problem, or several in any mixture of kinds.

        A failed solve is a status, never an exception: what a backend raises becomes ERROR with its message,
        a hung or crashed worker TIME_LIMIT or ERROR, each for the programs concerned alone. The answers do
        not depend on the placement: problem `i` of a sequence is solved with a seed made of `options.seed`
        and `i`, and every chunk of a `CriticBatch` with the seed of the whole.

        Args:
            problems: one problem, or a sequence.
            options: for all of them. Without `time_limit` and `deadline` a hung solver cannot be told from
                a slow one, and is waited for.
            placement: ``"local"`` solves in this process, ``"actors"`` on the workers. ``"auto"`` takes the
                workers if there are any, Ray is running and the estimated work is 10 ms or more.
            deadline: [s] from now for the whole call. Programs not begun by then get TIME_LIMIT. Remote
                solves that overrun it by `PoolConfig.grace` are killed; local ones have to end by themselves.

        Returns:
            The answer to one problem, or a list of answers in the order of the sequence.

        Raises:
            UnsupportedProblem: before any work, if a backend is unknown or takes another kind of problem.
            InvalidProblem: before any work, on a bad `placement` or `deadline`.
            SolverPoolError: if the pool is closed, or if actors are asked for and Ray is not running.
        """
        if self._closed:
            raise SolverPoolError("The pool is closed. Make a new SolverPool.")
        if isinstance(problems, Sequence):
            return self._solve(problems, options, placement, deadline)
        return self._solve([problems], options, placement, deadline)[0]

    def metrics(self) -> dict[str, float]:
        """Counters since the last `drain`, as ``"<backend>/<counter>"``.

        ``solves`` and ``status_<name>`` count programs (each state of a batch is one), ``solver_seconds`` is
        wall time in the backend and ``queue_seconds`` the programs' waiting for a worker [s], ``replays``
        counts programs and ``worker_restarts`` the workers lost while they ran this backend.
        """
        return {f"{name}/{key}": v for name, tally in self._tallies.items() for key, v in tally.items()}

    def drain(self) -> dict[str, float]:
        """`metrics`, and start counting from zero."""
        counted = self.metrics()
        self._tallies.clear()
        return counted

    def _solve(
        self, problems: Sequence[Problem], options: SolveOptions, placement: Placement, deadline: float | None
    ) -> list[Answer]:
        names = [_backend(problem, options) for problem in problems]
        if deadline is not None and not deadline > 0:
            raise InvalidProblem("deadline", f"is {deadline} s", "Give a positive time from now, or None.")
        ends = None if deadline is None else time.monotonic() + deadline
        cost = {name: self._estimate(name, options) for name in names}
        work = sum(cost[name] * n_programs(problem) for name, problem in zip(names, problems, strict=True))
        parts: list[list[tuple[int, Answer]]] = [[] for _ in problems]
        if self._goes_remote(placement, work):
            quota = float(np.clip(work / (4 * self.config.n_workers), *CHUNK_SECONDS))
            done = list(self._crew.run(_cut(names, problems, cost, quota), options, ends))
        else:
            # Cut only where a deadline has to be looked at in between.
            chunks = _cut(names, problems, cost, np.inf if ends is None else CHUNK_SECONDS[0])
            pieces = [piece for chunk in chunks for piece in chunk.pieces]
            done = list(zip(pieces, solve_tasks([p.task for p in pieces], options, deadline), strict=True))
        for piece, outcome in done:
            parts[piece.task.index].append((piece.first, outcome.answer))
            self._record(piece.task, outcome, options)
        return [_join(part) for part in parts]

    def _goes_remote(self, placement: Placement, work: float) -> bool:
        if placement not in ("auto", "local", "actors"):
            raise InvalidProblem("placement", f"{placement!r} is unknown", "Use 'auto', 'local' or 'actors'.")
        if placement == "actors":
            if not self.config.n_workers:
                raise InvalidProblem(
                    "placement", "'actors', but the pool has none", "Set PoolConfig.n_workers."
                )
            if not _ray_runs():
                raise SolverPoolError("Ray is not running. Call ray.init(), or use placement='local'.")
            return True
        if placement == "local" or not self.config.n_workers or work < LOCAL_SECONDS:
            return False
        if not _ray_runs():
            logger.info("Ray is not running: %.3g s of estimated work are solved in process", work)
            return False
        return True

    def _estimate(self, name: str, options: SolveOptions) -> float:
        return self._estimates.get(
            (name, options.n_starts), FIRST_ESTIMATE.get(name, 5e-2) * options.n_starts
        )

    def _record(self, task: Task, outcome: Outcome, options: SolveOptions) -> None:
        tally = self._tallies.setdefault(task.name, _Tally())
        tally.solver_seconds += outcome.seconds
        if isinstance(outcome.answer, BatchSolution):
            tally.statuses += np.bincount(outcome.answer.status, minlength=len(Status))
        else:
            tally.statuses[outcome.answer.status] += 1
        if outcome.measured:
            # A running mean that forgets: networks and constraints change while a policy learns.
            key, sample = (task.name, options.n_starts), outcome.seconds / max(n_programs(task.problem), 1)
            self._estimates[key] = 0.8 * self._estimates.get(key, sample) + 0.2 * sample


@dataclass
class _Tally:
    """Counters of one backend."""

    statuses: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(Status), dtype=np.int64))
    solver_seconds: float = 0.0
    queue_seconds: float = 0.0
    replays: int = 0
    worker_restarts: int = 0

    def items(self) -> Iterator[tuple[str, float]]:
        yield "solves", float(self.statuses.sum())
        for status in Status:
            yield f"status_{status.name.lower()}", float(self.statuses[status])
        for name in ("solver_seconds", "queue_seconds", "replays", "worker_restarts"):
            yield name, float(getattr(self, name))


@dataclass(frozen=True)
class _Piece:
    """A task, and the first of the states of its problem that it holds."""

    task: Task
    first: int = 0


@dataclass(eq=False)
class _Chunk:
    """Pieces for one backend that travel together.

    `origin` is the chunk whose loss led to this replay, `avoid` the worker that was lost, `losses` how many
    replayed programs of this chunk were lost again.
    """

    name: str
    pieces: list[_Piece] = field(default_factory=list)
    origin: _Chunk | None = None
    avoid: _Worker | None = None
    losses: int = 0

    @property
    def n_programs(self) -> int:
        return sum(n_programs(piece.task.problem) for piece in self.pieces)

    def replays(self, avoid: _Worker) -> list[_Chunk]:
        """The programs of this chunk, one in a chunk each: only the guilty one may be lost again."""
        chunks = []
        for piece in self.pieces:
            problem = piece.task.problem
            for i in range(n_programs(problem)):
                one = problem[i : i + 1] if isinstance(problem, BatchProblem) else problem
                task = Task(self.name, one, piece.task.index)
                chunks.append(_Chunk(self.name, [_Piece(task, piece.first + i)], self, avoid))
        return chunks


@dataclass(eq=False)
class _Worker:
    """An actor as the client sees it.

    It is idle (no `call`, nothing `due`), preparing (a `call` without `chunk`), solving (a `call` with
    `chunk`) or resting after a loss (no `call`, `due` soon).
    """

    handle: Any
    start_by: float
    call: Any = None
    preparing: str = ""
    chunk: _Chunk | None = None
    due: float = np.inf
    prepared: set[str] = field(default_factory=set)

    @property
    def idle(self) -> bool:
        return self.call is None and self.due == np.inf


class _Crew:
    """The actors of a pool, and the loop that keeps each busy with one chunk at a time.

    One call in flight each: what is queued on a worker that dies fails with it.
    """

    def __init__(self, config: PoolConfig, tallies: dict[str, _Tally]) -> None:
        self._config = config
        self._tallies = tallies
        self._workers: list[_Worker] = []

    def run(
        self, chunks: Sequence[_Chunk], options: SolveOptions, ends: float | None
    ) -> Iterator[tuple[_Piece, Outcome]]:
        """Solve chunks; yields each piece with its outcome as they come, and leaves no worker busy.

        Args:
            chunks: in order of submission.
            options: common to all.
            ends: monotonic time [s] at which the call has to end, or None.
        """
        import ray

        queue, submitted = deque(chunks), time.monotonic()
        shared = _large_critics(chunks)
        stored = [ray.put(np.frombuffer(pickle.dumps(c, protocol=5), dtype=np.uint8)) for c in shared]
        self._staff(len(chunks), submitted)
        try:
            while queue or any(worker.chunk for worker in self._workers):
                now = time.monotonic()
                if queue and ends is not None and now >= ends:
                    yield from _give_up(queue, Status.TIME_LIMIT, TOO_LATE)
                    continue
                if queue and not self._workers:
                    text = (
                        f"no solver worker started within {self._config.start_timeout:g} s. Reserve CPUs: "
                        "append pool_bundles(config) to the trial's resource request"
                    )
                    yield from _give_up(queue, Status.ERROR, text)
                    continue
                for worker in [w for w in self._workers if w.idle]:
                    chunk = self._next(queue, worker)
                    if chunk is None:
                        continue
                    if chunk.name not in worker.prepared:
                        self._prepare(worker, chunk.name, now)
                        continue
                    queue.remove(chunk)
                    try:
                        self._send(worker, chunk, options, ends, shared, stored)
                    except (pickle.PicklingError, TypeError, AttributeError) as error:
                        yield from _give_up([chunk], Status.ERROR, f"cannot be sent to a worker: {error}")
                    else:
                        self._tally(chunk.name).queue_seconds += (
                            time.monotonic() - submitted
                        ) * chunk.n_programs
                if queue or any(worker.chunk for worker in self._workers):
                    yield from self._await(queue, ends)
        finally:
            for worker in self._workers:
                if worker.chunk:  # the caller was interrupted
                    self._kill(worker)
                    self._rest(worker)

    def dismiss(self) -> None:
        """Kill every worker for good."""
        workers, self._workers = self._workers, []
        if workers and _ray_runs():
            import ray

            for worker in workers:
                ray.kill(worker.handle)

    def _staff(self, n_chunks: int, now: float) -> None:
        while len(self._workers) < min(self._config.n_workers, n_chunks):
            self._workers.append(_Worker(self._hire(), now))
        for worker in self._workers:  # the time between two calls is no delay of a start
            if not worker.prepared:
                worker.start_by = now + self._config.start_timeout
                worker.due = worker.start_by if worker.call is not None else np.inf

    def _hire(self) -> Any:
        import ray

        actor: Any = ray.remote(SolverWorker)
        return actor.options(
            num_cpus=self._config.cpus_per_worker, max_restarts=-1, max_task_retries=0, max_concurrency=1
        ).remote(self._config.grace)

    def _next(self, queue: deque[_Chunk], worker: _Worker) -> _Chunk | None:
        """The first chunk for an idle worker; a replay goes elsewhere if any other worker is in service."""
        others = any(w is not worker and w.prepared for w in self._workers)
        return next((chunk for chunk in queue if not (others and chunk.avoid is worker)), None)

    def _prepare(self, worker: _Worker, name: str, now: float) -> None:
        if worker.prepared:
            worker.start_by = now + self._config.start_timeout
        worker.due = worker.start_by
        worker.preparing = name
        worker.call = worker.handle.prepare.remote(name, BACKENDS[name])

    def _send(
        self,
        worker: _Worker,
        chunk: _Chunk,
        options: SolveOptions,
        ends: float | None,
        shared: Sequence[MLP],
        stored: Sequence[Any],
    ) -> None:
        now = time.monotonic()
        # Each task may take a little longer than its solver; the worker's alarm sees to a hang in between.
        limit = np.inf if options.time_limit is None else options.time_limit * chunk.n_programs
        limit += self._config.grace * (len(chunk.pieces) - 1)
        budget = None if ends is None else ends - now
        tasks = [piece.task for piece in chunk.pieces]
        data, used = pack(tasks, options, budget, shared)
        worker.call = worker.handle.solve.remote(data, *(stored[i] for i in used))
        worker.chunk = chunk
        worker.due = now + min(limit, np.inf if budget is None else budget) + self._config.grace

    def _await(self, queue: deque[_Chunk], ends: float | None) -> Iterator[tuple[_Piece, Outcome]]:
        """Wait for the next call to end or the next time limit to pass, and see to it."""
        import ray

        calls = {worker.call: worker for worker in self._workers if worker.call is not None}
        wake = min([worker.due for worker in self._workers], default=0.0)
        if queue and ends is not None:
            wake = min(wake, ends)
        timeout = None if wake == np.inf else max(0.0, wake - time.monotonic())
        if not calls:
            time.sleep(timeout or 0.0)
        ready = ray.wait(list(calls), num_returns=1, timeout=timeout)[0] if calls else []
        for call in ready:
            yield from self._collect(calls[call], queue, ends)
        if ready:
            return
        now = time.monotonic()
        for worker in [w for w in self._workers if w.due <= now]:
            if worker.chunk:
                self._kill(worker)
                reason = "no answer within its time limit, so its worker was killed"
                yield from self._lose(worker, queue, ends, Status.TIME_LIMIT, reason)
            elif now >= worker.start_by:
                logger.error("a solver worker did not start within %g s", self._config.start_timeout)
                self._kill(worker, for_good=True)
                self._workers.remove(worker)
            else:
                worker.due = np.inf  # rested; the next round tries to prepare it

    def _collect(
        self, worker: _Worker, queue: deque[_Chunk], ends: float | None
    ) -> Iterator[tuple[_Piece, Outcome]]:
        import ray

        call, chunk = worker.call, worker.chunk
        worker.call, worker.due = None, np.inf
        try:
            data = ray.get(call)
        except ray.exceptions.RayTaskError as error:
            # The worker lives, but could not read the chunk or return its answers.
            worker.chunk = None
            if chunk is None:
                return self._rest(worker)
            logger.error("a solver worker failed outside a solve", exc_info=True)
            yield from _give_up([chunk], Status.ERROR, str(error))
        except ray.exceptions.RayError as error:
            if isinstance(error, ray.exceptions.ActorDiedError):  # Ray will not restart it
                self._kill(worker, for_good=True)
                worker.handle = self._hire()
            if chunk is None:
                return self._rest(worker)
            reason = f"its worker died ({type(error).__name__})"
            yield from self._lose(worker, queue, ends, Status.ERROR, reason)
        else:
            worker.chunk = None
            if chunk is None:
                worker.prepared.add(worker.preparing)
            else:
                yield from zip(chunk.pieces, pickle.loads(data), strict=True)

    def _lose(
        self, worker: _Worker, queue: deque[_Chunk], ends: float | None, status: Status, reason: str
    ) -> Iterator[tuple[_Piece, Outcome]]:
        """See to a worker that is being restarted and to the chunk that was lost with it."""
        chunk = cast(_Chunk, worker.chunk)
        self._rest(worker)
        worker.start_by = time.monotonic() + self._config.start_timeout
        tally = self._tally(chunk.name)
        tally.worker_restarts += 1
        late = ends is not None and time.monotonic() >= ends
        logger.warning(
            "lost a solver worker with %d program(s) of backend %s, attempt %d: %s",
            chunk.n_programs, chunk.name, 1 if chunk.origin is None else 2, reason,
        )  # fmt: skip
        if late:
            yield from _give_up([chunk], Status.TIME_LIMIT, "the deadline of the call came first")
        elif chunk.origin is None:
            tally.replays += chunk.n_programs
            queue.extendleft(reversed(chunk.replays(worker)))
        else:
            yield from _give_up([chunk], status, f"{reason}; it was the second attempt")
            chunk.origin.losses += 1
            if chunk.origin.losses >= LOSSES_PER_CHUNK:
                rest = [c for c in queue if c.origin is chunk.origin]
                for c in rest:
                    queue.remove(c)
                text = (
                    f"lost with a worker; no replay: {LOSSES_PER_CHUNK} others of its chunk were lost twice"
                )
                yield from _give_up(rest, Status.ERROR, text)

    def _rest(self, worker: _Worker) -> None:
        worker.call, worker.chunk, worker.due = None, None, time.monotonic() + RETRY_SECONDS
        worker.prepared.clear()

    def _kill(self, worker: _Worker, for_good: bool = False) -> None:
        import ray

        ray.kill(worker.handle, no_restart=for_good)

    def _tally(self, name: str) -> _Tally:
        return self._tallies.setdefault(name, _Tally())


def _ray_runs() -> bool:
    # Ray can only be running where it has been imported; importing it takes seconds.
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _backend(problem: Problem, options: SolveOptions) -> str:
    name = choose_backend(problem, options)
    if not isinstance(problem, BACKENDS[name][1]):
        raise UnsupportedProblem(f"{type(problem).__name__} is no problem. See solver_pool.problem.")
    return name


def _cut(
    names: Sequence[str], problems: Sequence[Problem], cost: dict[str, float], quota: float
) -> list[_Chunk]:
    """Cut problems into equal chunks of at least `quota` [s] of estimated work, each for one backend."""
    chunks: list[_Chunk] = []
    for name in dict.fromkeys(names):
        slots = [i for i, other in enumerate(names) if other == name]
        sizes = {slot: max(1, n_programs(problems[slot])) for slot in slots}  # an empty batch is a piece too
        total = sum(sizes.values())
        smallest = max(1, int(np.ceil(min(quota / cost[name], total))))
        size = -(-total // max(1, total // smallest))
        room = 0
        for slot in slots:
            problem, first, whole = problems[slot], 0, sizes[slot]
            while first < whole:
                if room == 0:
                    chunks.append(_Chunk(name))
                    room = size
                take = min(room, whole - first)
                cut = isinstance(problem, BatchProblem) and take < whole
                part = problem[first : first + take] if isinstance(problem, BatchProblem) and cut else problem
                chunks[-1].pieces.append(_Piece(Task(name, part, slot), first))
                first, room = first + take, room - take
    return chunks


def _join(parts: list[tuple[int, Answer]]) -> Answer:
    parts.sort(key=lambda part: part[0])
    if len(parts) == 1:
        return parts[0][1]
    return BatchSolution.concatenate([cast(BatchSolution, answer) for _, answer in parts])


def _large_critics(chunks: Iterable[_Chunk]) -> list[MLP]:
    """The distinct critics that are worth storing once for the whole call."""
    problems = (piece.task.problem for chunk in chunks for piece in chunk.pieces)
    critics = {id(p.critic): p.critic for p in problems if isinstance(p, CriticBatch)}
    return [c for c in critics.values() if sum(w.nbytes for w in c.weights) > SHARED_BYTES]


def _give_up(
    chunks: deque[_Chunk] | list[_Chunk], status: Status, message: str
) -> Iterator[tuple[_Piece, Outcome]]:
    """Empty `chunks`, yielding a failure for every piece."""
    if chunks:
        logger.warning("giving up %d program(s): %s", sum(c.n_programs for c in chunks), message)
    while chunks:
        for piece in chunks.pop().pieces:
            yield piece, failure(piece.task, status, message)

"""The scheduling loop: chunks go to workers that are free, answers come back as they are ready. No Ray.

`Crew.run` is written against `Staff`, a narrow interface for which `solver_pool.actors` and
`solver_pool.shared` are the implementations on Ray. Free workers stand in a queue, waiting chunks in a heap for each
backend and times in heaps, so what an answer costs does not grow with the number of workers.

Who may have done it decides what is replayed. A program during which its solver process died or hung is a
victim: it is replayed once, and lost for good the second time. When a whole worker dies (its node is lost, an operator
kills it) no program is to blame, as the actor calls no solver: its chunk goes to another, up to `MOVES` times. So
does a program whose solver process was ended by SIGKILL, which comes from outside.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import pickle
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from solver_pool.backends import BACKENDS
from solver_pool.chunks import Chunk, Piece, Window
from solver_pool.errors import SolverPoolError
from solver_pool.metrics import Tally
from solver_pool.options import SolveOptions
from solver_pool.problem import MLP
from solver_pool.solution import Status
from solver_pool.tasks import TOO_LATE, Outcome, failure, n_programs, pack
from solver_pool.worker import KEPT_CRITICS, Parcel, Report

logger = logging.getLogger(__name__)

LOSSES_PER_CHUNK = 8
"""Programs of one chunk that may be lost twice; the others that wait for a replay are then given up."""
MOVES = 5
"""Workers that may die, or solver processes that may be killed from outside, with a chunk before it is given up."""
RETRY_SECONDS = 0.1
"""[s] between attempts to reach a worker that is restarting."""
BACKSTOP_SECONDS = 5.0
"""[s] after which a worker that should long have ended a hung solve is killed itself."""
PULLS_PER_ROUND = 16
"""Blocks of a stream pulled before workers are looked after again."""
PUBLISHED_BYTES = 100_000
"""Critics above this size go to the object store, once; below it, Ray sends them inline."""


@dataclass(frozen=True)
class Failure:
    """What a call ended with instead of a result.

    Attributes:
        kind: ``"error"`` (the worker lives, the call raised), ``"gone"`` (the worker died and is being
            restarted) or ``"dead"`` (it will not come back).
        text: why.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class Muster:
    """Changes to a crew: workers that join, workers that were taken away, and how many to hand back."""

    joined: list[Any] = field(default_factory=list)
    revoked: list[Any] = field(default_factory=list)
    surplus: int = 0


class Staff(Protocol):
    """Where workers come from, and how they are called.

    Attributes:
        interval: [s] after which `muster` wants to be called again; infinite if only when workers are wanted.
        capacity: [bytes] of the largest parcel that can be sent.
        news: `muster` has something to say before that.
    """

    interval: float
    capacity: float

    @property
    def news(self) -> bool: ...

    def muster(self, held: Sequence[Any], wanted: int) -> Muster:
        """Bring the crew to `wanted` workers, as far as that is possible now. Never waits."""
        ...

    def call(self, handle: Any, method: str, *arguments: Any) -> int:
        """Call a method of a worker; returns a token for `collect`."""
        ...

    def collect(self, timeout: float | None) -> list[tuple[int, Any]]:
        """Wait [s] for calls to end; returns their tokens with the result or a `Failure`."""
        ...

    def publish(self, data: bytes) -> Any:
        """Store data once for many calls; returns what to pass in its place."""
        ...

    def abandon(self, handle: Any) -> None:
        """Have a worker end the solve under way."""
        ...

    def kill(self, handle: Any) -> None:
        """Kill a worker, which is then restarted."""
        ...

    def dismiss(self, handle: Any, broken: bool = False) -> None:
        """Have a worker leave for good: killed if it is ours, handed back (perhaps as broken) if leased."""
        ...

    def rest(self) -> bool:
        """The end of a run. Returns whether the workers stay for the next."""
        ...


@dataclass(eq=False)
class Worker:
    """A worker as the crew sees it.

    It is free (no `token`, nothing `due`), preparing (`token` and `preparing`), solving (`token` and
    `chunk`), finishing what was abandoned (`token` alone) or resting after a loss (nothing but `due`).
    """

    handle: Any
    start_by: float
    token: int | None = None
    preparing: str = ""
    chunk: Chunk | None = None
    due: float = np.inf
    prepared: set[str] = field(default_factory=set)
    unfit: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Critic:
    critic: MLP  # kept, so that its identity is not reused
    version: str
    payload: Any


class Crew:
    """The workers of a pool, each busy with one chunk at a time.

    Args:
        staff: where workers come from.
        n_workers: at most.
        grace: [s], see `PoolConfig`.
        start_timeout: [s], see `PoolConfig`.

    Attributes:
        workers: those in service or starting.
        tallies: counters of each backend, since the crew was made.
    """

    def __init__(self, staff: Staff, n_workers: int, grace: float, start_timeout: float) -> None:
        self._staff = staff
        self._n_workers, self._grace, self._start_timeout = n_workers, grace, start_timeout
        self._name, self._count = uuid.uuid4().hex[:12], itertools.count()
        self._published: OrderedDict[int, _Critic] = OrderedDict()
        self.workers: list[Worker] = []
        self.tallies: dict[str, Tally] = {}
        self._calls: dict[int, Worker] = {}
        self._free: deque[Worker] = deque()
        self._timers: list[tuple[float, int, Worker]] = []
        self._clear()

    def _clear(self) -> None:
        self._queues: dict[str, list[tuple[int, int, int, Chunk]]] = {}
        self._deadlines: list[tuple[float, int, Chunk]] = []
        self._since: dict[int, float] = {}
        self._waiting = 0
        self._solving = 0
        self._refused = 0
        self._short = False
        self._surplus = 0
        self._next_muster = 0.0

    def run(
        self,
        window: Window,
        chunks: Iterable[Chunk],
        options: SolveOptions,
        pull: Callable[[], Iterable[Chunk]],
    ) -> Generator[tuple[Piece, Outcome], None, None]:
        """Solve chunks; yields each piece with its outcome as they come, and leaves no worker busy.

        Args:
            window: whether there are more chunks, and room for them.
            chunks: the first.
            options: common to all.
            pull: gives some more.
        """
        self._begin()
        try:
            for chunk in chunks:
                self._enqueue(chunk)
            while True:
                for _ in range(PULLS_PER_ROUND):
                    if self._waiting >= 2 * self._n_workers or not window.has_room:
                        break
                    for chunk in pull():
                        self._enqueue(chunk)
                yield from self._expire()
                yield from self._muster()
                yield from self._dispatch(options)
                if self._waiting or self._solving:
                    supplied = self._waiting >= 2 * self._n_workers or not window.has_room
                    yield from self._await(wait=supplied)
                elif window.exhausted:
                    return
        finally:
            self._end()

    def dismiss(self) -> None:
        """Let every worker go for good."""
        workers = list(self.workers)
        self._forget()
        for worker in workers:
            self._staff.dismiss(worker.handle)

    def _forget(self) -> None:
        """No worker is ours any more."""
        self.workers.clear()
        self._free.clear()
        self._calls.clear()
        self._timers.clear()

    def _tally(self, name: str) -> Tally:
        return self.tallies.setdefault(name, Tally())

    # The beginning and the end of a run.

    def _begin(self) -> None:
        now = time.monotonic()
        for worker in self.workers:  # the time between two runs is no delay of a start
            if not worker.prepared:
                worker.start_by = now + self._start_timeout
                if worker.token is not None:
                    self._set_due(worker, worker.start_by)

    def _end(self) -> None:
        for worker in self.workers:
            if worker.chunk is not None:  # the caller was interrupted, or stopped listening
                self._staff.abandon(worker.handle)
                worker.chunk = None
                self._set_due(worker, time.monotonic() + BACKSTOP_SECONDS)
        self._clear()
        if not self._staff.rest():
            self._forget()

    # The queue.

    def _enqueue(self, chunk: Chunk) -> None:
        chunk.waits = True
        self._waiting += 1
        self._since.setdefault(chunk.order, time.monotonic())
        entry = (-chunk.priority, chunk.order, next(self._count), chunk)
        heapq.heappush(self._queues.setdefault(chunk.name, []), entry)
        if chunk.ends is not None:
            heapq.heappush(self._deadlines, (chunk.ends, next(self._count), chunk))

    def _take(self, chunk: Chunk) -> Chunk:
        """Take a chunk out of its queue; its entries in the heaps are dropped when they surface."""
        chunk.waits = False
        self._waiting -= 1
        return chunk

    def _best(self, worker: Worker) -> Chunk | None:
        """The chunk that goes first, of the backends that the worker has."""
        best: tuple[int, int, int, Chunk] | None = None
        for name, queue in self._queues.items():
            while queue and not queue[0][3].waits:
                heapq.heappop(queue)
            if queue and name not in worker.unfit and (best is None or queue[0][:3] < best[:3]):
                best = queue[0]
        return None if best is None else best[3]

    def _expire(self) -> Iterator[tuple[Piece, Outcome]]:
        """Give up what waits past its deadline."""
        now, late = time.monotonic(), []
        while self._deadlines and (self._deadlines[0][0] <= now or not self._deadlines[0][2].waits):
            chunk = heapq.heappop(self._deadlines)[2]
            if chunk.waits:
                late.append(self._take(chunk))
        yield from _give_up(late, Status.TIME_LIMIT, TOO_LATE)

    def _give_up_waiting(
        self, status: Status, message: str, name: str | None = None, origin: Chunk | None = None
    ) -> Iterator[tuple[Piece, Outcome]]:
        """Give up what waits: everything, or what is for one backend, or the replays from one chunk."""
        chosen = []
        for queue in self._queues.values():
            for *_, chunk in queue:
                mine = chunk.name == (name or chunk.name) and (origin is None or chunk.origin is origin)
                if chunk.waits and mine:
                    chosen.append(self._take(chunk))
        yield from _give_up(chosen, status, message)

    # The workers.

    def _muster(self) -> Iterator[tuple[Piece, Outcome]]:
        """Have workers join and leave; give everything up if none can be had."""
        now = time.monotonic()
        most = self._n_workers - self._refused
        wanted = max(len(self.workers) + self._short, self._waiting + self._solving)
        wanted = min(most, wanted) if self._waiting else len(self.workers)
        self._short = False
        due = now >= self._next_muster or self._staff.news
        if due or (wanted > len(self.workers) and self._staff.interval == np.inf):
            self._next_muster = now + self._staff.interval
            try:
                change = self._staff.muster([worker.handle for worker in self.workers], wanted)
            except SolverPoolError as error:
                yield from self._give_up_waiting(Status.ERROR, str(error))
                return
            for handle in change.joined:
                worker = Worker(handle, now + self._start_timeout)
                self.workers.append(worker)
                self._free.append(worker)
            for worker in [w for w in self.workers if any(w.handle is h for h in change.revoked)]:
                yield from self._leave(worker, "its lease had run out")
            self._surplus = change.surplus
        while self._surplus and self._free:  # others wait for them, so they go as soon as they are free
            self._surplus -= 1
            worker = self._free.popleft()
            self.workers.remove(worker)
            self._staff.dismiss(worker.handle)
        if self._waiting and not self.workers and most <= 0:
            text = (
                f"no solver worker started within {self._start_timeout:g} s of {self._n_workers} wanted. Reserve "
                "CPUs (append pool_bundles(config) to the trial's resource request), lower PoolConfig.n_workers, "
                "cpus_per_worker or resources, or add nodes"
            )
            yield from self._give_up_waiting(Status.ERROR, text)

    def _leave(self, worker: Worker, reason: str) -> Iterator[tuple[Piece, Outcome]]:
        """See to a worker that is no longer ours."""
        self.workers.remove(worker)
        if worker in self._free:
            self._free.remove(worker)
        self._calls.pop(-1 if worker.token is None else worker.token, None)
        worker.due = np.inf
        chunk, worker.chunk = worker.chunk, None
        if chunk is not None:
            self._solving -= 1
            yield from self._move(chunk, reason)

    def _dispatch(self, options: SolveOptions) -> Iterator[tuple[Piece, Outcome]]:
        """Give each free worker the chunk that goes first."""
        unfit: list[Worker] = []
        while self._free and self._waiting:
            worker = self._free.popleft()
            chunk = self._best(worker)
            if chunk is None:
                unfit.append(worker)
            elif chunk.name not in worker.prepared:
                if worker.prepared:
                    worker.start_by = time.monotonic() + self._start_timeout
                worker.preparing = chunk.name
                self._call(worker, worker.start_by, "prepare", chunk.name, pickle.dumps(BACKENDS[chunk.name]))
            else:
                problem = self._send(worker, self._take(chunk), options)
                if problem:
                    self._free.appendleft(worker)
                    yield from _give_up([chunk], Status.ERROR, problem)
        self._free.extend(unfit)
        if unfit and self._waiting:
            self._short = True  # another worker may have what these lack
            if len(self.workers) >= self._n_workers - self._refused:
                for name in set.intersection(*(set(worker.unfit) for worker in self.workers)):
                    text = f"{unfit[0].unfit[name]} (on every node that has a solver worker)"
                    yield from self._give_up_waiting(Status.ERROR, text, name)

    def _send(self, worker: Worker, chunk: Chunk, options: SolveOptions) -> str:
        """Send a chunk; returns why that is impossible, or nothing."""
        now = time.monotonic()
        size = chunk.bytes
        used: dict[str, Any] = {}

        def version_of(critic: MLP) -> str:
            known = self._publish(critic)
            used[known.version] = known.payload
            return known.version

        if size <= self._staff.capacity:
            try:
                tasks = tuple(pack(piece.task, version_of) for piece in chunk.pieces)
            except SolverPoolError as error:
                return str(error)
            except (pickle.PicklingError, TypeError, AttributeError) as error:
                return f"cannot be sent to a worker: {error}"
            size = max(size, sum(len(task) for task in tasks))
        if size > self._staff.capacity:
            return (
                f"the problem takes {size / 2**20:.0f} MiB, more than the {self._staff.capacity / 2**20:.0f} MiB of "
                "the largest object store. Give Ray more (--object-store-memory), split the problem, or use "
                "placement='local'"
            )
        while len(self._published) > max(KEPT_CRITICS, len(used)):
            self._published.popitem(last=False)
        each = options.time_limit
        allowances = tuple(
            np.inf if each is None else each * n_programs(piece.task.problem) for piece in chunk.pieces
        )
        budget = None if chunk.ends is None else max(chunk.ends - now, 0.0)
        parcel = Parcel(tasks, allowances, pickle.dumps(options), budget, tuple(used))
        longest = sum(allowance + self._grace for allowance in allowances)
        longest = min(longest, np.inf if budget is None else budget + self._grace)
        worker.chunk = chunk
        self._solving += 1
        waited = now - self._since.pop(chunk.order, now)
        self._tally(chunk.name).queue_seconds += waited * chunk.n_programs
        self._call(worker, now + longest + BACKSTOP_SECONDS, "solve", parcel, *used.values())
        return ""

    def _publish(self, critic: MLP) -> _Critic:
        known = self._published.get(id(critic))
        if known is None:
            data = pickle.dumps(critic, protocol=5)
            payload = self._staff.publish(data) if len(data) > PUBLISHED_BYTES else data
            known = self._published[id(critic)] = _Critic(
                critic, f"{self._name}-{next(self._count)}", payload
            )
        self._published.move_to_end(id(critic))
        return known

    def _call(self, worker: Worker, due: float, method: str, *arguments: Any) -> None:
        worker.token = self._staff.call(worker.handle, method, *arguments)
        self._calls[worker.token] = worker
        self._set_due(worker, due)

    def _set_due(self, worker: Worker, due: float) -> None:
        worker.due = due
        if due < np.inf:
            heapq.heappush(self._timers, (due, next(self._count), worker))

    # Answers and losses.

    def _await(self, wait: bool) -> Iterator[tuple[Piece, Outcome]]:
        """See to calls that ended; wait for the next one, or for the next time to pass, if `wait`."""
        while self._timers and self._timers[0][0] != self._timers[0][2].due:
            heapq.heappop(self._timers)
        wake = min(
            self._timers[0][0] if self._timers else np.inf,
            self._deadlines[0][0] if self._deadlines else np.inf,
            self._next_muster if self._staff.interval < np.inf else np.inf,
        )
        timeout = None if wake == np.inf else max(0.0, wake - time.monotonic())
        for token, result in self._staff.collect(timeout if wait else 0.0):
            worker = self._calls.pop(token, None)
            if worker is not None:
                yield from self._receive(worker, result)
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            due, _, worker = heapq.heappop(self._timers)
            if worker.due == due:
                yield from self._overdue(worker, now)

    def _receive(self, worker: Worker, result: Any) -> Iterator[tuple[Piece, Outcome]]:
        chunk, preparing = worker.chunk, worker.preparing
        worker.token, worker.chunk, worker.preparing, worker.due = None, None, "", np.inf
        self._solving -= chunk is not None
        if isinstance(result, Failure):
            if result.kind == "error":  # the worker lives, but its nursery does not
                logger.error("a solver worker failed outside a solve: %s", result.text)
            if result.kind == "dead":
                self.workers.remove(worker)
                self._staff.dismiss(worker.handle, broken=True)
            else:
                self._rest(worker)
            if chunk is not None:
                yield from self._move(chunk, f"its worker died ({result.text})")
            return
        self._free.append(worker)
        if chunk is not None:
            yield from self._unpack(chunk, result)
        elif preparing:
            worker.prepared.add(preparing)
            if result:
                logger.warning("a solver worker cannot use backend %s: %s", preparing, result)
                worker.unfit[preparing] = result

    def _unpack(self, chunk: Chunk, report: Report) -> Iterator[tuple[Piece, Outcome]]:
        left = dict(enumerate(chunk.pieces))
        self._tally(chunk.name).recycled += report.recycled
        for data in report.outcomes:
            for number, outcome in pickle.loads(data):
                yield left.pop(number), outcome
        for number, hung, reason in report.lost:
            yield from self._lose(chunk, left.pop(number), hung, reason)
        for number in report.killed:
            part = [left.pop(number)]
            alone = Chunk(chunk.name, chunk.priority, chunk.ends, part, chunk.order, chunk.origin)
            alone.moves = chunk.moves
            yield from self._move(alone, "its solver process was killed from outside")
        if left:  # abandoned by a message that came late
            self._enqueue(Chunk(
                chunk.name, chunk.priority, chunk.ends, list(left.values()), chunk.order, chunk.origin
            ))  # fmt: skip

    def _lose(self, chunk: Chunk, piece: Piece, hung: bool, reason: str) -> Iterator[tuple[Piece, Outcome]]:
        """See to a victim: replay it once."""
        size, tally = n_programs(piece.task.problem), self._tally(chunk.name)
        tally.worker_restarts += 1
        logger.warning(
            "lost a solver process with %d program(s) of backend %s, attempt %d: %s",
            size, chunk.name, 1 if chunk.origin is None else 2, reason,
        )  # fmt: skip
        if chunk.ends is not None and time.monotonic() >= chunk.ends:
            text = "the deadline came first, so its solver process was killed"
            yield piece, failure(piece.task, Status.TIME_LIMIT, text)
        elif chunk.origin is None:
            tally.replays += size
            for replay in chunk.replays(piece):
                self._enqueue(replay)
        else:
            origin = chunk.origin
            status = Status.TIME_LIMIT if hung else Status.ERROR
            yield piece, failure(piece.task, status, f"{reason}; it was the second attempt")
            origin.victims += 1
            if origin.victims >= LOSSES_PER_CHUNK:
                text = f"lost with a solver process; no replay: {LOSSES_PER_CHUNK} others of its chunk were lost twice"
                yield from self._give_up_waiting(Status.ERROR, text, origin=origin)

    def _move(self, chunk: Chunk, reason: str) -> Iterator[tuple[Piece, Outcome]]:
        """See to a chunk whose worker was lost: no program of it is to blame."""
        tally = self._tally(chunk.name)
        tally.worker_restarts += 1
        chunk.moves += 1
        logger.warning(
            "lost a solver worker with %d program(s) of backend %s: %s", chunk.n_programs, chunk.name, reason
        )
        if chunk.ends is not None and time.monotonic() >= chunk.ends:
            yield from _give_up([chunk], Status.TIME_LIMIT, "the deadline came first")
        elif chunk.moves >= MOVES:
            yield from _give_up([chunk], Status.ERROR, f"{reason}, for the {MOVES}th time")
        else:
            tally.replays += chunk.n_programs
            for part in chunk.halves():
                self._enqueue(part)

    def _rest(self, worker: Worker) -> None:
        now = time.monotonic()
        if worker.prepared:
            worker.start_by = now + self._start_timeout
        worker.prepared.clear()
        worker.unfit.clear()
        self._set_due(worker, now + RETRY_SECONDS)

    def _overdue(self, worker: Worker, now: float) -> Iterator[tuple[Piece, Outcome]]:
        """See to a worker whose time has come."""
        if worker.token is None and now < worker.start_by:
            worker.due = np.inf  # rested; the next round tries to prepare it
            self._free.append(worker)
            return
        self._calls.pop(-1 if worker.token is None else worker.token, None)
        chunk, worker.chunk, worker.token = worker.chunk, None, None
        preparing, worker.preparing = worker.preparing, ""
        if chunk is None and now >= worker.start_by and (preparing or not worker.prepared):
            logger.error("a solver worker did not start within %g s", self._start_timeout)
            self.workers.remove(worker)
            self._staff.dismiss(worker.handle, broken=True)
            self._refused += 1
            worker.due = np.inf
            return
        self._staff.kill(worker.handle)
        self._rest(worker)
        if chunk is not None:
            self._solving -= 1
            yield from self._move(chunk, "no answer from its worker, which was killed")


def _give_up(chunks: Sequence[Chunk], status: Status, message: str) -> Iterator[tuple[Piece, Outcome]]:
    """A failure for every piece."""
    if chunks:
        logger.warning("giving up %d program(s): %s", sum(c.n_programs for c in chunks), message)
    for chunk in chunks:
        for piece in chunk.pieces:
            yield piece, failure(piece.task, status, message)

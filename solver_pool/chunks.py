"""Requests cut into chunks, and chunks' answers put back in order. No Ray.

A `Window` is all that a pool holds of a stream: requests pulled and not yet answered. Its size is bounded, so
memory does not depend on the length of the stream, and a slow consumer holds back the producer.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np

from solver_pool.errors import InvalidProblem
from solver_pool.problem import BatchProblem, Problem
from solver_pool.solution import BatchSolution
from solver_pool.tasks import Answer, Task, n_bytes, n_programs, seed_of

CHUNK_BYTES = 16 * 2**20
"""[bytes] of arrays beyond which a chunk takes no further program."""
DEADLINE_SECONDS = 0.020
"""[s] of estimated work between two looks at a deadline where nothing else asks for a cut."""

_order = itertools.count()


@dataclass(frozen=True)
class Request:
    """A problem with its own terms; wherever a problem can be given, a request can.

    Requests of one backend, priority and deadline travel together; give each its own only where it matters.

    Attributes:
        problem: what to solve.
        seed: of its drawn starting points; None derives it from `SolveOptions.seed` and its position.
        deadline: [s] from its submission, that is, from the call, or from when a stream gave it. If it has not
            been begun by then it gets TIME_LIMIT; if it is being solved then, it is killed `PoolConfig.grace` later.
        priority: of the waiting requests, those with the highest go first; among equals, the earliest.

    Raises:
        InvalidProblem: on a deadline that is not positive, or a negative seed.
    """

    problem: Problem
    seed: int | None = None
    deadline: float | None = None
    priority: int = 0

    def __post_init__(self) -> None:
        if self.deadline is not None and not self.deadline > 0:
            raise InvalidProblem(
                "deadline", f"is {self.deadline} s", "Give a positive time from now, or None."
            )
        if self.seed is not None and not 0 <= self.seed < 2**31:
            raise InvalidProblem("seed", f"is {self.seed}", "Give a number in [0, 2^31).")


@dataclass(frozen=True)
class Piece:
    """A task, the position of its request, and the first of the programs of its problem that it holds."""

    task: Task
    index: int
    first: int = 0


@dataclass(eq=False)
class Chunk:
    """Pieces for one backend that travel together.

    Attributes:
        name: of the backend.
        priority, order: highest priority first, then lowest order.
        ends: monotonic time [s] of their deadline, or None.
        pieces: what is to be solved.
        origin: the chunk whose loss led to this replay.
        bytes: of the arrays of the pieces.
        victims: replayed programs of this chunk that were lost again.
        moves: workers that died with this chunk through no fault of a program.
        waits: still in the queue.
    """

    name: str
    priority: int = 0
    ends: float | None = None
    pieces: list[Piece] = field(default_factory=list)
    order: int = field(default_factory=lambda: next(_order))
    origin: Chunk | None = None
    bytes: int = 0
    victims: int = 0
    moves: int = 0
    waits: bool = False

    @property
    def n_programs(self) -> int:
        return sum(n_programs(piece.task.problem) for piece in self.pieces)

    def replays(self, piece: Piece) -> list[Chunk]:
        """The programs of a lost piece, each in a chunk of its own: only the guilty one may be lost again."""
        chunks, problem, seed = [], piece.task.problem, piece.task.seed
        for i in range(n_programs(problem)):
            one = problem[i : i + 1] if isinstance(problem, BatchProblem) else problem
            part = Piece(Task(self.name, one, seed), piece.index, piece.first + i)
            chunks.append(Chunk(self.name, self.priority, self.ends, [part], self.order, self.origin or self))
        return chunks

    def halves(self) -> list[Chunk]:
        """This chunk as two, so that less is lost where workers die again and again; or itself if it has one piece."""
        if len(self.pieces) == 1:
            return [self]
        middle = len(self.pieces) // 2
        halves = [replace(self, pieces=pieces) for pieces in (self.pieces[:middle], self.pieces[middle:])]
        for half in halves:
            half.bytes = -(-self.bytes * len(half.pieces) // len(self.pieces))
        return halves


@dataclass(frozen=True)
class Entry:
    """A request as the window keeps it until it is cut."""

    index: int
    name: str
    task: Task
    priority: int
    ends: float | None
    bytes: int


def cut(entries: Sequence[Entry], cost: Callable[[str], float], quota: float) -> list[Chunk]:
    """Cut requests into equal chunks of at least `quota` [s] of estimated work, or `CHUNK_BYTES`.

    Args:
        entries: in order of submission.
        cost: [s] that a program of a backend is estimated to take.
        quota: [s]; if infinite, only what has a deadline is cut, so that it can be looked at in between.
    """
    groups: OrderedDict[tuple[str, int, float | None], list[Entry]] = OrderedDict()
    for entry in entries:
        groups.setdefault((entry.name, entry.priority, entry.ends), []).append(entry)
    chunks: list[Chunk] = []
    for (name, priority, ends), members in groups.items():
        sizes = [
            max(1, n_programs(member.task.problem)) for member in members
        ]  # an empty batch is a piece too
        total = sum(sizes)
        share = DEADLINE_SECONDS if quota == np.inf and ends is not None else quota
        smallest = max(1, int(np.ceil(min(share / cost(name), total))))
        size = -(-total // max(1, total // smallest))
        room, space = 0, 0.0
        for member, whole in zip(members, sizes, strict=True):
            problem, first = member.task.problem, 0
            each = member.bytes / whole
            while first < whole:
                if room == 0 or space < each:
                    chunks.append(Chunk(name, priority, ends))
                    room, space = size, max(CHUNK_BYTES, each)
                take = min(room, whole - first, int(space / each) if each else whole)
                part: Problem = problem
                if isinstance(problem, BatchProblem) and take < whole:
                    part = problem[first : first + take]
                task = member.task if part is problem else Task(name, part, member.task.seed)
                chunks[-1].pieces.append(Piece(task, member.index, first))
                chunks[-1].bytes += int(take * each)
                first, room, space = first + take, room - take, space - take * each
    return chunks


def join(parts: list[tuple[int, Answer]]) -> Answer:
    """The answer to a request from those to its pieces, each with its first program."""
    if len(parts) == 1:
        return parts[0][1]
    parts.sort(key=lambda part: part[0])
    return BatchSolution.concatenate([cast(BatchSolution, answer) for _, answer in parts])


@dataclass(frozen=True)
class Bounds:
    """How much of a stream may be pulled and unanswered: a window takes no more once it reaches any of them.

    Attributes:
        requests: that may be open at once, at least; long problems keep every worker supplied even so.
        seconds: [s] of estimated work.
        programs: each state of a batch is one.
        bytes: of arrays.
    """

    requests: int
    seconds: float
    programs: int = 100_000
    bytes: int = 256 * 2**20


@dataclass(eq=False)
class _Open:
    """A request that waits for answers to `missing` of its programs."""

    missing: int
    programs: int
    seconds: float
    bytes: int
    parts: list[tuple[int, Answer]] = field(default_factory=list)


class Window:
    """Pulls requests, cuts them, and gives the answers back in the order of the requests.

    Args:
        stream: problems or requests.
        accept: the backend of a problem; raises for one that none takes.
        cost: [s] that a program of a backend is estimated to take.
        clock: monotonic time [s].
        seed: of the options.
        ends: monotonic time [s] of the deadline of the whole call, or None.
        bounds: of a stream; None pulls everything at once.
    """

    def __init__(
        self,
        stream: Iterable[Problem | Request],
        accept: Callable[[Problem], str],
        cost: Callable[[str], float],
        clock: Callable[[], float],
        seed: int,
        ends: float | None,
        bounds: Bounds | None,
    ) -> None:
        self._stream = iter(stream)
        self._accept, self.cost, self._clock = accept, cost, clock
        self._seed, self._ends, self.bounds = seed, ends, bounds
        self._open: dict[int, _Open] = {}
        self._pulled = 0
        self._answered = 0
        self._programs, self._seconds, self._bytes = 0, 0.0, 0
        self._error: Exception | None = None
        self.exhausted = False
        """Nothing is left to pull."""

    @property
    def has_room(self) -> bool:
        """Whether `take` would pull."""
        bounds = self.bounds
        if self.exhausted or bounds is None or not self._open:
            return not self.exhausted
        full = self._programs >= bounds.programs or self._bytes >= bounds.bytes
        return not full and (self._seconds < bounds.seconds or len(self._open) < bounds.requests)

    def take(self, block: float = np.inf) -> tuple[list[Entry], float]:
        """Pull what there is room for, about `block` [s] of estimated work at most; also returns that work [s]."""
        entries: list[Entry] = []
        work = 0.0
        while work < block and self.has_room:
            try:
                entry, seconds = self._admit(next(self._stream))
            except StopIteration:
                self.exhausted = True
            except Exception as error:  # `finish` raises it: the answers before are not lost
                self._error, self.exhausted = error, True
            else:
                entries.append(entry)
                work += seconds
        return entries, work

    def _admit(self, given: Problem | Request) -> tuple[Entry, float]:
        request = given if isinstance(given, Request) else Request(given)
        name = self._accept(request.problem)
        index, ends = self._pulled, self._ends
        if request.deadline is not None:
            ends = self._clock() + request.deadline
            ends = ends if self._ends is None else min(ends, self._ends)
        seed = seed_of(self._seed, index) if request.seed is None else request.seed
        size = n_programs(request.problem)
        opened = _Open(max(1, size), size, self.cost(name) * size, n_bytes(request.problem))
        self._open[index] = opened
        self._pulled += 1
        self._programs += opened.programs
        self._seconds += opened.seconds
        self._bytes += opened.bytes
        task = Task(name, request.problem, seed)
        return Entry(index, name, task, request.priority, ends, opened.bytes), opened.seconds

    def deliver(self, piece: Piece, answer: Answer) -> Iterator[Answer]:
        """Take the answer to a piece; yields the answers whose turn has come."""
        waiting = self._open[piece.index]
        waiting.parts.append((piece.first, answer))
        waiting.missing -= max(1, n_programs(piece.task.problem))
        while (first := self._open.get(self._answered)) is not None and not first.missing:
            del self._open[self._answered]
            self._answered += 1
            self._programs -= first.programs
            self._seconds -= first.seconds
            self._bytes -= first.bytes
            yield join(first.parts)

    def finish(self) -> None:
        """Raise what the stream raised; to be called when every answer was given."""
        if self._error is not None:
            raise self._error

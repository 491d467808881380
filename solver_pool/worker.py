"""What runs where the solving is done: in the caller's process, or in the actor that the pool starts.

This file never imports Ray: `SolverWorker` is a plain class that `solver_pool.pool` turns into an actor.
"""

from __future__ import annotations

import faulthandler
import io
import logging
import pickle
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from solver_pool.backends import BACKENDS, solve
from solver_pool.options import SolveOptions
from solver_pool.problem import (
    MLP,
    BatchProblem,
    CriticBatch,
    LinearProgram,
    Problem,
    QuadraticProgram,
)
from solver_pool.solution import BatchSolution, Solution, Status

logger = logging.getLogger(__name__)

Answer: TypeAlias = Solution | BatchSolution

TOO_LATE = "the deadline of the call came before its turn"

_warm: set[str] = set()
"""Backends that have solved in this process: a first solve imports and compiles, and is no estimate."""


@dataclass(frozen=True)
class Task:
    """One problem on its way to a backend.

    Attributes:
        name: of the backend.
        problem: what to solve; a chunk of a batch is a batch.
        index: of the problem among those submitted together; the seed derives from it.
    """

    name: str
    problem: Problem
    index: int


@dataclass(frozen=True)
class Outcome:
    """The answer to one task.

    Attributes:
        answer: a `BatchSolution` for a batch, else a `Solution`.
        seconds: [s] of wall time in the backend.
        measured: whether `seconds` says what such a solve costs (false for a first solve or none).
    """

    answer: Answer
    seconds: float = 0.0
    measured: bool = False


def n_programs(problem: Problem) -> int:
    """How many programs a problem is: its length if it is a batch, else one."""
    return len(problem) if isinstance(problem, BatchProblem) else 1


def failure(task: Task, status: Status, message: str) -> Outcome:
    """The outcome of a task that came to nothing."""
    if isinstance(task.problem, BatchProblem):
        return Outcome(BatchSolution.failed(task.problem, status, task.name, message))
    return Outcome(Solution.failed(status, task.name, message))


def task_options(options: SolveOptions, index: int, limit: float | None) -> SolveOptions:
    """The options of problem `index`: its own seed, and a time limit of `limit` [s] for each program.

    The seed depends on `options.seed` and `index` alone (a Weyl sequence modulo 2^31, which every native
    solver takes), so an answer does not depend on where or in which chunk a problem is solved.
    """
    if index == 0 and limit == options.time_limit:
        return options
    seed = options.seed if index == 0 else (options.seed + 2654435761 * index) % 2**31
    return replace(options, seed=seed, time_limit=limit)


def solve_tasks(
    tasks: Iterable[Task], options: SolveOptions, budget: float | None, alarm: Alarm | None = None
) -> list[Outcome]:
    """Solve tasks one after the other; whatever a backend raises becomes an ERROR of that task alone.

    Args:
        tasks: in any order; the outcomes have the same.
        options: common to all.
        budget: [s] for all tasks together; those not begun by then get TIME_LIMIT. None means no limit.
        alarm: armed around each task, to end this process if a native call does not return.
    """
    ends = None if budget is None else time.monotonic() + budget
    outcomes = []
    for task in tasks:
        limit, remaining = options.time_limit, np.inf
        if ends is not None:
            remaining = ends - time.monotonic()
            if remaining <= 0:
                outcomes.append(failure(task, Status.TIME_LIMIT, TOO_LATE))
                continue
            limit = remaining if limit is None else min(limit, remaining)
        if alarm is not None:
            alarm.arm(None if limit is None else min(remaining, limit * n_programs(task.problem)))
        began = time.perf_counter()
        try:
            answer = solve(task.problem, task_options(options, task.index, limit))
            outcomes.append(Outcome(answer, time.perf_counter() - began, task.name in _warm))
            _warm.add(task.name)
        except Exception as error:  # a bug in one backend must not lose the answers of the others
            logger.warning("backend %s failed on problem %d", task.name, task.index, exc_info=True)
            failed = failure(task, Status.ERROR, f"{type(error).__name__}: {error}")
            outcomes.append(replace(failed, seconds=time.perf_counter() - began))
    return outcomes


class Alarm:
    """Ends this process if a task does not finish, from a C thread that runs while the GIL is held.

    Args:
        grace: [s]; a task gets its allowance plus at least one, at most two of these.
    """

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._fires = np.inf

    def arm(self, allowance: float | None) -> None:
        """Allow `allowance` [s] from now, or for ever."""
        if allowance is None:
            return self.cancel()
        left = self._fires - time.monotonic()
        # Arming starts a thread (0.1 ms, as long as a small solve), so a running alarm that suits is kept.
        if not allowance + self._grace <= left <= allowance + 2 * self._grace:
            faulthandler.dump_traceback_later(allowance + 2 * self._grace, exit=True)
            self._fires = time.monotonic() + allowance + 2 * self._grace

    def cancel(self) -> None:
        if self._fires < np.inf:
            faulthandler.cancel_dump_traceback_later()
            self._fires = np.inf


class SolverWorker:
    """The actor: solves one chunk of tasks a call, in one thread.

    Args:
        grace: [s], see `Alarm`.
    """

    def __init__(self, grace: float) -> None:
        self._alarm = Alarm(grace)

    def prepare(self, name: str, entry: tuple[str, tuple[type, ...]]) -> None:
        """Load backend `name` and let it solve something tiny, so that no limit counts import or compilation.

        Args:
            name: of the backend.
            entry: the caller's ``BACKENDS[name]``, so that a backend registered there is known here.
        """
        BACKENDS[name] = entry
        try:
            import_module(entry[0])
            sample = _sample(entry[1][0])
            if sample is not None:
                solve_tasks([Task(name, sample, 0)], SolveOptions(backend=name), None)
        except ImportError:  # each solve will say so, and how to install what is missing
            logger.warning("backend %s cannot be imported", name, exc_info=True)

    def solve(self, chunk: bytes, *critics: NDArray[np.uint8]) -> bytes:
        """Solve what `pack` packed.

        Args:
            chunk: the tasks, their options and their budget.
            critics: the critics that `pack` left out, each pickled, as an array of bytes.

        Returns:
            The pickled list of outcomes: pickled here, arrays arrive writable, as from a local solve.
        """
        tasks, options, budget = _Unpickler(io.BytesIO(chunk), critics).load()
        try:
            return pickle.dumps(solve_tasks(tasks, options, budget, self._alarm), protocol=5)
        finally:
            self._alarm.cancel()


def pack(
    tasks: Sequence[Task], options: SolveOptions, budget: float | None, shared: Sequence[MLP]
) -> tuple[bytes, list[int]]:
    """Pickle a chunk without the critics in `shared`; also returns which of those it needs, in order.

    Arrays are pickled in band: what Ray hands out is read-only, which several native solvers refuse and
    for which numba would compile everything once more.
    """
    stream = io.BytesIO()
    pickler = _Pickler(stream, shared)
    pickler.dump((list(tasks), options, budget))
    return stream.getvalue(), pickler.used


class _Pickler(pickle.Pickler):
    def __init__(self, stream: io.BytesIO, shared: Sequence[MLP]) -> None:
        super().__init__(stream, protocol=5)
        self._position = {id(critic): i for i, critic in enumerate(shared)}
        self.used: list[int] = []

    def persistent_id(self, obj: Any) -> int | None:
        position = self._position.get(id(obj)) if isinstance(obj, MLP) else None
        if position is None:
            return None
        if position not in self.used:
            self.used.append(position)
        return self.used.index(position)


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, critics: Sequence[NDArray[np.uint8]]) -> None:
        super().__init__(stream)
        self._critics = [pickle.loads(critic.data) for critic in critics]

    def persistent_load(self, pid: Any) -> MLP:
        critic: MLP = self._critics[pid]
        return critic


def _sample(kind: type) -> Problem | None:
    """The smallest problem of a kind, or None for a kind unknown here."""
    one = np.ones(1)
    if kind is CriticBatch:
        critic = MLP((np.ones((2, 2)), -np.ones((1, 2))), (np.zeros(2), np.zeros(1)), "softplus")
        return CriticBatch(critic, np.zeros((1, 1)), np.ones((1, 1)), np.ones((1, 1)), -one, one)
    if kind is QuadraticProgram:
        return QuadraticProgram(np.ones((1, 1)), one, np.ones((1, 1)), one, -one, one)
    if kind is LinearProgram:
        return LinearProgram(one, np.ones((1, 1)), -one, one, -one, one)
    return None

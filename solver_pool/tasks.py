"""Solving one task after the other in this process, and how tasks travel. No Ray.

In the caller's process `solve_tasks` is all there is. On a worker the same is done by a solver process
(`solver_pool.nursery`), to which tasks travel pickled one by one, so that losing one loses no other.
"""

from __future__ import annotations

import copyreg
import io
import logging
import pickle
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from solver_pool.backends import solve
from solver_pool.options import SolveOptions
from solver_pool.problem import (
    MLP,
    BatchProblem,
    CriticBatch,
    LinearProgram,
    MixedIntegerProgram,
    Problem,
    QuadraticBatch,
    QuadraticProgram,
)
from solver_pool.solution import BatchSolution, Solution, Status

logger = logging.getLogger(__name__)

Answer: TypeAlias = Solution | BatchSolution

TOO_LATE = "the deadline came before its turn"

_warm: set[str] = set()
"""Backends that have solved in this process: a first solve imports and compiles, and is no estimate."""
_critics: dict[str, MLP] = {}
"""The critics that this process knows, by version."""


@dataclass(frozen=True)
class Task:
    """One problem on its way to a backend.

    Attributes:
        name: of the backend.
        problem: what to solve; a part of a batch is a batch.
        seed: of the drawn starting points.
    """

    name: str
    problem: Problem
    seed: int


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


def n_bytes(problem: Problem) -> int:
    """Memory of a problem's arrays [bytes], without its critic, which is published once."""
    size = 0
    for value in vars(problem).values():
        if isinstance(value, np.ndarray):
            size += value.nbytes
        elif hasattr(value, "tocsr"):  # scipy.sparse keeps its entries and its indices apart
            parts = (getattr(value, name, None) for name in ("data", "indices", "indptr", "row", "col"))
            size += sum(part.nbytes for part in parts if part is not None)
    return size


def seed_of(seed: int, index: int) -> int:
    """The seed of problem `index`.

    It depends on the options' `seed` and `index` alone (a Weyl sequence modulo 2^31, which every native solver
    takes), so an answer does not depend on where or in which chunk a problem is solved.
    """
    return seed if index == 0 else (seed + 2654435761 * index) % 2**31


def failure(task: Task, status: Status, message: str) -> Outcome:
    """The outcome of a task that came to nothing."""
    if isinstance(task.problem, BatchProblem):
        return Outcome(BatchSolution.failed(task.problem, status, task.name, message))
    return Outcome(Solution.failed(status, task.name, message))


def solve_task(task: Task, options: SolveOptions, ends: float | None) -> Outcome:
    """Solve one task; whatever its backend raises becomes an ERROR.

    Args:
        task: with its own seed.
        options: common to all tasks of a call.
        ends: monotonic time [s] by which to end; a task not begun by then gets TIME_LIMIT. None: no limit.
    """
    limit = options.time_limit
    if ends is not None:
        remaining = ends - time.monotonic()
        if remaining <= 0:
            return failure(task, Status.TIME_LIMIT, TOO_LATE)
        limit = remaining if limit is None else min(limit, remaining)
    if task.seed != options.seed or limit != options.time_limit:
        options = replace(options, seed=task.seed, time_limit=limit)
    began = time.perf_counter()
    try:
        answer = solve(task.problem, options)
    except Exception as error:  # a bug in one backend must not lose the answers of the others
        logger.warning("backend %s failed", task.name, exc_info=True)
        failed = failure(task, Status.ERROR, f"{type(error).__name__}: {error}")
        return replace(failed, seconds=time.perf_counter() - began)
    outcome = Outcome(answer, time.perf_counter() - began, task.name in _warm)
    _warm.add(task.name)
    return outcome


def solve_tasks(tasks: Iterable[Task], options: SolveOptions, ends: float | None) -> list[Outcome]:
    """`solve_task` one after the other; the outcomes are in the order of the tasks."""
    return [solve_task(task, options, ends) for task in tasks]


def pack(task: Task, version_of: Callable[[MLP], str]) -> bytes:
    """Pickle a task with the version of its critic instead of the critic.

    Arrays are pickled in band: what Ray hands out is read-only, which several native solvers refuse and
    for which numba would compile everything once more.
    """
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, protocol=5)
    pickler.dispatch_table = {
        **copyreg.dispatch_table,
        MLP: lambda critic: (known_critic, (version_of(critic),)),
    }
    pickler.dump(task)
    return stream.getvalue()


def known_critic(version: str) -> MLP:
    """The critic that `learn_critic` was given; called when a task is unpickled."""
    return _critics[version]


def learn_critic(version: str, data: Any) -> None:
    """Unpickle a critic and keep it, so that later tasks, and caches by identity, find the same object."""
    _critics[version] = pickle.loads(data)


def forget_critic(version: str) -> None:
    """Drop a critic that `learn_critic` was given."""
    del _critics[version]


def sample(kind: type) -> Problem | None:
    """The smallest problem of a kind, or None for a kind unknown here."""
    one = np.ones(1)
    if kind is CriticBatch:
        critic = MLP((np.ones((2, 2)), -np.ones((1, 2))), (np.zeros(2), np.zeros(1)), "softplus")
        return CriticBatch(critic, np.zeros((1, 1)), np.ones((1, 1)), np.ones((1, 1)), -one, one)
    if kind is QuadraticProgram:
        return QuadraticProgram(np.ones((1, 1)), one, np.ones((1, 1)), one, -one, one)
    if kind is QuadraticBatch:
        return QuadraticBatch(np.ones((1, 1)), np.ones((1, 1)), np.ones((1, 1)), np.ones((1, 1)), -one, one)
    if kind is LinearProgram:
        return LinearProgram(one, np.ones((1, 1)), -one, one, -one, one)
    if kind is MixedIntegerProgram:
        return MixedIntegerProgram(-one, np.ones((1, 1)), -np.inf * one, one, 0.0 * one, one, one > 0)
    return None

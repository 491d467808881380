"""A backend that misbehaves on request; registered as "faulty" by conftest, imported by the workers too.

Each program is told what to do by `program` (in a `LinearProgram`'s cost or a `CriticBatch`'s state):
act, for some seconds, and say which token it was. Its answer tells where and how it was solved.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path

import numpy as np

from solver_pool.options import SolveOptions
from solver_pool.problem import MLP, Array, CriticBatch, LinearProgram, Problem
from solver_pool.solution import BatchSolution, Certificate, Solution, Status

SLEEP, EXIT, SIGKILL, HOLD_GIL, RAISE, MEMORY, EXIT_ONCE, WRITE, NOTE = range(9)
GRACE = 0.7
"""[s] For every pool of these tests. Crashes are tested without a time limit, so this need not be longer."""
DIRECTORY = "SOLVERL_FAULTY_DIRECTORY"
"""Environment variable: where attempts are noted."""
KEPT: list[MLP] = []
"""The critics of all batches solved in this process; a batch's `iterations` say how often its own is among them."""


def lp(act: int = SLEEP, seconds: float = 0.0, token: int = 0) -> LinearProgram:
    none = np.zeros(0)
    return LinearProgram(
        np.array([act, seconds, token], dtype=float), np.zeros((0, 3)), none, none, -np.ones(3), np.ones(3)
    )


def batch(programs: list[tuple[int, float, int]], width: int = 1) -> CriticBatch:
    critic = MLP((np.ones((width, 4)), np.ones((1, width))), (np.zeros(width), np.zeros(1)), "tanh")
    size = len(programs)
    return CriticBatch(
        critic, np.array(programs, dtype=float).reshape(size, 3), np.zeros((0, 1)), np.zeros((size, 0)),
        -np.ones(1), np.ones(1),
    )  # fmt: skip


def attempts(token: int) -> int:
    """How often the program `token` was begun by EXIT, SIGKILL, HOLD_GIL or EXIT_ONCE."""
    path = Path(os.environ[DIRECTORY]) / str(token)
    return len(path.read_text()) if path.exists() else 0


def order() -> list[int]:
    """The tokens of the programs begun by NOTE, in the order in which they were begun."""
    path = Path(os.environ[DIRECTORY]) / "order"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def _act(problem: Problem, act: int, seconds: float, token: int) -> None:
    if act in (EXIT, SIGKILL, HOLD_GIL, EXIT_ONCE):
        with (Path(os.environ[DIRECTORY]) / str(token)).open("a") as notes:
            notes.write("x")
    if act == NOTE:
        with (Path(os.environ[DIRECTORY]) / "order").open("a") as notes:
            notes.write(f"{token}\n")
    if act in (SLEEP, EXIT, NOTE):
        time.sleep(seconds)
    if act == EXIT or (act == EXIT_ONCE and attempts(token) == 1):
        os._exit(3)
    elif act == SIGKILL:
        os.kill(os.getpid(), signal.SIGKILL)
    elif act == HOLD_GIL:
        ctypes.PyDLL(None).usleep(int(1e6 * seconds))
    elif act == RAISE:
        raise RuntimeError(f"bug {token}")
    elif act == MEMORY:
        raise MemoryError("too large")
    elif act == WRITE and isinstance(problem, CriticBatch):
        for array in (problem.states, *problem.critic.weights, *problem.critic.biases):
            array += 0.0  # raises on a read-only array


def solve(problem: Problem, options: SolveOptions) -> Solution | BatchSolution:
    began = time.perf_counter()
    if isinstance(problem, LinearProgram):
        _act(problem, int(problem.c[0]), float(problem.c[1]), int(problem.c[2]))
        where = np.array([os.getpid(), options.seed, float(os.environ.get("OMP_NUM_THREADS", 0))])
        zero = Certificate(0.0, 0.0, 0.0, 0.0)
        seconds = time.perf_counter() - began
        return Solution(Status.OPTIMAL, where, float(problem.c[2]), 0.0, zero, seconds, "faulty")
    assert isinstance(problem, CriticBatch)
    for act, seconds, token in problem.states:
        _act(problem, int(act), float(seconds), int(token))
    KEPT.append(problem.critic)
    known = sum(critic is problem.critic for critic in KEPT)
    size = len(problem)
    zeros: Array = np.zeros(size)
    return BatchSolution(
        status=np.zeros(size, dtype=np.int8),
        x=np.full((size, 1), options.seed, dtype=float),
        objective=problem.states[:, 2].copy(),
        bound=np.full(size, os.getpid(), dtype=float),
        row_duals=np.zeros((size, 0)),
        bound_duals=np.zeros((size, 1)),
        certificate=Certificate(zeros, zeros, zeros, zeros),
        iterations=np.full(size, known),
        solve_time=time.perf_counter() - began,
        backend="faulty",
    )

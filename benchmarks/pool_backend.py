"""The backend of the pool's benchmarks: it sleeps, or passes problems on to real solvers and misbehaves on the way.

Benchmarks register it as "benchmark", or in the place of real backends (`MISBEHAVING`); workers import it by name.
"""

from __future__ import annotations

import ctypes
import os
import time
from importlib import import_module
from pathlib import Path

import numpy as np

from solver_pool.options import SolveOptions
from solver_pool.problem import CriticBatch, LinearProgram, MixedIntegerProgram, Problem, QuadraticProgram
from solver_pool.solution import BatchSolution, Certificate, Solution, Status

NAME = "benchmark"
ENTRY = ("benchmarks.pool_backend", (object,))
MISBEHAVING: dict[str, tuple[str, tuple[type, ...]]] = {
    "interior_point": (ENTRY[0], (CriticBatch,)),
    "daqp": (ENTRY[0], (QuadraticProgram,)),
    "highs": (ENTRY[0], (LinearProgram, MixedIntegerProgram)),
}
"""Entries of ``BACKENDS`` with which these backends misbehave."""
FAULTS = "SOLVERL_BENCHMARK_FAULTS"
"""Environment variable: a folder for the marks of faults that have happened. Unless it exists, nothing misbehaves."""
HANG_EVERY = CRASH_EVERY = 1000
"""One solver call in so many hangs or crashes: those whose seed leaves the remainder 1 or 2."""


def sleeping(seconds: float) -> LinearProgram:
    """A problem whose solve sleeps: it has no rows, and its cost is the time [s]."""
    none = np.zeros(0)
    return LinearProgram(np.array([seconds]), np.zeros((0, 1)), none, none, -np.ones(1), np.ones(1))


def slept(problem: Problem) -> Solution:
    """The answer to `sleeping`."""
    assert isinstance(problem, LinearProgram)
    zero = Certificate(0.0, 0.0, 0.0, 0.0)
    return Solution(Status.OPTIMAL, np.zeros(1), 0.0, 0.0, zero, float(problem.c[0]), NAME)


def solve(problem: Problem, options: SolveOptions) -> Solution | BatchSolution:
    """Sleep where the problem says so; else misbehave if it is this call's turn, and let the usual solver solve."""
    if isinstance(problem, LinearProgram) and problem.A.shape == (0, 1):
        time.sleep(float(problem.c[0]))
        return slept(problem)
    folder = os.environ.get(FAULTS)
    if folder is not None:
        if options.seed % HANG_EVERY == 1 and _first(folder, options.seed):
            ctypes.PyDLL(None).sleep(3600)  # native code that keeps the GIL
        if options.seed % CRASH_EVERY == 2 and _first(folder, options.seed):
            ctypes.string_at(0)  # a segmentation fault
    name = next(name for name, (_, kinds) in MISBEHAVING.items() if isinstance(problem, kinds))
    answer: Solution | BatchSolution = import_module(f"solver_pool.backends.{name}").solve(problem, options)
    return answer


def _first(folder: str, seed: int) -> bool:
    """Whether this call is the first with this seed; the replay of a victim is not."""
    try:
        (Path(folder) / str(seed)).touch(exist_ok=False)
    except (FileExistsError, FileNotFoundError):
        return False
    return True

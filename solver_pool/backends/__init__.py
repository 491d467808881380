"""Who solves what. A backend is one file with ``solve(problem, options)``: unpack, build, solve, fill."""

from __future__ import annotations

from importlib import import_module
from typing import overload

from solver_pool.errors import UnsupportedProblem
from solver_pool.options import SolveOptions
from solver_pool.problem import (
    SMOOTH_ACTIVATIONS,
    CriticBatch,
    LinearProgram,
    Problem,
    QuadraticProgram,
)
from solver_pool.solution import BatchSolution, Solution

BACKENDS: dict[str, tuple[str, type]] = {
    "interior_point": ("solver_pool.backends.interior_point", CriticBatch),
    "omlt": ("solver_pool.backends.omlt", CriticBatch),
    "ipopt": ("solver_pool.backends.ipopt", CriticBatch),
    "daqp": ("solver_pool.backends.daqp", QuadraticProgram),
    "highs": ("solver_pool.backends.highs", LinearProgram),
}


def choose_backend(problem: Problem, options: SolveOptions) -> str:
    """The backend's name for `problem`.

    Raises:
        UnsupportedProblem: if the backend asked for is unknown or takes another kind of problem.
    """
    name = options.backend
    if name == "auto":
        if isinstance(problem, CriticBatch):
            return "interior_point" if problem.critic.activation in SMOOTH_ACTIVATIONS else "omlt"
        return "daqp" if isinstance(problem, QuadraticProgram) else "highs"
    if name not in BACKENDS:
        raise UnsupportedProblem(f"backend: {name!r} is unknown. Use 'auto' or one of {', '.join(BACKENDS)}.")
    kind = BACKENDS[name][1]
    if not isinstance(problem, kind):
        raise UnsupportedProblem(
            f"backend: {name!r} takes a {kind.__name__}, not a {type(problem).__name__}. Use backend='auto'."
        )
    return name


@overload
def solve(problem: CriticBatch, options: SolveOptions = ...) -> BatchSolution: ...
@overload
def solve(problem: QuadraticProgram | LinearProgram, options: SolveOptions = ...) -> Solution: ...
def solve(problem: Problem, options: SolveOptions = SolveOptions()) -> Solution | BatchSolution:
    """Solve one problem in this process with the backend that `options` names."""
    backend = import_module(BACKENDS[choose_backend(problem, options)][0])
    result: Solution | BatchSolution = backend.solve(problem, options)
    return result

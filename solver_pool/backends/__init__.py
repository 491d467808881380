"""Who solves what. A backend is one file with ``solve(problem, options)``: unpack, build, solve, fill."""

from __future__ import annotations

from importlib import import_module
from typing import overload

from solver_pool.errors import UnsupportedProblem
from solver_pool.options import SolveOptions
from solver_pool.problem import (
    SMOOTH_ACTIVATIONS,
    BatchProblem,
    CriticBatch,
    LinearProgram,
    MixedIntegerProgram,
    NonlinearProgram,
    Problem,
    QuadraticBatch,
    QuadraticProgram,
    SingleProblem,
)
from solver_pool.solution import BatchSolution, Solution

BACKENDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "interior_point": ("solver_pool.backends.interior_point", (CriticBatch,)),
    "branch_and_bound": ("solver_pool.backends.branch_and_bound", (CriticBatch,)),
    "milp": ("solver_pool.backends.critic_milp", (CriticBatch,)),
    "omlt": ("solver_pool.backends.omlt", (CriticBatch,)),
    "ipopt": ("solver_pool.backends.ipopt", (CriticBatch, NonlinearProgram)),
    "active_set": ("solver_pool.backends.active_set", (QuadraticBatch,)),
    "knapsack": ("solver_pool.backends.knapsack", (MixedIntegerProgram,)),
    "daqp": ("solver_pool.backends.daqp", (QuadraticProgram, QuadraticBatch)),
    "highs": ("solver_pool.backends.highs", (LinearProgram, MixedIntegerProgram)),
    "scip": ("solver_pool.backends.scip", (LinearProgram, MixedIntegerProgram, NonlinearProgram)),
}
"""The module of each backend, and the kinds of problems that it takes."""

FEW_ACTIONS = 10
"""Up to here branching on the actions beats branching on a ReLU critic's neurons."""


def choose_backend(problem: Problem, options: SolveOptions) -> str:
    """The backend's name for `problem`.

    Raises:
        UnsupportedProblem: if the backend asked for is unknown or takes other kinds of problems.
    """
    name = options.backend
    if name == "auto":
        if isinstance(problem, CriticBatch):
            smooth = problem.critic.activation in SMOOTH_ACTIVATIONS
            if smooth and not options.certify:
                return "interior_point"
            return "branch_and_bound" if smooth or problem.n_actions <= FEW_ACTIONS else "milp"
        if isinstance(problem, NonlinearProgram):
            whole = any(variable.is_integer() for variable in problem.free_variables())
            return "scip" if options.certify or whole else "ipopt"
        if isinstance(problem, QuadraticBatch):
            return "active_set"
        if isinstance(problem, MixedIntegerProgram) and problem.is_knapsack:
            return "knapsack"
        return "daqp" if isinstance(problem, QuadraticProgram) else "highs"
    if name not in BACKENDS:
        raise UnsupportedProblem(f"backend: {name!r} is unknown. Use 'auto' or one of {', '.join(BACKENDS)}.")
    kinds = BACKENDS[name][1]
    if not isinstance(problem, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise UnsupportedProblem(
            f"backend: {name!r} takes a {wanted}, not a {type(problem).__name__}. Use backend='auto'."
        )
    return name


@overload
def solve(problem: BatchProblem, options: SolveOptions = ...) -> BatchSolution: ...
@overload
def solve(problem: SingleProblem, options: SolveOptions = ...) -> Solution: ...
def solve(problem: Problem, options: SolveOptions = SolveOptions()) -> Solution | BatchSolution:
    """Solve one problem in this process with the backend that `options` names."""
    backend = import_module(BACKENDS[choose_backend(problem, options)][0])
    result: Solution | BatchSolution = backend.solve(problem, options)
    return result

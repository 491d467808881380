"""Points of mixed-integer programs made exact: what a solver accepts within its tolerance becomes whole numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from solver_pool.options import SolveOptions
from solver_pool.problem import Array, LinearProgram, MixedIntegerProgram
from solver_pool.solution import Solution, certify_mixed_integer


def relaxation(problem: MixedIntegerProgram) -> LinearProgram:
    """The LP that is left without the integrality."""
    return LinearProgram(problem.c, problem.A, problem.row_low, problem.row_high, problem.low, problem.high)


def violation(problem: MixedIntegerProgram, x: Array) -> float:
    """The largest violation of rows, bounds and integrality at ``x (n,)``."""
    return float(certify_mixed_integer(problem, x, -np.inf).primal_residual)


def usable_start(problem: MixedIntegerProgram, options: SolveOptions) -> Array | None:
    """The start with its integers rounded, if it satisfies every constraint."""
    if problem.start is None:
        return None
    start = np.where(problem.integer, np.round(problem.start), problem.start)
    return start if violation(problem, start) <= options.tolerance else None


def whole(
    problem: MixedIntegerProgram,
    x: Array,
    options: SolveOptions,
    solve_linear: Callable[[LinearProgram, SolveOptions], Solution],
) -> Array:
    """A MILP solver's point with integers that are exact, and the rest moved to fit them if it has to be.

    Solvers accept integers that are off by their tolerance, which a large coefficient (a big M) turns into a
    violated row; the LP in the other variables then repairs the point.
    """
    x = np.clip(np.where(problem.integer, np.round(x), x), problem.low, problem.high)
    if violation(problem, x) <= options.tolerance:
        return x
    low, high = (np.where(problem.integer, x, side) for side in (problem.low, problem.high))
    repaired = solve_linear(replace(relaxation(problem), low=low, high=high), options)
    return x if repaired.x is None else repaired.x

"""Linear and mixed-integer linear programs by HiGHS, through highspy directly: no modelling layer, one thread."""

from __future__ import annotations

import time
from dataclasses import replace
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
from scipy.sparse import csc_matrix

from solver_pool.backends.rounding import relaxation, usable_start, violation, whole
from solver_pool.errors import BackendUnavailable
from solver_pool.options import SolveOptions
from solver_pool.problem import LinearProgram, MixedIntegerProgram
from solver_pool.solution import Solution, Status, certify_linear, proven_by_bound

NAME = "highs"

STATUS: dict[str, Status] = {
    "kOptimal": Status.OPTIMAL,
    "kModelEmpty": Status.OPTIMAL,
    "kInfeasible": Status.INFEASIBLE,
    "kUnbounded": Status.UNBOUNDED,
    "kTimeLimit": Status.TIME_LIMIT,
}
"""Names of `highspy.HighsModelStatus`; every other one is an ERROR. `UNDECIDED` is settled by a second solve."""

UNDECIDED = "kUnboundedOrInfeasible"

MINIMUM_TOLERANCE = 1e-10
"""The smallest feasibility tolerance that HiGHS accepts."""

GAP_MARGIN = 0.9
"""Of the gap asked for, because it is recomputed from the point after its integers were rounded."""


def _library() -> ModuleType:
    try:
        return import_module("highspy")
    except ImportError as error:
        raise BackendUnavailable(
            "highspy is missing. Install it with 'pip install highspy' or "
            "'conda install -c conda-forge highspy'."
        ) from error


def solve(problem: LinearProgram | MixedIntegerProgram, options: SolveOptions = SolveOptions()) -> Solution:
    """Solve ``min_x c'x  s.t.  row_low <= A x <= row_high,  low <= x <= high``, ``x_j`` integer where asked.

    An LP's answer is OPTIMAL only where the certificate recomputed from the problem, with HiGHS's multipliers,
    is within ``options.tolerance``. A MILP's is OPTIMAL only where its point, with integers rounded exactly,
    satisfies every constraint and HiGHS's lower bound is within the relative ``options.gap`` of its objective.
    ``options.time_limit`` [s] limits the solve; with a feasible point at the limit the answer is FEASIBLE, and
    a MILP's has a bound all the same.

    Raises:
        BackendUnavailable: without highspy.
    """
    if isinstance(problem, LinearProgram):
        return _solve_linear(problem, options)
    if not problem.integer.any():
        return _solve_linear(relaxation(problem), options)
    return _solve_mixed_integer(problem, options)


def _build(highspy: ModuleType, problem: LinearProgram | MixedIntegerProgram, options: SolveOptions) -> Any:
    """A `Highs` that holds the problem and the options, or None if HiGHS rejects the model."""
    A = csc_matrix(problem.A)
    m, n = A.shape
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = n, m
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = problem.c, problem.low, problem.high
    lp.row_lower_, lp.row_upper_ = problem.row_low, problem.row_high
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.num_col_, lp.a_matrix_.num_row_ = n, m
    lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = A.indptr, A.indices, A.data
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    # HiGHS's scheduler belongs to the whole process: more threads would outlive this solve, and break forks.
    highs.setOptionValue("threads", 1)
    highs.setOptionValue("random_seed", options.seed)
    feasibility = max(MINIMUM_TOLERANCE, 0.1 * options.tolerance)
    highs.setOptionValue("primal_feasibility_tolerance", feasibility)
    highs.setOptionValue("dual_feasibility_tolerance", feasibility)
    if options.time_limit is not None:
        highs.setOptionValue("time_limit", options.time_limit)
    if isinstance(problem, MixedIntegerProgram):
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        lp.integrality_ = [kinds[int(whole)] for whole in problem.integer]
        highs.setOptionValue("mip_feasibility_tolerance", feasibility)
        highs.setOptionValue("mip_rel_gap", GAP_MARGIN * options.gap)
        highs.setOptionValue("mip_abs_gap", GAP_MARGIN * options.gap)
    return None if highs.passModel(lp) == highspy.HighsStatus.kError else highs


REJECTED = "HiGHS rejected the model; check the size of its coefficients"


def _settle(problem: LinearProgram | MixedIntegerProgram, options: SolveOptions) -> Status:
    """Whether a program that is infeasible or unbounded is the one or the other: solve it without objective."""
    if not problem.c.any():
        return Status.INFEASIBLE
    answer = solve(replace(problem, c=np.zeros_like(problem.c)), options)
    return Status.UNBOUNDED if answer.status.usable else answer.status


def _solve_linear(problem: LinearProgram, options: SolveOptions) -> Solution:
    highspy = _library()

    # Build.
    highs = _build(highspy, problem, options)
    if highs is None:
        return Solution.failed(Status.ERROR, NAME, REJECTED)

    # Solve.
    started = time.perf_counter()
    highs.run()
    seconds = time.perf_counter() - started
    native = highs.getModelStatus().name

    # Fill. HiGHS's multipliers satisfy ``c = A'y + z`` with ``y, z >= 0`` at lower sides; ours are opposite.
    status = _settle(problem, options) if native == UNDECIDED else STATUS.get(native, Status.ERROR)
    message = f"HiGHS ended with {native}"
    answer = highs.getSolution()
    if status not in (Status.OPTIMAL, Status.TIME_LIMIT) or not answer.value_valid:
        if status == Status.OPTIMAL:
            status = Status.ERROR
        return Solution.failed(status, NAME, message, seconds)
    x = np.array(answer.col_value, dtype=np.float64)
    x = np.clip(x, problem.low, problem.high)
    m, n = problem.A.shape
    duals = (answer.row_dual, answer.col_dual) if answer.dual_valid else (np.zeros(m), np.zeros(n))
    row_duals, bound_duals = (-np.array(d, dtype=np.float64) for d in duals)
    certificate = certify_linear(problem, x, row_duals, bound_duals)
    if not float(certificate.primal_residual) <= options.tolerance:
        reason = f"{message}, but its point violates a row by {certificate.primal_residual:.1e}"
        return Solution.failed(
            Status.TIME_LIMIT if status == Status.TIME_LIMIT else Status.ERROR, NAME, reason, seconds
        )
    proven = float(certificate.kkt_residual) <= options.tolerance
    objective = float(problem.c @ x)
    info = highs.getInfo()
    return Solution(
        status=Status.OPTIMAL if proven else Status.FEASIBLE,
        x=x,
        objective=objective,
        bound=objective - float(certificate.gap) if proven else -np.inf,
        certificate=certificate,
        solve_time=seconds,
        backend=NAME,
        iterations=max(0, info.simplex_iteration_count) + max(0, info.ipm_iteration_count),
        message="" if proven else message,
    )


def _solve_mixed_integer(problem: MixedIntegerProgram, options: SolveOptions) -> Solution:
    highspy = _library()

    # Build.
    highs = _build(highspy, problem, options)
    if highs is None:
        return Solution.failed(Status.ERROR, NAME, REJECTED)
    start = usable_start(problem, options)
    if start is not None:
        first = highspy.HighsSolution()
        first.col_value = start
        highs.setSolution(first)

    # Solve.
    started = time.perf_counter()
    highs.run()
    native, info = highs.getModelStatus().name, highs.getInfo()

    # Fill.
    status = _settle(problem, options) if native == UNDECIDED else STATUS.get(native, Status.ERROR)
    answer = highs.getSolution()
    x = None
    if answer.value_valid and info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible:
        x = whole(problem, np.array(answer.col_value, dtype=np.float64), options, _solve_linear)
    return proven_by_bound(
        status,
        x,
        np.nan if x is None else float(problem.c @ x),
        np.inf if x is None else violation(problem, x),
        float(info.mip_dual_bound),
        tolerance=options.tolerance,
        gap=options.gap,
        solve_time=time.perf_counter() - started,
        backend=NAME,
        iterations=max(0, int(info.mip_node_count)),
        message=f"HiGHS ended with {native}",
    )

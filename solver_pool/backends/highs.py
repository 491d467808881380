"""Linear programs by HiGHS, through highspy directly: no modelling layer, one thread."""

from __future__ import annotations

import time
from importlib import import_module
from types import ModuleType

import numpy as np
from scipy.sparse import csc_matrix

from solver_pool.errors import BackendUnavailable
from solver_pool.options import SolveOptions
from solver_pool.problem import LinearProgram
from solver_pool.solution import Solution, Status, certify_linear

NAME = "highs"

STATUS: dict[str, Status] = {
    "kOptimal": Status.OPTIMAL,
    "kModelEmpty": Status.OPTIMAL,
    "kInfeasible": Status.INFEASIBLE,
    "kUnbounded": Status.UNBOUNDED,
    "kTimeLimit": Status.TIME_LIMIT,
}
"""Names of `highspy.HighsModelStatus`; every other one is an ERROR."""

MINIMUM_TOLERANCE = 1e-10
"""The smallest feasibility tolerance that HiGHS accepts."""


def _library() -> ModuleType:
    try:
        return import_module("highspy")
    except ImportError as error:
        raise BackendUnavailable(
            "highspy is missing. Install it with 'pip install highspy' or "
            "'conda install -c conda-forge highspy'."
        ) from error


def solve(problem: LinearProgram, options: SolveOptions = SolveOptions()) -> Solution:
    """Solve ``min_x c'x  s.t.  row_low <= A x <= row_high,  low <= x <= high``.

    HiGHS's multipliers satisfy ``c = A'y + z`` with ``y, z >= 0`` at lower sides; the certificate's have the
    opposite sign. The answer is OPTIMAL only where the certificate recomputed from the problem is within
    ``options.tolerance``. ``options.time_limit`` [s] limits the solve; with a feasible point at the limit the
    answer is FEASIBLE.

    Raises:
        BackendUnavailable: without highspy.
    """
    highspy = _library()

    # Unpack.
    A = csc_matrix(problem.A)
    m, n = A.shape

    # Build.
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
    feasibility = max(MINIMUM_TOLERANCE, 0.1 * options.tolerance)
    highs.setOptionValue("primal_feasibility_tolerance", feasibility)
    highs.setOptionValue("dual_feasibility_tolerance", feasibility)
    if options.time_limit is not None:
        highs.setOptionValue("time_limit", options.time_limit)
    if highs.passModel(lp) == highspy.HighsStatus.kError:
        reason = "HiGHS rejected the model; check the size of its coefficients"
        return Solution.failed(Status.ERROR, NAME, reason)

    # Solve.
    started = time.perf_counter()
    highs.run()
    seconds = time.perf_counter() - started
    native = highs.getModelStatus()

    # Fill.
    status = STATUS.get(native.name, Status.ERROR)
    message = f"HiGHS ended with {native.name}"
    answer = highs.getSolution()
    if status not in (Status.OPTIMAL, Status.TIME_LIMIT) or not answer.value_valid:
        if status == Status.OPTIMAL:
            status = Status.ERROR
        return Solution.failed(status, NAME, message, seconds)
    x = np.array(answer.col_value, dtype=np.float64)
    x = np.clip(x, problem.low, problem.high)
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

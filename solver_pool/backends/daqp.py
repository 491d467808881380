"""Convex quadratic programs by DAQP, a dual active-set method: exact, and tens of microseconds when small."""

from __future__ import annotations

import ctypes
import time
from importlib import import_module
from types import ModuleType

import numpy as np

from solver_pool.errors import BackendUnavailable
from solver_pool.options import SolveOptions
from solver_pool.problem import QuadraticProgram
from solver_pool.solution import Solution, Status, certify_quadratic

NAME = "daqp"

STATUS: dict[int, Status] = {
    1: Status.OPTIMAL,
    -1: Status.INFEASIBLE,
    -3: Status.UNBOUNDED,
    -7: Status.TIME_LIMIT,
}
"""DAQP's exit flags; every other one (cycling, iteration limit, non-convex, overdetermined) is an ERROR."""

MESSAGES: dict[int, str] = {
    -1: "no point satisfies the rows and bounds",
    -2: "DAQP cycled; rescale the rows",
    -3: "the objective is unbounded",
    -4: "DAQP reached its iteration limit",
    -5: "P is not positive definite; add a multiple of the identity",
    -6: "the initial working set is overdetermined",
    -7: "the time limit came first",
}

INFINITE = 1e30
"""What DAQP takes for no bound."""

EQUALITY = 5
"""DAQP's `sense` of a bound pair that coincides: active, and never dropped."""


def _library() -> ModuleType:
    try:
        return import_module("daqp")
    except ImportError as error:
        raise BackendUnavailable(
            "daqp is missing. Install it with 'pip install daqp' or 'conda install -c conda-forge daqp'."
        ) from error


def solve(problem: QuadraticProgram, options: SolveOptions = SolveOptions()) -> Solution:
    """Solve ``min_x 1/2 x'P x + q'x  s.t.  G x <= h,  low <= x <= high``.

    The answer is OPTIMAL only where the certificate recomputed from the problem is within
    ``options.tolerance``; its bound is then the objective less the duality gap, as the program is convex.
    ``options.time_limit`` [s] limits the solve. A dual method holds no feasible point before it ends.

    Raises:
        BackendUnavailable: without daqp.

    Source: Arnstrom, Bemporad, Axehill, A dual active-set solver for embedded quadratic programming
    using recursive LDL' updates, IEEE TAC 67(8), 2022.
    """
    daqp = _library()

    # Unpack. DAQP's memory views are writable: read-only arrays (Ray's, for one) have to be copied.
    P, q, G = (np.array(a, dtype=np.float64) for a in (problem.P, problem.q, problem.G))
    n, m = q.shape[0], G.shape[0]

    # Build. Bounds first, rows after: one pair of arrays.
    upper = np.minimum(np.concatenate([problem.high, problem.h]), INFINITE)
    lower = np.maximum(np.concatenate([problem.low, np.full(m, -np.inf)]), -INFINITE)
    sense = np.zeros(n + m, dtype=ctypes.c_int)
    sense[:n][problem.low == problem.high] = EQUALITY
    # Its default admits violations of 1e-6, and measures them on normalised rows.
    settings = {"primal_tol": 1e-2 * options.tolerance}
    if options.time_limit is not None:
        settings["time_limit"] = options.time_limit

    # Solve.
    started = time.perf_counter()
    x, _, flag, info = daqp.solve(P, q, G, upper, lower, sense, **settings)
    seconds = time.perf_counter() - started

    # Fill.
    status = STATUS.get(flag, Status.ERROR)
    message = MESSAGES.get(flag, f"DAQP ended with exit flag {flag}")
    if status != Status.OPTIMAL:
        return Solution.failed(status, NAME, message, seconds)
    x = np.clip(x, problem.low, problem.high)
    multipliers = np.asarray(info["lam"], dtype=np.float64)
    certificate = certify_quadratic(problem, x, multipliers[n:], multipliers[:n])
    if not float(certificate.primal_residual) <= options.tolerance:
        reason = f"DAQP's point violates a row by {certificate.primal_residual:.1e}; rescale the rows"
        return Solution.failed(Status.ERROR, NAME, reason, seconds)
    proven = float(certificate.kkt_residual) <= options.tolerance
    objective = float(0.5 * x @ problem.P @ x + problem.q @ x)
    return Solution(
        status=Status.OPTIMAL if proven else Status.FEASIBLE,
        x=x,
        objective=objective,
        bound=objective - float(certificate.gap) if proven else -np.inf,
        certificate=certificate,
        solve_time=seconds,
        backend=NAME,
        iterations=int(info["iterations"]),
        message="" if proven else f"the first-order residual is {certificate.kkt_residual:.1e}",
    )

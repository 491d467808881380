"""Convex quadratic programs by DAQP, a dual active-set method: exact, and tens of microseconds when small."""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import overload

import numpy as np

from solver_pool.errors import BackendUnavailable
from solver_pool.options import SolveOptions
from solver_pool.problem import Array, QuadraticBatch, QuadraticProgram
from solver_pool.solution import BatchSolution, Solution, Status, certify_quadratic, verified_quadratic

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


@overload
def solve(problem: QuadraticProgram, options: SolveOptions = ...) -> Solution: ...
@overload
def solve(problem: QuadraticBatch, options: SolveOptions = ...) -> BatchSolution: ...
def solve(
    problem: QuadraticProgram | QuadraticBatch, options: SolveOptions = SolveOptions()
) -> Solution | BatchSolution:
    """Solve ``min_x 1/2 x'P x + q'x  s.t.  G x <= h,  low <= x <= high``; a batch one program after the other.

    The answer is OPTIMAL only where the certificate recomputed from the problem is within
    ``options.tolerance``; its bound is then the objective less the duality gap, as the program is convex.
    ``options.time_limit`` [s] limits each program. A dual method holds no feasible point before it ends.

    Raises:
        BackendUnavailable: without daqp.

    Source: Arnstrom, Bemporad, Axehill, A dual active-set solver for embedded quadratic programming
    using recursive LDL' updates, IEEE TAC 67(8), 2022.
    """
    daqp = _library()
    if isinstance(problem, QuadraticBatch):
        return _solve_batch(daqp, problem, options)
    started = time.perf_counter()
    raw = _run(daqp, problem.P, problem.q, problem.G, problem.h, problem.low, problem.high, options)
    seconds = time.perf_counter() - started

    # Fill.
    status = STATUS.get(raw.flag, Status.ERROR)
    message = MESSAGES.get(raw.flag, f"DAQP ended with exit flag {raw.flag}")
    if status != Status.OPTIMAL:
        return Solution.failed(status, NAME, message, seconds)
    x = raw.x
    certificate = certify_quadratic(problem, x, raw.row_duals, raw.bound_duals)
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
        iterations=raw.iterations,
        message="" if proven else f"the first-order residual is {certificate.kkt_residual:.1e}",
    )


@dataclass(frozen=True)
class _Raw:
    """DAQP's own answer: its exit flag, the point inside the bounds, and multipliers as `Solution` has them."""

    flag: int
    x: Array
    row_duals: Array
    bound_duals: Array
    iterations: int


def _run(
    daqp: ModuleType, P: Array, q: Array, G: Array, h: Array, low: Array, high: Array, options: SolveOptions
) -> _Raw:
    # Unpack. DAQP's memory views are writable: read-only arrays (Ray's, for one) have to be copied.
    P, q, G = (np.array(a, dtype=np.float64) for a in (P, q, G))
    n, m = q.shape[0], G.shape[0]

    # Build. Bounds first, rows after: one pair of arrays.
    upper = np.minimum(np.concatenate([high, h]), INFINITE)
    lower = np.maximum(np.concatenate([low, np.full(m, -np.inf)]), -INFINITE)
    sense = np.zeros(n + m, dtype=ctypes.c_int)
    sense[:n][low == high] = EQUALITY
    # Its default admits violations of 1e-6, and measures them on normalised rows.
    settings = {"primal_tol": 1e-2 * options.tolerance}
    if options.time_limit is not None:
        settings["time_limit"] = options.time_limit

    # Solve.
    x, _, flag, info = daqp.solve(P, q, G, upper, lower, sense, **settings)
    multipliers = np.asarray(info["lam"], dtype=np.float64)
    return _Raw(int(flag), np.clip(x, low, high), multipliers[n:], multipliers[:n], int(info["iterations"]))


def _solve_batch(daqp: ModuleType, problem: QuadraticBatch, options: SolveOptions) -> BatchSolution:
    # Unpack.
    size, n = problem.q.shape
    m = problem.n_rows
    P, G = np.broadcast_to(problem.P, (size, n, n)), np.broadcast_to(problem.G, (size, m, n))
    low, high = np.broadcast_to(problem.low, (size, n)), np.broadcast_to(problem.high, (size, n))
    x = np.full((size, n), np.nan)
    row_duals, bound_duals = np.zeros((size, m)), np.zeros((size, n))
    status = np.full(size, Status.ERROR, dtype=np.int8)
    iterations = np.zeros(size, dtype=np.int64)
    message = ""

    # Build and solve.
    started = time.perf_counter()
    for i in range(size):
        raw = _run(daqp, P[i], problem.q[i], G[i], problem.h[i], low[i], high[i], options)
        status[i], iterations[i] = STATUS.get(raw.flag, Status.ERROR), raw.iterations
        if status[i] == Status.OPTIMAL:
            # A row that is switched off has no multiplier but DAQP's rounding.
            row_duals[i] = np.where(np.isfinite(problem.h[i]), np.maximum(raw.row_duals, 0.0), 0.0)
            x[i], bound_duals[i] = raw.x, raw.bound_duals
        else:
            message = message or MESSAGES.get(raw.flag, f"DAQP ended with exit flag {raw.flag}")
    seconds = time.perf_counter() - started

    # Fill.
    return verified_quadratic(
        problem,
        x,
        row_duals,
        bound_duals,
        status,
        tolerance=options.tolerance,
        iterations=iterations,
        solve_time=seconds,
        backend=NAME,
        message=message or "DAQP's point violates a row by more than the tolerance; rescale the rows",
    )

"""The batch path for projections: thousands of small strictly convex QPs by a compiled dual active-set method."""

from __future__ import annotations

from time import perf_counter

import numpy as np

from solver_pool.backends import active_set_kernel as kernel
from solver_pool.backends import daqp
from solver_pool.backends.threads import in_slices
from solver_pool.errors import BackendUnavailable
from solver_pool.options import SolveOptions
from solver_pool.problem import QuadraticBatch
from solver_pool.solution import BatchSolution, Status, verified_quadratic

NAME = "active_set"

STATUS: dict[int, Status] = {
    kernel.SOLVED: Status.OPTIMAL,
    kernel.INFEASIBLE: Status.INFEASIBLE,
    kernel.NOT_DEFINITE: Status.ERROR,
    kernel.UNDECIDED: Status.ERROR,
}
"""How the kernel ends."""

MESSAGES: dict[int, str] = {
    kernel.INFEASIBLE: "no point satisfies the rows and bounds",
    kernel.NOT_DEFINITE: "P is not positive definite; add a multiple of the identity",
    kernel.UNDECIDED: "the active set did not settle; rescale the rows",
}

THREAD_MINIMUM = 512
"""Programs below which a second thread costs more than it saves."""


def solve(problem: QuadraticBatch, options: SolveOptions = SolveOptions()) -> BatchSolution:
    """Solve ``min_x 1/2 x'P_i x + q_i'x  s.t.  G_i x <= h_i,  low_i <= x <= high_i`` for every ``i``.

    The method is exact and finite: statuses are OPTIMAL where the certificate recomputed from the problem is
    within ``options.tolerance``, and INFEASIBLE where multipliers prove it. Programs that it could not settle,
    or whose certificate is not good enough, go to DAQP one by one. A program takes microseconds, and its
    steps are capped: ``options.time_limit`` [s] is for each of those that go to DAQP.

    Source: Goldfarb and Idnani, A numerically stable dual method for solving strictly convex quadratic
    programs, Mathematical Programming 27, 1983.
    """
    # Unpack.
    began = perf_counter()
    size, n = problem.q.shape
    m = problem.n_rows
    P, G = problem.P.reshape(-1, n, n), problem.G.reshape(-1, m, n) if m else np.empty((1, 0, n))
    low, high = problem.low.reshape(-1, n), problem.high.reshape(-1, n)

    # Build.
    x, row_duals, bound_duals = np.empty((size, n)), np.empty((size, m)), np.empty((size, n))
    ended, iterations = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64)

    def run(part: slice) -> None:
        def own(shared: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
            return shared if len(shared) == 1 else shared[part]

        kernel.solve_batch(
            own(P), problem.q[part], own(G), problem.h[part], own(low), own(high), options.tolerance,
            x[part], row_duals[part], bound_duals[part], ended[part], iterations[part],
        )  # fmt: skip

    # Solve.
    in_slices(run, size, THREAD_MINIMUM)

    # Fill.
    codes = np.array([STATUS[code] for code in range(len(STATUS))], dtype=np.int8)
    answer = verified_quadratic(
        problem,
        x,
        row_duals,
        bound_duals,
        codes[ended],
        tolerance=options.tolerance,
        iterations=iterations,
        solve_time=perf_counter() - began,
        backend=NAME,
        message=next((MESSAGES[int(code)] for code in ended[ended != kernel.SOLVED]), ""),
    )
    unsettled = np.flatnonzero((ended == kernel.UNDECIDED) | ((ended == kernel.SOLVED) & ~answer.certified))
    return _retried(problem, options, answer, unsettled) if unsettled.size else answer


def _retried(
    problem: QuadraticBatch,
    options: SolveOptions,
    answer: BatchSolution,
    which: np.ndarray,  # type: ignore[type-arg]
) -> BatchSolution:
    """The answer with the programs `which` solved by DAQP, where it ends better."""
    try:
        second = daqp.solve(problem[which], options)
    except BackendUnavailable:
        return answer
    better = (second.status <= answer.status[which]) | (second.status == Status.INFEASIBLE)
    at, use = which[better], np.flatnonzero(better)

    def merged(name: str) -> np.ndarray:  # type: ignore[type-arg]
        array = np.array(getattr(answer, name))
        array[at] = getattr(second, name)[use]
        return array

    return verified_quadratic(
        problem,
        merged("x"),
        merged("row_duals"),
        merged("bound_duals"),
        merged("status"),
        tolerance=options.tolerance,
        iterations=answer.iterations,
        solve_time=answer.solve_time + second.solve_time,
        backend=NAME,
        message=second.message or answer.message,
    )

"""Binary programs with one row, which need no MILP solver: compiled branch and bound, microseconds each."""

from __future__ import annotations

import time

import numpy as np
from scipy.sparse import issparse

from solver_pool.backends import highs
from solver_pool.backends import knapsack_kernel as kernel
from solver_pool.backends.rounding import violation
from solver_pool.errors import UnsupportedProblem
from solver_pool.options import SolveOptions
from solver_pool.problem import MixedIntegerProgram
from solver_pool.solution import Solution, Status, proven_by_bound

NAME = "knapsack"

BUDGET = 1_000_000
"""Nodes after which a program is given to HiGHS: about 0.2 s. Uncorrelated items need tens to thousands."""

ROUNDING = 1e-12
"""Relative, by which the kernel's sums may be off."""


def solve(problem: MixedIntegerProgram, options: SolveOptions = SolveOptions()) -> Solution:
    """Solve ``min c'x  s.t.  a'x <= b  (or >= b),  x_j in {0, 1}`` to a relative ``options.gap``, with a bound.

    An item whose weight is negative is replaced by its complement, one that only helps is taken, one that only
    hurts is left out; what remains is a knapsack with positive profits and weights. A search that its budget of
    nodes does not end goes to HiGHS, with ``options.time_limit`` [s].

    Raises:
        UnsupportedProblem: for any other form.
    """
    # Unpack.
    if not problem.is_knapsack:
        raise UnsupportedProblem(
            "backend: 'knapsack' takes binary programs with one one-sided row. Use backend='auto'."
        )
    began = time.perf_counter()
    a = problem.A.toarray()[0] if issparse(problem.A) else np.asarray(problem.A[0], dtype=np.float64)
    b = float(problem.row_high[0])
    if not np.isfinite(b):
        a, b = -a, -float(problem.row_low[0])

    # Build. ``flipped`` items are complements: x = 1 is their zero, and frees the row of a negative weight.
    flipped = np.where(problem.low == problem.high, problem.low, (a < 0.0).astype(np.float64))
    profit = np.where(flipped > 0, problem.c, -problem.c)
    weight, room = np.abs(a), b - float(a @ flipped)
    if room < -options.tolerance:
        return Solution.failed(Status.INFEASIBLE, NAME, "no selection satisfies the row")
    # Sums in another order than the row's may be off by rounding, and refuse an item that just fits.
    room = max(room, 0.0) + min(options.tolerance, ROUNDING * (abs(b) + float(weight.sum())))
    useful = (problem.low < problem.high) & (profit > 0.0)
    free, items = useful & (weight == 0.0), np.flatnonzero(useful & (weight > 0.0))
    with np.errstate(over="ignore"):  # weights may be denormal
        items = items[np.argsort(-profit[items] / weight[items], kind="stable")]
    offset = float(problem.c @ flipped) - float(profit[free].sum())
    chosen = np.empty(len(items))

    # Solve.
    record, bound, nodes = kernel.search(
        profit[items], weight[items], room, offset, 0.9 * options.gap, BUDGET, chosen
    )
    if nodes >= BUDGET:
        return highs.solve(problem, options)

    # Fill.
    moved = free.copy()
    moved[items[chosen > 0.0]] = True
    x = np.where(moved, 1.0 - flipped, flipped)
    scale = 1.0 + abs(offset) + abs(record)
    return proven_by_bound(
        Status.OPTIMAL,
        x,
        float(problem.c @ x),
        violation(problem, x),
        offset - bound - ROUNDING * scale,
        tolerance=options.tolerance,
        gap=options.gap,
        solve_time=time.perf_counter() - began,
        backend=NAME,
        iterations=int(nodes),
        message="the search ended",
    )

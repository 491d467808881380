"""The knapsack backend against enumeration in exact arithmetic and HiGHS, for every form and magnitude it takes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from solver_pool.backends import choose_backend, highs, knapsack, solve
from solver_pool.backends.rounding import violation
from solver_pool.errors import UnsupportedProblem
from solver_pool.options import SolveOptions
from solver_pool.pool import SolverPool
from solver_pool.problem import MixedIntegerProgram
from solver_pool.solution import Solution, Status

INF = np.inf
EXACT = SolveOptions(gap=0.0)


def row(c: Any, a: Any, low: float = -INF, high: float = INF) -> MixedIntegerProgram:
    """``min c'x  s.t.  low <= a'x <= high`` over binaries."""
    n = len(c)
    return MixedIntegerProgram(
        np.asarray(c, dtype=np.float64), np.asarray(a, dtype=np.float64).reshape(1, n), np.array([low]),
        np.array([high]), np.zeros(n), np.ones(n), np.ones(n, dtype=np.bool_),
    )  # fmt: skip


def drawn(seed: int, n: int) -> MixedIntegerProgram:
    """Costs and weights of both signs, some weights zero, some variables fixed; ``<=`` and ``>=`` in turn."""
    rng = np.random.default_rng(seed)
    c, a = rng.standard_normal(n), rng.standard_normal(n)
    if seed % 3 == 0:
        c, a = -np.abs(c), np.abs(a)  # the textbook's
    a[rng.random(n) < 0.1] = 0.0
    least, most = np.minimum(a, 0.0).sum(), np.maximum(a, 0.0).sum()
    side = float(least + rng.uniform(0.1, 0.9) * (most - least))
    problem = row(c, a, high=side) if seed % 2 else row(c, a, low=side)
    fixed, at = rng.random(n) < 0.15, rng.integers(0, 2, n)
    return replace(problem, low=np.where(fixed, at, 0.0), high=np.where(fixed, at, 1.0))


def selections(problem: MixedIntegerProgram) -> np.ndarray:
    """All points that satisfy bounds and row in rational numbers, ``(points, n)``."""
    values = [
        (low,) if low == high else (0.0, 1.0) for low, high in zip(problem.low, problem.high, strict=True)
    ]
    a = [Fraction(float(v)) for v in problem.A[0]]
    low, high = float(problem.row_low[0]), float(problem.row_high[0])
    feasible = []
    for x in itertools.product(*values):
        total = sum((w * Fraction(v) for w, v in zip(a, x, strict=True)), Fraction(0))
        if (low == -INF or total >= Fraction(low)) and (high == INF or total <= Fraction(high)):
            feasible.append(x)
    return np.array(feasible).reshape(len(feasible), len(values))


def optimum(problem: MixedIntegerProgram) -> float:
    """By enumeration; infinite if nothing is feasible."""
    points = selections(problem)
    return float((points @ problem.c).min()) if len(points) else INF


def assert_proven(solution: Solution, problem: MixedIntegerProgram, best: float, gap: float) -> None:
    """The point is feasible, its objective its own, the bound below the optimum, and their distance within the gap."""
    size = 1e-9 * (1.0 + float(np.abs(problem.c).sum()))
    assert (solution.status, solution.backend) == (Status.OPTIMAL, "knapsack"), solution.message
    assert violation(problem, solution.x) <= 1e-8
    assert solution.objective == float(problem.c @ solution.x)
    assert solution.bound <= best <= solution.objective + size
    assert solution.objective - solution.bound <= max(gap, 1e-8) * max(1.0, abs(solution.objective))


# --- Oracles ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gap", [0.0, 1e-3, 0.2])
@pytest.mark.parametrize("seed", range(24))
def test_the_answer_is_that_of_enumeration(seed: int, gap: float) -> None:
    problem = drawn(seed, 4 + seed % 7)
    best = optimum(problem)
    solution = knapsack.solve(problem, SolveOptions(gap=gap))
    if np.isinf(best):
        assert solution.status is Status.INFEASIBLE
        assert solution.x is None
        return
    assert_proven(solution, problem, best, gap)
    if gap == 0.0:
        assert solution.objective == pytest.approx(best, abs=1e-12)


def test_the_programs_that_are_enumerated_cover_every_form() -> None:
    problems = [drawn(seed, 4 + seed % 7) for seed in range(24)]
    assert any(np.isinf(optimum(p)) for p in problems), "infeasible"
    assert any((p.A == 0).any() for p in problems), "a weight of zero"
    assert any(((p.low == p.high) & (p.low == 1.0)).any() for p in problems), "fixed at one"
    assert any(((p.low == p.high) & (p.low == 0.0)).any() for p in problems), "fixed at zero"
    assert {bool(np.isfinite(p.row_high[0])) for p in problems} == {True, False}, "both directions"
    assert any(((p.c > 0) & (p.A[0] < 0)).any() for p in problems), "a cost for room"


@pytest.mark.parametrize("seed", range(8))
def test_the_optimum_is_that_of_highs(seed: int) -> None:
    problem = drawn(seed, 50)
    best = highs.solve(problem, EXACT)
    assert best.status is Status.OPTIMAL
    for gap in (0.0, 1e-3):
        solution = knapsack.solve(replace(problem, A=csr_matrix(problem.A)), SolveOptions(gap=gap))
        assert_proven(solution, problem, best.objective + 1e-9, gap)
        if gap == 0.0:
            assert solution.objective == pytest.approx(best.objective, abs=1e-9)


def test_a_gap_saves_nodes() -> None:
    problem = row(
        -np.arange(1.0, 41.0) - 7.3, np.arange(1.0, 41.0) + np.sqrt(2.0), high=400.5
    )  # all ratios alike
    exact, near = (knapsack.solve(problem, SolveOptions(gap=gap)) for gap in (0.0, 1e-2))
    assert near.iterations < exact.iterations
    assert exact.objective <= near.objective <= exact.objective * 0.99
    assert near.bound <= exact.objective


# --- Edges --------------------------------------------------------------------------------------------------


def test_a_selection_that_fills_the_row_to_the_last_digit_is_allowed() -> None:
    """Sums taken in another order differ by rounding; the point violates nothing, and HiGHS takes it."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        c, a = -rng.uniform(0.1, 1.0, 6), rng.uniform(0.1, 1.0, 6)
        problem = row(c, a, high=float(a.sum()))
        assert violation(problem, np.ones(6)) == 0.0
        assert highs.solve(problem, EXACT).objective == pytest.approx(c.sum())
        solution = knapsack.solve(problem, EXACT)
        assert solution.bound <= c.sum() + 1e-9, f"a bound above a value that is attained, seed {seed}"
        assert solution.objective == pytest.approx(c.sum())


def test_nothing_to_decide() -> None:
    assert knapsack.solve(row([], [], high=1.0), EXACT).objective == 0.0
    assert knapsack.solve(row([], [], high=-1.0), EXACT).status is Status.INFEASIBLE
    fixed = replace(row([2.0, -3.0], [1.0, 4.0], high=5.0), low=np.ones(2))
    np.testing.assert_array_equal(knapsack.solve(fixed, EXACT).x, np.ones(2))
    assert knapsack.solve(replace(fixed, row_high=np.array([4.5])), EXACT).status is Status.INFEASIBLE
    other = replace(
        fixed, low=np.array([3.0, 0.0]), high=np.array([3.0, 1.0])
    )  # fixed at 3, which is no binary
    np.testing.assert_array_equal(knapsack.solve(other, EXACT).x, [3.0, 0.0])


def test_free_items_are_taken_and_useless_ones_are_not() -> None:
    solution = knapsack.solve(row([-1.0, 1.0, 0.0, 2.0, -5.0], [0.0, 0.0, 1.0, 1.0, 9.0], high=8.0), EXACT)
    np.testing.assert_array_equal(solution.x, [1.0, 0.0, 0.0, 0.0, 0.0])
    assert solution.objective == -1.0
    assert solution.bound == pytest.approx(-1.0, abs=1e-10)


def test_a_cost_is_borne_only_where_the_row_asks_for_it() -> None:
    solution = knapsack.solve(row([3.0, 1.0, 2.0], [4.0, 1.0, 3.0], low=4.0), EXACT)
    assert solution.objective == 3.0
    assert solution.status is Status.OPTIMAL


magnitudes = st.one_of(
    st.floats(-3.0, 3.0),
    st.sampled_from([0.0, 5e-324, -5e-324, 1e-300, -1e-12, 1e12, -1e12, 1e150, -1e150, -1e300, 1e300]),
)


@settings(max_examples=150, deadline=None)
@given(
    items=st.lists(
        st.tuples(magnitudes, st.integers(-(2**40), 2**40) | st.integers(-3, 3)), min_size=1, max_size=7
    ),
    part=st.floats(0.0, 1.0),
    turned=st.booleans(),
)
def test_costs_of_any_magnitude_are_ordered_exactly(
    items: list[tuple[float, int]], part: float, turned: bool
) -> None:
    """Weights are integers, whose sums are exact: what is feasible is then no question of rounding."""
    c, a = np.array([cost for cost, _ in items]), np.array([float(weight) for _, weight in items])
    least, most = np.minimum(a, 0.0).sum(), np.maximum(a, 0.0).sum()
    side = float(np.floor(least + part * (most - least)))
    problem = row(c, a, low=side) if turned else row(c, a, high=side)
    best, rounding = (
        optimum(problem),
        1e-11 * float(np.abs(c).sum()),
    )  # costs that cancel leave their rounding
    for gap in (0.0, 1e-3):
        solution = knapsack.solve(problem, SolveOptions(gap=gap))
        allowed = max(gap, 1e-8) * max(1.0, abs(solution.objective))
        assert (solution.status is Status.OPTIMAL) == (solution.objective - solution.bound <= allowed)
        assert solution.status.usable, solution.message
        assert violation(problem, solution.x) == 0.0
        assert solution.bound <= best <= solution.objective + rounding
        assert solution.objective - solution.bound <= allowed + rounding


@settings(max_examples=150, deadline=None)
@given(
    items=st.lists(st.tuples(st.floats(-3.0, 3.0), magnitudes), min_size=1, max_size=7),
    part=st.floats(0.0, 1.0),
)
def test_weights_of_any_magnitude_leave_the_bound_valid(
    items: list[tuple[float, float]], part: float
) -> None:
    """Against points that stay clear of the row by more than rounding; a claim of optimality is a feasible point."""
    c, a = np.array([cost for cost, _ in items]), np.array([weight for _, weight in items])
    least, most = np.minimum(a, 0.0).sum(), np.maximum(a, 0.0).sum()
    problem = row(c, a, high=float(least + part * (most - least)))
    clear = replace(problem, row_high=problem.row_high - 1e-12 * np.abs(a).sum())
    solution = knapsack.solve(problem, EXACT)
    if solution.status.usable:
        assert violation(problem, solution.x) <= 1e-8
        assert solution.bound <= optimum(clear) + 1e-9


# --- Who solves it, and what is refused -----------------------------------------------------------------------

PLAIN = row([-1.0, -2.0, -3.0], [1.0, 2.0, 3.0], high=4.0)
OTHERS = {
    "two rows": replace(PLAIN, A=np.ones((2, 3)), row_low=np.full(2, -INF), row_high=np.ones(2)),
    "no row": replace(PLAIN, A=np.ones((0, 3)), row_low=np.zeros(0), row_high=np.zeros(0)),
    "a row with two sides": replace(PLAIN, row_low=np.array([1.0])),
    "an equation": replace(PLAIN, row_low=np.array([3.0]), row_high=np.array([3.0])),
    "a row without sides": replace(PLAIN, row_high=np.array([INF])),
    "a continuous variable": replace(PLAIN, integer=np.array([True, True, False])),
    "an integer": replace(PLAIN, high=np.array([1.0, 2.0, 1.0])),
    "a sign": replace(PLAIN, low=np.array([-1.0, 0.0, 0.0])),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_forms_go_to_highs_and_are_refused_here(name: str) -> None:
    problem = OTHERS[name]
    assert choose_backend(problem, SolveOptions()) == "highs"
    assert solve(problem).backend == "highs"
    with pytest.raises(UnsupportedProblem, match=r"'knapsack' takes binary programs .*Use backend='auto'"):
        solve(problem, SolveOptions(backend="knapsack"))


def test_knapsacks_go_to_the_knapsack_backend() -> None:
    fixed = replace(PLAIN, low=np.array([0.0, 1.0, 0.0]))
    turned = row([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], low=4.0)
    for problem in (PLAIN, fixed, turned, replace(PLAIN, A=csr_matrix(PLAIN.A))):
        assert choose_backend(problem, SolveOptions()) == "knapsack"
        assert solve(problem).objective == highs.solve(problem, EXACT).objective
        assert choose_backend(problem, SolveOptions(backend="highs")) == "highs"


def test_a_variable_fixed_between_whole_numbers_is_infeasible_to_every_backend() -> None:
    problem = replace(PLAIN, low=np.array([0.5, 0.0, 0.0]), high=np.array([0.5, 1.0, 1.0]))
    assert highs.solve(problem, EXACT).status is Status.INFEASIBLE
    assert solve(problem, EXACT).status is Status.INFEASIBLE


def test_a_search_beyond_its_budget_ends_in_highs(monkeypatch: pytest.MonkeyPatch) -> None:
    problems = [drawn(seed, 12) for seed in range(1, 13, 2)]
    before = [knapsack.solve(problem, EXACT) for problem in problems]
    monkeypatch.setattr(knapsack, "BUDGET", 5)
    after = [knapsack.solve(problem, EXACT) for problem in problems]
    assert [s.backend for s in before] == ["knapsack"] * 6
    assert {s.backend for s in after if s.status is Status.OPTIMAL} == {"highs"}
    for one, other in zip(before, after, strict=True):
        assert one.status is other.status
        if one.status is Status.OPTIMAL:
            assert other.objective == pytest.approx(one.objective, abs=1e-9)


def test_the_pool_solves_and_counts_them() -> None:
    problems = [drawn(seed, 10) for seed in range(12)]
    with SolverPool() as pool:
        answers = pool.solve(problems, EXACT)
        counts = pool.drain()
    for problem, answer in zip(problems, answers, strict=True):
        direct = knapsack.solve(problem, EXACT)
        assert (answer.status, answer.backend) == (direct.status, "knapsack")
        if direct.x is not None:
            np.testing.assert_array_equal(answer.x, direct.x)
    assert counts["knapsack/solves"] == 12

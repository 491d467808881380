"""Linear programs: HiGHS against the reference problems, known optima, and the ways to have no answer."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest
from scipy import sparse

from solver_pool.backends import highs, solve
from solver_pool.errors import BackendUnavailable, InvalidProblem
from solver_pool.options import SolveOptions
from solver_pool.problem import LinearProgram
from solver_pool.solution import Status, certify_linear
from tests.solver_pool.reference_problems import random_linear

INF = np.inf


def vertices_optimum(problem: LinearProgram) -> float:
    """The optimum of a bounded LP in two variables, by trying every crossing of two constraints."""
    lines = np.concatenate([problem.A, problem.A, np.eye(2), np.eye(2)])
    sides = np.concatenate([problem.row_low, problem.row_high, problem.low, problem.high])
    best = INF
    for i in range(len(lines)):
        for j in range(i):
            pair = lines[[i, j]]
            if not np.isfinite(sides[[i, j]]).all() or abs(np.linalg.det(pair)) < 1e-9:
                continue
            x = np.linalg.solve(pair, sides[[i, j]])
            rows = problem.A @ x
            slack = np.concatenate(
                [rows - problem.row_low, problem.row_high - rows, x - problem.low, problem.high - x]
            )
            if slack.min() >= -1e-9:
                best = min(best, float(problem.c @ x))
    return best


@pytest.mark.parametrize(("n", "m"), [(1, 0), (1, 1), (2, 3), (5, 4), (20, 15), (40, 10)])
@pytest.mark.parametrize("seed", range(4))
def test_reference_problems_are_solved_with_multipliers(seed: int, n: int, m: int) -> None:
    problem = random_linear(seed, n, m)
    solution = solve(problem)
    assert solution.status is Status.OPTIMAL
    assert solution.certificate.kkt_residual <= 1e-8
    assert solution.bound == pytest.approx(solution.objective, abs=1e-7)
    assert solution.objective == pytest.approx(float(problem.c @ solution.x))


@pytest.mark.parametrize("seed", range(10))
def test_two_variables_agree_with_the_best_vertex(seed: int) -> None:
    problem = random_linear(seed, 2, 2)
    assert solve(problem).objective == pytest.approx(vertices_optimum(problem), abs=1e-7)


def test_sparse_rows_give_what_dense_ones_give() -> None:
    dense = random_linear(3, 8, 6)
    thin = LinearProgram(
        dense.c, sparse.csr_matrix(dense.A), dense.row_low, dense.row_high, dense.low, dense.high
    )
    assert solve(thin).objective == pytest.approx(solve(dense).objective, abs=1e-9)


def test_multipliers_have_the_documented_sign() -> None:
    # max x0 + 2 x1 with x0 + x1 <= 1 from a row, x1 <= 0.25 from the box.
    problem = LinearProgram([-1.0, -2.0], np.array([[1.0, 1.0]]), [-INF], [1.0], [0.0, 0.0], [1.0, 0.25])
    solution = solve(problem)
    assert solution.x == pytest.approx([0.75, 0.25])
    right = certify_linear(problem, solution.x, np.array([1.0]), np.array([0.0, 1.0]))
    wrong = certify_linear(problem, solution.x, np.array([-1.0]), np.array([0.0, -1.0]))
    assert right.kkt_residual <= 1e-12 < 0.1 < wrong.kkt_residual
    assert solution.certificate.kkt_residual <= 1e-12


@pytest.mark.parametrize(
    ("problem", "status"),
    [
        (LinearProgram([1.0], np.array([[1.0]]), [3.0], [INF], [0.0], [1.0]), Status.INFEASIBLE),
        (
            LinearProgram([0.0], np.array([[1.0], [1.0]]), [1.0, -INF], [INF, 0.5], [-INF], [INF]),
            Status.INFEASIBLE,
        ),
        (
            LinearProgram([-1.0, 1.0], np.array([[1.0, -1.0]]), [-1.0], [1.0], [0.0, 0.0], [INF, INF]),
            Status.OPTIMAL,
        ),
        (
            LinearProgram([-1.0, 0.0], np.array([[1.0, -1.0]]), [-1.0], [1.0], [0.0, 0.0], [INF, INF]),
            Status.UNBOUNDED,
        ),
        (LinearProgram([-1.0], np.zeros((0, 1)), [], [], [0.0], [INF]), Status.UNBOUNDED),
        (LinearProgram([-1.0], np.zeros((0, 1)), [], [], [0.0], [2.0]), Status.OPTIMAL),
    ],
)
def test_every_outcome_has_its_status(problem: LinearProgram, status: Status) -> None:
    solution = solve(problem)
    assert solution.status is status
    assert (solution.x is None) == (status is not Status.OPTIMAL)
    if status is not Status.OPTIMAL:
        assert np.isnan(solution.objective)
        assert solution.message


def large_program() -> LinearProgram:
    rng = np.random.default_rng(0)
    A = sparse.random(4000, 3000, density=0.02, random_state=1, format="csc")
    return LinearProgram(
        rng.normal(size=3000), A, np.full(4000, -INF), np.ones(4000), -np.ones(3000), np.ones(3000)
    )


def test_a_time_limit_limits() -> None:
    problem = large_program()
    started = time.perf_counter()
    solution = solve(problem, SolveOptions(time_limit=0.05))
    assert time.perf_counter() - started < 2.0
    assert solution.status in (Status.TIME_LIMIT, Status.FEASIBLE)
    assert "TimeLimit" in solution.message


def test_an_unknown_code_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(highs, "STATUS", {})
    solution = solve(random_linear(0, 3, 2))
    assert solution.status is Status.ERROR
    assert solution.x is None
    assert "kOptimal" in solution.message


def test_without_the_library_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highspy", None)
    with pytest.raises(BackendUnavailable, match="pip install highspy"):
        solve(random_linear(0, 3, 2))


@pytest.mark.parametrize("field", ["c", "A", "row_low", "low"])
def test_nan_is_refused_by_name(field: str) -> None:
    good = random_linear(0, 3, 2)
    data = {name: np.array(getattr(good, name)) for name in ("c", "A", "row_low", "row_high", "low", "high")}
    data[field].flat[0] = np.nan
    with pytest.raises(InvalidProblem, match=field):
        LinearProgram(**data)

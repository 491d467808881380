"""Quadratic programs: DAQP against the reference problems, projections in closed form, and failures."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest

from solver_pool.backends import daqp, solve
from solver_pool.errors import BackendUnavailable, InvalidProblem, UnsupportedProblem
from solver_pool.options import SolveOptions
from solver_pool.problem import QuadraticProgram
from solver_pool.solution import Status
from tests.solver_pool.reference_problems import random_quadratic

INF = np.inf


def projection(
    point: list[float], G: list[list[float]], h: list[float], low: float, high: float
) -> QuadraticProgram:
    n = len(point)
    rows = np.array(G).reshape(-1, n)
    return QuadraticProgram(np.eye(n), -np.array(point), rows, h, np.full(n, low), np.full(n, high))


@pytest.mark.parametrize("n", range(1, 7))
@pytest.mark.parametrize("m", [0, 1, 3, 9])
@pytest.mark.parametrize("seed", range(5))
def test_reference_problems_are_solved_to_rounding(seed: int, n: int, m: int) -> None:
    problem = random_quadratic(seed, n, m)
    solution = solve(problem)
    assert solution.status is Status.OPTIMAL
    assert solution.certificate.kkt_residual <= 1e-11
    assert solution.objective - 1e-10 <= solution.bound <= solution.objective
    assert (solution.x >= problem.low).all()
    assert (solution.x <= problem.high).all()


@pytest.mark.parametrize("seed", range(8))
def test_no_feasible_point_of_a_dense_grid_is_better(seed: int) -> None:
    problem = random_quadratic(seed, 2, 3)
    axis = np.linspace(-1.0, 1.0, 401)
    points = np.stack([a.ravel() for a in np.meshgrid(axis, axis)], axis=1)
    points = points[(points @ problem.G.T <= problem.h).all(axis=1)]
    best = (0.5 * np.einsum("bi,ij,bj->b", points, problem.P, points) + points @ problem.q).min()
    objective = solve(problem).objective
    assert objective <= best + 1e-12
    assert objective >= best - 0.05 * (1.0 + abs(best))


@pytest.mark.parametrize(
    ("problem", "answer"),
    [
        (projection([3.0, 0.2], [], [], -1.0, 1.0), [1.0, 0.2]),
        (projection([1.0, 1.0], [[1.0, 1.0]], [1.0], -INF, INF), [0.5, 0.5]),
        (projection([2.0, 0.0], [[1.0, 0.0], [-1.0, 0.0]], [1.0, -1.0], -5.0, 5.0), [1.0, 0.0]),
        (projection([0.3, -0.4], [[1.0, 1.0]], [INF], -1.0, 1.0), [0.3, -0.4]),
        (projection([0.3, -0.4], [[1.0, 1.0]], [1.0], 0.25, 0.25), [0.25, 0.25]),
    ],
)
def test_projections_known_in_closed_form(problem: QuadraticProgram, answer: list[float]) -> None:
    solution = solve(problem)
    assert solution.status is Status.OPTIMAL
    assert solution.x == pytest.approx(answer, abs=1e-12)


@pytest.mark.parametrize("gap", [1e-5, 0.1, 10.0])
def test_an_empty_set_has_no_point(gap: float) -> None:
    problem = projection([0.0, 0.0], [[1.0, 0.0], [-1.0, 0.0]], [0.0, -gap], -50.0, 50.0)
    solution = solve(problem)
    assert solution.status is Status.INFEASIBLE
    assert solution.x is None
    assert np.isnan(solution.objective)
    assert solution.message


def test_rows_beyond_the_box_are_infeasible() -> None:
    assert solve(projection([0.0, 0.0], [[1.0, 1.0]], [-3.0], -1.0, 1.0)).status is Status.INFEASIBLE


def test_an_indefinite_matrix_is_an_error_with_its_remedy() -> None:
    problem = QuadraticProgram(-np.eye(2), np.zeros(2), np.zeros((0, 2)), [], -np.ones(2), np.ones(2))
    solution = solve(problem)
    assert solution.status is Status.ERROR
    assert solution.x is None
    assert "not positive definite" in solution.message


def test_read_only_arrays_are_taken() -> None:
    problem = random_quadratic(1, 3, 4)
    for name in ("P", "q", "G", "h", "low", "high"):
        getattr(problem, name).flags.writeable = False
    assert solve(problem).status is Status.OPTIMAL


def test_a_time_limit_limits() -> None:
    rng = np.random.default_rng(0)
    n, m = 400, 3000
    problem = QuadraticProgram(
        np.eye(n), 10.0 * rng.normal(size=n), rng.normal(size=(m, n)), 0.1 * np.abs(rng.normal(size=m)),
        -np.ones(n), np.ones(n),
    )  # fmt: skip
    started = time.perf_counter()
    solution = solve(problem, SolveOptions(time_limit=0.02))
    assert time.perf_counter() - started < 1.5  # about 3 s without a limit
    assert solution.status is Status.TIME_LIMIT
    assert solution.x is None


def test_an_unknown_code_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daqp, "STATUS", {})
    assert solve(random_quadratic(0, 3, 2)).status is Status.ERROR


def test_without_the_library_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "daqp", None)
    with pytest.raises(BackendUnavailable, match="pip install daqp"):
        solve(random_quadratic(0, 3, 2))


def test_another_kind_of_problem_is_refused() -> None:
    with pytest.raises(UnsupportedProblem, match="LinearProgram"):
        solve(random_quadratic(0, 3, 2), SolveOptions(backend="highs"))


@pytest.mark.parametrize("field", ["P", "q", "G", "h", "low"])
def test_nan_is_refused_by_name(field: str) -> None:
    good = random_quadratic(0, 3, 2)
    data = {name: np.array(getattr(good, name)) for name in ("P", "q", "G", "h", "low", "high")}
    data[field].flat[0] = np.nan
    with pytest.raises(InvalidProblem, match=field):
        QuadraticProgram(**data)

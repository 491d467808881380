"""The batch path for projections: equal to DAQP program by program, degenerate ones and empty sets included."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver_pool.backends import active_set, daqp, solve
from solver_pool.backends import active_set_kernel as kernel
from solver_pool.backends.threads import in_slices
from solver_pool.errors import BackendUnavailable, InvalidProblem
from solver_pool.options import SolveOptions
from solver_pool.problem import LinearProgram, QuadraticBatch, QuadraticProgram
from solver_pool.solution import BatchSolution, Status, certify_batch, certify_quadratic
from tests.solver_pool.reference_problems import BATCH_KINDS, random_quadratic_batch

INF = np.inf
FAST, REFERENCE = SolveOptions(backend="active_set"), SolveOptions(backend="daqp")


def one_of(problem: QuadraticBatch, i: int) -> QuadraticProgram:
    """Program `i` of the batch."""
    return QuadraticProgram(
        problem.P if problem.P.ndim == 2 else problem.P[i],
        problem.q[i],
        problem.G if problem.G.ndim == 2 else problem.G[i],
        problem.h[i],
        problem.low if problem.low.ndim == 1 else problem.low[i],
        problem.high if problem.high.ndim == 1 else problem.high[i],
    )


def agree(problem: QuadraticBatch, one: BatchSolution, other: BatchSolution) -> None:
    assert one.status.tolist() == other.status.tolist(), (one.message, other.message)
    assert (np.isnan(one.x).all(axis=1) == ~one.usable).all()
    assert one.x[one.usable] == pytest.approx(other.x[one.usable], abs=1e-9)
    assert one.objective[one.usable] == pytest.approx(other.objective[one.usable], abs=1e-9)
    assert (one.row_duals >= 0.0).all()
    # Certificate, bound and gap are the problem's own, recomputed here.
    objective, certificate = certify_batch(problem, one.x, one.row_duals, one.bound_duals, one.bound)
    assert np.asarray(certificate.kkt_residual)[one.usable].max(initial=0.0) <= 1e-11
    assert objective[one.usable] == pytest.approx(one.objective[one.usable], abs=1e-13)
    gap = np.asarray(one.certificate.gap)[one.certified]
    assert gap == pytest.approx((one.objective - one.bound)[one.certified], abs=1e-12)
    assert gap.max(initial=0.0) <= 1e-9


@pytest.mark.parametrize("kind", BATCH_KINDS)
@pytest.mark.parametrize(("n", "m"), [(1, 0), (1, 3), (2, 4), (3, 9), (6, 12), (12, 4), (20, 50)])
def test_reference_batches_equal_daqp(kind: str, n: int, m: int) -> None:
    problem = random_quadratic_batch(0, 100, n, m, kind)
    fast = solve(problem, FAST)
    agree(problem, fast, solve(problem, REFERENCE))
    if kind == "infeasible" and m >= 9:
        assert 10 <= (fast.status == Status.INFEASIBLE).sum() <= 90
    elif kind != "infeasible":
        assert fast.certified.all(), fast.message


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 100_000),
    n=st.integers(1, 8),
    m=st.integers(0, 16),
    kind=st.sampled_from(BATCH_KINDS),
)
def test_any_batch_equals_daqp(seed: int, n: int, m: int, kind: str) -> None:
    problem = random_quadratic_batch(seed, 4, n, m, kind)
    agree(problem, solve(problem, FAST), solve(problem, REFERENCE))


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 3),
    coefficients=st.lists(st.integers(-2, 2), min_size=12, max_size=12),
    limits=st.lists(st.integers(-2, 3), min_size=4, max_size=4),
    point=st.lists(st.integers(-3, 3), min_size=3, max_size=3),
)
def test_small_integers_make_every_degeneracy_and_the_answer_is_exact(
    n: int, coefficients: list[int], limits: list[int], point: list[int]
) -> None:
    G = np.array(coefficients, dtype=np.float64).reshape(4, 3)[:, :n]
    problem = QuadraticBatch(
        np.eye(n), -np.array([point[:n]], dtype=np.float64), G, np.array([limits], dtype=np.float64),
        -np.ones(n), np.ones(n),
    )  # fmt: skip
    answer = solve(problem, FAST)
    # Feasibility by linear programming, optimality by the certificate.
    lp = LinearProgram(np.zeros(n), G, np.full(4, -INF), problem.h[0], -np.ones(n), np.ones(n))
    expected = Status.OPTIMAL if solve(lp).status is Status.OPTIMAL else Status.INFEASIBLE
    assert answer.status[0] == expected
    if expected is Status.OPTIMAL:
        certificate = certify_quadratic(
            one_of(problem, 0), answer.x[0], answer.row_duals[0], answer.bound_duals[0]
        )
        assert certificate.kkt_residual <= 1e-13


def test_the_kernel_settles_them_all_without_daqp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "daqp", None)
    for kind in BATCH_KINDS:
        problem = random_quadratic_batch(3, 200, 4, 10, kind)
        assert (solve(problem, FAST).status != Status.ERROR).all(), kind


@pytest.mark.parametrize("backend", ["active_set", "daqp"])
@pytest.mark.parametrize(
    ("point", "G", "h", "low", "high", "answer"),
    [
        ([3.0, 0.2], [], [], -1.0, 1.0, [1.0, 0.2]),
        ([1.0, 1.0], [[1.0, 1.0]], [1.0], -INF, INF, [0.5, 0.5]),
        ([2.0, 0.0], [[1.0, 0.0], [-1.0, 0.0]], [1.0, -1.0], -5.0, 5.0, [1.0, 0.0]),
        ([0.3, -0.4], [[1.0, 1.0]], [INF], -1.0, 1.0, [0.3, -0.4]),
        ([0.3, -0.4], [[1.0, 1.0]], [1.0], 0.25, 0.25, [0.25, 0.25]),
        ([2.0, 2.0], [[1.0, 0.0]] * 3 + [[1.0, 1e-9]], [1.0] * 4, -5.0, 5.0, [1.0 - 2e-9, 2.0 - 1e-9]),
        ([0.5, 0.5], [[0.0, 0.0]], [0.0], -1.0, 1.0, [0.5, 0.5]),
    ],
)
def test_projections_known_in_closed_form(
    backend: str, point: list[float], G: list[list[float]], h: list[float], low: float, high: float,
    answer: list[float],
) -> None:  # fmt: skip
    rows = np.array(G).reshape(-1, 2)
    problem = QuadraticBatch(
        np.eye(2), -np.array([point]), rows, np.array([h]), np.full(2, low), np.full(2, high)
    )
    solution = solve(problem, SolveOptions(backend=backend))
    assert solution.certified.all(), solution.message
    assert solution.x[0] == pytest.approx(answer, abs=1e-12)


@pytest.mark.parametrize("backend", ["active_set", "daqp"])
@pytest.mark.parametrize(
    ("G", "h"),
    [
        ([[1.0, 0.0], [-1.0, 0.0]], [0.0, -1e-5]),
        ([[1.0, 1.0]], [-3.0]),  # beyond the box
        ([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], [0.0, 0.0, -0.5]),  # three rows together
    ],
)
def test_an_empty_set_leaves_the_others_alone(backend: str, G: list[list[float]], h: list[float]) -> None:
    limits = np.full((3, len(h)), INF)
    limits[1] = h
    q = np.array([[-0.3, 0.4]] * 3)
    problem = QuadraticBatch(np.eye(2), q, np.array(G), limits, -np.ones(2), np.ones(2))
    solution = solve(problem, SolveOptions(backend=backend))
    assert solution.status.tolist() == [Status.OPTIMAL, Status.INFEASIBLE, Status.OPTIMAL]
    assert solution.x[[0, 2]] == pytest.approx(-q[[0, 2]])
    assert np.isnan(solution.x[1]).all()
    assert solution.bound[1] == INF
    assert solution[1].x is None
    assert solution[1].message


@pytest.mark.parametrize("shared", [True, False])
def test_an_indefinite_matrix_is_an_error_with_its_remedy(shared: bool) -> None:
    P = np.array([np.eye(2), np.diag([1.0, -1.0]), np.diag([1.0, 0.0])])
    bad = QuadraticBatch(
        P[1] if shared else P, np.ones((3, 2)), np.zeros((0, 2)), np.zeros((3, 0)), -np.ones(2), np.ones(2)
    )
    solution = solve(bad, FAST)
    assert solution.status.tolist() == [Status.ERROR if shared else Status.OPTIMAL, *[Status.ERROR] * 2]
    assert "not positive definite" in solution.message
    assert np.isnan(solution.x[1:]).all()


@pytest.mark.parametrize("kind", BATCH_KINDS)
def test_an_answer_does_not_depend_on_its_batch_or_thread(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = random_quadratic_batch(5, 60, 3, 6, kind)
    whole = solve(problem, FAST)
    parts = BatchSolution.concatenate([solve(problem[slice(a, a + 20)], FAST) for a in (0, 20, 40)])
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(active_set, "THREAD_MINIMUM", 8)
    threaded = solve(problem, FAST)
    for other in (parts, threaded):
        assert other.status.tolist() == whole.status.tolist()
        np.testing.assert_array_equal(other.x, whole.x)
        np.testing.assert_array_equal(other.row_duals, whole.row_duals)
    # The threads did share the work: two slices that together are the whole.
    seen: list[slice] = []
    in_slices(seen.append, 60, 8)
    assert sorted((s.start, s.stop) for s in seen) == [(0, 30), (30, 60)]


def test_what_the_kernel_cannot_settle_goes_to_daqp(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = random_quadratic_batch(1, 12, 3, 6, "infeasible")
    reference = solve(problem, FAST)
    native = kernel.solve_batch

    def stalled(*arguments: np.ndarray) -> None:
        native(*arguments)
        x, ended = arguments[7], arguments[10]
        ended[::2], x[::2] = kernel.UNDECIDED, np.nan
        x[1::4] += 0.05  # a wrong point, which the certificate has to notice

    monkeypatch.setattr(kernel, "solve_batch", stalled)
    retried = solve(problem, FAST)
    assert retried.status.tolist() == reference.status.tolist()
    usable = reference.usable
    assert retried.x[usable] == pytest.approx(reference.x[usable], abs=1e-9)
    monkeypatch.setitem(sys.modules, "daqp", None)
    alone = solve(problem, FAST)
    assert (alone.status[::2] == Status.ERROR).all()
    assert not alone.certified[1::4].any()
    assert "rescale" in alone.message


@pytest.mark.parametrize(("high", "expected"), [(1.0, True), (2.0, False), (3.0, False), (INF, False)])
def test_only_a_contradiction_proves_that_there_is_no_point(high: float, expected: bool) -> None:
    # x >= 2 as a row, against the upper bound, which is active with weight -1.
    rows, limits, low, upper = np.array([[-1.0]]), np.array([-2.0]), np.array([-5.0]), np.array([high])
    active, weights = np.array([1]), np.array([-1.0])
    for count in (0, 1):  # by the box alone, or by the active bound
        if high < INF or count == 0:
            assert expected == kernel._proves_infeasible(
                2, count, active, weights, np.ones(1), rows, limits, low, upper, np.empty(1), np.empty(1)
            )


def test_badly_scaled_programs_are_certified_or_not_called_optimal() -> None:
    rng = np.random.default_rng(0)
    size, n, m = 200, 4, 6
    root = rng.normal(size=(size, n, n)) * 10.0 ** rng.uniform(-3, 3, size=(size, 1, n))
    G = rng.normal(size=(size, m, n)) * 10.0 ** rng.uniform(-4, 4, size=(size, m, 1))
    problem = QuadraticBatch(
        root @ root.transpose(0, 2, 1) + 1e-6 * np.eye(n), rng.normal(size=(size, n)), G,
        np.abs(G).sum(axis=2) * rng.uniform(0.0, 0.3, size=(size, m)), -np.ones(n), np.ones(n),
    )  # fmt: skip
    solution = solve(problem, FAST)
    assert solution.usable.all(), solution.message
    assert solution.certified.mean() >= 0.95
    kkt = np.asarray(solution.certificate.kkt_residual)
    assert (solution.certified == (kkt <= 1e-8)).all()


def test_empty_batches_and_the_default_backend() -> None:
    problem = random_quadratic_batch(0, 3, 2, 2, "plain")
    for options in (FAST, REFERENCE):
        assert len(solve(problem[slice(0, 0)], options)) == 0
    assert solve(problem).backend == "active_set"


def test_the_batch_of_daqp_is_daqp_one_by_one() -> None:
    problem = random_quadratic_batch(8, 10, 3, 5, "infeasible")
    batch = solve(problem, REFERENCE)
    for i in range(len(problem)):
        single = solve(one_of(problem, i), REFERENCE)
        assert batch[i].status is single.status
        if single.x is not None:
            assert batch.x[i] == pytest.approx(single.x, abs=1e-12)
            assert batch.bound[i] == pytest.approx(single.bound, abs=1e-12)


def test_without_the_library_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "daqp", None)
    with pytest.raises(BackendUnavailable, match="pip install daqp"):
        solve(random_quadratic_batch(0, 2, 2, 2, "plain"), REFERENCE)


def test_a_time_limit_limits_each_program_of_daqp() -> None:
    problem = random_quadratic_batch(0, 3, 20, 50, "plain")
    hurried = solve(problem, replace(REFERENCE, time_limit=1e-9))
    assert (hurried.status == Status.TIME_LIMIT).any()
    assert hurried.message == daqp.MESSAGES[-7]


@pytest.mark.parametrize("field", ["P", "q", "G", "h", "low"])
@pytest.mark.parametrize("harm", ["nan", "shape"])
def test_bad_input_is_refused_by_name(field: str, harm: str) -> None:
    good = random_quadratic_batch(0, 3, 2, 4, "plain")
    value = np.array(getattr(good, field))
    value = (
        value[..., :-1] if harm == "shape" else np.where(np.arange(value.size) == 0, np.nan, value.ravel())
    )
    # A linear term that is one number short makes the others one number too long.
    named = "P" if (field, harm) == ("q", "shape") else field
    with pytest.raises(InvalidProblem) as error:
        replace(good, **{field: value if harm == "shape" else value.reshape(getattr(good, field).shape)})
    assert error.value.field == named

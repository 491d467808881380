"""Mixed-integer and nonlinear programs: starts, limits, codes, seeds, and models that cannot be taken."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pyomo.environ as pyo
import pytest

from solver_pool.backends import choose_backend, highs, ipopt, scip, solve
from solver_pool.backends.composed_program import FUNCTIONS, ComposedProgram
from solver_pool.backends.rounding import violation, whole
from solver_pool.errors import BackendUnavailable, InvalidProblem, UnsupportedProblem
from solver_pool.options import SolveOptions
from solver_pool.problem import MixedIntegerProgram, NonlinearProgram
from solver_pool.solution import Status, certify_mixed_integer, proven_by_bound
from tests.solver_pool.reference_problems import (
    REFERENCES,
    circle_packing,
    facilities,
    knapsack,
    market_split,
    random_linear,
)

MILP = ("highs", "scip")
INF = np.inf


def model(text: str, start: float = 0.7) -> Any:
    """A model with one variable ``x`` and the objective `text`."""
    m = pyo.ConcreteModel()
    m.x = pyo.Var(initialize=start, bounds=(-3.0, 3.0))
    m.cost = pyo.Objective(expr=eval(text, {"pyo": pyo, "x": m.x}))
    return m


# --- Limits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", MILP)
def test_a_time_limit_limits_a_milp_and_its_bound_is_honest(backend: str) -> None:
    problem = market_split(0, 40, 5)
    started = time.perf_counter()
    solution = solve(problem, SolveOptions(backend=backend, time_limit=1.0))
    assert time.perf_counter() - started < 2.5  # minutes and more without a limit
    assert solution.status is Status.FEASIBLE, solution.message
    assert violation(problem, solution.x) <= 1e-8
    assert solution.objective >= 0.0
    assert solution.bound <= solution.objective - 1e-4
    assert solution.certificate.gap == pytest.approx(solution.objective - solution.bound)
    assert "gap" in solution.message


def test_a_time_limit_limits_a_nonlinear_program_and_its_bound_is_honest() -> None:
    started = time.perf_counter()
    solution = solve(circle_packing(10), SolveOptions(backend="scip", time_limit=1.0))
    assert time.perf_counter() - started < 3.0
    assert solution.status in (Status.FEASIBLE, Status.TIME_LIMIT)
    assert solution.bound >= 0.1482043  # the best known radius, Szabo et al. 2007
    if solution.x is not None:
        assert solution.objective <= 0.1482044


@pytest.mark.parametrize("backend", MILP)
def test_a_limit_before_any_point_leaves_the_bound(backend: str) -> None:
    solution = solve(market_split(1, 40, 5), SolveOptions(backend=backend, time_limit=1e-4))
    assert solution.status in (Status.TIME_LIMIT, Status.FEASIBLE)
    assert (solution.x is None) == (solution.status is Status.TIME_LIMIT)
    assert solution.bound <= 0.0


def test_a_time_limit_limits_ipopt() -> None:
    started = time.perf_counter()
    solution = solve(circle_packing(30), SolveOptions(backend="ipopt", time_limit=0.1))
    assert time.perf_counter() - started < 2.0
    assert solution.status in (Status.TIME_LIMIT, Status.FEASIBLE)


def test_a_zero_limit_is_refused() -> None:
    with pytest.raises(InvalidProblem, match="time_limit: is 0"):
        SolveOptions(time_limit=0.0)


# --- Starts, gaps, codes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", MILP)
def test_a_start_is_the_answer_when_time_is_short(backend: str) -> None:
    program = market_split(2, 60, 6)
    n, m = 60, 6
    choice = np.zeros(n)
    short = program.row_low - program.A[:, :n] @ choice
    start = np.concatenate([choice, np.maximum(short, 0.0), np.maximum(-short, 0.0)])
    assert violation(program, start) == 0.0
    begun = replace(program, start=start)
    solution = solve(begun, SolveOptions(backend=backend, time_limit=1e-4))
    assert solution.status is Status.FEASIBLE, solution.message
    assert solution.objective <= program.c @ start
    assert len(start) == n + 2 * m


@pytest.mark.parametrize("backend", MILP)
def test_a_start_that_closes_the_gap_ends_the_search(backend: str) -> None:
    # A market that can be split exactly: nothing is left to prove, but the split takes minutes to find.
    hard = market_split(0, 40, 5)
    choice = np.random.default_rng(1).integers(0, 2, 40).astype(np.float64)
    shares = hard.A[:, :40] @ choice
    start = np.concatenate([choice, np.zeros(10)])
    begun = replace(hard, row_low=shares, row_high=shares, start=start)
    solution = solve(begun, SolveOptions(backend=backend, time_limit=2.0))
    assert solution.status is Status.OPTIMAL, solution.message
    assert solution.objective == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("backend", MILP)
def test_a_start_that_is_not_feasible_is_passed_over(backend: str) -> None:
    reference = knapsack(4, 10)
    wrong = replace(reference.problem, start=np.ones(10))
    assert solve(wrong, SolveOptions(backend=backend)).objective == pytest.approx(reference.optimum)


@pytest.mark.parametrize("backend", MILP)
@pytest.mark.parametrize("seed", [0, 7])
def test_every_seed_ends_in_the_optimum(backend: str, seed: int) -> None:
    reference = facilities(5, 6, 8)
    solution = solve(reference.problem, SolveOptions(backend=backend, seed=seed))
    assert solution.objective == pytest.approx(reference.optimum, rel=1e-4)


@pytest.mark.parametrize("backend", [highs, scip])
def test_an_unknown_code_is_an_error_unless_the_point_verifies(
    backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "STATUS", {})
    solution = backend.solve(REFERENCES["MILP infeasible"]().problem, SolveOptions())
    assert solution.status is Status.ERROR
    assert solution.x is None
    assert "nfeasible" in solution.message


@pytest.mark.parametrize(
    ("backend", "kind"), [(highs, "LP"), (highs, "MILP"), (scip, "LP"), (scip, "MILP"), (scip, "NLP")]
)
@pytest.mark.parametrize("empty", [True, False])
def test_infeasible_or_unbounded_is_settled(
    backend: Any, kind: str, empty: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "infeasible" if empty else "unbounded"
    code = "k" + code.capitalize() if backend is highs else code
    nonlinear = "disjoint disc" if empty else "endless valley"
    name = nonlinear if kind == "NLP" else f"{kind} {'infeasible' if empty else 'unbounded'}"
    monkeypatch.setattr(backend, "UNDECIDED", code)
    monkeypatch.delitem(backend.STATUS, code)
    solution = backend.solve(REFERENCES[name]().problem, SolveOptions())
    assert solution.status is (Status.INFEASIBLE if empty else Status.UNBOUNDED)
    assert solution.x is None


@pytest.mark.parametrize(
    ("module", "backend", "name", "remedy"),
    [
        ("highspy", "highs", "knapsack", "pip install highspy"),
        ("pyscipopt", "scip", "knapsack", "pip install pyscipopt"),
        ("pyscipopt", "scip", "HS71", "pip install pyscipopt"),
        ("cyipopt", "ipopt", "HS71", "pip install cyipopt"),
    ],
)
def test_without_the_library_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, module: str, backend: str, name: str, remedy: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendUnavailable, match=remedy):
        solve(REFERENCES[name]().problem, SolveOptions(backend=backend))


def test_solvers_are_silent(capfd: pytest.CaptureFixture[str]) -> None:
    for backend, name in (("highs", "knapsack"), ("scip", "knapsack"), ("scip", "HS71"), ("ipopt", "HS71")):
        solve(REFERENCES[name]().problem, SolveOptions(backend=backend))
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""


# --- What a status claims -----------------------------------------------------------------------------------


def test_the_mixed_integer_certificate_counts_every_violation() -> None:
    problem = REFERENCES["MILP equality"]().problem
    assert isinstance(problem, MixedIntegerProgram)
    good = np.array([3.0, 4.0, 0.5])
    assert certify_mixed_integer(problem, good, 7.0).primal_residual == 0.0
    assert certify_mixed_integer(problem, good, 7.0).gap == pytest.approx(0.25)
    for shift, residual in (([5.0, -3.0, 0.0], 0.0), ([0.0, 0.0, 0.75], 0.25), ([0.5, -0.3, 0.0], 0.5)):
        certificate = certify_mixed_integer(problem, good + np.array(shift), 7.0)
        assert certificate.primal_residual == pytest.approx(residual)


@pytest.mark.parametrize(
    ("status", "residual", "bound", "maximise", "expected"),
    [
        (Status.OPTIMAL, 0.0, 9.9995, False, Status.OPTIMAL),
        (Status.OPTIMAL, 0.0, 9.9, False, Status.FEASIBLE),
        (Status.OPTIMAL, 0.0, 10.5, False, Status.OPTIMAL),  # rounding above what was attained
        (Status.OPTIMAL, 0.0, 10.5, True, Status.FEASIBLE),
        (Status.OPTIMAL, 1e-3, 10.0, False, Status.ERROR),
        (Status.OPTIMAL, np.nan, 10.0, False, Status.ERROR),
        (Status.TIME_LIMIT, 1e-3, 9.0, False, Status.TIME_LIMIT),
        (Status.TIME_LIMIT, 0.0, 9.0, False, Status.FEASIBLE),
        (Status.ERROR, 0.0, -INF, False, Status.FEASIBLE),
        (Status.INFEASIBLE, 0.0, 10.0, False, Status.INFEASIBLE),
    ],
)
def test_a_bound_proves_what_it_can(
    status: Status, residual: float, bound: float, maximise: bool, expected: Status
) -> None:
    solution = proven_by_bound(
        status, np.zeros(2), 10.0, residual, bound, maximise=maximise, tolerance=1e-8, gap=1e-4,
        solve_time=0.0, backend="test", iterations=1, message="why",
    )  # fmt: skip
    assert solution.status is expected
    assert (solution.x is not None) == expected.usable
    assert (solution.message == "") == (expected is Status.OPTIMAL)
    if expected is Status.TIME_LIMIT:
        assert solution.bound == bound


def test_rounding_is_repaired_by_the_other_variables() -> None:
    # A big M turns a binary that is off by 1e-9 into a violation of 1e-3: y <= 1e6 d, y + w = 1.
    problem = MixedIntegerProgram(
        [0.0, 1.0, 1.0], np.array([[1.0, -1e6, 0.0], [1.0, 0.0, 1.0]]), [-INF, 1.0], [0.0, 1.0],
        np.zeros(3), np.ones(3), np.array([False, True, False]),
    )  # fmt: skip
    rough = np.array([1e-3, 1e-9, 0.999])
    assert violation(problem, rough) <= 2e-9
    assert violation(problem, np.round(rough, 6)) == pytest.approx(1e-3)
    assert whole(problem, rough, SolveOptions(), highs._solve_linear) == pytest.approx([0.0, 0.0, 1.0])
    relaxed = random_linear(0, 4, 3)
    skewed = MixedIntegerProgram(
        relaxed.c, relaxed.A, relaxed.row_low, relaxed.row_high, relaxed.low, relaxed.high,
        np.array([True, False, False, False]),
    )  # fmt: skip
    answer = solve(skewed, SolveOptions(backend="highs"))
    moved = answer.x + np.array([0.0, 0.1, -0.1, 0.05])
    assert violation(skewed, whole(skewed, moved, SolveOptions(), highs._solve_linear)) <= 1e-8


# --- Nonlinear programs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FUNCTIONS, "power", "product", "quotient", "exponent", "shared"])
def test_derivatives_meet_finite_differences(name: str) -> None:
    m = pyo.ConcreteModel()
    m.x, m.y, m.idle = pyo.Var(initialize=0.3), pyo.Var(initialize=0.6), pyo.Var()
    x, y = m.x, m.y
    m.inner = pyo.Expression(expr=x * y + pyo.sin(x))
    if name in FUNCTIONS:
        function = abs if name == "abs" else getattr(pyo, name)
        term = function(0.4 * x + 0.5 * y + 0.1 * x * y)
    else:
        term = {
            "power": (x + y) ** 3 + (x + 1.2) ** -1.5 + pyo.sqrt(x * y + 1),
            "product": x * y * (x + 2 * y) * x,
            "quotient": (x + y**2) / (1 + x * y) - 2 / (x + 3),
            "exponent": (x + 1) ** y + 2.0 ** (x * y),
            "shared": m.inner**2 + m.inner * x,
        }[name]
    m.cost = pyo.Objective(expr=term + x**2, sense=pyo.maximize)
    m.row = pyo.Constraint(expr=(-1.0, term * y - x, 2.0))
    program = ComposedProgram(m)
    at, step, weight = np.array([0.37, 0.52]), 1e-6, 0.7
    names = [v.name for v in program.variables]
    at = at if names == ["x", "y"] else at[::-1].copy()
    for variable, value in zip(program.variables, at, strict=True):
        variable.set_value(value)
    assert program.value(at) == pytest.approx(pyo.value(m.cost), abs=1e-13)
    assert program.constraints(at) == pytest.approx([pyo.value(m.row.body)], abs=1e-13)
    shifts = step * np.eye(2)

    def jacobian(point: np.ndarray) -> np.ndarray:
        J = np.zeros((1, 2))
        J[program.jacobianstructure()] = program.jacobian(point)
        return J

    def slope(point: np.ndarray) -> np.ndarray:
        return weight * program.gradient(point) + 1.3 * jacobian(point)[0]

    ascent = [(program.objective(at + e) - program.objective(at - e)) / (2 * step) for e in shifts]
    rows = [(program.constraints(at + e) - program.constraints(at - e))[0] / (2 * step) for e in shifts]
    curvature = [(slope(at + e) - slope(at - e)) / (2 * step) for e in shifts]
    hessian = np.zeros((2, 2))
    hessian[program.hessianstructure()] = program.hessian(at, np.array([1.3]), weight)
    hessian = np.tril(hessian) + np.tril(hessian, -1).T
    assert program.gradient(at) == pytest.approx(np.array(ascent), abs=1e-8)
    assert jacobian(at)[0] == pytest.approx(np.array(rows), abs=1e-8)
    assert hessian == pytest.approx(np.array(curvature), abs=1e-7)
    assert program.sign == -1.0


def test_a_solution_has_the_free_variables_in_pyomos_order() -> None:
    m = pyo.ConcreteModel()
    m.idle = pyo.Var(bounds=(2, 5))
    m.fixed = pyo.Var(initialize=7.0)
    m.fixed.fix()
    m.b, m.a = pyo.Var(bounds=(0, 1)), pyo.Var(bounds=(0, 4))
    m.cost = pyo.Objective(expr=(m.a - 3) ** 2 + m.fixed * m.b)
    for backend in ("ipopt", "scip"):
        solution = solve(NonlinearProgram(m), SolveOptions(backend=backend))
        assert solution.x == pytest.approx([2.0, 0.0, 3.0], abs=1e-3)
        assert solution.objective == pytest.approx(0.0, abs=1e-6)
    assert m.a.value is None  # the model is not changed


def test_the_default_is_local_and_certify_is_global() -> None:
    problem = NonlinearProgram(model("pyo.sin(3*x) + x**2/9", start=2.0))
    local, proven = solve(problem), solve(problem, SolveOptions(certify=True))
    assert (local.backend, proven.backend) == ("ipopt", "scip")
    assert local.status is proven.status is Status.OPTIMAL
    assert local.objective > proven.objective + 0.1
    assert local.bound == -INF
    assert proven.bound == pytest.approx(proven.objective, abs=1e-4)
    assert local.certificate.kkt_residual <= 1e-8


def test_models_travel_with_their_rules() -> None:
    m = pyo.ConcreteModel()
    m.x = pyo.Var([1, 2], bounds=lambda m, i: (0, i))
    m.cost = pyo.Objective(rule=lambda m: sum(pyo.exp(-m.x[i]) for i in m.x))
    m.row = pyo.Constraint([1, 2], rule=lambda m, i: m.x[i] <= 0.5 * i)
    problem = NonlinearProgram(m)
    twin = pickle.loads(pickle.dumps(problem))
    assert twin.model is not m
    assert solve(twin).objective == pytest.approx(np.exp(-0.5) + np.exp(-1.0), abs=1e-7)
    assert solve(twin).objective == pytest.approx(solve(problem).objective, abs=1e-12)


def test_problems_are_light_to_import() -> None:
    code = "import sys, solver_pool.problem; sys.exit('pyomo' in sys.modules or 'ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _two_objectives() -> Any:
    m = model("x**2")
    m.other = pyo.Objective(expr=m.x)
    return m


def _spoiled(**changes: Any) -> Any:
    m = model("x**2")
    if "domain" in changes:
        m.y = pyo.Var(domain=changes["domain"])
    if "low" in changes:
        m.x.setlb(changes["low"])
    if changes.get("fixed"):
        m.x.fix(None, skip_validation=True)
    if changes.get("sos"):
        m.y = pyo.Var([1, 2])
        m.sos = pyo.SOSConstraint(var=m.y, sos=1)
    return m


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: "x + y", "ConcreteModel"),
        (pyo.ConcreteModel, "0 active objectives"),
        (_two_objectives, "2 active objectives"),
        (lambda: _spoiled(low=float("nan")), "model.x: has a bound"),
        (lambda: _spoiled(low=4.0), "model.x: has the bounds"),
        (lambda: _spoiled(fixed=True), "model.x: is fixed at None"),
        (lambda: _spoiled(domain=pyo.Set(initialize=[1, 2.5])), "Integers"),
        (lambda: _spoiled(sos=True), "SOSConstraint"),
    ],
)
def test_models_that_cannot_be_solved_are_refused(make: Any, words: str) -> None:
    with pytest.raises(InvalidProblem, match=words):
        NonlinearProgram(make())


@pytest.mark.parametrize(
    ("text", "backend", "words"),
    [
        ("pyo.ceil(x)", "ipopt", r"ceil\(\)"),
        ("pyo.ceil(x)", "scip", r"ceil\(\)"),
        ("pyo.Expr_if(x >= 0, x, -x)", "ipopt", "Expr_if"),
        ("pyo.atan(x)", "scip", "backend='ipopt'"),
    ],
)
def test_expressions_that_cannot_be_written_are_named(text: str, backend: str, words: str) -> None:
    with pytest.raises(UnsupportedProblem, match=words):
        solve(NonlinearProgram(model(text)), SolveOptions(backend=backend))


@pytest.mark.parametrize(
    "text", ["pyo.tan(x/4)", "pyo.cosh(x) - x", "pyo.sinh(x)", "pyo.tanh(x)", "pyo.log10(x+4)"]
)
def test_what_scip_lacks_is_composed(text: str) -> None:
    m = model(text)
    at = np.linspace(-3.0, 3.0, 201)
    program = ComposedProgram(m)
    best = min(program.value(np.array([v])) for v in at)
    solution = solve(NonlinearProgram(m), SolveOptions(backend="scip", gap=1e-6))
    assert solution.status is Status.OPTIMAL, solution.message
    assert solution.objective == pytest.approx(best, abs=5e-4)


def test_scips_point_is_moved_onto_its_constraints() -> None:
    problem = REFERENCES["HS71"]().problem
    program = ComposedProgram(problem.model)
    answer = solve(problem, SolveOptions(backend="ipopt")).x
    names = [v.name for v in problem.free_variables()]
    order = [names.index(v.name) for v in program.variables]
    rough = answer[order] + 1e-6
    moved, residual = scip._exact(program, rough, np.zeros(4, dtype=np.bool_), SolveOptions())
    assert residual <= 1e-8
    assert moved == pytest.approx(answer[order], abs=1e-4)
    assert ipopt.spread(problem.free_variables(), program, moved) == pytest.approx(answer, abs=1e-4)


def test_auto_takes_scip_where_variables_are_whole_or_a_proof_is_asked_for() -> None:
    def program(domain: Any) -> NonlinearProgram:
        m = pyo.ConcreteModel()
        m.x = pyo.Var(domain=domain, bounds=(0, 3))
        m.value = pyo.Objective(expr=(m.x - 1.6) ** 2)
        return NonlinearProgram(m)

    assert choose_backend(program(pyo.Reals), SolveOptions()) == "ipopt"
    assert choose_backend(program(pyo.Reals), SolveOptions(certify=True)) == "scip"
    assert choose_backend(program(pyo.Integers), SolveOptions()) == "scip"
    answer = solve(program(pyo.Integers))
    assert answer.status == Status.OPTIMAL
    assert answer.x is not None
    assert answer.x[0] == 2.0

"""Every backend meets every reference problem of its kinds: known optima, empty sets, endless ones."""

from __future__ import annotations

import numpy as np
import pytest

from solver_pool.backends import BACKENDS, solve
from solver_pool.backends.composed_program import ComposedProgram
from solver_pool.errors import UnsupportedProblem
from solver_pool.options import SolveOptions
from solver_pool.problem import LinearProgram, MixedIntegerProgram, NonlinearProgram
from solver_pool.solution import Solution, Status, certify_mixed_integer
from tests.solver_pool.reference_problems import REFERENCES, Reference, random_linear

GLOBAL = ("highs", "scip")


def takes(backend: str, name: str) -> bool:
    return isinstance(REFERENCES[name]().problem, BACKENDS[backend][1])


PAIRS = [
    (backend, name) for backend in ("highs", "scip", "ipopt") for name in REFERENCES if takes(backend, name)
]


def has_integers(problem: object) -> bool:
    return isinstance(problem, NonlinearProgram) and any(
        not v.is_continuous() for v in problem.free_variables()
    )


def plain_violation(problem: LinearProgram | MixedIntegerProgram | NonlinearProgram, x: np.ndarray) -> float:
    """The largest violation at `x`, written out; of models by Pyomo's own evaluation."""
    if isinstance(problem, NonlinearProgram):
        import pyomo.environ as pyo

        model = problem.model.clone()
        free = [v for v in model.component_data_objects(pyo.Var) if not v.fixed]
        worst = 0.0
        for variable, value in zip(free, x, strict=True):
            variable.set_value(float(value), skip_validation=True)
            worst = max(worst, (variable.lb or -np.inf) - value if variable.lb is not None else 0.0)
            worst = max(worst, value - variable.ub if variable.ub is not None else 0.0)
            worst = max(worst, 0.0 if variable.is_continuous() else abs(value - round(value)))
        for constraint in model.component_data_objects(pyo.Constraint, active=True):
            worst = max(worst, -constraint.slack())
        return worst
    rows = problem.A @ x
    sides = (problem.row_low - rows, rows - problem.row_high, problem.low - x, x - problem.high)
    return max(float(side.max(initial=0.0)) for side in sides)


def check_optimum(reference: Reference, solution: Solution, gap: float) -> None:
    scale = max(1.0, abs(reference.optimum))
    assert solution.objective == pytest.approx(reference.optimum, abs=max(2e-6, gap) * scale)
    assert plain_violation(reference.problem, solution.x) <= 2e-8
    sign = -1.0 if reference.maximise else 1.0
    assert sign * solution.bound <= sign * reference.optimum + 1e-6 * scale
    assert float(solution.certificate.primal_residual) <= 1e-8
    assert solution.certificate.gap == pytest.approx(abs(solution.bound - solution.objective))
    assert not solution.message


@pytest.mark.parametrize(("backend", "name"), PAIRS)
def test_every_backend_meets_every_reference_problem(backend: str, name: str) -> None:
    reference = REFERENCES[name]()
    options = SolveOptions(backend=backend, gap=1e-6, time_limit=60.0)
    if backend == "ipopt" and has_integers(reference.problem):
        with pytest.raises(UnsupportedProblem, match="backend='scip'"):
            solve(reference.problem, options)
        return
    solution = solve(reference.problem, options)
    if reference.status is Status.OPTIMAL and (reference.local or backend in GLOBAL):
        assert solution.status is Status.OPTIMAL, solution.message
        check_optimum(reference, solution, options.gap)
    elif reference.status is Status.OPTIMAL:
        # A local solver's point is feasible and no better than the optimum, and it claims no bound.
        assert solution.status.usable, solution.message
        sign = -1.0 if reference.maximise else 1.0
        assert sign * solution.objective >= sign * reference.optimum - 2e-6
        assert sign * solution.bound == -np.inf
    else:
        expected = reference.status if reference.local or backend in GLOBAL else Status.ERROR
        assert solution.status is expected, solution.message
        assert solution.x is None
        assert np.isnan(solution.objective)
        assert solution.message


def test_every_kind_has_references_of_every_outcome() -> None:
    kinds = {(type(r.problem), r.status) for r in (make() for make in REFERENCES.values())}
    outcomes = (Status.OPTIMAL, Status.INFEASIBLE, Status.UNBOUNDED)
    assert kinds == {
        (kind, s) for kind in (LinearProgram, MixedIntegerProgram, NonlinearProgram) for s in outcomes
    }


@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 3), (5, 4), (20, 15)])
@pytest.mark.parametrize("seed", range(3))
def test_scip_and_highs_agree_on_linear_programs(seed: int, n: int, m: int) -> None:
    problem = random_linear(seed, n, m)
    one, other = (solve(problem, SolveOptions(backend=b)) for b in ("highs", "scip"))
    assert one.status is other.status is Status.OPTIMAL
    assert one.objective == pytest.approx(other.objective, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("n", [3, 8, 15])
@pytest.mark.parametrize("seed", range(4))
def test_scip_and_highs_agree_on_mixed_integer_programs(seed: int, n: int) -> None:
    relaxed = random_linear(seed, n, n // 2)
    integer = np.random.default_rng(seed).random(n) < 0.5
    wide = 5.0 * np.ones(n)
    low = np.where(np.isfinite(relaxed.row_low), relaxed.row_low - 2.0, -np.inf)
    problem = MixedIntegerProgram(relaxed.c, relaxed.A, low, relaxed.row_high + 2.0, -wide, wide, integer)
    one, other = (solve(problem, SolveOptions(backend=b, gap=0.0)) for b in ("highs", "scip"))
    assert one.status is other.status is Status.OPTIMAL
    assert one.objective == pytest.approx(other.objective, rel=1e-7, abs=1e-7)
    for solution in (one, other):
        assert (solution.x[integer] == np.round(solution.x[integer])).all()
        assert float(certify_mixed_integer(problem, solution.x, -np.inf).primal_residual) <= 1e-8


def test_a_composed_program_evaluates_what_pyomo_evaluates() -> None:
    for name, make in REFERENCES.items():
        problem = make().problem
        if isinstance(problem, NonlinearProgram):
            import pyomo.environ as pyo

            program = ComposedProgram(problem.model)
            objective = next(problem.model.component_data_objects(pyo.Objective, active=True))
            at = np.array([1.0 if v.value is None else v.value for v in program.variables])
            for v, value in zip(program.variables, at, strict=True):
                v.set_value(value, skip_validation=True)
            assert program.value(at) == pytest.approx(pyo.value(objective), abs=1e-12), name

"""OMLT: certified global optima of ReLU critics, the Pyomo models, and what OMLT cannot do."""

from __future__ import annotations

import dataclasses
import gc
import sys
import time

import numpy as np
import pyomo.environ as pyo
import pytest

from solver_pool.backends import omlt, solve
from solver_pool.backends.composed_program import ComposedProgram
from solver_pool.errors import BackendUnavailable, UnsupportedProblem
from solver_pool.options import Formulation, NativeSolver, SolveOptions
from solver_pool.solution import Status
from tests.solver_pool.reference_problems import grid_optimum, random_batch, with_empty_set

MILP = ("highs", "scip")


def milp(native: NativeSolver, time_limit: float | None = None) -> SolveOptions:
    return SolveOptions(backend="omlt", native_solver=native, time_limit=time_limit)


@pytest.mark.parametrize(("n_actions", "points"), [(1, 4001), (2, 401)])
@pytest.mark.parametrize("hidden", [(6,), (6, 6), (5, 4, 4)])
@pytest.mark.parametrize("native", MILP)
@pytest.mark.parametrize("formulation", omlt.RELU_FORMULATIONS)
def test_relu_optima_are_global(
    formulation: Formulation, native: NativeSolver, hidden: tuple[int, ...], n_actions: int, points: int
) -> None:
    batch = random_batch(9, size=2, n_actions=n_actions, n_rows=2, hidden=hidden, activation="relu")
    solution = solve(batch, dataclasses.replace(milp(native), formulation=formulation))
    best = grid_optimum(batch, points)
    assert (solution.status == Status.OPTIMAL).all(), solution.message
    assert (solution.bound >= best - 1e-9).all()
    assert (solution.objective >= best - 1e-4 * np.maximum(1.0, np.abs(best))).all()
    assert (np.asarray(solution.certificate.gap) <= 1e-4 * np.maximum(1.0, np.abs(solution.objective))).all()
    assert np.asarray(solution.certificate.primal_residual).max() <= 1e-8
    assert solution.objective == pytest.approx(batch.values(solution.x), abs=1e-12)


@pytest.mark.parametrize(("n_actions", "n_rows", "hidden"), [(3, 5, (8,)), (6, 0, (6,)), (4, 3, ())])
@pytest.mark.parametrize("native", MILP)
def test_no_sampled_point_beats_a_relu_optimum(
    native: NativeSolver, n_actions: int, n_rows: int, hidden: tuple[int, ...]
) -> None:
    batch = random_batch(4, size=2, n_actions=n_actions, n_rows=n_rows, hidden=hidden, activation="relu")
    solution = solve(batch, milp(native))
    assert (solution.status == Status.OPTIMAL).all(), solution.message
    points = np.random.default_rng(0).uniform(-1.0, 1.0, size=(20_000, n_actions))
    for i in range(len(batch)):
        feasible = points[(points @ batch.G[i].T <= batch.h[i]).all(axis=1)]
        inputs = np.concatenate([np.tile(batch.states[i], (len(feasible), 1)), feasible], axis=1)
        assert batch.critic(inputs).max() <= solution.bound[i] + 1e-9


def test_a_bound_that_is_too_low_is_not_believed() -> None:
    batch = random_batch(9, size=1, n_actions=2, n_rows=0, hidden=(6,), activation="relu")
    solution = solve(batch, SolveOptions(backend="omlt", native_solver="scip", gap=0.5))
    assert solution.bound[0] >= solution.objective[0]


def test_the_partition_formulation_splits_every_neuron_and_relaxes_tighter() -> None:
    batch = random_batch(3, size=1, n_actions=3, n_rows=0, hidden=(8, 8), activation="relu")
    parts, bounds = {}, {}
    for formulation in omlt.RELU_FORMULATIONS:
        model = omlt.build_model(batch, 0, formulation)
        pyo.TransformationFactory("core.relax_integer_vars").apply_to(model)
        pyo.SolverFactory("appsi_highs").solve(model)
        bounds[formulation] = pyo.value(model.value)
        parts[formulation] = sum(v.local_name.startswith("z2") for v in model.component_data_objects(pyo.Var))
    assert parts == {"big_m": 0, "partition": 2 * 16}
    assert bounds["partition"] < bounds["big_m"] - 1e-3


@pytest.mark.parametrize("native", MILP)
def test_an_empty_set_is_infeasible_and_leaves_the_others_alone(native: NativeSolver) -> None:
    batch = with_empty_set(random_batch(1, hidden=(5,), n_actions=2, n_rows=1, activation="relu"), 1)
    solution = solve(batch, milp(native))
    assert solution.status.tolist() == [Status.OPTIMAL, Status.INFEASIBLE, Status.OPTIMAL]
    assert np.isnan(solution.x[1]).all()
    assert solution[1].x is None
    assert solution.message


@pytest.mark.parametrize("native", MILP)
def test_a_time_limit_limits_a_milp(native: NativeSolver) -> None:
    batch = random_batch(0, size=1, n_states=8, n_actions=6, hidden=(64, 64), activation="relu")
    started = time.perf_counter()
    solution = solve(batch, milp(native, time_limit=1.0))
    assert time.perf_counter() - started < 5.0  # hours without a limit
    assert solution.status[0] in (Status.FEASIBLE, Status.TIME_LIMIT)
    assert bool(np.isnan(solution.x).all()) == (solution.status[0] == Status.TIME_LIMIT)
    assert solution.bound[0] > -np.inf


def test_an_incumbent_at_the_limit_is_feasible_and_bounded() -> None:
    batch = random_batch(0, size=1, n_states=8, n_actions=4, hidden=(24, 24), activation="relu")
    solution = solve(batch, milp("scip", time_limit=2.0))
    assert solution.usable.all(), solution.message
    assert np.asarray(solution.certificate.primal_residual)[0] <= 1e-8
    assert solution.bound[0] >= solution.objective[0]
    gap = np.asarray(solution.certificate.gap)[0]
    assert (solution.status[0] == Status.OPTIMAL) == (gap <= 1e-4 * max(1.0, abs(solution.objective[0])))


def test_a_time_limit_limits_ipopt() -> None:
    batch = random_batch(0, size=1, n_states=33, hidden=(64, 64))
    solution = solve(batch, SolveOptions(backend="omlt", time_limit=1e-3, n_starts=50))
    assert solution.status[0] in (Status.FEASIBLE, Status.TIME_LIMIT)
    assert solution.solve_time < 0.5


@pytest.mark.parametrize("activation", omlt.SMOOTH)
@pytest.mark.parametrize("formulation", ["full_space", "reduced_space"])
def test_the_evaluated_model_is_pyomos_and_its_derivatives_are_right(
    activation: str, formulation: Formulation
) -> None:
    batch = random_batch(8, size=1, n_actions=2, n_rows=2, hidden=(4, 3), activation=activation)
    model = omlt.build_model(batch, 0, formulation)
    omlt.set_start(model, batch, 0, np.array([0.3, -0.2]))
    program = ComposedProgram(model)
    x = np.array([v.value for v in program.variables])
    bodies = [pyo.value(c.body) for c in program.constraints_of]
    assert program.constraints(x) == pytest.approx(np.array(bodies), abs=1e-13)
    assert -program.objective(x) == pytest.approx(batch.critic(np.r_[batch.states[0], 0.3, -0.2]), abs=1e-13)
    # The start is consistent: every equality of the network holds at it.
    equal = program.row_low == program.row_high
    assert program.constraints(x)[equal] == pytest.approx(program.row_low[equal], abs=1e-12)

    rng = np.random.default_rng(0)
    x = x + 0.1 * rng.normal(size=x.shape)
    y, step = rng.normal(size=len(bodies)), 1e-6
    jacobian, hessian = np.zeros((len(bodies), x.size)), np.zeros((x.size, x.size))
    jacobian[program.jacobianstructure()] = program.jacobian(x)
    hessian[program.hessianstructure()] = program.hessian(x, y, 0.7)
    hessian = np.tril(hessian) + np.tril(hessian, -1).T

    def slope(at: np.ndarray) -> np.ndarray:
        J = np.zeros_like(jacobian)
        J[program.jacobianstructure()] = program.jacobian(at)
        return 0.7 * program.gradient(at) + y @ J

    shifts = step * np.eye(x.size)
    first = [(program.constraints(x + e) - program.constraints(x - e)) / (2 * step) for e in shifts]
    second = [(slope(x + e) - slope(x - e)) / (2 * step) for e in shifts]
    assert jacobian == pytest.approx(np.array(first).T, abs=1e-7)
    assert hessian == pytest.approx(np.array(second), abs=1e-7)
    assert np.abs(hessian).max() > 1e-2


@pytest.mark.parametrize(
    ("activation", "options", "remedy"),
    [
        ("elu", SolveOptions(backend="omlt"), "interior_point"),
        ("relu", SolveOptions(backend="omlt", formulation="full_space"), "big_m"),
        ("relu", SolveOptions(backend="omlt", native_solver="ipopt"), "highs"),
        ("tanh", SolveOptions(backend="omlt", formulation="big_m"), "reduced_space"),
        ("tanh", SolveOptions(backend="omlt", formulation="partition"), "reduced_space"),
        ("tanh", SolveOptions(backend="omlt", native_solver="scip"), "ipopt"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_remedy(
    activation: str, options: SolveOptions, remedy: str
) -> None:
    with pytest.raises(UnsupportedProblem, match=remedy):
        solve(random_batch(0, size=1, hidden=(4,), activation=activation), options)


def test_an_unknown_code_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(omlt, "STATUS", {})
    batch = with_empty_set(random_batch(1, size=2, hidden=(4,), activation="relu"), 1)
    solution = solve(batch, milp("highs"))
    assert solution.status.tolist() == [Status.OPTIMAL, Status.ERROR]
    assert "provenInfeasible" in solution.message


@pytest.mark.parametrize(
    ("module", "options", "remedy"),
    [
        ("omlt", SolveOptions(backend="omlt"), "pip install omlt"),
        ("pyscipopt", milp("scip"), "pip install pyscipopt"),
        ("highspy", milp("highs"), "pip install highspy"),
    ],
)
def test_without_a_library_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, module: str, options: SolveOptions, remedy: str
) -> None:
    activation = "tanh" if options.native_solver == "auto" else "relu"
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendUnavailable, match=remedy):
        solve(random_batch(0, size=1, hidden=(4,), activation=activation), options)


def test_models_do_not_outlive_their_solve() -> None:
    def alive() -> int:
        gc.collect()
        return sum(isinstance(o, pyo.ConcreteModel) for o in gc.get_objects())

    before = alive()
    for options, activation in (
        (SolveOptions(backend="omlt"), "tanh"),
        (milp("highs"), "relu"),
        (milp("scip"), "relu"),
    ):
        solve(random_batch(0, size=4, hidden=(4,), activation=activation), options)
    assert alive() <= before + 1

"""Smooth critics: derivatives by finite differences, and every backend against every reference problem."""

from __future__ import annotations

import dataclasses
import sys
import time

import numpy as np
import pytest

from solver_pool.backends import ipopt, solve
from solver_pool.errors import BackendUnavailable, InvalidProblem, UnsupportedProblem
from solver_pool.options import SolveOptions
from solver_pool.problem import MLP, CriticBatch
from solver_pool.solution import Status, certify_batch
from tests.solver_pool.reference_problems import grid_optimum, random_batch, random_critic, with_empty_set

BACKENDS = {
    "ipopt": SolveOptions(backend="ipopt"),
    "interior_point": SolveOptions(backend="interior_point"),
    "omlt_full": SolveOptions(backend="omlt", formulation="full_space"),
    "omlt_reduced": SolveOptions(backend="omlt", formulation="reduced_space"),
}

SHAPES = {  # number of actions, rows, hidden layers
    "1 action": (1, 0, (12,)),
    "2 actions, 1 row": (2, 1, (10, 10)),
    "3 actions, 5 rows": (3, 5, (8, 8, 8)),
    "6 actions, 4 rows": (6, 4, (12, 12)),
}


def with_starts(backend: str, n_starts: int, **changes: object) -> SolveOptions:
    return dataclasses.replace(BACKENDS[backend], n_starts=n_starts, **changes)


@pytest.mark.parametrize("activation", ["softplus", "tanh", "sigmoid", "elu"])
@pytest.mark.parametrize("hidden", [(), (7,), (7, 5), (6, 5, 4)])
def test_gradient_and_hessian_meet_finite_differences(activation: str, hidden: tuple[int, ...]) -> None:
    batch = random_batch(5, size=1, n_actions=3, hidden=hidden, activation=activation)
    critic = ipopt.FoldedCritic(batch, 0)
    a, step = np.array([0.31, -0.42, 0.17]), 1e-5
    shifts = step * np.eye(3)
    assert critic.value(a) == pytest.approx(float(batch.values(a[None])[0]), abs=1e-13)
    gradient = [(critic.value(a + e) - critic.value(a - e)) / (2 * step) for e in shifts]
    hessian = [(critic.gradient(a + e) - critic.gradient(a - e)) / (2 * step) for e in shifts]
    assert critic.gradient(a) == pytest.approx(np.array(gradient), abs=1e-8)
    assert critic.hessian(a) == pytest.approx(np.array(hessian), abs=1e-8)
    assert critic.gradient(a) == pytest.approx(batch.values_and_gradients(a[None])[1][0], abs=1e-13)
    if hidden:
        assert np.abs(critic.hessian(a)).max() > 1e-4  # the comparison is not of zeros


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("activation", ["softplus", "tanh", "sigmoid"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_find_the_same_certified_optimum(backend: str, activation: str, shape: str) -> None:
    n_actions, n_rows, hidden = SHAPES[shape]
    batch = random_batch(11, size=2, n_actions=n_actions, n_rows=n_rows, hidden=hidden, activation=activation)
    solution = solve(batch, with_starts(backend, 3))
    reference = solve(batch, SolveOptions(backend="ipopt", n_starts=8))
    assert (solution.status == Status.OPTIMAL).all(), solution.message
    assert solution.objective == pytest.approx(reference.objective, rel=1e-7, abs=1e-7)
    again, certificate = certify_batch(
        batch, solution.x, solution.row_duals, solution.bound_duals, solution.bound
    )
    assert np.asarray(certificate.kkt_residual).max() <= 1e-8
    assert again == pytest.approx(batch.values(solution.x), abs=1e-13)
    assert (solution.row_duals >= 0).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("backend", ["ipopt", "interior_point"])
def test_elu_critics_are_certified(backend: str, shape: str) -> None:
    n_actions, n_rows, hidden = SHAPES[shape]
    batch = random_batch(7, size=2, n_actions=n_actions, n_rows=n_rows, hidden=hidden, activation="elu")
    solution = solve(batch, with_starts(backend, 4))
    assert solution.usable.all()
    # An optimum may sit on an ELU kink, where the second derivative jumps: FEASIBLE is then all one can say.
    assert solution.certified.mean() >= 0.5


@pytest.mark.parametrize(("n_actions", "points"), [(1, 4001), (2, 401)])
@pytest.mark.parametrize("activation", ["softplus", "tanh", "sigmoid"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_feasible_point_of_a_dense_grid_is_better(
    backend: str, activation: str, n_actions: int, points: int
) -> None:
    batch = random_batch(3, size=2, n_actions=n_actions, n_rows=2, hidden=(8,), activation=activation)
    solution = solve(batch, with_starts(backend, 4))
    best = grid_optimum(batch, points)
    # An interior point stays short of its bounds by about the tolerance.
    assert (solution.objective >= best - 1e-7).all()
    assert (solution.objective <= best + 0.05).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_empty_set_is_infeasible_and_leaves_the_others_alone(backend: str) -> None:
    batch = random_batch(2, size=3, n_actions=2, n_rows=1, hidden=(6, 6))
    solution = solve(with_empty_set(batch, 1), with_starts(backend, 2))
    assert solution.status.tolist() == [Status.OPTIMAL, Status.INFEASIBLE, Status.OPTIMAL]
    assert np.isnan(solution.x[1]).all()
    assert np.isnan(solution.objective[1])
    assert solution.message
    assert solution[1].x is None
    reference = solve(batch, with_starts(backend, 2))
    assert solution.objective[[0, 2]] == pytest.approx(reference.objective[[0, 2]], abs=1e-7)


@pytest.mark.parametrize("backend", BACKENDS)
def test_fixed_actions_and_switched_off_rows(backend: str) -> None:
    batch = random_batch(4, size=2, n_actions=3, n_rows=2, hidden=(6, 6))
    low, high = batch.low.copy(), batch.high.copy()
    low[1] = high[1] = 0.125
    pinned = CriticBatch(batch.critic, batch.states, batch.G, np.full((2, 2), np.inf), low, high)
    solution = solve(pinned, with_starts(backend, 2))
    assert (solution.status == Status.OPTIMAL).all(), solution.message
    assert (solution.x[:, 1] == 0.125).all()
    assert (solution.row_duals == 0.0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_shared_rows_and_boxes_for_each_state_are_the_same_program(backend: str) -> None:
    shared = random_batch(6, size=2, n_actions=2, n_rows=2, hidden=(6,), shared_rows=True)
    spread = CriticBatch(
        shared.critic, shared.states, np.stack([shared.G] * 2), shared.h,
        np.stack([shared.low] * 2), np.stack([shared.high] * 2),
    )  # fmt: skip
    one, other = solve(shared, with_starts(backend, 1)), solve(spread, with_starts(backend, 1))
    assert (one.status == Status.OPTIMAL).all()
    assert one.x == pytest.approx(other.x, abs=1e-7)


@pytest.mark.parametrize("backend", BACKENDS)
def test_answers_stay_inside_the_box_exactly(backend: str) -> None:
    critic = MLP((np.array([[0.0, 1.0, 2.0]]),), (np.zeros(1),), "tanh")
    if backend == "interior_point":  # it leaves linear critics to HiGHS
        critic = random_critic(0, 3, (4,), "softplus", gain=5.0)
    batch = CriticBatch(
        critic, np.zeros((1, 1)), np.zeros((0, 2)), np.zeros((1, 0)), [-1e-3, -7.0], [1e-3, 1e6]
    )
    solution = solve(batch, with_starts(backend, 1))
    assert solution.usable.all(), solution.message
    assert (solution.x >= batch.low).all()
    assert (solution.x <= batch.high).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_starts_are_used_and_the_best_is_kept(backend: str) -> None:
    # Q(a) = tanh(4 a - 2) - tanh(4 a + 2) + 10 tanh(a / 100) has a hilltop at -1.13 and a higher one at 1.5.
    critic = MLP(
        (np.array([[0.0, 4.0], [0.0, 4.0], [0.0, 0.01]]), np.array([[1.0, -1.0, 10.0]])),
        (np.array([-2.0, 2.0, 0.0]), np.zeros(1)),
        "tanh",
    )
    rows = (np.zeros((0, 1)), np.zeros((1, 0)), [-1.5], [1.5])
    answers = {
        start: solve(CriticBatch(critic, np.zeros((1, 1)), *rows, [[start]]), with_starts(backend, 1)).x[0, 0]
        for start in (-1.3, 1.3)
    }
    assert answers[-1.3] == pytest.approx(-1.1328, abs=1e-4)
    assert answers[1.3] == pytest.approx(1.5, abs=1e-6)
    both = CriticBatch(critic, np.zeros((1, 1)), *rows, [[[-1.3], [1.3]]])
    assert solve(both, with_starts(backend, 2)).x[0, 0] == pytest.approx(1.5, abs=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_relu_is_refused_with_the_remedy(backend: str) -> None:
    batch = random_batch(0, size=1, hidden=(4,), activation="relu")
    with pytest.raises(UnsupportedProblem, match=r"branch_and_bound|big_m"):
        solve(batch, BACKENDS[backend])


def test_a_time_limit_limits() -> None:
    batch = random_batch(0, size=4, n_states=33, hidden=(64, 64))
    started = time.perf_counter()
    solution = solve(batch, SolveOptions(backend="ipopt", time_limit=1e-3, n_starts=200))
    assert time.perf_counter() - started < 2.0  # 200 starts of four states take about 6 s
    assert np.isin(solution.status, [Status.OPTIMAL, Status.FEASIBLE, Status.TIME_LIMIT]).all()
    assert (np.isnan(solution.x).all(axis=1) == ~solution.usable).all()
    hurried = solve(batch, SolveOptions(backend="ipopt", time_limit=1e-6))
    assert not hurried.certified.any()


def test_an_unknown_code_is_an_error_unless_the_point_verifies(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = with_empty_set(random_batch(0, size=2, hidden=(6,)), 1)
    monkeypatch.setattr(ipopt, "STATUS", {})
    solution = solve(batch, SolveOptions(backend="ipopt"))
    assert solution.status.tolist() == [Status.OPTIMAL, Status.ERROR]
    assert "Ipopt ended with" in solution.message


def test_without_the_library_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cyipopt", None)
    with pytest.raises(BackendUnavailable, match="coinor-libipopt-dev"):
        solve(random_batch(0, size=1, hidden=(4,)), SolveOptions(backend="ipopt"))


@pytest.mark.parametrize("field", ["states", "G", "h", "low", "high", "starts"])
@pytest.mark.parametrize("harm", ["nan", "shape"])
def test_bad_input_is_refused_by_name(field: str, harm: str) -> None:
    good = dataclasses.replace(random_batch(0), starts=np.zeros((3, 3)))
    value = np.array(getattr(good, field))
    if harm == "shape":
        value = value[..., :-1]
    else:
        value.flat[0] = np.nan
    # A state that is one number short makes the action one number longer, which G then contradicts.
    named = "G" if (field, harm) == ("states", "shape") else field
    with pytest.raises(InvalidProblem) as error:
        dataclasses.replace(good, **{field: value})
    assert error.value.field == named
    assert error.value.remedy


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(InvalidProblem, match="'swish' is unknown"):
        random_critic(0, 3, activation="swish")


def test_an_empty_batch_has_empty_answers() -> None:
    batch = random_batch(0)[np.zeros(0, dtype=np.int64)]
    for options in BACKENDS.values():
        assert len(solve(batch, options)) == 0

"""Branch and bound: its lines lie above the network, its optima are global, its bounds are bounds."""

from __future__ import annotations

import dataclasses
import itertools
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_problems import grid_optimum, random_batch, random_critic, with_empty_set

from solver_pool.backends import branch_and_bound_kernel as kernel
from solver_pool.backends import choose_backend, solve
from solver_pool.backends.branch_and_bound import _packed, _Search
from solver_pool.backends.interior_point_kernel import CODES, activation_row
from solver_pool.errors import UnsupportedProblem
from solver_pool.options import SolveOptions
from solver_pool.problem import ACTIVATIONS, MLP, Array, CriticBatch, activate
from solver_pool.solution import Status, primal_residuals

OPTIONS = SolveOptions(backend="branch_and_bound", gap=1e-4)
ALL_CODES = {**CODES, "relu": kernel.RELU}


def relax(activation: str, low: Array, high: Array) -> list[Array]:
    lines = [np.empty_like(low) for _ in range(7)]
    scratch = np.empty((8, low.size))
    kernel.relax_row(ALL_CODES[activation], low.size, low, high, *lines, scratch)
    return lines


def bound_function(problem: CriticBatch, low: Array, high: Array) -> tuple[Array, Array]:
    """Linear bounds ``(gradient (K, n), constant (K,))`` of state 0 on boxes ``(K, n)``."""
    search = _Search(problem, OPTIONS)
    sizes = [w.shape[0] for w in problem.critic.weights[:-1]]
    layers, wide, (count, n) = len(sizes), max(sizes), low.shape
    rows, lines = (np.zeros(((1 + n) * count, wide)), np.zeros((9, layers, count, wide)))
    product = np.zeros((layers, (1 + n) * count, wide))
    spreads = np.zeros((4, count, wide))
    gradient, constant, score = np.zeros((count, n)), np.zeros(count), np.zeros((count, n))
    kernel.bound_boxes(
        *search.network, search.folded[0], search.errors[0], count, low, high,
        rows, product, spreads[0], spreads[1], *lines[:7], spreads[2], spreads[3], lines[7], lines[8],
        np.zeros((8, wide)), gradient, constant, score,
    )  # fmt: skip
    return gradient, constant + search.output_error[0]


# --- The lines ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_lines_enclose_the_activation(activation: str) -> None:
    rng = np.random.default_rng(0)
    centre, half = 4.0 * rng.normal(size=4000), 10.0 ** rng.uniform(-9.0, 1.5, size=4000)
    low, high = centre - half, centre + half
    upper_slope, upper, lower_slope, lower, slope, middle, radius = relax(activation, low, high)
    for t in np.linspace(0.0, 1.0, 101):
        z = low + t * (high - low)
        f = activate(activation, z)[0]
        rounding = 1e-15 * (1.0 + np.abs(low) + np.abs(high))  # of this test's own arithmetic
        assert (f <= upper_slope * z + upper + rounding).all()
        assert (f >= lower_slope * z + lower - rounding).all()
        assert (np.abs(f - slope * z - middle) <= radius + rounding).all()
    for slopes in (upper_slope, lower_slope, slope):
        assert (slopes >= 0.0).all()
        assert (slopes <= 1.0).all()


@pytest.mark.parametrize("activation", ["softplus", "tanh", "sigmoid", "elu"])
def test_lines_of_a_smooth_activation_close_quadratically(activation: str) -> None:
    """Halving an interval quarters the distance of its lines: boxes near an optimum stay few."""
    distance = []
    for half in (0.1, 0.05, 0.025):
        low, high = np.array([-0.7 - half]), np.array([-0.7 + half])
        distance.append(float(relax(activation, low, high)[6][0]))
    assert distance[0] / distance[1] == pytest.approx(4.0, rel=0.15)
    assert distance[1] / distance[2] == pytest.approx(4.0, rel=0.15)


@pytest.mark.parametrize("activation", ["softplus", "tanh", "sigmoid", "elu"])
def test_activations_are_as_exact_as_the_margin_assumes(activation: str) -> None:
    """Against 80-bit arithmetic: errors below a tenth of what the lines allow."""
    z = np.concatenate([np.linspace(-40.0, 40.0, 20001), np.linspace(-1e-3, 1e-3, 2001)])
    value, slope, curvature = np.empty_like(z), np.empty_like(z), np.empty_like(z)
    activation_row(CODES[activation], z.size, z, value, slope, curvature)
    x = z.astype(np.longdouble)
    exact = {
        "softplus": np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
        "tanh": np.tanh(x),
        "sigmoid": 1 / (1 + np.exp(-x)),
        "elu": np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    }[activation]
    assert np.max(np.abs(value - exact) / (1 + np.abs(x))) < 0.1 * kernel.ACTIVATION_ERROR


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    activation=st.sampled_from(ACTIVATIONS),
    hidden=st.sampled_from([(7,), (9, 5), (6, 8, 4)]),
    n_actions=st.integers(1, 4),
    log_width=st.floats(-6.0, 0.0),
)
def test_the_bound_lies_above_the_network_on_every_box(
    seed: int, activation: str, hidden: tuple[int, ...], n_actions: int, log_width: float
) -> None:
    problem = random_batch(seed, size=1, n_actions=n_actions, hidden=hidden, activation=activation)
    rng = np.random.default_rng(seed)
    centre = rng.uniform(-1.0, 1.0, size=(8, n_actions))
    low, high = centre - 10.0**log_width, centre + 10.0**log_width
    wide = dataclasses.replace(problem, low=low.min(axis=0), high=high.max(axis=0))
    gradient, constant = bound_function(wide, low, high)
    for _ in range(50):
        a = low + rng.uniform(size=low.shape) * (high - low)
        states = np.repeat(problem.states, len(a), axis=0)
        value = problem.critic(np.concatenate([states, a], axis=1))
        assert (value <= (gradient * a).sum(axis=1) + constant + 1e-13 * (1 + np.abs(value))).all()


def test_the_bound_of_an_ensemble_equals_that_of_its_dense_matrix() -> None:
    members = [random_critic(seed, 5, (6, 6), "softplus") for seed in range(3)]
    mean = MLP.mean(members)
    assert mean.blocks == 3
    dense = MLP(mean.weights, mean.biases, mean.activation)
    low, high = np.array([[-0.5, 0.0]]), np.array([[0.2, 0.9]])
    answers = [
        bound_function(
            CriticBatch(critic, np.ones((1, 3)), np.zeros((0, 2)), np.zeros((1, 0)), low[0], high[0]),
            low,
            high,
        )
        for critic in (mean, dense)
    ]
    np.testing.assert_allclose(answers[0][0], answers[1][0], rtol=1e-12)
    np.testing.assert_allclose(answers[0][1], answers[1][1], rtol=1e-12)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 6), m=st.integers(0, 8))
def test_multipliers_are_optimal_and_any_would_do(seed: int, n: int, m: int) -> None:
    """The Lagrangian bound equals the linear program's optimum, and stays above it for wrong multipliers."""
    from scipy.optimize import linprog

    rng = np.random.default_rng(seed)
    G = rng.normal(size=(m, n))
    h = G @ rng.uniform(-0.5, 0.5, size=n) + rng.uniform(0.0, 0.3, size=m)
    low, high, gradient = -np.ones(n), np.ones(n), rng.normal(size=n)
    duals, point, reduced = np.zeros(m), np.zeros(n), np.zeros(n)
    kernel.best_multipliers(
        G, h, low, high, gradient, duals, point,
        np.zeros((m, n)), np.zeros(n + m), np.zeros(n), np.zeros(m, dtype=np.int64), np.zeros(n, dtype=np.int64),
    )  # fmt: skip
    bound = kernel.lagrangian_bound(G, h, low, high, gradient, 0.0, duals, reduced)
    optimum = linprog(-gradient, A_ub=G, b_ub=h, bounds=[(-1, 1)] * n) if m else None
    best = np.abs(gradient).sum() if optimum is None else -optimum.fun
    assert bound >= best - 1e-12
    assert bound == pytest.approx(best, abs=1e-9)
    assert gradient @ point == pytest.approx(best, abs=1e-9)
    for _ in range(5):
        wrong = duals + rng.uniform(0.0, 1.0, size=m)
        assert kernel.lagrangian_bound(G, h, low, high, gradient, 0.0, wrong, reduced) >= best - 1e-12


# --- The optimum --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("n_actions", "hidden", "points"),
    [(1, (16,), 2001), (2, (12, 12), 201), (2, (8, 8, 8), 201), (3, (12, 12), 41)],
)
def test_no_grid_point_beats_the_optimum(
    activation: str, n_actions: int, hidden: tuple[int, ...], points: int
) -> None:
    for seed in range(8):
        batch = random_batch(seed, n_actions=n_actions, hidden=hidden, activation=activation)
        answer = solve(batch, OPTIONS)
        assert answer.certified.all()
        gap = 1e-4 * np.maximum(1.0, np.abs(answer.objective))
        best = grid_optimum(batch, points)
        assert (best <= answer.bound).all()
        assert (best <= answer.objective + gap).all()
        assert (answer.bound - answer.objective <= gap).all()
        assert (primal_residuals(batch, answer.x) <= OPTIONS.tolerance).all()


def test_equals_the_milp_on_relu_critics() -> None:
    for seed in range(4):
        batch = random_batch(seed, n_actions=3, hidden=(10, 10), activation="relu")
        ours = solve(batch, OPTIONS)
        reference = solve(batch, SolveOptions(backend="omlt", native_solver="highs", gap=1e-6))
        assert reference.certified.all()
        allowed = 2e-4 * np.maximum(1.0, np.abs(reference.objective))
        assert (np.abs(ours.objective - reference.objective) <= allowed).all()
        assert (ours.bound >= reference.objective - 1e-7).all()


@pytest.mark.parametrize("activation", ["softplus", "tanh", "sigmoid", "elu"])
def test_many_local_starts_do_not_beat_it(activation: str) -> None:
    batch = random_batch(3, size=8, n_actions=5, hidden=(24, 24), activation=activation)
    ours, local = solve(batch, OPTIONS), solve(batch, SolveOptions(n_starts=128))
    assert ours.certified.all()
    assert (local.objective <= ours.bound).all()


def test_the_bound_is_a_bound_in_exact_arithmetic() -> None:
    """One action, one hidden layer of ReLUs: the optimum is at a kink or an end, and rationals have no rounding."""
    for seed, scale in itertools.product(range(20), (1.0, 1e4)):
        batch = random_batch(seed, size=1, n_states=2, n_actions=1, n_rows=0, hidden=(12,), activation="relu")
        critic = MLP((scale * batch.critic.weights[0], batch.critic.weights[1]), batch.critic.biases, "relu")
        batch = dataclasses.replace(batch, critic=critic)
        answer = solve(batch, dataclasses.replace(OPTIONS, gap=1e-9))
        assert answer.certified.all()
        weights = [[[Fraction(float(v)) for v in row] for row in w] for w in critic.weights]
        biases = [[Fraction(float(v)) for v in b] for b in critic.biases]
        state = [Fraction(float(v)) for v in batch.states[0]]
        folded = [
            sum((w[i] * state[i] for i in range(2)), b) for w, b in zip(weights[0], biases[0], strict=True)
        ]

        def exact(a: Fraction, weights=weights, biases=biases, folded=folded) -> Fraction:  # type: ignore[no-untyped-def]
            hidden = [max(c + w[2] * a, Fraction(0)) for c, w in zip(folded, weights[0], strict=True)]
            return sum((v * h for v, h in zip(weights[1][0], hidden, strict=True)), biases[1][0])

        kinks = [-c / w[2] for c, w in zip(folded, weights[0], strict=True) if w[2] != 0]
        points = [Fraction(-1), Fraction(1), *(k for k in kinks if -1 <= k <= 1)]
        optimum = max(exact(a) for a in points)
        assert Fraction(float(answer.bound[0])) >= optimum


# --- What can go wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_an_empty_set_is_infeasible_and_the_others_are_solved(activation: str) -> None:
    batch = with_empty_set(random_batch(1, activation=activation), 1)
    answer = solve(batch, OPTIONS)
    assert answer.status.tolist() == [Status.OPTIMAL, Status.INFEASIBLE, Status.OPTIMAL]
    assert np.isnan(answer.x[1]).all()
    assert "admit no action" in answer.message


def test_a_time_limit_limits_and_leaves_an_honest_bound() -> None:
    batch = random_batch(0, size=1, n_actions=12, hidden=(64, 64), activation="tanh")
    solve(batch[:1], dataclasses.replace(OPTIONS, time_limit=0.01))  # compilation
    began = time.perf_counter()
    answer = solve(batch, dataclasses.replace(OPTIONS, time_limit=0.3, gap=1e-6))
    assert time.perf_counter() - began < 1.5
    assert answer.status[0] == Status.FEASIBLE
    assert np.isfinite(answer.bound[0])
    assert answer.bound[0] > answer.objective[0] + 1e-6
    assert solve(batch, SolveOptions(n_starts=64)).objective[0] <= answer.bound[0]


def test_fixed_actions_rows_switched_off_and_no_rows() -> None:
    batch = random_batch(5, n_actions=3, n_rows=2, activation="softplus")
    low, high = batch.low.copy(), batch.high.copy()
    low[1] = high[1] = 0.25
    h = batch.h.copy()
    h[:, 0] = np.inf
    fixed = dataclasses.replace(batch, low=low, high=high, h=h)
    answer = solve(fixed, OPTIONS)
    assert answer.certified.all()
    assert (answer.x[:, 1] == 0.25).all()
    assert (grid_optimum(fixed, 61) <= answer.bound).all()
    free = dataclasses.replace(batch, G=np.zeros((0, 3)), h=np.zeros((3, 0)))
    assert (solve(free, OPTIONS).objective >= solve(batch, OPTIONS).objective - 1e-4).all()
    everything = dataclasses.replace(batch, low=np.full(3, 0.1), high=np.full(3, 0.1), h=np.full((3, 2), 9.0))
    assert (solve(everything, OPTIONS).x == 0.1).all()


def test_an_answer_does_not_depend_on_its_batch_and_repeats() -> None:
    batch = random_batch(2, size=5, n_actions=4, hidden=(16, 16), activation="relu")
    whole, again = solve(batch, OPTIONS), solve(batch, OPTIONS)
    np.testing.assert_array_equal(whole.x, again.x)
    np.testing.assert_array_equal(whole.bound, again.bound)
    alone = solve(batch[3:4], OPTIONS)
    np.testing.assert_allclose(alone.objective[0], whole.objective[3], rtol=1e-9)


def test_a_good_start_does_not_change_the_optimum() -> None:
    batch = random_batch(4, size=4, n_actions=3, activation="relu")
    cold = solve(batch, OPTIONS)
    warm = solve(dataclasses.replace(batch, starts=cold.x), OPTIONS)
    assert (np.abs(warm.objective - cold.objective) <= 1e-4 * np.maximum(1.0, np.abs(cold.objective))).all()


def test_a_critic_without_a_hidden_layer_is_refused() -> None:
    linear = MLP((np.ones((1, 3)),), (np.zeros(1),), "relu")
    batch = CriticBatch(linear, np.zeros((1, 2)), np.zeros((0, 1)), np.zeros((1, 0)), -np.ones(1), np.ones(1))
    with pytest.raises(UnsupportedProblem, match="linear program"):
        solve(batch, OPTIONS)


def test_certify_chooses_it_and_relu_critics_always_do() -> None:
    smooth, kinked = (random_batch(0, activation=name) for name in ("softplus", "relu"))
    assert choose_backend(smooth, SolveOptions()) == "interior_point"
    assert choose_backend(smooth, SolveOptions(certify=True)) == "branch_and_bound"
    assert choose_backend(kinked, SolveOptions()) == "branch_and_bound"
    many = random_batch(0, n_actions=20, activation="relu")
    assert choose_backend(many, SolveOptions()) == "milp"


def test_the_packed_network_is_remembered_by_identity() -> None:
    critic = random_critic(0, 5, activation="relu")
    assert _packed(critic, 3) is _packed(critic, 3)


@pytest.mark.parametrize("activation", ["relu", "softplus"])
def test_emptiness_that_only_several_rows_together_show_is_proved(activation: str) -> None:
    batch = random_batch(37, size=2, n_actions=2, n_rows=0, activation=activation)
    G = np.array([[1.0, 1.0], [-1.0, 0.5], [0.5, -1.0]])
    empty = dataclasses.replace(batch, G=G, h=np.array([[-0.2, -0.2, -0.2], [0.2, 0.2, 0.2]]))
    answer = solve(empty, OPTIONS)
    assert answer.status.tolist() == [Status.INFEASIBLE, Status.OPTIMAL]
    assert answer.iterations[0] <= 1  # for the whole box, not by cutting it to pieces


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 5), m=st.integers(1, 8))
def test_exclusion_is_claimed_for_empty_sets_only(seed: int, n: int, m: int) -> None:
    from scipy.optimize import linprog

    rng = np.random.default_rng(seed)
    G, h = rng.normal(size=(m, n)), rng.uniform(-1.0, 0.3, size=m)
    low, high = -np.ones(n), np.ones(n)
    duals, point, reduced = np.zeros(m), np.zeros(n), np.zeros(n)
    solved = kernel.best_multipliers(
        G, h, low, high, rng.normal(size=n), duals, point,
        np.zeros((m, n)), np.zeros(n + m), np.zeros(n), np.zeros(m, dtype=np.int64), np.zeros(n, dtype=np.int64),
    )  # fmt: skip
    excluded = not solved and kernel.excludes(G, h, low, high, duals, np.zeros(n), reduced)
    assert excluded == (linprog(np.zeros(n), A_ub=G, b_ub=h, bounds=[(-1, 1)] * n).status == 2)

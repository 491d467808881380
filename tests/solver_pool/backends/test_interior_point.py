"""The interior-point engine: verified optima on every shape, awkward polytopes, and honest failures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_problems import grid_optimum, random_batch, random_critic, with_empty_set

from solver_pool.backends import interior_point_kernel as kernel
from solver_pool.backends import solve
from solver_pool.backends.interior_point import MAX_ITERATIONS
from solver_pool.errors import InvalidProblem, UnsupportedProblem
from solver_pool.options import SolveOptions
from solver_pool.problem import SMOOTH_ACTIVATIONS, CriticBatch
from solver_pool.solution import Status, primal_residuals

ENGINE = SolveOptions(backend="interior_point")


@pytest.mark.parametrize("activation", SMOOTH_ACTIVATIONS)
@pytest.mark.parametrize("hidden", [(8,), (16, 16), (12, 7, 9)])
@pytest.mark.parametrize("n_actions", [1, 3, 8])
@pytest.mark.parametrize("n_rows", [0, 5])
def test_every_shape_is_solved_to_verified_conditions(
    activation: str, hidden: tuple[int, ...], n_actions: int, n_rows: int
) -> None:
    batch = random_batch(3, size=40, n_actions=n_actions, n_rows=n_rows, hidden=hidden, activation=activation)
    answer = solve(batch, ENGINE)
    assert answer.certified.all()
    assert np.max(answer.certificate.kkt_residual) <= 1e-8
    assert (primal_residuals(batch, answer.x) <= 1e-8).all()


@pytest.mark.parametrize("activation", SMOOTH_ACTIVATIONS)
def test_several_starts_reach_the_best_point_of_a_dense_grid(activation: str) -> None:
    batch = random_batch(5, size=20, n_actions=2, n_rows=2, activation=activation)
    best = solve(batch, replace(ENGINE, n_starts=16)).objective
    # Six sides, each with a complementarity product of at most 1e-8, bound the loss in the objective.
    assert (best >= grid_optimum(batch, 201) - 6e-8).all()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    activation=st.sampled_from(SMOOTH_ACTIVATIONS),
    n_actions=st.integers(1, 6),
    n_rows=st.integers(0, 8),
    scale=st.sampled_from([1e-2, 1.0, 1e2]),
)
def test_units_of_actions_and_rows_do_not_matter(
    seed: int, activation: str, n_actions: int, n_rows: int, scale: float
) -> None:
    """The same program with actions in other units has the same optimum, and both are verified."""
    batch = random_batch(seed, n_actions=n_actions, n_rows=n_rows, activation=activation)
    n_states = batch.states.shape[1]
    first = batch.critic.weights[0].copy()
    first[:, n_states:] /= scale
    other = CriticBatch(
        replace(batch.critic, weights=(first, *batch.critic.weights[1:])),
        batch.states, batch.G / scale, batch.h, batch.low * scale, batch.high * scale,
    )  # fmt: skip
    one, two = solve(batch, ENGINE), solve(other, ENGINE)
    assert one.certified.all()
    assert two.certified.all()
    np.testing.assert_allclose(two.objective, one.objective, rtol=1e-6, atol=1e-6)


def test_answers_do_not_depend_on_the_batch_around_them() -> None:
    batch = random_batch(7, size=100, n_actions=3)
    whole = solve(batch, replace(ENGINE, n_starts=3))
    part = solve(batch[np.arange(40, 45)], replace(ENGINE, n_starts=3))
    np.testing.assert_allclose(part.x, whole.x[40:45], atol=1e-7)


def test_warm_starts_take_fewer_iterations_and_lose_nothing() -> None:
    batch = random_batch(11, size=300, n_actions=3, hidden=(32, 32))
    cold = solve(batch, ENGINE)
    warm = solve(replace(batch, starts=cold.x), ENGINE)
    assert warm.certified.all()
    assert warm.iterations.mean() < 0.8 * cold.iterations.mean()
    assert (warm.objective >= cold.objective - 1e-7).mean() > 0.99


def test_starts_outside_the_box_and_the_rows_are_welcome() -> None:
    batch = random_batch(13, size=50, n_actions=3)
    wild = np.random.default_rng(0).normal(size=(50, 2, 3)) * 100
    assert solve(replace(batch, starts=wild), ENGINE).certified.all()


def test_actions_fixed_by_their_rows_have_duals_that_hold_them() -> None:
    """A row ``a_0 <= 0`` on a box from 0 leaves no interior, and its dual must be found again."""
    batch = random_batch(17, size=30, n_actions=3, n_rows=0)
    G = np.array([[1.0, 0.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    h = np.tile([0.0, 0.0, 1.0], (30, 1))
    tied = CriticBatch(batch.critic, batch.states, G, h, np.zeros(3), np.ones(3))
    answer = solve(tied, ENGINE)
    assert answer.certified.all()
    np.testing.assert_allclose(answer.x[:, :2], 0.0, atol=1e-8)
    assert (answer.row_duals >= 0).all()


def test_a_polytope_without_interior_is_solved() -> None:
    """``a_0 + a_1 <= 0.5`` and ``>= 0.5``: a segment."""
    batch = random_batch(19, size=30, n_actions=2, n_rows=0)
    G = np.array([[1.0, 1.0], [-1.0, -1.0]])
    h = np.tile([0.5, -0.5], (30, 1))
    answer = solve(CriticBatch(batch.critic, batch.states, G, h, -np.ones(2), np.ones(2)), ENGINE)
    assert answer.certified.all()
    np.testing.assert_allclose(answer.x.sum(axis=1), 0.5, atol=1e-8)


def test_a_box_of_one_point_is_answered() -> None:
    batch = random_batch(23, size=4, n_actions=2, n_rows=0)
    point = np.array([0.3, -0.2])
    answer = solve(replace(batch, low=point, high=point), ENGINE)
    assert answer.certified.all()
    np.testing.assert_allclose(answer.x, np.tile(point, (4, 1)))


def test_infinite_sides_switch_rows_off() -> None:
    batch = random_batch(29, size=10, n_actions=3, n_rows=2)
    off = solve(replace(batch, h=np.full_like(batch.h, np.inf)), ENGINE)
    without = solve(replace(batch, G=np.zeros((0, 3)), h=np.zeros((10, 0))), ENGINE)
    np.testing.assert_allclose(off.objective, without.objective, atol=1e-8)
    assert off.certified.all()


def test_empty_sets_are_infeasible_and_their_neighbours_unharmed() -> None:
    batch = random_batch(31, size=12, n_actions=3, n_rows=2)
    answer = solve(with_empty_set(batch, 5), ENGINE)
    assert answer.status[5] == Status.INFEASIBLE
    assert np.isnan(answer.x[5]).all()
    assert answer[5].x is None
    assert np.delete(answer.certified, 5).all()
    expected = np.delete(solve(batch, ENGINE).objective, 5)
    np.testing.assert_allclose(np.delete(answer.objective, 5), expected, atol=1e-7)


def test_emptiness_that_only_several_rows_together_show_is_found() -> None:
    batch = random_batch(37, size=3, n_actions=2, n_rows=0)
    G = np.array([[1.0, 1.0], [-1.0, 0.5], [0.5, -1.0]])
    h = np.tile([-0.2, -0.2, -0.2], (3, 1))
    answer = solve(CriticBatch(batch.critic, batch.states, G, h, -np.ones(2), np.ones(2)), ENGINE)
    assert (answer.status == Status.INFEASIBLE).all()
    assert answer.message


def test_relu_critics_and_linear_ones_are_refused_with_the_remedy() -> None:
    with pytest.raises(UnsupportedProblem, match="branch_and_bound"):
        solve(random_batch(41, activation="relu"), ENGINE)
    with pytest.raises(UnsupportedProblem, match="linear program"):
        solve(random_batch(41, hidden=()), ENGINE)


def test_steep_and_flat_critics_end_verified_or_say_that_they_did_not() -> None:
    """Weights a thousand times too large or too small: no answer may claim more than its residuals."""
    for gain in (1e-3, 1e3):
        batch = random_batch(43, size=60, n_actions=3)
        critic = replace(batch.critic, weights=tuple(gain * w for w in batch.critic.weights))
        answer = solve(replace(batch, critic=critic), ENGINE)
        residual = np.asarray(answer.certificate.kkt_residual)
        assert (residual[answer.certified] <= 1e-8).all()
        assert answer.usable.all()
        assert (answer.iterations <= 2 * MAX_ITERATIONS).all()


def test_many_actions_and_wide_layers() -> None:
    batch = random_batch(47, size=5, n_actions=20, n_rows=15, hidden=(100, 50))
    assert solve(batch, ENGINE).certified.all()


@pytest.mark.parametrize("field", ["weights", "states", "h", "starts"])
def test_numbers_that_are_not_finite_never_reach_the_engine(field: str) -> None:
    batch = random_batch(53, size=2)
    if field == "weights":
        bad = batch.critic.weights[1].copy()
        bad[0, 0] = np.nan
        with pytest.raises(InvalidProblem, match=r"weights\[1\].*nan at index \(0, 0\)"):
            replace(batch.critic, weights=(batch.critic.weights[0], bad, batch.critic.weights[2]))
        return
    value = np.zeros((2, batch.n_actions)) if field == "starts" else getattr(batch, field).copy()
    value[1, 0] = np.nan
    with pytest.raises(InvalidProblem, match=field):
        replace(batch, **{field: value})


@pytest.mark.parametrize(("name", "code"), kernel.CODES.items())
def test_compiled_activations_are_accurate(name: str, code: int) -> None:
    """Value and slope against the plain functions, curvature against their central differences."""
    from solver_pool.problem import activate

    z = np.concatenate([np.linspace(-30, 30, 4001), [0.0, -0.0, 1e-12, -1e-12, 700.0, -700.0, 2e3, -2e3]])
    value, slope, curvature = np.empty_like(z), np.empty_like(z), np.empty_like(z)
    kernel.activation_row(code, len(z), z, value, slope, curvature)
    expected, expected_slope = activate(name, z)
    np.testing.assert_allclose(value, expected, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-12, atol=1e-15)
    step = 1e-5
    smooth = (np.abs(z) < 30) & (np.abs(z) > 1e-3)
    difference = (activate(name, z + step)[1] - activate(name, z - step)[1]) / (2 * step)
    np.testing.assert_allclose(curvature[smooth], difference[smooth], atol=1e-8)


def test_gradient_and_hessian_of_the_kernel_meet_finite_differences() -> None:
    """The certificate's gradient is the critic's own; the Newton steps converge quadratically only with
    the right Hessian, so few iterations bound its error."""
    batch = random_batch(59, size=64, n_actions=4, n_rows=3, hidden=(24, 24))
    x = np.random.default_rng(1).uniform(-1, 1, size=(64, 4))
    _, gradient = batch.values_and_gradients(x)
    step = 1e-6
    for j in range(4):
        shift = np.eye(4)[j] * step
        difference = (batch.values(x + shift) - batch.values(x - shift)) / (2 * step)
        np.testing.assert_allclose(gradient[:, j], difference, atol=1e-7)
    assert solve(batch, ENGINE).iterations.mean() < 14


def test_mean_of_critics_is_one_network() -> None:
    members = [random_critic(s, 7, (5, 6), "softplus") for s in range(3)]
    inputs = np.random.default_rng(2).normal(size=(20, 7))
    mean = type(members[0]).mean(members)
    np.testing.assert_allclose(mean(inputs), np.mean([m(inputs) for m in members], axis=0), rtol=1e-13)


def test_the_mean_of_critics_is_solved_as_fast_blocks_and_as_one_dense_network() -> None:
    members = [random_critic(s, 7, (12, 8), "elu") for s in range(3)]
    mean = type(members[0]).mean(members)
    assert mean.blocks == 3
    batch = random_batch(61, size=30, n_states=4, n_actions=3)
    blocked = solve(replace(batch, critic=mean), ENGINE)
    dense = solve(replace(batch, critic=replace(mean, blocks=1)), ENGINE)
    assert blocked.certified.all()
    np.testing.assert_allclose(blocked.objective, dense.objective, rtol=1e-7, atol=1e-7)


def test_entries_off_the_blocks_are_an_error() -> None:
    critic = random_critic(0, 7, (12, 8), "elu")
    with pytest.raises(InvalidProblem, match="blocks"):
        replace(critic, blocks=2)

"""Our own MILP of ReLU critics: bounds that hold, stable neurons removed, and the optimum of OMLT's MILP."""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from solver_pool.backends import critic_milp, highs, solve
from solver_pool.backends.rounding import violation
from solver_pool.errors import BackendUnavailable, UnsupportedProblem
from solver_pool.options import NativeSolver, SolveOptions
from solver_pool.problem import MLP, CriticBatch, MixedIntegerProgram
from solver_pool.solution import Status
from tests.solver_pool.reference_problems import grid_optimum, random_batch, random_critic, with_empty_set

NATIVE = ("highs", "scip")

SHAPES = {  # number of actions, rows, hidden layers
    "no hidden layer": (2, 2, ()),
    "1 action": (1, 0, (12,)),
    "2 actions, 2 rows": (2, 2, (8, 8)),
    "3 actions, 5 rows, 3 layers": (3, 5, (6, 5, 4)),
    "6 actions": (6, 0, (10,)),
}


def ours(native: NativeSolver = "auto", **changes: object) -> SolveOptions:
    return replace(SolveOptions(backend="milp", native_solver=native), **changes)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("native", NATIVE)
def test_the_optimum_is_that_of_omlt(native: NativeSolver, shape: str) -> None:
    n_actions, n_rows, hidden = SHAPES[shape]
    batch = random_batch(6, size=2, n_actions=n_actions, n_rows=n_rows, hidden=hidden, activation="relu")
    solution = solve(batch, ours(native, gap=1e-6))
    reference = solve(batch, SolveOptions(backend="omlt", gap=1e-6))
    assert (solution.status == Status.OPTIMAL).all(), solution.message
    assert solution.objective == pytest.approx(reference.objective, rel=1e-5, abs=1e-5)
    assert (solution.bound >= reference.objective - 1e-9).all()
    assert solution.objective == pytest.approx(batch.values(solution.x), abs=1e-12)
    assert np.asarray(solution.certificate.primal_residual).max() <= 1e-8
    assert (solution.x >= batch.low).all()
    assert (solution.x <= batch.high).all()


@pytest.mark.parametrize(("n_actions", "points"), [(1, 4001), (2, 401)])
@pytest.mark.parametrize("hidden", [(10,), (6, 6), (5, 4, 4)])
def test_no_feasible_point_of_a_dense_grid_is_better(
    hidden: tuple[int, ...], n_actions: int, points: int
) -> None:
    batch = random_batch(2, size=2, n_actions=n_actions, n_rows=2, hidden=hidden, activation="relu")
    solution = solve(batch, ours())
    best = grid_optimum(batch, points)
    assert solution.certified.all(), solution.message
    assert (solution.bound >= best - 1e-9).all()
    assert (solution.objective >= best - 1e-4 * np.maximum(1.0, np.abs(best))).all()


def mean_of_two(activation: str = "relu") -> CriticBatch:
    """A critic of two blocks, with the box ``[-1, 3]``."""
    batch = random_batch(4, size=2, n_actions=2, n_rows=1, hidden=(5, 4), activation=activation)
    critic = MLP.mean([batch.critic, random_critic(8, 6, (5, 4), activation)])
    return replace(batch, critic=critic, high=np.array([1.0, 3.0]))


def test_means_of_critics_and_uneven_boxes() -> None:
    batch = mean_of_two()
    assert batch.critic.blocks == 2
    solution = solve(batch, ours())
    assert solution.certified.all()
    best = grid_optimum(batch, 301)
    assert (solution.objective >= best - 1e-4 * np.maximum(1.0, np.abs(best))).all()
    assert (solution.objective <= best + 0.1).all()


@pytest.mark.parametrize("hidden", [(9,), (16, 16), (8, 8, 8)])
@pytest.mark.parametrize("seed", range(3))
def test_bounds_hold_and_are_tighter_than_intervals(seed: int, hidden: tuple[int, ...]) -> None:
    batch = random_batch(seed, size=1, n_actions=3, hidden=hidden, activation="relu")
    critic = critic_milp.fold(batch, 0).critic
    bounds = critic_milp.layer_bounds(critic)
    corners = np.array(np.meshgrid(*[[0.0, 1.0]] * 3)).reshape(3, -1).T
    x = np.concatenate([corners, np.random.default_rng(0).uniform(size=(5000, 3))])
    below, above, closer = np.zeros(3), np.ones(3), np.zeros(2)
    for (low, high), w, b in zip(bounds, critic.weights, critic.biases, strict=True):
        z = x @ w.T + b
        assert (z >= low).all()
        assert (z <= high).all()
        x = np.maximum(z, 0.0)
        # Of intervals by themselves, from the layer before's bounds.
        middle, radius = w @ (0.5 * (above + below)) + b, np.abs(w) @ (0.5 * (above - below))
        nearer = np.array([low - (middle - radius), middle + radius - high])
        assert (nearer >= -1e-8 * (1.0 + radius)).all()
        closer = np.maximum(closer, (nearer / radius).max(axis=1))
        below, above = np.maximum(low, 0.0), np.maximum(high, 0.0)
    if len(hidden) > 1:
        assert (closer > 0.1).all()


def test_folding_changes_no_value() -> None:
    batch = mean_of_two("tanh")
    folded = critic_milp.fold(batch, 1)
    t = np.random.default_rng(0).uniform(size=(50, 2))
    actions = folded.low + folded.width * t
    states = np.tile(batch.states[1], (50, 1))
    assert folded.critic(t) == pytest.approx(
        batch.critic(np.concatenate([states, actions], axis=1)), abs=1e-12
    )
    assert t @ folded.R.T - folded.l == pytest.approx(actions @ batch.G[1].T - batch.h[1], abs=1e-12)


def test_only_unstable_neurons_have_binaries() -> None:
    # Neurons of t in [0, 1]: t + 1 is always active, -t - 1 never, t - 0.5 depends.
    first = np.array([[0.0, 1.0], [0.0, -1.0], [0.0, 1.0]])
    critic = MLP((first, np.array([[1.0, 5.0, -3.0]])), (np.array([1.0, -1.0, -0.5]), np.zeros(1)), "relu")
    batch = CriticBatch(critic, np.zeros((1, 1)), np.zeros((0, 1)), np.zeros((1, 0)), [0.0], [1.0])
    model = critic_milp.build(critic_milp.fold(batch, 0))
    assert model.n_binaries == 1
    assert [u.tolist() for u in model.unstable] == [[2]]
    solution = solve(batch, ours())
    assert solution.x[0] == pytest.approx([0.5], abs=1e-6)
    assert solution.objective[0] == pytest.approx(1.5, abs=1e-6)


@pytest.mark.parametrize("hidden", [(), (6,), (6, 5)])
def test_points_of_the_critic_are_points_of_the_milp(hidden: tuple[int, ...]) -> None:
    batch = random_batch(1, size=1, n_actions=2, n_rows=0, hidden=hidden, activation="relu")
    folded = critic_milp.fold(batch, 0)
    model = critic_milp.build(folded)
    for t in np.random.default_rng(0).uniform(size=(50, 2)):
        point = critic_milp.point_of(model, folded.critic, t)
        assert violation(model.program, point) <= 1e-12
        assert -model.program.c @ point == pytest.approx(float(folded.critic(t)), abs=1e-12)
        assert float(folded.critic(t)) <= model.bound


def test_the_local_search_is_feasible_and_good() -> None:
    batch = random_batch(0, size=4, n_actions=3, n_rows=3, hidden=(12, 12), activation="relu")
    solution = solve(batch, ours())
    for i in range(4):
        folded = critic_milp.fold(batch, i)
        point, status = critic_milp.local_search(folded, np.empty((0, 3)), highs, SolveOptions())
        assert status is Status.FEASIBLE
        assert point is not None
        assert (folded.R @ point - folded.l).max() <= 1e-8
        reached = float(folded.critic(point))
        assert solution.objective[i] - 0.25 <= reached <= solution.bound[i] + 1e-9


def test_climbing_never_descends_and_puts_the_best_first() -> None:
    batch = random_batch(3, size=1, n_actions=3, n_rows=3, hidden=(12, 12), activation="relu")
    folded = critic_milp.fold(batch, 0)
    points = critic_milp._project(folded, np.random.default_rng(0).uniform(size=(20, 3)), SolveOptions()).x
    climbed, values = critic_milp._climb(folded, points, 0.25, SolveOptions())
    assert (np.diff(values) <= 0.0).all()
    assert values == pytest.approx(folded.critic(climbed))
    assert (values >= np.sort(folded.critic(points))[::-1]).all()
    assert values[0] > folded.critic(points).max()
    assert (climbed @ folded.R.T - folded.l).max() <= 1e-8


def test_the_milp_starts_from_the_local_search(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = random_batch(3, size=1, n_actions=3, n_rows=3, hidden=(12, 12), activation="relu")
    handed = []
    native = highs.solve

    def watched(problem: object, options: SolveOptions) -> object:
        handed.append(problem)
        return native(problem, options)

    monkeypatch.setattr(highs, "solve", watched)
    solve(batch, ours())
    (program,) = (p for p in handed if isinstance(p, MixedIntegerProgram))
    folded = critic_milp.fold(batch, 0)
    point, _ = critic_milp.local_search(folded, np.empty((0, 3)), highs, SolveOptions())
    assert program.start is not None
    assert violation(program, program.start) <= 1e-8
    assert -program.c @ program.start == pytest.approx(float(folded.critic(point)))


@pytest.mark.parametrize("native", NATIVE)
def test_an_empty_set_is_infeasible_and_leaves_the_others_alone(native: NativeSolver) -> None:
    batch = with_empty_set(random_batch(1, hidden=(5,), n_actions=2, n_rows=1, activation="relu"), 1)
    solution = solve(batch, ours(native))
    assert solution.status.tolist() == [Status.OPTIMAL, Status.INFEASIBLE, Status.OPTIMAL]
    assert np.isnan(solution.x[1]).all()
    assert solution[1].x is None
    assert "admit no action" in solution.message


@pytest.mark.parametrize("native", NATIVE)
def test_a_time_limit_limits_and_leaves_a_point_and_a_bound(native: NativeSolver) -> None:
    batch = random_batch(0, size=1, n_states=8, n_actions=6, hidden=(64, 64), activation="relu")
    started = time.perf_counter()
    solution = solve(batch, ours(native, time_limit=1.0))
    assert time.perf_counter() - started < 3.0  # minutes without a limit
    assert solution.status[0] == Status.FEASIBLE
    assert np.asarray(solution.certificate.primal_residual)[0] <= 1e-8
    assert np.isfinite(solution.bound[0])
    assert solution.bound[0] >= solution.objective[0] + 1e-3


def test_a_milp_that_fails_leaves_the_bound_of_the_relaxation(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = random_batch(6, size=1, n_actions=2, n_rows=2, hidden=(8, 8), activation="relu")
    relaxed = critic_milp.build(critic_milp.fold(batch, 0)).bound
    optimum = solve(batch, ours()).objective
    monkeypatch.setattr(highs, "STATUS", {"kOptimal": Status.INFEASIBLE})  # a solver that lies
    solution = solve(batch, ours())
    assert solution.bound == pytest.approx([relaxed])
    assert solution.status[0] == Status.FEASIBLE
    assert solution.objective[0] <= optimum[0] + 1e-9


def test_starts_are_used_and_fixed_actions_stay() -> None:
    batch = random_batch(6, size=2, n_actions=3, n_rows=2, hidden=(8, 8), activation="relu")
    low, high = batch.low.copy(), batch.high.copy()
    low[1] = high[1] = 0.125
    starts = np.random.default_rng(0).uniform(-2.0, 2.0, size=(2, 5, 3))
    pinned = replace(batch, low=low, high=high, h=np.full_like(batch.h, np.inf), starts=starts)
    solution = solve(pinned, ours())
    assert solution.certified.all(), solution.message
    assert (solution.x[:, 1] == 0.125).all()
    one = solve(replace(pinned, starts=starts[:, 0]), ours())
    assert one.objective == pytest.approx(solution.objective, abs=1e-3)


@pytest.mark.parametrize(
    ("activation", "native", "remedy"),
    [("tanh", "auto", "branch_and_bound"), ("relu", "ipopt", "'highs' or 'scip'")],
)
def test_what_does_not_fit_is_refused_with_the_remedy(
    activation: str, native: NativeSolver, remedy: str
) -> None:
    with pytest.raises(UnsupportedProblem, match=remedy):
        solve(random_batch(0, size=1, hidden=(4,), activation=activation), ours(native))


@pytest.mark.parametrize(("module", "native"), [("highspy", "highs"), ("pyscipopt", "scip")])
def test_without_the_library_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, module: str, native: NativeSolver
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendUnavailable, match=f"pip install {module}"):
        solve(random_batch(0, size=1, hidden=(4,), activation="relu"), ours(native))

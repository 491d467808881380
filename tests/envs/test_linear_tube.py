"""Robust MPC as a safe set: no disturbance of W ever breaks a constraint, and the derivative is that of the action.

What is executed is checked against ``F x <= f`` and ``G u <= g`` themselves, never against tightened rows.
"""

from __future__ import annotations

import logging
import pickle
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from algorithms.common.shield import Outcome, shield
from envs.errors import InvalidSetting
from envs.linear_tube import (
    BoxDisturbance,
    Disturbance,
    EllipsoidDisturbance,
    LinearSystem,
    LinearTube,
    PolytopeDisturbance,
    SetPoint,
    Source,
    TubeMPC,
    TubeSafeSet,
    box_rows,
    derivative,
    double_integrator,
    lqr_gain,
    project,
    reference_task,
    reference_tube,
)
from envs.linear_tube.disturbance import Array
from envs.linear_tube.polytope import corners, eliminate, needed
from envs.safe_set import SafeSet, violation
from solver_pool.options import SolveOptions
from solver_pool.pool import SolverPool
from solver_pool.problem import LinearProgram, QuadraticBatch
from solver_pool.solution import BatchSolution, Status

POOL = SolverPool()
ROUNDING = 1e-12
"""Of a state or an input that lies on its constraint."""

SETS: dict[str, Disturbance] = {
    "box": BoxDisturbance(np.array([0.02, 0.04])),
    "ellipsoid": EllipsoidDisturbance(np.array([[6e-4, 2e-4], [2e-4, 2.4e-3]])),
    "polytope": PolytopeDisturbance(np.array([[0.025, 0.02], [-0.02, 0.045], [-0.01, -0.05], [0.02, -0.03]])),
}


@cache
def built(name: str) -> TubeSafeSet:
    """The explicit safe set of the specification's system under one of `SETS`."""
    if name == "box":
        return reference_task().safe_set
    system = double_integrator(SETS[name])
    return TubeSafeSet(TubeMPC(system, lqr_gain(system, np.eye(2), 0.5 * np.eye(2)), terminal=15))


def exceeded(system: LinearSystem, states: Array, inputs: Array) -> float:
    """By how much any state or input is outside its own constraints."""
    return max(float((states @ system.F.T - system.f).max()), float((inputs @ system.G.T - system.g).max()))


def adversary(safe_set: TubeSafeSet, nominal: Array) -> Array:
    """The disturbance that brings each nominal next state ``(B, n)`` nearest to the edge of the feasible set."""
    H, c = safe_set.feasible
    W = safe_set.tube.system.disturbance
    return W.worst(H[(c - nominal @ H.T - W.support(H)).argmin(axis=1)])


class Unreliable(SolverPool):
    """A pool whose QP solver gives up on a share of the programs of every batch."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share, self.generator = share, np.random.default_rng(0)

    def solve(self, problems: Any, options: SolveOptions = SolveOptions(), *args: Any, **kwargs: Any) -> Any:
        answer = super().solve(problems, options, *args, **kwargs)
        if not isinstance(answer, BatchSolution):
            return answer
        lost = self.generator.random(len(answer)) < self.share
        return replace(
            answer,
            status=np.where(lost, Status.ERROR, answer.status).astype(np.int8),
            x=np.where(lost[:, None], np.nan, answer.x),
            row_duals=np.where(lost[:, None], np.nan, answer.row_duals),
            message="gave up",
        )


# Disturbance sets.


@pytest.mark.parametrize("name", SETS)
def test_the_support_function_is_the_largest_value_and_worst_attains_it(name: str) -> None:
    W, rng = SETS[name], np.random.default_rng(0)
    directions = rng.standard_normal((5, 7, 2))
    dense = np.vstack([W.extreme(rng, 20_000), W.sample(rng, 5_000)])
    reached = (directions @ dense.T).max(axis=-1)
    assert W.support(directions).shape == (5, 7)
    assert (reached <= W.support(directions) + 1e-15).all(), "no point of W is beyond its support"
    np.testing.assert_allclose(reached, W.support(directions), rtol=1e-4)
    np.testing.assert_allclose((W.worst(directions) * directions).sum(-1), W.support(directions), rtol=1e-12)
    many = rng.standard_normal((200, 2))
    assert ((W.worst(directions).reshape(-1, 2) @ many.T) <= W.support(many) + 1e-15).all(), "worst is in W"
    assert np.isfinite(W.worst(np.zeros((3, 2)))).all()
    assert W.support(np.zeros(2)) == 0


def test_an_ellipsoid_may_be_flat() -> None:
    W = EllipsoidDisturbance(np.array([[4.0, 0.0], [0.0, 0.0]]))
    np.testing.assert_allclose(W.support(np.eye(2)), [2.0, 0.0])
    assert (W.sample(np.random.default_rng(0), 50)[:, 1] == 0).all()


# Tightened rows.


@pytest.mark.parametrize("name", SETS)
def test_the_levels_are_what_the_worst_sequence_of_disturbances_leaves(name: str) -> None:
    """Against every sequence of four extreme points, played through the closed loop."""
    tube, rng = built(name).tube, np.random.default_rng(0)
    W = tube.system.disturbance
    if isinstance(W, BoxDisturbance):
        points = np.array(list(product([-1, 1], repeat=2))) * W.half_width
    elif isinstance(W, PolytopeDisturbance):
        points = W.vertices
    else:
        points = W.extreme(rng, 16)
    start = np.concatenate([tube.system.f, tube.system.g])
    sequences = np.array(list(product(range(len(points)), repeat=4)))
    state = np.zeros((len(sequences), 2))
    for i in range(4):
        attained = start - (state @ tube.outputs.T).max(axis=0)
        assert (attained >= tube.levels[i] - 1e-15).all(), "no sequence passes the level"
        tolerance = 1e-15 if name != "ellipsoid" else 0.05
        np.testing.assert_allclose(attained, tube.levels[i], atol=tolerance)
        state = state @ tube.closed_loop.T + points[sequences[:, i]]
    assert (np.diff(tube.levels, axis=0) <= 0).all()
    assert (tube.limit <= tube.levels[-1] + 1e-15).all()
    assert (tube.limit > 0).all()


def test_the_rows_that_are_kept_imply_all_others_for_ever() -> None:
    """Boundary points of the kept rows, their nominal states simulated far beyond ``N + nu``."""
    tube, rng = reference_tube(), np.random.default_rng(0)
    system, N = tube.system, tube.horizon
    assert len(tube.c) == 52, "of 376"
    H = np.hstack([tube.Hx, tube.Hz])
    direction = rng.standard_normal((3000, H.shape[1])) * rng.choice([0.1, 1.0], (3000, H.shape[1]))
    reach = direction @ H.T
    far = (
        direction * np.where(reach > 0, tube.c / np.where(reach > 0, reach, 1.0), np.inf).min(axis=1)[:, None]
    )
    state, plans = far[:, :2], far[:, 2:].reshape(-1, N, 2)
    level, image = np.concatenate([system.f, system.g]), np.vstack([system.F, system.G @ tube.gain])
    touched = -np.inf
    for i in range(150):
        v = plans[:, i] if i < N else np.zeros((len(state), 2))
        inputs = state @ tube.gain.T + v
        slack = level - np.hstack([state @ system.F.T, inputs @ system.G.T])
        touched = max(touched, float(-slack.min()))
        assert slack.min() >= -1e-9
        state = state @ system.A.T + inputs @ system.B.T
        level = level - system.disturbance.support(image)
        image = image @ tube.closed_loop
    assert touched >= -1e-9, "the points are on the boundary"


def test_a_plan_holds_without_replanning() -> None:
    """The correction v_i is added to K x_i of the true state: the tube keeps every trajectory inside."""
    safe_set, rng = built("box"), np.random.default_rng(3)
    tube, system = safe_set.tube, safe_set.tube.system
    state = np.repeat(safe_set.sample(rng, 100), 20, axis=0)
    plans = project(tube, state, np.repeat(rng.uniform(-3, 3, (100, 2)), 20, axis=0), POOL).plans
    for i in range(60):
        inputs = state @ tube.gain.T + (plans[:, i] if i < tube.horizon else 0.0)
        assert exceeded(system, state, inputs) <= ROUNDING
        state = system.step(state, inputs, system.disturbance.extreme(rng, len(state)))


# Recursive feasibility.


def random_tube(rng: np.random.Generator) -> TubeMPC | None:
    """A tube for a random system, or None where its disturbance leaves nothing or the gain is too slow."""
    n, m = int(rng.integers(1, 4)), int(rng.integers(1, 3))
    A = rng.standard_normal((n, n))
    A *= rng.uniform(0.5, 1.2) / max(np.abs(np.linalg.eigvals(A)).max(), 1e-3)
    F, f = box_rows(rng.uniform(0.5, 2.0, n))
    G, g = box_rows(rng.uniform(0.5, 2.0, m))
    width = rng.uniform(0.0, 0.05, n)
    kinds: list[Disturbance] = [
        BoxDisturbance(width),
        EllipsoidDisturbance(np.diag(width**2)),
        PolytopeDisturbance(rng.standard_normal((n + 2, n)) * width),
    ]
    system = LinearSystem(A, rng.standard_normal((n, m)), F, f, G, g, kinds[int(rng.integers(3))])
    try:
        return TubeMPC(system, lqr_gain(system, np.eye(n), 0.5 * np.eye(m)), horizon=3, terminal=10)
    except InvalidSetting as error:
        if error.field in ("terminal", "disturbance", "state_weight"):
            return None
        raise


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1))
def test_the_shifted_plan_is_feasible_whatever_the_disturbance(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tube = random_tube(rng)
    assume(tube is not None)
    assert tube is not None
    safe_set = TubeSafeSet(tube)
    system, W = tube.system, tube.system.disturbance
    state = np.vstack(
        [safe_set.sample(rng, 60), safe_set.vertices[rng.integers(len(safe_set.vertices), size=20)]]
    )
    result = project(tube, state, rng.uniform(-4, 4, (80, system.m)), POOL)
    assert (result.source == Source.PROJECTED).all()
    nominal = system.step(state, result.actions, np.zeros_like(state))
    for w in (adversary(safe_set, nominal), W.extreme(rng, 80), W.sample(rng, 80)):
        following = nominal + w
        assert exceeded(system, following, result.actions) <= 1e-9
        assert (tube.violation(following, tube.shifted(result.plans)) <= 1e-9).all()
        assert safe_set.contains(following).all(), "the explicit feasible set is invariant"


@pytest.mark.parametrize(("name", "rollouts"), [("box", 1000), ("ellipsoid", 250), ("polytope", 250)])
def test_a_thousand_rollouts_under_the_worst_disturbances(name: str, rollouts: int) -> None:
    safe_set, rng = built(name), np.random.default_rng(1)
    tube, system = safe_set.tube, safe_set.tube.system
    state, plans = safe_set.sample(rng, rollouts), None
    changed = touching = 0
    for _ in range(100):
        proposals = rng.uniform(-3, 3, (rollouts, 2))
        result = project(tube, state, proposals, POOL, previous=plans)
        plans = result.plans
        nominal = system.step(state, result.actions, np.zeros_like(state))
        attacked = rng.random((rollouts, 1)) < 0.7
        state = nominal + np.where(
            attacked, adversary(safe_set, nominal), system.disturbance.extreme(rng, rollouts)
        )
        assert exceeded(system, state, result.actions) <= ROUNDING
        assert (result.source == Source.PROJECTED).all()
        changed += int((np.abs(result.actions - proposals).max(axis=1) > 1e-6).sum())
        touching += int(((system.f - state @ system.F.T).min(axis=1) < 1e-6).sum())
    assert changed > 90 * rollouts, "nearly every proposal was unsafe"
    assert touching > 10 * rollouts, "the attack reaches the constraints, so that the test could fail"


def test_a_tube_for_too_small_a_disturbance_is_broken() -> None:
    """So that the test above can fail: what the tightening leaves out is used by the attack."""
    small = double_integrator(BoxDisturbance(np.array([0.018, 0.036])))
    safe_set = TubeSafeSet(TubeMPC(small, lqr_gain(small, np.eye(2), 0.5 * np.eye(2)), terminal=15))
    rng, worst = np.random.default_rng(1), -np.inf
    truth = double_integrator()
    state = safe_set.sample(rng, 100)
    for _ in range(20):
        actions = project(safe_set.tube, state, rng.uniform(-3, 3, (100, 2)), POOL).actions
        nominal = truth.step(state, actions, np.zeros_like(state))
        worst = max(worst, float((nominal @ truth.F.T + truth.disturbance.support(truth.F) - truth.f).max()))
        state = nominal + adversary(safe_set, nominal)
    assert worst > 1e-3


# When solvers give up.


def test_the_shifted_plan_stands_in_for_a_solver_that_gives_up(caplog: pytest.LogCaptureFixture) -> None:
    safe_set, rng, pool = built("box"), np.random.default_rng(2), Unreliable(0.4)
    tube, system = safe_set.tube, safe_set.tube.system
    state = safe_set.sample(rng, 200)
    plans, shifted = None, 0
    with caplog.at_level(logging.WARNING):
        for _ in range(60):
            now = POOL if plans is None else pool
            result = project(tube, state, rng.uniform(-3, 3, (200, 2)), now, previous=plans)
            lost = result.source == Source.SHIFTED
            shifted += int(lost.sum())
            assert ((result.source == Source.PROJECTED) | lost).all()
            assert (result.status[lost] == Status.ERROR).all()
            if plans is not None:  # u = K x + v_1 of the plan before
                np.testing.assert_array_equal(result.actions[lost], (state @ tube.gain.T + plans[:, 1])[lost])
            assert not result.M[lost].any(), "such an action does not depend on the proposal"
            plans = result.plans
            nominal = system.step(state, result.actions, np.zeros_like(state))
            state = nominal + adversary(safe_set, nominal)
            assert exceeded(system, state, result.actions) <= ROUNDING
    assert shifted > 0.3 * 60 * 200
    assert "The solver gave up on" in caplog.text
    assert "shifted plan executed, first at state [" in caplog.text


def test_without_a_previous_plan_a_linear_program_finds_one(caplog: pytest.LogCaptureFixture) -> None:
    safe_set, rng = built("box"), np.random.default_rng(2)
    state = np.vstack([safe_set.sample(rng, 10), safe_set.vertices * (1.0 + 0.99e-9)])
    assert safe_set.contains(state).all()
    assert (project(safe_set.tube, state, np.zeros_like(state), POOL).source != Source.EMPTY).all()
    none = np.full((len(state), 6, 2), np.nan)
    for previous in (None, none):
        result = project(safe_set.tube, state, np.zeros_like(state), Unreliable(1.0), previous=previous)
        assert (result.source == Source.REPLANNED).all()
        assert violation(safe_set, state, result.actions).max() <= 1e-8
        assert not result.multipliers.any()
    assert "replanned plan executed" in caplog.text


def test_an_empty_safe_set_is_named_with_its_rows_and_the_choice(caplog: pytest.LogCaptureFixture) -> None:
    safe_set = built("box")
    fast = np.array([0.9, 0.75])  # inside its constraints, but too fast to stop before x_1 = 1
    state = np.array([[0.0, 0.0], fast])
    assert exceeded(safe_set.tube.system, state, np.zeros((2, 2))) < 0
    assert safe_set.contains(state).tolist() == [True, False]
    result = project(safe_set.tube, state, np.zeros((2, 2)), POOL)
    assert result.status.tolist() == [Status.OPTIMAL, Status.INFEASIBLE]
    assert result.source.tolist() == [Source.PROJECTED, Source.EMPTY]
    np.testing.assert_allclose(result.actions[0], 0.0, atol=1e-12)
    assert exceeded(safe_set.tube.system, state, result.actions) <= ROUNDING, "the input keeps its limits"
    assert "state 1 of the batch is [0.9, 0.75], outside the feasible set" in caplog.text
    assert "The fallback is u = [" in caplog.text
    assert f"F[0] x_2 <= {safe_set.tube.levels[2, 0]:.6g} (nominal" in caplog.text
    caplog.clear()
    np.testing.assert_allclose(safe_set.fallback(state)[1], result.actions[1], atol=1e-15)
    assert "state 1 of the batch is [0.9, 0.75], outside the feasible set" in caplog.text
    with pytest.raises(InvalidSetting, match=r"state: is \[0\.9, 0\.75\], where the safe set is empty"):
        LinearTube().reset(options={"state": fast})


# The derivative.


def test_the_derivative_agrees_with_finite_differences_and_with_the_explicit_rows() -> None:
    safe_set, rng = built("box"), np.random.default_rng(5)
    tube, step = safe_set.tube, 1e-6
    state, proposals = safe_set.sample(rng, 600), rng.uniform(-3, 3, (600, 2))
    result = project(tube, state, proposals, POOL)
    numeric = np.empty((600, 2, 2))
    for j in range(2):
        d = step * np.eye(2)[j]
        ahead, behind = (project(tube, state, proposals + s * d, POOL).actions for s in (1.0, -1.0))
        numeric[:, :, j] = (ahead - behind) / (2 * step)
    np.testing.assert_allclose(derivative(tube, result.multipliers, tube.rho), numeric, atol=5e-8)
    np.testing.assert_allclose(result.M, numeric, atol=2e-6)  # differs by rho
    np.testing.assert_allclose(result.M @ result.M, result.M, atol=1e-12)
    np.testing.assert_array_equal(result.M, result.M.swapaxes(1, 2))
    ranks = np.round(np.trace(result.M, axis1=1, axis2=2)).astype(int)
    assert (np.bincount(ranks) > 20).all()
    assert len(np.bincount(ranks)) == 3

    G, h = safe_set.rows(state)
    plane = POOL.solve(QuadraticBatch(np.eye(2), -proposals, G, h, safe_set.low, safe_set.high))
    for i in range(600):
        active = [*G[plane.row_duals[i] > 1e-9], *np.eye(2)[plane.bound_duals[i] != 0]]
        normal = np.array(active).reshape(-1, 2)
        np.testing.assert_allclose(result.M[i], np.eye(2) - np.linalg.pinv(normal) @ normal, atol=1e-9)


# Explicit rows.


@pytest.mark.parametrize("name", SETS)
def test_the_explicit_rows_are_the_first_inputs_of_all_plans(name: str) -> None:
    """Support functions of both, by linear programs, in random directions at random states."""
    safe_set, rng = built(name), np.random.default_rng(6)
    tube = safe_set.tube
    assert isinstance(safe_set, SafeSet)
    state = np.vstack([safe_set.sample(rng, 40), 0.999 * safe_set.vertices])
    G, h = safe_set.rows(state)
    size = tube.Hz.shape[1]
    for x, own, room in zip(state, h, tube.room(state), strict=True):
        a = rng.standard_normal(2)
        wide = np.full(size, np.inf)
        plane = POOL.solve(LinearProgram(-a, G, np.full(len(G), -np.inf), own, safe_set.low, safe_set.high))
        objective = np.concatenate([-a, np.zeros(size - 2)])
        plan = POOL.solve(LinearProgram(objective, tube.Hz, np.full(len(room), -np.inf), room, -wide, wide))
        assert plane.status == plan.status == Status.OPTIMAL
        assert plane.objective == pytest.approx(plan.objective - a @ tube.gain @ x, abs=1e-8)


def test_inputs_that_share_a_limit_keep_it() -> None:
    """A diamond of inputs, which no box describes: its rows join those of the next state."""
    diamond = np.array(list(product([-1.0, 1.0], repeat=2)))
    system = replace_system(double_integrator(), G=diamond, g=np.full(4, 1.2))
    tube = TubeMPC(system, lqr_gain(system, np.eye(2), 0.5 * np.eye(2)))
    safe_set, rng = TubeSafeSet(tube), np.random.default_rng(9)
    state, proposals = safe_set.sample(rng, 300), rng.uniform(-3, 3, (300, 2))
    np.testing.assert_allclose([safe_set.low, safe_set.high], [[-1.2, -1.2], [1.2, 1.2]])
    G, h = safe_set.rows(state)
    plane = POOL.solve(QuadraticBatch(np.eye(2), -proposals, G, h, safe_set.low, safe_set.high))
    np.testing.assert_allclose(project(tube, state, proposals, POOL).actions, plane.x, atol=1e-6)
    assert np.abs(plane.x).sum(axis=1).max() == pytest.approx(1.2, abs=1e-12)


def test_projections_by_both_agree() -> None:
    safe_set, rng = built("box"), np.random.default_rng(7)
    state, proposals = safe_set.sample(rng, 500), rng.uniform(-3, 3, (500, 2))
    G, h = safe_set.rows(state)
    plane = POOL.solve(QuadraticBatch(np.eye(2), -proposals, G, h, safe_set.low, safe_set.high))
    result = project(safe_set.tube, state, proposals, POOL)
    assert plane.certified.all()
    np.testing.assert_allclose(result.actions, plane.x, atol=1e-6)  # differs by rho
    assert violation(safe_set, state, result.actions).max() <= 1e-12


def test_the_vertex_law_is_safe_everywhere_without_a_solver() -> None:
    safe_set, rng = built("box"), np.random.default_rng(8)
    state = np.vstack([safe_set.sample(rng, 3000), safe_set.vertices, np.zeros((1, 2))])
    actions = safe_set.fallback(state)
    assert violation(safe_set, state, actions).max() <= 1e-12
    np.testing.assert_array_equal(actions[-1], 0.0)
    system = safe_set.tube.system
    for _ in range(50):
        actions = safe_set.fallback(state)
        nominal = system.step(state, actions, np.zeros_like(state))
        state = nominal + adversary(safe_set, nominal)
        assert exceeded(system, state, actions) <= ROUNDING


def test_outside_its_constraints_a_state_is_offered_the_way_back() -> None:
    safe_set = built("box")
    state = np.array([[1.01, -0.3]])
    assert not safe_set.contains(state)[0]
    G, h = safe_set.rows(state)
    found = POOL.solve(QuadraticBatch(np.eye(2), np.zeros((1, 2)), G, h, safe_set.low, safe_set.high))
    following = safe_set.tube.system.step(state, found.x, np.zeros((1, 2)))
    following = following + adversary(safe_set, following)
    assert exceeded(safe_set.tube.system, following, found.x) <= ROUNDING


def test_redundant_rows_and_projections_of_a_known_polytope() -> None:
    """The cross-polytope in three dimensions: its shadow is the cross-polytope in two."""
    H = np.array(list(product([-1.0, 1.0], repeat=3)))
    more = np.vstack([H, [[0.9, 0.9, 0.9], [0.99, 0, 0], [1, 1, 1]], np.zeros((1, 3))])
    assert needed(more, np.ones(len(more)), POOL).tolist() == list(range(8))
    shadow, level = eliminate(H, np.ones(8), 1)
    np.testing.assert_allclose(level, 1.0)
    assert sorted(map(tuple, np.round(shadow, 12))) == sorted(product([-1.0, 1.0], repeat=2))
    vertices, facets = corners(H, np.ones(8))
    assert sorted(map(tuple, np.abs(np.round(vertices, 12)))) == sorted([(0, 0, 1), (0, 1, 0), (1, 0, 0)] * 2)
    assert facets.shape == (8, 3)
    assert eliminate(H, np.ones(8), 2)[0].tolist() == [[-1.0], [1.0]]


# The environment.


@pytest.mark.filterwarnings(
    "ignore:.*infinity", "ignore:.*symmetric and normalized", "ignore:.*normalized space"
)
def test_gymnasium_accepts_the_environment() -> None:
    check_env(gym.make("solverl/LinearTube-v0", render_mode="rgb_array").unwrapped)


@pytest.mark.parametrize("disturbance", ["random", "extreme"])
def test_a_shielded_episode_never_violates_and_an_unshielded_one_does(disturbance: Any) -> None:
    rng, env = np.random.default_rng(0), LinearTube(disturbance=disturbance)
    system, outcomes = env.safe_set.tube.system, set()
    for mode in ("repair", "raw"):
        state, info = env.reset(seed=1)
        assert not info["cost"].any()
        cost, truncated, steps = 0.0, False, 0
        while not truncated:
            wish = rng.uniform(-2, 2, (1, 2))
            done = shield(env.safe_set, state[None], wish, POOL, mode)  # type: ignore[arg-type]
            outcomes.add(int(done.outcome[0]))
            following, reward, terminated, truncated, info = env.step(done.actions[0])
            u, w = done.actions[0], info["disturbance"]
            np.testing.assert_allclose(following, system.A @ state + system.B @ u + w, atol=1e-15)
            assert reward == pytest.approx(-((state - [0.9, 0.0]) ** 2).sum() - 0.05 * (u**2).sum())
            assert (np.abs(w) <= [0.02, 0.04]).all()
            assert disturbance == "random" or np.abs(w).tolist() == [0.02, 0.04]
            expected = np.concatenate(
                [following - [1, 0.8], -following - [1, 0.8], u - [1, 0.6], -u - [1, 0.6]]
            )
            np.testing.assert_allclose(info["cost"], np.maximum(expected, 0.0), atol=1e-15)
            cost, steps, state = cost + info["cost"].max(), steps + 1, following
            assert not terminated
        assert steps == 100
        assert cost == 0 if mode == "repair" else cost > 0.1
        with pytest.raises(ResetNeeded):
            env.step(np.zeros(2))
    assert Outcome.REPAIRED in outcomes
    assert Outcome.FALLBACK not in outcomes


def test_a_seed_fixes_an_episode() -> None:
    def states(seed: int) -> list[list[float]]:
        env = LinearTube()
        first, _ = env.reset(seed=seed)
        return [first.tolist(), *(env.step(np.zeros(2))[0].tolist() for _ in range(5))]

    assert states(3) == states(3) != states(4)
    env = LinearTube()
    assert env.reset(options={"state": [0.1, -0.2]})[0].tolist() == [0.1, -0.2]


def test_the_picture_changes_with_the_episode() -> None:
    env = LinearTube(render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    env.step(np.array([0.5, 0.5]))
    second = env.render()
    assert first is not None
    assert second is not None
    assert first.shape == second.shape == (480, 640, 3)
    assert (first != second).any()
    assert LinearTube().render() is None


def test_tubes_and_safe_sets_travel() -> None:
    safe_set = pickle.loads(pickle.dumps(built("box")))
    state = np.array([[0.3, 0.1]])
    np.testing.assert_array_equal(safe_set.rows(state)[1], built("box").rows(state)[1])


# Bad input.


def test_unusable_settings_are_named_with_their_remedy() -> None:
    good = double_integrator()
    gain = lqr_gain(good, np.eye(2), 0.5 * np.eye(2))
    unstable = replace_system(good, A=2 * np.eye(2), B=np.array([[1.0], [0.0]]), G=[[1.0], [-1.0]], g=[1, 1])
    wide = TubeMPC(replace_system(good, disturbance=BoxDisturbance(np.array([0.02, 0.0]))), gain)
    cases: list[tuple[Any, str]] = [
        (
            lambda: BoxDisturbance(np.array([[0.1, 0.2]])),
            r"half_width: has shape \(1, 2\), expected \(any,\)",
        ),
        (lambda: BoxDisturbance(np.array([-0.1])), r"half_width: is \[-0\.1\]"),
        (lambda: EllipsoidDisturbance(np.ones((2, 3))), r"shape: has shape \(2, 3\), expected \(2, 2\)"),
        (lambda: EllipsoidDisturbance(np.array([[1.0, 0.0], [1.0, 1.0]])), "shape: is not symmetric"),
        (lambda: EllipsoidDisturbance(np.diag([1.0, -1.0])), "shape: has the eigenvalue -1"),
        (lambda: PolytopeDisturbance(np.ones(3)), r"vertices: has shape \(3,\), expected \(any, any\)"),
        (lambda: PolytopeDisturbance(np.array([[np.nan, 0.0]])), r"vertices: is nan at index \(0, 0\)"),
        (
            lambda: double_integrator(BoxDisturbance(np.ones(3))),
            "disturbance: has 3 coordinates, the state has 2",
        ),
        (lambda: replace_system(good, disturbance=np.ones(2)), "disturbance: is a ndarray"),
        (lambda: replace_system(good, F=[[1.0, np.inf]] * 4), r"F: is inf at index \(0, 1\)"),
        (lambda: replace_system(good, f=[1.0, 0.8, np.nan, 0.8]), r"f: is nan at index \(2,\)"),
        (lambda: replace_system(good, G=np.ones((4, 3))), r"G: has shape \(4, 3\), expected \(any, 2\)"),
        (lambda: replace_system(good, g=[1.0, 0.6, -1.0, 0.6]), r"g: is -1 at index 2\. The origin must be"),
        (lambda: replace_system(good, F=[[1.0, 0.0]], f=[1.0]), "F: does not bound coordinate 0 below"),
        (lambda: lqr_gain(unstable, np.eye(2), np.eye(1)), "state_weight: gives a Riccati equation without"),
        (lambda: TubeMPC(good, np.zeros((2, 2))), r"gain: leaves A \+ B K with the spectral radius 1\."),
        (lambda: TubeMPC(good, np.zeros((2, 3))), r"gain: has shape \(2, 3\), expected \(2, 2\)"),
        (
            lambda: TubeMPC(double_integrator(BoxDisturbance(np.array([0.1, 0.2]))), gain),
            r"disturbance: leaves nothing of g\[1\] = 0\.6: g_inf\[1\] is -0\.54",
        ),
        (
            lambda: TubeMPC(
                replace_system(good, disturbance=BoxDisturbance(np.full(2, 1e-4))), 0.1 * gain, terminal=1
            ),
            "terminal: is 1, but row .*Allow more terminal steps",
        ),
        (lambda: TubeMPC(good, gain, horizon=0), "horizon: is 0"),
        (lambda: TubeMPC(good, gain, rho=0.0), r"rho: is 0\.0"),
        (lambda: project(wide, np.array([[0.0, np.nan]]), np.zeros((1, 2)), POOL), "states: of index 0 are"),
        (lambda: project(wide, np.zeros((1, 2)), np.zeros((1, 3)), POOL), r"proposals: have shape \(1, 3\)"),
        (lambda: project(wide, np.zeros((1, 2)), np.zeros((3, 2)), POOL), "proposals: are 3 for 1 states"),
        (
            lambda: project(wide, np.zeros((1, 2)), np.zeros((1, 2)), POOL, previous=np.zeros((1, 6))),
            r"previous: has shape \(1, 6\), expected \(1, 6, 2\)",
        ),
        (lambda: built("box").rows(np.zeros(2)), r"observations: have shape \(2,\), expected \(B, 2\)"),
        (lambda: SetPoint(built("box"), np.zeros(3)), r"target: has shape \(3,\), expected \(2,\)"),
        (lambda: SetPoint(built("box"), np.zeros(2), steps=0), "steps: is 0"),
        (lambda: LinearTube(disturbance="none"), "disturbance: is 'none'"),  # type: ignore[arg-type]
        (lambda: LinearTube().step(np.array([np.nan, 0.0])), r"action: of index 0 are \[nan, 0\.0\]"),
    ]
    for make, message in cases:
        with pytest.raises(InvalidSetting) as error:
            pytest.fail(f"accepted {make()}, where the error should say {message!r}")
        error.match(message)


def replace_system(system: LinearSystem, **changes: Any) -> LinearSystem:
    names = ("A", "B", "F", "f", "G", "g", "disturbance")
    return LinearSystem(**{name: changes.get(name, getattr(system, name)) for name in names})


def test_the_vector_environment_equals_single_ones_with_its_seeds() -> None:
    vector = gym.make_vec("solverl/LinearTube-v0", num_envs=3, vectorization_mode="vector_entry_point")
    singles = [gym.make("solverl/LinearTube-v0") for _ in range(3)]
    rng = np.random.default_rng(0)
    states, _ = vector.reset(seed=5)
    np.testing.assert_array_equal(states, [env.reset(seed=5 + i)[0] for i, env in enumerate(singles)])
    for t in range(100):
        actions = rng.uniform(-1.0, 1.0, (3, 2))
        states, rewards, terminated, truncated, infos = vector.step(actions)
        played = [env.step(action) for env, action in zip(singles, actions, strict=True)]
        np.testing.assert_allclose(states, [p[0] for p in played], atol=1e-15)
        np.testing.assert_allclose(rewards, [p[1] for p in played], atol=1e-14)
        np.testing.assert_allclose(infos["cost"], [p[4]["cost"] for p in played], atol=1e-14)
        assert not terminated.any()
        assert (truncated == (t == 99)).all()
    states, rewards, _, truncated, _ = vector.step(actions)  # ignored: the episodes begin anew
    np.testing.assert_array_equal(states, [env.reset()[0] for env in singles])
    assert not rewards.any()
    assert not truncated.any()


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda env: env.step(np.zeros((2, 2))), "No episode has begun"),
        (
            lambda env: (env.reset(seed=0), env.step(np.zeros((3, 2)))),
            "actions: are 3. Give one for each of 2",
        ),
        (lambda env: (env.reset(seed=0), env.step(np.full((2, 2), np.nan))), "actions"),
        (lambda env: env.reset(seed=[1, 2, 3]), "seed: has 3 entries"),
    ],
)
def test_the_vector_environment_names_bad_input(act: Any, message: str) -> None:
    env = gym.make_vec("solverl/LinearTube-v0", num_envs=2, vectorization_mode="vector_entry_point")
    with pytest.raises((InvalidSetting, ResetNeeded), match=message):
        act(env)


def test_features_are_distances_to_the_target() -> None:
    env = gym.make("solverl/LinearTube-v0").unwrapped
    encoder = env.encoder  # type: ignore[attr-defined]
    np.testing.assert_allclose(encoder.encode(np.array([[0.9, 0.0]])), 0.0)
    features = encoder.encode(reference_task().safe_set.vertices)
    assert 0.9 < np.abs(features).max() < 2.5

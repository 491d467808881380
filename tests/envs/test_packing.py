"""The packing problem: against enumeration, its baselines, and the environment that hides its objective."""

from __future__ import annotations

import itertools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

import envs
from envs.cutting_planes import MasterSettings
from envs.cutting_planes.graph import VARIABLE_FEATURES
from envs.errors import InvalidSetting
from envs.packing import (
    Packing,
    PackingEnv,
    draw_packing,
    frank_wolfe,
    global_optimum,
    linearised,
    local_search,
    random_cuts,
)
from solver_pool.solution import Status

assert envs


def drawn(seed: int, items: int) -> Packing:
    return draw_packing(np.random.default_rng(seed), items)


def every_plan(instance: Packing) -> np.ndarray:
    bits = np.array(list(itertools.product([0.0, 1.0], repeat=len(instance))))
    return bits[bits @ instance.k <= instance.p]


def best(instance: Packing) -> float:
    return max(instance.objective(x) for x in every_plan(instance))


def test_the_generator_draws_what_it_says() -> None:
    instance = drawn(0, 400)
    assert np.linalg.eigvalsh(instance.A).min() > -1e-12
    assert np.diag(instance.A).mean() == pytest.approx(1.0, abs=0.05), "A_ii is a mean of N squares"
    assert (instance.b.mean(), instance.b.std()) == (pytest.approx(0, abs=0.15), pytest.approx(1, abs=0.1))
    assert 0 <= instance.k.min() < 0.02 < 0.98 < instance.k.max() <= 1
    assert instance.p == pytest.approx(instance.k.sum() / 2)
    again, other = drawn(0, 400), drawn(1, 400)
    np.testing.assert_array_equal(instance.A, again.A)
    assert not np.array_equal(instance.b, other.b)


def test_the_objective_is_equation_11() -> None:
    instance = Packing(np.array([[2.0, -1], [-1, 3]]), np.array([0.5, -4.0]), np.ones(2), 1.0)
    points = [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert [instance.objective(np.array(x, dtype=float)) for x in points] == [1.0, 3.5, 0.0, 0.5]
    assert instance.violation(np.array([1.0, 1.0])) == 1.0
    assert instance.violation(np.array([0.25, 0.0])) == 0.25
    assert instance.violation(np.array([1.0, 0.0])) == 0.0
    assert instance.violation(np.array([1.0, np.nan])) == np.inf
    assert instance.violation(np.array([1.0])) == np.inf
    np.testing.assert_array_equal(instance.features, [[2, 1, 0.5, 1, 0.5], [3, 2, -4, 1, 0.5]])


@pytest.mark.parametrize("seed", range(4))
def test_baselines_against_enumeration(seed: int) -> None:
    instance, rng = drawn(seed, 10), np.random.default_rng(0)
    optimum = best(instance)
    lin = linearised(instance)
    assert instance.b @ lin == pytest.approx(max(instance.b @ x for x in every_plan(instance)), abs=1e-5)
    answer = global_optimum(instance, time_limit=30.0)
    assert (answer.status, answer.objective) == (Status.OPTIMAL, pytest.approx(optimum, rel=1e-4))
    assert answer.bound >= optimum * (1 - 1e-9)
    assert instance.objective(local_search(instance, rng)) == pytest.approx(optimum)
    plans = [
        lin,
        answer.plan,
        local_search(instance, rng),
        frank_wolfe(instance, rng),
        random_cuts(instance, rng),
    ]
    for plan in plans:
        assert instance.violation(plan) == 0.0
        assert instance.objective(plan) <= optimum + 1e-9
    assert instance.objective(plans[3]) >= instance.objective(lin) - 1e-9
    assert instance.objective(plans[3]) >= 0.85 * optimum


def test_the_order_of_the_baselines_at_fifty_items() -> None:
    """The specification's table: linearised 0.44 to 0.76 of the optimum, Frank-Wolfe cuts 0.91 and more."""
    ratios = []
    for seed in range(4):
        instance, rng = drawn(seed, 50), np.random.default_rng(0)
        optimum = instance.objective(local_search(instance, rng, starts=200))
        ratios.append(
            [
                instance.objective(plan) / optimum
                for plan in (linearised(instance), frank_wolfe(instance, rng))
            ]
        )
        assert random_cuts(instance, rng).sum() > 0
    ratios = np.array(ratios)
    np.testing.assert_allclose(ratios[:, 0], [0.442, 0.764, 0.662, 0.592], atol=2e-3)
    assert (ratios[:, 1] > 0.9).all()
    assert (ratios <= 1).all()


def test_scip_stops_at_its_limit_with_a_plan() -> None:
    instance = drawn(0, 50)
    answer = global_optimum(instance, time_limit=1.0)
    assert answer.status == Status.FEASIBLE
    assert answer.seconds < 5.0
    assert instance.violation(answer.plan) == 0.0
    assert (
        0
        < answer.objective
        <= instance.objective(local_search(instance, np.random.default_rng(0), 200)) + 1e-6
    )
    assert answer.objective < answer.bound
    with pytest.raises(InvalidSetting, match="time_limit: is 0 s"):
        global_optimum(instance, time_limit=0)


def test_the_reward_is_equation_12_and_telescopes() -> None:
    env = PackingEnv(12, cuts=3)
    env.reset(seed=5)
    f = env.instance.objective
    gains = []
    for _ in range(3):
        _, gain, _, _, info = env.step(env.action_space.sample())
        gains.append(gain)
        assert info["objective"] == pytest.approx(f(env.plan) / f(linearised(env.instance)))
    assert sum(gains) == pytest.approx(info["objective"])
    env.reset(options={"instance": env.instance})
    assert env.step(np.append(env.instance.b, 0.0))[4]["objective"] == pytest.approx(1.0, rel=0.02)


def test_the_cut_of_the_optimum_reaches_it() -> None:
    """One cut is expressive enough: with w = 2 x* - 1 the plan is x*."""
    env = PackingEnv(10, cuts=1)
    env.reset(seed=1)
    target = local_search(env.instance, np.random.default_rng(0))
    env.step(np.append(2 * target - 1, 0.0))
    np.testing.assert_array_equal(env.plan, target)


def test_the_observation_shows_what_the_paper_shows() -> None:
    env = PackingEnv(8)
    graph, _ = env.reset(seed=0)
    own = len(VARIABLE_FEATURES)
    np.testing.assert_allclose(graph.variables[:, own:], env.instance.features, rtol=1e-6)
    np.testing.assert_array_equal(graph.variables[:, :own], [[0, 1, 0, 0, 1, 1]] * 8)
    assert graph.couplings.shape == (2, 0)
    np.testing.assert_allclose(graph.edge_weights, env.instance.k / env.instance.k.max(), rtol=1e-6)
    assert graph.constraints.shape == (1, 5)
    assert graph.constraints[0, 0] == pytest.approx(0.5), "the capacity is half of the sizes' sum"
    after, *_ = env.step(env.action_space.sample())
    np.testing.assert_array_equal(after.variables[:, 2], env.plan)
    assert after.variables[0, 3] == 0.5, "one of two cuts made"
    assert after.constraints.shape == (2, 5)
    used = env.instance.k @ env.plan / env.instance.k.sum()
    np.testing.assert_allclose(after.constraints[0], [0.5, used, 0.5 - used, 0, 0], atol=1e-6)


def test_couplings_show_the_off_diagonal() -> None:
    env = PackingEnv(7, couplings=True)
    graph, _ = env.reset(seed=0)
    A = np.zeros((7, 7))
    A[graph.couplings[0], graph.couplings[1]] = graph.coupling_weights
    np.testing.assert_allclose(A + 2 * np.diag(np.diag(env.instance.A)), 2 * env.instance.A, atol=1e-6)
    assert graph.couplings.shape == (2, 42)
    assert env.observation_space.contains(graph)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 20),
    exponents=st.lists(st.integers(-12, 12), min_size=9, max_size=9),
    signs=st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=9, max_size=9),
    solver=st.sampled_from(["scip", "highs"]),
)
def test_no_cut_makes_a_plan_infeasible(
    seed: int, exponents: list[int], signs: list[float], solver: Any
) -> None:
    env = PackingEnv((6, 8), cuts=2, settings=MasterSettings(solver=solver))
    env.reset(seed=seed)
    action = np.array(signs) * 10.0 ** np.array(exponents)
    for scale in (1.0, -1e3):
        env.step(scale * action[: len(env.instance) + 1])
    assert (env.feasibility.checked, env.feasibility.infeasible, env.feasibility.worst) == (2, 0, 0.0)


def test_gymnasium_accepts_the_registered_environment() -> None:
    env = gym.make("solverl/Packing-v0", items=6)
    check_env(env.unwrapped, skip_render_check=True)
    sizes = {len(gym.make("solverl/Packing-v0", items=(4, 9)).reset(seed=s)[0].variables) for s in range(12)}
    assert len(sizes) > 3
    assert sizes <= set(range(4, 10))


def test_a_seed_fixes_the_instances() -> None:
    one, two = PackingEnv(6), PackingEnv(6)
    first = [one.reset(seed=3)[0], one.reset()[0]]
    assert first == [two.reset(seed=3)[0], two.reset()[0]]
    assert first[0] != first[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PackingEnv(0), "items: are 0"),
        (lambda: PackingEnv((5, 4)), r"items: are \(5, 4\)"),
        (lambda: draw_packing(np.random.default_rng(0), 0), "items: is 0"),
        (lambda: Packing(np.ones((2, 3)), np.ones(2), np.ones(2), 1.0), r"A: has shape \(2, 3\)"),
        (lambda: Packing(np.array([[1.0, 0], [1, 1]]), np.ones(2), np.ones(2), 1.0), "A: is not symmetric"),
        (lambda: Packing(np.eye(2), np.array([np.nan, 1]), np.ones(2), 1.0), "b: has shape"),
        (lambda: Packing(np.eye(2), np.ones(2), -np.ones(2), 1.0), "k: or p is negative"),
    ],
)
def test_an_unusable_setting_is_named(make: Any, message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        make()

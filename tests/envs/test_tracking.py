"""The tracking system: its dynamics by hand, its safe set for ever, and a bound that nothing beats."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

import envs
from envs.errors import InvalidSetting
from envs.safe_set import SafeSet, violation
from envs.tracking import DEFAULT, SupplySafeSet, Tracking, TrackingSystem
from envs.tracking.planning import (
    constrained_controller,
    optimum,
    perfect_information,
    play,
    projected_controller,
)

STATES, SUPPLIES = DEFAULT.episodes(40, seed=3)


def test_it_is_registered_and_keeps_gymnasiums_contract() -> None:
    envs.register_all()
    env = gym.make("solverl/Tracking-v0", periods=4)
    assert env.unwrapped.system == replace(DEFAULT, periods=4)
    check_env(Tracking(), skip_render_check=True)


def test_a_period_by_hand() -> None:
    system = TrackingSystem(
        decay=0.5, actuators=((1.0, 0.0), (2.0, 1.0)), goal=(1.0, 0.0), effort=0.1, draw=(1.0, 3.0), periods=2
    )
    env = Tracking(system)
    env.reset(seed=0, options={"state": [0.4, 0.8], "supplies": [0.5, 0.25, 0.75]})
    observation, reward, over, truncated, info = env.step(np.array([0.3, 0.2]))
    # x = (0.2 + 0.3, 0.4 + 0.6 + 0.2), L = 0.25 + 1.44 + 0.1 (0.09 + 0.04), drawn 0.9 of 0.5
    np.testing.assert_allclose(observation, [0.5, 1.2, 0.25])
    assert reward == pytest.approx(-1.703)
    assert info["cost"][0] == pytest.approx(0.4)
    assert (over, truncated) == (False, False)
    observation, _, over, truncated, info = env.step(np.zeros(2))
    np.testing.assert_allclose(observation, [0.25, 0.6, 0.75])
    assert (over, truncated, info["cost"][0]) == (False, True, 0.0)
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(2))


def test_the_seed_gives_the_episode_and_the_batch_plays_it_alike() -> None:
    env, other = Tracking(), Tracking()
    first, _ = env.reset(seed=7)
    np.testing.assert_array_equal(first, other.reset(seed=7)[0])
    assert (first != other.reset(seed=8)[0]).all()
    rng = np.random.default_rng(0)
    actions = rng.uniform(size=(DEFAULT.periods, 2))
    env.reset(options={"state": STATES[0], "supplies": SUPPLIES[0]})
    seen = [env.step(action) for action in actions]
    left = list(actions)
    played = play(lambda observations: left.pop(0)[None], DEFAULT, STATES[:1], SUPPLIES[:1])
    discounts = DEFAULT.gamma ** np.arange(DEFAULT.periods)
    assert played.costs[0] == pytest.approx(-(discounts * [step[1] for step in seen]).sum())
    assert played.violations[0] == sum(float(step[4]["cost"][0]) > 1e-6 for step in seen) > 0


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_safe_actions_overload_nothing_and_the_next_set_is_never_empty(seed: int) -> None:
    rng = np.random.default_rng(seed)
    system = TrackingSystem(draw=tuple(rng.normal(size=2)), supply=(0.0, float(rng.uniform(0.0, 2.0))))
    safe_set = SupplySafeSet(system)
    assert isinstance(safe_set, SafeSet)
    env = Tracking(system)
    observation, _ = env.reset(seed=seed)
    over = False
    while not over:
        here = observation[None]
        assert violation(safe_set, here, safe_set.fallback(here))[0] == 0.0
        tried = rng.uniform(size=(50, 2))
        inside = tried[violation(safe_set, np.repeat(here, 50, axis=0), tried) == 0.0]
        action = inside[0] if len(inside) else safe_set.fallback(here)[0]
        observation, _, _, over, info = env.step(action)
        assert info["cost"][0] <= 1e-12


def test_the_optimum_of_one_period_is_the_best_of_a_grid() -> None:
    system = replace(DEFAULT, periods=1)
    plans, costs = optimum(system, STATES, SUPPLIES[:, :1])
    axis = np.linspace(0.0, 1.0, 201)
    grid = np.stack([a.ravel() for a in np.meshgrid(axis, axis)], axis=1)
    for state, supply, plan, cost in zip(STATES, SUPPLIES[:, 0], plans, costs, strict=True):
        x = system.decay * state + grid @ system.B.T
        values = ((x - system.goal) ** 2).sum(axis=1) + system.effort * (grid**2).sum(axis=1)
        best = values[grid @ system.n <= supply].min()
        assert best - 5e-3 <= cost <= best + 1e-9
        assert plan[0] @ system.n <= supply + 1e-6


def test_the_bound_is_reached_by_its_plan_and_beaten_by_nobody() -> None:
    costs = optimum(DEFAULT, STATES, SUPPLIES[:, : DEFAULT.periods])[1]
    played = play(perfect_information(DEFAULT, STATES, SUPPLIES), DEFAULT, STATES, SUPPLIES)
    np.testing.assert_allclose(played.costs, costs, atol=1e-6)
    assert played.violations.sum() == 0
    safe_set, rng = SupplySafeSet(DEFAULT), np.random.default_rng(0)

    def careless(observations: np.ndarray) -> np.ndarray:
        wanted = rng.uniform(size=(len(observations), 2))
        return np.where(
            violation(safe_set, observations, wanted)[:, None] > 0, safe_set.fallback(observations), wanted
        )

    for policy in (careless, constrained_controller(DEFAULT), projected_controller(DEFAULT)):
        other = play(policy, DEFAULT, STATES, SUPPLIES)
        assert (other.costs >= costs - 1e-6).all()
        assert other.violations.sum() == 0


def test_projecting_is_strictly_worse_and_the_constrained_maximum_nearly_optimal() -> None:
    """Seed 002, section 3.1, with the model: nothing is learned, so that nothing else can be the reason."""
    costs = optimum(DEFAULT, STATES, SUPPLIES[:, : DEFAULT.periods])[1]
    constrained = play(constrained_controller(DEFAULT), DEFAULT, STATES, SUPPLIES).costs
    projected = play(projected_controller(DEFAULT), DEFAULT, STATES, SUPPLIES).costs
    assert constrained.mean() < 1.03 * costs.mean()
    assert projected.mean() > 1.5 * costs.mean()
    # Nothing is lost where there is nothing to project.
    plenty = np.full_like(SUPPLIES, 10.0)
    rich = replace(DEFAULT, supply=(10.0, 10.0))
    free = [
        play(make(rich), rich, STATES, plenty).costs
        for make in (constrained_controller, projected_controller)
    ]
    np.testing.assert_allclose(free[0], free[1], rtol=1e-6)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("decay", 1.0), ("actuators", ((1.0, np.nan), (0.0, 1.0))), ("goal", (1.0, np.inf)), ("effort", 0.0),
        ("draw", (0.0, 0.0)), ("supply", (-0.1, 1.0)), ("supply", (1.0, 0.5)), ("start", -1.0), ("gamma", 1.0),
        ("periods", 0), ("colour", 1),
    ],
)  # fmt: skip
def test_bad_settings_name_the_field(field: str, value: Any) -> None:
    with pytest.raises(InvalidSetting, match=field):
        Tracking(**{field: value})


def test_bad_actions_episodes_and_observations_are_refused() -> None:
    env = Tracking()
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(2))
    env.reset(seed=0)
    for action in (np.zeros(3), np.array([np.nan, 0.0])):
        with pytest.raises(InvalidSetting, match="action"):
            env.step(action)
    with pytest.raises(InvalidSetting, match="supplies"):
        env.reset(options={"state": np.zeros(2), "supplies": np.zeros(3)})
    with pytest.raises(InvalidSetting, match="observations"):
        SupplySafeSet(DEFAULT).rows(np.zeros((4, 2)))

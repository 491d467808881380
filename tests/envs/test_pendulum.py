"""The speed limit of Pendulum-v1: its rows are the simulator's dynamics, and no torque inside them ever breaks it."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from envs.errors import InvalidSetting
from envs.pendulum import FASTEST, GRID, MARGIN, PendulumSpeedLimit
from envs.safe_set import SafeSet, violation
from envs.statistics import clopper_pearson

LIMITS = (6.0, 6.5, 7.5)
SETS = {limit: PendulumSpeedLimit(limit) for limit in LIMITS}


def observed(angle: float, speed: float) -> NDArray[np.float64]:
    """As the environment returns it, float32, with a batch in front."""
    seen = np.array([[np.cos(angle), np.sin(angle), speed]], dtype=np.float32)
    return seen.astype(np.float64)


def simulator() -> gym.Env:  # type: ignore[type-arg]
    env = gym.make("Pendulum-v1").unwrapped
    env.reset(seed=0)
    return env


SIMULATOR = simulator()


def step(angle: float, speed: float, torque: float) -> tuple[float, float]:
    """One step of Gymnasium's own simulator, with the torque in the type that it is executed in."""
    SIMULATOR.state = np.array([angle, speed])
    SIMULATOR.step(np.array([torque], dtype=np.float32))
    return float(SIMULATOR.state[0]), float(SIMULATOR.state[1])


def test_it_is_a_safe_set() -> None:
    assert isinstance(SETS[6.0], SafeSet)
    G, h = SETS[6.0].rows(np.zeros((5, 3)))
    assert (G.shape, h.shape) == ((2, 1), (5, 2))
    assert SETS[6.0].fallback(np.zeros((5, 3))).shape == (5, 1)


@given(st.sampled_from(LIMITS), st.floats(-np.pi, np.pi), st.floats(-8.0, 8.0), st.floats(-2.0, 2.0))
@settings(max_examples=300, deadline=None)
def test_the_rows_say_what_the_simulator_does(
    limit: float, angle: float, speed: float, torque: float
) -> None:
    """A torque satisfies its rows if and only if the speed after the step is within the envelope."""
    safe_set = SETS[limit]
    seen = observed(angle, speed)
    drift = speed + 0.75 * np.sin(angle) + 0.15 * torque  # uncut
    if abs(drift) < FASTEST:
        np.testing.assert_allclose(step(angle, speed, torque)[1], drift, atol=1e-6)
    excess = float(violation(safe_set, seen, np.array([[torque]]))[0])
    room = (
        min(safe_set.envelope(np.array(angle)) - drift, safe_set.envelope(np.array(-angle)) + drift) - MARGIN
    )
    np.testing.assert_allclose(0.15 * excess, max(-float(room), 0.0), atol=5e-6)


@given(
    st.sampled_from(LIMITS),
    st.floats(-np.pi, np.pi),
    st.floats(-1.0, 1.0),
    st.lists(st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0]), min_size=1, max_size=60),
)
@settings(max_examples=200, deadline=None)
def test_no_safe_torque_breaks_the_limit_and_there_always_is_one(
    limit: float, angle: float, speed: float, wishes: list[float]
) -> None:
    """From every start and with any wishes, clipped to the rows: the adversary has the whole safe set."""
    safe_set = SETS[limit]
    for wish in wishes:
        seen = observed(angle, speed)
        assert violation(safe_set, seen, safe_set.fallback(seen)) <= 1e-9
        _, h = safe_set.rows(seen)
        torque = float(np.clip(np.clip(wish, -h[0, 1], h[0, 0]), -2.0, 2.0))
        assert violation(safe_set, seen, np.array([[torque]])) <= 1e-9
        angle, speed = step(angle, speed, torque)
        assert abs(speed) <= limit


@given(st.sampled_from(LIMITS), st.floats(-np.pi, np.pi), st.floats(0.0, 1.0), st.sampled_from([-1.0, 1.0]))
@settings(max_examples=300, deadline=None)
def test_the_envelope_is_invariant(limit: float, angle: float, share: float, side: float) -> None:
    """Also from states that no episode may reach: any angle, any speed up to the envelope that led there."""
    safe_set = SETS[limit]
    speed = side * share * (float(safe_set.envelope(np.array(side * angle))) - MARGIN)
    seen = observed(angle + 0.05 * speed, speed)
    assert violation(safe_set, seen, safe_set.fallback(seen)) <= 1e-9


def test_the_proof_bounds_the_inequality_between_its_grid_angles() -> None:
    for limit, safe_set in SETS.items():
        slack, lowest, steepest = safe_set.proof()
        angle = np.linspace(-np.pi, np.pi, 3 * GRID + 7)
        speed = safe_set.envelope(angle)
        following = angle + 0.05 * speed
        left = safe_set.envelope(following) - 0.75 * np.sin(following) + 0.3 - speed
        assert 0.0 < slack <= left.min()
        np.testing.assert_allclose(lowest, speed.min(), atol=1e-6)
        assert lowest <= speed.min()
        assert np.abs(np.diff(speed)).max() / (angle[1] - angle[0]) <= steepest
        assert speed.max() == limit


def test_a_limit_that_the_motor_cannot_keep_is_an_error() -> None:
    """Falling from rest at 0.42 rad against the full motor ends at 5.2 rad/s: no set could promise 5."""
    angle, speed, fastest = 0.42, 0.0, 0.0
    for _ in range(200):
        angle, speed = step(angle, speed, -2.0)
        fastest = max(fastest, speed)
        if speed <= 0.0:
            break
    assert 5.0 < fastest < 5.5
    for limit in (5.0, 5.5, 5.9):
        with pytest.raises(InvalidSetting, match=r"^limit: is 5.* which the motor cannot keep"):
            PendulumSpeedLimit(limit)
    for limit in (0.5, 8.0, np.nan):
        with pytest.raises(InvalidSetting, match=r"^limit: is "):
            PendulumSpeedLimit(limit)
    with pytest.raises(InvalidSetting, match=r"^observations: have shape \(1, 2\)"):
        SETS[6.0].rows(np.zeros((1, 2)))


def test_in_states_that_no_safe_start_leads_to_the_fallback_brakes() -> None:
    seen = np.concatenate([observed(0.0, 8.0), observed(0.0, -8.0)])
    np.testing.assert_array_equal(SETS[6.0].fallback(seen), [[-2.0], [2.0]])


def test_ten_thousand_random_steps_are_within_the_limit_and_half_of_them_are_not_without_the_rows() -> None:
    """Adversarial torques, always full and along the motion: 20,000 steps of 100 pendulums."""
    safe_set, counts = SETS[6.0], []
    for shielded in (True, False):
        rng, broken = np.random.default_rng(0), 0
        angle, speed = rng.uniform(-np.pi, np.pi, 100), rng.uniform(-1.0, 1.0, 100)
        for _ in range(200):
            torque = np.where(rng.random(100) < 0.9, 2.0 * np.sign(speed), rng.uniform(-2.0, 2.0, 100))
            if shielded:
                seen = np.stack([np.cos(angle), np.sin(angle), speed], axis=1).astype(np.float32)
                _, h = safe_set.rows(seen)
                torque = np.clip(np.clip(torque, -h[:, 1], h[:, 0]), -2.0, 2.0)
            # The simulator's equations, as `test_the_rows_say_what_the_simulator_does` has checked them.
            speed = np.clip(
                speed + 0.05 * (15.0 * np.sin(angle) + 3.0 * torque.astype(np.float32)), -8.0, 8.0
            )
            angle = angle + 0.05 * speed
            broken += int((np.abs(speed) > 6.0).sum())
        counts.append(broken)
    assert counts[0] == 0
    assert clopper_pearson(counts[0], 20_000) < 2e-4
    assert counts[1] > 10_000

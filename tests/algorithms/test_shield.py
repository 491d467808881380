"""The shield: safe actions pass, unsafe ones are projected, and what cannot be repaired falls back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.common.exploration import HeldIntentions, fractions_of_rows
from algorithms.common.shield import Outcome, shield
from envs.inventory import DEFAULT, InventorySafeSet, MultiEchelonInventory
from envs.safe_set import SafeSet, StackedSafeSet, violation
from solver_pool.pool import SolverPool

POOL = SolverPool()


@dataclass(frozen=True)
class Triangle:
    """``a_0 + a_1 <= h`` in the unit square, with `h` the observation; empty for negative `h`."""

    low = np.zeros(2)
    high = np.ones(2)

    def rows(self, observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.ones((1, 2)), observations

    def executable(self, actions: np.ndarray) -> np.ndarray:
        return np.array(actions)

    def fallback(self, observations: np.ndarray) -> np.ndarray:
        return np.zeros((len(observations), 2))


def test_each_outcome() -> None:
    observations = np.array([[1.0], [1.0], [-0.1], [1.0]])
    proposed = np.array([[0.2, 0.3], [0.9, 0.9], [0.5, 0.5], [np.nan, 0.1]])
    result = shield(Triangle(), observations, proposed, POOL, "repair")
    assert list(result.outcome) == [Outcome.CERTIFIED, Outcome.REPAIRED, Outcome.FALLBACK, Outcome.FALLBACK]
    np.testing.assert_allclose(result.actions[:2], [[0.2, 0.3], [0.5, 0.5]], atol=1e-9)
    np.testing.assert_array_equal(result.actions[2:], 0.0)
    np.testing.assert_allclose(result.violation, [0.0, 0.0, 0.1, 0.0], atol=1e-9)


def test_a_solvers_last_digits_are_taken_off() -> None:
    """A proposal out by 1e-9 is certified, and what is executed satisfies its rows exactly."""
    proposed = np.array([[0.5, 0.5 + 1e-9]])
    result = shield(Triangle(), np.array([[1.0]]), proposed, POOL, "repair")
    assert result.outcome[0] == Outcome.CERTIFIED
    assert result.violation[0] == 0.0
    assert result.actions[0].sum() <= 1.0
    np.testing.assert_allclose(result.actions, proposed, atol=1e-5)


def test_raw_mode_executes_and_counts() -> None:
    result = shield(Triangle(), np.array([[1.0], [1.0]]), np.array([[0.9, 0.9], [2.0, -1.0]]), POOL, "raw")
    assert list(result.outcome) == [Outcome.UNSAFE, Outcome.CERTIFIED]
    np.testing.assert_allclose(result.actions, [[0.9, 0.9], [1.0, 0.0]])


def test_stacked_sets_keep_every_members_rows() -> None:
    assert isinstance(Triangle(), SafeSet)
    both = StackedSafeSet((Triangle(), Triangle()))
    G, h = both.rows(np.array([[0.5]]))
    assert G.shape == (1, 2, 2)
    np.testing.assert_array_equal(h, [[0.5, 0.5]])
    assert violation(both, np.array([[0.5]]), np.array([[0.5, 0.5]]))[0] == pytest.approx(0.5)


@pytest.mark.parametrize("availability", [False, True])
def test_exploring_inventory_stays_safe_when_shielded(availability: bool) -> None:
    """150 episodes of the wildest exploration, every executed action checked, stock checked independently."""
    safe_set = InventorySafeSet(DEFAULT, availability=availability)
    exploration = HeldIntentions(intention_episodes=20, episodes=40, seed=5)
    env = MultiEchelonInventory()
    steps = 0
    for episode in range(40):
        state, _ = env.reset(seed=episode)
        over = False
        while not over:
            G, h = safe_set.rows(state[None])
            greedy = np.array([20.0, 20.0, 20.0])
            wish = exploration.explore(str(episode), G, h[0], safe_set.low, safe_set.high, greedy)
            result = shield(safe_set, state[None], wish[None], POOL, "repair")
            assert result.outcome[0] != Outcome.UNSAFE
            state, _, over, _, info = env.step(result.actions[0])
            assert (info["cost"] == 0).all()
            assert (info["peak_excess"] == 0).all()
            steps += 1
    assert steps == 1200


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), full=st.booleans())
def test_fractions_of_the_rows_stay_inside(seed: int, full: bool) -> None:
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 5)), int(rng.integers(0, 6))
    low, high = np.zeros(n), rng.uniform(0.5, 2.0, size=n)
    G, h = rng.normal(size=(m, n)), rng.uniform(0.0, 1.0, size=m)
    fraction = np.ones(n) if full else rng.uniform(size=n)
    action = fractions_of_rows(fraction, G, h, low, high)
    assert (action >= low).all()
    assert (action <= high + 1e-12).all()


def test_all_of_what_the_rows_leave_is_the_largest_safe_order() -> None:
    safe_set = InventorySafeSet(DEFAULT)
    state, _ = MultiEchelonInventory().reset(seed=1)
    G, h = safe_set.rows(state[None])
    largest = safe_set.clip(state[None], DEFAULT.supply[None])[0]
    most = fractions_of_rows(np.ones(3), G, h[0], safe_set.low, safe_set.high)
    np.testing.assert_allclose(most, largest)


def test_exploration_continues_from_its_state() -> None:
    G, h, low, high = np.ones((1, 2)), np.ones(1), np.zeros(2), np.ones(2)
    one = HeldIntentions(intention_episodes=2, episodes=6, horizon=10, seed=7)
    for episode in ("a", "b", "c"):
        for _ in range(4):
            one.explore(episode, G, h, low, high, np.full(2, 0.4))
    two = HeldIntentions(intention_episodes=2, episodes=6, horizon=10, seed=0)
    two.set_state(one.get_state())
    for episode in ("c", "d"):
        for _ in range(6):
            np.testing.assert_array_equal(
                one.explore(episode, G, h, low, high, np.full(2, 0.4)),
                two.explore(episode, G, h, low, high, np.full(2, 0.4)),
            )

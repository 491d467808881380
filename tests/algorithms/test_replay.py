"""The replay buffer: a ring that forgets the oldest, continues from its state, and refuses bad numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.common.replay import ReplayBuffer


def transitions(first: int, count: int) -> dict[str, np.ndarray]:
    numbers = np.arange(first, first + count, dtype=np.float64)
    return {"obs": np.stack([numbers, -numbers], axis=1), "reward": numbers}


@given(st.lists(st.integers(1, 7), min_size=1, max_size=12), st.integers(1, 10))
def test_the_last_transitions_are_kept_in_order(counts: list[int], capacity: int) -> None:
    counts = [min(c, capacity) for c in counts]
    buffer, total = ReplayBuffer(capacity, seed=0), 0
    for count in counts:
        buffer.add(transitions(total, count))
        total += count
    kept = np.arange(max(0, total - capacity), total)
    np.testing.assert_array_equal(buffer.contents()["reward"], kept)
    np.testing.assert_array_equal(buffer.serials(), kept)
    np.testing.assert_array_equal(buffer.read(buffer.serials(), "obs")[0][:, 1], -kept)


def test_a_restored_buffer_draws_the_same_samples() -> None:
    buffer = ReplayBuffer(10, seed=3)
    buffer.add(transitions(0, 14 - 7))
    buffer.sample(5)
    other = ReplayBuffer(10, seed=99)
    other.set_state(buffer.get_state())
    buffer.add(transitions(7, 5))
    other.add(transitions(7, 5))
    for _ in range(3):
        np.testing.assert_array_equal(buffer.sample(4)["obs"], other.sample(4)["obs"])
    assert other.added == 12


def test_writes_reach_what_is_kept_and_pass_over_what_is_gone() -> None:
    buffer = ReplayBuffer(4, seed=0)
    for i in range(6):
        buffer.add(transitions(i, 1))
    buffer.write(np.array([-1, 1, 3]), reward=np.array([100.0, 101.0, 103.0]))
    np.testing.assert_array_equal(buffer.contents()["reward"], [2, 103, 4, 5])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused_before_anything_is_stored(bad: float) -> None:
    buffer = ReplayBuffer(4, seed=0)
    buffer.add(transitions(0, 2))
    broken = transitions(2, 2)
    broken["reward"][1] = bad
    with pytest.raises(ValueError, match="reward"):
        buffer.add(broken)
    assert buffer.added == 2


def test_other_fields_shapes_and_capacities_are_errors() -> None:
    buffer = ReplayBuffer(4, seed=0)
    buffer.add(transitions(0, 2))
    with pytest.raises(ValueError, match="fields"):
        buffer.add({"obs": np.zeros((1, 2))})
    with pytest.raises(ValueError, match="obs"):
        buffer.add({"obs": np.zeros((1, 3)), "reward": np.zeros(1)})
    with pytest.raises(ValueError, match="capacity"):
        ReplayBuffer(5, seed=0).set_state(buffer.get_state())
    with pytest.raises(ValueError, match="capacity"):
        ReplayBuffer(0, seed=0)
    with pytest.raises(ValueError, match="empty"):
        ReplayBuffer(4, seed=0).sample(1)

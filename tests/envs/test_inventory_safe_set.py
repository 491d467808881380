"""The theorem of the safe set, attacked: no demand and no safe order ever exceeds a capacity."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envs.errors import InvalidSetting
from envs.inventory import DEFAULT, STRESS, InventoryChain, InventorySafeSet, MultiEchelonInventory
from envs.inventory.chain import Array
from envs.inventory.dynamics import arriving, initial_state, position, step
from envs.safe_set import SafeSet, violation
from tests.envs.chains import random_chain, random_demand, random_wishes

BATCH = 48
played = {"steps": 0}


def play(
    chain: InventoryChain, safe: InventorySafeSet, rng: np.random.Generator, batch: int = BATCH
) -> tuple[float, float]:
    """Play adversarial episodes with safe orders; the largest excess at period ends and at peaks."""
    state, demand = initial_state(chain, batch), random_demand(rng, chain, batch)
    ends = peaks = -np.inf
    for n in range(chain.periods):
        _, h = safe.rows(state)
        assert (h >= 0).all(), "ordering nothing must be safe"
        assert not violation(safe, state, safe.fallback(state)).any()
        wanted = safe.clip(state, random_wishes(rng, chain, batch))
        assert (violation(safe, state, wanted) <= 1e-9).all()
        actions = safe.executable(wanted)
        assert not violation(safe, state, actions).any(), "rounding down keeps every row"
        result = step(chain, state, actions, demand[:, n])
        state = result.state
        if safe.capacity_at == "peak":
            assert (position(chain, state) <= chain.capacity).all(), "the theorem's own invariant"
        ends = max(ends, float((state[:, chain.layout.stock] - chain.capacity).max()))
        peaks = max(peaks, float((result.peak - chain.capacity).max()))
        played["steps"] += batch
    return ends, peaks


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1), stages=st.integers(1, 5))
def test_no_capacity_is_ever_exceeded(seed: int, stages: int) -> None:
    rng = np.random.default_rng(seed)
    chain = random_chain(rng, stages)
    ends, peaks = play(chain, InventorySafeSet(chain), rng)
    assert ends <= 0
    assert peaks <= 0


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1), stages=st.integers(1, 5))
def test_capacities_at_period_ends_hold_with_the_looser_rows(seed: int, stages: int) -> None:
    rng = np.random.default_rng(seed)
    chain = random_chain(rng, stages)
    ends, _ = play(chain, InventorySafeSet(chain, capacity_at="end"), rng)
    assert ends <= 0


@pytest.mark.parametrize("chain", [DEFAULT, STRESS], ids=["default", "stress"])
def test_the_bound_is_attained_and_not_passed(chain: InventoryChain) -> None:
    ends, peaks = play(chain, InventorySafeSet(chain), np.random.default_rng(1), batch=400)
    assert ends == 0
    assert peaks == 0


def test_that_was_a_real_number_of_steps() -> None:
    if not played["steps"]:
        pytest.skip("counts the steps of the tests above, which did not run")
    assert played["steps"] >= 50_000


def test_the_looser_rows_do_let_peaks_pass() -> None:
    """So that the two settings differ: backlogged customers are credited before they are served."""
    rng = np.random.default_rng(0)
    worst = max(
        play(chain, InventorySafeSet(chain, capacity_at="end"), rng)[1]
        for chain in (random_chain(rng, 2, backlog=True) for _ in range(40))
    )
    assert worst > 0


@pytest.mark.parametrize("rule", ["unconstrained", "myopic"])
def test_less_careful_rules_do_exceed(rule: Literal["unconstrained", "myopic"]) -> None:
    """The tests above can fail: filling what is free after this period's arrivals forgets the pipeline.

    Over long episodes, as the first ten periods only draw the initial stock down.
    """
    rng = np.random.default_rng(0)
    chain, batch = replace(STRESS, periods=200), 50
    state = initial_state(chain, batch)
    exceeded = 0
    for _ in range(chain.periods):
        actions: Array = rng.uniform(0, 1, (batch, 3)) * chain.supply
        if rule == "myopic":
            free = chain.capacity - state[:, chain.layout.stock] - arriving(chain, state)
            actions = np.clip(actions, 0, np.maximum(free, 0))
        result = step(chain, state, actions, rng.poisson(20, batch).astype(float))
        exceeded += int(result.peak_excess(chain).any(axis=1).sum())
        state = result.state
    assert exceeded > 0.5 * batch * chain.periods


def test_the_rows_of_a_worked_state() -> None:
    """Seven rows for three stages, as in the specification, written out."""
    state = np.zeros((1, DEFAULT.layout.size))
    lay = DEFAULT.layout
    state[0, lay.stock], state[0, lay.unfilled], state[0, lay.backlog] = [0, 30, 200], [6, 7, 8], 25
    state[0, lay.stages[0]], state[0, lay.stages[1]], state[0, lay.stages[2]] = [20, 10, 5], 2, 3
    # X = I + T + BO = (0 + 35 + 6, 30 + 10 + 7, 200 + 30 + 8); the room is (79, 113, 22).
    np.testing.assert_array_equal(position(DEFAULT, state), [[41, 47, 238]])
    G, h = InventorySafeSet(DEFAULT).rows(state)
    np.testing.assert_array_equal(
        G, [[1, 0, 0], [-1, 1, 0], [0, 1, 0], [0, 1, 0], [0, -1, 1], [0, 0, 1], [0, 0, 1]]
    )
    np.testing.assert_array_equal(
        h, [[79 + 20, 113 + 6, 113 + 100, 113 + 30, 22 + 7, 22 + 90, 22 + 200]]
    )  # of 25 who wait only the 20 that arrive can be served
    _, h = InventorySafeSet(DEFAULT, capacity_at="end").rows(state)
    assert h[0, 0] == 79 + 25
    state[0, lay.stages[0]], state[0, lay.backlog] = 60, 100  # X_0 = 186 of 120, but 100 units are promised
    _, h = InventorySafeSet(DEFAULT, capacity_at="end").rows(state)
    assert h[0, 0] == 120 - 186 + 100


def test_an_initial_excess_drains_and_never_grows() -> None:
    rng = np.random.default_rng(2)
    for _ in range(40):
        stages = int(rng.integers(1, 5))
        chain = random_chain(rng, stages, storage_capacity=rng.integers(0, 100, stages).tolist())
        safe = InventorySafeSet(chain)
        state, demand = initial_state(chain, 20), random_demand(rng, chain, 20)
        for n in range(chain.periods):
            over = position(chain, state) > chain.capacity
            wanted = safe.clip(state, random_wishes(rng, chain, 20))
            assert (wanted[over] == 0).all(), "a stage above its capacity orders nothing"
            assert not violation(safe, state, safe.fallback(state)).any()
            result = step(chain, state, safe.executable(wanted), demand[:, n])
            limit = np.maximum(position(chain, state), chain.capacity)
            assert (position(chain, result.state) <= limit).all()
            assert (result.peak <= limit).all()
            state = result.state


def test_clip_finds_the_largest_safe_order_below_the_wish() -> None:
    """Against every whole order below the wish, enumerated."""
    rng = np.random.default_rng(4)
    for _ in range(30):
        chain = random_chain(
            rng, 2, supply_capacity=(9, 9), storage_capacity=(125, 125), initial_stock=(116, 118)
        )
        safe, state = InventorySafeSet(chain), initial_state(chain, 1)
        for _ in range(int(rng.integers(0, 4))):
            actions = safe.executable(safe.clip(state, random_wishes(rng, chain, 1)))
            state = step(chain, state, actions, rng.poisson(5, 1).astype(float)).state
        wish = rng.integers(0, 10, (1, 2)).astype(float)
        below = np.stack(np.meshgrid(*[np.arange(w + 1) for w in wish[0]]), axis=-1).reshape(-1, 2)
        inside = below[violation(safe, np.repeat(state, len(below), axis=0), below) == 0]
        np.testing.assert_array_equal(safe.clip(state, wish)[0], inside.max(axis=0))


def test_a_solvers_almost_whole_orders_are_rounded_together() -> None:
    safe = InventorySafeSet(DEFAULT)
    np.testing.assert_array_equal(safe.executable(np.array([[3.9999999, 4.0, 2.7]])), [[4, 4, 2]])
    np.testing.assert_array_equal(safe.executable(np.array([[-1e-9, -1e-7, 0.0]])), [[0, 0, 0]])


def test_the_environment_hands_out_its_safe_set() -> None:
    env = MultiEchelonInventory(STRESS)
    safe = env.safe_set
    assert isinstance(safe, SafeSet)
    observation, _ = env.reset(seed=0)
    G, h = safe.rows(observation[None])
    assert G.shape == (7, 3)
    assert h.shape == (1, 7)
    np.testing.assert_array_equal(safe.high, [100, 90, 80])


def test_or_gyms_observation_has_no_safe_set_and_says_why() -> None:
    with pytest.raises(InvalidSetting, match=r"not Markov.*observation='state'"):
        _ = MultiEchelonInventory(observation="or_gym").safe_set
    with pytest.raises(InvalidSetting, match=r"expected \(B, 26\)"):
        InventorySafeSet(DEFAULT).rows(np.zeros((1, 33)))


def test_a_stage_without_capacity_has_rows_that_never_bind() -> None:
    chain = InventoryChain(storage_capacity=(120, np.inf, 260))
    _, h = InventorySafeSet(chain).rows(initial_state(chain, 2))
    assert np.isinf(h[:, 1:4]).all()
    assert np.isfinite(h[:, [0, 4, 5, 6]]).all()
    ends, peaks = play(chain, InventorySafeSet(chain), np.random.default_rng(0))
    assert max(ends, peaks) <= 0


def test_with_availability_no_stage_orders_what_its_supplier_has_not() -> None:
    """The rows of capacity stay, and ``a_j <= I_{j+1} - BO_j`` joins them; then nothing is ever back-ordered."""
    both, capacity = InventorySafeSet(DEFAULT, availability=True), InventorySafeSet(DEFAULT)
    rng = np.random.default_rng(0)
    env = MultiEchelonInventory()
    for seed in range(40):
        state, _ = env.reset(seed=seed)
        over = False
        while not over:
            wish = rng.uniform(0, 1.5, size=(1, 3)) * DEFAULT.supply
            action = both.executable(both.clip(state[None], wish))
            assert violation(both, state[None], action)[0] == 0.0
            assert violation(capacity, state[None], action)[0] == 0.0
            state, _, over, _, info = env.step(action[0])
            assert (state[DEFAULT.layout.unfilled] == 0).all()
            assert (info["cost"] == 0).all()
    G, h = both.rows(state[None])
    assert G.shape == (9, 3)
    assert h.shape == (1, 9)

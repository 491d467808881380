"""The dynamics are OR-Gym's, to the last bit, and keep the book of the material."""

from __future__ import annotations

import numpy as np
import pytest

from envs.adapters.or_gym import OrGymInventory
from envs.inventory import DEFAULT, InventoryChain, MultiEchelonInventory
from envs.inventory.dynamics import arriving, initial_state, position, step
from tests.envs.chains import random_chain, random_demand


@pytest.mark.parametrize("backlog", [True, False], ids=["backlog", "lost sales"])
@pytest.mark.parametrize("stages", [2, 3, 4, 5])
def test_every_reward_and_observation_equals_or_gym(stages: int, backlog: bool) -> None:
    rng = np.random.default_rng([stages, backlog])
    steps, backordered = 0, 0.0
    for _ in range(15):
        chain = random_chain(rng, stages, backlog=backlog)
        if max(chain.lead_times) == 0:
            continue  # OR-Gym cannot play it
        theirs, ours = OrGymInventory(chain), MultiEchelonInventory(chain, observation="or_gym")
        full = MultiEchelonInventory(chain)
        seed = int(rng.integers(1 << 30))
        x, _ = theirs.reset(seed=seed)
        y, _ = ours.reset(seed=seed)
        full.reset(seed=seed)
        np.testing.assert_array_equal(x, y)
        high = rng.choice([30.0, 400.0])
        over = False
        while not over:
            action = rng.uniform(-20, high, stages)
            x, reward, over, _, _ = theirs.step(action)
            y, ours_reward, ours_over, _, _ = ours.step(action)
            state, full_reward, _, _, _ = full.step(action)
            assert ours_reward - reward == 0.0
            assert full_reward - reward == 0.0
            np.testing.assert_array_equal(x, y)
            assert over == ours_over
            n = theirs.original.period
            np.testing.assert_array_equal(state[chain.layout.unfilled], theirs.original.B[n - 1, 1:])
            assert state[chain.layout.backlog] == theirs.original.B[n - 1, :1]
            transit = [state[own].sum() for own in chain.layout.stages]
            np.testing.assert_array_equal(transit, theirs.original.T[n])
            backordered = max(backordered, float(state[chain.layout.unfilled].max()))
            steps += 1
    assert steps > 150
    assert (backordered > 0) == backlog, "the comparison must reach back-orders, and only where they exist"


def test_the_default_chain_shows_or_gyms_33_numbers() -> None:
    theirs, ours = OrGymInventory(DEFAULT), MultiEchelonInventory(observation="or_gym")
    assert ours.observation_space.shape == (33,)
    assert theirs.original.observation_space.shape == (33,)
    for seed in range(20):
        np.testing.assert_array_equal(theirs.reset(seed=seed)[0], ours.reset(seed=seed)[0])
        rng = np.random.default_rng(seed)
        for _ in range(30):
            action = rng.uniform(0, 400, 3)
            x, y = theirs.step(action), ours.step(action)
            np.testing.assert_array_equal(x[0], y[0])
            assert x[1] - y[1] == 0.0


def test_one_period_by_hand() -> None:
    """Two stages, worked out on paper, with a lead time of zero and a curtailed order."""
    chain = InventoryChain(
        periods=3, initial_stock=(5, 4), supply_capacity=(10, 8), lead_times=(2, 0), price=10,
        unit_cost=(6, 3, 1), backlog_cost=(1, 0.5, 0.25), holding_cost=(0.2, 0.1), alpha=0.5,
        storage_capacity=(50, 50),
    )  # fmt: skip
    first = step(chain, initial_state(chain, 1), np.array([[7.9, 9.0]]), np.array([6.0]))
    # 7 are asked of a stock of 4: 4 ship, 3 wait. 9 are asked of a capacity of 8: 8 ship and arrive, 1 waits.
    np.testing.assert_array_equal(first.shipped, [[4, 8]])
    np.testing.assert_array_equal(first.peak, [[5, 12]])
    assert first.sold == 5  # of 6
    #                                            I0 I1  BO0 BO1  B0  R0(n-2) R0(n-1)  left
    np.testing.assert_array_equal(first.state, [[0, 8, 3, 1, 1, 0, 4, 2]])
    income = 10 * 5 + 6 * 4 + 3 * 8
    paid = (6 * 4 + 3 * 8 + 1 * 8) + (1 * 1 + 0.5 * 3 + 0.25 * 1) + 0.1 * 8
    assert first.profit == pytest.approx(income - paid, abs=1e-12)
    second = step(chain, first.state, np.array([[0.0, 0.0]]), np.array([0.0]))
    np.testing.assert_array_equal(second.shipped, [[3, 1]])
    np.testing.assert_array_equal(second.state, [[0, 6, 0, 0, 1, 4, 3, 1]])
    assert second.reward == 0.5 * second.profit
    third = step(chain, second.state, np.array([[0.0, 0.0]]), np.array([0.0]))
    np.testing.assert_array_equal(third.peak, [[4, 6]])
    assert third.sold == 1  # the customer who waited
    np.testing.assert_array_equal(third.state, [[3, 6, 0, 0, 0, 3, 0, 0]])


def test_lost_sales_leave_nothing_waiting() -> None:
    chain = InventoryChain(backlog=False)
    result = step(chain, initial_state(chain, 1), np.array([[400.0, 400.0, 400.0]]), np.array([500.0]))
    assert result.state[0, chain.layout.unfilled].sum() == 0
    assert result.state[0, chain.layout.backlog] == 0


def test_the_book_of_the_material_is_kept() -> None:
    """``X(n+1) = X(n) + a - out`` with a backlog, at most that with lost sales; nothing is ever negative."""
    rng = np.random.default_rng(7)
    for _ in range(60):
        chain = random_chain(rng, int(rng.integers(1, 6)))
        state, demand = initial_state(chain, 40), random_demand(rng, chain, 40)
        for n in range(chain.periods):
            actions = rng.uniform(0, 200, (40, chain.stages))
            result = step(chain, state, actions, demand[:, n])
            out = np.column_stack([result.sold, result.shipped[:, :-1]])
            expected = position(chain, state) + np.floor(actions) - out
            if chain.backlog:
                np.testing.assert_array_equal(position(chain, result.state), expected)
            else:
                assert (position(chain, result.state) <= expected).all()
            lead = np.array(chain.lead_times) > 0
            stock = state[:, chain.layout.stock] + arriving(chain, state)
            np.testing.assert_array_equal(result.peak[:, lead], stock[:, lead])
            assert (result.state >= 0).all()
            state = result.state


def test_a_batch_is_its_members_one_by_one() -> None:
    rng = np.random.default_rng(3)
    chain = random_chain(rng, 3, periods=12)
    demand = random_demand(rng, chain, 9)
    batch, single = initial_state(chain, 9), [initial_state(chain, 1) for _ in range(9)]
    for n in range(chain.periods):
        actions = rng.uniform(0, 150, (9, 3))
        result = step(chain, batch, actions, demand[:, n])
        for i in range(9):
            alone = step(chain, np.ascontiguousarray(single[i]), actions[i : i + 1], demand[i : i + 1, n])
            np.testing.assert_array_equal(alone.state[0], result.state[i])
            assert alone.reward[0] == result.reward[i]
            single[i] = alone.state
        batch = result.state

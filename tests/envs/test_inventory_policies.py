"""The references earn what they earned when they were first measured, and break nothing."""

from __future__ import annotations

import numpy as np
import pytest

from envs.errors import InvalidSetting
from envs.inventory import DEFAULT, STRESS, UNCONSTRAINED, InventoryChain
from envs.inventory.chain import Array
from envs.inventory.dynamics import initial_state, step
from envs.inventory.evaluation import EpisodeStats, Policy, demand_paths, evaluate, simulate
from envs.inventory.planning import ShrinkingHorizonLP, perfect_information, plan
from envs.inventory.policies import BaseStock, EchelonBaseStock, OrderTheMost, Tuned, tune, tuned_base_stock
from tests.envs.chains import random_chain, random_demand

EPISODES = 4000


def assert_mean(stats: EpisodeStats, expected: float) -> None:
    """Within four standard errors, of this estimate and of the reference's (20,000 episodes)."""
    tolerance = 4 * stats.error * np.sqrt(1 + len(stats.rewards) / 20_000)
    assert stats.mean == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize(
    ("chain", "policy", "expected"),
    [
        (UNCONSTRAINED, EchelonBaseStock(UNCONSTRAINED, (92, 209, 417)), 409.5),
        (DEFAULT, BaseStock(DEFAULT, (92, 121, 203), (30, 29, 10)), 529.0),
        (DEFAULT, tuned_base_stock(DEFAULT), 529.0),
        (STRESS, tuned_base_stock(STRESS), 483.9),
        (UNCONSTRAINED, tuned_base_stock(UNCONSTRAINED), 529.4),
        (DEFAULT, OrderTheMost(DEFAULT), 276.3),
        (STRESS, OrderTheMost(STRESS), 369.1),
    ],
)
def test_the_references_earn_what_is_known(chain: InventoryChain, policy: Policy, expected: float) -> None:
    stats = evaluate(policy, chain, EPISODES, seed=1)
    assert_mean(stats, expected)
    assert stats.steps == EPISODES * 30
    assert stats.violations.sum() == stats.peak_violations.sum() == stats.costs.sum() == 0


def test_perfect_information_earns_what_is_known() -> None:
    bound = perfect_information(UNCONSTRAINED, demand_paths(UNCONSTRAINED, 100, seed=1))
    assert bound.mean() == pytest.approx(558.7, abs=4 * np.sqrt(2) * bound.std() / 10)


def test_nobody_beats_perfect_information() -> None:
    for chain in (DEFAULT, STRESS):
        demand = demand_paths(chain, 6, seed=2)
        bound = perfect_information(chain, demand)
        for policy in (tuned_base_stock(chain), OrderTheMost(chain), ShrinkingHorizonLP(chain)):
            stats = simulate(policy, chain, demand)
            assert (stats.rewards <= bound + 1e-6).all()
            assert stats.peak_violations.sum() == 0


def test_a_plan_delivers_what_it_promises() -> None:
    """Its shipments, ordered in the environment against that demand, earn its value and fit the storage."""
    rng = np.random.default_rng(5)
    for _ in range(25):
        chain = random_chain(rng, int(rng.integers(1, 5)), periods=12)
        demand = random_demand(rng, chain, 1)
        state, reward = initial_state(chain, 1), 0.0
        promised = plan(chain, state[0], demand[0])
        np.testing.assert_allclose(promised.shipments, np.round(promised.shipments), atol=1e-6)
        for n in range(chain.periods):
            outcome = step(chain, state, np.round(promised.shipments[n : n + 1]), demand[:, n])
            assert (outcome.peak <= chain.capacity).all()
            state, reward = outcome.state, reward + float(outcome.reward[0])
        assert reward == pytest.approx(promised.value, abs=1e-6)


def test_planning_again_on_the_way_changes_nothing_when_the_demand_is_known() -> None:
    """The rest of an optimal plan is optimal: pipeline, backlog and stock enter the program correctly."""
    rng = np.random.default_rng(6)
    for _ in range(10):
        chain = random_chain(rng, 3, periods=12, alpha=1.0)
        demand = random_demand(rng, chain, 1)
        state = initial_state(chain, 1)
        promised, earned = plan(chain, state[0], demand[0]).value, 0.0
        for n in range(chain.periods):
            rest = plan(chain, state[0], demand[0, n:])
            assert earned + rest.value == pytest.approx(promised, abs=1e-6)
            outcome = step(chain, state, np.round(rest.shipments[:1]), demand[:, n])
            state, earned = outcome.state, earned + float(outcome.reward[0])


def test_planning_for_the_expected_demand_beats_ordering_the_most() -> None:
    stats = evaluate(ShrinkingHorizonLP(DEFAULT), DEFAULT, 12, seed=1)
    assert stats.mean > 450


def test_tuning_finds_the_stored_level_of_reward() -> None:
    found = tune(DEFAULT, episodes=40, seed=3)
    assert found.stops[2] < 15, "the last stage must learn to stop early"
    earned = evaluate(found.policy(DEFAULT), DEFAULT, EPISODES, seed=1).mean
    assert earned > evaluate(tuned_base_stock(DEFAULT), DEFAULT, EPISODES, seed=1).mean - 6
    never = tune(DEFAULT, episodes=40, seed=3, stops=False)
    assert never.stops == (30, 30, 30)
    assert earned > evaluate(never.policy(DEFAULT), DEFAULT, EPISODES, seed=1).mean + 60


def test_a_chain_without_stored_levels_is_tuned() -> None:
    small = InventoryChain(
        periods=8, initial_stock=(20,), supply_capacity=(30,), lead_times=(1,), unit_cost=(1, 0.5),
        backlog_cost=(0.1, 0), holding_cost=(0.1,), storage_capacity=(60,), demand_mean=10,
    )  # fmt: skip
    policy = tuned_base_stock(small)
    assert tune(small, seed=3) == tune(small, seed=3), "the search repeats"
    assert policy.stops[0] <= 7, "what is ordered in the last period arrives too late"
    assert evaluate(policy, small, 500, seed=0).mean > evaluate(OrderTheMost(small), small, 500, seed=0).mean


def test_stops_count_the_first_periods() -> None:
    ordered: list[float] = []

    def watched(observations: Array) -> Array:
        orders = Tuned((92, 121, 203), (30, 29, 10)).policy(DEFAULT)(observations)
        ordered.append(float(orders[:, 2].sum()))
        return orders

    evaluate(watched, DEFAULT, 200, seed=0)
    assert ordered[9] > 0
    assert not any(ordered[10:])


def test_a_policy_may_see_one_observation_at_a_time() -> None:
    policy = tuned_base_stock(STRESS)

    def alone(observations: Array) -> Array:
        assert observations.shape == (1, STRESS.layout.size)
        return policy(observations)

    together, apart = evaluate(policy, STRESS, 7, seed=4), evaluate(alone, STRESS, 7, seed=4, batch=1)
    np.testing.assert_array_equal(together.rewards, apart.rewards)
    assert together.steps == apart.steps == 210


def test_violations_are_counted_whatever_the_policy_claims() -> None:
    """Against a plain loop over single episodes."""

    def greedy(observations: Array) -> Array:
        return np.tile(STRESS.supply, (len(observations), 1))

    stats = evaluate(greedy, STRESS, 5, seed=0)
    for i, path in enumerate(demand_paths(STRESS, 5, seed=0)):
        state, ends, peaks, cost = initial_state(STRESS, 1), 0, 0, np.zeros(3)
        for d in path:
            outcome = step(STRESS, state, STRESS.supply[None], np.array([d]))
            state = outcome.state
            ends += bool(outcome.excess(STRESS).any())
            peaks += bool(outcome.peak_excess(STRESS).any())
            cost += outcome.excess(STRESS)[0]
        assert (ends, peaks) == (stats.violations[i], stats.peak_violations[i])
        np.testing.assert_array_equal(cost, stats.costs[i])
    assert stats.violations.min() > 0


@pytest.mark.parametrize("returned", [np.zeros((4, 2)), np.full((4, 3), np.nan)])
def test_a_policy_that_returns_rubbish_is_named(returned: Array) -> None:
    with pytest.raises(InvalidSetting, match=r"policy: returned shape .* expected \(4, 3\)"):
        evaluate(lambda observations: returned, DEFAULT, 4, seed=0)

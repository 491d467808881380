"""Features of the chain: finite, complete, and exact about what an order changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from envs.encoder import Encoder, Scaled
from envs.inventory import DEFAULT, InventoryChain, MultiEchelonInventory
from envs.inventory.dynamics import initial_state, position, step
from envs.inventory.encoder import InventoryEncoder


def states(chain: InventoryChain, count: int = 50) -> np.ndarray:
    rng = np.random.default_rng(0)
    state = initial_state(chain, count)
    for _ in range(int(rng.integers(4, 9))):
        orders = rng.integers(0, 60, size=(count, chain.stages)).astype(float)
        state = step(chain, state, orders, rng.poisson(20, size=count).astype(float)).state
    return state


def test_every_feature_is_finite_and_of_moderate_size() -> None:
    encoder = InventoryEncoder(DEFAULT)
    features = encoder.encode(states(DEFAULT))
    assert isinstance(encoder, Encoder)
    assert features.shape == (50, encoder.n_features)
    assert np.isfinite(features).all()
    assert np.abs(features).max() < 20


def test_the_state_can_be_read_back() -> None:
    state = states(DEFAULT)
    features = InventoryEncoder(DEFAULT).encode(state)
    np.testing.assert_allclose(features[:, :7] * 50.0, state[:, :7])
    np.testing.assert_allclose(features[:, 7:25] * 25.0, state[:, 7:25])
    np.testing.assert_allclose((features[:, 25] + 1) * 15.0, state[:, 25])


def test_mixing_shows_the_critic_the_position_after_the_order() -> None:
    """With suppliers that can ship, the mixed net position equals that of the next state before demand."""
    chain = replace(DEFAULT, demand_mean=20.0)
    encoder = InventoryEncoder(chain)
    state = initial_state(chain, 1)
    orders = np.array([[10.0, 25.0, 40.0]])
    scaled = np.concatenate([encoder.encode(state), orders / chain.supply], axis=1)
    mixed = scaled @ encoder.mixing
    after = step(chain, state, orders, np.zeros(1)).state
    narrow = encoder.n_features - 11
    np.testing.assert_allclose(mixed[0, narrow : narrow + 3] * 30.0 + 90.0, position(chain, after)[0])
    np.testing.assert_allclose(mixed[0, narrow + 3 : narrow + 5] * 20.0, after[0, 1:3])
    np.testing.assert_allclose(mixed[0, -6:-3] * 100.0 + 200.0, np.cumsum(position(chain, after)[0]))
    np.testing.assert_array_equal(mixed[0, :narrow], scaled[0, :narrow])


@pytest.mark.parametrize("lead_times", [(1,), (2, 4), (3, 1, 2, 5)])
def test_chains_of_any_length(lead_times: tuple[int, ...]) -> None:
    m = len(lead_times)
    chain = InventoryChain(
        initial_stock=(100,) * m, supply_capacity=(90,) * m, lead_times=lead_times,
        unit_cost=tuple(np.linspace(1.5, 0.5, m + 1)),
        backlog_cost=(0.1,) * (m + 1), holding_cost=(0.1,) * m, storage_capacity=(300,) * m,
    )  # fmt: skip
    env = MultiEchelonInventory(chain)
    state, _ = env.reset(seed=0)
    assert env.encoder is not None
    features = env.encoder.encode(state[None])
    assert features.shape == (1, env.encoder.n_features)
    assert env.encoder.mixing.shape == (env.encoder.n_features + m,) * 2


def test_other_observations_are_scaled_by_their_bounds() -> None:
    encoder = Scaled((2.0, 4.0), n_actions=1)
    np.testing.assert_array_equal(encoder.encode(np.array([[1.0, 1.0]])), [[0.5, 0.25]])
    assert encoder.mixing.shape == (3, 3)
    assert MultiEchelonInventory(observation="or_gym").encoder is None

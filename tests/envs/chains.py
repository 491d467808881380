"""Random chains, demands and wishes that the tests of the inventory chain share."""

from __future__ import annotations

import numpy as np

from envs.inventory.chain import Array, InventoryChain


def random_chain(rng: np.random.Generator, stages: int, **changes: object) -> InventoryChain:
    """A chain with random data; a capacity leaves room for at least the initial stock."""
    stock = rng.integers(0, 120, stages)
    data: dict[str, object] = {
        "periods": int(rng.integers(5, 35)),
        "initial_stock": stock.tolist(),
        "supply_capacity": rng.integers(1, 120, stages).tolist(),
        "lead_times": rng.integers(0, 8, stages).tolist(),
        "price": rng.uniform(0, 5),
        "unit_cost": rng.uniform(0, 3, stages + 1).tolist(),
        "backlog_cost": rng.uniform(0, 1, stages + 1).tolist(),
        "holding_cost": rng.uniform(0, 1, stages).tolist(),
        "alpha": rng.uniform(0.5, 1.0),
        "demand_mean": rng.uniform(0, 60),
        "storage_capacity": (stock + rng.integers(0, 150, stages)).tolist(),
        "backlog": bool(rng.integers(2)),
    }
    return InventoryChain(**{**data, **changes})  # type: ignore[arg-type]


def random_demand(rng: np.random.Generator, chain: InventoryChain, batch: int) -> Array:
    """Demand ``(batch, periods)`` that a safe set must survive: none, bursts, droughts, and the ordinary."""
    shape = (batch, chain.periods)
    ordinary = rng.poisson(chain.demand_mean, shape)
    bursts = np.where(rng.random(shape) < 0.2, rng.integers(0, 500, shape), 0)
    drought = ordinary * (np.arange(chain.periods) % 11 < 3)
    kinds = np.stack([np.zeros(shape), ordinary, bursts, drought, np.full(shape, 1000)])
    return np.asarray(kinds[rng.integers(0, 5, batch), np.arange(batch)], dtype=np.float64)


def random_wishes(rng: np.random.Generator, chain: InventoryChain, batch: int) -> Array:
    """What a careless policy would order ``(batch, M)``: anything, all or nothing, and all."""
    shape = (batch, chain.stages)
    kinds = np.stack(
        [
            rng.uniform(0, 1, shape) * chain.supply,
            rng.integers(0, 2, shape) * chain.supply,
            np.broadcast_to(chain.supply, shape),
        ]
    )
    return np.asarray(kinds[rng.integers(0, 3, batch), np.arange(batch)])

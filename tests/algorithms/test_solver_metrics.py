"""What the solver pool counts arrives in RLlib's result, in the logged scalars and in TensorBoard's file."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from algorithms.omlt_ddpg.presets import paper
from solver_pool.pool import PoolConfig
from tune_configs.metrics import scalars
from tune_configs.runs import Settings
from tune_configs.tracking import Tracker

COUNTERS = (
    "solves",
    "status_optimal",
    "solver_seconds",
    "queue_seconds",
    "utilisation",
    "recycled",
    "replays",
)


def test_counters_of_each_backend_reach_rllib_and_tensorboard(local_ray: None, tmp_path: Path) -> None:
    config = paper()
    config.training(critic_hidden=(8, 8), actor_hidden=(8,), warm_up=30, steps_per_iteration=60)
    config.training(solver_pool=PoolConfig(n_workers=1))
    config.debugging(seed=3)
    algorithm = config.build_algo()
    try:
        result = [algorithm.train() for _ in range(2)][-1]
    finally:
        algorithm.stop()
    counted = result["solver"]["interior_point"]
    assert set(COUNTERS) <= set(counted)
    assert counted["solves"] == 60 * config.train_batch_size_per_learner
    assert 0.0 < counted["utilisation"] < 1.0

    flat = scalars(result)
    assert flat["solver/interior_point/solves"] == counted["solves"]
    assert flat["solver/interior_point/utilisation"] == counted["utilisation"]

    tracker = Tracker(tmp_path, cast(Settings, SimpleNamespace()), "disabled", 0)
    tracker.log(flat)
    tracker.close()
    logged = tags(tmp_path)
    assert {f"solver/interior_point/{name}" for name in COUNTERS} <= logged


def tags(folder: Path) -> set[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator: Any = EventAccumulator(str(folder))
    accumulator.Reload()
    return set(accumulator.Tags()["scalars"])

"""Names of the environments, for Gymnasium and for Ray."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym

ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "solverl/MultiEchelonInventory-v0": {
        "entry_point": "envs.inventory.env:MultiEchelonInventory",
        "vector_entry_point": "envs.inventory.env:MultiEchelonInventoryVector",
        "kwargs": {"backlog": True},
    },
    "solverl/MultiEchelonInventory-v1": {
        "entry_point": "envs.inventory.env:MultiEchelonInventory",
        "vector_entry_point": "envs.inventory.env:MultiEchelonInventoryVector",
        "kwargs": {"backlog": False},
    },
    "solverl/Packing-v0": {"entry_point": "envs.packing.env:PackingEnv"},
    "solverl/JobShop-v0": {"entry_point": "envs.job_shop.env:JobShopEnv"},
    "solverl/GridWorld-v0": {"entry_point": "envs.tabular.env:GridWorldEnv"},
    "solverl/TabularGymnasium-v0": {"entry_point": "envs.tabular.adapter:TabularGymnasium"},
    "solverl/Tracking-v0": {"entry_point": "envs.tracking.env:Tracking"},
    "solverl/LinearTube-v0": {
        "entry_point": "envs.linear_tube.env:LinearTube",
        "vector_entry_point": "envs.linear_tube.vector:LinearTubeVector",
    },
}


def register_all() -> None:
    """Register every environment with Gymnasium; calling it again changes nothing."""
    # As in OR-Gym, v1 is the other variant and not the successor of v0, which Gymnasium cannot know.
    warnings.filterwarnings("ignore", message=r".*solverl/MultiEchelonInventory-v0 is out of date")
    for name, entry in ENVIRONMENTS.items():
        if name not in gym.registry:
            gym.register(name, **entry)


def register_with_ray() -> None:
    """Register every environment with Ray Tune under the same name; `env_config` becomes its arguments."""
    from ray.tune.registry import register_env

    for name in ENVIRONMENTS:
        register_env(name, lambda config, name=name: _make(name, dict(config)))


def _make(name: str, config: dict[str, Any]) -> gym.Env[Any, Any]:
    # A Ray worker may run this before anything else of ours was imported.
    register_all()
    return gym.make(name, **config)

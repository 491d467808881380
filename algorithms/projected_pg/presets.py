"""How the projected policy gradients train on the paper's example and on the inventory chain."""

from __future__ import annotations

from typing import Any

from algorithms.projected_pg.config import ProjectedDPGConfig, ProjectedPGConfig
from algorithms.projected_pg.estimators import Score

TUBE = "solverl/LinearTube-v0"
INVENTORY = "solverl/MultiEchelonInventory-v0"
TUBE_EPISODES = 3_200
INVENTORY_EPISODES = 4_000
GAMMA_TUBE, GAMMA_INVENTORY = 0.95, 0.97


def tube_deterministic(correction: bool = True, episodes: int = TUBE_EPISODES) -> ProjectedDPGConfig:
    """Robust linear MPC (specification projection_pg, sections 6 and 7) with a linear policy ``K x + k``, as there.

    `episodes` is how long the rates take to fall. A small buffer keeps the states near the policy's own, whose weights
    decide what the best linear policy is.
    """
    config = ProjectedDPGConfig()
    config.environment(TUBE)
    steps = 100 * episodes
    config.training(
        correction=correction,
        gamma=GAMMA_TUBE,
        actor_hidden=(),
        actor_lr=[[0, 4e-3], [steps // 2, 4e-3], [steps, 2e-4]],
        critic_lr=[[0, 1e-3], [steps // 2, 1e-3], [steps, 1e-4]],
        noise=0.2,
        tau=0.05,
        buffer_capacity=32_000,
        updates=150,
        reward_scale=10.0,
    )
    return config


def tube_stochastic(score: Score = "proposed", episodes: int = TUBE_EPISODES) -> ProjectedPGConfig:
    """The same with proposals ``N(K x + k, 0.1^2 I)`` of fixed spread, as in the specification's section 7."""
    config = ProjectedPGConfig()
    config.environment(TUBE)
    steps = 100 * episodes
    config.training(
        score=score,
        gamma=GAMMA_TUBE,
        actor_hidden=(),
        log_std=-2.0,
        learn_std=False,
        lr=[[0, 1e-2], [steps, 1e-3]],
        num_epochs=5,
        minibatch_size=800,
        reward_scale=5.0,
    )
    return config


def inventory_deterministic(
    correction: bool = True, episodes: int = INVENTORY_EPISODES
) -> ProjectedDPGConfig:
    """The inventory chain without its built-in discount, which `gamma` replaces."""
    config = ProjectedDPGConfig()
    config.environment(INVENTORY, env_config={"alpha": 1.0})
    steps = 30 * episodes
    config.training(
        correction=correction,
        gamma=GAMMA_INVENTORY,
        actor_lr=[[0, 1e-3], [steps, 1e-4]],
        critic_lr=[[0, 1e-3], [steps, 1e-4]],
        noise=0.15,
        tau=0.02,
        buffer_capacity=60_000,
        updates=100,
        activation="softplus",
        reward_scale=20.0,
    )
    return config


def preset(problem: str, name: str, **changes: Any) -> Any:
    """The configuration called `name` on ``"tube"`` or ``"inventory"``: see `NAMES`."""
    if problem == "inventory":
        return inventory_deterministic(correction=name == "corrected", **changes)
    if name in ("corrected", "uncorrected"):
        return tube_deterministic(correction=name == "corrected", **changes)
    return tube_stochastic("proposed" if name == "stochastic" else "executed", **changes)

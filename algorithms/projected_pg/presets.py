"""How the projected policy gradients train on the paper's example and on the inventory chain."""

from __future__ import annotations

from typing import Any

from algorithms.projected_pg.config import ProjectedDPGConfig, ProjectedPGConfig
from algorithms.projected_pg.estimators import Score

TUBE = "solverl/LinearTube-v0"
INVENTORY = "solverl/MultiEchelonInventory-v0"
TUBE_EPISODES = 7_680
INVENTORY_EPISODES = 2_560
GAMMA_TUBE, GAMMA_INVENTORY = 0.95, 0.97


def tube_deterministic(correction: bool = True, episodes: int = TUBE_EPISODES) -> ProjectedDPGConfig:
    """Robust linear MPC (specification projection_pg, sections 6 and 7) with a linear policy ``K x + k``, as there.

    `episodes` is how long the rates take to fall. The critic is a quartic fitted by least squares: near the best policy
    costs are so flat that networks' gradients, and those of smaller batches, are mostly error.
    """
    config = ProjectedDPGConfig()
    config.environment(TUBE)
    steps = 100 * episodes
    config.training(
        correction=correction,
        gamma=GAMMA_TUBE,
        actor_hidden=(),
        actor_lr=[[0, 0.2], [steps // 2, 0.1], [steps, 2e-3]],
        critic_degree=4,
        noise=0.5,
        deployed_rate=0.004,
        buffer_capacity=250_000,
        updates=40,
        actor_delay=1,
        train_batch_size_per_learner=2_500,
        reward_scale=10.0,
    )
    config.env_runners(num_envs_per_env_runner=128)
    return config


def tube_stochastic(score: Score = "proposed", episodes: int = TUBE_EPISODES) -> ProjectedPGConfig:
    """The same with Gaussian proposals of fixed spread: exp(-2) = 0.14 of the half widths (specification: 0.1)."""
    config = ProjectedPGConfig()
    config.environment(TUBE)
    steps = 100 * episodes
    config.training(
        score=score,
        gamma=GAMMA_TUBE,
        actor_hidden=(),
        log_std=-2.0,
        learn_std=False,
        lr=[[0, 2e-2], [steps, 2e-3]],
        num_epochs=10,
        clip_param=0.3,
        minibatch_size=3_200,
        reward_scale=5.0,
    )
    config.env_runners(num_envs_per_env_runner=128)
    return config


def inventory_deterministic(
    correction: bool = True, episodes: int = INVENTORY_EPISODES
) -> ProjectedDPGConfig:
    """The inventory chain without its built-in discount, which `gamma` replaces; it begins near the mean demand."""
    config = ProjectedDPGConfig()
    config.environment(INVENTORY, env_config={"alpha": 1.0})
    steps = 30 * episodes
    config.training(
        correction=correction,
        gamma=GAMMA_INVENTORY,
        actor_lr=[[0, 1e-3], [steps, 1e-4]],
        critic_lr=[[0, 1e-3], [steps, 1e-4]],
        initial_action=(20.0, 20.0, 20.0),
        excess_coeff=0.05,
        noise=0.3,
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

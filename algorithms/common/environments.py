"""Environments as RLlib's runners make them, wherever an algorithm needs one."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import ray.tune.registry
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig


def make_env(config: AlgorithmConfig) -> gym.Env[Any, Any]:
    """One environment of `config`: from its class, its name with Ray, or its name with Gymnasium.

    Raises:
        ValueError: if `config` has no environment.
    """
    if config.env is None:
        raise ValueError("environment: none was given. Call config.environment(...) first.")
    if not isinstance(config.env, str):
        env: gym.Env[Any, Any] = config.env(dict(config.env_config))
        return env
    registry = ray.tune.registry
    if registry._global_registry.contains(registry.ENV_CREATOR, config.env):
        creator = registry._global_registry.get(registry.ENV_CREATOR, config.env)
        created: gym.Env[Any, Any] = creator(dict(config.env_config))
        return created
    return gym.make(config.env, **config.env_config)

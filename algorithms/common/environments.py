"""Environments as RLlib's runners make them, wherever an algorithm needs one."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import ray.tune.registry
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from envs.encoder import Encoder, Scaled
from envs.safe_set import SafeSet


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


def make_vector_env(config: AlgorithmConfig, count: int) -> gym.vector.VectorEnv[Any, Any, Any]:
    """`count` environments of `config` that are stepped together: the environment's own vector form, if it has one."""
    spec = gym.registry.get(config.env) if isinstance(config.env, str) else None
    if spec is not None and spec.vector_entry_point is not None:
        return gym.make_vec(
            spec, num_envs=count, vectorization_mode="vector_entry_point", **config.env_config
        )
    return gym.vector.SyncVectorEnv([lambda: make_env(config)] * count)


def probe(
    config: AlgorithmConfig, safe_set: SafeSet | None, encoder: Encoder | None
) -> tuple[SafeSet | None, Encoder]:
    """The safe set and the encoder: as given, else the environment's own; None for a safe set that nobody gave.

    The encoder's default is the observation divided by its space's bounds.
    """
    if safe_set is None or encoder is None:
        env = make_env(config)
        safe_set = safe_set or getattr(env.unwrapped, "safe_set", None)
        encoder = encoder or getattr(env.unwrapped, "encoder", None) or _scaled(env)
        env.close()
    return safe_set, encoder


def required(config: AlgorithmConfig, safe_set: SafeSet | None) -> SafeSet:
    """`safe_set`, or an error if it is None.

    Raises:
        ValueError: it names the remedy.
    """
    if safe_set is None:
        raise ValueError(
            f"safe_set: the environment {config.env!r} has none. Give one with "
            "config.safety(safe_set=...): rows(observations) -> (G, h), as in envs/safe_set.py."
        )
    return safe_set


def _scaled(env: gym.Env[Any, Any]) -> Scaled:
    """Observations divided by the bounds of their space, where it has any."""
    space = env.observation_space
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
        raise ValueError(f"observation_space: is {space}; give an encoder with config.safety(encoder=...).")
    bound = np.maximum(np.abs(space.low), np.abs(space.high)).astype(np.float64)
    scale = np.where(np.isfinite(bound) & (bound > 0), bound, 1.0)
    return Scaled(tuple(scale.tolist()), int(np.prod(env.action_space.shape or (1,))))

"""SAFE as RLlib's evaluation: ``config.evaluation(custom_evaluation_function=evaluate_safe, ...)``."""

from __future__ import annotations

from typing import Any

import numpy as np
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    EPISODE_LEN_MEAN,
    EPISODE_RETURN_MEAN,
    EVALUATION_RESULTS,
    NUM_EPISODES,
)
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from algorithms.common.shield import SAFE_WITHIN, Outcome


def evaluate_safe(algorithm: Any, runners: Any) -> tuple[dict[str, Any], int, int]:
    """Play `evaluation_duration` episodes with SAFE on the algorithm's current critic and environment.

    Returns are logged where RLlib logs its own evaluation (``evaluation/env_runners/episode_return_mean``);
    beside them ``cost_mean`` (the summed cost vector of an episode), ``unsafe_steps``, and the counts of
    certified, repaired and fallback actions. Episode `i` is seeded by the run's seed and `i`, so that every
    evaluation meets the same episodes.

    Args:
        algorithm: has ``safe_policy()``. runners: RLlib's evaluation runners, not used.

    Returns:
        An empty dict (RLlib discards it), the environment steps and the agent steps.
    """
    policy = algorithm.safe_policy()
    env = algorithm.config.make_env()
    episodes = int(algorithm.config.evaluation_duration)
    returns, lengths, costs, unsafe = [], [], [], 0
    outcomes = dict.fromkeys(Outcome, 0)
    for episode in range(episodes):
        observation, _ = env.reset(seed=(algorithm.config.seed or 0) * 1_000_003 + episode)
        total, length, cost, over = 0.0, 0, 0.0, False
        while not over:
            action, certificate = policy.act(observation)
            observation, reward, terminated, truncated, info = env.step(action)
            total, length = total + float(reward), length + 1
            cost += float(np.sum(info.get("cost", 0.0)))
            outcomes[certificate.outcome] += 1
            unsafe += certificate.violation > SAFE_WITHIN
            over = terminated or truncated
        returns.append(total)
        lengths.append(length)
        costs.append(cost)
    env.close()
    figures: dict[str, Any] = {
        EPISODE_RETURN_MEAN: np.mean(returns),
        EPISODE_LEN_MEAN: np.mean(lengths),
        NUM_EPISODES: episodes,
        "cost_mean": np.mean(costs),
        "unsafe_steps": unsafe,
        **{outcome.name.lower(): count for outcome, count in outcomes.items()},
    }
    logger = MetricsLogger()
    for name, value in figures.items():
        logger.log_value(name, float(value), window=1)
    algorithm.metrics.aggregate([logger.reduce()], key=(EVALUATION_RESULTS, ENV_RUNNER_RESULTS))
    return {}, sum(lengths), sum(lengths)

"""Ray actors of an algorithm: what they reserve, whom to call, and what becomes of those that are lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from solver_pool.pool import pool_bundles


def reserved(request: Any, config: Any, default: AlgorithmConfig, pools: int = 1) -> Any:
    """RLlib's request with the bundles of `pools` solver pools appended, so that Tune reserves them with the trial.

    Args:
        config: of the trial, an `AlgorithmConfig` with `solver_pool` or what Tune made a dictionary of.
        default: what such a dictionary changes.
    """
    if not isinstance(config, AlgorithmConfig):
        config = default.update_from_dict(config)
    # Appended, never inserted: environment runners use fixed indices.
    bundles = pool_bundles(config.solver_pool) * pools
    if not bundles:
        return request
    from ray.tune import PlacementGroupFactory

    return PlacementGroupFactory([*request.bundles, *bundles], strategy=request.strategy)


def players(group: Any, call: Callable[[Any], Any]) -> list[Any]:
    """Call a function on every runner that plays: the local one, or the remote ones if there are any."""
    alone = group.num_remote_workers() == 0
    results: list[Any] = group.foreach_env_runner(call, local_env_runner=alone)
    return results


def reseed(group: Any, restored: list[int], losses: int) -> None:
    """Let restarted runners meet episodes unseen so far: their seed would replay those that they began with.

    Args:
        restored: indices of the runners. losses: how many were lost since the algorithm began.
    """

    def begin_anew(runner: Any) -> None:
        runner._seed = None if runner._seed is None else runner._seed + 1_000_003 * losses

    group.foreach_env_runner(begin_anew, local_env_runner=False, remote_worker_ids=restored)

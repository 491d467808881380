"""Environment runners of an algorithm: whom to call, and what becomes of those that are lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


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

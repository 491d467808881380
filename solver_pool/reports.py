"""What pools tell the cluster about themselves, for `solverl pool status`.

A pool that has workers of its own leaves a record of its counters in the cluster's key-value store: no actor has to
run for it, and a record outlives the trial that wrote it, so `status` says when each was last heard of.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from typing import TYPE_CHECKING, Any

import ray
from ray.experimental import internal_kv

if TYPE_CHECKING:
    from solver_pool.pool import SolverPool

logger = logging.getLogger(__name__)

NAMESPACE = b"solverl"
PREFIX = b"pool:"
INTERVAL = 2.0
"""[s] at least between two records of a pool: writing one takes about a millisecond."""
FORGOTTEN = 3600.0
"""[s] after which a record that nobody renewed is dropped: its trial was killed."""

_posted: dict[str, float] = {}


def holder() -> str:
    """Who this process is: the trial's or actor's name if it has one, the machine, and the process id."""
    context = ray.get_runtime_context()
    actor = "" if context.get_actor_id() is None else context.get_actor_name() or "actor"
    return f"{actor or 'driver'} {socket.gethostname()}:{os.getpid()}"


def post(pool: SolverPool) -> None:
    """Renew the record of a pool, at most every `INTERVAL`. Never raises: a report is no reason to fail."""
    key, now = _key(pool), time.monotonic()
    if now - _posted.get(key, -INTERVAL) < INTERVAL:
        return
    _posted[key] = now
    record = {
        "holder": holder(),
        "n_workers": pool.config.n_workers,
        "shared": pool.config.shared,
        "age": pool.age,
        "time": time.time(),
        "backends": pool.totals(),
    }
    try:
        internal_kv._internal_kv_put(PREFIX + key.encode(), json.dumps(record).encode(), namespace=NAMESPACE)
    except Exception:
        logger.warning("the record for `solverl pool status` could not be written", exc_info=True)


def withdraw(pool: SolverPool) -> None:
    """Remove the record of a pool that is closed."""
    if _posted.pop(_key(pool), None) is not None:
        try:
            internal_kv._internal_kv_del(PREFIX + _key(pool).encode(), namespace=NAMESPACE)
        except Exception:
            logger.warning("the record for `solverl pool status` could not be removed", exc_info=True)


def read() -> list[dict[str, Any]]:
    """The records of all pools of the cluster, the latest first; those long silent are dropped."""
    records = []
    for key in internal_kv._internal_kv_list(PREFIX, namespace=NAMESPACE):
        data = internal_kv._internal_kv_get(key, namespace=NAMESPACE)
        record = None if data is None else json.loads(data)
        if record is not None and time.time() - record["time"] > FORGOTTEN:
            internal_kv._internal_kv_del(key, namespace=NAMESPACE)
        elif record is not None:
            records.append(record | {"silent": time.time() - record["time"]})
    return sorted(records, key=lambda record: float(record["silent"]))


def _key(pool: SolverPool) -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{id(pool)}"

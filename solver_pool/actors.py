"""Workers as Ray actors that belong to one pool: they start where their pool runs and end with it."""

from __future__ import annotations

import itertools
import logging
import queue
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray.exceptions import ActorDiedError, ObjectStoreFullError, RayTaskError

from solver_pool.crew import Failure, Muster
from solver_pool.errors import SolverPoolError
from solver_pool.worker import SolverWorker

if TYPE_CHECKING:
    from solver_pool.pool import PoolConfig

logger = logging.getLogger(__name__)

CONTROL = "control"
"""The concurrency group of the calls that must not wait for a solve."""


class Calls:
    """Calls of actors, and their results in one queue, so that waiting does not go over all calls."""

    def __init__(self) -> None:
        self._ended: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._tokens = itertools.count()

    def call(self, handle: Any, method: str, *arguments: Any) -> int:
        token = next(self._tokens)
        future = getattr(handle, method).remote(*arguments).future()
        future.add_done_callback(partial(self._end, token))
        return token

    def _end(self, token: int, future: Any) -> None:
        error = future.exception()
        self._ended.put((token, future.result() if error is None else _failure(error)))

    def collect(self, timeout: float | None) -> list[tuple[int, Any]]:
        ended: list[tuple[int, Any]] = []
        try:
            ended.append(self._ended.get(timeout=timeout) if timeout != 0.0 else self._ended.get_nowait())
            while True:
                ended.append(self._ended.get_nowait())
        except queue.Empty:
            return ended


def _failure(error: BaseException) -> Failure:
    text = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if isinstance(error, RayTaskError):
        return Failure("error", str(error))
    return Failure("dead" if isinstance(error, ActorDiedError) else "gone", text)


class OnRay:
    """What every `Staff` on Ray does alike: it calls actors, and publishes in the object store."""

    def __init__(self) -> None:
        self._calls = Calls()
        self.capacity = store_bytes()

    def call(self, handle: Any, method: str, *arguments: Any) -> int:
        return self._calls.call(handle, method, *arguments)

    def collect(self, timeout: float | None) -> list[tuple[int, Any]]:
        return self._calls.collect(timeout)

    def publish(self, data: bytes) -> Any:
        """Put bytes into the object store.

        Raises:
            SolverPoolError: if they do not fit.
        """
        try:
            return ray.put(np.frombuffer(data, dtype=np.uint8))
        except ObjectStoreFullError as error:
            raise SolverPoolError(
                f"a critic of {len(data) / 2**20:.0f} MiB does not fit into Ray's object store of "
                f"{store_bytes() / 2**20:.0f} MiB. Give Ray more (--object-store-memory), or use placement='local'."
            ) from error

    def abandon(self, handle: Any) -> None:
        handle.abandon.options(concurrency_group=CONTROL).remote()

    def kill(self, handle: Any) -> None:
        ray.kill(handle, no_restart=False)


class Actors(OnRay):
    """The `Staff` of a pool of its own.

    Inside a placement group that captures children (Tune trials have one) the actors take its bundles.
    """

    interval = np.inf
    news = False

    def __init__(self, config: PoolConfig) -> None:
        super().__init__()
        self._config = config
        self._warned = False

    def muster(self, held: Sequence[Any], wanted: int) -> Muster:
        missing = max(wanted - len(held), 0)
        if missing and not self._warned:
            self._warned = True
            check_demand(self._config)
        return Muster([start_worker(self._config) for _ in range(missing)])

    def dismiss(self, handle: Any, broken: bool = False) -> None:
        if ray.is_initialized():
            ray.kill(handle)

    def rest(self) -> bool:
        return True


def start_worker(config: PoolConfig, **options: Any) -> Any:
    """Start a worker: Ray restarts it for ever, and does not repeat its calls.

    Args:
        config: of its pool.
        options: further options of the actor.
    """
    actor: Any = ray.remote(concurrency_groups={CONTROL: 1})(SolverWorker)
    return actor.options(
        num_cpus=config.cpus_per_worker,
        resources=dict(config.resources) or None,
        max_restarts=-1,
        max_task_retries=0,
        **options,
    ).remote(config.grace, config.recycle_after)


def store_bytes() -> float:
    """The largest object store of a node [bytes]; infinite if Ray does not say."""
    sizes = [node["Resources"].get("object_store_memory", 0.0) for node in ray.nodes() if node["Alive"]]
    return max(sizes, default=0.0) or np.inf


def check_demand(config: PoolConfig) -> None:
    """Say at once if the cluster, as it is, can never hold the workers: they would wait without a word.

    Only a warning: a cluster that grows on demand may still come to hold them.
    """
    need = {"CPU": config.cpus_per_worker, **config.resources}
    need = {name: amount for name, amount in need.items() if amount > 0}
    group = ray.util.get_current_placement_group()
    if group is not None:
        places, where = (
            [dict(bundle) for bundle in group.bundle_specs],
            "the trial's placement group has room",
        )
        remedy = "append pool_bundles(config) to the trial's resource request"
    else:
        places, where = [node["Resources"] for node in ray.nodes() if node["Alive"]], "the cluster has room"
        remedy = f"set PoolConfig.n_workers, cpus_per_worker or resources to what it has, {_readable(places)}"
    room = sum(
        int(min((place.get(name, 0.0) + 1e-9) // amount for name, amount in need.items()) if need else 10**9)
        for place in places
    )
    if room < config.n_workers:
        logger.warning(
            "n_workers: %d solver workers of %s are wanted, but %s for %d. The pool goes on with those that start "
            "within %g s; %s, or add nodes.",
            config.n_workers, need, where, room, config.start_timeout, remedy,
        )  # fmt: skip


def _readable(places: Sequence[dict[str, float]]) -> str:
    total: dict[str, float] = {}
    for place in places:
        for name, amount in place.items():
            if ":" not in name and "memory" not in name and "group" not in name:
                total[name] = total.get(name, 0.0) + amount
    return ", ".join(f"{name}: {amount:g}" for name, amount in sorted(total.items()))

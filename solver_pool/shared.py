"""Shared pools: named workers that live on their own, and that several trials lease.

A broker, a detached actor, keeps a `Ledger`: who leases which worker since when. A client asks for workers when it
has problems, renews its leases while it waits for answers, and hands the workers back at the end of each call. A lease
that is not renewed for `LEASE_SECONDS` (its client was killed, or its caller stopped asking for answers) is ended and
its workers are restarted. Programs go from client to worker directly.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray

from solver_pool.actors import OnRay, check_demand, start_worker
from solver_pool.crew import Failure, Muster
from solver_pool.errors import InvalidProblem, SolverPoolError
from solver_pool.reports import holder

if TYPE_CHECKING:
    from solver_pool.pool import PoolConfig

NAMESPACE = "solverl"
PREFIX = "solver_pool:"
LEASE_SECONDS = 10.0
"""[s] without renewal after which a lease ends."""
RENEW_SECONDS = 1.0
"""[s] between renewals."""
BROKER_SECONDS = 30.0
"""[s] within which a broker that lives answers."""
KEPT_CLIENTS = 1000
"""Clients whose counters are kept apart; those of earlier ones are only in the sum."""

Counters = dict[str, dict[str, float]]


@dataclass
class Lease:
    """What one client holds.

    Attributes:
        holder: who it is, for people.
        since: time [s] of its first worker, or of when it began to wait.
        renewed: time [s] of the last renewal.
        wanted: workers that it could use.
        workers: indices of those it has.
        used: [worker seconds] had so far: who had least comes first when workers are scarce.
    """

    holder: str
    since: float
    renewed: float
    wanted: int = 0
    workers: set[int] = field(default_factory=set)
    used: float = 0.0


class Ledger:
    """Leases of `n_workers` workers, shared fairly. No Ray; times [s] are the caller's.

    Args:
        n_workers: how many there are; their indices are ``0 ... n_workers - 1``.
    """

    def __init__(self, n_workers: int) -> None:
        self.n_workers = n_workers
        self.free = set(range(n_workers))
        self.leases: dict[str, Lease] = {}

    def renew(
        self, client: str, holder: str, held: Iterable[int], wanted: int, now: float
    ) -> tuple[list[int], list[int], int]:
        """Renew a client's leases; returns workers that join, workers that it lost, and how many to hand back."""
        lease = self.leases.setdefault(client, Lease(holder, now, now))
        lease.used += len(lease.workers) * (now - lease.renewed)
        lease.renewed, lease.wanted = now, wanted
        held = set(held)
        self.free |= lease.workers - held  # handed back
        adopted = held & self.free  # its lease had run out, or the broker is new, and nobody has them
        lost = held - adopted - lease.workers
        lease.workers = held - lost
        self.free -= adopted
        share = self.shares()[client]
        joined = sorted(self.free)[: max(min(share, wanted) - len(lease.workers), 0)]
        self.free -= set(joined)
        lease.workers |= set(joined)
        return joined, sorted(lost), max(len(lease.workers) - share, 0)

    def hand_back(self, client: str, workers: Iterable[int]) -> None:
        """A client returns some of its workers."""
        lease = self.leases.get(client)
        if lease is not None:
            back = lease.workers & set(workers)
            lease.workers -= back
            self.free |= back

    def finish(self, client: str) -> None:
        """A client needs nothing for now."""
        lease = self.leases.pop(client, None)
        if lease is not None:
            self.free |= lease.workers

    def expire(self, now: float) -> list[int]:
        """End the leases that were not renewed; returns the workers that have to be restarted."""
        reclaimed: list[int] = []
        for client, lease in list(self.leases.items()):
            if now - lease.renewed > LEASE_SECONDS:
                reclaimed += sorted(lease.workers)
                self.finish(client)
        return reclaimed

    def shares(self) -> dict[str, int]:
        """How many workers each client may hold: equal shares of what it wants, the rest to who had least so far."""
        shares = dict.fromkeys(self.leases, 0)
        left = self.n_workers
        while left:
            short = [c for c, lease in self.leases.items() if shares[c] < lease.wanted]
            if not short:
                break
            short.sort(key=lambda client: self.leases[client].used)
            for client in short[:left]:
                shares[client] += 1
            left -= min(left, len(short))
        return shares


@dataclass(frozen=True)
class Grant:
    """The broker's answer: workers that join by index, indices lost, and how many to hand back."""

    joined: dict[int, Any]
    lost: list[int]
    surplus: int


class Broker:
    """The actor that owns a shared pool's workers and leases them.

    Args:
        name: of the pool.
        config: of its workers; ``n_workers`` of them are started.
    """

    def __init__(self, name: str, config: PoolConfig) -> None:
        self._name, self._config = name, config
        self._ledger = Ledger(config.n_workers)
        self._counters: dict[str, Counters] = {}
        self._past: Counters = {}
        self._began = time.time()
        self._expired = 0
        self._workers = [self._start(i) for i in range(config.n_workers)]

    def _start(self, index: int) -> Any:
        # A broker that Ray restarted finds its workers again.
        return start_worker(
            self._config,
            name=f"{PREFIX}{self._name}:{index}",
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            scheduling_strategy="DEFAULT",
        )

    def renew(self, client: str, holder: str, held: list[int], wanted: int, counters: Counters) -> Grant:
        """Renew a client's leases and take note of what it solved so far."""
        self._note(client, counters)
        self._reclaim()
        joined, lost, surplus = self._ledger.renew(client, holder, held, wanted, time.monotonic())
        return Grant({index: self._workers[index] for index in joined}, lost, surplus)

    def hand_back(self, client: str, index: int, broken: bool) -> None:
        """Take a worker back; one that is broken is replaced."""
        self._ledger.hand_back(client, [index])
        if broken:
            ray.kill(self._workers[index])
            self._ledger.free.discard(index)
            self._workers[index] = self._replace(index)
            self._ledger.free.add(index)

    def _replace(self, index: int) -> Any:
        for _ in range(100):  # the name is free once Ray has noticed
            try:
                ray.get_actor(f"{PREFIX}{self._name}:{index}", namespace=NAMESPACE)
            except ValueError:
                break
            time.sleep(0.05)
        return self._start(index)

    def finish(self, client: str, counters: Counters) -> None:
        """A client hands everything back."""
        self._note(client, counters)
        self._ledger.finish(client)

    def status(self) -> dict[str, Any]:
        """Workers, leases and counters, for people."""
        self._reclaim()
        now = time.monotonic()
        leases = [
            {
                "holder": lease.holder,
                "age": now - lease.since,
                "renewed": now - lease.renewed,
                "workers": len(lease.workers),
                "wanted": lease.wanted,
            }
            for lease in self._ledger.leases.values()
        ]
        return {
            "name": self._name,
            "n_workers": self._config.n_workers,
            "free": len(self._ledger.free),
            "age": time.time() - self._began,
            "expired": self._expired,
            "leases": leases,
            "backends": add_counters([self._past, *self._counters.values()]),
        }

    def stop(self) -> None:
        """Kill the workers; the caller kills the broker."""
        for worker in self._workers:
            ray.kill(worker)

    def _note(self, client: str, counters: Counters) -> None:
        self._counters.pop(client, None)
        self._counters[client] = counters
        if len(self._counters) > KEPT_CLIENTS:
            earliest = next(iter(self._counters))
            self._past = add_counters([self._past, self._counters.pop(earliest)])

    def _reclaim(self) -> None:
        reclaimed = self._ledger.expire(time.monotonic())
        self._expired += len(reclaimed)
        for index in reclaimed:
            ray.kill(self._workers[index], no_restart=False)


def add_counters(all_counters: Iterable[Mapping[str, Mapping[str, float]]]) -> Counters:
    """The sum of counters by backend and name."""
    total: Counters = {}
    for counters in all_counters:
        for backend, values in counters.items():
            mine = total.setdefault(backend, {})
            for name, value in values.items():
                mine[name] = mine.get(name, 0.0) + value
    return total


class Leased(OnRay):
    """The `Staff` of a pool that leases its workers.

    Args:
        config: names the shared pool.
        counters: what the pool's workers solved so far.

    Raises:
        SolverPoolError: if there is no such pool.
    """

    interval = RENEW_SECONDS

    def __init__(self, config: PoolConfig, counters: Callable[[], Counters]) -> None:
        super().__init__()
        self._name = str(config.shared)
        self._counters = counters
        self._broker = find(self._name)
        self._client, self._holder = uuid.uuid4().hex, holder()
        self._held: dict[int, Any] = {}
        self._renewal: int | None = None
        self._answer: Any = None
        self._resting = True

    @property
    def news(self) -> bool:
        return self._answer is not None

    def muster(self, held: Sequence[Any], wanted: int) -> Muster:
        arguments = self._client, self._holder, list(self._held), wanted, self._counters()
        if self._resting:  # the first of a run: the answer takes about a millisecond
            self._resting = False
            try:
                self._answer = ray.get(self._broker.renew.remote(*arguments), timeout=BROKER_SECONDS)
            except ray.exceptions.RayError as error:
                self._broker = find(self._name)  # stopped meanwhile, or stopped and started again
                self._resting = True
                raise SolverPoolError(f"shared: the pool {self._name!r} does not answer: {error}") from error
        elif self._answer is None:
            if self._renewal is None:
                self._renewal = self._calls.call(self._broker, "renew", *arguments)
            return Muster()
        answer, self._answer = self._answer, None
        if isinstance(answer, Failure):
            if answer.kind == "gone":  # the broker is restarting; its workers are not
                return Muster()
            raise SolverPoolError(f"shared: the pool {self._name!r} was stopped. {_remedy(self._name)}")
        revoked = [self._held.pop(index) for index in answer.lost]
        self._held |= answer.joined
        return Muster(list(answer.joined.values()), revoked, answer.surplus)

    def collect(self, timeout: float | None) -> list[tuple[int, Any]]:
        ended = super().collect(timeout)
        for token, result in ended:
            if token == self._renewal:
                self._renewal, self._answer = None, result
        return ended

    def dismiss(self, handle: Any, broken: bool = False) -> None:
        for index, other in list(self._held.items()):
            if other is handle and ray.is_initialized():
                del self._held[index]
                self._broker.hand_back.remote(self._client, index, broken)

    def rest(self) -> bool:
        self._held.clear()
        self._renewal, self._answer, self._resting = None, None, True
        self._broker.finish.remote(self._client, self._counters())
        return False


def start(name: str, config: PoolConfig) -> None:
    """Start a shared pool in the cluster that this process is connected to.

    Args:
        name: by which `PoolConfig.shared` finds it.
        config: of its workers.

    Raises:
        InvalidProblem: if there is one of that name, or no worker is asked for.
    """
    if config.n_workers < 1:
        raise InvalidProblem("workers", f"is {config.n_workers}", "A shared pool needs at least one.")
    if name in names():
        raise InvalidProblem(
            "name", f"{name!r} is taken", f"Stop it with `solverl pool stop {name}`, or choose another."
        )
    check_demand(config)
    actor: Any = ray.remote(Broker)
    broker = actor.options(
        name=PREFIX + name,
        namespace=NAMESPACE,
        lifetime="detached",
        num_cpus=0,
        max_restarts=-1,
        scheduling_strategy="DEFAULT",
    ).remote(name, config)
    ray.get(broker.status.remote(), timeout=BROKER_SECONDS)


def stop(name: str) -> None:
    """Stop a shared pool; what is being solved on it is lost.

    Raises:
        SolverPoolError: if there is no such pool.
    """
    broker = find(name)
    ray.get(broker.stop.remote(), timeout=BROKER_SECONDS)
    ray.kill(broker)


def names() -> list[str]:
    """The shared pools of the cluster."""
    found = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
    return sorted(n.removeprefix(PREFIX) for n in found if n.startswith(PREFIX) and n.count(":") == 1)


def find(name: str) -> Any:
    """The broker of a shared pool.

    Raises:
        SolverPoolError: if there is no such pool.
    """
    try:
        return ray.get_actor(PREFIX + name, namespace=NAMESPACE)
    except ValueError:
        known = ", ".join(names()) or "none"
        raise SolverPoolError(
            f"shared: there is no pool {name!r} in this cluster (pools: {known}). {_remedy(name)}"
        ) from None


def status(name: str) -> dict[str, Any]:
    """What `Broker.status` says.

    Raises:
        SolverPoolError: if there is no such pool.
    """
    answer: dict[str, Any] = ray.get(find(name).status.remote(), timeout=BROKER_SECONDS)
    return answer


def _remedy(name: str) -> str:
    return f"Start it with `solverl pool start {name} --workers N`, or set PoolConfig.shared to None."

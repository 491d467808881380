"""``solverl pool``: start, stop and look at solver pools of a Ray cluster."""

from __future__ import annotations

import argparse
import logging
import socket
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from envs.errors import InvalidSetting
from solver_pool.errors import SolverPoolError

STATUSES = ("optimal", "feasible", "infeasible", "unbounded", "time_limit", "error")
CONNECT_SECONDS = 5.0
"""[s] within which a cluster's address answers."""

_EXAMPLES = """\
examples:
  solverl pool start night --workers 8 --resource solver=1
  solverl pool status
  solverl pool status night --address HOST:6379
  solverl pool stop night

A trial leases workers from it with PoolConfig(n_workers=4, shared="night").
"""


def add_parser(commands: Any) -> None:
    """Add ``pool`` to the commands of `solverl`."""
    raw = argparse.RawDescriptionHelpFormatter
    pool = commands.add_parser(
        "pool",
        help="start, stop or look at solver pools of a Ray cluster",
        description=(
            "Shared solver pools have a name, outlive their trials, and lease their workers to several of them.\n"
            "A pool that belongs to one trial needs no command; `status` shows both kinds."
        ),
        epilog=_EXAMPLES,
        formatter_class=raw,
    )
    verbs = pool.add_subparsers(dest="verb", required=True, metavar="start|stop|status")
    cluster = argparse.ArgumentParser(add_help=False)
    cluster.add_argument(
        "--address",
        metavar="HOST:PORT",
        default="auto",
        help="of the cluster (default: the one on this machine)",
    )

    start = verbs.add_parser("start", help="start a shared pool", parents=[cluster])
    start.add_argument("name", metavar="NAME", help="by which trials find it")
    start.add_argument("--workers", type=int, required=True, metavar="N", help="solver workers")
    start.add_argument("--cpus", type=float, default=1.0, metavar="C", help="that each reserves (default 1)")
    start.add_argument(
        "--resource", action="append", default=[], metavar="NAME=X",
        help="a Ray resource that each reserves, such as solver=1; may be repeated",
    )  # fmt: skip

    stop = verbs.add_parser("stop", help="stop a shared pool", parents=[cluster])
    stop.add_argument("name", metavar="NAME")

    status = verbs.add_parser("status", help="workers, leases and what was solved", parents=[cluster])
    status.add_argument("name", metavar="NAME", nargs="?", help="of one shared pool (default: all pools)")


def run(options: argparse.Namespace, console: Console) -> None:
    """Carry out ``solverl pool``.

    Raises:
        InvalidSetting: on a bad flag. SolverPoolError: without a cluster, or a pool of the name given.
    """
    resources = _resources(options.resource) if options.verb == "start" else {}
    _connect(options.address)
    import ray

    try:
        if options.verb == "start":
            _start(options, resources, console)
        elif options.verb == "stop":
            from solver_pool import shared

            shared.stop(options.name)
            console.print(f"Stopped the pool {options.name}.", highlight=False)
        else:
            _status(options.name, console)
    finally:
        ray.shutdown()


def _connect(address: str) -> None:
    import ray

    try:
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if host:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except (OSError, ValueError, RuntimeError) as error:
        where = "on this machine" if address == "auto" else f"at {address}"
        raise SolverPoolError(
            f"address: no Ray cluster was found {where} ({str(error).splitlines()[0]}). Start one with "
            "`ray start --head`, or give --address HOST:PORT of one that runs."
        ) from error


def _start(options: argparse.Namespace, resources: Mapping[str, float], console: Console) -> None:
    from solver_pool import shared
    from solver_pool.pool import PoolConfig

    config = PoolConfig(n_workers=options.workers, cpus_per_worker=options.cpus, resources=resources)
    shared.start(options.name, config)
    console.print(
        f"Started the pool {options.name} with {options.workers} workers. Trials lease them with "
        f'PoolConfig(n_workers=..., shared="{options.name}").',
        highlight=False,
    )


def _status(name: str | None, console: Console) -> None:
    from solver_pool import reports, shared

    known = shared.names() if name is None else [name]
    for one in known:
        _print_shared(shared.status(one), console)
    own = [record for record in reports.read() if record["shared"] is None] if name is None else []
    if own:
        table = Table(title="Pools of single trials", title_justify="left")
        for column in ("holder", "workers", "last heard of"):
            table.add_column(column)
        for record in own:
            table.add_row(record["holder"], str(record["n_workers"]), f"{_time(record['silent'])} ago")
        console.print(table)
        for record in own:
            _print_backends(f"Solved for {record['holder']}", record, console)
    if not known and not own:
        console.print(
            "No solver pool in this cluster has solved anything, and none is shared.", highlight=False
        )


def _print_shared(status: Mapping[str, Any], console: Console) -> None:
    leased = sum(lease["workers"] for lease in status["leases"])
    console.print(
        f"Shared pool {status['name']}: {status['n_workers']} workers, {leased} leased, {status['free']} free, up "
        f"{_time(status['age'])}; {status['expired']} taken back from leases that were not renewed",
        highlight=False,
    )
    if status["leases"]:
        table = Table(title="Leases", title_justify="left")
        for column in ("holder", "workers", "wanted", "age", "renewed"):
            table.add_column(column)
        for lease in status["leases"]:
            table.add_row(
                lease["holder"], str(lease["workers"]), str(lease["wanted"]), _time(lease["age"]),
                f"{_time(lease['renewed'])} ago",
            )  # fmt: skip
        console.print(table)
    _print_backends("Solved", status, console)


def _print_backends(title: str, record: Mapping[str, Any], console: Console) -> None:
    if not record["backends"]:
        return
    table = Table(title=title, title_justify="left")
    columns = (
        "backend",
        "solves",
        *(s.replace("_", " ") for s in STATUSES),
        "queue s",
        "solve s",
        "busy",
        "lost",
    )
    for column in columns:
        table.add_column(column)
    available = max(record["age"] * record["n_workers"], 1e-9)
    for backend, counted in sorted(record["backends"].items()):
        solves = max(counted["solves"], 1.0)
        table.add_row(
            backend,
            f"{counted['solves']:.0f}",
            *(f"{counted[f'status_{status}']:.0f}" for status in STATUSES),
            f"{counted['queue_seconds'] / solves:.3g}",
            f"{counted['solver_seconds'] / solves:.3g}",
            f"{100 * counted['solver_seconds'] / available:.1f} %",
            f"{counted['worker_restarts']:.0f}",
        )
    console.print(table)


def _resources(given: list[str]) -> dict[str, float]:
    resources = {}
    for text in given:
        name, _, amount = text.partition("=")
        try:
            resources[name] = float(amount)
        except ValueError:
            raise InvalidSetting("--resource", f"is {text!r}", "Write NAME=X, such as solver=1.") from None
    return resources


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"

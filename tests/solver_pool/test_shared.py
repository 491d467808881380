"""Shared pools: fair leases, leases that are never returned, names that do not exist, and the command."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import faulty_backend as fb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from solver_pool.errors import InvalidProblem, SolverPoolError
from solver_pool.options import SolveOptions
from solver_pool.pool import PoolConfig, SolverPool, pool_bundles
from solver_pool.problem import QuadraticProgram
from solver_pool.shared import LEASE_SECONDS, Ledger, add_counters
from solver_pool.solution import Status
from tune_configs import cli
from tune_configs import pool as command

FAULTY = SolveOptions(backend="faulty", seed=5)
NAME = "tests"
CONFIG = PoolConfig(n_workers=2, shared=NAME)


@pytest.fixture(scope="module")
def shared(cluster: None) -> Iterator[None]:
    from solver_pool import shared

    shared.start(NAME, PoolConfig(n_workers=2, cpus_per_worker=0.5, grace=0.7))
    yield
    shared.stop(NAME)


# The ledger, without Ray.


def test_workers_are_shared_fairly() -> None:
    ledger = Ledger(4)
    assert ledger.renew("a", "A", [], 9, 0.0) == ([0, 1, 2, 3], [], 0)
    assert ledger.renew("b", "B", [], 9, 0.0) == ([], [], 0), "there is none to give yet"
    assert ledger.renew("a", "A", [0, 1, 2, 3], 9, 1.0) == ([], [], 2), "but half are asked back"
    ledger.hand_back("a", [1, 3])
    assert ledger.renew("b", "B", [], 9, 1.0) == ([1, 3], [], 0)
    assert ledger.renew("c", "C", [], 1, 1.0) == ([], [], 0)
    assert sum(ledger.shares().values()) == 4
    assert ledger.shares()["c"] == 1
    ledger.finish("a")
    assert ledger.renew("c", "C", [], 1, 2.0) == ([0], [], 0)
    assert ledger.renew("b", "B", [1, 3], 9, 2.0) == ([2], [], 0)


def test_scarce_workers_go_round() -> None:
    ledger = Ledger(1)
    held: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    had = dict.fromkeys(held, 0)
    for now in range(30):
        for client, mine in held.items():
            joined, lost, surplus = ledger.renew(client, client, mine, 1, float(now))
            assert not lost
            mine += joined
            had[client] += len(mine)
            for _ in range(surplus):
                ledger.hand_back(client, [mine.pop()])
    assert min(had.values()) >= 5, "nobody waits for ever"


def test_a_lease_that_is_not_renewed_ends() -> None:
    ledger = Ledger(2)
    ledger.renew("a", "A", [], 2, 0.0)
    assert ledger.expire(LEASE_SECONDS) == []
    assert ledger.expire(LEASE_SECONDS + 0.1) == [0, 1]
    assert ledger.renew("b", "B", [], 1, 11.0) == ([0], [], 0)
    assert ledger.renew("a", "A", [0, 1], 2, 12.0) == ([], [0], 0), (
        "it comes back: one is still free, one is lost"
    )
    assert ledger.leases["a"].workers == {1}


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 6), st.integers(0, 3)), max_size=60))
def test_no_worker_is_ever_leased_twice(steps: list[tuple[str, int, int]]) -> None:
    ledger = Ledger(4)
    held: dict[str, set[int]] = {c: set() for c in "abcde"}
    for now, (client, wanted, action) in enumerate(steps):
        if action == 0:
            ledger.finish(client)
            held[client].clear()
        else:
            joined, lost, surplus = ledger.renew(client, client, held[client], wanted, 3.0 * now)
            held[client] = (held[client] | set(joined)) - set(lost)
            assert surplus <= len(held[client])
        ledger.expire(3.0 * now)
        leased = [w for lease in ledger.leases.values() for w in lease.workers]
        assert sorted([*leased, *ledger.free]) == list(range(4))


def test_counters_add_up() -> None:
    assert add_counters([{"a": {"x": 1.0}}, {"a": {"x": 2.0, "y": 1.0}, "b": {"x": 3.0}}]) == {
        "a": {"x": 3.0, "y": 1.0}, "b": {"x": 3.0},
    }  # fmt: skip


# On Ray.


def test_several_pools_lease_the_same_workers(shared: None) -> None:
    from solver_pool.shared import status

    assert pool_bundles(CONFIG) == [], "a trial reserves nothing for it"
    with SolverPool(CONFIG) as one, SolverPool(CONFIG) as other:
        seen = set()
        for pool in (one, other, one):
            answers = pool.solve([fb.lp(fb.SLEEP, 0.1, i) for i in range(8)], FAULTY, placement="actors")
            assert [a.objective for a in answers] == list(range(8))
            seen |= {int(a.x[0]) for a in answers if a.x is not None}
        assert len(seen) <= 2, "the workers stay the same, and warm"
        stream = one.solve_iter((fb.lp(fb.SLEEP, 0.1, i) for i in range(100)), FAULTY, placement="actors")
        assert [next(stream).status for _ in range(3)] == [Status.OPTIMAL] * 3
        (lease,) = status(NAME)["leases"]
        assert lease["workers"] == 2
        assert str(os.getpid()) in lease["holder"]
        stream.close()  # type: ignore[attr-defined]
        now = status(NAME)
        assert (now["leases"], now["free"]) == ([], 2), "a consumer that stops hands them back"
    assert status(NAME)["backends"]["faulty"]["solves"] >= 27


def test_a_busy_pool_gives_way_to_another(shared: None) -> None:
    """Both keep solving at the same time, each with its share of the two workers."""
    from concurrent.futures import ThreadPoolExecutor

    def client(delay: float, count: int) -> float:
        time.sleep(delay)
        with SolverPool(CONFIG) as pool:
            problems = [fb.lp(fb.SLEEP, 0.1, i) for i in range(count)]
            answers = pool.solve(problems, FAULTY, placement="actors")
        assert [a.objective for a in answers] == list(range(count))
        return time.monotonic()

    client(0.0, 4)  # the workers are up
    with ThreadPoolExecutor(2) as threads:
        long, brief = threads.map(client, (0.0, 1.0), (150, 10))
    assert brief < long, "the one that came later did not wait for the other to end"


CLIENT = """
import os, sys, time
sys.path.insert(0, {tests!r})
import faulty_backend as fb, ray
from solver_pool.backends import BACKENDS
from solver_pool.options import SolveOptions
from solver_pool.pool import PoolConfig, SolverPool
ray.init(address={address!r}, log_to_driver=False)
BACKENDS["faulty"] = ("faulty_backend", (object,))
pool = SolverPool(PoolConfig(n_workers=2, shared={name!r}))
stream = pool.solve_iter((fb.lp(fb.SLEEP, 0.1, i) for i in range(1000)), SolveOptions(backend="faulty"), "actors")
next(stream)
print("leased", flush=True)
time.sleep(3600)
"""


def test_a_lease_never_returned_is_taken_back(shared: None) -> None:
    """A client stops without a word, as one that is killed; others wait for its lease to end, and go on."""
    import ray

    from solver_pool.shared import status

    here = Path(__file__).resolve().parent
    code = CLIENT.format(tests=str(here), name=NAME, address=ray.get_runtime_context().gcs_address)
    client = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=here.parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert client.stdout is not None
        assert client.stdout.readline() == "leased\n"
        (lease,) = status(NAME)["leases"]
        assert lease["workers"] == 2
        began = time.monotonic()
        with SolverPool(CONFIG) as pool:
            answers = pool.solve([fb.lp(fb.SLEEP, 0.01, i) for i in range(4)], FAULTY, placement="actors")
        assert [a.objective for a in answers] == [0, 1, 2, 3]
        assert time.monotonic() - began < LEASE_SECONDS + 30.0
        assert status(NAME)["expired"] == 2
    finally:
        client.kill()
        client.wait()


def test_a_name_that_does_not_exist(shared: None) -> None:
    with SolverPool(PoolConfig(n_workers=1, shared="nobody")) as pool:
        with pytest.raises(
            SolverPoolError, match=r"no pool 'nobody'.*pools: tests.*solverl pool start nobody"
        ):
            pool.solve(fb.lp(), FAULTY, placement="actors")
        assert pool.solve(fb.lp(token=3), FAULTY, placement="local").objective == 3
    with pytest.raises(InvalidProblem, match="n_workers: is 0 with the shared pool"):
        PoolConfig(shared=NAME)


def test_a_pool_stopped_under_way_is_an_error_for_what_waits(cluster: None) -> None:
    from solver_pool import shared

    shared.start("brief", PoolConfig(n_workers=1, cpus_per_worker=0.5))
    with pytest.raises(InvalidProblem, match="'brief' is taken"):
        shared.start("brief", PoolConfig(n_workers=1))
    with SolverPool(PoolConfig(n_workers=1, shared="brief")) as pool:
        stream = pool.solve_iter((fb.lp(fb.SLEEP, 0.2, i) for i in range(8)), FAULTY, placement="actors")
        assert next(stream).status == Status.OPTIMAL
        shared.stop("brief")
        rest = list(stream)
        assert len(rest) == 7
        assert rest[-1].status == Status.ERROR
        assert "'brief'" in str(rest[-1].message)


# The command.


def shown(name: str | None) -> str:
    console = Console(width=150, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    command._status(name, console)
    return console.export_text()


def test_the_status_shows_workers_leases_and_solves(shared: None) -> None:
    with SolverPool(CONFIG) as pool, SolverPool(PoolConfig(n_workers=1, cpus_per_worker=0.25)) as own:
        stream = pool.solve_iter((fb.lp(fb.SLEEP, 0.05, i) for i in range(50)), FAULTY, placement="actors")
        next(stream)
        own.solve([fb.lp()] * 3, FAULTY, placement="actors")
        text = shown(None)
        stream.close()  # type: ignore[attr-defined]
    assert "Shared pool tests: 2 workers, 2 leased, 0 free" in text
    assert "Pools of single trials" in text
    assert text.count("faulty") == 2
    for column in ("holder", "renewed", "solves", "queue s", "solve s", "busy"):
        assert column in text
    assert "Pools of single trials" not in shown(NAME)


def test_without_a_cluster_the_command_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pool", "status", "--address", "127.0.0.1:9"]) == 2
    assert "address: no Ray cluster was found at 127.0.0.1:9" in capsys.readouterr().err
    assert cli.main(["pool", "start", "x", "--workers", "1", "--resource", "solver"]) == 2
    assert "NAME=X" in capsys.readouterr().err


def test_the_command_starts_and_stops_a_pool(cluster: None) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    root = Path(__file__).resolve().parents[2]

    def solverl(*arguments: str) -> subprocess.CompletedProcess[str]:
        call = [sys.executable, "-m", "tune_configs.cli", "pool", *arguments, "--address", address]
        return subprocess.run(call, cwd=root, capture_output=True, text=True, timeout=120)

    one = np.ones(1)
    qp = QuadraticProgram(np.eye(1), -one, np.zeros((0, 1)), np.zeros(0), -2 * one, 2 * one)
    started = solverl("start", "evening", "--workers", "1", "--cpus", "0.25")
    assert started.returncode == 0, started.stderr
    with SolverPool(PoolConfig(n_workers=1, shared="evening")) as pool:
        answer = pool.solve(qp, placement="actors")
        assert answer.x is not None
        assert answer.x[0] == pytest.approx(1.0)
    stopped = solverl("stop", "evening")
    assert stopped.returncode == 0, stopped.stderr
    missing = solverl("stop", "evening")
    assert missing.returncode == 2
    assert "no pool 'evening'" in missing.stderr

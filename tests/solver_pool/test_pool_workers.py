"""Workers: recycling, backends that a node lacks, demands that cannot be met, critics kept, metrics, reports."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import faulty_backend as fb
import numpy as np
import pytest

from solver_pool.actors import CONTROL
from solver_pool.backends import BACKENDS
from solver_pool.errors import InvalidProblem
from solver_pool.options import SolveOptions
from solver_pool.pool import PoolConfig, SolverPool, pool_bundles
from solver_pool.problem import LinearProgram
from solver_pool.solution import Status

FAULTY = SolveOptions(backend="faulty", seed=5)


def pids(answers: Any) -> list[int]:
    return [int(a.x[0]) for a in answers]


def test_a_solver_process_is_replaced_after_a_number_of_solves(cluster: None) -> None:
    with SolverPool(PoolConfig(n_workers=1, cpus_per_worker=0.5, recycle_after=5)) as pool:
        seen = [
            pids(pool.solve([fb.lp(token=i) for i in range(5)], FAULTY, placement="actors")) for _ in range(3)
        ]
        assert [len(set(five)) for five in seen] == [1, 1, 1]
        assert len({five[0] for five in seen}) == 3, "each five solves have a process of their own"
        assert pool.metrics()["faulty/recycled"] == 2
        assert pool.metrics()["faulty/worker_restarts"] == 0
        assert pool.metrics()["faulty/solves"] == 15
    with SolverPool(PoolConfig(n_workers=1, cpus_per_worker=0.5, recycle_after=0)) as pool:
        assert len(set(pids(pool.solve([fb.lp()] * 30, FAULTY, placement="actors")))) == 1


def test_a_killed_solver_process_is_replaced_at_once(pool: SolverPool) -> None:
    """The actor lives on, so it takes no seconds to start again, and the victim is replayed."""
    import ray

    pool.solve([fb.lp(fb.SLEEP, 0.1)] * 4, FAULTY, placement="actors")
    call = [w.handle.address.options(concurrency_group=CONTROL).remote() for w in pool._staffed().workers]
    before = ray.get(call, timeout=10)
    answers = pool.solve([fb.lp(fb.EXIT_ONCE, 0.0, 3000 + i) for i in range(6)], FAULTY, placement="actors")
    assert [a.status for a in answers] == [Status.OPTIMAL] * 6
    call = [w.handle.address.options(concurrency_group=CONTROL).remote() for w in pool._staffed().workers]
    after = ray.get(call, timeout=10)
    assert {actor for actor, _ in before} == {actor for actor, _ in after}
    assert {process for _, process in before}.isdisjoint({process for _, process in after})


def test_a_critic_is_unpickled_once_for_several_calls(cluster: None) -> None:
    """Caches that go by the critic's identity, such as that of the compiled engine, are found again."""
    with SolverPool(PoolConfig(n_workers=1, cpus_per_worker=0.5)) as pool:
        batch = fb.batch([(0, 0.0, 1)])
        known = [int(pool.solve(batch, FAULTY, placement="actors").iterations[0]) for _ in range(3)]
        assert known == [1, 2, 3]
        others = [fb.batch([(0, 0.0, 1)]) for _ in range(6)]
        assert [int(pool.solve(o, FAULTY, placement="actors").iterations[0]) for o in others] == [1] * 6
        assert pool.solve(batch, FAULTY, placement="actors").iterations[0] == 1, "it made room for later ones"


def test_a_worker_without_the_library_lets_another_solve(
    cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (Path(os.environ[fb.DIRECTORY]) / "without").unlink(missing_ok=True)
    monkeypatch.setitem(BACKENDS, "partly", ("failing_import_backend", (object,)))
    partly = SolveOptions(backend="partly")
    with SolverPool(PoolConfig(n_workers=2, cpus_per_worker=0.5)) as pool:
        problems = [fb.lp(fb.SLEEP, 0.02, i) for i in range(10)]
        answers = pool.solve(problems, partly, placement="actors")
        assert [a.objective for a in answers] == list(range(10))
        assert [a.status for a in answers] == [Status.OPTIMAL] * 10
        assert len(set(pids(answers))) == 1, "one of the two has the library"
        assert sum("partly" in worker.unfit for worker in pool._staffed().workers) == 1
        mixed = pool.solve([fb.lp(fb.SLEEP, 0.1, i) for i in range(4)], FAULTY, placement="actors")
        assert len(set(pids(mixed))) == 2, "both go on with other backends"


def test_a_backend_that_is_nowhere_is_an_error_with_its_remedy(
    pool: SolverPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKENDS, "missing", ("missing_backend", (object,)))
    answers = pool.solve([fb.lp(), fb.lp()], SolveOptions(backend="missing"), placement="actors")
    assert [a.status for a in answers] == [Status.ERROR] * 2
    assert "pip install nothing" in answers[0].message
    assert pool.solve(fb.lp(token=2), FAULTY, placement="actors").objective == 2
    local = pool.solve(fb.lp(), SolveOptions(backend="missing"), placement="local")
    assert local.status == Status.ERROR
    assert "pip install nothing" in local.message


def test_a_problem_larger_than_the_object_store_is_an_error(pool: SolverPool) -> None:
    """The cluster of these tests has 100 MiB."""
    none = np.zeros(0)
    n = 15_000_000
    large = LinearProgram(np.zeros(n), np.zeros((0, n)), none, none, -np.ones(1).repeat(n), np.ones(n))
    answers = pool.solve([fb.lp(token=0), large, fb.lp(token=2)], FAULTY, placement="actors")
    assert [a.status for a in answers] == [Status.OPTIMAL, Status.ERROR, Status.OPTIMAL]
    assert "343 MiB, more than the 100 MiB" in answers[1].message
    assert "--object-store-memory" in answers[1].message


def test_more_workers_than_the_cluster_has(cluster: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="solver_pool"):
        config = PoolConfig(n_workers=3, cpus_per_worker=0.75, start_timeout=20.0)
        with SolverPool(config) as pool:
            began = time.monotonic()
            answers = pool.solve([fb.lp(fb.SLEEP, 0.1, i) for i in range(6)], FAULTY, placement="actors")
            assert [a.objective for a in answers] == list(range(6)), "those that start do the work"
            assert time.monotonic() - began < 15.0
    assert "n_workers: 3 solver workers of {'CPU': 0.75} are wanted" in caplog.text
    assert "room for 2" in caplog.text
    assert "CPU: 2" in caplog.text


def test_workers_on_a_resource_that_no_node_has(cluster: None, caplog: pytest.LogCaptureFixture) -> None:
    config = PoolConfig(n_workers=1, cpus_per_worker=0.0, resources={"solver": 1}, start_timeout=1.5)
    assert pool_bundles(config) == [{"solver": 1}]
    assert pool_bundles(PoolConfig(n_workers=2, cpus_per_worker=0.0)) == [], "Ray refuses empty bundles"
    with caplog.at_level(logging.WARNING, logger="solver_pool"), SolverPool(config) as pool:
        answer = pool.solve(fb.lp(), FAULTY, placement="actors")
    assert answer.status == Status.ERROR
    assert "no solver worker started within 1.5 s" in answer.message
    assert "'solver': 1" in caplog.text
    for bad in ({"CPU": 1.0}, {"solver": 0.0}):
        with pytest.raises(InvalidProblem, match="resources"):
            PoolConfig(resources=bad)


def test_metrics_of_workers(pool: SolverPool) -> None:
    pool.solve([fb.lp(fb.SLEEP, 0.1)] * 4, FAULTY, placement="actors")
    pool.drain()
    pool.solve([fb.lp(fb.SLEEP, 0.2)] * 8, FAULTY, placement="actors")
    pool.solve(fb.lp(), FAULTY, placement="local")
    counted = pool.drain()
    assert counted["faulty/solves"] == 9
    assert 1.6 <= counted["faulty/solver_seconds"] < 3.0
    assert counted["faulty/queue_seconds"] > 0.0
    assert 0.3 < counted["faulty/utilisation"] <= 1.01
    assert pool.metrics() == {}
    assert pool.totals()["faulty"]["solves"] > 8, "since the pool was made"


def test_a_pool_is_in_the_reports_until_it_is_closed(cluster: None) -> None:
    from solver_pool import reports

    def mine() -> list[dict[str, Any]]:
        return [r for r in reports.read() if r["n_workers"] == 1 and str(os.getpid()) in r["holder"]]

    with SolverPool(PoolConfig(n_workers=1, cpus_per_worker=0.5)) as pool:
        pool.solve([fb.lp(token=i) for i in range(3)], FAULTY, placement="actors")
        assert [r["backends"]["faulty"]["solves"] for r in mine()] == [3.0]
        assert mine()[0]["shared"] is None
    assert mine() == []


def test_a_thousand_workers_are_kept_busy_in_order(cluster: None) -> None:
    """The scheduling loop alone, with stand-ins that sleep: this machine holds no thousand processes."""
    from benchmarks.solver_pool import Sleepers, pool_backend
    from solver_pool.crew import Crew

    pool = SolverPool(PoolConfig(n_workers=1000))
    staff = Sleepers()
    pool._crew = Crew(staff, 1000, 2.0, 60.0)
    sleeping = SolveOptions(backend=pool_backend.NAME)
    BACKENDS[pool_backend.NAME] = pool_backend.ENTRY
    try:
        pool._estimates[pool_backend.NAME, 1] = 1.0  # so that each problem is a chunk
        times = np.random.default_rng(0).uniform(0.3, 0.6, size=3000)
        began = time.monotonic()
        answers = pool.solve([pool_backend.sleeping(t) for t in times], sleeping, placement="actors")
    finally:
        del BACKENDS[pool_backend.NAME]
    assert [a.solve_time for a in answers] == list(times)
    assert len(pool._crew.workers) == 1000
    assert time.monotonic() - began < 0.05 * times.sum(), "20 and more at a time"

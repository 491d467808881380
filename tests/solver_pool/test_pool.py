"""The pool when nothing goes wrong: order, places, chunks, seeds, metrics."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import faulty_backend as fb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from solver_pool.backends import solve
from solver_pool.chunks import Entry, cut, join
from solver_pool.errors import InvalidProblem, SolverPoolError, UnsupportedProblem
from solver_pool.options import SolveOptions
from solver_pool.pool import CHUNK_SECONDS, PoolConfig, SolverPool, pool_bundles
from solver_pool.problem import MLP, CriticBatch, LinearProgram, QuadraticProgram
from solver_pool.solution import BatchSolution, Status
from solver_pool.tasks import Task, n_bytes, n_programs

FAULTY = SolveOptions(backend="faulty", seed=5)


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def gone(pids: set[int], within: float = 10.0) -> bool:
    ends = time.monotonic() + within
    while any(alive(pid) for pid in pids):
        if time.monotonic() > ends:
            return False
        time.sleep(0.05)
    return True


def softplus_batch(size: int, width: int = 16, seed: int = 0) -> CriticBatch:
    rng = np.random.default_rng(seed)
    sizes = (5, width, width, 1)
    critic = MLP(
        tuple(rng.normal(size=(o, i)) / np.sqrt(i) for i, o in pairwise(sizes)),
        tuple(0.1 * rng.normal(size=o) for o in sizes[1:]),
        "softplus",
    )
    G = rng.normal(size=(size, 3, 2))
    return CriticBatch(
        critic, rng.normal(size=(size, 3)), G, 0.5 + rng.random((size, 3)), -np.ones(2), np.ones(2),
        rng.uniform(-1, 1, size=(size, 2)),
    )  # fmt: skip


def in_service(pool: SolverPool) -> set[int]:
    """Wait for both workers, which start one after the other; returns their process ids."""
    pids: set[int] = set()
    ends = time.monotonic() + 20
    while len(pids) < 2 and time.monotonic() < ends:
        answers = pool.solve([fb.lp(fb.SLEEP, 0.1)] * 4, FAULTY, placement="actors")
        pids |= {int(a.x[0]) for a in answers if a.x is not None}
    return pids


def test_order_survives_random_durations(pool: SolverPool) -> None:
    @settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.sampled_from([0.0, 0.001, 0.02, 0.05]), max_size=12))
    def check(durations: list[float]) -> None:
        problems = [fb.lp(fb.SLEEP, s, i) for i, s in enumerate(durations)]
        answers = pool.solve(problems, FAULTY, placement="actors")
        assert [a.objective for a in answers] == list(range(len(durations)))

    check()


def test_work_is_spread_over_the_workers(pool: SolverPool) -> None:
    pids = in_service(pool)
    began = time.monotonic()
    answers = pool.solve([fb.lp(fb.SLEEP, 0.25, i) for i in range(8)], FAULTY, placement="actors")
    assert time.monotonic() - began < 8 * 0.25
    assert {int(a.x[0]) for a in answers if a.x is not None} == pids
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_a_worker_has_one_thread(pool: SolverPool) -> None:
    x = pool.solve(fb.lp(), FAULTY, placement="actors").x
    assert x is not None
    assert x[2] == 1


@given(
    sizes=st.lists(st.one_of(st.none(), st.integers(0, 40)), max_size=12),
    quota=st.floats(1e-4, 1.0),
    cost=st.floats(1e-5, 0.1),
)
@settings(deadline=None, max_examples=200)
def test_cutting_loses_nothing_and_fills_chunks(sizes: list[int | None], quota: float, cost: float) -> None:
    problems = [fb.lp() if s is None else fb.batch([(0, 0.0, i) for i in range(s)]) for s in sizes]
    names = ["one" if i % 3 else "other" for i in range(len(problems))]
    entries = [
        Entry(i, name, Task(name, problem, 0), 0, None, n_bytes(problem))
        for i, (name, problem) in enumerate(zip(names, problems, strict=True))
    ]
    chunks = cut(entries, lambda name: cost, quota)
    seen: dict[int, list[float]] = {i: [] for i in range(len(problems))}
    for chunk in chunks:
        for piece in chunk.pieces:
            assert chunk.name == piece.task.name == names[piece.index]
            if isinstance(piece.task.problem, CriticBatch):
                assert piece.first == len(seen[piece.index])
                seen[piece.index] += list(piece.task.problem.states[:, 2])
            else:
                seen[piece.index].append(-1.0)
    assert [seen[i] for i in seen] == [[-1.0] if s is None else list(range(s)) for s in sizes]
    for name in set(names):
        mine = [sum(max(1, n_programs(p.task.problem)) for p in c.pieces) for c in chunks if c.name == name]
        # Each is at least a quota of work, but for the remainder in the last.
        assert all(size * cost >= quota * (1 - 1e-9) for size in mine[:-1])
        assert max(mine) <= 2 * np.ceil(quota / cost) or len(mine) == 1


def test_a_chunked_batch_equals_the_local_answer(pool: SolverPool) -> None:
    problem = softplus_batch(203)
    options = SolveOptions(n_starts=3, seed=7)
    expected = solve(problem, options)
    for _ in range(2):
        local = pool.solve(problem, options, placement="local")
        remote = pool.solve(problem, options, placement="actors")
        for answer in (local, remote):
            np.testing.assert_array_equal(answer.status, expected.status)
            # The last bit of a matrix product depends on the shape of the batch, and so on the cut.
            for name in ("x", "objective", "row_duals", "bound_duals"):
                np.testing.assert_allclose(
                    getattr(answer, name), getattr(expected, name), 1e-7, 1e-9, err_msg=name
                )
    assert expected.usable.all()


def test_a_batch_is_cut_and_joined_in_order(pool: SolverPool) -> None:
    pids = in_service(pool)
    answer = pool.solve(fb.batch([(fb.SLEEP, 0.1, i) for i in range(12)]), FAULTY, placement="actors")
    assert isinstance(answer, BatchSolution)
    np.testing.assert_array_equal(answer.objective, np.arange(12))
    assert set(answer.bound) == pids, "both workers took part"
    assert set(answer.x[:, 0]) == {5.0}, "every chunk has the seed of the batch"


def test_mixed_kinds_keep_their_places(pool: SolverPool) -> None:
    qp = QuadraticProgram(np.eye(2), -np.ones(2), np.zeros((0, 2)), np.zeros(0), np.zeros(2), np.ones(2))
    lp = LinearProgram(np.ones(2), np.ones((1, 2)), np.ones(1), np.ones(1), np.zeros(2), np.ones(2))
    for placement in ("local", "actors"):
        answers = pool.solve([lp, qp, softplus_batch(4), qp, lp], placement=placement)
        assert [getattr(a, "backend", None) for a in answers] == [
            "highs", "daqp", "interior_point", "daqp", "highs",
        ]  # fmt: skip
        assert not isinstance(answers[1], BatchSolution)
        assert answers[1].x is not None
        np.testing.assert_allclose(answers[1].x, [1, 1], atol=1e-8)


def test_empty_requests(pool: SolverPool) -> None:
    for placement in ("local", "actors"):
        assert pool.solve([], FAULTY, placement=placement) == []
        answers = pool.solve([fb.batch([]), fb.lp(token=3)], FAULTY, placement=placement)
        assert len(answers[0]) == 0  # type: ignore[arg-type]
        assert answers[1].objective == 3


def test_seeds_do_not_depend_on_the_place(pool: SolverPool) -> None:
    problems = [fb.lp(token=i) for i in range(20)]
    seeds = {}
    for placement in ("local", "actors"):
        answers = pool.solve(problems, FAULTY, placement=placement)
        seeds[placement] = [a.x[1] for a in answers if a.x is not None]
    assert seeds["local"] == seeds["actors"]
    assert seeds["local"][0] == 5
    assert len(set(seeds["local"])) == 20
    assert all(0 <= s < 2**31 for s in seeds["local"])


def test_auto_goes_by_the_measured_work(cluster: None) -> None:
    def pid(pool: SolverPool, seconds: float) -> int:
        x = pool.solve(fb.lp(fb.SLEEP, seconds), FAULTY).x
        assert x is not None
        return int(x[0])

    with SolverPool(PoolConfig(n_workers=1, cpus_per_worker=0.5)) as pool:
        assert pid(pool, 0.0) != os.getpid(), "an unknown backend is taken to be slow"
        for _ in range(3):
            pool.solve([fb.lp()] * 20, FAULTY, placement="local")
        assert pid(pool, 0.0) == os.getpid()
        pool.solve([fb.lp(fb.SLEEP, 0.05)] * 4, FAULTY, placement="local")
        assert pid(pool, 0.0) != os.getpid()
    with SolverPool(PoolConfig(n_workers=0)) as pool:
        assert pid(pool, 0.0) == os.getpid()


def test_small_work_travels_in_chunks_of_20_ms(cluster: None) -> None:
    with SolverPool(PoolConfig(n_workers=1, cpus_per_worker=0.5)) as pool:
        small = [fb.lp(fb.SLEEP, 0.001, i) for i in range(60)]
        pool.solve(small, FAULTY, placement="local")
        pool.solve(small[:1], FAULTY, placement="actors")
        staff = pool._staffed()._staff
        calls = []
        call = staff.call

        def counted(*arguments: Any) -> int:
            calls.append(arguments[1])
            return call(*arguments)

        staff.call = counted  # type: ignore[method-assign]
        pool.solve(small, FAULTY, placement="actors")
        assert set(calls) == {"solve"}
        assert 1 <= len(calls) <= 60 * 0.002 / CHUNK_SECONDS[0]


def test_a_large_critic_is_stored_once_for_all_calls(
    pool: SolverPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    puts: list[int] = []
    put = ray.put

    def counted(value: Any) -> Any:
        puts.append(value.nbytes)
        return put(value)

    monkeypatch.setattr(ray, "put", counted)
    programs = [(fb.WRITE, 0.0, i) for i in range(12)]
    with SolverPool(PoolConfig(n_workers=1, cpus_per_worker=0.5)) as fresh:
        large = fb.batch(programs, width=20_000)
        answer = fresh.solve(large, FAULTY, placement="actors")
        assert len(puts) == 1
        assert puts[0] > 8 * 5 * 20_000
        again = fresh.solve(large, FAULTY, placement="actors")
        assert len(puts) == 1, "the same critic is not stored again"
        small = fresh.solve(fb.batch(programs), FAULTY, placement="actors")
    assert len(puts) == 1
    for solution in (
        answer,
        again,
        small,
    ):  # written to in the worker, so the arrays there are no views of Ray's
        assert solution.usable.all(), solution.message
        solution.x[:] += 1.0  # and what comes back is the caller's own


def test_unknown_requests_raise_before_any_work() -> None:
    with SolverPool() as pool:
        with pytest.raises(UnsupportedProblem, match="nonsense"):
            pool.solve([fb.lp(), fb.lp()], SolveOptions(backend="nonsense"))
        with pytest.raises(UnsupportedProblem, match="takes a QuadraticProgram"):
            pool.solve([fb.lp()], SolveOptions(backend="daqp"))
        with pytest.raises(UnsupportedProblem, match="str is no problem"):
            pool.solve(["x"])  # type: ignore[list-item]
        with pytest.raises(InvalidProblem, match="placement"):
            pool.solve(fb.lp(), placement="elsewhere")  # type: ignore[call-overload]
        with pytest.raises(InvalidProblem, match="n_workers"):
            pool.solve(fb.lp(), placement="actors")
        with pytest.raises(InvalidProblem, match="deadline"):
            pool.solve(fb.lp(), deadline=0.0)
        assert pool.metrics() == {}
    with pytest.raises(SolverPoolError, match="closed"):
        pool.solve(fb.lp(), FAULTY)
    with pytest.raises(InvalidProblem, match="grace"):
        PoolConfig(grace=-1.0)


def test_local_failures_are_statuses() -> None:
    with SolverPool() as pool:
        answers = pool.solve(
            [fb.lp(token=0), fb.lp(fb.RAISE, token=1), fb.lp(fb.MEMORY), fb.lp(token=3)], FAULTY
        )
        assert [a.status for a in answers] == [Status.OPTIMAL, Status.ERROR, Status.ERROR, Status.OPTIMAL]
        assert answers[1].message == "RuntimeError: bug 1"
        assert answers[1].backend == "faulty"
        batch = pool.solve(fb.batch([(fb.RAISE, 0.0, 4), (0, 0.0, 5)]), FAULTY)
        assert list(batch.status) == [Status.ERROR] * 2
        assert "bug 4" in batch.message


def test_a_local_deadline_is_looked_at_between_programs() -> None:
    with SolverPool() as pool:
        answers = pool.solve([fb.lp(fb.SLEEP, 0.1, i) for i in range(5)], FAULTY, deadline=0.25)
        assert [a.status.name for a in answers] == ["OPTIMAL"] * 3 + ["TIME_LIMIT"] * 2
        batch = pool.solve(fb.batch([(fb.SLEEP, 0.1, i) for i in range(5)]), FAULTY, deadline=0.25)
        assert list(batch.status) == [Status.OPTIMAL] * 3 + [Status.TIME_LIMIT] * 2


def test_metrics_count_programs_and_drain() -> None:
    with SolverPool() as pool:
        pool.solve([fb.lp(fb.SLEEP, 0.01), fb.lp(fb.RAISE)], FAULTY)
        pool.solve(fb.batch([(0, 0.0, 0)] * 3), FAULTY)
        counted = pool.drain()
        assert counted["faulty/solves"] == 5
        assert counted["faulty/status_optimal"] == 4
        assert counted["faulty/status_error"] == 1
        assert 0.01 <= counted["faulty/solver_seconds"] < 1
        assert counted["faulty/queue_seconds"] == counted["faulty/replays"] == 0
        assert all(type(v) is float for v in counted.values())
        assert pool.metrics() == {}


def test_local_use_never_imports_ray() -> None:
    code = (
        "import sys, numpy as np\n"
        "from solver_pool.pool import SolverPool, PoolConfig\n"
        "from solver_pool.problem import QuadraticProgram\n"
        "n = np.ones(2)\n"
        "qp = QuadraticProgram(np.eye(2), n, np.zeros((0, 2)), np.zeros(0), -n, n)\n"
        "with SolverPool(PoolConfig(n_workers=2)) as pool:\n"
        "    assert pool.solve([qp] * 300)[299].status == 0\n"
        "    pool.metrics()\n"
        "assert 'ray' not in sys.modules\n"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=60)


def test_a_pickled_pool_is_its_configuration(pool: SolverPool) -> None:
    pool.solve(fb.lp(), FAULTY, placement="actors")
    copy = pickle.loads(pickle.dumps(pool))
    assert copy.config == pool.config
    assert copy._crew is None


def test_close_kills_the_workers(cluster: None) -> None:
    with SolverPool(PoolConfig(n_workers=2, cpus_per_worker=0.5)) as pool:
        pids = in_service(pool)
        assert len(pids) == 2
        assert all(alive(pid) for pid in pids)
    assert gone(pids)
    pool.close()


def test_workers_live_in_the_placement_group_of_the_caller(cluster: None) -> None:
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    config = PoolConfig(n_workers=1, cpus_per_worker=0.5)
    assert pool_bundles(config) == [{"CPU": 0.5}]
    group = ray.util.placement_group([{"CPU": 0.25}, *pool_bundles(config)])

    class Trial:
        def run(self) -> tuple[float, int]:
            from solver_pool.backends import BACKENDS

            BACKENDS["faulty"] = ("faulty_backend", (object,))
            # One worker more than the bundles hold stays pending for ever; the other does the work.
            with SolverPool(PoolConfig(n_workers=2, cpus_per_worker=0.5)) as pool:
                answers = pool.solve([fb.lp(fb.SLEEP, 0.01, i) for i in range(8)], FAULTY, placement="actors")
            pids = {int(a.x[0]) for a in answers if a.x is not None}
            return sum(a.objective for a in answers), len(pids)

    trial = (
        ray.remote(Trial)
        .options(
            num_cpus=0.25,
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                group, 0, placement_group_capture_child_tasks=True
            ),
        )
        .remote()
    )
    try:
        assert ray.get(trial.run.remote(), timeout=30) == (28.0, 1)
    finally:
        ray.kill(trial)
        ray.util.remove_placement_group(group)


def test_joining_sorts_by_the_first_state() -> None:
    with SolverPool() as pool:
        halves = [pool.solve(fb.batch([(0, 0.0, i)]), FAULTY) for i in (4, 2)]
    joined = join([(1, halves[0]), (0, halves[1])])
    assert isinstance(joined, BatchSolution)
    assert list(joined.objective) == [2.0, 4.0]

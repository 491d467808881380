"""The pool when solvers crash, hang, or run late: one program is lost, never the answers of the others."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Timer
from types import FrameType

import faulty_backend as fb
import numpy as np
import pytest

from solver_pool.actors import CONTROL
from solver_pool.crew import LOSSES_PER_CHUNK, MOVES
from solver_pool.options import SolveOptions
from solver_pool.pool import PoolConfig, SolverPool
from solver_pool.solution import Status

FAULTY = SolveOptions(backend="faulty")
ROOT = Path(__file__).resolve().parents[2]


def test_a_crash_costs_one_program(pool: SolverPool, caplog: pytest.LogCaptureFixture) -> None:
    token = 100
    problems = [fb.lp(fb.SLEEP, 0.01, i) for i in range(10)]
    problems[4] = fb.lp(fb.EXIT, 0.0, token)
    pool.drain()
    with caplog.at_level(logging.WARNING, logger="solver_pool"):
        answers = pool.solve(problems, FAULTY, placement="actors")
    assert [a.status for a in answers] == [Status.ERROR if i == 4 else Status.OPTIMAL for i in range(10)]
    assert [a.objective for i, a in enumerate(answers) if i != 4] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert answers[4].x is None
    assert "process died" in answers[4].message
    assert answers[4].backend == "faulty"
    assert fb.attempts(token) == 2, "tried, and replayed exactly once"
    counted = pool.drain()
    assert counted["faulty/worker_restarts"] == 2
    assert counted["faulty/replays"] >= 1
    assert counted["faulty/solves"] == 10
    assert counted["faulty/status_error"] == 1
    assert caplog.text.count("lost a solver process") == 2


def test_a_victim_may_succeed_on_the_replay(pool: SolverPool) -> None:
    answers = pool.solve([fb.lp(token=0), fb.lp(fb.EXIT_ONCE, 0.0, 200)], FAULTY, placement="actors")
    assert [a.status for a in answers] == [Status.OPTIMAL] * 2
    assert answers[1].objective == 200
    assert fb.attempts(200) == 2


def test_a_crash_within_a_batch_costs_one_state(pool: SolverPool) -> None:
    programs = [(fb.SLEEP, 0.01, i) for i in range(9)]
    programs[5] = (fb.EXIT, 0.0, 300)
    answer = pool.solve(fb.batch(programs), FAULTY, placement="actors")
    assert [i for i, ok in enumerate(answer.usable) if not ok] == [5]
    assert answer.status[5] == Status.ERROR
    assert np.isnan(answer.x[5]).all()
    assert "process died" in answer.message
    assert list(np.delete(answer.objective, 5)) == [0, 1, 2, 3, 4, 6, 7, 8]
    assert fb.attempts(300) == 2


def test_a_hang_that_holds_the_gil_is_noticed(pool: SolverPool) -> None:
    limited = SolveOptions(backend="faulty", time_limit=0.4)
    pool.solve([fb.lp()] * 2, limited, placement="actors")
    began = time.monotonic()
    answers = pool.solve([fb.lp(fb.HOLD_GIL, 60.0, 400), fb.lp(token=1)], limited, placement="actors")
    elapsed = time.monotonic() - began
    assert [a.status for a in answers] == [Status.TIME_LIMIT, Status.OPTIMAL]
    assert "second attempt" in answers[0].message
    assert fb.attempts(400) == 2
    # Twice limit and grace, and restarts, which a busy machine draws out; the hang lasts a minute.
    assert 2 * (0.4 + fb.GRACE) <= elapsed < 40.0
    began = time.monotonic()
    assert pool.solve(fb.lp(token=2), limited, placement="actors").objective == 2
    assert time.monotonic() - began < 40.0


def test_a_solve_within_limit_and_grace_is_left_alone(pool: SolverPool) -> None:
    limited = SolveOptions(backend="faulty", time_limit=0.4)
    pool.drain()
    answers = pool.solve([fb.lp(fb.SLEEP, 0.6, i) for i in range(4)], limited, placement="actors")
    assert [a.status for a in answers] == [Status.OPTIMAL] * 4
    assert pool.drain()["faulty/worker_restarts"] == 0


def test_exceptions_in_a_worker_are_statuses(pool: SolverPool) -> None:
    pool.drain()
    answers = pool.solve(
        [fb.lp(fb.RAISE, token=7), fb.lp(token=1), fb.lp(fb.MEMORY), fb.lp(token=3)],
        FAULTY,
        placement="actors",
    )
    assert [a.status for a in answers] == [Status.ERROR, Status.OPTIMAL, Status.ERROR, Status.OPTIMAL]
    assert answers[0].message == "RuntimeError: bug 7"
    assert answers[2].message == "MemoryError: too large"
    assert pool.drain()["faulty/worker_restarts"] == 0


def test_the_deadline_of_the_call_ends_everything(pool: SolverPool) -> None:
    pool.solve([fb.lp(fb.SLEEP, 0.2)] * 4, FAULTY, placement="actors")
    problems = [fb.lp(fb.SLEEP, 0.2, i) for i in range(10)]
    problems[1] = fb.lp(fb.HOLD_GIL, 60.0, 500)
    began = time.monotonic()
    answers = pool.solve(problems, FAULTY, placement="actors", deadline=0.7)
    elapsed = time.monotonic() - began
    assert elapsed < 0.7 + fb.GRACE + 3.0
    assert answers[0].status == Status.OPTIMAL, "done in time"
    assert answers[1].status == answers[9].status == Status.TIME_LIMIT
    assert {a.status for a in answers} == {Status.OPTIMAL, Status.TIME_LIMIT}
    assert all(a.objective == i for i, a in enumerate(answers) if a.status == Status.OPTIMAL)
    assert fb.attempts(500) == 1, "nothing is replayed after the deadline"


def test_a_backend_that_kills_everything_is_given_up(pool: SolverPool) -> None:
    pool.solve([fb.lp()] * 40, FAULTY, placement="local")  # cheap, so that all travel in one chunk
    answers = pool.solve([fb.lp(fb.EXIT, 0.0, 600 + i) for i in range(12)], FAULTY, placement="actors")
    assert all(a.status == Status.ERROR for a in answers)
    assert 12 + LOSSES_PER_CHUNK <= sum(fb.attempts(600 + i) for i in range(12)) <= 12 + LOSSES_PER_CHUNK + 1
    batch = pool.solve(fb.batch([(fb.EXIT, 0.0, 620 + i) for i in range(30)]), FAULTY, placement="actors")
    assert list(batch.status) == [Status.ERROR] * 30
    # Each of a few chunks: once as a whole, then one by one until it is given up.
    assert sum(fb.attempts(620 + i) for i in range(30)) <= 4 * (1 + LOSSES_PER_CHUNK + 1)
    assert pool.solve(fb.lp(token=1), FAULTY, placement="actors").objective == 1


def test_a_worker_killed_from_outside_is_replaced(cluster: None) -> None:
    with SolverPool(PoolConfig(n_workers=1, cpus_per_worker=0.5, grace=fb.GRACE)) as pool:
        x = pool.solve(fb.lp(), FAULTY, placement="actors").x
        assert x is not None
        Timer(0.5, os.kill, (int(x[0]), signal.SIGKILL)).start()
        answer = pool.solve(fb.lp(fb.SLEEP, 1.0, 5), FAULTY, placement="actors")
        assert answer.status == Status.OPTIMAL
        assert answer.x is not None
        assert answer.x[0] != x[0]
        import ray

        ray.kill(
            pool._staffed().workers[0].handle, no_restart=True
        )  # as by an operator: Ray does not restart it
        assert pool.solve(fb.lp(token=6), FAULTY, placement="actors").objective == 6


def test_a_program_killed_from_outside_again_and_again_is_not_to_blame(pool: SolverPool) -> None:
    """Whoever sends SIGKILL, it is no fault of the program: it is solved elsewhere, up to a limit."""
    killed = [0]

    def kill() -> None:
        import ray

        for worker in pool._staffed().workers:
            call = worker.handle.address.options(concurrency_group=CONTROL).remote()
            process = ray.get(call, timeout=5)[1]
            if process:  # else it is down already, and 0 would be this process's own group
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
                    killed[0] += 1

    pool.solve([fb.lp()] * 2, FAULTY, placement="actors")
    timers = [Timer(after, kill) for after in (0.5, 1.5, 2.5)]
    for timer in timers:
        timer.start()
    pool.drain()
    answers = pool.solve([fb.lp(fb.SLEEP, 1.2, 7), fb.lp(fb.SLEEP, 0.9, 8)], FAULTY, placement="actors")
    for timer in timers:
        timer.join()
    assert [a.status for a in answers] == [Status.OPTIMAL] * 2
    assert [a.objective for a in answers] == [7, 8]
    assert killed[0] >= 4
    assert pool.drain()["faulty/worker_restarts"] >= 3


def test_a_program_that_is_killed_wherever_it_runs_is_given_up(pool: SolverPool) -> None:
    answers = pool.solve([fb.lp(token=1), fb.lp(fb.SIGKILL, 0.0, 700)], FAULTY, placement="actors")
    assert [a.status for a in answers] == [Status.OPTIMAL, Status.ERROR]
    assert fb.attempts(700) == MOVES
    assert "killed from outside" in answers[1].message


def test_an_interrupted_call_leaves_the_pool_usable(pool: SolverPool) -> None:
    pool.solve([fb.lp()] * 2, FAULTY, placement="actors")

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.4)
    try:
        with pytest.raises(KeyboardInterrupt):
            pool.solve([fb.lp(fb.SLEEP, 30.0)] * 2, FAULTY, placement="actors")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, previous)
    began = time.monotonic()
    answers = pool.solve([fb.lp(token=i) for i in range(2)], FAULTY, placement="actors")
    assert [a.objective for a in answers] == [0, 1]
    assert time.monotonic() - began < 25.0


def test_workers_that_cannot_start_are_an_error(cluster: None) -> None:
    with SolverPool(PoolConfig(n_workers=1, cpus_per_worker=64, start_timeout=1.0)) as pool:
        answers = pool.solve([fb.lp(), fb.lp()], FAULTY, placement="actors")
        assert [a.status for a in answers] == [Status.ERROR] * 2
        assert "no solver worker started within 1 s" in answers[0].message
        late = pool.solve(fb.lp(), FAULTY, placement="actors", deadline=0.3)
        assert late.status == Status.TIME_LIMIT


def test_actors_need_a_running_ray() -> None:
    code = (
        "import numpy as np\n"
        "from solver_pool.errors import SolverPoolError\n"
        "from solver_pool.pool import SolverPool, PoolConfig\n"
        "from solver_pool.problem import QuadraticProgram\n"
        "n = np.ones(2)\n"
        "qp = QuadraticProgram(np.eye(2), n, np.zeros((0, 2)), np.zeros(0), -n, n)\n"
        "try:\n"
        "    SolverPool(PoolConfig(n_workers=1)).solve(qp, placement='actors')\n"
        "except SolverPoolError as error:\n"
        "    assert 'ray.init()' in str(error)\n"
        "else:\n"
        "    raise SystemExit('no error')\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)

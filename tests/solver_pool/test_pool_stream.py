"""Streams and requests: bounded windows, order, seeds, deadlines, priorities."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import faulty_backend as fb
import numpy as np
import pytest

from solver_pool.chunks import Bounds, Request, Window, cut
from solver_pool.errors import InvalidProblem, UnsupportedProblem
from solver_pool.options import SolveOptions
from solver_pool.pool import STREAM_SECONDS, WINDOW_CHUNKS, PoolConfig, SolverPool
from solver_pool.problem import LinearProgram, Problem
from solver_pool.solution import BatchSolution, Solution, Status

FAULTY = SolveOptions(backend="faulty", seed=5)


class Source:
    """Counts what was pulled."""

    def __init__(self, length: int | None, seconds: float = 0.0) -> None:
        self.pulled, self._length, self._seconds = 0, length, seconds

    def __iter__(self) -> Iterator[LinearProgram]:
        for i in itertools.count() if self._length is None else range(self._length):
            self.pulled += 1
            yield fb.lp(fb.SLEEP, self._seconds, i)


def objective(answer: Solution | BatchSolution) -> float:
    assert isinstance(answer, Solution)
    return answer.objective


@pytest.mark.parametrize("placement", ["local", "actors"])
def test_a_stream_without_end_is_pulled_as_it_is_answered(pool: SolverPool, placement: str) -> None:
    source = Source(None, 0.01)
    answers = pool.solve_iter(iter(source), FAULTY, placement=placement)  # type: ignore[arg-type]
    assert source.pulled == 0, "nothing happens before the first answer is asked for"
    most = 0
    for i in range(60):
        assert objective(next(answers)) == i
        most = max(most, source.pulled - i)
    # By estimate; a first estimate of 50 ms for solves of 10 ms makes windows smaller, never larger.
    assert most <= 2 * WINDOW_CHUNKS * STREAM_SECONDS / 0.01 + 8
    began = time.monotonic()
    answers.close()  # type: ignore[attr-defined]
    assert pool.solve(fb.lp(token=1), FAULTY, placement="actors").objective == 1
    assert time.monotonic() - began < 10.0, "the workers are free at once"


def test_a_stream_equals_the_list(pool: SolverPool) -> None:
    problems: list[Problem] = [
        fb.lp(token=i) if i % 3 else fb.batch([(0, 0.0, i), (0, 0.0, i)]) for i in range(40)
    ]
    expected = pool.solve(problems, FAULTY, placement="local")
    for placement in ("local", "actors", "auto"):
        answers = list(pool.solve_iter(iter(problems), FAULTY, placement=placement))  # type: ignore[arg-type]
        assert len(answers) == 40
        for one, other in zip(answers, expected, strict=True):
            np.testing.assert_array_equal(one.objective, other.objective)
            if isinstance(one, Solution) and isinstance(other, Solution):
                assert one.x is not None
                assert other.x is not None
                assert one.x[1] == other.x[1], "the seed goes with the place in the stream"


def test_a_consumer_that_stops_leaves_no_worker_busy(pool: SolverPool) -> None:
    pool.solve([fb.lp(fb.SLEEP, 0.1)] * 4, FAULTY, placement="actors")
    stream = (fb.lp(fb.SLEEP, 0.0 if i < 20 else 30.0, i) for i in range(30))
    for answer in pool.solve_iter(stream, FAULTY, "actors"):
        assert objective(answer) == 0
        break
    began = time.monotonic()
    answers = pool.solve([fb.lp(token=i) for i in range(4)], FAULTY, placement="actors")
    assert [a.objective for a in answers] == [0, 1, 2, 3]
    assert time.monotonic() - began < 10.0


def test_what_a_stream_raises_comes_after_the_answers_before_it(pool: SolverPool) -> None:
    def broken() -> Iterator[Problem]:
        yield from (fb.lp(token=i) for i in range(5))
        raise OSError("the file ends here")

    for placement in ("local", "actors"):
        stream = pool.solve_iter(broken(), FAULTY, placement=placement)  # type: ignore[arg-type]
        assert [objective(next(stream)) for _ in range(5)] == [0, 1, 2, 3, 4]
        with pytest.raises(OSError, match="ends here"):
            next(stream)
    answers = pool.solve_iter(iter([fb.lp(token=7), "x"]), FAULTY)  # type: ignore[list-item]
    assert objective(next(answers)) == 7
    with pytest.raises((UnsupportedProblem, TypeError)):
        next(answers)


def test_crashes_and_hangs_in_a_stream(pool: SolverPool) -> None:
    limited = SolveOptions(backend="faulty", time_limit=0.3)

    def stream() -> Iterator[Problem]:
        for i in range(60):
            act = {20: fb.EXIT, 40: fb.HOLD_GIL}.get(i, fb.SLEEP)
            yield fb.lp(act, 60.0 if act == fb.HOLD_GIL else 0.01, 2000 + i)

    answers = list(pool.solve_iter(stream(), limited, placement="actors"))
    statuses = {i: Status(int(a.status)) for i, a in enumerate(answers) if a.status != Status.OPTIMAL}
    assert statuses == {20: Status.ERROR, 40: Status.TIME_LIMIT}
    assert [objective(a) for i, a in enumerate(answers) if i not in statuses] == [
        2000 + i for i in range(60) if i not in statuses
    ]


def test_a_request_has_its_own_seed(pool: SolverPool) -> None:
    requests = [fb.lp(), Request(fb.lp(), seed=77), Request(fb.lp()), fb.lp()]
    plain = pool.solve([fb.lp()] * 4, FAULTY, placement="local")
    for placement in ("local", "actors"):
        answers = pool.solve(requests, FAULTY, placement=placement)  # type: ignore[call-overload]
        seeds = [a.x[1] for a in answers]
        assert seeds[1] == 77
        assert [seeds[i] for i in (0, 2, 3)] == [
            p.x[1] for i, p in enumerate(plain) if i != 1 and p.x is not None
        ]
    assert pool.solve(Request(fb.lp(), seed=3), FAULTY, placement="actors").x[1] == 3  # type: ignore[index]


def test_a_request_has_its_own_deadline(pool: SolverPool) -> None:
    pool.solve([fb.lp(fb.SLEEP, 0.1)] * 4, FAULTY, placement="actors")
    requests = [Request(fb.lp(fb.SLEEP, 30.0, i), deadline=0.3) for i in range(3)]
    requests.append(Request(fb.lp(fb.SLEEP, 0.2, 3), deadline=20.0))
    requests.append(Request(fb.lp(fb.SLEEP, 0.2, 4)))
    began = time.monotonic()
    answers = pool.solve(requests, FAULTY, placement="actors")
    assert time.monotonic() - began < 10.0
    assert [a.status for a in answers] == [Status.TIME_LIMIT] * 3 + [Status.OPTIMAL] * 2
    local = pool.solve(
        [Request(fb.lp(fb.SLEEP, 0.3)), Request(fb.lp(), deadline=0.1)], FAULTY, placement="local"
    )
    assert [a.status for a in local] == [Status.OPTIMAL, Status.TIME_LIMIT]


def test_the_highest_priority_goes_first(cluster: None) -> None:
    with SolverPool(PoolConfig(n_workers=1, cpus_per_worker=0.5)) as pool:
        priorities = [0, 2, 1, 2, 0, 5]
        for placement in ("local", "actors"):
            (Path(os.environ[fb.DIRECTORY]) / "order").unlink(missing_ok=True)
            requests = [Request(fb.lp(fb.NOTE, 0.05, i), priority=p) for i, p in enumerate(priorities)]
            answers = pool.solve(requests, FAULTY, placement=placement)  # type: ignore[call-overload]
            assert [a.objective for a in answers] == list(range(6))
            assert fb.order() == [5, 1, 3, 2, 0, 4]


def test_bad_requests_name_the_field() -> None:
    with pytest.raises(InvalidProblem, match="deadline"):
        Request(fb.lp(), deadline=0.0)
    with pytest.raises(InvalidProblem, match="seed"):
        Request(fb.lp(), seed=-1)


def window(stream: Iterator[Problem], bounds: Bounds | None) -> Window:
    return Window(stream, lambda problem: "faulty", lambda name: 0.01, time.monotonic, 0, None, bounds)


@pytest.mark.parametrize(
    ("bounds", "most"),
    [
        (Bounds(1, 0.095), 10),
        (Bounds(20, 0.095), 20),
        (Bounds(1, 10.0, programs=7), 7),
        (Bounds(1, 10.0, bytes=5 * 9 * 8), 5),
        (Bounds(1, 10.0, bytes=1), 1),
    ],
)
def test_a_window_is_bounded_by_each_of_its_bounds(bounds: Bounds, most: int) -> None:
    source = Source(None)
    taken = window(iter(source), bounds)
    entries, _ = taken.take()
    assert len(entries) == source.pulled == most
    assert not taken.has_room
    chunks = cut(entries, lambda name: 0.01, 0.01)
    pieces = [piece for chunk in chunks for piece in chunk.pieces]
    with SolverPool() as pool:
        answer = pool.solve(fb.lp(), FAULTY)
    assert list(taken.deliver(pieces[-1], answer)) == ([answer] if most == 1 else [])
    if most > 1:
        assert not taken.has_room, "an answer that waits for an earlier one still takes its place"
        assert sum(len(list(taken.deliver(piece, answer))) for piece in pieces[:-1]) == most
    assert taken.has_room

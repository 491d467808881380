"""Executing schedules month by month, with delays that become known when an operation should have ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from envs.job_shop.instance import OPERATIONS, Ints, JobShop

NEVER = -1
"""The start of an operation that is not planned, or was not started."""


class Bar(NamedTuple):
    """An operation in a Gantt chart: ``start <= month < end``; `delayed` if it took longer than it should."""

    machine: int
    copy: int
    job: int
    start: int
    end: int
    delayed: bool


@dataclass(frozen=True, eq=False)
class ShopState:
    """What is known when a plan is made at the beginning of a month.

    Attributes:
        month: t; new operations start at t or later.
        start: ``(J, 3)``, months in which operations were started, or `NEVER`.
        end: ``(J, 3)``, their ends as known now; 0 where not started.
    """

    month: int
    start: Ints
    end: Ints

    @property
    def stage(self) -> Ints:
        """``(J,)``, the next operation of each job to start; 3 when all were started."""
        return np.asarray((self.start != NEVER).sum(axis=1))

    @property
    def ready(self) -> Ints:
        """``(J,)``, the first month in which the next operation of each job could start, as known now."""
        return np.asarray(np.maximum(self.end.max(axis=1), self.month))


class Simulation:
    """One episode of an instance with given delays ``(J, 3)`` [months], from month 0.

    A late operation keeps its own copy of the machine, so that copies never run out.
    """

    def __init__(self, instance: JobShop, delays: Ints) -> None:
        self.instance, self.delays = instance, delays
        shape = instance.durations.shape
        self.month = 0
        self._start = np.full(shape, NEVER)
        self._end = np.zeros(shape, dtype=np.int64)
        self._copy = np.full(shape, NEVER)
        self._revealed = np.zeros(shape, dtype=np.bool_)

    @property
    def over(self) -> bool:
        return self.month >= self.instance.months

    def state(self) -> ShopState:
        """What a planner may know now."""
        return ShopState(self.month, self._start.copy(), self._end.copy())

    def run(self, plan: Ints) -> None:
        """Execute planned starts ``(J, 3)`` until a delay calls for a new plan, or to the end of the horizon.

        Entries of operations that were started already are ignored. On return either `over` is true, or the month's
        delays are known and nothing was started in it.
        """
        while not self.over:
            due = (plan == self.month) & (self._start == NEVER)
            for job, m in np.argwhere(due):
                running = (self._start[:, m] != NEVER) & (self._end[:, m] > self.month)
                taken = set(self._copy[running, m].tolist())
                self._copy[job, m] = next(c for c in range(len(taken) + 1) if c not in taken)
                self._start[job, m] = self.month
                self._end[job, m] = self.month + self.instance.durations[job, m]
            self.month += 1
            late = (self._start != NEVER) & (self._end == self.month) & (self.delays > 0) & ~self._revealed
            if late.any() and not self.over:
                self._end[late] += self.delays[late]
                self._revealed |= late
                return

    def realised(self) -> tuple[Ints, Ints]:
        """Starts and true ends ``(J, 3)`` of what was started so far; `NEVER` and 0 elsewhere.

        An operation that ends after the horizon, or whose delay is not known yet, has the end that it will have.
        """
        started = self._start != NEVER
        end = np.where(started, self._start + self.instance.durations + self.delays, 0)
        return self._start.copy(), end

    def finished(self) -> Ints:
        """The jobs whose third operation has ended by now, as far as is known now."""
        end = self.realised()[1][:, -1]
        return np.flatnonzero((end > 0) & (end <= self.month))

    def profit(self) -> float:
        """The profits of `finished`; of the whole episode when it is over."""
        return float(self.instance.profits[self.finished()].sum())

    def gantt(self) -> list[Bar]:
        """What was executed, ordered by machine type, copy and start; ends are the true ones."""
        start, end = self.realised()
        bars = [
            Bar(
                int(m),
                int(self._copy[j, m]),
                int(j),
                int(start[j, m]),
                int(end[j, m]),
                bool(self.delays[j, m]),
            )
            for j, m in np.argwhere(start != NEVER)
        ]
        return sorted(bars, key=lambda bar: (bar.machine, bar.copy, bar.start))


def check_schedule(instance: JobShop, start: Ints, end: Ints) -> list[str]:
    """Walk a schedule operation by operation, and say what is wrong with it; written without the master's rows.

    Args:
        start, end: ``(J, 3)``, months; `NEVER` for what does not happen.

    Returns:
        One line for each violation: order of operations, durations, starts beyond T, and machines in use.
    """
    wrong: list[str] = []
    use: dict[tuple[int, int], int] = {}
    for j in range(len(instance)):
        before = 0
        for m in range(OPERATIONS):
            first, last = int(start[j, m]), int(end[j, m])
            if first == NEVER:
                if any(int(start[j, later]) != NEVER for later in range(m, OPERATIONS)):
                    wrong.append(f"job {j} skips operation {m}")
                break
            if first < before:
                wrong.append(f"operation {m} of job {j} starts in {first}, its predecessor ends in {before}")
            if last - first < int(instance.durations[j, m]):
                wrong.append(f"operation {m} of job {j} takes {last - first} months")
            if first >= instance.months:
                wrong.append(f"operation {m} of job {j} starts beyond the horizon")
            for month in range(first, last):
                use[m, month] = use.get((m, month), 0) + 1
            before = last
    wrong += [
        f"{count} machines of type {m} are used in month {month}"
        for (m, month), count in sorted(use.items())
        if count > instance.copies
    ]
    return wrong


def check_plan(instance: JobShop, state: ShopState, plan: Ints) -> list[str]:
    """What is wrong with planned starts ``(J, 3)``, added to what was started already; see `check_schedule`.

    A plan also starts nothing in the past or again, plans whole jobs, and ends each by T.
    """
    wrong: list[str] = []
    start, end = state.start.copy(), state.end.copy()
    for j, m in np.argwhere(plan != NEVER).tolist():
        first = int(plan[j, m])
        if start[j, m] != NEVER or first < state.month:
            wrong.append(f"operation {m} of job {j} is planned for {first}, in the past or again")
            continue
        start[j, m], end[j, m] = first, first + int(instance.durations[j, m])
        if end[j, m] > instance.months:
            wrong.append(f"operation {m} of job {j} is planned to end in {end[j, m]}")
        if plan[j, -1] == NEVER:
            wrong.append(f"job {j} is planned without its last operation")
    return wrong + check_schedule(instance, start, end)


def draw_gantt(bars: list[Bar], instance: JobShop, axes: Any) -> None:
    """Draw a Gantt chart on Matplotlib axes: a line for each machine, hatched where an operation was delayed."""
    from matplotlib import colormaps

    colours = colormaps["tab20"]
    lines = OPERATIONS * instance.copies
    for bar in bars:
        line = bar.machine * instance.copies + bar.copy
        axes.barh(
            line, bar.end - bar.start, left=bar.start, height=0.8, color=colours(bar.job % 20),
            edgecolor="black", linewidth=0.6, hatch="///" if bar.delayed else None,
        )  # fmt: skip
        axes.text((bar.start + bar.end) / 2, line, str(bar.job), ha="center", va="center", fontsize=7)
    axes.set_yticks(
        range(lines), [f"{1 + i // instance.copies}.{1 + i % instance.copies}" for i in range(lines)]
    )
    axes.axvline(instance.months, color="black", linestyle="--")
    axes.set(xlabel="month", ylabel="machine (type.copy)", ylim=(lines - 0.5, -0.5))

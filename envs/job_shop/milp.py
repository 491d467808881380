"""The scheduling MILP (13) of seed 001, corrected, and its exact aggregation by type of job.

Full model, for months t, machine types m = 0..2, durations o[j, m] (specification boo, section 4)::

    x[m,j,t] = 1     operation m of job j starts in t, for t in [head, T - o[j,m] - tail]
    (13a, b, f)      sum_t x[m,j,t] = y_j                                                    all m, j
    (13e)            sum_{t' <= t} x[m,j,t'] <= sum_{t' <= t - o[j,m-1]} x[m-1,j,t']         all m > 0, j, t
    (13d)            sum_j sum_{t' = t-o[j,m]+1 .. t} x[m,j,t'] <= M                         all m, t

Head and tail are the durations before and after an operation, which implies (13c). Only whole jobs are planned:
the rest of a job that is not finished pays nothing. As printed, (13c) and (13d) block a machine for the whole job,
(13d) counts one month too many, and (13e) forbids a job that is begun and not finished; this is corrected. (13e) is
written month by month, whose relaxation is tighter than one row with the start times.

Aggregated model: jobs with the same operation next, the same remaining durations and the same ready month are
interchangeable in all rows. Starts are then whole numbers of a type g, and jobs of the type get them first
come, first served::

    X[g,m,t] in {0..min(M, |g|)},   y_j binary,   sum_t X[g,m,t] = sum_{j in g} y_j,   (13e) for g,   (13d)

Whatever the objective in y, its optimum is the full model's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from envs.job_shop.instance import OPERATIONS, Array, Ints, JobShop
from envs.job_shop.simulation import NEVER, ShopState
from solver_pool.problem import MixedIntegerProgram


@dataclass(frozen=True, eq=False)
class Column:
    """``X[g, m, t]``, a whole number of starts.

    Attributes:
        group: g. machine: m. month: t. duration: o[g, m] [months].
    """

    group: int
    machine: int
    month: int
    duration: int


@dataclass(frozen=True, eq=False)
class ScheduleModel:
    """A scheduling MILP without an objective, of which the first J variables are y.

    Attributes:
        program: with the empty plan as its start, which is always feasible.
        columns: of the variables after y.
        groups: jobs of each type, in order of their number.
    """

    program: MixedIntegerProgram
    columns: tuple[Column, ...]
    groups: tuple[Ints, ...]

    @property
    def cut_variables(self) -> Ints:
        """``(J,)``, the indices of y."""
        return np.arange(len(self.program.c) - len(self.columns))

    def schedule(self, plan: Array, priority: Array | None = None) -> Ints:
        """Planned starts ``(J, 3)`` of the operations that are still to start, `NEVER` for what is not planned.

        The k-th job of a type that is chosen gets the k-th start of each operation: by the month-by-month form of
        (13e) that respects precedence.

        Args:
            plan: ``(n,)`` of the program. priority: ``(J,)``; chosen jobs of a type are served in its decreasing
                order, then by number; None for by number.
        """
        jobs = len(self.cut_variables)
        chosen = np.round(plan[:jobs]) > 0
        starts: dict[tuple[int, int], list[int]] = {}
        for column, count in zip(self.columns, np.round(plan[jobs:]).astype(int), strict=True):
            starts.setdefault((column.group, column.machine), []).extend([column.month] * int(count))
        out = np.full((jobs, OPERATIONS), NEVER)
        for (g, m), months in starts.items():
            members = self.groups[g][chosen[self.groups[g]]]
            if priority is not None:
                members = members[np.argsort(-priority[members], kind="stable")]
            # A job more than starts, or fewer, would be a plan that breaks its own rows.
            for job, month in zip(members, sorted(months), strict=True):
                out[job, m] = month
        return out

    def plan(self, schedule: Ints) -> Array:
        """The plan ``(n,)`` of planned starts ``(J, 3)``: the inverse of `schedule`, up to who is served first."""
        jobs = len(self.cut_variables)
        plan = np.zeros(len(self.program.c))
        plan[:jobs] = (schedule != NEVER).any(axis=1)
        months = {g: schedule[members] for g, members in enumerate(self.groups)}
        for k, column in enumerate(self.columns):
            plan[jobs + k] = np.count_nonzero(months[column.group][:, column.machine] == column.month)
        return plan


def schedule_model(
    instance: JobShop, state: ShopState | None = None, *, aggregate: bool = True
) -> ScheduleModel:
    """The MILP of what can still be planned.

    Args:
        state: what was started, with its ends as known now; it is fixed. None for the beginning.
        aggregate: by type; otherwise every job is a type of its own, which is the full model.
    """
    jobs, horizon = len(instance), instance.months
    if state is None:
        nothing = np.full((jobs, OPERATIONS), NEVER)
        state = ShopState(0, nothing, np.zeros_like(nothing))
    stage, ready = state.stage, state.ready

    # Types: what can still be finished by T.
    types: dict[tuple[int, ...], list[int]] = {}
    for j in range(jobs):
        left = tuple(instance.durations[j, stage[j] :].tolist())
        if left and ready[j] + sum(left) <= horizon:
            key = (int(stage[j]), int(ready[j]), *left) if aggregate else (j,)
            types.setdefault(key, []).append(j)
    groups = tuple(np.array(members) for members in types.values())

    # Columns, by type, operation and month.
    columns: list[Column] = []
    index: list[dict[int, dict[int, int]]] = []
    for g, members in enumerate(groups):
        j, windows = int(members[0]), {}
        for m in range(int(stage[j]), OPERATIONS):
            head = int(ready[j]) + int(instance.durations[j, stage[j] : m].sum())
            tail = int(instance.durations[j, m:].sum())
            windows[m] = {t: jobs + len(columns) + t - head for t in range(head, horizon - tail + 1)}
            columns += [Column(g, m, t, int(instance.durations[j, m])) for t in windows[m]]
        index.append(windows)

    # Rows: entries, lower and upper side.
    rows = _Rows()
    for members, windows in zip(groups, index, strict=True):
        for m, window in windows.items():
            rows.add([*((k, 1.0) for k in window.values()), *((int(j), -1.0) for j in members)], 0.0, 0.0)
            if m - 1 in windows:
                gap = int(instance.durations[members[0], m - 1])
                for t in window:
                    done = [(k, 1.0) for at, k in window.items() if at <= t]
                    allowed = [(k, -1.0) for at, k in windows[m - 1].items() if at <= t - gap]
                    rows.add([*done, *allowed], -np.inf, 0.0)
    busy = busy_machines(instance, state)
    occupied: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for k, column in enumerate(columns):
        for t in range(column.month, column.month + column.duration):
            occupied.setdefault((column.machine, t), []).append((jobs + k, 1.0))
    for (m, t), entries in sorted(occupied.items()):
        rows.add(entries, -np.inf, float(instance.copies - busy[m, t]))

    # Bounds. Jobs that cannot be finished keep their variable, at zero: a cut has the same length all episode.
    high = np.zeros(jobs + len(columns))
    for members in groups:
        high[members] = 1.0
    high[jobs:] = [min(instance.copies, len(groups[c.group])) for c in columns]
    n = len(high)
    program = MixedIntegerProgram(
        c=np.zeros(n), A=rows.matrix(n), row_low=np.array(rows.low), row_high=np.array(rows.high),
        low=np.zeros(n), high=high, integer=np.ones(n, dtype=np.bool_), start=np.zeros(n),
    )  # fmt: skip
    return ScheduleModel(program, tuple(columns), groups)


def busy_machines(instance: JobShop, state: ShopState) -> Ints:
    """``(3, T)``, machines of each type that operations already started occupy, as known now."""
    months = np.arange(instance.months)
    started = (state.start != NEVER)[..., None]
    occupied = started & (state.start[..., None] <= months) & (months < state.end[..., None])
    return np.asarray(occupied.sum(axis=0))


class _Rows:
    """Rows of a sparse matrix, collected one by one."""

    def __init__(self) -> None:
        self.columns: list[int] = []
        self.values: list[float] = []
        self.ends: list[int] = [0]
        self.low: list[float] = []
        self.high: list[float] = []

    def add(self, entries: list[tuple[int, float]], low: float, high: float) -> None:
        self.columns += [k for k, _ in entries]
        self.values += [value for _, value in entries]
        self.ends.append(len(self.columns))
        self.low.append(low)
        self.high.append(high)

    def matrix(self, n: int) -> csr_matrix:
        return csr_matrix(
            (
                np.array(self.values, dtype=np.float64),
                np.array(self.columns, dtype=np.int64),
                np.array(self.ends),
            ),
            shape=(len(self.low), n),
        )

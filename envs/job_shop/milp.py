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

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from envs.job_shop.instance import OPERATIONS, Array, Ints, JobShop
from envs.job_shop.simulation import NEVER, ShopState
from solver_pool.problem import MixedIntegerProgram


@dataclass(frozen=True, eq=False)
class Starts:
    """The variables ``X[g, m, t]``, whole numbers of starts, one entry for each.

    Attributes:
        group: g. machine: m. month: t. duration: o[g, m] [months].
    """

    group: Ints
    machine: Ints
    month: Ints
    duration: Ints

    def __len__(self) -> int:
        return len(self.group)


@dataclass(frozen=True, eq=False)
class ScheduleModel:
    """A scheduling MILP without an objective, of which the first J variables are y.

    Attributes:
        program: with the empty plan as its start, which is always feasible.
        starts: of the variables after y.
        groups: jobs of each type, in order of their number.
    """

    program: MixedIntegerProgram
    starts: Starts
    groups: tuple[Ints, ...]

    @property
    def cut_variables(self) -> Ints:
        """``(J,)``, the indices of y."""
        return np.arange(len(self.program.c) - len(self.starts))

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
        months: dict[tuple[int, int], list[int]] = {}
        counts, at = np.round(plan[jobs:]).astype(np.int64), self.starts
        for k in np.flatnonzero(counts).tolist():
            months.setdefault((int(at.group[k]), int(at.machine[k])), []).extend(
                [int(at.month[k])] * counts[k]
            )
        out = np.full((jobs, OPERATIONS), NEVER)
        for (g, m), planned in months.items():
            members = self.groups[g][chosen[self.groups[g]]]
            if priority is not None:
                members = members[np.argsort(-priority[members], kind="stable")]
            # A job more than starts, or fewer, would be a plan that breaks its own rows.
            for job, month in zip(members, sorted(planned), strict=True):
                out[job, m] = month
        return out

    def plan(self, schedule: Ints) -> Array:
        """The plan ``(n,)`` of planned starts ``(J, 3)``: the inverse of `schedule`, up to who is served first."""
        jobs, at = len(self.cut_variables), self.starts
        plan = np.zeros(len(self.program.c))
        plan[:jobs] = (schedule != NEVER).any(axis=1)
        group_of = np.zeros(jobs, dtype=np.int64)
        for g, members in enumerate(self.groups):
            group_of[members] = g
        planned = np.zeros((max(len(self.groups), 1), OPERATIONS, schedule.max(initial=0) + 1))
        job, machine = np.nonzero(schedule != NEVER)
        np.add.at(planned, (group_of[job], machine, schedule[job, machine]), 1.0)
        inside = np.flatnonzero(at.month < planned.shape[2])
        plan[jobs + inside] = planned[at.group[inside], at.machine[inside], at.month[inside]]
        return plan


@dataclass(frozen=True, eq=False)
class _Block:
    """Variables and rows of one type, numbered from 0; the same for every group of it, and kept.

    Attributes:
        machine, month, duration: ``(k,)``, of the variables.
        row, column, value: entries of the rows of (13a, b, f) and (13e), those of the former without their ``-y_j``.
        links: rows of (13a, b, f), equations. rows: how many in all.
    """

    machine: Ints
    month: Ints
    duration: Ints
    row: Ints
    column: Ints
    value: Array
    links: Ints
    rows: int


@lru_cache(maxsize=4096)
def _block(stage: int, ready: int, left: tuple[int, ...], horizon: int) -> _Block:
    """Of jobs that begin operation `stage` in month `ready` at the earliest; `left` are durations from there on."""
    machine: list[int] = []
    month: list[int] = []
    duration: list[int] = []
    windows: list[dict[int, int]] = []
    for i, length in enumerate(left):
        head, tail = ready + sum(left[:i]), sum(left[i:])
        windows.append({t: len(month) + t - head for t in range(head, horizon - tail + 1)})
        for t in windows[-1]:
            machine.append(stage + i)
            month.append(t)
            duration.append(length)
    entries: list[tuple[int, int, float]] = []
    links, rows = [], 0
    for i, window in enumerate(windows):
        links.append(rows)
        entries += [(rows, k, 1.0) for k in window.values()]
        rows += 1
        if i == 0:
            continue
        for t in window:
            entries += [(rows, k, 1.0) for at, k in window.items() if at <= t]
            entries += [(rows, k, -1.0) for at, k in windows[i - 1].items() if at <= t - left[i - 1]]
            rows += 1
    row, column, value = zip(*entries, strict=True)
    return _Block(
        np.array(machine), np.array(month), np.array(duration), np.array(row), np.array(column), np.array(value),
        np.array(links), rows,
    )  # fmt: skip


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
    types: dict[tuple[Any, ...], list[int]] = {}
    for j in range(jobs):
        left = tuple(instance.durations[j, stage[j] :].tolist())
        if left and ready[j] + sum(left) <= horizon:
            key = (int(stage[j]), int(ready[j]), left)
            types.setdefault(key if aggregate else (*key, j), []).append(j)
    groups = tuple(np.array(members) for members in types.values())

    # Variables and rows of each type, behind those of the types before.
    blocks = [_block(*key[:3], horizon) for key in types]
    first_column = jobs + _before([len(block.month) for block in blocks])
    first_row = _before([block.rows for block in blocks])
    rows = [np.zeros(0, dtype=np.int64)]
    columns, values = [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
    high_rows = np.zeros(sum(block.rows for block in blocks))
    low_rows = np.full(len(high_rows), -np.inf)
    for block, members, at, begin in zip(blocks, groups, first_column, first_row, strict=True):
        rows += [block.row + begin, np.repeat(block.links + begin, len(members))]
        columns += [block.column + at, np.tile(members, len(block.links))]
        values += [block.value, np.full(len(block.links) * len(members), -1.0)]
        low_rows[block.links + begin] = 0.0
    none = [np.zeros(0, dtype=np.int64)]
    starts = Starts(
        np.repeat(np.arange(len(blocks)), [len(block.month) for block in blocks]),
        *(
            np.concatenate(none + [getattr(b, name) for b in blocks])
            for name in ("machine", "month", "duration")
        ),
    )

    # Capacity (13d): a row for each machine type and month that a start would occupy.
    busy = busy_machines(instance, state)
    variable = np.repeat(np.arange(len(starts)), starts.duration)
    within = np.arange(len(variable)) - np.repeat(_before(starts.duration), starts.duration)
    place = starts.machine[variable] * horizon + starts.month[variable] + within
    occupied, row = np.unique(place, return_inverse=True)
    rows.append(row + len(high_rows))
    columns.append(variable + jobs)
    values.append(np.ones(len(variable)))
    high_rows = np.append(high_rows, instance.copies - busy.ravel()[occupied])
    low_rows = np.append(low_rows, np.full(len(occupied), -np.inf))

    # Bounds. Jobs that cannot be finished keep their variable, at zero: a cut has the same length all episode.
    n = jobs + len(starts)
    high = np.zeros(n)
    for members in groups:
        high[members] = 1.0
    high[jobs:] = np.minimum(
        instance.copies, np.array([len(members) for members in groups])[starts.group] if groups else 0
    )
    program = MixedIntegerProgram(
        c=np.zeros(n),
        A=csr_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), (len(high_rows), n)),
        row_low=low_rows, row_high=high_rows.astype(np.float64),
        low=np.zeros(n), high=high, integer=np.ones(n, dtype=np.bool_), start=np.zeros(n),
    )  # fmt: skip
    return ScheduleModel(program, starts, groups)


def _before(sizes: Sequence[int] | Ints) -> Ints:
    """How many entries stand before each of consecutive parts of these sizes."""
    return (
        np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        if len(sizes)
        else np.zeros(0, dtype=np.int64)
    )


def busy_machines(instance: JobShop, state: ShopState) -> Ints:
    """``(3, T)``, machines of each type that operations already started occupy, as known now."""
    months = np.arange(instance.months)
    started = (state.start != NEVER)[..., None]
    occupied = started & (state.start[..., None] <= months) & (months < state.end[..., None])
    return np.asarray(occupied.sum(axis=0))

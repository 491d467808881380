"""What a pool counts, for each backend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from solver_pool.solution import BatchSolution, Status
from solver_pool.tasks import Outcome

COUNTERS = ("solver_seconds", "queue_seconds", "replays", "worker_restarts", "recycled")


@dataclass
class Tally:
    """Counters of one backend.

    Attributes:
        statuses: programs by status; each state of a batch is one.
        solver_seconds: [s] of wall time in the backend.
        queue_seconds: [s] that programs waited for a worker, summed over programs.
        replays: programs that were begun again because they, or their worker, were lost.
        worker_restarts: solver processes and workers lost while they ran this backend.
        recycled: solver processes replaced after `PoolConfig.recycle_after` solves.
    """

    statuses: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(Status), dtype=np.int64))
    solver_seconds: float = 0.0
    queue_seconds: float = 0.0
    replays: int = 0
    worker_restarts: int = 0
    recycled: int = 0

    def count(self, outcome: Outcome) -> None:
        """Add an answer."""
        self.solver_seconds += outcome.seconds
        if isinstance(outcome.answer, BatchSolution):
            self.statuses += np.bincount(outcome.answer.status, minlength=len(Status))
        else:
            self.statuses[outcome.answer.status] += 1

    def plus(self, other: Tally, sign: int = 1) -> Tally:
        """The sum with another tally, or the difference."""
        values = {name: getattr(self, name) + sign * getattr(other, name) for name in COUNTERS}
        return Tally(self.statuses + sign * other.statuses, **values)

    def items(self) -> Iterator[tuple[str, float]]:
        """``solves``, ``status_<name>`` for each status, and the other counters."""
        yield "solves", float(self.statuses.sum())
        for status in Status:
            yield f"status_{status.name.lower()}", float(self.statuses[status])
        for name in COUNTERS:
            yield name, float(getattr(self, name))

"""The stochastic job shop: jobs of three operations, machine types in order, random delays, hidden profits.

Seed 001, section 5.2; specification boo, sections 4 and 5. Times are whole months, from 0 to T.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from envs.errors import InvalidSetting

Array: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

OPERATIONS = 3
"""Of a job; operation m runs on a machine of type m, after operation m - 1."""

DELAY_PROBABILITIES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Of an operation, by the class of its job [O]. The profit of a job is the same number [P]."""

LONGEST_DELAY = 3
"""[months]; a delay is 1 to 3 months, each equally likely [P]."""


@dataclass(frozen=True, eq=False)
class JobShop:
    """One instance.

    Attributes:
        durations: ``(J, 3)`` [months], whole, at least 1.
        classes: ``(J,)``, indices of `DELAY_PROBABILITIES`.
        months: T. copies: M, machines of each type.

    Raises:
        InvalidSetting: on shapes or numbers out of range.
    """

    durations: Ints
    classes: Ints
    months: int = 12
    copies: int = 4

    def __post_init__(self) -> None:
        durations, classes = np.asarray(self.durations), np.asarray(self.classes)
        whole = all(np.issubdtype(a.dtype, np.integer) for a in (durations, classes))
        if durations.ndim != 2 or durations.shape[1] != OPERATIONS or not whole or (durations < 1).any():
            raise InvalidSetting(
                "durations", f"have shape {durations.shape}", "Give whole months (J, 3), 1 or more."
            )
        if (
            classes.shape != durations.shape[:1]
            or not np.isin(classes, range(len(DELAY_PROBABILITIES))).all()
        ):
            raise InvalidSetting("classes", f"have shape {classes.shape}", "Give 0 to 4 for each job.")
        if self.months < 1 or self.copies < 1:
            raise InvalidSetting(
                "months", f"or copies are {self.months}, {self.copies}", "At least 1 of each."
            )
        object.__setattr__(self, "durations", durations.astype(np.int64))
        object.__setattr__(self, "classes", classes.astype(np.int64))

    def __len__(self) -> int:
        return len(self.classes)

    @cached_property
    def delay_probability(self) -> Array:
        """``(J,)``, of each operation of the job; a policy may see it."""
        return np.array(DELAY_PROBABILITIES)[self.classes]

    @cached_property
    def profits(self) -> Array:
        """``(J,)``, paid if the third operation ends by T. Hidden from a policy."""
        return self.delay_probability.copy()


def draw_job_shop(rng: np.random.Generator, jobs: int = 200, months: int = 12, copies: int = 4) -> JobShop:
    """Durations ``U{1, 2, 3}`` and classes ``U{0..4}`` [O]; the paper's J, T and M."""
    if jobs < 1:
        raise InvalidSetting("jobs", f"is {jobs}", "Draw at least one.")
    return JobShop(
        rng.integers(1, 4, (jobs, OPERATIONS)),
        rng.integers(0, len(DELAY_PROBABILITIES), jobs),
        months,
        copies,
    )


def draw_delays(rng: np.random.Generator, instance: JobShop) -> Ints:
    """Extra months of every operation should it be started, ``(J, 3)``; 0 where it is on time.

    Drawn for all operations at once, so that two policies on one draw meet the same luck (common random numbers).
    """
    shape = instance.durations.shape
    late = rng.random(shape) < instance.delay_probability[:, None]
    return np.where(late, rng.integers(1, LONGEST_DELAY + 1, shape), 0)

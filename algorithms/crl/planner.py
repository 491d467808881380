"""Optimistic planning over a ball, by whichever engine: the fast planner, a kept model, or the solver pool. No Ray."""

from __future__ import annotations

from typing import Literal, TypeAlias

from algorithms.crl.confidence import Ball
from algorithms.crl.fast_planner import plan_fast
from algorithms.crl.kept_model import KeptModel
from algorithms.crl.linear_programs import plan_extended, program_size
from algorithms.crl.plan import Plan
from envs.errors import InvalidSetting
from envs.tabular import Task, memory
from solver_pool.pool import SolverPool

Engine: TypeAlias = Literal["fast", "kept", "pool"]
ENGINES: tuple[Engine, ...] = ("fast", "kept", "pool")

BYTES_A_NONZERO = 200
"""That HiGHS takes for a linear program, about: the model, its copies, and the factors of a basis."""


class Planner:
    """Solves the extended program of one task over one ball after another.

    Args:
        engine: ``"fast"`` solves it exactly by extended value iterations; ``"kept"`` keeps one HiGHS model and changes
            its coefficients; ``"pool"`` poses a new linear program to the solver pool each time.
        pool: of ``"pool"``; None solves in process.

    Raises:
        InvalidSetting: if the engine is unknown, or its linear program does not fit in memory.
    """

    def __init__(self, task: Task, engine: Engine = "fast", pool: SolverPool | None = None) -> None:
        if engine not in ENGINES:
            raise InvalidSetting("engine", f"is {engine!r}", f"Choose one of: {', '.join(ENGINES)}.")
        if engine != "fast":
            columns, rows, nonzeros = program_size(task)
            memory.check(
                BYTES_A_NONZERO * nonzeros,
                f"A linear program of {columns:,} columns, {rows:,} rows and {nonzeros:,} non-zeros",
                "Use engine='fast', which solves the same program without it.",
            )
        self.task, self.engine = task, engine
        self._kept = KeptModel(task) if engine == "kept" else None
        self._pool = pool or SolverPool()

    def plan(self, ball: Ball) -> Plan | None:
        """An optimistic plan; None where no kernel in the ball and no policy keep the budgets."""
        if self._kept is not None:
            return self._kept.plan(ball)
        if self.engine == "pool":
            return plan_extended(self.task, ball, self._pool)
        return plan_fast(self.task, ball)

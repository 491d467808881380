"""What Optimistic-GMBL and Online-CRL share: counts, a ball around their frequencies, an optimistic plan. No Ray.

Source: seed 003, Algorithms 1 and 2; specification online_crl, sections 4 and 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from algorithms.crl.confidence import Ball, RadiusKind, ball
from algorithms.crl.evaluation import uniform_policy
from algorithms.crl.fast_planner import plan_cheapest, plan_fast
from algorithms.crl.plan import Plan
from algorithms.crl.planner import Engine, Planner
from envs.errors import InvalidSetting
from envs.tabular import Array, Ints, Task, memory
from solver_pool.pool import SolverPool

Exploration: TypeAlias = Literal["plan", "uniform"]


@dataclass(frozen=True)
class AgentSettings:
    """How an agent plans and explores.

    Attributes:
        radius: see `confidence.ball`. ``"none"`` takes the frequencies for the truth (certainty equivalence).
        failure: probability that one entry of the kernel lies outside the ball.
        engine: see `Planner`.
        exploration: episodes are played with the ``"plan"``, or with ``"uniform"`` actions as a baseline.
        cap: visits of a pair after which no more of them are counted (S m H in Algorithm 2); None counts all.
    """

    radius: RadiusKind = "mp"
    failure: float = 1e-4
    engine: Engine = "fast"
    exploration: Exploration = "plan"
    cap: int | None = None

    def __post_init__(self) -> None:
        ball(np.zeros((1, 1, 1), dtype=np.int64), self.radius, self.failure)  # its errors
        if self.exploration not in ("plan", "uniform"):
            raise InvalidSetting("exploration", f"is {self.exploration!r}", "Use 'plan' or 'uniform'.")
        if self.cap is not None and self.cap < 1:
            raise InvalidSetting("cap", f"is {self.cap}", "Count at least one visit, or give None.")


class OptimisticAgent:
    """Counts transitions and plans over the ball around their frequencies.

    Where the program is infeasible the radius is doubled until it is not; a ball without radius leaves the plan of
    least cost. Both are counted.

    Args:
        task: what is known. settings: see `AgentSettings`.
        counts: ``n(s, a, s') (S, A, S)``, written in place; None begins with zeros.

    Attributes:
        planned, infeasible: plans so far, and those whose first program was infeasible.
        plan_seconds: [s] of the last plan.

    Raises:
        InvalidSetting: before any sample, if no kernel at all and no policy keep the budgets, or memory is too small.
    """

    def __init__(
        self,
        task: Task,
        settings: AgentSettings = AgentSettings(),
        counts: Ints | None = None,
        pool: SolverPool | None = None,
    ) -> None:
        states, actions = task.shape
        memory.check_states(states, actions, task.horizon)
        refuse_hopeless(task)
        self.task, self.settings = task, settings
        self.counts: Ints = np.zeros((states, actions, states), dtype=np.int64) if counts is None else counts
        self.planned = self.infeasible = 0
        self.plan_seconds = 0.0
        self._planner = Planner(task, settings.engine, pool)

    @property
    def ball(self) -> Ball:
        """Around the frequencies of now."""
        return ball(self.counts, self.settings.radius, self.settings.failure)

    @property
    def finished(self) -> bool:
        """Whether every pair was visited as often as the cap says (the end of Algorithm 2)."""
        return self.settings.cap is not None and bool((self.counts.sum(axis=2) >= self.settings.cap).all())

    def plan(self) -> tuple[Plan, bool]:
        """The optimistic plan of now, and whether its first program was feasible."""
        around = self.ball
        plan = self._planner.plan(around)
        feasible = plan is not None
        while plan is None:
            if not ((around.radius > 0) & (around.radius < 1)).any():
                plan = plan_cheapest(self.task, around)
                break
            around = around.widened(2.0)
            plan = self._planner.plan(around)
        return plan, feasible

    def policy(self) -> Array:
        """To play the next episode with, ``(H, S, A)``: one extended program, which is counted."""
        if self.settings.exploration == "uniform":
            return uniform_policy(self.task.horizon, *self.task.shape)
        plan, feasible = self.plan()
        self.planned += 1
        self.infeasible += not feasible
        self.plan_seconds = plan.seconds
        return plan.policy

    def deployed(self) -> Array:
        """What the agent has learned so far, ``(H, S, A)``."""
        return self.plan()[0].policy

    def count(self, states: Ints, actions: Ints) -> None:
        """Count the transitions of an episode, ``(H + 1,)`` and ``(H,)``, as far as the cap allows."""
        for s, a, t in zip(states[:-1], actions, states[1:], strict=True):
            if self.settings.cap is None or self.counts[s, a].sum() < self.settings.cap:
                self.counts[s, a, t] += 1

    def count_samples(self, counts: Ints) -> None:
        """Add samples of the generative model, ``(S, A, S)``."""
        self.counts += counts


def refuse_hopeless(task: Task) -> None:
    """Refuse budgets that no kernel and no policy keep together.

    Raises:
        InvalidSetting: naming the least excess.
    """
    everything = Ball.everything(*task.shape)
    if plan_fast(task, everything) is None:
        least = plan_cheapest(task, everything).costs
        worst = int(np.argmax(least - task.budgets))
        raise InvalidSetting(
            "budgets",
            f"cannot be kept together under any kernel: constraint {worst} still costs {least[worst]:.4g} with a "
            f"budget of {task.budgets[worst]:g}",
            "Raise them; no sample was taken.",
        )

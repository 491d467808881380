"""The stochastic job shop as an environment whose actions are cuts over its jobs."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar, Literal, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import ArrayLike

from envs.cutting_planes.cuts import Array, Cut
from envs.cutting_planes.env import Result, Stepping, solved_here
from envs.cutting_planes.feasibility import FeasibilityCount
from envs.cutting_planes.graph import VARIABLE_FEATURES, CutSpace, GraphBuilder, GraphObservation, GraphSpace
from envs.cutting_planes.master import MasterSettings
from envs.errors import InvalidSetting
from envs.job_shop.heuristic import EXCHANGES
from envs.job_shop.instance import (
    DELAY_PROBABILITIES,
    LONGEST_DELAY,
    OPERATIONS,
    Ints,
    draw_delays,
    draw_job_shop,
)
from envs.job_shop.milp import busy_machines
from envs.job_shop.planning import SETTINGS, Planner
from envs.job_shop.simulation import NEVER
from solver_pool.problem import MixedIntegerProgram

Replan: TypeAlias = Literal["reuse", "cut"]

Observe: TypeAlias = Literal["master", "jobs"]

JOB_FEATURES = (
    "is_job", "duration_0", "duration_1", "duration_2", "operations_left", "ready", "running", "delay_probability",
    *(f"class_{c}" for c in range(len(DELAY_PROBABILITIES))),
    "work_left", "slack", "open_delays", "expected_delays", "free_copies",
    "finish_probability", "finish_rate", "risk_rate", "ahead",
)  # fmt: skip
"""Of the variable y_j; zero elsewhere. Durations are over 3 months, times over T.

``work_left`` is what the operations still to start should take, ``slack`` what would remain to T after it;
``open_delays`` counts operations whose delay is not known yet, the running one included, ``expected_delays`` those
times the probability of each, both over 3; ``free_copies`` is the share of machines of the next operation's type that
are free in this month. ``finish_probability`` is that of ending by T if nothing waits for a machine, ``finish_rate``
the same for each expected month of work that is left, times 3, ``risk_rate`` that times the probability of a delay.
``ahead`` counts the jobs with as many operations left and a higher ``risk_rate``, for each copy of a machine, up to 3;
over 3."""

START_FEATURES = ("is_start", *(f"machine_{m}" for m in range(OPERATIONS)), "start", "duration")
"""Of a variable X[g, m, t]; zero elsewhere."""

FEATURES = (*JOB_FEATURES, *START_FEATURES, "month")
"""The task's features of each variable; the present month is the same for all. Profits are not among them."""


class JobShopEnv(gym.Env[GraphObservation, Cut]):
    """Plan a job shop by cuts ``phi <= b + w'y`` over its jobs, and replan when delays become known.

    Source: seed 001, section 5.2; specification boo, sections 4 and 5. The master is the MILP (13) aggregated by
    type of job (`milp.py`); every plan and every executed schedule is feasible, and is walked to check it.

    An episode begins with K cuts and a plan in month 0. With ``replan="reuse"`` these cuts serve all later plans, and
    the K-th step plays the episode to its end. With ``replan="cut"`` each planning moment asks for K new cuts. The
    reward is the profit of jobs that finished during the step; the return is the episode's profit.

    Observation: the aggregated master as a `GraphObservation`, whose variables have `FEATURES`; its size varies. With
    ``observe="jobs"`` it is smaller ("a relevant subset of the original state", seed 001): the jobs alone, under three
    rows that the master implies, the machine months of each type (`machine_months`).
    Action: a `Cut` over the J jobs, or the flat vector ``(w, b)`` of ``J + 1`` numbers.

    ``info``: ``month``; ``profit`` so far; ``finished`` jobs; ``solves`` in this episode; ``infeasible_plans`` since
    the environment was made.

    Args:
        jobs, months, copies: J, T and M; the paper's are 200, 12 and 4.
        cuts: K.
        replan: ``"reuse"`` or ``"cut"``. observe: ``"master"`` or ``"jobs"``.
        settings: of the masters. exchanges: of the list schedules from which solvers start; fewer are faster.

    Attributes:
        feasibility: how many plans and schedules were checked, and how many were infeasible.
        planner: of this episode, with its simulation, instance, planned schedule and solve times.

    ``reset(options={"instance": JobShop, "delays": (J, 3)})`` plays a given instance and luck; either may be left out.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(
        self,
        jobs: int = 60,
        *,
        months: int = 12,
        copies: int = 2,
        cuts: int = 1,
        replan: Replan = "reuse",
        observe: Observe = "master",
        settings: MasterSettings = SETTINGS,
        exchanges: int = EXCHANGES,
    ) -> None:
        if exchanges < 0:
            raise InvalidSetting("exchanges", f"is {exchanges}", "Give zero or more.")
        if cuts < 1:
            raise InvalidSetting("cuts", f"is {cuts}", "Make at least one cut at each planning moment.")
        if replan not in ("reuse", "cut"):
            raise InvalidSetting("replan", f"is {replan!r}", "Use 'reuse' or 'cut'.")
        if observe not in ("master", "jobs"):
            raise InvalidSetting("observe", f"is {observe!r}", "Use 'master' or 'jobs'.")
        self._size, self._observed = (jobs, months, copies), observe
        draw_job_shop(np.random.default_rng(0), *self._size)  # its errors, before training starts
        self._cuts, self._replan, self._settings, self._exchanges = cuts, replan, settings, exchanges
        self.feasibility = FeasibilityCount()
        self._playing = False
        self.observation_space = GraphSpace(len(VARIABLE_FEATURES) + len(FEATURES))
        self.action_space = CutSpace(jobs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[GraphObservation, dict[str, Any]]:
        """Begin an episode; `seed` fixes instance and delays of this one and of those that follow."""
        super().reset(seed=seed)
        options = options or {}
        instance = options.get("instance")
        if instance is None:
            instance = draw_job_shop(self.np_random, *self._size)
        delays = options.get("delays")
        if delays is None:
            delays = draw_delays(self.np_random, instance)
        self.planner = Planner(instance, delays, self._settings, self.feasibility, self._exchanges)
        self.action_space.size = len(instance)
        self._profit, self._playing = 0.0, True
        self._graph = self._builder()
        return self._observe(), self._info()

    def step(self, action: Cut | ArrayLike) -> Result:
        """Add a cut and solve; with the K-th, execute the plan.

        Raises:
            InvalidSetting: if the action is not finite or has the wrong size; nothing is solved then.
            ResetNeeded: if the episode is over, or none has begun.
        """
        return solved_here(self.stepping(action))

    def stepping(self, action: Cut | ArrayLike) -> Stepping:
        """`step`, for masters that are solved elsewhere, many at once: see `Stepping`."""
        if not self._playing:
            raise ResetNeeded("The episode is over, or none has begun. Call reset() first.")
        planner = self.planner
        planner.master.add(action)
        yield from planner.planning()
        over = False
        if len(planner.master.cuts) == self._cuts:
            cuts = list(planner.master.cuts)
            over = planner.execute()
            while not over and self._replan == "reuse":
                for cut in cuts:
                    planner.master.add(cut)
                yield from planner.planning()
                over = planner.execute()
            self._graph = self._builder()
        self._playing = not over
        before, self._profit = self._profit, planner.simulation.profit()
        return self._observe(), self._profit - before, over, False, self._info()

    @property
    def again(self) -> dict[str, Any]:
        """Options of `reset` with which another environment plays this episode: its instance and its luck."""
        return {"instance": self.planner.instance, "delays": self.planner.simulation.delays}

    def _builder(self) -> GraphBuilder:
        model = self.planner.model
        program, shown = model.program, features(self.planner)
        if self._observed == "jobs":
            program, shown = machine_months(self.planner), shown[: len(model.cut_variables)]
        return GraphBuilder(program, model.cut_variables, shown)

    def _observe(self) -> GraphObservation:
        master = self.planner.master
        # The plan is 0 until a cut was answered, as in every cutting-plane episode.
        plan = master.plan if self._observed == "master" else master.plan[master.cut_variables]
        return self._graph.observe(plan, master.cuts, self._cuts)

    def _info(self) -> dict[str, Any]:
        simulation = self.planner.simulation
        return {
            "month": simulation.month,
            "profit": simulation.profit(),
            "finished": len(simulation.finished()),
            "solves": self.planner.solves,
            "infeasible_plans": self.feasibility.infeasible,
        }


def machine_months(planner: Planner) -> MixedIntegerProgram:
    """The jobs y under what the master implies for them: for each type m of machine, ::

        sum_j o[j, m] y_j  <=  machine months of type m that are free from now to T

    over the jobs that can still be finished and their operations still to start. More months than these operations take
    are not told: such a row does not bind, however large its right side.
    """
    instance, state, model = planner.instance, planner.state, planner.model
    jobs, high = len(instance), model.program.high[: len(instance)]
    ahead = np.arange(OPERATIONS) >= state.stage[:, None]
    free = np.maximum(instance.copies - busy_machines(instance, state)[:, state.month :], 0).sum(axis=1)
    A = (instance.durations * ahead * high[:, None]).T.astype(np.float64)
    return MixedIntegerProgram(
        c=np.zeros(jobs), A=A,
        row_low=np.full(OPERATIONS, -np.inf), row_high=np.minimum(free.astype(np.float64), A.sum(axis=1)),
        low=np.zeros(jobs), high=high, integer=np.ones(jobs, dtype=np.bool_),
    )  # fmt: skip


@lru_cache(maxsize=1)
def _delay_sums() -> Array:
    """``(n + 1, classes, months + 1)``: the probability that n delays take so many months or fewer together."""
    longest = OPERATIONS * LONGEST_DELAY
    sums = np.zeros((OPERATIONS + 1, len(DELAY_PROBABILITIES), longest + 1))
    for c, p in enumerate(DELAY_PROBABILITIES):
        one, total = np.array([1.0 - p, *[p / LONGEST_DELAY] * LONGEST_DELAY]), np.ones(1)
        for n in range(OPERATIONS + 1):
            sums[n, c, : len(total)] = total
            total = np.convolve(total, one)
    return np.asarray(sums.cumsum(axis=2))


def finish_probability(classes: Ints, open_delays: Ints, slack: Ints) -> Array:
    """``(J,)``, that the delays not known yet take no more than `slack` [months] together; 0 where it is negative."""
    table = _delay_sums()
    known = table[open_delays, classes, np.clip(slack, 0, table.shape[2] - 1)]
    return np.where(slack >= 0, known, 0.0)


def _ahead(stage: Ints, rate: Array, copies: int) -> Array:
    """``(J,)``: the feature ``ahead``."""
    higher = (stage == stage[:, None]) & (rate > rate[:, None])
    return np.asarray(np.minimum(higher.sum(axis=1) / copies, 3.0) / 3.0)


def features(planner: Planner) -> Array:
    """`FEATURES` of the variables of the planner's present master, ``(n, f)``."""
    instance, state, model = planner.instance, planner.state, planner.model
    jobs, horizon = len(instance), instance.months
    out = np.zeros((len(model.program.c), len(FEATURES)))
    stage, ready = state.stage, state.ready
    started = state.start != NEVER
    running = (state.end > state.month).any(axis=1)
    ahead = np.arange(OPERATIONS) >= stage[:, None]
    work_left = (instance.durations * ahead).sum(axis=1)
    # An operation that runs longer than it should has shown its delay.
    on_time = started & (state.end > state.month) & (state.end - state.start == instance.durations)
    open_delays = ahead.sum(axis=1) + on_time.sum(axis=1)
    busy = busy_machines(instance, state)[:, min(state.month, horizon - 1)]
    p = instance.delay_probability
    finish = finish_probability(instance.classes, open_delays, horizon - ready - work_left)
    rate = 3.0 * finish / np.maximum(work_left + (1 + LONGEST_DELAY) / 2 * p * open_delays, 1.0)
    free_copies = np.maximum(instance.copies - busy, 0)[np.minimum(stage, OPERATIONS - 1)] / instance.copies
    out[:jobs, : len(JOB_FEATURES)] = np.column_stack(
        [
            np.ones(jobs), instance.durations / 3.0, (OPERATIONS - stage) / OPERATIONS, ready / horizon, running,
            instance.delay_probability, np.eye(len(DELAY_PROBABILITIES))[instance.classes],
            work_left / horizon, (horizon - ready - work_left) / horizon, open_delays / OPERATIONS,
            open_delays * p / OPERATIONS, free_copies, finish, rate, p * rate, _ahead(stage, p * rate, instance.copies),
        ]
    )  # fmt: skip
    at = model.starts
    out[jobs:, len(JOB_FEATURES) : -1] = np.column_stack(
        [np.ones(len(at)), np.eye(OPERATIONS)[at.machine], at.month / horizon, at.duration / 3.0]
    )
    out[:, -1] = state.month / horizon
    return out

"""The stochastic job shop as an environment whose actions are cuts over its jobs."""

from __future__ import annotations

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
from envs.job_shop.instance import DELAY_PROBABILITIES, OPERATIONS, draw_delays, draw_job_shop
from envs.job_shop.planning import SETTINGS, Planner

Replan: TypeAlias = Literal["reuse", "cut"]

JOB_FEATURES = (
    "is_job", "duration_0", "duration_1", "duration_2", "operations_left", "ready", "running", "delay_probability",
    *(f"class_{c}" for c in range(len(DELAY_PROBABILITIES))),
)  # fmt: skip
"""Of the variable y_j; zero elsewhere. Durations are over 3 months, times over T."""

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

    Observation: the aggregated master as a `GraphObservation`, whose variables have `FEATURES`; its size varies.
    Action: a `Cut` over the J jobs, or the flat vector ``(w, b)`` of ``J + 1`` numbers.

    ``info``: ``month``; ``profit`` so far; ``finished`` jobs; ``solves`` in this episode; ``infeasible_plans`` since
    the environment was made.

    Args:
        jobs, months, copies: J, T and M; the paper's are 200, 12 and 4.
        cuts: K.
        replan: ``"reuse"`` or ``"cut"``.
        settings: of the masters.

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
        settings: MasterSettings = SETTINGS,
    ) -> None:
        if cuts < 1:
            raise InvalidSetting("cuts", f"is {cuts}", "Make at least one cut at each planning moment.")
        if replan not in ("reuse", "cut"):
            raise InvalidSetting("replan", f"is {replan!r}", "Use 'reuse' or 'cut'.")
        self._size = (jobs, months, copies)
        draw_job_shop(np.random.default_rng(0), *self._size)  # its errors, before training starts
        self._cuts, self._replan, self._settings = cuts, replan, settings
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
        self.planner = Planner(instance, delays, self._settings, self.feasibility)
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
        return GraphBuilder(model.program, model.cut_variables, features(self.planner))

    def _observe(self) -> GraphObservation:
        master = self.planner.master
        # The plan is 0 until a cut was answered, as in every cutting-plane episode.
        return self._graph.observe(master.plan, master.cuts, self._cuts)

    def _info(self) -> dict[str, Any]:
        simulation = self.planner.simulation
        return {
            "month": simulation.month,
            "profit": simulation.profit(),
            "finished": len(simulation.finished()),
            "solves": self.planner.solves,
            "infeasible_plans": self.feasibility.infeasible,
        }


def features(planner: Planner) -> Array:
    """`FEATURES` of the variables of the planner's present master, ``(n, f)``."""
    instance, state, model = planner.instance, planner.state, planner.model
    jobs, horizon = len(instance), instance.months
    out = np.zeros((len(model.program.c), len(FEATURES)))
    stage, ready = state.stage, state.ready
    running = (state.end > state.month).any(axis=1)
    out[:jobs, : len(JOB_FEATURES)] = np.column_stack(
        [
            np.ones(jobs), instance.durations / 3.0, (OPERATIONS - stage) / OPERATIONS, ready / horizon, running,
            instance.delay_probability, np.eye(len(DELAY_PROBABILITIES))[instance.classes],
        ]
    )  # fmt: skip
    if model.columns:
        numbers = np.array([(c.machine, c.month, c.duration) for c in model.columns])
        out[jobs:, len(JOB_FEATURES) : -1] = np.column_stack(
            [
                np.ones(len(numbers)), np.eye(OPERATIONS)[numbers[:, 0]], numbers[:, 1] / horizon, numbers[:, 2] / 3.0
            ]
        )  # fmt: skip
    out[:, -1] = state.month / horizon
    return out

"""Planning and replanning an episode of the job shop by masters with cuts over its jobs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from envs.cutting_planes.cuts import Cut
from envs.cutting_planes.env import solved_here
from envs.cutting_planes.feasibility import FeasibilityCount
from envs.cutting_planes.master import Master, MasterSettings, MasterSolution
from envs.job_shop.heuristic import EXCHANGES, list_schedule
from envs.job_shop.instance import Ints, JobShop
from envs.job_shop.milp import schedule_model
from envs.job_shop.simulation import NEVER, Simulation, check_plan, check_schedule

SETTINGS = MasterSettings(solver="highs", gap=0.02, time_limit=1.0)
"""HiGHS is the faster one here: 0.1 to 1 s a solve where SCIP takes 0.2 to 5 s. Proofs to a smaller gap take minutes.

A limit of 0.02 s leaves little beyond the list schedule, and plays an episode in a fifth of the time."""


class Planner:
    """An episode as a sequence of planning moments: the beginning, and every month in which a delay became known.

    At each a master is made of what can still be planned (what was started is fixed); cuts are added, it is solved,
    and the plan is executed to the next moment. Each plan is walked by `check_plan`, and the schedule executed in the
    end by `check_schedule`.

    Args:
        instance, delays: ``(J, 3)`` [months], as `draw_delays` gives them.
        settings: of the masters.
        feasibility: where checks are counted; None for a fresh count. exchanges: of the list schedules.

    Attributes:
        simulation: the episode. model, master: of this moment. solution: the last solve's.
        schedule: planned starts ``(J, 3)``, -1 for none.
        solves, seconds: how many masters were solved, and for how long.
    """

    def __init__(
        self,
        instance: JobShop,
        delays: Ints,
        settings: MasterSettings = SETTINGS,
        feasibility: FeasibilityCount | None = None,
        exchanges: int = EXCHANGES,
    ) -> None:
        self.instance, self._settings, self._exchanges = instance, settings, exchanges
        self.simulation = Simulation(instance, delays)
        self.feasibility = FeasibilityCount() if feasibility is None else feasibility
        self.solution: MasterSolution | None = None
        self.solves, self.seconds = 0, 0.0
        self.schedule = np.full(instance.durations.shape, NEVER)
        self._moment()

    def _moment(self) -> None:
        self.state = self.simulation.state()
        self.model = schedule_model(self.instance, self.state)
        self.master = Master(self.model.program, self.model.cut_variables, self._settings)

    def plan(self) -> Ints:
        """Solve the master with the cuts that were added; planned starts ``(J, 3)`` of this moment."""
        return solved_here(self.planning())

    def planning(self) -> Generator[Master, MasterSolution, Ints]:
        """`plan`, for masters that are solved elsewhere, many at once (`envs.cutting_planes.env.Stepping`)."""
        self._suggest()
        return self._take((yield self.master))

    def _suggest(self) -> None:
        rng = np.random.default_rng(self._settings.seed)
        schedule = list_schedule(self.instance, self.state, self.master.cuts, rng, self._exchanges)
        self.master.suggest(self.model.plan(schedule))

    def _take(self, solution: MasterSolution) -> Ints:
        self.solution = solution
        self.solves += 1
        self.seconds += solution.seconds
        # Of jobs of a type, the one that the last cut values most comes first.
        self.schedule = self.model.schedule(solution.plan, self.master.cuts[-1].w)
        self.feasibility.add(float(len(check_plan(self.instance, self.state, self.schedule))))
        return self.schedule

    def execute(self) -> bool:
        """Execute the plan to the next moment at which there is something to plan; whether the episode is over."""
        while True:
            self.simulation.run(self.schedule)
            if self.simulation.over:
                self.feasibility.add(float(len(check_schedule(self.instance, *self.simulation.realised()))))
                return True
            # What the last plan still holds was made without the delay.
            self.schedule = np.full(self.instance.durations.shape, NEVER)
            self._moment()
            if self.model.groups:
                return False


@dataclass(frozen=True, eq=False)
class Outcome:
    """An episode played to its end.

    Attributes:
        profit: of the jobs finished by T. finished: how many. solves, seconds: of its masters.
        simulation: what was executed, for its Gantt chart.
    """

    profit: float
    finished: int
    solves: int
    seconds: float
    simulation: Simulation


Cuts: TypeAlias = Sequence[Cut] | Callable[[Planner], Sequence[Cut]]
"""The cuts of a whole episode, or a function that writes them at each planning moment."""


def play(
    instance: JobShop,
    delays: Ints,
    cuts: Cuts,
    settings: MasterSettings = SETTINGS,
    feasibility: FeasibilityCount | None = None,
) -> Outcome:
    """Play an episode with the same cuts at every planning moment, or with those that a function writes."""
    planner = Planner(instance, delays, settings, feasibility)
    over = False
    while not over:
        for cut in cuts(planner) if callable(cuts) else cuts:
            planner.master.add(cut)
        planner.plan()
        over = planner.execute()
    simulation = planner.simulation
    return Outcome(
        simulation.profit(), len(simulation.finished()), planner.solves, planner.seconds, simulation
    )


# --- Baselines ------------------------------------------------------------------------------------------------


def count_jobs(instance: JobShop) -> list[Cut]:
    """The greedy MILP: ``max sum_j y_j``, planned anew after each delay."""
    return [Cut(np.ones(len(instance)), 0.0)]


def true_profits(instance: JobShop) -> list[Cut]:
    """``max sum_j v_j y_j`` with the hidden profits, which does not know about delays."""
    return [Cut(instance.profits, 0.0)]


def random_cut(instance: JobShop, rng: np.random.Generator) -> list[Cut]:
    """Standard normal weights: a policy before it has learned."""
    return [Cut(rng.standard_normal(len(instance)), 0.0)]

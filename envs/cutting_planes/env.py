"""The cutting-plane MDP: an episode adds K cuts to a master, and the plan that answers the last one is the result.

Seed 001, section 4; specification boo, section 1. States are the master as a graph, actions are cuts, a transition
is a solve. The reward judges a plan by an objective that only the environment knows. With a model and a reward of
your own (a file's path in place of `model` works as well)::

    import pyscipopt
    from envs.cutting_planes import CuttingPlaneEnv, CutProblem

    model = pyscipopt.Model()
    item = [model.addVar(f"item{i}", vtype="B") for i in range(4)]
    model.addCons(2 * item[0] + 3 * item[1] + 4 * item[2] + item[3] <= 6)

    def reward(plan):  # hidden: the first two are worth more together
        return plan[0] + plan[1] + 3 * plan[0] * plan[1] + 2 * plan[2] + plan[3]

    env = CuttingPlaneEnv(CutProblem.of_model(model, reward), cuts=2)
    graph, info = env.reset(seed=0)
    over = False
    while not over:
        graph, gain, over, _, info = env.step(env.action_space.sample())
    print(env.plan, info["objective"], env.feasibility.infeasible)
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import ArrayLike

from envs.cutting_planes.cuts import Array, Cut, Indices
from envs.cutting_planes.feasibility import Check, FeasibilityCount, rows_of_model, rows_of_program
from envs.cutting_planes.graph import (
    VARIABLE_FEATURES,
    Couplings,
    CutSpace,
    GraphBuilder,
    GraphObservation,
    GraphSpace,
)
from envs.cutting_planes.master import Master, MasterSettings, MasterSolution, checked_cut_variables
from envs.cutting_planes.model import read_model
from envs.errors import InvalidSetting
from solver_pool.problem import MixedIntegerProgram

T = TypeVar("T")

Reward: TypeAlias = Literal["per_cut", "at_end"]

Result: TypeAlias = tuple[GraphObservation, float, bool, bool, dict[str, Any]]
"""What a step returns."""

Stepping: TypeAlias = Generator[Master, MasterSolution, Result]
"""A step that stops wherever a master has to be solved: it yields the master, is sent the solution, and returns the
result of the step. Steps of many environments go on side by side that way (`vector.py`)."""


def solved_here(stepping: Generator[Master, MasterSolution, T]) -> T:
    """Carry such a step out, with each master solved in this process."""
    try:
        master = next(stepping)
        while True:
            master = stepping.send(master.solve())
    except StopIteration as end:
        result: T = end.value
        return result


@dataclass(frozen=True, eq=False)
class CutProblem:
    """One instance: a model whose feasible set is known and an objective that is not.

    Attributes:
        program: the model (``min c'x``; see `Master`).
        cut_variables: ``(d,)``.
        objective: ``objective(plan (n,)) -> value``, what the environment rewards; larger is better. Hidden.
        check: the independent check of a plan; see `feasibility.py`.
        features: ``(n, f)``, what a policy may know of each variable beyond the model; ``f`` may be zero.
        couplings: edges between variables, or None.
    """

    program: MixedIntegerProgram
    cut_variables: Indices
    objective: Callable[[Array], float]
    check: Check
    features: Array
    couplings: Couplings | None = None

    @cached_property
    def graph(self) -> GraphBuilder:
        """Of its observations; environments that play the same instance share it."""
        return GraphBuilder(self.program, self.cut_variables, self.features, self.couplings)

    @staticmethod
    def of_model(
        model: Any,
        objective: Callable[[Array], float],
        *,
        cut_variables: str | ArrayLike | None = None,
        features: Array | None = None,
    ) -> CutProblem:
        """From a PySCIPOpt model, the path of an LP or MPS file, or a `MixedIntegerProgram`.

        The model's own objective stays beside phi; leave it out to let the cuts decide alone.

        Args:
            objective: of plans ``(n,)`` in the order of the model's variables.
            cut_variables: their indices, the beginning of their names, or None for all variables.
            features: ``(n, f)``, or None for none.

        Raises:
            InvalidSetting: if the model cannot be read or is not linear, or a cut variable has no finite bounds.
        """
        if isinstance(model, MixedIntegerProgram):
            if isinstance(cut_variables, str):
                raise InvalidSetting(
                    "cut_variables", f"are {cut_variables!r}", "The program has no names: give indices."
                )
            program, chosen, check = model, cut_variables, rows_of_program(model)
        else:
            named = read_model(model)
            program, check = named.program, rows_of_model(model, named.names)
            chosen = named.indices(cut_variables) if isinstance(cut_variables, str) else cut_variables
        none = np.zeros((len(program.c), 0))
        return CutProblem(
            program, checked_cut_variables(program, chosen), objective, check,
            none if features is None else features,
        )  # fmt: skip


class CuttingPlaneEnv(gym.Env[GraphObservation, Cut]):
    """K cuts an episode on the master of an instance; every plan is feasible, and is checked.

    Observation: `GraphObservation`, at first with the plan 0 and without cuts. Action: a `Cut` over the cut
    variables, or the flat vector ``(w, b)`` of ``d + 1`` numbers. Reward: ``R(x_k) - R(x_{k-1})`` for each cut, with
    ``R(x_0) = 0``, or ``R(x_K)`` with the last; the undiscounted return is ``R(x_K)`` either way. The episode
    terminates after K cuts.

    ``info`` after a cut: ``objective`` R(x_k) and ``best_objective`` of the episode; ``violation`` by the independent
    check; ``phi``, ``gap`` and ``status`` of `MasterSolution`; ``infeasible_plans`` since the environment was made.
    They are numbers: Gymnasium's vectorisation cannot gather arrays of different sizes. Plans are attributes.

    Args:
        problem: the instance of every episode, or a function of the environment's own generator that draws one.
        cuts: K.
        reward: ``"per_cut"`` or ``"at_end"``.
        settings: of the master.

    Attributes:
        feasibility: how many plans were checked, and how many were infeasible.
        problem: the instance. plan, best_plan: ``(n,)``, the last plan of the episode and its best by the objective.
        solution: of the last solve, with its seconds (which ``info``, being reproducible, has not); or None.

    Raises:
        InvalidSetting: on an unusable setting, or a master that is infeasible or unbounded, before training starts.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(
        self,
        problem: CutProblem | Callable[[np.random.Generator], CutProblem],
        *,
        cuts: int = 2,
        reward: Reward = "per_cut",
        settings: MasterSettings = MasterSettings(),
    ) -> None:
        if cuts < 1:
            raise InvalidSetting("cuts", f"is {cuts}", "Make at least one cut an episode.")
        if reward not in ("per_cut", "at_end"):
            raise InvalidSetting("reward", f"is {reward!r}", "Use 'per_cut' or 'at_end'.")
        self._source = problem
        self._n_cuts, self._reward, self._settings = cuts, reward, settings
        self.feasibility = FeasibilityCount()
        self.solution: MasterSolution | None = None
        self.action_space = CutSpace()
        # A drawn instance shows what all of them look like, and that their masters can be solved.
        self._begin(self._drawn(np.random.default_rng(0)))
        self._playing = False
        self.observation_space = GraphSpace(len(VARIABLE_FEATURES) + self.problem.features.shape[1])

    def _drawn(self, rng: np.random.Generator) -> CutProblem:
        return self._source if isinstance(self._source, CutProblem) else self._source(rng)

    def _begin(self, problem: CutProblem) -> None:
        self.problem = problem
        self.action_space.size = len(problem.cut_variables)
        self.master = Master(problem.program, problem.cut_variables, self._settings)
        self._graph = problem.graph

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[GraphObservation, dict[str, Any]]:
        """Begin an episode; `seed` fixes this instance and those that follow.

        Args:
            options: ``{"problem": CutProblem}`` plays that instance this once, for evaluations on a given set.
        """
        super().reset(seed=seed)
        problem = (options or {}).get("problem")
        if problem is None:
            problem = self._drawn(self.np_random)
        if problem is self.problem:
            self.master.reset()  # which keeps its solver alive
        else:
            self._begin(problem)
        self._objective, self._best_objective = 0.0, -np.inf
        self.best_plan = self.master.plan
        self._playing = True
        observation = self._graph.observe(np.zeros(len(self.problem.program.c)), (), self._n_cuts)
        return observation, {}

    def step(self, action: Cut | ArrayLike) -> Result:
        """Add a cut and solve.

        Raises:
            InvalidSetting: if the action is not finite or has the wrong size; nothing is solved then.
            ResetNeeded: if the episode is over, or none has begun.
        """
        return solved_here(self.stepping(action))

    def stepping(self, action: Cut | ArrayLike) -> Stepping:
        """`step`, for masters that are solved elsewhere, many at once: see `Stepping`."""
        if not self._playing:
            raise ResetNeeded("The episode is over, or none has begun. Call reset() first.")
        self.master.add(action)
        return self._finish((yield self.master))

    @property
    def plan(self) -> Array:
        """The plan that stands, ``(n,)``; before the first cut a feasible one."""
        return self.master.plan

    @property
    def again(self) -> dict[str, Any]:
        """Options of `reset` with which another environment plays the instance of this episode."""
        return {"problem": self.problem}

    def _finish(self, solution: MasterSolution) -> Result:
        """Check the plan, and reward it."""
        self.solution = solution
        plan = solution.plan
        violation = self.problem.check(plan)
        self.feasibility.add(violation)
        before, self._objective = self._objective, float(self.problem.objective(plan))
        if not np.isfinite(self._objective):
            raise InvalidSetting(
                "objective", f"returned {self._objective} for the plan {plan}", "Return a finite number."
            )
        if self._objective > self._best_objective:
            self._best_objective, self.best_plan = self._objective, plan
        over = solution.cut >= self._n_cuts
        self._playing = not over
        final = self._objective if over else 0.0
        reward = self._objective - before if self._reward == "per_cut" else final
        info = {
            "objective": self._objective,
            "best_objective": self._best_objective,
            "violation": violation,
            "phi": solution.phi,
            "gap": solution.gap,
            "status": int(solution.status),
            "infeasible_plans": self.feasibility.infeasible,
        }
        return self._graph.observe(plan, self.master.cuts, self._n_cuts), reward, over, False, info

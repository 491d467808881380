"""The master problem: a model whose feasible set is known, re-solved as cuts on its hidden objective arrive."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_matrix

from envs.cutting_planes.cuts import Array, Cut, CutRows, Indices, cut_rows, with_cuts
from envs.errors import InvalidSetting
from solver_pool.backends import highs, scip, solve
from solver_pool.backends.rounding import usable_start, violation, whole
from solver_pool.options import SolveOptions
from solver_pool.problem import MixedIntegerProgram
from solver_pool.solution import Solution, Status

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MasterSettings:
    """How masters are solved.

    Attributes:
        solver: ``"scip"`` keeps one model alive and exchanges its cuts; ``"highs"`` takes each master anew;
            ``"auto"`` too, unless the master is a knapsack, which is solved within microseconds.
        gap: at which the solver may stop: relative to phi, or absolute in units of the scaled objective, where one
            is a typical weight.
        time_limit: [s] a solve. The best plan at the limit is feasible and therefore safe. 0 asks no solver: the plan
            that stands, such as a heuristic's (`Master.suggest`), is the answer, which then repeats exactly.
        normalise: scale each w to unit root mean square. The weight of phi beside a known objective ``c'x`` is
            then fixed; without `c` only differences of b and the directions of w matter.
        tolerance: on rows, bounds and integrality of a plan.
        seed: of the solver's own random decisions.

    Raises:
        InvalidSetting: on an unknown solver or numbers out of range.
    """

    solver: Literal["auto", "scip", "highs"] = "scip"
    gap: float = 1e-3
    time_limit: float = 5.0
    normalise: bool = True
    tolerance: float = 1e-6
    seed: int = 0

    def __post_init__(self) -> None:
        if self.solver not in ("auto", "scip", "highs"):
            raise InvalidSetting("solver", f"is {self.solver!r}", "Use 'auto', 'scip' or 'highs'.")
        if not 0 <= self.gap < np.inf:
            raise InvalidSetting("gap", f"is {self.gap}", "Give zero or more, such as 1e-3.")
        if not 0 <= self.time_limit < np.inf:
            raise InvalidSetting("time_limit", f"is {self.time_limit} s", "Give seconds, zero or more.")
        if not 1e-9 <= self.tolerance < 1:
            raise InvalidSetting("tolerance", f"is {self.tolerance}", "Choose a number in [1e-9, 1).")

    @property
    def options(self) -> SolveOptions:
        """The same for the solver pool."""
        return SolveOptions(
            self.solver,
            tolerance=self.tolerance,
            time_limit=self.time_limit or None,
            gap=self.gap,
            seed=self.seed,
        )


@dataclass(frozen=True, eq=False)
class MasterSolution:
    """A plan, always feasible.

    Attributes:
        plan: ``(n,)``, values of the model's variables, integers exact.
        phi: the surrogate value ``min_k b_k + w_k'x`` of the plan (w as normalised); 0 without cuts.
        gap: ``|bound - value| / max(1, |value|)`` of the scaled master; infinite without a bound.
        status: OPTIMAL within the gap, FEASIBLE at a limit; otherwise the solver had no plan to offer (TIME_LIMIT
            or ERROR), and `plan` is the previous one.
        seconds: of this solve, with the exchange of cuts where it was solved here.
        cut: how many cuts the master had.
    """

    plan: Array
    phi: float
    gap: float
    status: Status
    seconds: float
    cut: int


class Master:
    """``max c'x + phi  s.t.  x in F,  phi <= b_k + w_k'x``, with cuts added one at a time (equation 10').

    Args:
        program: the model, ``min c'x`` over F. A model that maximises ``d'x`` has ``c = -d``; `model.py` reads
            files and PySCIPOpt models so. Its `start`, if feasible, is the plan that stands before the first cut;
            otherwise the model is solved once without cuts.
        cut_variables: indices of the variables that carry the weights; None for all. Their bounds are finite.
        settings: see `MasterSettings`.

    Raises:
        InvalidSetting: if the model is infeasible or unbounded, yields no plan within the time limit, or a cut
            variable has no finite bounds. All of it before the first cut.
    """

    def __init__(
        self,
        program: MixedIntegerProgram,
        cut_variables: ArrayLike | None = None,
        settings: MasterSettings = MasterSettings(),
    ) -> None:
        self.program = program
        self.cut_variables = checked_cut_variables(program, cut_variables)
        self.settings = settings
        self.cuts: list[Cut] = []
        self._first_plan = _any_plan(program, settings)
        self._plan = self._first_plan
        self._kept = _KeptScip(program, self.cut_variables, settings) if settings.solver == "scip" else None

    @property
    def plan(self) -> Array:
        """The plan that stands, ``(n,)``: the last solve's, or the feasible one from before the first cut."""
        return self._plan.copy()

    def reset(self) -> None:
        """Remove every cut, and go back to the first plan."""
        self.cuts.clear()
        self._plan = self._first_plan

    def add(self, action: Cut | ArrayLike) -> Cut:
        """Add a cut, given as such or as the flat vector ``(w, b)``; returns it as it will be solved.

        Raises:
            InvalidSetting: on NaN, infinity or a wrong size; the master is then as before.
        """
        cut = Cut.of(action, len(self.cut_variables))
        if self.settings.normalise:
            cut = cut.normalised()
        self.cuts.append(cut)
        return cut

    def with_cuts(self) -> MixedIntegerProgram:
        """The master as it stands, for a solver elsewhere; `accept` takes the answer. Needs a cut."""
        return with_cuts(self.program, self.cut_variables, self.cuts, self._plan)

    def suggest(self, plan: Array) -> None:
        """Let a plan ``(n,)`` of a heuristic stand, if it is feasible and better by the cuts that were added."""
        better = self._value(plan) > self._value(self._plan)
        if better and violation(self.program, plan) <= self.settings.tolerance:
            self._plan = plan.copy()

    def _value(self, plan: Array) -> float:
        values = plan[self.cut_variables]
        return min((cut.value(values) for cut in self.cuts), default=0.0) - float(self.program.c @ plan)

    def solve(self) -> MasterSolution:
        """Solve with the cuts that were added, starting from the plan that stands.

        Raises:
            InvalidSetting: before the first cut.
        """
        if not self.cuts:
            raise InvalidSetting("cuts", "are none", "Add a cut first; `plan` is what stands without one.")
        started = time.perf_counter()
        settled = self.settled()
        if settled is not None:
            return settled
        if self._kept is None:
            answer = self.accept(solve(self.with_cuts(), self.settings.options))
            return replace(answer, seconds=time.perf_counter() - started)
        low, high = (side[self.cut_variables] for side in (self.program.low, self.program.high))
        rows = cut_rows(self.cuts, self.program.c, low, high)
        try:
            status, point, gap = self._kept.solve(rows, self._plan)
        except Exception as error:
            if not str(error).startswith("SCIP:"):
                raise
            # SCIP gave up, which PySCIPOpt tells by a plain Exception: the model is lost, the episode is not.
            logger.warning("%s; its model is made anew.", error)
            self._kept = _KeptScip(self.program, self.cut_variables, self.settings)
            status, point, gap = Status.ERROR, None, np.inf
        return self._take(status, point, gap, time.perf_counter() - started)

    def settled(self) -> MasterSolution | None:
        """The plan that stands as the answer, if no solver can do better, or none may be asked; else None.

        No plan is worth more than what the surrogate reaches anywhere within the bounds of the variables.
        """
        started = time.perf_counter()
        program, at = self.program, self.cut_variables
        rows = cut_rows(self.cuts, program.c, program.low[at], program.high[at])
        with np.errstate(invalid="ignore"):
            known = np.nan_to_num(np.minimum(program.c * program.low, program.c * program.high), nan=0.0)
        bound = rows.high - 1.0 - float(known.sum()) / rows.scale
        value = float(
            (rows.biases + rows.weights @ self._plan[at]).min() - program.c @ self._plan / rows.scale
        )
        gap = abs(bound - value) / max(1.0, abs(value))
        closed = gap <= self.settings.gap
        if not closed and self.settings.time_limit:
            return None
        phi = min(cut.value(self._plan[at]) for cut in self.cuts)
        status = Status.OPTIMAL if closed else Status.FEASIBLE
        return MasterSolution(self.plan, phi, gap, status, time.perf_counter() - started, len(self.cuts))

    def accept(self, solution: Solution) -> MasterSolution:
        """Take the answer to `with_cuts` from whoever solved it."""
        if solution.x is None:
            return self._take(solution.status, None, np.inf, solution.solve_time)
        gap = abs(solution.bound - solution.objective) / max(1.0, abs(solution.objective))
        return self._take(solution.status, solution.x[: len(self.program.c)], gap, solution.solve_time)

    def _take(self, status: Status, point: Array | None, gap: float, seconds: float) -> MasterSolution:
        """Make the point the plan that stands, if it is feasible for the program; it is never trusted."""
        message = f"the solver ended with {status.name}"
        if point is not None:
            point = whole(self.program, point, self.settings.options, highs.solve)
            excess = violation(self.program, point)
            if excess > self.settings.tolerance:
                message, point = f"the solver's plan violates a constraint by {excess:.1e}", None
        if point is None:
            logger.warning("Master with %d cuts: %s. The previous plan stands.", len(self.cuts), message)
            status, gap = (status if status > Status.FEASIBLE else Status.ERROR), np.inf
        else:
            self._plan = point
        values = self._plan[self.cut_variables]
        phi = min(cut.value(values) for cut in self.cuts)
        return MasterSolution(self.plan, phi, float(gap), status, seconds, len(self.cuts))


def checked_cut_variables(program: MixedIntegerProgram, cut_variables: ArrayLike | None) -> Indices:
    """The indices ``(d,)`` of the cut variables: distinct, in range, with finite bounds."""
    n = len(program.c)
    chosen = np.arange(n) if cut_variables is None else np.asarray(cut_variables)
    if chosen.ndim != 1 or not chosen.size or not np.issubdtype(chosen.dtype, np.integer):
        raise InvalidSetting(
            "cut_variables", f"are {cut_variables!r}", "Give a list of at least one variable's index."
        )
    chosen = chosen.astype(np.int64)
    if chosen.min() < 0 or chosen.max() >= n or len(np.unique(chosen)) < len(chosen):
        raise InvalidSetting(
            "cut_variables", f"are {chosen.tolist()}", f"Give distinct indices from 0 to {n - 1}."
        )
    unbounded = ~(np.isfinite(program.low[chosen]) & np.isfinite(program.high[chosen]))
    if unbounded.any():
        j = int(chosen[np.argmax(unbounded)])
        raise InvalidSetting(
            "cut_variables",
            f"variable {j} has the bounds [{program.low[j]}, {program.high[j]}]",
            "A cut may weigh it either way and the master would be unbounded: bound it on both sides, or leave"
            " it out of the cut variables.",
        )
    return chosen


def _any_plan(program: MixedIntegerProgram, settings: MasterSettings) -> Array:
    """A feasible plan without cuts, and the proof that the model is neither infeasible nor unbounded."""
    start = usable_start(program, settings.options)
    if start is not None and not program.c.any():
        return np.asarray(start)
    backend = scip if settings.solver == "scip" else highs
    answer = backend.solve(program, settings.options)
    if answer.x is not None:
        return np.asarray(answer.x)
    if answer.status == Status.INFEASIBLE:
        raise InvalidSetting(
            "model", "is infeasible: no plan satisfies its constraints", "Relax one; no cut can repair it."
        )
    if answer.status == Status.UNBOUNDED:
        raise InvalidSetting(
            "model", "is unbounded in its own objective", "Bound the variables that the objective rewards."
        )
    raise InvalidSetting(
        "time_limit",
        f"of {settings.time_limit} s ended without a plan ({answer.status.name}: {answer.message})",
        "Raise it, or give the program a feasible start.",
    )


class _KeptScip:
    """A SCIP model of the program and phi that stays alive while cuts come and go."""

    def __init__(
        self, program: MixedIntegerProgram, cut_variables: Indices, settings: MasterSettings
    ) -> None:
        import pyscipopt

        self._quicksum = pyscipopt.quicksum
        model = pyscipopt.Model()
        model.hideOutput()
        model.setParams(
            {
                "limits/gap": settings.gap,
                "limits/absgap": settings.gap,
                "limits/time": settings.time_limit,
                "randomization/randomseedshift": settings.seed,
                "numerics/feastol": max(1e-9, 0.1 * settings.tolerance),
                "parallel/maxnthreads": 1,
                "lp/threads": 1,
                "misc/catchctrlc": False,
            }
        )
        side = [
            [float(v) if np.isfinite(v) else None for v in bound] for bound in (program.low, program.high)
        ]
        x = [
            model.addVar(lb=low, ub=high, vtype="CI"[int(integer)])
            for low, high, integer in zip(*side, program.integer, strict=True)
        ]
        A = csr_matrix(program.A)
        for r in range(A.shape[0]):
            low, high = program.row_low[r], program.row_high[r]
            entries = slice(A.indptr[r], A.indptr[r + 1])
            terms = zip(A.data[entries], A.indices[entries], strict=True)
            row = pyscipopt.quicksum(float(value) * x[j] for value, j in terms)
            # A row without variables holds, or `_any_plan` had no plan.
            if entries.start == entries.stop:
                continue
            if low == high:
                model.addCons(row == float(low))
                continue
            if np.isfinite(low):
                model.addCons(row >= float(low))
            if np.isfinite(high):
                model.addCons(row <= float(high))
        self._c = program.c
        self._cut_variables = cut_variables
        self._phi = model.addVar(lb=None, ub=None)
        self._x, self._model = x, model
        self._cuts: list[Any] = []

    def solve(self, rows: CutRows, start: Array) -> tuple[Status, Array | None, float]:
        """Status, best plan or None, and relative gap, with these cuts in place of the previous ones."""
        model, x, phi = self._model, self._x, self._phi
        model.freeTransform()
        for cut in self._cuts:
            model.delCons(cut)
        c = self._c / rows.scale
        objective = self._quicksum(float(c[j]) * x[j] for j in np.flatnonzero(c)) - phi
        model.setObjective(objective, "minimize")
        model.chgVarLb(phi, rows.low)
        model.chgVarUb(phi, rows.high)
        chosen = [x[j] for j in self._cut_variables]
        self._cuts = [
            model.addCons(
                phi - self._quicksum(float(v) * y for v, y in zip(weights, chosen, strict=True) if v)
                <= float(bias)
            )
            for weights, bias in zip(rows.weights, rows.biases, strict=True)
        ]
        first = model.createSol()
        for variable, value in zip(x, start, strict=True):
            if value:
                model.setSolVal(first, variable, float(value))
        reached = (rows.biases + rows.weights @ start[self._cut_variables]).min()
        model.setSolVal(first, phi, float(reached))
        model.addSol(first)
        model.optimize()
        status = scip.STATUS.get(model.getStatus(), Status.ERROR)
        if not model.getNSols():
            return status, None, np.inf
        best = model.getBestSol()
        point = np.array([best[v] for v in x], dtype=np.float64)
        value, bound = float(model.getObjVal()), float(model.getDualbound())
        gap = abs(value - bound) / max(1.0, abs(value)) if abs(bound) < scip.INFINITE else np.inf
        return (Status.OPTIMAL if status == Status.OPTIMAL else Status.FEASIBLE), point, gap

"""Linear, mixed-integer and nonlinear mixed-integer programs by SCIP, through PySCIPOpt directly, one thread."""

from __future__ import annotations

import time
from dataclasses import replace
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from solver_pool.backends import ipopt
from solver_pool.backends.composed_program import Atom, ComposedProgram, Form
from solver_pool.backends.rounding import usable_start, violation, whole
from solver_pool.errors import BackendUnavailable, UnsupportedProblem
from solver_pool.options import SolveOptions
from solver_pool.problem import Array, LinearProgram, MixedIntegerProgram, NonlinearProgram
from solver_pool.solution import Solution, Status, proven_by_bound

NAME = "scip"

STATUS: dict[str, Status] = {
    "optimal": Status.OPTIMAL,
    "gaplimit": Status.OPTIMAL,  # the gap that was asked for
    "infeasible": Status.INFEASIBLE,
    "unbounded": Status.UNBOUNDED,
    "timelimit": Status.TIME_LIMIT,
}
"""SCIP's statuses; every other one (limits that we never set, interrupts) is an ERROR. `UNDECIDED` is settled by
a second solve."""

UNDECIDED = "inforunbd"

INFINITE = 1e20
"""What SCIP takes for no bound."""

GAP_MARGIN = 0.9
"""Of the gap asked for, because it is recomputed from the point after its integers were rounded."""

MINIMUM_TOLERANCE = 1e-9
"""SCIP compares numbers to this; feasibility cannot be finer."""

NONLINEAR_TOLERANCE = 1e-7
"""Feasibility of nonlinear programs inside SCIP, which asks a thousandth of it of its LPs; finer, they complain."""


def _library() -> ModuleType:
    try:
        return import_module("pyscipopt")
    except ImportError as error:
        raise BackendUnavailable(
            "pyscipopt is missing. Install it with 'pip install pyscipopt' or "
            "'conda install -c conda-forge pyscipopt'."
        ) from error


def solve(
    problem: LinearProgram | MixedIntegerProgram | NonlinearProgram, options: SolveOptions = SolveOptions()
) -> Solution:
    """Solve ``min_x c'x  s.t.  row_low <= A x <= row_high,  low <= x <= high``, or a Pyomo model, globally.

    Integers are exact in the answer, and its other variables are moved to fit them, by an LP or by Ipopt, where
    SCIP's own point is off by more than ``options.tolerance``. The answer is OPTIMAL only where SCIP's bound is
    within the relative ``options.gap`` of the objective recomputed from the point (an LP: within
    ``options.tolerance``). ``options.time_limit`` [s] limits the solve; with a feasible point at the limit the
    answer is FEASIBLE, with its bound. ``options.seed`` shifts SCIP's own random seeds.

    Raises:
        UnsupportedProblem: for functions that SCIP does not know, such as atan.
        BackendUnavailable: without pyscipopt.

    Source: Bolusani et al., The SCIP Optimization Suite 9.0, 2024.
    """
    if isinstance(problem, NonlinearProgram):
        return _solve_nonlinear(problem, options)
    return _solve_linear(problem, options)


def _settings(options: SolveOptions, gap: float, finest: float) -> dict[str, Any]:
    feasibility = max(finest, 0.1 * options.tolerance)
    return {
        "numerics/feastol": feasibility,
        "numerics/dualfeastol": feasibility,
        "limits/gap": GAP_MARGIN * gap,
        "limits/absgap": GAP_MARGIN * gap,
        "limits/time": INFINITE if options.time_limit is None else options.time_limit,
        "randomization/randomseedshift": options.seed,
        "parallel/maxnthreads": 1,
        "lp/threads": 1,
        "misc/catchctrlc": False,
        # SCIP 10.0 moves variables of a single constraint to their bounds although that cuts optima off: it
        # calls 72.25 the least value of (p q - 20.5)^2 over the integers 1 to 30 and 1 to 9.
        "constraints/nonlinear/checkvarlocks": "d",
    }


def _model(pyscipopt: ModuleType, options: SolveOptions, gap: float, finest: float) -> Any:
    model = pyscipopt.Model()
    model.hideOutput()
    model.setParams(_settings(options, gap, finest))
    return model


def _optimise(model: Any) -> tuple[str, Array | None, float]:
    """Run SCIP: its status, the best point in the order of the variables made, and its bound."""
    model.optimize()
    variables = model.data
    x = None
    if model.getNSols():
        best = model.getBestSol()
        x = np.array([best[v] for v in variables], dtype=np.float64)
    bound = float(model.getDualbound())
    return model.getStatus(), x, bound if abs(bound) < INFINITE else float(np.copysign(np.inf, bound))


def _side(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _solve_linear(problem: LinearProgram | MixedIntegerProgram, options: SolveOptions) -> Solution:
    pyscipopt = _library()

    # Unpack. An LP is a MILP without integers, whose bound has to be as good as its point.
    mixed, gap = problem, options.gap
    if isinstance(mixed, LinearProgram):
        none = np.zeros(problem.c.shape, dtype=np.bool_)
        mixed, gap = MixedIntegerProgram(**vars(problem), integer=none), 0.0
    A = csr_matrix(mixed.A)

    # Build.
    model = _model(pyscipopt, options, gap, MINIMUM_TOLERANCE)
    variables = [
        model.addVar(
            lb=_side(mixed.low[j]), ub=_side(mixed.high[j]), obj=float(mixed.c[j]), vtype="CI"[int(mixed.integer[j])]
        )
        for j in range(A.shape[1])
    ]  # fmt: skip
    model.data = variables
    empty_row_residual = 0.0
    for r in range(A.shape[0]):
        low, high = mixed.row_low[r], mixed.row_high[r]
        entries = slice(A.indptr[r], A.indptr[r + 1])
        if entries.start == entries.stop:
            empty_row_residual = max(empty_row_residual, low, -high)
        elif np.isfinite(low) or np.isfinite(high):
            terms = zip(A.data[entries], A.indices[entries], strict=True)
            row = pyscipopt.quicksum(float(value) * variables[j] for value, j in terms)
            _add_row(model, row, 0.0, low, high)
    if empty_row_residual > options.tolerance:
        reason = f"a row without coefficients is violated by {empty_row_residual:.1e}"
        return Solution.failed(Status.INFEASIBLE, NAME, reason)
    start = usable_start(mixed, options)
    if start is not None:
        first = model.createSol()
        for variable, value in zip(variables, start, strict=True):
            model.setSolVal(first, variable, float(value))
        model.addSol(first)

    # Solve.
    started = time.perf_counter()
    native, x, bound = _optimise(model)

    # Fill.
    status = STATUS.get(native, Status.ERROR)
    if native == UNDECIDED:
        status = Status.INFEASIBLE  # what has no objective is not unbounded
        if problem.c.any():
            status = _settled(solve(replace(problem, c=np.zeros_like(problem.c)), options))
    if x is not None:
        x = whole(mixed, x, options, _solve_linear)
    return proven_by_bound(
        status,
        x,
        np.nan if x is None else float(problem.c @ x),
        np.inf if x is None else violation(mixed, x),
        bound,
        tolerance=options.tolerance,
        gap=gap,
        solve_time=time.perf_counter() - started,
        backend=NAME,
        iterations=int(model.getNTotalNodes()),
        message=f"SCIP ended with {native!r}",
    )


def _settled(without_objective: Solution) -> Status:
    """The status of a program that is infeasible or unbounded, from its solution without an objective."""
    return Status.UNBOUNDED if without_objective.status.usable else without_objective.status


def _add_row(model: Any, body: Any, constant: float, low: float, high: float) -> None:
    """Add ``low <= body + constant <= high``."""
    if low == high:
        model.addCons(body == float(low - constant))
    else:
        if np.isfinite(low):
            model.addCons(body >= float(low - constant))
        if np.isfinite(high):
            model.addCons(body <= float(high - constant))


# --- Nonlinear programs -------------------------------------------------------------------------------------


def _solve_nonlinear(problem: NonlinearProgram, options: SolveOptions, *, search: bool = True) -> Solution:
    """Solve a Pyomo model; without `search` any feasible point will do, and the objective is left out."""
    pyscipopt = _library()

    # Unpack.
    free = problem.free_variables()
    program = ComposedProgram(problem.model)
    integer = np.array([not v.is_continuous() for v in program.variables], dtype=np.bool_)
    if program.constant_violation > options.tolerance:
        reason = f"a constraint without free variables is violated by {program.constant_violation:.1e}"
        return Solution.failed(Status.INFEASIBLE, NAME, reason)

    # Build. SCIP's objective is linear: a nonlinear one becomes a variable that bounds it.
    model = _model(pyscipopt, options, options.gap, NONLINEAR_TOLERANCE)
    model.data = variables = [
        model.addVar(lb=_side(low), ub=_side(high), vtype="CI"[int(discrete)])
        for low, high, discrete in zip(program.low, program.high, integer, strict=True)
    ]
    writer = _Writer(pyscipopt, program, variables)
    for form, low, high in zip(program.row_forms, program.row_low, program.row_high, strict=True):
        _add_row(model, writer.linear(form), form[1], low, high)
    form, sense = program.objective_form, "minimize" if program.sign > 0 else "maximize"
    if not search:
        model.setObjective(0.0)
    elif any(atom >= 0 for atom in form[0]):
        level = model.addVar(lb=None, ub=None)
        model.addCons(program.sign * (writer.linear(form) - level) <= 0.0)
        model.setObjective(level, sense)
        model.addObjoffset(form[1])
    elif form[0]:
        model.setObjective(writer.linear(form), sense)
        model.addObjoffset(form[1])

    # Solve.
    started = time.perf_counter()
    native, x, bound = _optimise(model)

    # Fill.
    status = STATUS.get(native, Status.ERROR)
    if native == UNDECIDED:
        status = Status.INFEASIBLE
        if search:
            status = _settled(_solve_nonlinear(problem, options, search=False))
    residual = np.inf
    if x is not None:
        x, residual = _exact(program, x, integer, options)
    answer = proven_by_bound(
        status,
        x,
        np.nan if x is None else program.value(x),
        residual,
        bound,
        maximise=program.sign < 0,
        tolerance=options.tolerance,
        gap=options.gap,
        solve_time=time.perf_counter() - started,
        backend=NAME,
        iterations=int(model.getNTotalNodes()),
        message=f"SCIP ended with {native!r}",
    )
    return answer if answer.x is None else replace(answer, x=ipopt.spread(free, program, answer.x))


def _exact(program: ComposedProgram, x: Array, integer: Any, options: SolveOptions) -> tuple[Array, float]:
    """SCIP's point with exact integers, and its primal residual; Ipopt moves the rest if it has to.

    SCIP measures nonlinear constraints relative to their size, so that its points may be off by more than the
    tolerance.
    """

    def residual(at: Array) -> float:
        nothing = np.zeros(len(program.row_forms)), np.zeros(at.shape)
        return float(program.certify(at, *nothing).primal_residual)

    x = np.clip(np.where(integer, np.round(x), x), program.low, program.high)
    worst = residual(x)
    if worst <= options.tolerance:
        return x, worst
    low, high = np.where(integer, x, program.low), np.where(integer, x, program.high)
    try:
        moved = ipopt.solve_composed(program, x, low, high, options).x
    except BackendUnavailable:
        return x, worst
    moved_worst = residual(moved)
    return (moved, moved_worst) if moved_worst < worst else (x, worst)


class _Writer:
    """Writes the forms and atoms of a composed program as PySCIPOpt expressions."""

    def __init__(self, pyscipopt: ModuleType, program: ComposedProgram, variables: list[Any]) -> None:
        self.scip, self.program, self.variables = pyscipopt, program, variables
        self.written: dict[int, Any] = {}

    def linear(self, form: Form) -> Any:
        """The form without its constant."""
        terms = []
        for atom, value in form[0].items():
            terms.append(value * (self.variables[-1 - atom] if atom < 0 else self.atom(atom)))
        return self.scip.quicksum(terms)

    def atom(self, k: int) -> Any:
        if k not in self.written:
            self.written[k] = self._write(self.program.atoms[k])
        return self.written[k]

    def _write(self, atom: Atom) -> Any:
        # Generic expressions: PySCIPOpt would multiply polynomials out, and lose their structure.
        generic = import_module("pyscipopt.scip").buildGenExprObj
        u, *others = (generic(self.linear(form) + form[1]) for form in atom.arguments)
        name, scip = atom.name, self.scip
        if name == "product":
            return u * others[0]
        if name == "power":
            return 1.0 / u if atom.exponent == -1.0 else u**atom.exponent
        if name in ("exp", "log", "sin", "cos"):
            return getattr(scip, name)(u)
        if name == "abs":
            return abs(u)
        if name == "log10":
            return scip.log(u) * float(1.0 / np.log(10.0))
        if name == "tan":
            return scip.sin(u) / scip.cos(u)
        if name == "tanh":
            return 1.0 - 2.0 / (scip.exp(2.0 * u) + 1.0)
        if name in ("sinh", "cosh"):
            mirrored = scip.exp(-1.0 * u)
            return 0.5 * (scip.exp(u) + (mirrored if name == "cosh" else -1.0 * mirrored))
        raise UnsupportedProblem(
            f"model: SCIP does not know {name}(). Use backend='ipopt', which solves it locally."
        )

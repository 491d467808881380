"""Smooth critics and nonlinear programs by Ipopt through cyipopt, with exact NumPy derivatives.

For critics this is a reference for the fast engine; for Pyomo models it is the local solver.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from solver_pool.backends.composed_program import ComposedProgram
from solver_pool.errors import BackendUnavailable, UnsupportedProblem
from solver_pool.options import SolveOptions
from solver_pool.problem import SMOOTH_ACTIVATIONS, Array, CriticBatch, NonlinearProgram, activate
from solver_pool.solution import (
    BatchSolution,
    Certificate,
    Solution,
    Status,
    primal_residuals,
    verified_batch,
)

NAME = "ipopt"

STATUS: dict[int, Status] = {
    0: Status.OPTIMAL,  # Solve_Succeeded
    1: Status.OPTIMAL,  # Solved_To_Acceptable_Level; the certificate decides
    6: Status.OPTIMAL,  # Feasible_Point_Found
    2: Status.INFEASIBLE,  # Infeasible_Problem_Detected: a proof only because the constraints are linear
    4: Status.UNBOUNDED,  # Diverging_Iterates
    5: Status.TIME_LIMIT,  # User_Requested_Stop: our callback, at the deadline
    -4: Status.TIME_LIMIT,  # Maximum_CpuTime_Exceeded
    -5: Status.TIME_LIMIT,  # Maximum_WallTime_Exceeded
}
"""Ipopt's `ApplicationReturnStatus`; every other one is an ERROR, unless its point verifies."""

INFINITE = 2e19
"""Beyond Ipopt's `nlp_upper_bound_inf`: no bound."""


def _library() -> ModuleType:
    try:
        return import_module("cyipopt")
    except ImportError as error:
        raise BackendUnavailable(
            "cyipopt is missing. Install it with 'conda install -c conda-forge cyipopt', or, on Debian, "
            "'apt-get install coinor-libipopt-dev libblas-dev liblapack-dev pkg-config g++', on macOS "
            "'brew install ipopt pkg-config', followed by 'pip install cyipopt'."
        ) from error


def start_points(problem: CriticBatch, options: SolveOptions) -> Array:
    """The points to start from, ``(B, n_starts, n_a)``, inside the box.

    The batch's own `starts` come first (the centre of the box where it has none); the others are drawn
    uniformly from the box with ``options.seed``.
    """
    size, n = len(problem), problem.n_actions
    low, high = np.broadcast_to(problem.low, (size, n)), np.broadcast_to(problem.high, (size, n))
    own = 0.5 * (low + high) if problem.starts is None else problem.starts
    own = (own if own.ndim == 3 else own[:, None])[:, : options.n_starts]
    rng = np.random.default_rng(options.seed)
    drawn = rng.uniform(size=(size, options.n_starts - own.shape[1], n))
    points = np.concatenate([own, low[:, None] + drawn * (high - low)[:, None]], axis=1)
    return np.asarray(np.clip(points, low[:, None], high[:, None]))


def _curvature(activation: str, z: Array) -> Array:
    """The second derivative of the activation at `z`, elementwise (ELU: 0 at the kink)."""
    if activation == "tanh":
        t = np.tanh(z)
        return -2.0 * t * (1.0 - t * t)
    if activation == "elu":
        return np.where(z < 0, np.exp(np.minimum(z, 0.0)), 0.0)
    t = np.tanh(0.5 * z)
    if activation == "softplus":
        return 0.25 * (1.0 - t * t)
    return -0.25 * t * (1.0 - t * t)  # sigmoid


class FoldedCritic:
    """``Q(s, .)`` at one state, with the state folded into the first layer: ``c_1 = W_1s s + b_1``.

    With ``z_l`` the pre-activations, ``J_l = dz_l/da`` and ``g_l = dQ/df(z_l)``::

        dQ/da   = W_1a' (f'(z_1) * g_1)
        d2Q/da2 = sum_l J_l' diag(g_l * f''(z_l)) J_l

    Args:
        problem: the batch; its critic needs a smooth activation.
        index: which state.
    """

    def __init__(self, problem: CriticBatch, index: int) -> None:
        critic, state = problem.critic, problem.states[index]
        n_states = state.shape[0]
        self.activation = critic.activation
        self.weights = (critic.weights[0][:, n_states:], *critic.weights[1:])
        self.biases = (critic.weights[0][:, :n_states] @ state + critic.biases[0], *critic.biases[1:])
        self._at = b""
        self._value = 0.0
        self._z: list[Array] = []
        self._slopes: list[Array] = []
        self._g: list[Array] = []
        self._gradient: Array = np.zeros(problem.n_actions)

    def _evaluate(self, a: Array) -> None:
        """Value and gradient; Ipopt asks for several quantities at one point."""
        key = a.tobytes()
        if key == self._at:
            return
        x, self._z, self._slopes = a, [], []
        for w, b in zip(self.weights[:-1], self.biases[:-1], strict=True):
            z = w @ x + b
            x, slope = activate(self.activation, z)
            self._z.append(z)
            self._slopes.append(slope)
        self._value = float(self.weights[-1][0] @ x + self.biases[-1][0])
        g, self._g = self.weights[-1][0], []
        for w, slope in zip(reversed(self.weights[:-1]), reversed(self._slopes), strict=True):
            self._g.append(g)
            g = (g * slope) @ w
        self._g.reverse()
        self._gradient, self._at = g, key

    def value(self, a: Array) -> float:
        """``Q(s, a)`` at ``a (n_a,)``."""
        self._evaluate(a)
        return self._value

    def gradient(self, a: Array) -> Array:
        """``dQ/da (n_a,)``."""
        self._evaluate(a)
        return self._gradient

    def hessian(self, a: Array) -> Array:
        """``d2Q/da2 (n_a, n_a)``."""
        self._evaluate(a)
        total = np.zeros((a.shape[0], a.shape[0]))
        inner: Array | None = None  # d f(z_{l-1}) / da
        for w, z, slope, g in zip(self.weights[:-1], self._z, self._slopes, self._g, strict=True):
            jacobian = w if inner is None else w @ inner
            total += jacobian.T @ ((g * _curvature(self.activation, z))[:, None] * jacobian)
            inner = slope[:, None] * jacobian
        return total


class _Program:
    """``min_a -Q(s, a)  s.t.  G a <= h`` as cyipopt's callbacks."""

    def __init__(self, critic: FoldedCritic, G: Array, deadline: float) -> None:
        self.critic, self.G, self.deadline = critic, G, deadline
        self.rows, self.columns = np.tril_indices(G.shape[1])
        self.iterations = 0

    def objective(self, a: Array) -> float:
        return -self.critic.value(a)

    def gradient(self, a: Array) -> Array:
        return -self.critic.gradient(a)

    def constraints(self, a: Array) -> Array:
        return self.G @ a

    def jacobian(self, a: Array) -> Array:
        return self.G.ravel()

    def hessianstructure(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        return self.rows, self.columns

    def hessian(self, a: Array, multipliers: Array, factor: float) -> Array:
        return -factor * self.critic.hessian(a)[self.rows, self.columns]

    def intermediate(self, mode: int, iteration: int, *progress: Any) -> bool:
        self.iterations = iteration
        return time.perf_counter() < self.deadline


def settings(tolerance: float) -> dict[str, str | float | int]:
    """Ipopt's options for residuals of the certificate within `tolerance`, quietly and inside the box."""
    return {
        "print_level": 0,
        "sb": "yes",
        "tol": 0.1 * tolerance,
        "dual_inf_tol": 0.1 * tolerance,
        "constr_viol_tol": 0.1 * tolerance,
        "compl_inf_tol": 0.1 * tolerance,
        # The default widens every bound by 1e-8 of its size, and an "acceptable" point is not one for us.
        "bound_relax_factor": 0.0,
        "acceptable_iter": 0,
    }


@overload
def solve(problem: CriticBatch, options: SolveOptions = ...) -> BatchSolution: ...
@overload
def solve(problem: NonlinearProgram, options: SolveOptions = ...) -> Solution: ...
def solve(
    problem: CriticBatch | NonlinearProgram, options: SolveOptions = SolveOptions()
) -> BatchSolution | Solution:
    """Solve ``max_a Q(s_i, a)  s.t.  G_i a <= h_i,  low_i <= a <= high_i``, or a Pyomo model, locally.

    Of a batch every one of ``options.n_starts`` points is polished by Ipopt, state by state, and the best
    verified answer wins. A Pyomo model is solved from the values that its variables have (zero without one).
    OPTIMAL means that the first-order conditions recomputed from the problem hold to ``options.tolerance``; no
    bound is known. ``options.time_limit`` [s] is for each program, all its starts together, and looked at in
    every iteration.

    Raises:
        UnsupportedProblem: for a ReLU critic, which has no second derivative, and for integer variables.
        BackendUnavailable: without cyipopt.

    Source: seed 000, Algorithm 1 line 11; Waechter and Biegler, On the implementation of an interior-point
    filter line-search algorithm, Mathematical Programming 106, 2006.
    """
    if isinstance(problem, NonlinearProgram):
        return _solve_model(problem, options)
    return _solve_batch(problem, options)


def _solve_batch(problem: CriticBatch, options: SolveOptions) -> BatchSolution:
    if problem.critic.activation not in SMOOTH_ACTIVATIONS:
        raise UnsupportedProblem(
            f"activation: Ipopt needs a smooth critic, not {problem.critic.activation!r}. "
            "Use backend='branch_and_bound', or backend='milp', which takes more actions."
        )
    cyipopt = _library()

    # Unpack.
    size, n, m = len(problem), problem.n_actions, problem.n_rows
    G = np.broadcast_to(problem.G, (size, m, n))
    low, high = np.broadcast_to(problem.low, (size, n)), np.broadcast_to(problem.high, (size, n))
    h = np.minimum(problem.h, INFINITE)
    points = start_points(problem, options)
    limit = np.inf if options.time_limit is None else options.time_limit
    used = np.zeros(size)

    best: BatchSolution | None = None
    for k in range(points.shape[1]):
        x = np.full((size, n), np.nan)
        row_duals, bound_duals = np.zeros((size, m)), np.zeros((size, n))
        status = np.full(size, Status.TIME_LIMIT, dtype=np.int8)
        iterations = np.zeros(size, dtype=np.int64)
        messages = ["the time limit came first"] * size
        started = time.perf_counter()
        for i in range(size):
            if used[i] >= limit:
                continue

            # Build.
            begun = time.perf_counter()
            critic = FoldedCritic(problem, i)
            program = _Program(critic, G[i], begun + limit - used[i])
            native = cyipopt.Problem(
                n=n, m=m, problem_obj=program, lb=low[i], ub=high[i], cl=np.full(m, -INFINITE), cu=h[i]
            )
            for name, value in settings(options.tolerance).items():
                native.add_option(name, value)
            native.add_option("jac_d_constant", "yes")

            # Solve.
            answer, info = native.solve(points[i, k])
            used[i] += time.perf_counter() - begun

            # Fill.
            status[i] = STATUS.get(info["status"], Status.ERROR)
            iterations[i] = program.iterations
            messages[i] = f"Ipopt ended with {info['status']}: {_text(info['status_msg'])}"
            if np.isfinite(answer).all():
                x[i] = np.clip(answer, low[i], high[i])
                row_duals[i] = np.where(np.isfinite(problem.h[i]), np.maximum(info["mult_g"], 0.0), 0.0)
                bound_duals[i] = info["mult_x_U"] - info["mult_x_L"]
                # Ipopt removes a fixed variable; its multiplier is whatever balances the gradient.
                fixed = low[i] == high[i]
                bound_duals[i, fixed] = (critic.gradient(x[i]) - row_duals[i] @ G[i])[fixed]
        # A point that satisfies the constraints is worth having whatever the code says, and the
        # certificate tells whether it is optimal.
        feasible = primal_residuals(problem, x) <= options.tolerance
        claims = np.where(feasible, Status.OPTIMAL, status)
        result = verified_batch(
            problem,
            x,
            row_duals,
            bound_duals,
            np.full(size, np.inf),
            claims.astype(np.int8),
            tolerance=options.tolerance,
            iterations=iterations,
            solve_time=time.perf_counter() - started,
            backend=NAME,
            message=next((messages[i] for i in np.flatnonzero(~feasible)), ""),
        )
        best = result if best is None else better(best, result)
    assert best is not None
    return best


@dataclass(frozen=True)
class LocalAnswer:
    """Where Ipopt ended on a `ComposedProgram`.

    Attributes:
        x: ``(n,)``, inside its bounds.
        certificate: recomputed there, with Ipopt's multipliers.
        status: what Ipopt's code means; message: what it is.
    """

    x: Array
    certificate: Certificate
    status: Status
    message: str


def solve_composed(
    program: ComposedProgram, start: Array, low: Array, high: Array, options: SolveOptions
) -> LocalAnswer:
    """Minimise a composed program from ``start (n,)`` inside ``low, high (n,)``, which may fix variables."""
    cyipopt = _library()
    program.deadline = time.perf_counter() + (np.inf if options.time_limit is None else options.time_limit)
    native = cyipopt.Problem(
        n=len(program.variables),
        m=len(program.row_forms),
        problem_obj=program,
        lb=low,
        ub=high,
        cl=program.row_low,
        cu=program.row_high,
    )
    for name, value in settings(options.tolerance).items():
        native.add_option(name, value)
    answer, info = native.solve(np.clip(start, low, high))
    status = STATUS.get(info["status"], Status.ERROR)
    message = f"Ipopt ended with {info['status']}: {_text(info['status_msg'])}"
    if not np.isfinite(answer).all():
        nothing = Certificate(np.inf, np.inf, np.inf, np.inf)
        return LocalAnswer(answer, nothing, status, message)
    x = np.clip(answer, low, high)
    # A multiplier's size on a side that does not exist is Ipopt's rounding, where it belongs to no side at all.
    row_duals = np.asarray(info["mult_g"], dtype=np.float64)
    missing = ~np.isfinite(np.where(row_duals > 0, program.row_high, program.row_low))
    row_duals = np.where(missing, 0.0, row_duals)
    bound_duals = info["mult_x_U"] - info["mult_x_L"]
    # Ipopt removes a fixed variable; its multiplier is whatever balances the gradient.
    fixed = low == high
    jacobian = np.zeros((len(program.row_forms), x.shape[0]))
    jacobian[program.jacobianstructure()] = program.jacobian(x)
    bound_duals = np.where(fixed, -(program.gradient(x) + jacobian.T @ row_duals), bound_duals)
    return LocalAnswer(x, program.certify(x, row_duals, bound_duals), status, message)


def _solve_model(problem: NonlinearProgram, options: SolveOptions) -> Solution:
    # Unpack.
    free = problem.free_variables()
    whole = [v for v in free if not v.is_continuous()]
    if whole:
        raise UnsupportedProblem(
            f"model: {whole[0].name} is an integer variable, which Ipopt does not take. Use backend='scip'."
        )

    # Build.
    _library()
    program = ComposedProgram(problem.model)
    if program.constant_violation > options.tolerance:
        reason = f"a constraint without free variables is violated by {program.constant_violation:.1e}"
        return Solution.failed(Status.INFEASIBLE, NAME, reason)
    start = np.array([0.0 if v.value is None else v.value for v in program.variables], dtype=np.float64)

    # Solve.
    started = time.perf_counter()
    if program.variables:
        local = solve_composed(program, start, program.low, program.high, options)
    else:
        nothing = np.zeros(0)
        local = LocalAnswer(start, program.certify(start, nothing, nothing), Status.OPTIMAL, "")
    seconds = time.perf_counter() - started

    # Fill. A point that satisfies the constraints is worth having whatever the code says.
    certificate, status, message = local.certificate, local.status, local.message
    diverged = status == Status.UNBOUNDED
    if diverged or not float(certificate.primal_residual) <= options.tolerance:
        if status == Status.INFEASIBLE and not program.linear:
            status = Status.ERROR
            message += " The constraints are nonlinear: another start, or backend='scip', may find a point"
        elif status.usable:
            status = Status.ERROR
            message += f"; its point violates a constraint by {certificate.primal_residual:.1e}"
        return Solution.failed(status, NAME, message, seconds)
    proven = float(certificate.kkt_residual) <= options.tolerance
    return Solution(
        status=Status.OPTIMAL if proven else Status.FEASIBLE,
        x=spread(free, program, local.x),
        objective=program.value(local.x),
        bound=-program.sign * np.inf,
        certificate=certificate,
        solve_time=seconds,
        backend=NAME,
        iterations=program.iterations,
        message="" if proven else message,
    )


def spread(free: list[Any], program: ComposedProgram, x: Array) -> Array:
    """The point ``x`` of a composed program in the order of `free`; what does not occur keeps its own value."""
    at = {id(v): k for k, v in enumerate(program.variables)}
    values = [x[at[id(v)]] if id(v) in at else idle_value(v) for v in free]
    return np.array(values, dtype=np.float64)


def idle_value(variable: Any) -> float:
    """A value within the bounds of a Pyomo variable that occurs nowhere: the nearest to its own, or to zero."""
    low = -np.inf if variable.lb is None else float(variable.lb)
    high = np.inf if variable.ub is None else float(variable.ub)
    if not variable.is_continuous():
        low, high = np.ceil(low), np.floor(high)
        return float(np.clip(np.round(0.0 if variable.value is None else variable.value), low, high))
    return float(np.clip(0.0 if variable.value is None else variable.value, low, high))


def better(one: BatchSolution, other: BatchSolution) -> BatchSolution:
    """State by state the better of two answers to one batch: by status first, by objective next."""
    wins = (other.status < one.status) | (
        (other.status == one.status) & (np.nan_to_num(other.objective, nan=-np.inf) > one.objective)
    )

    def pick(name: str) -> Any:
        mine, theirs = np.asarray(getattr(one, name)), np.asarray(getattr(other, name))
        return np.where(wins.reshape(-1, *[1] * (mine.ndim - 1)), theirs, mine)

    def residual(name: str) -> Array:
        mine, theirs = getattr(one.certificate, name), getattr(other.certificate, name)
        return np.asarray(np.where(wins, theirs, mine))

    status = pick("status")
    return BatchSolution(
        status=status,
        x=pick("x"),
        objective=pick("objective"),
        bound=pick("bound"),
        row_duals=pick("row_duals"),
        bound_duals=pick("bound_duals"),
        certificate=type(one.certificate)(
            residual("primal_residual"),
            residual("stationarity"),
            residual("complementarity"),
            residual("gap"),
        ),
        iterations=one.iterations + other.iterations,
        solve_time=one.solve_time + other.solve_time,
        backend=one.backend,
        message=(one.message or other.message) if (status > Status.FEASIBLE).any() else "",
    )


def _text(message: bytes | str) -> str:
    return message.decode(errors="replace") if isinstance(message, bytes) else message

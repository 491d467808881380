"""What a solution is: one status vocabulary, and a certificate that is recomputed from the problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solver_pool.problem import (
    Array,
    BatchProblem,
    CriticBatch,
    LinearProgram,
    MixedIntegerProgram,
    QuadraticBatch,
    QuadraticProgram,
)
from solver_pool.residuals import duality_gaps, kkt_residuals


class Status(IntEnum):
    """How a solve ended. A backend maps every native code to one of these; an unknown code is an ERROR."""

    OPTIMAL = 0
    """Verified: the residuals recomputed from the problem are within tolerance. For a non-concave critic
    this means a stationary point; only a finite `bound` speaks about the global optimum."""
    FEASIBLE = 1
    """The point satisfies every constraint, but optimality conditions were not verified."""
    INFEASIBLE = 2
    """No point satisfies the constraints; `x` is None."""
    UNBOUNDED = 3
    """The objective is unbounded; `x` is None."""
    TIME_LIMIT = 4
    """The limit came first and no feasible point is known; `x` is None. With one, the status is FEASIBLE."""
    ERROR = 5
    """The solver failed, or its worker died twice; `message` says how."""

    @property
    def usable(self) -> bool:
        """Whether `x` satisfies the constraints."""
        return self in (Status.OPTIMAL, Status.FEASIBLE)


@dataclass(frozen=True)
class Certificate:
    """Residuals recomputed from the problem data, in the problem's own units.

    For a program ``max f(x)  s.t.  A x <= b`` with multipliers ``y >= 0``:

    Attributes:
        primal_residual: ``max(A x - b, 0)`` over all rows and bounds.
        stationarity: ``|grad f - A'y|_inf / max(1, |grad f|_inf)``.
        complementarity: ``max_i |y_i (b - A x)_i| / max(1, |grad f|_inf)``.
        gap: ``|bound - objective|``; infinite where no global bound is known.

    Each is a float, or an array ``(B,)`` for a batch. Stationarity and complementarity are infinite where no
    multipliers are known, as for a program with integer variables; its proof is the gap.
    """

    primal_residual: float | Array
    stationarity: float | Array
    complementarity: float | Array
    gap: float | Array

    @property
    def kkt_residual(self) -> float | Array:
        """The largest of the three residuals of the first-order conditions."""
        worst = np.maximum(np.maximum(self.primal_residual, self.stationarity), self.complementarity)
        return worst if isinstance(self.primal_residual, np.ndarray) else float(worst)


@dataclass(frozen=True)
class Solution:
    """The answer to one problem.

    Attributes:
        status: see `Status`.
        x: ``(n,)``, or None where no feasible point is known.
        objective: at `x`; NaN without one.
        bound: best known bound on the global optimum; infinite if none.
        certificate: recomputed residuals.
        solve_time: [s], in the solver.
        backend: who solved it.
        iterations: of the solver; 0 where it reports none.
        message: why it failed; empty on success.
    """

    status: Status
    x: Array | None
    objective: float
    bound: float
    certificate: Certificate
    solve_time: float
    backend: str
    iterations: int = 0
    message: str = ""

    @staticmethod
    def failed(
        status: Status, backend: str, message: str, solve_time: float = 0.0, bound: float = np.inf
    ) -> Solution:
        """A solution without a point; a solver that was stopped may still have a `bound`."""
        nothing = Certificate(np.inf, np.inf, np.inf, np.inf)
        return Solution(status, None, np.nan, bound, nothing, solve_time, backend, 0, message)


@dataclass(frozen=True)
class BatchSolution:
    """The answers to a `CriticBatch` or a `QuadraticBatch`, as arrays in the order of its programs.

    Attributes:
        status: ``(B,)`` of `Status` values (int8).
        x: ``(B, n)``; rows of NaN where no feasible point is known.
        objective, bound: ``(B,)``.
        row_duals: ``(B, m)``, ``>= 0``.
        bound_duals: ``(B, n)``; positive at the upper bound, negative at the lower.
        certificate: arrays ``(B,)``.
        iterations: ``(B,)``.
        solve_time: [s] for the whole batch, in the solver.
        backend: who solved it.
        message: the first failure's reason; empty if there was none.
    """

    status: NDArray[np.int8]
    x: Array
    objective: Array
    bound: Array
    row_duals: Array
    bound_duals: Array
    certificate: Certificate
    iterations: NDArray[np.int64]
    solve_time: float
    backend: str
    message: str = ""

    def __len__(self) -> int:
        return int(self.status.shape[0])

    def __getitem__(self, i: int) -> Solution:
        status = Status(int(self.status[i]))
        c = self.certificate
        one = Certificate(
            float(np.asarray(c.primal_residual)[i]),
            float(np.asarray(c.stationarity)[i]),
            float(np.asarray(c.complementarity)[i]),
            float(np.asarray(c.gap)[i]),
        )
        return Solution(
            status,
            self.x[i] if status.usable else None,
            float(self.objective[i]),
            float(self.bound[i]),
            one,
            self.solve_time / max(len(self), 1),
            self.backend,
            int(self.iterations[i]),
            "" if status.usable else self.message,
        )

    @property
    def certified(self) -> NDArray[np.bool_]:
        """``(B,)``: which answers are OPTIMAL, that is, verified to tolerance."""
        return np.asarray(self.status == Status.OPTIMAL)

    @property
    def usable(self) -> NDArray[np.bool_]:
        """``(B,)``: which answers satisfy their constraints."""
        return np.asarray(self.status <= Status.FEASIBLE)

    @staticmethod
    def failed(problem: BatchProblem, status: Status, backend: str, message: str) -> BatchSolution:
        """One failure for every state of the batch."""
        size, inf = len(problem), np.full(len(problem), np.inf)
        return BatchSolution(
            status=np.full(size, status, dtype=np.int8),
            x=np.full((size, problem.low.shape[-1]), np.nan),
            objective=np.full(size, np.nan),
            bound=inf,
            row_duals=np.zeros((size, problem.n_rows)),
            bound_duals=np.zeros((size, problem.low.shape[-1])),
            certificate=Certificate(inf, inf, inf, inf),
            iterations=np.zeros(size, dtype=np.int64),
            solve_time=0.0,
            backend=backend,
            message=message,
        )

    @staticmethod
    def concatenate(parts: Sequence[BatchSolution]) -> BatchSolution:
        """Join the answers to consecutive chunks of one batch; solve times add up."""
        if len(parts) == 1:
            return parts[0]

        def join(name: str) -> Array:
            return np.concatenate([getattr(p, name) for p in parts])

        def residual(name: str) -> Array:
            return np.concatenate([np.asarray(getattr(p.certificate, name)) for p in parts])

        return BatchSolution(
            status=np.concatenate([p.status for p in parts]),
            x=join("x"),
            objective=join("objective"),
            bound=join("bound"),
            row_duals=join("row_duals"),
            bound_duals=join("bound_duals"),
            certificate=Certificate(
                residual("primal_residual"),
                residual("stationarity"),
                residual("complementarity"),
                residual("gap"),
            ),
            iterations=np.concatenate([p.iterations for p in parts]),
            solve_time=sum(p.solve_time for p in parts),
            backend=parts[0].backend,
            message=next((p.message for p in parts if p.message), ""),
        )


def primal_residuals(problem: BatchProblem, x: Array) -> Array:
    """Largest violation of rows and box at ``x (B, n)``; returns ``(B,)``, NaN where `x` is NaN."""
    worst = np.maximum(problem.low - x, x - problem.high).max(axis=1)
    if problem.n_rows:
        rows = np.einsum("mn,bn->bm" if problem.G.ndim == 2 else "bmn,bn->bm", problem.G, x)
        worst = np.maximum(worst, (rows - problem.h).max(axis=1))
    return np.asarray(np.where(np.isnan(worst), np.nan, np.maximum(worst, 0.0)))


def certify_batch(
    problem: BatchProblem,
    x: Array,
    row_duals: Array,
    bound_duals: Array,
    bound: Array,
) -> tuple[Array, Certificate]:
    """Recompute objective and certificate of a batch from the problem alone.

    A `QuadraticBatch` minimises: its certificate is that of the negative objective.

    Args:
        x: ``(B, n)``. row_duals: ``(B, m)``. bound_duals: ``(B, n)``. bound: ``(B,)``.

    Returns:
        The objective ``(B,)`` and the certificate, arrays ``(B,)``. Rows of `x` with NaN get infinity.
    """
    size, n = x.shape
    if isinstance(problem, CriticBatch):
        objective, gradient = problem.values_and_gradients(x)
    else:
        product = np.einsum("ij,bj->bi" if problem.P.ndim == 2 else "bij,bj->bi", problem.P, x)
        objective, gradient = ((0.5 * product + problem.q) * x).sum(axis=1), -(product + problem.q)
    primal, stationarity, complementarity = np.empty(size), np.empty(size), np.empty(size)
    kkt_residuals(
        *_constraints(problem, n),
        x,
        gradient,
        row_duals,
        bound_duals,
        primal,
        stationarity,
        complementarity,
    )
    known = np.isfinite(bound) & np.isfinite(objective)
    gap = np.full(size, np.inf)
    gap[known] = np.abs(bound[known] - objective[known])
    return objective, Certificate(primal, stationarity, complementarity, gap)


def _constraints(problem: BatchProblem, n: int) -> tuple[Array, Array, Array, Array]:
    """``G (1 or B, m, n)``, ``h (B, m)``, ``low`` and ``high (1 or B, n)`` of a batch."""
    G = problem.G.reshape(-1, problem.n_rows, n) if problem.n_rows else np.empty((1, 0, n))
    return G, problem.h, problem.low.reshape(-1, n), problem.high.reshape(-1, n)


def verified_batch(
    problem: BatchProblem,
    x: Array,
    row_duals: Array,
    bound_duals: Array,
    bound: Array,
    status: NDArray[np.int8],
    *,
    tolerance: float,
    gap_tolerance: float | None = None,
    iterations: NDArray[np.int64],
    solve_time: float,
    backend: str,
    message: str = "",
) -> BatchSolution:
    """Build a `BatchSolution` whose statuses are only what the recomputed certificate supports.

    A point that violates its constraints by more than `tolerance` is dropped. OPTIMAL needs the
    first-order residual within `tolerance`, or the gap within `gap_tolerance` (None: `tolerance`) of
    ``max(1, |objective|)``; otherwise it becomes FEASIBLE.
    """
    objective, certificate = certify_batch(problem, x, row_duals, bound_duals, bound)
    feasible = np.asarray(certificate.primal_residual) <= tolerance
    allowed = tolerance if gap_tolerance is None else gap_tolerance
    gap_closed = np.asarray(certificate.gap) <= allowed * np.maximum(1.0, np.abs(objective))
    proven = feasible & ((np.asarray(certificate.kkt_residual) <= tolerance) | gap_closed)
    kept = np.full(len(problem), Status.ERROR, dtype=np.int8)
    kept[feasible] = Status.FEASIBLE
    kept[proven] = Status.OPTIMAL
    final = np.where(status <= Status.FEASIBLE, kept, status)
    usable = final <= Status.FEASIBLE
    return BatchSolution(
        status=final,
        x=np.where(usable[:, None], x, np.nan),
        objective=np.where(usable, objective, np.nan),
        bound=bound,
        row_duals=row_duals,
        bound_duals=bound_duals,
        certificate=certificate,
        iterations=iterations,
        solve_time=solve_time,
        backend=backend,
        message=message if not usable.all() else "",
    )


def verified_quadratic(
    problem: QuadraticBatch,
    x: Array,
    row_duals: Array,
    bound_duals: Array,
    status: NDArray[np.int8],
    *,
    tolerance: float,
    iterations: NDArray[np.int64],
    solve_time: float,
    backend: str,
    message: str = "",
) -> BatchSolution:
    """`verified_batch` of convex programs, whose bounds follow from their multipliers.

    Where the first-order residual is within `tolerance` the bound is the objective less the duality gap, that is
    the sum of the complementarity products; elsewhere it is minus infinity (infinity for an infeasible program).
    """
    unknown = np.where(status == Status.INFEASIBLE, np.inf, -np.inf)
    answer = verified_batch(
        problem, x, row_duals, bound_duals, unknown, status, tolerance=tolerance,
        iterations=iterations, solve_time=solve_time, backend=backend, message=message,
    )  # fmt: skip
    gap, certificate = np.empty(len(problem)), answer.certificate
    duality_gaps(*_constraints(problem, x.shape[1]), x, row_duals, bound_duals, gap)
    gap = np.where(answer.certified, gap, np.inf)
    return replace(
        answer,
        bound=np.where(answer.certified, answer.objective - gap, unknown),
        certificate=replace(certificate, gap=gap),
    )


def certify_quadratic(
    problem: QuadraticProgram, x: Array, row_duals: Array, bound_duals: Array
) -> Certificate:
    """Recompute the certificate of a QP at ``x (n,)`` with row and bound multipliers ``(m,)``, ``(n,)``.

    Row multipliers are ``>= 0``; bound multipliers positive at the upper and negative at the lower bound.
    The gap is the duality gap, the sum of the complementarity products of a convex program.
    """
    no_side = np.full(problem.h.shape, -np.inf)
    gradient = problem.P @ x + problem.q
    sides = (no_side, problem.h, problem.low, problem.high)
    return certify_first_order(
        gradient, problem.G, problem.G @ x, sides, x, row_duals, bound_duals, convex=True
    )


def certify_linear(problem: LinearProgram, x: Array, row_duals: Array, bound_duals: Array) -> Certificate:
    """Recompute the certificate of an LP; multipliers are positive at upper and negative at lower sides.

    The gap is the duality gap, the sum of the complementarity products.
    """
    sides = (problem.row_low, problem.row_high, problem.low, problem.high)
    return certify_first_order(
        problem.c, problem.A, problem.A @ x, sides, x, row_duals, bound_duals, convex=True
    )


def certify_first_order(
    gradient: Array,
    jacobian: Any,
    activity: Array,
    sides: tuple[Array, Array, Array, Array],
    x: Array,
    row_duals: Array,
    bound_duals: Array,
    *,
    convex: bool,
) -> Certificate:
    """The certificate of ``min f(x)  s.t.  row_low <= g(x) <= row_high,  low <= x <= high`` at ``x (n,)``.

    Args:
        gradient: of f, ``(n,)``.
        jacobian: of g, ``(m, n)``, dense or sparse; activity: g there, ``(m,)``.
        sides: ``row_low, row_high (m,)`` and ``low, high (n,)``; infinite entries mean no side.
        row_duals, bound_duals: ``(m,)`` and ``(n,)``, positive at upper and negative at lower sides.
        convex: whether the sum of the complementarity products is a duality gap; if not, no bound is known.
    """
    row_low, row_high, lower, upper = sides
    value = np.concatenate([activity, x])
    low, high = np.concatenate([row_low, lower]), np.concatenate([row_high, upper])
    duals = np.concatenate([row_duals, bound_duals])
    primal = float(np.maximum(low - value, value - high).max(initial=0.0))
    # A multiplier pulls at the side of its sign; on a side that does not exist it is an error of its size.
    side = np.where(duals > 0, high, low)
    missing = (duals != 0) & ~np.isfinite(side)
    products = np.abs(duals * (np.where(np.isfinite(side), side, value) - value))
    stationarity = float(np.abs(gradient + jacobian.T @ row_duals + bound_duals).max(initial=0.0))
    stationarity = max(stationarity, float(np.abs(duals[missing]).max(initial=0.0)))
    scale = max(1.0, float(np.abs(gradient).max(initial=0.0)))
    gap = float(products.sum()) if convex and stationarity <= 1e-6 * scale else np.inf
    return Certificate(max(primal, 0.0), stationarity / scale, float(products.max(initial=0.0)) / scale, gap)


def certify_mixed_integer(problem: MixedIntegerProgram, x: Array, bound: float) -> Certificate:
    """Recompute the certificate of a MILP at ``x (n,)``, with a lower `bound` on the optimum.

    The primal residual is the largest violation of rows, bounds and integrality.
    """
    activity = problem.A @ x
    fractional = np.abs(x - np.round(x))[problem.integer]
    worst = [
        problem.row_low - activity, activity - problem.row_high, problem.low - x, x - problem.high, fractional,
    ]  # fmt: skip
    primal = max(0.0, *(float(w.max(initial=0.0)) for w in worst))
    return Certificate(primal, np.inf, np.inf, abs(float(problem.c @ x) - bound))


def proven_by_bound(
    status: Status,
    x: Array | None,
    objective: float,
    primal_residual: float,
    bound: float,
    *,
    maximise: bool = False,
    tolerance: float,
    gap: float,
    solve_time: float,
    backend: str,
    iterations: int,
    message: str,
) -> Solution:
    """The answer of a branch-and-bound solver, with the status that its point and its bound support.

    Args:
        status: what the solver's own code means.
        x: its best point, or None.
        objective, primal_residual: recomputed from the problem at `x`; ignored without one.
        bound: the solver's bound on the optimum: a lower one, or an upper one where `maximise`.
        gap: OPTIMAL needs the bound within ``max(tolerance, gap)`` of ``max(1, |objective|)``.
    """
    if status in (Status.INFEASIBLE, Status.UNBOUNDED):
        return Solution.failed(status, backend, message, solve_time)
    if x is None or not primal_residual <= tolerance:
        if x is not None:
            message = f"{message}, and its point violates a constraint by {primal_residual:.1e}"
        failure = Status.TIME_LIMIT if status == Status.TIME_LIMIT else Status.ERROR
        return Solution.failed(failure, backend, message, solve_time, bound)
    # Rounding in the solver must not put its bound on the wrong side of a value that was attained.
    bound = max(bound, objective) if maximise else min(bound, objective)
    distance = abs(bound - objective)
    closed = distance <= max(tolerance, gap) * max(1.0, abs(objective))
    return Solution(
        status=Status.OPTIMAL if closed else Status.FEASIBLE,
        x=x,
        objective=objective,
        bound=bound,
        certificate=Certificate(primal_residual, np.inf, np.inf, distance),
        solve_time=solve_time,
        backend=backend,
        iterations=iterations,
        message="" if closed else f"{message}, with a gap of {distance:.1e}",
    )

"""The projection of proposed actions on a safe set, with its exact derivative. No Ray here.

For a proposal ``pi`` in the state ``x`` the layer returns the closest safe action (seed 002, equation 12)::

    u = argmin_u 1/2 |u - pi|^2   s.t.   s(x, u) <= 0,   low <= u <= high

together with its multipliers ``mu``, the strictly active set ``A = {i : mu_i > 0}`` and the matrix of
Proposition 1, the derivative of ``u`` with respect to ``pi``::

    M = N (N'H N)^-1 N',     H = I + sum_i mu_i Hess s_i(u)

with ``N`` an orthonormal basis of the null space of the gradients of ``A``, bounds included. ``M`` is symmetric;
no strictly active constraint gives ``M = I``, as many independent ones as actions give ``M = 0``. For a polytope
``G(x) u <= h(x)`` it is the orthogonal projector ``N N'``.

===================  =========================================================================================
`project_polytope`   rows ``(G, h)`` and bounds: one batch of QPs for the pool, ``M`` compiled
`project_convex`     smooth convex constraints (`ConvexSet`): Newton's method, whose steps are such batches
`project`            on either kind of set, for observations
`through`            the same point as a torch tensor, whose gradient is ``M`` times the one that arrives
`ProjectionLayer`    all of this as a module
===================  =========================================================================================

What holds where proofs assume more (Proposition 1 asks for LICQ and strict complementarity):

- *Dependent rows.* The rank of the active gradients is revealed, so that repeated, scaled or redundant rows leave
  ``M`` what it is without them.
- *Several multipliers* (a vertex with more rows than actions, pairs of rows that make an equality). ``A`` is the set
  of constraints with a positive multiplier in *some* choice, of which a solver returns one. The gradients of ``A``
  span the smallest face of the normal cone that holds ``pi - u``, which knows nothing of the choice: so ``M`` of a
  polytope does not depend on it, and is the derivative wherever the projection has one. With curved constraints and
  without LICQ, ``H`` is that of the multipliers returned, and no derivative is promised.
- *Weakly active rows* (they hold with equality and have no multiplier in any choice). There the projection has a kink.
  They are left out of ``A``: ``M`` is the derivative on the side where they do not bind, and `Projected.differentiable`
  says so. Such proposals have measure zero.

Source: seed 002, equation 12, Proposition 1, equations 17 and 31; Haraux, How to differentiate the projection on a
convex set in Hilbert space, Journal of the Mathematical Society of Japan 29, 1977.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from algorithms.common import projection_kernel as kernel
from envs.safe_set import SafeSet
from solver_pool.errors import InvalidProblem
from solver_pool.options import SolveOptions
from solver_pool.pool import SolverPool
from solver_pool.problem import Array, QuadraticBatch
from solver_pool.solution import Status

OnFailure = Literal["raise", "mask"]

EXACT = 1e-9
"""Of an exact solver: multipliers of normals of length one up to this, relative to ``max(1, |pi|)``, are rounding,
and constraints within this distance, relative to ``max(1, |u|)``, hold with equality."""
ITERATIVE = 1e-7
"""The same of Newton's method."""
CONVERGED = 1e-11
"""Residual of the first-order conditions at which Newton's method ends, with lengths relative as above."""
STALLED = 1e-9
"""Residual at which it ends too, once rounding keeps whole steps from halving it."""
NEWTON_STEPS = 100
"""At most; five to ten are usual."""
CUTS = 60
"""Rounds of cutting planes after which a set that may be empty stays undecided."""
PRINTED = 3
"""Batch entries whose rows an error prints."""
UNVERIFIED = "its multipliers do not verify to the tolerance; rescale the rows"
PAIRS = 1024
"""Programs of a degenerate batch that are posed together, which bounds their memory."""


@runtime_checkable
class ConvexSet(Protocol):
    """A state-dependent set of safe actions, ``s(x, u) <= 0`` and ``low <= u <= high``.

    Each of the ``m`` functions is convex in ``u`` and twice differentiable on the box. An implementation is a batch of
    NumPy functions of observations ``(B, n_s)`` and actions ``(B, n_a)``.

    Attributes:
        low, high: ``(n_a,)``, infinite entries mean no bound [action units].
    """

    @property
    def low(self) -> Array: ...

    @property
    def high(self) -> Array: ...

    def value(self, observations: Array, actions: Array) -> Array:
        """``s (B, m)``."""
        ...

    def jacobian(self, observations: Array, actions: Array) -> Array:
        """``ds/du (B, m, n_a)``."""
        ...

    def hessian(self, observations: Array, actions: Array, multipliers: Array) -> Array:
        """``sum_i mu_i d2 s_i/du2``, ``(B, n_a, n_a)``, for multipliers ``mu (B, m) >= 0``."""
        ...


class ProjectionError(RuntimeError):
    """A batch of projections of which some have no answer.

    Attributes:
        entries: their indices in the batch.
    """

    def __init__(self, message: str, entries: Sequence[int]) -> None:
        super().__init__(message)
        self.entries = tuple(entries)

    def __reduce__(self) -> tuple[type, tuple[str, tuple[int, ...]]]:
        return type(self), (str(self), self.entries)


class EmptySafeSet(ProjectionError):
    """No action satisfies the constraints of the `entries`; the message prints them."""


class ProjectionUnfinished(ProjectionError):
    """The solver found no verified answer for the `entries`, in its time limit or at all."""


@dataclass(frozen=True)
class Projected:
    """The answer to a batch of projections.

    Attributes:
        point: ``(B, n_a)``, the safe actions; NaN where there is none.
        multipliers: ``(B, m)`` of the rows or of ``s``, ``>= 0``.
        bound_multipliers: ``(B, n_a)``, positive at the upper bound and negative at the lower.
        active: ``(B, m)``, the strictly active set: a positive multiplier in some choice of them.
        active_bounds: ``(B, n_a)``, the coordinates that a strictly active bound holds, or two equal ones.
        M: ``(B, n_a, n_a)``, the derivative of the point with respect to the proposal; zero without a point.
        differentiable: ``(B,)``, whether no constraint is weakly active; else M is the derivative of one side.
        status: ``(B,)`` of `Status`: OPTIMAL where the point is verified, else why there is none.
    """

    point: Array
    multipliers: Array
    bound_multipliers: Array
    active: NDArray[np.bool_]
    active_bounds: NDArray[np.bool_]
    M: Array
    differentiable: NDArray[np.bool_]
    status: NDArray[np.int8]

    @property
    def solved(self) -> NDArray[np.bool_]:
        """``(B,)``: which entries have a point."""
        return np.asarray(self.status == Status.OPTIMAL)


def project(
    safe_set: SafeSet | ConvexSet,
    observations: Array,
    proposals: Array,
    pool: SolverPool,
    *,
    time_limit: float | None = None,
    on_failure: OnFailure = "raise",
) -> Projected:
    """`project_polytope` on the rows of a `SafeSet`, or `project_convex` on a `ConvexSet`."""
    if isinstance(safe_set, ConvexSet):
        return project_convex(
            safe_set, observations, proposals, pool, time_limit=time_limit, on_failure=on_failure
        )
    return project_polytope(
        proposals,
        *safe_set.rows(observations),
        safe_set.low,
        safe_set.high,
        pool,
        time_limit=time_limit,
        on_failure=on_failure,
    )


# --- Polytopes ------------------------------------------------------------------------------------------------


def project_polytope(
    proposals: Array,
    G: Array,
    h: Array,
    low: Array,
    high: Array,
    pool: SolverPool,
    *,
    time_limit: float | None = None,
    on_failure: OnFailure = "raise",
) -> Projected:
    """Solve ``min_u 1/2 |u - pi_i|^2  s.t.  G_i u <= h_i,  low_i <= u <= high_i`` for every ``i``.

    Args:
        proposals: ``pi (B, n_a)`` [action units].
        G: ``(m, n_a)`` shared or ``(B, m, n_a)``; ``m`` may be zero.
        h: ``(B, m)``; ``+inf`` switches a row off.
        low, high: ``(n_a,)`` shared or ``(B, n_a)``; infinite entries mean no bound, equal ones fix an action.
        pool: who solves.
        time_limit: [s] for each of the few programs that the batched active-set method leaves to DAQP; the others
            take microseconds.
        on_failure: what to do about entries without an answer. ``"raise"`` names them all; ``"mask"`` gives them NaN,
            ``M = 0`` and a `Projected.status`, so that a caller with a fallback can use it there.

    Raises:
        InvalidProblem: on numbers that are not finite or shapes that do not match, always, naming field and index.
        EmptySafeSet: naming the entries and printing their rows. ProjectionUnfinished: naming the entries.
    """
    wanted = _checked("proposals", proposals, (None, None))
    n = wanted.shape[1]
    problem = QuadraticBatch(np.eye(n), -wanted, G, h, low, high)
    answer = pool.solve(problem, SolveOptions(time_limit=time_limit))
    if on_failure == "raise":
        _raise_failures(answer.status, answer.message or UNVERIFIED, _print_rows(problem))
    status = np.where(answer.usable & ~answer.certified, np.int8(Status.ERROR), answer.status)
    point = np.where(answer.certified[:, None], answer.x, np.nan)
    m = problem.n_rows
    rows = problem.G.reshape(-1, m, n) if m else np.empty((1, 0, n))
    return _derived(
        wanted, point, rows, problem.h, problem.low, problem.high,
        (answer.row_duals, answer.bound_duals), status, EXACT, pool,
    )  # fmt: skip


def level_sensitivity(projected: Projected, G: Array) -> Array:
    """The derivative ``du/dh (B, n_a, m)`` of a projection on a polytope with respect to its levels ``h``.

    The strictly active gradients ``C``, bounds included, give ``du/dh = C'(C C')^-1`` in their columns and zero in the
    others. With proposals and levels that depend on the state, rows that do not, and constant bounds, this makes
    the sensitivity that an adjoint needs: ``du/dx = M dpi/dx + du/dh dh/dx``. Dependent gradients get the
    pseudo-inverse, which is right as long as their levels move such that all stay active.

    Source: seed 002, proof of Proposition 1, with levels that move; `shared` rows ``G (m, n_a)`` or ``(B, m, n_a)``.
    """
    size, m = projected.active.shape
    n = projected.point.shape[1]
    length = np.linalg.norm(G, axis=-1)
    unit = np.broadcast_to(G / np.where(length == 0.0, 1.0, length)[..., None], (size, m, n))
    blocked = projected.active_bounds[:, :, None] * np.eye(n)
    active = np.concatenate([unit * projected.active[:, :, None], blocked], axis=1)
    inverse = np.linalg.pinv(active, rcond=kernel.DEPENDENT)[:, :, :m]
    return np.asarray(inverse / np.where(length == 0.0, 1.0, length)[..., None, :])


def _derived(
    wanted: Array,
    point: Array,
    G: Array,
    h: Array,
    low: Array,
    high: Array,
    duals: tuple[Array, Array],
    status: NDArray[np.int8],
    tolerance: float,
    pool: SolverPool,
) -> Projected:
    """The strictly active set and ``M = N N'`` of points ``(B, n_a)`` of polytopes ``(1 or B, m, n_a)``."""
    size, n = wanted.shape
    m = h.shape[1]
    solved = np.asarray(np.isfinite(point).all(axis=1))
    row_duals, bound_duals = (np.where(solved[:, None], d, 0.0) for d in duals)
    kind = np.empty((size, m + 2 * n), dtype=np.int8)
    pull = tolerance * np.maximum(1.0, np.abs(wanted).max(axis=1, initial=0.0))
    slack = tolerance * np.maximum(1.0, np.abs(point).max(axis=1, initial=0.0))
    low, high = low.reshape(-1, n), high.reshape(-1, n)
    kernel.classify(G, h, low, high, point, row_duals, bound_duals, pull, slack, kind)
    M, weak, dependent = (
        np.empty((size, n, n)),
        np.empty(size, dtype=np.bool_),
        np.empty(size, dtype=np.bool_),
    )
    kernel.projectors(G, kind, M, weak, dependent)
    again = np.flatnonzero(dependent)
    if again.size:
        own = G if len(G) == 1 else G[again]
        promoted, matrices = kind[again], np.empty((again.size, n, n))
        _share_multipliers(own, promoted, M[again], pool)
        remaining = np.empty(again.size, dtype=np.bool_)
        kernel.projectors(own, promoted, matrices, remaining, np.empty_like(remaining))
        kind[again], M[again], weak[again] = promoted, matrices, remaining
    M[~solved] = 0.0
    strict = kind == kernel.STRICT
    return Projected(
        point=point,
        multipliers=row_duals,
        bound_multipliers=bound_duals,
        active=strict[:, :m],
        active_bounds=strict[:, m : m + n] | strict[:, m + n :],
        M=M,
        differentiable=solved & ~weak,
        status=status,
    )


def _share_multipliers(G: Array, kind: NDArray[np.int8], M: Array, pool: SolverPool) -> None:
    """Make STRICT those WEAK constraints that have a positive multiplier in another choice of multipliers.

    Constraint ``k`` has one if and only if ``-g_k`` is a combination, of any sign in the strictly active normals and
    not negative in the weak ones. With ``g`` the parts of the weak unit normals outside the span of the former, that is
    ``-g_k`` in ``cone(g)``, and by Moreau's decomposition the projection of ``-g_k`` on the polar cone vanishes::

        min_d 1/2 |d + g_k|^2   s.t.   g_l'd <= 0  for all weak l

    Args:
        G: ``(1 or b, m, n)``. kind: ``(b, m + 2 n)``, changed. M: ``(b, n, n)``, ``N N'`` of the STRICT ones.
    """
    size, n = M.shape[0], M.shape[1]
    length = np.linalg.norm(G, axis=2, keepdims=True)
    unit = np.broadcast_to(G / np.where(length == 0.0, 1.0, length), (size, *G.shape[1:]))
    sides = np.broadcast_to(np.concatenate([-np.eye(n), np.eye(n)]), (size, 2 * n, n))
    outside = np.concatenate([unit, sides], axis=1) @ M
    of, which = np.nonzero(kind == kernel.WEAK)
    limits = np.where(kind == kernel.WEAK, 0.0, np.inf)
    free = np.full(n, np.inf)
    for begin in range(0, len(of), PAIRS):
        b, k = of[begin : begin + PAIRS], which[begin : begin + PAIRS]
        g = outside[b, k] / np.linalg.norm(outside[b, k], axis=1, keepdims=True)
        answer = pool.solve(QuadraticBatch(np.eye(n), g, outside[b], limits[b], -free, free))
        vanishes = answer.certified & (np.linalg.norm(answer.x, axis=1) <= ITERATIVE)
        kind[b[vanishes], k[vanishes]] = kernel.STRICT


# --- Smooth convex sets ---------------------------------------------------------------------------------------


def project_convex(
    convex_set: ConvexSet,
    observations: Array,
    proposals: Array,
    pool: SolverPool,
    *,
    time_limit: float | None = None,
    on_failure: OnFailure = "raise",
) -> Projected:
    """Solve ``min_u 1/2 |u - pi_i|^2  s.t.  s(x_i, u) <= 0,  low <= u <= high`` for every ``i``, by Newton's method.

    Each step ``d`` solves a strictly convex QP, the whole batch in one call::

        min_d 1/2 d'H d + (u - pi)'d   s.t.   s + (ds/du) d <= 0,   low <= u + d <= high

    As ``s`` is convex, its linearisations contain the set: a step exists wherever the set is not empty, and
    linearisations that contradict each other prove it empty. Full steps are taken while they halve the residual of
    the first-order conditions, else steps that descend the exact penalty ``1/2 |u - pi|^2 + sum_i rho_i max(s_i, 0)``,
    which every ``d`` does. Multipliers exist if some action has ``s < 0`` (Slater).

    Args:
        observations: ``(B, n_s)``. proposals: ``(B, n_a)``.
        time_limit: [s] for the batch. The others are those of `project_polytope`.

    Raises:
        InvalidProblem: on numbers that are not finite, shapes that do not match, or a set that is not convex.
        EmptySafeSet, ProjectionUnfinished: as `project_polytope`.

    Source: seed 002, equations 12 and 31; Nocedal and Wright, Numerical Optimization, 2006, section 18.3 (the steps)
    and theorem 18.2 (descent).
    """
    wanted = _checked("proposals", proposals, (None, None))
    n = wanted.shape[1]
    observations = np.asarray(observations, dtype=np.float64)
    low = _checked("low", convex_set.low, (n,), infinite=True)
    high = _checked("high", convex_set.high, (n,), infinite=True)
    ends = np.inf if time_limit is None else time.monotonic() + time_limit
    u, s, J, mu, bound_duals, status, message = _newton(
        convex_set, observations, wanted, low, high, pool, ends
    )
    doubtful = np.flatnonzero(status == Status.ERROR)
    if doubtful.size:
        empty = _proved_empty(convex_set, observations[doubtful], wanted[doubtful], low, high, pool, ends)
        status[doubtful[empty]] = Status.INFEASIBLE
    solved = status == Status.OPTIMAL
    _check_convex(convex_set, observations, u, np.where(solved[:, None], mu, 1.0))
    if on_failure == "raise":
        _raise_failures(status, message, lambda i: f"s = {s[i]} at the action {u[i]}; {low} <= u <= {high}")
    point = np.where(solved[:, None], u, np.nan)
    levels = np.einsum("bmn,bn->bm", J, u) - s
    flat = _derived(wanted, point, J, levels, low, high, (mu, bound_duals), status, ITERATIVE, pool)
    curvature = convex_set.hessian(observations, u, mu)
    # On the range of P = N N' the matrix P H P + (I - P) is N'H N, elsewhere the identity.
    P, eye = flat.M, np.eye(n)
    M = P @ np.linalg.solve(P @ (eye + curvature) @ P + (eye - P), P)
    return Projected(**{**vars(flat), "M": 0.5 * (M + M.transpose(0, 2, 1))})


def _check_convex(convex_set: ConvexSet, observations: Array, u: Array, mu: Array) -> None:
    """Raise InvalidProblem where ``sum_i mu_i d2 s_i/du2`` is not positive semidefinite at ``u``."""
    size, n = u.shape
    curvature = _checked("hessian", convex_set.hessian(observations, u, mu), (size, n, n))
    lowest = np.linalg.eigvalsh(curvature)[:, 0]
    concave = np.flatnonzero(
        lowest < -1e-8 * np.maximum(1.0, np.abs(curvature).max(axis=(1, 2), initial=0.0))
    )
    if concave.size:
        raise InvalidProblem(
            "hessian",
            f"has the eigenvalue {lowest[concave[0]]:.3g} at batch entry {concave[0]}",
            "Each function of a ConvexSet has to be convex in the action.",
        )


def _newton(
    convex_set: ConvexSet,
    observations: Array,
    wanted: Array,
    low: Array,
    high: Array,
    pool: SolverPool,
    ends: float,
) -> tuple[Array, Array, Array, Array, Array, NDArray[np.int8], str]:
    """The points, ``s`` and its Jacobian there, multipliers of ``s`` and bounds, statuses, and why one failed."""
    size, n = wanted.shape
    u = np.clip(wanted, low, high)
    s, J = _evaluated(convex_set, observations, u)
    mu, bound_duals, penalty = np.zeros_like(s), np.zeros_like(u), np.zeros_like(s)
    status = np.full(size, Status.ERROR, dtype=np.int8)
    message = f"Newton's method did not converge in {NEWTON_STEPS} steps; does a point with s < 0 exist?"
    best = np.full(size, np.inf)
    running = np.arange(size)
    for _ in range(NEWTON_STEPS):
        if not running.size:
            break
        if time.monotonic() > ends:
            status[running] = Status.TIME_LIMIT
            message = "the time limit came first"
            break
        # The step of every running entry.
        at = u[running]
        H = np.eye(n) + _checked(
            "hessian", convex_set.hessian(observations[running], at, mu[running]), (running.size, n, n)
        )
        # Rows of length one, so that the solver's tolerance is a distance.
        length = np.linalg.norm(J[running], axis=2)
        length[length == 0.0] = 1.0
        rows, levels = J[running] / length[:, :, None], -s[running] / length
        answer = pool.solve(QuadraticBatch(H, at - wanted[running], rows, levels, low - at, high - at))
        status[running] = np.where(answer.status == Status.INFEASIBLE, answer.status, Status.ERROR)
        kept = answer.certified
        if not kept.all():
            message = answer.message or UNVERIFIED
        running, at = running[kept], at[kept]
        d, new_mu, new_bounds = answer.x[kept], (answer.row_duals / length)[kept], answer.bound_duals[kept]
        # The whole step, where it halves the residual.
        goal = wanted[running]
        trial = np.clip(at + d, low, high)
        trial_s, trial_J = _evaluated(convex_set, observations[running], trial)
        residual = _residual(trial, goal, trial_s, trial_J, new_mu, new_bounds)
        whole = residual <= 0.5 * best[running]
        done = (residual <= CONVERGED) | (~whole & (residual <= STALLED))
        whole |= done
        best[running[whole]] = residual[whole]
        # Elsewhere a part of it that descends the penalty function.
        part = np.flatnonzero(~whole)
        if part.size:
            of = running[part]
            penalty[of] = np.maximum(penalty[of], 1.5 * new_mu[part])
            share = _line_search(
                convex_set, observations[of], at[part], d[part], s[of], goal[part], penalty[of]
            )[:, None]
            trial[part] = np.clip(at[part] + share * d[part], low, high)
            trial_s[part], trial_J[part] = _evaluated(convex_set, observations[of], trial[part])
            new_mu[part] = mu[of] + share * (new_mu[part] - mu[of])
        u[running], s[running], J[running] = trial, trial_s, trial_J
        mu[running], bound_duals[running] = new_mu, new_bounds
        status[running[done]] = Status.OPTIMAL
        running = running[~done]
    return u, s, J, mu, bound_duals, status, message


def _proved_empty(
    convex_set: ConvexSet,
    observations: Array,
    wanted: Array,
    low: Array,
    high: Array,
    pool: SolverPool,
    ends: float,
) -> NDArray[np.bool_]:
    """Which sets ``(B,)`` are empty: cutting planes, all of which the set satisfies, that no action satisfies."""
    size, n = wanted.shape
    empty, running, u = np.zeros(size, dtype=np.bool_), np.arange(size), np.clip(wanted, low, high)
    rows, levels = np.empty((size, 0, n)), np.empty((size, 0))
    for _ in range(CUTS):
        if not running.size or time.monotonic() > ends:
            break
        s, J = _evaluated(convex_set, observations[running], u)
        length = np.linalg.norm(J, axis=2)
        length[length == 0.0] = 1.0
        rows = np.concatenate([rows, J / length[:, :, None]], axis=1)
        levels = np.concatenate([levels, (np.einsum("bmn,bn->bm", J, u) - s) / length], axis=1)
        answer = pool.solve(QuadraticBatch(np.eye(n), -wanted[running], rows, levels, low, high))
        empty[running[answer.status == Status.INFEASIBLE]] = True
        kept = answer.certified & (s > 0.0).any(axis=1)
        running, u, rows, levels = running[kept], answer.x[kept], rows[kept], levels[kept]
    return empty


def _evaluated(convex_set: ConvexSet, observations: Array, u: Array) -> tuple[Array, Array]:
    """``s (B, m)`` and its Jacobian ``(B, m, n_a)`` at ``u (B, n_a)``."""
    size, n = u.shape
    s = _checked("value", convex_set.value(observations, u), (size, None))
    return s, _checked("jacobian", convex_set.jacobian(observations, u), (size, s.shape[1], n))


def _residual(u: Array, wanted: Array, s: Array, J: Array, mu: Array, bound_duals: Array) -> Array:
    """Residual of the first-order conditions ``(B,)`` [action units], relative to ``max(1, |u|, |u - pi|)``."""
    size = len(u)
    pull = u - wanted + np.einsum("bmn,bm->bn", J, mu) + bound_duals
    length = np.linalg.norm(J, axis=2)
    outside = np.where(s > 0.0, s / np.where(length > 0.0, length, 1.0), 0.0)
    scale = np.maximum(1.0, np.maximum(np.abs(u), np.abs(u - wanted)).max(axis=1, initial=0.0))
    parts = np.concatenate([np.abs(pull), outside, np.abs(mu * s)], axis=1)
    return np.asarray(parts.max(axis=1, initial=0.0).reshape(size) / scale)


def _line_search(
    convex_set: ConvexSet, observations: Array, u: Array, d: Array, s: Array, wanted: Array, penalty: Array
) -> Array:
    """The share ``(B,)`` of each step that descends the penalty function enough (Armijo)."""

    def merit(points: Array, values: Array) -> Array:
        return np.asarray(
            0.5 * ((points - wanted) ** 2).sum(axis=1) + (penalty * np.maximum(values, 0.0)).sum(axis=1)
        )

    begin = merit(u, s)
    slope = ((u - wanted) * d).sum(axis=1) - (penalty * np.maximum(s, 0.0)).sum(axis=1)
    share, enough = np.ones(len(u)), np.zeros(len(u), dtype=np.bool_)
    for _ in range(40):
        points = u + share[:, None] * d
        values = _checked("value", convex_set.value(observations, points), s.shape)
        enough |= merit(points, values) <= begin + 1e-4 * share * slope
        if enough.all():
            break
        share = np.where(enough, share, 0.5 * share)
    return share


# --- Failures -------------------------------------------------------------------------------------------------


def _checked(field: str, value: Any, shape: tuple[int | None, ...], *, infinite: bool = False) -> Array:
    """`value` as a float64 array of that shape (None: any size), finite or an error that names field and index."""
    array = np.asarray(value, dtype=np.float64)
    if array.ndim != len(shape) or any(
        w is not None and w != g for w, g in zip(shape, array.shape, strict=True)
    ):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise InvalidProblem(field, f"shape {array.shape}, expected ({wanted})", "Reshape it to match.")
    bad = np.argwhere(np.isnan(array) if infinite else ~np.isfinite(array))
    if bad.size:
        index = tuple(int(i) for i in bad[0])
        raise InvalidProblem(
            field,
            f"{array[index]} at index {index} ({len(bad)} of {array.size} entries are not finite)",
            "Check the network or the safe set that produced it; nothing was projected.",
        )
    return array


def _print_rows(problem: QuadraticBatch) -> Callable[[int], str]:
    """How the constraints of one entry of `problem` are printed."""

    def rows(i: int) -> str:
        G = problem.G if problem.G.ndim == 2 else problem.G[i]
        h = problem.h[i]
        low = problem.low if problem.low.ndim == 1 else problem.low[i]
        high = problem.high if problem.high.ndim == 1 else problem.high[i]
        on = np.isfinite(h)
        lines = [f"{g} u <= {level:.6g}" for g, level in zip(G[on], h[on], strict=True)]
        return "; ".join([*lines, f"{low} <= u <= {high}"])

    return rows


def _raise_failures(status: NDArray[np.int8], message: str, describe: Callable[[int], str]) -> None:
    """Name the entries without an answer, the empty sets first.

    Args:
        describe: prints the constraints of one entry.
    """
    if (status == Status.OPTIMAL).all():
        return
    kinds: tuple[tuple[type[ProjectionError], NDArray[np.intp], str, str], ...] = (
        (
            EmptySafeSet,
            np.flatnonzero(status == Status.INFEASIBLE),
            "no action satisfies the constraints",
            "Relax the rows, or ask for on_failure='mask' and use the safe set's fallback there.",
        ),
        (
            ProjectionUnfinished,
            np.flatnonzero((status != Status.INFEASIBLE) & (status != Status.OPTIMAL)),
            f"no verified projection ({message})",
            "Raise time_limit, rescale the rows, or ask for on_failure='mask' and use a fallback there.",
        ),
    )
    for error, entries, problem, remedy in kinds:
        if entries.size:
            shown = "".join(
                f"\n  entry {i} ({Status(int(status[i])).name}): {describe(int(i))}"
                for i in entries[:PRINTED]
            )
            more = f"\n  and {entries.size - PRINTED} more" if entries.size > PRINTED else ""
            names = [int(i) for i in entries]
            raise error(
                f"safe set: {problem} of batch entries {names[:20]}{' ...' if len(names) > 20 else ''} "
                f"({len(names)} of {len(status)}). {remedy}{shown}{more}",
                names,
            )


# --- Torch ----------------------------------------------------------------------------------------------------


class ProjectionFunction(torch.autograd.Function):
    """``u(pi)`` for torch: forward returns the point of a `Projected`, backward multiplies by its ``M``.

    The proposals are the only input with a gradient: rows, levels, bounds and multipliers are data. There is no second
    derivative either; asking for one is an error, since ``M`` of a curved set is not constant.
    """

    @staticmethod
    def forward(ctx: Any, proposals: Tensor, projected: Projected) -> Tensor:
        ctx.M = torch.from_numpy(projected.M).to(proposals.device)
        return torch.from_numpy(projected.point).to(proposals, copy=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # In float64, as M is.
        moved = torch.einsum("bij,bj->bi", ctx.M, gradient.to(ctx.M))
        return moved.to(gradient), None


def through(proposals: Tensor, projected: Projected) -> Tensor:
    """The projected points ``(B, n_a)`` as a function of the proposals that they were computed from.

    Where an entry has no point it is NaN, and no gradient passes: ``torch.where(solved, through(...), fallback)`` is
    finite in both directions.

    Args:
        proposals: ``(B, n_a)``, in any floating type and on any device; the result has both.
        projected: of exactly these proposals. It may have been computed elsewhere, such as when acting.
    """
    if tuple(proposals.shape) != projected.point.shape:
        raise InvalidProblem(
            "proposals",
            f"shape {tuple(proposals.shape)}, but {projected.point.shape} were projected",
            "Give those that were projected.",
        )
    point: Tensor = ProjectionFunction.apply(proposals, projected)  # type: ignore[no-untyped-call]
    return point


class ProjectionLayer(nn.Module):
    """The last layer of a policy: whatever the network proposes, a safe action comes out, with the exact gradient.

    It has no parameters. Computation is in float64 on the CPU; results have the type and device of the proposals.
    Rounding to float32 can leave a row by its last digits (1e-7): verify what is executed.

    Args:
        safe_set: a `SafeSet` (rows) or a `ConvexSet` (smooth functions).
        pool: who solves; None makes one that solves in this process.
        time_limit, on_failure: see `project_polytope` and `project_convex`.
    """

    def __init__(
        self,
        safe_set: SafeSet | ConvexSet,
        pool: SolverPool | None = None,
        *,
        time_limit: float | None = None,
        on_failure: OnFailure = "raise",
    ) -> None:
        super().__init__()
        self.safe_set = safe_set
        self.pool = SolverPool() if pool is None else pool
        self.time_limit, self.on_failure = time_limit, on_failure

    def forward(self, proposals: Tensor, observations: Tensor) -> Tensor:
        """Safe actions ``(B, n_a)`` for proposals ``(B, n_a)`` and observations ``(B, n_s)``."""
        return through(proposals, self.project(proposals, observations))

    def project(self, proposals: Tensor, observations: Tensor) -> Projected:
        """What `forward` computes, with multipliers, active set and ``M``; give it to `through` for the tensor."""
        return project(
            self.safe_set,
            _numpy(observations),
            _numpy(proposals),
            self.pool,
            time_limit=self.time_limit,
            on_failure=self.on_failure,
        )


def _numpy(tensor: Tensor) -> Array:
    return tensor.detach().cpu().numpy().astype(np.float64)

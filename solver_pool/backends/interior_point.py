"""The fast engine: a compiled primal-dual interior point for ``max_a Q(s, a)`` over smooth critics.

For every state the program is, with the state folded into the first layer's bias and the polytope
reduced to the unit box ``t`` and the rows that can still cut it::

    min_t -Q(t)   s.t.   R t + w = l,   w >= 0,   0 <= t <= 1

Each iteration solves the primal-dual system, condensed to ``n_a x n_a``::

    (-H + R' (Y/W) R + Z_l/T + Z_u/(1-T) + delta I) dt = rhs

with exact gradient and Hessian of the network, `delta` raised until the matrix is positive definite,
steps cut to the interior and by an Armijo search on the barrier merit function, and the barrier
parameter shrunk superlinearly (Waechter and Biegler 2006, sections 2 and 3.1). A program that ends
with unverified conditions is tried once more with slightly relaxed rows, then given up honestly.

Source: seed 000, Algorithm 1 line 11 and Algorithm 2; figures in benchmarks/critic_argmax.py.
"""

from __future__ import annotations

from functools import lru_cache
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from solver_pool.backends import interior_point_kernel as kernel
from solver_pool.backends.presolve import presolve, restore_duals
from solver_pool.backends.threads import in_slices
from solver_pool.errors import UnsupportedProblem
from solver_pool.options import SolveOptions
from solver_pool.problem import MLP, SMOOTH_ACTIVATIONS, Array, CriticBatch, diagonal_blocks
from solver_pool.solution import BatchSolution, Status, primal_residuals, verified_batch

MAX_ITERATIONS = 200
THREAD_MINIMUM = 48
"""Programs below which a second thread costs more than it saves."""


def solve(problem: CriticBatch, options: SolveOptions) -> BatchSolution:
    """Solve a batch; every answer carries duals and residuals recomputed from the problem.

    Args:
        problem: any depth and number of actions; smooth activations.
        options: `tolerance`, `n_starts` and `seed` are used.

    Raises:
        UnsupportedProblem: for ReLU critics (use ``backend="branch_and_bound"``), and for critics without a
            hidden layer.
    """
    critic = problem.critic
    if critic.activation not in SMOOTH_ACTIVATIONS:
        raise UnsupportedProblem(
            f"activation: the interior-point engine needs curvature; {critic.activation!r} has none. "
            "Use backend='branch_and_bound' or backend='auto'."
        )
    if len(critic.weights) < 2:
        raise UnsupportedProblem(
            "critic: has no hidden layer, so this is a linear program. Use backend='highs'."
        )
    began = perf_counter()
    size, n, m = len(problem), problem.n_actions, problem.n_rows
    reduced = _Reduced(problem, options.tolerance)
    starts, warm = _starts(problem, reduced, options)
    k = starts.shape[1]

    results = (
        np.empty((size, k, n)),  # t
        np.empty((size, k)),  # value
        np.zeros((size, k, m)),  # row duals
        np.empty((size, k, n)),  # lower duals
        np.empty((size, k, n)),  # upper duals
        np.empty((size, k), dtype=np.int64),  # how it ended
        np.empty((size, k), dtype=np.int64),  # iterations
    )
    network = _packed(critic, problem.states.shape[1])

    def run(part: NDArray[np.int64] | slice, relax: float = 0.0) -> None:
        limits = reduced.limits[part]
        if relax:
            limits = limits + relax / np.maximum(reduced.row_scale[part], 1.0)
        out = [np.ascontiguousarray(a[part]) for a in results]
        out = [a.reshape(a.shape[0] * k, *a.shape[2:]) for a in out]
        kernel.solve_items(
            *network,
            reduced.folded[part], reduced.width[part], reduced.rows[part], limits,
            reduced.row_scale[part], reduced.n_rows[part],
            starts[part].reshape(-1, n), warm[part].reshape(-1),
            options.tolerance, MAX_ITERATIONS, *out,
        )  # fmt: skip
        if not isinstance(part, slice):  # a slice's results are views, written in place
            for target, result in zip(results, out, strict=True):
                target[part] = result.reshape(len(part), *target.shape[1:])

    in_slices(run, size, -(-THREAD_MINIMUM // k))
    t, value, rows, lower, upper, ended, iterations = results

    # A polytope without interior defeats an interior point: such programs get rows relaxed by a quarter
    # of the tolerance, which the certificate then has to accept.
    failed = np.flatnonzero((ended != kernel.CONVERGED).all(axis=1) & ~reduced.empty)
    if failed.size:
        run(failed, 0.25 * options.tolerance)

    # The best verified start wins; without one, the best of the others.
    rank = np.where(ended == kernel.CONVERGED, value, np.where(np.isnan(value), -np.inf, value - 1e300))
    pick = (np.arange(size), rank.argmax(axis=1))
    x = np.minimum(np.maximum(reduced.base + reduced.width * t[pick], problem.low), problem.high)
    row_duals, bound_duals = reduced.restore(problem, x, rows[pick], upper[pick] - lower[pick])

    status = np.full(size, Status.FEASIBLE, dtype=np.int8)
    message = ""
    if reduced.empty.any():
        status[reduced.empty] = Status.INFEASIBLE
        x[reduced.empty] = np.nan
        message = "rows and box admit no action"
    converged = (ended == kernel.CONVERGED).any(axis=1) | reduced.empty
    if not converged.all():
        outside = ~(primal_residuals(problem, x) <= options.tolerance)
        message = _explain(problem, np.flatnonzero(outside & ~converged), status, x) or message
    return verified_batch(
        problem,
        x,
        row_duals,
        bound_duals,
        np.full(size, np.inf),
        status,
        tolerance=options.tolerance,
        iterations=iterations.sum(axis=1),
        solve_time=perf_counter() - began,
        backend="interior_point",
        message=message or "no start converged to verified optimality conditions",
    )


class _Reduced:
    """The batch in scaled variables ``a = base + width * t``, and the way back for the duals."""

    def __init__(self, problem: CriticBatch, tolerance: float) -> None:
        size, n, m = len(problem), problem.n_actions, problem.n_rows
        self.G = np.empty((size, m, n))
        self.G[:] = problem.G
        low, high = np.empty((size, n)), np.empty((size, n))
        low[:], high[:] = problem.low, problem.high
        self.rows = np.zeros((size, m, n))
        self.limits = np.zeros((size, m))
        self.row_scale = np.ones((size, m))
        self.row_source = np.zeros((size, m), dtype=np.int64)
        self.n_rows = np.zeros(size, dtype=np.int64)
        self.base, self.width = np.empty((size, n)), np.empty((size, n))
        self.upper_source = np.empty((size, n), dtype=np.int64)
        self.lower_source = np.empty((size, n), dtype=np.int64)
        self.fixed_order = np.zeros((size, n), dtype=np.int64)
        self.n_fixed = np.zeros(size, dtype=np.int64)
        self.empty = np.zeros(size, dtype=np.bool_)
        presolve(
            self.G,
            problem.h,
            low,
            high,
            tolerance,
            self.rows,
            self.limits,
            self.row_scale,
            self.row_source,
            self.n_rows,
            self.base,
            self.width,
            self.upper_source,
            self.lower_source,
            self.fixed_order,
            self.n_fixed,
            self.empty,
        )
        # An empty box has negative width; its program is not solved, but must not poison its neighbours.
        self.width[self.empty] = 0.0
        self.n_rows[self.empty] = 0
        weights, bias = problem.critic.weights[0], problem.critic.biases[0]
        split = problem.states.shape[1]
        self.folded = problem.states @ weights[:, :split].T + self.base @ weights[:, split:].T + bias

    def restore(self, problem: CriticBatch, x: Array, rows: Array, bounds: Array) -> tuple[Array, Array]:
        """Row duals ``(B, m)`` and bound duals ``(B, n_a)`` of the original problem."""
        gradient = problem.values_and_gradients(x)[1] if self.n_fixed.any() else np.zeros_like(x)
        row_duals, bound_duals = np.empty_like(self.limits), np.empty_like(self.base)
        restore_duals(
            self.G, self.row_source, self.n_rows, self.width, self.upper_source, self.lower_source,
            self.fixed_order, self.n_fixed, self.row_scale, rows, bounds, gradient, row_duals, bound_duals,
        )  # fmt: skip
        return row_duals, bound_duals


def _starts(
    problem: CriticBatch, reduced: _Reduced, options: SolveOptions
) -> tuple[Array, NDArray[np.bool_]]:
    """Starting points ``(B, k, n_a)`` in scaled variables: the batch's own, the centre, then a Halton set.

    The drawn points are the same for every state, so that an answer does not depend on its batch.
    """
    size, n = len(problem), problem.n_actions
    given = 0 if problem.starts is None else problem.starts.size // (size * n)
    total = max(options.n_starts, given)
    starts = np.empty((size, total, n))
    starts[:, given:] = _drawn(n, total - given, options.seed) if total > given else 0.0
    if problem.starts is not None:
        points = problem.starts.reshape(size, given, n)
        width = np.where(reduced.width > 0, reduced.width, 1.0)[:, None, :]
        starts[:, :given] = (points - reduced.base[:, None, :]) / width
    warm = np.zeros((size, total), dtype=np.bool_)
    warm[:, :given] = True
    return starts, warm


@lru_cache(maxsize=32)
def _drawn(n: int, count: int, seed: int) -> Array:
    points = qmc.Halton(n, seed=np.random.default_rng(seed)).random(count)
    points[0] = 0.5
    return np.asarray(points)


@lru_cache(maxsize=4)
def _packed(critic: MLP, n_states: int) -> tuple[object, ...]:
    """The network as the flat arrays that the kernel takes; one compiled signature serves every depth.

    Networks are equal only to themselves, so that the last few are remembered by identity.
    """
    hidden = [[w[block] for block in diagonal_blocks(w, critic.blocks)] for w in critic.weights[1:-1]]
    counts = [sum(block.size for block in blocks) for blocks in hidden]
    flat = np.concatenate([b.ravel() for blocks in hidden for b in blocks]) if hidden else np.empty(0)
    transposed = np.concatenate([b.T.ravel() for blocks in hidden for b in blocks]) if hidden else np.empty(0)
    inner = critic.biases[1:-1]
    return (
        kernel.CODES[critic.activation],
        critic.blocks,
        np.array([w.shape[0] for w in critic.weights[:-1]], dtype=np.int64),
        flat,
        transposed,
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        np.concatenate(inner) if inner else np.empty(0),
        np.concatenate([[0], np.cumsum([b.size for b in inner])]).astype(np.int64),
        np.ascontiguousarray(critic.weights[-1][0]),
        float(critic.biases[-1][0]),
        np.ascontiguousarray(critic.weights[0][:, n_states:].T),
    )


def _explain(problem: CriticBatch, which: NDArray[np.int64], status: NDArray[np.int8], x: Array) -> str:
    """Decide by linear programming whether programs without a feasible answer are infeasible; mark them."""
    from scipy.optimize import linprog

    message = ""
    for i in which:
        G = problem.G[i] if problem.G.ndim == 3 else problem.G
        low = np.broadcast_to(problem.low, x.shape)[i]
        high = np.broadcast_to(problem.high, x.shape)[i]
        on = np.isfinite(problem.h[i])
        answer = linprog(
            np.zeros(x.shape[1]),
            A_ub=G[on],
            b_ub=problem.h[i][on],
            bounds=np.stack([low, high], 1),
            method="highs",
        )
        x[i] = np.nan
        if answer.status == 2:
            status[i] = Status.INFEASIBLE
            message = message or f"state {i}: rows and box admit no action"
        else:
            status[i] = Status.ERROR
            message = message or f"state {i}: no start reached a feasible point"
    return message

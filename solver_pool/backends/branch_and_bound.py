"""Certified global optima of ``max_a Q(s, a)``: branch and bound on the box of actions.

With few actions it is cheaper to branch on actions than on neurons: boxes of actions are split, best bound
first, until no box can hold an action better than the best one known by more than the gap. Bounds come from
linear relaxations of the network and the Lagrangian dual of the rows (`branch_and_bound_kernel`), first
candidates from the interior-point engine; what the bound itself excludes is cut off a box before it is split.
Works for ReLU, softplus, tanh, sigmoid and ELU critics of any depth; the effort grows steeply with the number
of actions. So few boxes are left that beginning with those of an earlier solve does not pay (0.8 to 1.4 times
as many to bound, for weights or states that moved by 1e-4 to 1e-2): give an earlier optimum as a start instead.

The bound is a bound in spite of rounding: every interval and line is widened by what floating-point
arithmetic can have lost, from magnitudes that hold on the whole action box (`_margins`).

Source: seed 000, Algorithm 1 line 11 and Algorithm 2 line 2 ask for the global argmax; the method is
spatial branch and bound with the bounds of Zhang et al. (NeurIPS 2018), as measured in benchmarks/certified_argmax.py.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from time import perf_counter

import numpy as np

from solver_pool.backends import branch_and_bound_kernel as kernel
from solver_pool.backends import interior_point
from solver_pool.backends.interior_point_kernel import CODES
from solver_pool.backends.threads import in_slices
from solver_pool.errors import UnsupportedProblem
from solver_pool.options import SolveOptions
from solver_pool.problem import MLP, Array, CriticBatch
from solver_pool.solution import BatchSolution, Status, primal_residuals, verified_batch

NAME = "branch_and_bound"

ROUND = 4096
"""Boxes between two looks at the clock: some 50 ms."""
CAPACITY = 4096
"""Open boxes that fit at first; doubled when they do not."""
LARGEST_CAPACITY = 1 << 22


def solve(problem: CriticBatch, options: SolveOptions = SolveOptions()) -> BatchSolution:
    """Maximise over each state's polytope, with a bound on the global optimum.

    OPTIMAL means that the bound is within ``options.gap * max(1, |objective|)`` of the objective; with
    ``options.time_limit`` [s] for each state, the best known action is FEASIBLE and its bound is as far as the
    search came. `iterations` counts the boxes that were bounded.

    Raises:
        UnsupportedProblem: for a critic without a hidden layer.
    """
    if len(problem.critic.weights) < 2:
        raise UnsupportedProblem(
            "critic: has no hidden layer, so this is a linear program. Use backend='highs'."
        )
    began = perf_counter()
    size = len(problem)
    x, value, row_duals, bound_duals = _candidates(problem, options)
    first = x.copy()
    bound = np.full(size, -np.inf)
    boxes = np.zeros(size, dtype=np.int64)
    status = np.full(size, Status.FEASIBLE, dtype=np.int8)
    search = _Search(problem, options)

    def run(part: slice) -> None:
        for i in range(part.start, part.stop):
            x[i], value[i], bound[i], boxes[i], status[i] = search(i, x[i], value[i])

    in_slices(run, size, 1)
    bound = np.where(status == Status.INFEASIBLE, np.inf, np.maximum(bound, value))
    message = ""
    if (status == Status.INFEASIBLE).any():
        message = "rows and box admit no action"
    elif (status == Status.TIME_LIMIT).any():
        message = "the time limit came before a feasible action"
    # The engine's multipliers belong to the engine's point only.
    same = (first == x).all(axis=1)[:, None]
    result = verified_batch(
        problem,
        x,
        np.where(same, row_duals, 0.0),
        np.where(same, bound_duals, 0.0),
        bound,
        status,
        tolerance=options.tolerance,
        gap_tolerance=options.gap,
        iterations=boxes,
        solve_time=perf_counter() - began,
        backend=NAME,
        message=message,
    )
    # Stationary is not enough here: the caller asked for the gap.
    gap = np.asarray(result.certificate.gap)
    unproven = result.certified & ~(gap <= options.gap * np.maximum(1.0, np.abs(result.objective)))
    return replace(result, status=np.where(unproven, Status.FEASIBLE, result.status).astype(np.int8))


def _candidates(problem: CriticBatch, options: SolveOptions) -> tuple[Array, Array, Array, Array]:
    """First actions ``(B, n_a)`` (NaN if none), their values, and multipliers of rows and bounds.

    Smooth critics ask the interior-point engine. A ReLU critic takes the best of the batch's starts: its
    search finds good vertices at once, and was measured to be as quick without a local solver.
    """
    size, n, m = len(problem), problem.n_actions, problem.n_rows
    if problem.critic.activation != "relu":
        local = interior_point.solve(problem, replace(options, backend="interior_point"))
        value = np.where(local.usable, local.objective, -np.inf)
        return local.x.copy(), value, local.row_duals, local.bound_duals
    x, value = np.full((size, n), np.nan), np.full(size, -np.inf)
    if problem.starts is not None:
        for k in range(problem.starts.size // (size * n)):
            start = np.clip(problem.starts.reshape(size, -1, n)[:, k], problem.low, problem.high)
            worth = np.where(
                primal_residuals(problem, start) <= options.tolerance, problem.values(start), -np.inf
            )
            better = worth > value
            x[better], value[better] = start[better], worth[better]
    return x, value, np.zeros((size, m)), np.zeros((size, n))


class _Search:
    """The branch and bound of each state of a batch; calls for different states may run side by side."""

    def __init__(self, problem: CriticBatch, options: SolveOptions) -> None:
        self.options = options
        size, n, m = len(problem), problem.n_actions, problem.n_rows
        self.n, self.split = n, problem.states.shape[1]
        critic = problem.critic
        self.network = _packed(critic, self.split)
        self.low, self.high = np.empty((size, n)), np.empty((size, n))
        self.low[:], self.high[:] = problem.low, problem.high
        self.G = np.empty((size, m, n))
        self.G[:] = problem.G
        # Whoever computes the rows' activity loses at most this, so rows are relaxed by it.
        extent = np.maximum(np.abs(self.low), np.abs(self.high))
        scale = np.abs(problem.h) + np.einsum("bmn,bn->bm", np.abs(self.G), extent)
        self.h = problem.h + 4.0 * (n + 2) * kernel.ROUNDING * np.where(np.isfinite(scale), scale, 0.0)
        self.folded = problem.states @ critic.weights[0][:, : self.split].T + critic.biases[0]
        self.errors, self.output_error = _margins(critic, problem.states, extent)

    def __call__(self, i: int, x: Array, value: float) -> tuple[Array, float, float, int, Status]:
        """Action, value, bound, boxes and status of state `i`, from a first action `x` (NaN if none)."""
        options, n = self.options, self.n
        ends = np.inf if options.time_limit is None else perf_counter() + options.time_limit
        lows, highs = np.empty((CAPACITY, n)), np.empty((CAPACITY, n))
        keys = np.empty(CAPACITY)
        heap, free = np.zeros(CAPACITY, dtype=np.int64), np.arange(CAPACITY)[::-1].copy()
        lows[0], highs[0], keys[0] = self.low[i], self.high[i], np.inf
        counts = np.array([1, CAPACITY - 1, 0])  # open, free, bounded
        best = x.copy()
        record = np.array([value, -np.inf])
        # A margin on the gap, because it is recomputed from the critic's own value.
        gap = 0.99 * options.gap
        while True:
            ended = kernel.search(
                *self.network, self.folded[i], self.errors[i], self.output_error[i], self.G[i], self.h[i],
                0.5 * options.tolerance, gap, ROUND,
                lows, highs, keys, heap, free, counts, best, record,
            )  # fmt: skip
            if ended == kernel.CLOSED:
                break
            if ended == kernel.FULL:
                more = len(keys)
                if 2 * more > LARGEST_CAPACITY:
                    break
                lows, highs = (np.concatenate([a, np.empty((more, n))]) for a in (lows, highs))
                keys = np.concatenate([keys, np.empty(more)])
                heap = np.concatenate([heap, np.zeros(more, dtype=np.int64)])
                free = np.concatenate([free[: counts[1]], np.arange(more, 2 * more), free[counts[1] :]])
                counts[1] += more
            if perf_counter() >= ends:
                break
        bound = record[1] if counts[0] == 0 else max(record[1], keys[heap[0]])
        if not np.isfinite(record[0]):
            nothing_left = counts[0] == 0 and bound == -np.inf
            status = Status.INFEASIBLE if nothing_left else Status.TIME_LIMIT
            return best, -np.inf, bound, int(counts[2]), status
        return best, float(record[0]), float(bound), int(counts[2]), Status.FEASIBLE


@lru_cache(maxsize=4)
def _packed(critic: MLP, n_states: int) -> tuple[object, ...]:
    """The network as the kernel takes it: the engine's flat arrays, and the absolute weights."""
    activation = critic.activation
    stand_in = critic if activation != "relu" else replace(critic, activation="softplus")
    _, blocks, sizes, flat, transposed, *rest = interior_point._packed(stand_in, n_states)
    code = kernel.RELU if activation == "relu" else CODES[activation]
    return (code, blocks, sizes, flat, transposed, np.abs(np.asarray(transposed)), *rest)


def _margins(critic: MLP, states: Array, extent: Array) -> tuple[Array, Array]:
    """What rounding can cost: of each pre-activation ``(B, layers, w)``, and of the output's bound ``(B,)``.

    With ``|z_1| <= |W_s||s| + |W_a||a| + |b|`` and, as every slope is in [0, 1] and ``|f(0)| <= 1``, ``|h|``
    and all that its lines are made of at most ``3 |z| + 3``, magnitudes follow layer by layer; a sum of k
    terms loses at most ``4 (k + 8) u`` of its magnitude, the factor 4 being room for what the sum's own
    terms have lost. The output's bound is a sum over all layers, whose coefficients are at most
    ``|W_l|' ... |w_L|``.

    Args:
        states: ``(B, n_s)``. extent: ``(B, n_a)``, the largest magnitude of each action.
    """
    sizes = [w.shape[0] for w in critic.weights[:-1]]
    errors = np.zeros((len(states), len(sizes), max(sizes)))
    inputs = np.concatenate([np.abs(states), extent], axis=1)
    magnitudes = []
    for layer, (w, b) in enumerate(zip(critic.weights[:-1], critic.biases[:-1], strict=True)):
        magnitude = inputs @ np.abs(w).T + np.abs(b)
        errors[:, layer, : sizes[layer]] = 4.0 * (w.shape[1] + 8) * kernel.ROUNDING * magnitude
        magnitudes.append(magnitude)
        inputs = 3.0 * magnitude + 3.0
    weight = np.abs(critic.weights[-1][0])
    total = np.full(len(states), abs(float(critic.biases[-1][0])))
    terms = 8 + sum(w.size // w.shape[0] for w in critic.weights)
    for layer in range(len(sizes) - 1, -1, -1):
        total += (3.0 * magnitudes[layer] + 3.0 + np.abs(critic.biases[layer])) @ weight
        weight = weight @ np.abs(critic.weights[layer])
    return errors, 4.0 * terms * kernel.ROUNDING * total

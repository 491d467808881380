"""Certified global optima of ReLU critics by our own MILP, for more actions than branching on the box can take.

The state is folded into the first layer and the box scaled to ``0 <= t <= 1``. Bounds ``l <= zhat <= u`` of every
neuron come from intervals and from linear relaxations propagated backwards (CROWN). A neuron with ``l >= 0`` is
linear and substituted, one with ``u <= 0`` vanishes, and each of the others gets a binary ``d``::

    z >= zhat,   z >= 0,   z <= zhat - l (1 - d),   z <= u d

The MILP starts from a local search: projected gradient steps from many points, then linear programs over the
linear regions of the critic that the best point leads through.

Source: Tjeng, Xiao, Tedrake, Evaluating robustness of neural networks with mixed integer programming, ICLR 2019;
Zhang et al., Efficient neural network robustness certification with general activation functions, NeurIPS 2018.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from solver_pool.backends import active_set, highs, scip
from solver_pool.backends.omlt import inside, verified_incumbents
from solver_pool.errors import UnsupportedProblem
from solver_pool.options import SolveOptions
from solver_pool.problem import MLP, Array, CriticBatch, LinearProgram, MixedIntegerProgram, QuadraticBatch
from solver_pool.solution import BatchSolution, Solution, Status

NAME = "milp"

MARGIN = 1e-10
"""Bounds are widened by this, relative to their size, against rounding."""

SEARCH_POINTS = 32
"""Points from which the local search starts, besides the batch's own."""

SEARCH_STEPS = 30
"""Projected gradient steps of the local search."""

SEARCH_REGIONS = 20
"""Linear regions that the local search may walk through."""


@dataclass(frozen=True)
class FoldedProgram:
    """One state's program in scaled actions: ``max_t Q(t)  s.t.  R t <= l,  0 <= t <= 1``, ``a = low + width t``.

    Attributes:
        critic: of ``t (n_a,)`` alone.
        R, l: ``(m, n_a)`` and ``(m,)``, without the rows that are switched off.
        low, width: ``(n_a,)``, of the box.
    """

    critic: MLP
    R: Array
    l: Array
    low: Array
    width: Array


def fold(problem: CriticBatch, index: int) -> FoldedProgram:
    """The program of one state."""
    critic, state = problem.critic, problem.states[index]
    low = problem.low if problem.low.ndim == 1 else problem.low[index]
    high = problem.high if problem.high.ndim == 1 else problem.high[index]
    G = problem.G if problem.G.ndim == 2 else problem.G[index]
    n_states, on = state.shape[0], np.isfinite(problem.h[index])
    first = critic.weights[0]
    weights = (first[:, n_states:] * (high - low), *critic.weights[1:])
    biases = (first[:, :n_states] @ state + first[:, n_states:] @ low + critic.biases[0], *critic.biases[1:])
    folded = MLP(weights, biases, critic.activation, critic.blocks)
    return FoldedProgram(folded, G[on] * (high - low), (problem.h[index] - G @ low)[on], low, high - low)


# --- Bounds -------------------------------------------------------------------------------------------------


def layer_bounds(critic: MLP) -> list[tuple[Array, Array]]:
    """Bounds of every layer's pre-activations over the box ``[0, 1]``, the output's last; ``(width,)`` each."""
    bounds: list[tuple[Array, Array]] = []
    below, above = np.zeros(critic.n_inputs), np.ones(critic.n_inputs)
    for layer, (w, b) in enumerate(zip(critic.weights, critic.biases, strict=True)):
        positive, negative = np.maximum(w, 0.0), np.minimum(w, 0.0)
        low = positive @ below + negative @ above + b
        high = positive @ above + negative @ below + b
        relaxed_high = _crown_upper(critic, layer, w, b, bounds)
        relaxed_low = -_crown_upper(critic, layer, -w, -b, bounds)
        low, high = np.maximum(low, relaxed_low), np.minimum(high, relaxed_high)
        low, high = low - MARGIN * (1.0 + np.abs(low)), high + MARGIN * (1.0 + np.abs(high))
        bounds.append((low, high))
        below, above = np.maximum(low, 0.0), np.maximum(high, 0.0)
    return bounds


def _crown_upper(critic: MLP, layer: int, w: Array, b: Array, bounds: list[tuple[Array, Array]]) -> Array:
    """Upper bounds of ``w x + b`` over the box, where `x` are the outputs of the layer before `layer`.

    Each ReLU lies between ``alpha z`` and ``u (z - l) / (u - l)``; the coefficients' signs choose the side.
    """
    slope, constant = w, b.copy()
    for before in range(layer - 1, -1, -1):
        low, high = bounds[before]
        unstable = (low < 0.0) & (high > 0.0)
        chord = np.where(unstable, high / np.where(unstable, high - low, 1.0), (low >= 0.0).astype(float))
        tangent = np.where(unstable, (high > -low).astype(float), chord)
        rising, falling = np.maximum(slope, 0.0), np.minimum(slope, 0.0)
        constant += rising @ np.where(unstable, -chord * low, 0.0)
        slope = rising * chord + falling * tangent
        constant += slope @ critic.biases[before]
        slope = slope @ critic.weights[before]
    return np.asarray(constant + np.maximum(slope, 0.0).sum(axis=1))


# --- The MILP -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CriticModel:
    """``min -Q`` as a MILP over ``(t, 1, z and d of every unstable neuron)``.

    Attributes:
        program: the MILP; its objective is ``-Q`` itself, the constant being the cost of the fixed ``1``.
        unstable: per hidden layer, which neurons have a binary.
        bound: on ``Q``, from the relaxations alone.
    """

    program: MixedIntegerProgram
    unstable: list[NDArray[np.intp]]
    bound: float

    @property
    def n_binaries(self) -> int:
        return int(self.program.integer.sum())


def build(folded: FoldedProgram) -> CriticModel:
    """The MILP of one state's program."""
    critic, n = folded.critic, folded.critic.n_inputs
    bounds = layer_bounds(critic)
    unstable = [np.flatnonzero((low < 0.0) & (high > 0.0)) for low, high in bounds[:-1]]
    size = n + 1 + 2 * sum(len(u) for u in unstable)
    one = n  # the variable that is fixed at 1, so that an affine map is a row of coefficients
    low, high = np.zeros(size), np.ones(size)
    low[one] = 1.0
    integer = np.zeros(size, dtype=np.bool_)

    outputs = np.zeros((n, size))  # of the layer before, as rows over the variables
    outputs[:, :n] = np.eye(n)
    rows, limits = [np.pad(folded.R, ((0, 0), (0, size - n)))], [folded.l]
    at = n + 1
    for layer, neurons in enumerate(unstable):
        zhat = critic.weights[layer] @ outputs
        zhat[:, one] += critic.biases[layer]
        least, most = bounds[layer]
        count = len(neurons)
        z, d = np.arange(at, at + count), np.arange(at + count, at + 2 * count)
        at += 2 * count
        high[z], integer[d] = most[neurons], True
        own = np.zeros((count, size))
        own[np.arange(count), z] = 1.0
        above, below = zhat[neurons] - own, own - zhat[neurons]
        below[np.arange(count), d] -= least[neurons]
        capped = own.copy()
        capped[np.arange(count), d] = -most[neurons]
        rows += [above, below, capped]
        limits += [np.zeros(count), -least[neurons], np.zeros(count)]
        outputs = np.where((least >= 0.0)[:, None], zhat, 0.0)
        outputs[neurons] = own
    value = critic.weights[-1][0] @ outputs
    value[one] += critic.biases[-1][0]
    A = csr_matrix(np.concatenate(rows))
    upper = np.concatenate(limits)
    program = MixedIntegerProgram(-value, A, np.full(len(upper), -np.inf), upper, low, high, integer)
    return CriticModel(program, unstable, float(bounds[-1][1][0]))


def point_of(model: CriticModel, critic: MLP, t: Array) -> Array:
    """The values of all variables of the MILP at the actions ``t (n_a,)``."""
    values, x = [t, np.ones(1)], t
    for w, b, neurons in zip(critic.weights[:-1], critic.biases[:-1], model.unstable, strict=True):
        zhat = w @ x + b
        x = np.maximum(zhat, 0.0)
        values += [x[neurons], (zhat[neurons] > 0.0).astype(np.float64)]
    return np.concatenate(values)


# --- The start ----------------------------------------------------------------------------------------------


def local_search(
    folded: FoldedProgram, starts: Array, native: ModuleType, options: SolveOptions
) -> tuple[Array | None, Status]:
    """A good feasible point ``t (n_a,)``, or None with what is known about the program.

    Args:
        starts: ``(k, n_a)``, in scaled actions; they need not be feasible.
        native: the backend whose LPs are used.
    """
    n = folded.critic.n_inputs
    rng = np.random.default_rng(options.seed)
    points = np.concatenate([starts, np.full((1, n), 0.5), rng.uniform(size=(SEARCH_POINTS, n))])
    projected = _project(folded, points, options)
    if not projected.usable.any():
        return None, Status(int(projected.status[0]))
    points, _ = _climb(folded, projected.x[projected.usable], 0.25, options)
    best = points[0]
    value = float(folded.critic(best))
    for _ in range(SEARCH_REGIONS):
        answer = native.solve(_region(folded, best), options)
        if answer.x is None:
            break
        climbed, _ = _climb(folded, answer.x[None], 0.02, options)
        reached = float(folded.critic(climbed[0]))
        if not reached > value + 1e-9 * max(1.0, abs(value)):
            break
        best, value = climbed[0], reached
    return best, Status.FEASIBLE


def _project(folded: FoldedProgram, points: Array, options: SolveOptions) -> BatchSolution:
    """The nearest feasible points to ``points (k, n_a)``."""
    n = points.shape[1]
    limits = np.tile(folded.l, (len(points), 1))
    nearest = QuadraticBatch(np.eye(n), -points, folded.R, limits, np.zeros(n), np.ones(n))
    return active_set.solve(nearest, replace(options, time_limit=None))


def _climb(folded: FoldedProgram, points: Array, step: float, options: SolveOptions) -> tuple[Array, Array]:
    """Projected gradient ascent from feasible ``points (k, n_a)``; points and values, the best first."""
    critic = folded.critic
    value, gradient = critic.value_and_gradient(points)
    steps = np.full(len(points), step)
    for _ in range(SEARCH_STEPS):
        length = np.maximum(np.linalg.norm(gradient, axis=1), 1e-300)
        trial = _project(folded, points + (steps / length)[:, None] * gradient, options)
        tried, slope = critic.value_and_gradient(trial.x)
        better = trial.usable & (tried > value)
        points, value = np.where(better[:, None], trial.x, points), np.where(better, tried, value)
        gradient = np.where(better[:, None], slope, gradient)
        steps = np.where(better, 1.2 * steps, 0.4 * steps)
        if steps.max() < 1e-6:
            break
    order = np.argsort(-value)
    return points[order], value[order]


def _region(folded: FoldedProgram, t: Array) -> LinearProgram:
    """``max Q`` over the part of the feasible set on which every neuron is on the side that it is on at `t`."""
    critic, n = folded.critic, len(t)
    slope, constant = np.eye(n), np.zeros(n)
    rows, limits = [folded.R], [folded.l]
    for w, b in zip(critic.weights[:-1], critic.biases[:-1], strict=True):
        slope, constant = w @ slope, w @ constant + b
        on = slope @ t + constant > 0.0
        sign = np.where(on, -1.0, 1.0)
        rows.append(sign[:, None] * slope)
        limits.append(-sign * constant)
        slope, constant = np.where(on[:, None], slope, 0.0), np.where(on, constant, 0.0)
    A, upper = np.concatenate(rows), np.concatenate(limits)
    ascent = critic.weights[-1][0] @ slope
    return LinearProgram(-ascent, A, np.full(len(upper), -np.inf), upper, np.zeros(n), np.ones(n))


# --- The backend --------------------------------------------------------------------------------------------


def solve(problem: CriticBatch, options: SolveOptions = SolveOptions()) -> BatchSolution:
    """Solve ``max_a Q(s_i, a)  s.t.  G_i a <= h_i,  low_i <= a <= high_i`` globally for a ReLU critic.

    The answer is OPTIMAL where the MILP's bound is within the relative ``options.gap`` of the critic's own value
    at it; the bound is as good as the MILP solver's floating-point arithmetic. ``options.time_limit`` [s] is for
    each state; what is known at the limit, from the local search at least, is FEASIBLE with its bound.
    ``options.native_solver`` is HiGHS (``"auto"``) or SCIP.

    Raises:
        UnsupportedProblem: for other activations, and for Ipopt as the native solver.
        BackendUnavailable: without the native solver's Python package.
    """
    if problem.critic.activation != "relu":
        raise UnsupportedProblem(
            f"activation: a MILP writes ReLU, not {problem.critic.activation!r}. "
            "Use backend='branch_and_bound', which certifies smooth critics."
        )
    if options.native_solver == "ipopt":
        raise UnsupportedProblem("native_solver: 'ipopt' solves no MILP. Use 'highs' or 'scip'.")
    native: ModuleType = scip if options.native_solver == "scip" else highs
    native._library()

    # Unpack.
    size, n, m = len(problem), problem.n_actions, problem.n_rows
    low, high = np.broadcast_to(problem.low, (size, n)), np.broadcast_to(problem.high, (size, n))
    G = np.broadcast_to(problem.G, (size, m, n))
    x, bound = np.full((size, n), np.nan), np.full(size, np.inf)
    status, iterations = np.full(size, Status.ERROR, dtype=np.int8), np.zeros(size, dtype=np.int64)
    messages = [""] * size
    started = time.perf_counter()
    for i in range(size):
        begun = time.perf_counter()
        folded = fold(problem, i)
        scale = np.where(folded.width > 0.0, folded.width, 1.0)
        own = np.empty((0, n)) if problem.starts is None else problem.starts[i].reshape(-1, n)
        local, status[i] = local_search(folded, np.clip((own - low[i]) / scale, 0.0, 1.0), native, options)
        if local is None:
            messages[i] = (
                "rows and box admit no action" if status[i] == Status.INFEASIBLE else "no point found"
            )
            continue

        # Build.
        model = build(folded)
        program = replace(model.program, start=point_of(model, folded.critic, local))

        # Solve.
        remaining = options
        if options.time_limit is not None:
            left = options.time_limit - (time.perf_counter() - begun)
            remaining = replace(options, time_limit=max(left, 1e-3))
        answer: Solution = native.solve(program, remaining)

        # Fill: the better of the two points, and of the two bounds. An infinite one is no bound, whatever its sign.
        iterations[i], messages[i] = answer.iterations, answer.message
        bound[i] = min(model.bound, -answer.bound) if np.isfinite(answer.bound) else model.bound
        candidates = [local] if answer.x is None else [local, answer.x[:n]]
        actions = [
            inside(low[i] + folded.width * t, G[i], problem.h[i], low[i], high[i], options)
            for t in candidates
        ]
        values = folded.critic((np.array(actions) - low[i]) / scale)
        x[i] = actions[int(np.argmax(values))]

    seconds = time.perf_counter() - started
    return verified_incumbents(problem, x, bound, status, messages, iterations, seconds, NAME, options)

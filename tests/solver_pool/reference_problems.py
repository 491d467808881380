"""Reference problems for every backend: random ones, all from a seed, and named ones whose optima are known."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyomo.environ as pyo

from solver_pool.problem import (
    MLP,
    Array,
    CriticBatch,
    LinearProgram,
    MixedIntegerProgram,
    NonlinearProgram,
    QuadraticBatch,
    QuadraticProgram,
    SingleProblem,
)
from solver_pool.solution import Status

INF = np.inf


def random_critic(
    seed: int, n_inputs: int, hidden: tuple[int, ...] = (16, 16), activation: str = "tanh", gain: float = 1.5
) -> MLP:
    """A network with Gaussian weights of standard deviation ``gain / sqrt(fan in)``."""
    rng = np.random.default_rng(seed)
    sizes = (n_inputs, *hidden, 1)
    weights = tuple(
        gain * rng.normal(size=(n_out, n_in)) / np.sqrt(n_in) for n_in, n_out in itertools.pairwise(sizes)
    )
    biases = tuple(0.5 * rng.normal(size=n_out) for n_out in sizes[1:])
    return MLP(weights, biases, activation)


def random_batch(
    seed: int,
    *,
    size: int = 3,
    n_states: int = 4,
    n_actions: int = 3,
    n_rows: int = 3,
    hidden: tuple[int, ...] = (16, 16),
    activation: str = "tanh",
    shared_rows: bool = False,
) -> CriticBatch:
    """Random states and rows around a point inside the box ``[-1, 1]``, so that the set is not empty.

    Each row leaves the point a slack of 0.05 to 0.5: some rows bind at the optimum, some do not.
    """
    rng = np.random.default_rng([seed, 1])
    critic = random_critic(seed, n_states + n_actions, hidden, activation)
    shape = (n_rows, n_actions) if shared_rows else (size, n_rows, n_actions)
    G = rng.normal(size=shape)
    inside = rng.uniform(-0.5, 0.5, size=(size, n_actions))
    per_state = np.broadcast_to(G, (size, n_rows, n_actions))
    h = np.einsum("bmn,bn->bm", per_state, inside) + rng.uniform(0.05, 0.5, size=(size, n_rows))
    return CriticBatch(
        critic, rng.normal(size=(size, n_states)), G, h, -np.ones(n_actions), np.ones(n_actions)
    )


def with_empty_set(batch: CriticBatch, index: int) -> CriticBatch:
    """The batch with two rows of one state made contradictory: ``a_0 <= -0.2`` and ``a_0 >= 0.2``."""
    size, n = len(batch), batch.n_actions
    G = np.zeros((size, batch.n_rows + 2, n))
    G[:, : batch.n_rows] = batch.G
    h = np.concatenate([batch.h, np.full((size, 2), np.inf)], axis=1)
    G[:, -2, 0], G[:, -1, 0] = 1.0, -1.0
    h[index, -2:] = -0.2
    return CriticBatch(batch.critic, batch.states, G, h, batch.low, batch.high, batch.starts)


def grid_optimum(batch: CriticBatch, points: int) -> Array:
    """Best value ``(B,)`` over a dense grid of the box's feasible points: a lower bound on the optimum."""
    best = np.full(len(batch), -np.inf)
    low = np.broadcast_to(batch.low, (len(batch), batch.n_actions))
    high = np.broadcast_to(batch.high, (len(batch), batch.n_actions))
    for i in range(len(batch)):
        axes = [np.linspace(low[i, j], high[i, j], points) for j in range(batch.n_actions)]
        actions = np.stack([axis.ravel() for axis in np.meshgrid(*axes)], axis=1)
        G = batch.G if batch.G.ndim == 2 else batch.G[i]
        actions = actions[(actions @ G.T <= batch.h[i]).all(axis=1)]
        inputs = np.concatenate(
            [np.broadcast_to(batch.states[i], (len(actions), batch.states.shape[1])), actions], 1
        )
        best[i] = batch.critic(inputs).max()
    return best


def random_quadratic(seed: int, n: int, m: int) -> QuadraticProgram:
    """A strictly convex QP whose set is not empty; the first of three or more rows is switched off."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n, n))
    G = rng.normal(size=(m, n))
    h = G @ rng.uniform(-0.5, 0.5, size=n) + rng.uniform(0.0, 0.5, size=m)
    if m >= 3:
        h[0] = np.inf
    return QuadraticProgram(
        root @ root.T + 0.1 * np.eye(n), 3.0 * rng.normal(size=n), G, h, -np.ones(n), np.ones(n)
    )


def random_linear(seed: int, n: int, m: int) -> LinearProgram:
    """A bounded LP whose set is not empty, with one-sided, two-sided and equality rows."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(m, n))
    activity = A @ rng.uniform(-1.0, 1.0, size=n)
    width = rng.uniform(0.1, 1.0, size=(2, m))
    width[:, ::3] = 0.0
    low, high = activity - width[0], activity + width[1]
    low[1::3] = -np.inf
    return LinearProgram(rng.normal(size=n), A, low, high, -2.0 * np.ones(n), 2.0 * np.ones(n))


BATCH_KINDS = ("plain", "degenerate", "parallel", "infeasible", "shared", "projection")


def random_quadratic_batch(seed: int, size: int, n: int, m: int, kind: str) -> QuadraticBatch:
    """Strictly convex QPs around a point inside ``[-1, 1]``, a tenth of their rows switched off.

    Kinds: ``"degenerate"`` has small integer coefficients, duplicate and opposite rows, rows through one point,
    fixed variables and open sides; ``"parallel"`` has rows that are parallel to 1e-9; of ``"infeasible"`` about
    half have no point; ``"shared"`` has one P, G and box for all; ``"projection"`` has the identity for P.
    """
    rng = np.random.default_rng([seed, n, m])
    root = rng.normal(size=(size, n, n))
    P = root @ root.transpose(0, 2, 1) + 0.1 * np.eye(n)
    G, inside = rng.normal(size=(size, m, n)), rng.uniform(-0.5, 0.5, size=(size, n))
    low, high = -np.ones((size, n)), np.ones((size, n))
    slack = rng.uniform(0.0, 0.5, size=(size, m))
    if kind == "degenerate":
        G = rng.integers(-1, 2, size=(size, m, n)).astype(np.float64)
        inside, slack = np.round(4.0 * inside) / 4.0, 0.25 * rng.integers(0, 2, size=(size, m))
        third = m // 3
        G[:, :third], slack[:, :third] = G[:, third : 2 * third], slack[:, third : 2 * third]
        fixed = rng.random(size=(size, n)) < 0.2
        low, high = np.where(fixed, inside, low), np.where(fixed, inside, high)
        low = np.where((rng.random(size=(size, n)) < 0.2) & ~fixed, -INF, low)
        if m > 3:
            G[:, -1], slack[:, -2:] = -G[:, -2], 0.0
    if kind == "parallel":
        half = m // 2
        length = rng.uniform(0.5, 2.0, size=(size, half, 1))
        G[:, :half] = length * G[:, half : 2 * half] + 1e-9 * rng.normal(size=(size, half, n))
    if kind == "infeasible":
        slack -= rng.uniform(0.0, 0.6, size=(size, 1))
    if kind == "shared":
        P, G, low, high = P[0], G[0], low[0], high[0]
    if kind == "projection":
        P = np.eye(n)
    activity = np.einsum("bmn,bn->bm", np.broadcast_to(G, (size, m, n)), inside)
    h = np.where(rng.random(size=(size, m)) < 0.1, INF, activity + slack)
    return QuadraticBatch(P, 3.0 * rng.normal(size=(size, n)), G, h, low, high)


# --- Named problems with known optima ---------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """A problem, how its solve has to end, and its optimum.

    Attributes:
        local: whether a local solver finds the optimum, or can tell that there is no point.
        maximise: the sense of a model; the others minimise.
    """

    problem: SingleProblem
    status: Status = Status.OPTIMAL
    optimum: float = np.nan
    local: bool = True
    maximise: bool = False


def knapsack(seed: int, n: int) -> Reference:
    """``max v'x  s.t.  w'x <= sum(w) / 2``, binary; the optimum by trying everything."""
    rng = np.random.default_rng(seed)
    weight, value = rng.integers(1, 20, n).astype(np.float64), rng.integers(1, 30, n).astype(np.float64)
    choices = np.array(list(itertools.product((0.0, 1.0), repeat=n)))
    limit = weight.sum() // 2
    best = (choices @ value)[choices @ weight <= limit].max()
    return Reference(binary_program(-value, weight[None], [-INF], [limit]), optimum=-best)


def binary_program(c: Array, A: Array, row_low: Any, row_high: Any) -> MixedIntegerProgram:
    n = len(c)
    return MixedIntegerProgram(c, A, row_low, row_high, np.zeros(n), np.ones(n), np.ones(n, dtype=np.bool_))


def assignment(seed: int, n: int) -> Reference:
    """``n`` jobs for ``n`` workers at least cost; the optimum by trying every permutation."""
    cost = np.random.default_rng(seed).uniform(0.0, 10.0, size=(n, n))
    rows = np.zeros((2 * n, n * n))
    for i in range(n):
        rows[i, i * n : (i + 1) * n] = 1.0
        rows[n + i, i::n] = 1.0
    best = min(sum(cost[i, p[i]] for i in range(n)) for p in itertools.permutations(range(n)))
    ones = np.ones(2 * n)
    return Reference(binary_program(cost.ravel(), rows, ones, ones), optimum=float(best))


def facilities(seed: int, sites: int, customers: int) -> Reference:
    """Open sites at a price and serve every customer from open ones; big-M rows; the optimum by trying all."""
    rng = np.random.default_rng(seed)
    price, cost = rng.uniform(2.0, 6.0, sites), rng.uniform(0.0, 5.0, size=(sites, customers))
    n = sites + sites * customers
    rows, low, high = [], [], []
    for j in range(customers):
        row = np.zeros(n)
        row[sites + j :: customers] = 1.0
        rows, low, high = [*rows, row], [*low, 1.0], [*high, 1.0]
    for i in range(sites):
        row = np.zeros(n)
        row[i], row[sites + i * customers : sites + (i + 1) * customers] = -customers, 1.0
        rows, low, high = [*rows, row], [*low, -INF], [*high, 0.0]
    opened = [c for c in itertools.product((0, 1), repeat=sites) if any(c)]
    best = min(price @ c + cost[np.flatnonzero(c)].min(axis=0).sum() for c in opened)
    integer = np.arange(n) < sites
    program = MixedIntegerProgram(
        np.concatenate([price, cost.ravel()]), np.array(rows), low, high, np.zeros(n), np.ones(n), integer
    )
    return Reference(program, optimum=float(best))


def market_split(seed: int, n: int, m: int) -> MixedIntegerProgram:
    """Split a market in halves for ``m`` products at once: minutes and more for branch and bound, even when small.

    Source: Cornuejols and Dawande, A class of hard small 0-1 programs, IPCO 1998.
    """
    A = np.random.default_rng(seed).integers(0, 100, size=(m, n)).astype(np.float64)
    half = np.floor(A.sum(axis=1) / 2.0)
    high = np.concatenate([np.ones(n), np.full(2 * m, INF)])
    rows = np.concatenate([A, np.eye(m), -np.eye(m)], axis=1)
    cost = np.concatenate([np.zeros(n), np.ones(2 * m)])
    return MixedIntegerProgram(cost, rows, half, half, np.zeros(n + 2 * m), high, np.arange(n + 2 * m) < n)


def _model(start: list[float], low: Any = None, high: Any = None) -> Any:
    """A model with variables ``x[1], x[2], ...``."""
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(1, len(start) + 1))
    for i, value in enumerate(start):
        model.x[i + 1].set_value(value)
        model.x[i + 1].setlb(low[i] if isinstance(low, list) else low)
        model.x[i + 1].setub(high[i] if isinstance(high, list) else high)
    model.rows = pyo.ConstraintList()
    return model


def _hs6() -> Reference:
    m = _model([-1.2, 1.0])
    m.cost = pyo.Objective(expr=(1 - m.x[1]) ** 2)
    m.rows.add(10 * (m.x[2] - m.x[1] ** 2) == 0)
    return Reference(NonlinearProgram(m), optimum=0.0)


def _hs12() -> Reference:
    m = _model([0.0, 0.0])
    x, y = m.x[1], m.x[2]
    m.cost = pyo.Objective(expr=0.5 * x**2 + y**2 - x * y - 7 * x - 7 * y)
    m.rows.add(25 - 4 * x**2 - y**2 >= 0)
    return Reference(NonlinearProgram(m), optimum=-30.0)


def _hs14() -> Reference:
    m = _model([2.0, 2.0])
    x, y = m.x[1], m.x[2]
    m.cost = pyo.Objective(expr=(x - 2) ** 2 + (y - 1) ** 2)
    m.rows.add(-0.25 * x**2 - y**2 + 1 >= 0)
    m.rows.add(x - 2 * y + 1 == 0)
    return Reference(NonlinearProgram(m), optimum=9.0 - 2.875 * np.sqrt(7.0))


def _hs29() -> Reference:
    m = _model([1.0, 1.0, 1.0])
    x = m.x
    m.cost = pyo.Objective(expr=-x[1] * x[2] * x[3])
    m.rows.add(-(x[1] ** 2) - 2 * x[2] ** 2 - 4 * x[3] ** 2 + 48 >= 0)
    return Reference(NonlinearProgram(m), optimum=-16.0 * np.sqrt(2.0))


def _hs35() -> Reference:
    m = _model([0.5, 0.5, 0.5], low=0.0)
    x, y, z = m.x[1], m.x[2], m.x[3]
    quadratic = 2 * x**2 + 2 * y**2 + z**2 + 2 * x * y + 2 * x * z
    m.cost = pyo.Objective(expr=9 - 8 * x - 6 * y - 4 * z + quadratic)
    m.rows.add(x + y + 2 * z <= 3)
    return Reference(NonlinearProgram(m), optimum=1.0 / 9.0)


def _hs43() -> Reference:
    m = _model([0.0, 0.0, 0.0, 0.0])
    a, b, c, d = (m.x[i] for i in range(1, 5))
    m.cost = pyo.Objective(expr=a**2 + b**2 + 2 * c**2 + d**2 - 5 * a - 5 * b - 21 * c + 7 * d)
    m.rows.add(8 - a**2 - b**2 - c**2 - d**2 - a + b - c + d >= 0)
    m.rows.add(10 - a**2 - 2 * b**2 - c**2 - 2 * d**2 + a + d >= 0)
    m.rows.add(5 - 2 * a**2 - b**2 - c**2 - 2 * a + b + d >= 0)
    return Reference(NonlinearProgram(m), optimum=-44.0)


def _hs71() -> Reference:
    m = _model([1.0, 5.0, 5.0, 1.0], low=1.0, high=5.0)
    x = m.x
    m.cost = pyo.Objective(expr=x[1] * x[4] * (x[1] + x[2] + x[3]) + x[3])
    m.rows.add(x[1] * x[2] * x[3] * x[4] >= 25)
    m.rows.add(sum(x[i] ** 2 for i in x) == 40)
    return Reference(NonlinearProgram(m), optimum=17.0140173)


def _log_utility() -> Reference:
    """``max sum w_i log x_i  s.t.  sum x_i = 1``: the shares are the weights."""
    weight = [0.2, 0.3, 0.5]
    m = _model([0.3, 0.3, 0.4], low=1e-3)
    m.utility = pyo.Objective(
        expr=sum(w * pyo.log(m.x[i + 1]) for i, w in enumerate(weight)), sense=pyo.maximize
    )
    m.rows.add(sum(m.x[i] for i in m.x) == 1)
    return Reference(NonlinearProgram(m), optimum=sum(w * np.log(w) for w in weight), maximise=True)


def _refraction() -> Reference:
    """The quickest way through two media; the optimum from a fine grid."""
    m = _model([1.0], low=0.0, high=2.0)
    x, at = m.x[1], np.linspace(0.0, 2.0, 2_000_001)
    m.time = pyo.Objective(expr=pyo.sqrt(1 + x**2) + 1.5 * pyo.sqrt(1 + (2 - x) ** 2))
    best = (np.sqrt(1 + at**2) + 1.5 * np.sqrt(1 + (2 - at) ** 2)).min()
    return Reference(NonlinearProgram(m), optimum=float(best))


def _valleys() -> Reference:
    """A wave over a parabola: several local optima, the start beside a wrong one; the optimum from a fine grid."""
    m = _model([3.0], low=-4.0, high=4.0)
    x, at = m.x[1], np.linspace(-4.0, 4.0, 2_000_001)
    m.cost = pyo.Objective(expr=pyo.sin(4 * x) + x**2 / 8 + pyo.tanh(x) / 2 + abs(x) / 9)
    best = (np.sin(4 * at) + at**2 / 8 + np.tanh(at) / 2 + np.abs(at) / 9).min()
    return Reference(NonlinearProgram(m), optimum=float(best), local=False)


def _pooling() -> Reference:
    """Haverly's first pooling problem (1978); the best profit is 400, and 0 and 100 are local optima."""
    m = _model([0.0] * 6 + [1.0], low=[0.0] * 6 + [1.0], high=[300.0] * 6 + [3.0])
    a, b, cx, cy, px, py, q = (m.x[i] for i in range(1, 8))
    profit = 9 * (px + cx) + 15 * (py + cy) - 6 * a - 16 * b - 10 * (cx + cy)
    m.profit = pyo.Objective(expr=profit, sense=pyo.maximize)
    m.rows.add(px + py == a + b)
    m.rows.add(q * (px + py) == 3 * a + b)
    m.rows.add(q * px + 2 * cx <= 2.5 * (px + cx))
    m.rows.add(q * py + 2 * cy <= 1.5 * (py + cy))
    m.rows.add(px + cx <= 100)
    m.rows.add(py + cy <= 200)
    return Reference(NonlinearProgram(m), optimum=400.0, maximise=True, local=False)


def circle_packing(count: int) -> NonlinearProgram:
    """``count`` equal circles in the unit square, their radius as large as can be."""
    m = _model([0.5] * (2 * count + 1), low=0.0, high=1.0)
    radius = m.x[2 * count + 1]
    m.radius = pyo.Objective(expr=radius, sense=pyo.maximize)
    for i in range(1, 2 * count + 1):
        m.rows.add(m.x[i] >= radius)
        m.rows.add(m.x[i] <= 1 - radius)
    for i, j in itertools.combinations(range(count), 2):
        dx, dy = m.x[2 * i + 1] - m.x[2 * j + 1], m.x[2 * i + 2] - m.x[2 * j + 2]
        m.rows.add(dx**2 + dy**2 >= 4 * radius**2)
    return NonlinearProgram(m)


def _two_circles() -> Reference:
    best = 1.0 / (2.0 + np.sqrt(2.0))
    return Reference(circle_packing(2), optimum=best, maximise=True, local=False)


def _integer_wave() -> Reference:
    """An integer times a sine; the optimum from a fine grid for each integer."""
    m = _model([0.5], low=-3.0, high=3.0)
    m.n = pyo.Var(domain=pyo.Integers, bounds=(0, 4))
    x = m.x[1]
    m.gain = pyo.Objective(expr=m.n * pyo.sin(3 * x) - x**2 / 4 + pyo.exp(-m.n), sense=pyo.maximize)
    m.rows.add(m.n * x <= 1.5)
    at, whole = np.linspace(-3.0, 3.0, 1_000_001)[:, None], np.arange(5.0)
    value = np.where(whole * at <= 1.5, whole * np.sin(3 * at) - at**2 / 4 + np.exp(-whole), -INF)
    return Reference(NonlinearProgram(m), optimum=float(value.max()), maximise=True, local=False)


def _integer_ratio() -> Reference:
    """A ratio of integers closest to pi; the optimum by trying all."""
    m = pyo.ConcreteModel()
    m.p, m.q = pyo.Var(domain=pyo.Integers, bounds=(1, 30)), pyo.Var(domain=pyo.Integers, bounds=(1, 9))
    m.distance = pyo.Objective(expr=(m.p / m.q - np.pi) ** 2)
    best = min((p / q - np.pi) ** 2 for p in range(1, 31) for q in range(1, 10))
    return Reference(NonlinearProgram(m), optimum=best)


def _integer_product() -> Reference:
    """A product of integers closest to 20.5; SCIP 10.0 by itself calls 72.25 the optimum."""
    m = pyo.ConcreteModel()
    m.p, m.q = pyo.Var(domain=pyo.Integers, bounds=(1, 30)), pyo.Var(domain=pyo.Integers, bounds=(1, 9))
    m.distance = pyo.Objective(expr=(m.p * m.q - 20.5) ** 2)
    return Reference(NonlinearProgram(m), optimum=0.25)


def _disjoint_disc() -> Reference:
    m = _model([1.0, 0.0], low=-2.0, high=2.0)
    m.cost = pyo.Objective(expr=m.x[1])
    m.rows.add(m.x[1] ** 2 + m.x[2] ** 2 <= 1)
    m.rows.add(m.x[1] + m.x[2] >= 2)
    return Reference(NonlinearProgram(m), Status.INFEASIBLE, local=False)


def _contradictory_rows() -> Reference:
    m = _model([0.0, 0.0], low=-2.0, high=2.0)
    m.cost = pyo.Objective(expr=m.x[1] ** 2)
    m.rows.add(m.x[1] + m.x[2] >= 1)
    m.rows.add(m.x[1] + m.x[2] <= 0)
    return Reference(NonlinearProgram(m), Status.INFEASIBLE)


def _impossible_constant() -> Reference:
    m = _model([0.0], low=-2.0, high=2.0)
    m.fixed = pyo.Var()
    m.fixed.fix(2.0)
    m.cost = pyo.Objective(expr=m.x[1] ** 2)
    m.rows.add(m.fixed**2 <= 3)
    return Reference(NonlinearProgram(m), Status.INFEASIBLE)


def _endless_valley() -> Reference:
    m = _model([0.0, 1.0], low=[None, 0.0])
    m.cost = pyo.Objective(expr=m.x[1] - m.x[2] ** 2)
    return Reference(NonlinearProgram(m), Status.UNBOUNDED)


def _linear(c: Any, A: Any, row_low: Any, row_high: Any, low: Any, high: Any) -> LinearProgram:
    return LinearProgram(c, np.array(A, dtype=np.float64), row_low, row_high, low, high)


def _mixed(c: Any, A: Any, row_low: Any, row_high: Any, low: Any, high: Any, integer: Any) -> Any:
    A = np.array(A, dtype=np.float64)
    return MixedIntegerProgram(c, A, row_low, row_high, low, high, np.array(integer, dtype=np.bool_))


REFERENCES: dict[str, Callable[[], Reference]] = {
    "LP corner": lambda: Reference(
        _linear([-1.0, -2.0], [[1.0, 1.0]], [-INF], [1.0], [0.0, 0.0], [1.0, 0.25]), optimum=-1.25
    ),
    "LP equality": lambda: Reference(
        _linear([1.0, 3.0], [[1.0, 1.0]], [2.0], [2.0], [-INF, -INF], [1.5, INF]), optimum=3.0
    ),
    "LP degenerate": lambda: Reference(
        _linear(
            [-1.0, -1.0], [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 1.0]], [-INF] * 4, [1.0, 2.0, 1.0, 2.0],
            [0.0, 0.0], [INF, INF],
        ), optimum=-2.0,
    ),
    "LP without rows": lambda: Reference(
        _linear([-1.0], np.zeros((0, 1)), [], [], [0.0], [2.0]), optimum=-2.0
    ),
    "LP infeasible": lambda: Reference(
        _linear([1.0], [[1.0], [1.0]], [1.0, -INF], [INF, 0.5], [-INF], [INF]), Status.INFEASIBLE
    ),
    "LP unbounded": lambda: Reference(
        _linear([-1.0, 0.0], [[1.0, -1.0]], [-1.0], [1.0], [0.0, 0.0], [INF, INF]), Status.UNBOUNDED
    ),
    "knapsack": lambda: knapsack(0, 12),
    "assignment": lambda: assignment(1, 5),
    "facilities": lambda: facilities(2, 5, 6),
    "MILP equality": lambda: Reference(  # 3 x + 5 y = 29 has the solutions (3, 4) and (8, 1)
        _mixed([1.0, 1.0, 0.5], [[3.0, 5.0, 0.0]], [29.0], [29.0], [0, 0, 0.5], [20, 20, 1], [1, 1, 0]),
        optimum=7.25,
    ),
    "MILP without integers": lambda: Reference(
        _mixed([-1.0, -2.0], [[1.0, 1.0]], [-INF], [1.0], [0.0, 0.0], [1.0, 0.25], [0, 0]), optimum=-1.25
    ),
    "MILP with a fraction only": lambda: Reference(
        _mixed([-1.0], [[2.0]], [1.0], [1.0], [0.0], [5.0], [1]), Status.INFEASIBLE
    ),
    "MILP infeasible": lambda: Reference(
        _mixed([1.0, 0.0], [[1.0, 1.0], [1.0, 1.0]], [3.0, -INF], [INF, 2.0], [0, 0], [5, 5], [1, 0]),
        Status.INFEASIBLE,
    ),
    "MILP unbounded": lambda: Reference(
        _mixed([-1.0, 0.0], [[1.0, -1.0]], [-1.0], [1.0], [0.0, 0.0], [INF, INF], [1, 0]), Status.UNBOUNDED
    ),
    "HS6": _hs6, "HS12": _hs12, "HS14": _hs14, "HS29": _hs29, "HS35": _hs35, "HS43": _hs43, "HS71": _hs71,
    "log utility": _log_utility, "refraction": _refraction, "valleys": _valleys, "pooling": _pooling,
    "two circles": _two_circles, "integer wave": _integer_wave, "integer ratio": _integer_ratio,
    "integer product": _integer_product,
    "disjoint disc": _disjoint_disc, "contradictory rows": _contradictory_rows,
    "impossible constant": _impossible_constant, "endless valley": _endless_valley,
}  # fmt: skip
"""Every named problem. HS is W. Hock and K. Schittkowski, Test Examples for Nonlinear Programming Codes, 1981."""

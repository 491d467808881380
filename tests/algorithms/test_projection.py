"""The projection layer: points equal to DAQP's and Ipopt's, gradients to finite differences, and what fails is told."""

from __future__ import annotations

import copy
import itertools
import pickle
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyomo.environ as pyo
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.common.projection import (
    ConvexSet,
    EmptySafeSet,
    Projected,
    ProjectionLayer,
    ProjectionUnfinished,
    level_sensitivity,
    project,
    project_convex,
    project_polytope,
    through,
)
from solver_pool.backends import active_set_kernel, solve
from solver_pool.errors import InvalidProblem
from solver_pool.options import SolveOptions
from solver_pool.pool import SolverPool
from solver_pool.problem import Array, NonlinearProgram, QuadraticBatch
from solver_pool.solution import Status

INF = np.inf
POOL = SolverPool()
STEP = 1e-6
"""Of finite differences."""


@dataclass(frozen=True)
class Rows:
    """Rows that each leave a point of the box ``[-1, 1]`` a slack of 0.05 to 0.5; proposals near and far from it."""

    proposals: Array
    G: Array
    h: Array
    low: Array
    high: Array

    def project(self, proposals: Array | None = None, **options: Any) -> Projected:
        wanted = self.proposals if proposals is None else proposals
        return project_polytope(wanted, self.G, self.h, self.low, self.high, POOL, **options)


def random_rows(seed: int, size: int, n: int, m: int, *, shared: bool = False, spread: float = 2.0) -> Rows:
    rng = np.random.default_rng(seed)
    G = rng.normal(size=(m, n) if shared else (size, m, n))
    inside = rng.uniform(-0.5, 0.5, size=(size, n))
    h = np.einsum("bmn,bn->bm", np.broadcast_to(G, (size, m, n)), inside) + rng.uniform(
        0.05, 0.5, size=(size, m)
    )
    h[rng.uniform(size=h.shape) < 0.1] = INF
    away = spread * rng.uniform(size=(size, 1)) ** 2 * rng.normal(size=(size, n))
    return Rows(inside + away, G, h, -np.ones(n), np.ones(n))


def differences(solve_at: Any, proposals: Array) -> Array:
    """Central differences ``du/dpi (B, n, n)`` of a projection."""
    columns = []
    for j in range(proposals.shape[1]):
        shift = STEP * np.eye(proposals.shape[1])[j]
        columns.append((solve_at(proposals + shift).point - solve_at(proposals - shift).point) / (2.0 * STEP))
    return np.stack(columns, axis=2)


# --- Polytopes: the point -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m", "shared"), [(1, 2, False), (3, 6, False), (3, 9, True), (12, 24, False)])
def test_points_and_multipliers_equal_daqp(n: int, m: int, shared: bool) -> None:
    rows = random_rows(n, 1500, n, m, shared=shared)
    found = rows.project()
    reference = solve(
        QuadraticBatch(np.eye(n), -rows.proposals, rows.G, rows.h, rows.low, rows.high),
        SolveOptions(backend="daqp"),
    )
    assert found.solved.all()
    np.testing.assert_allclose(found.point, reference.x, rtol=0, atol=1e-9)
    # Random rows are independent: multipliers are unique.
    np.testing.assert_allclose(found.multipliers, reference.row_duals, rtol=0, atol=1e-7)
    np.testing.assert_allclose(found.bound_multipliers, reference.bound_duals, rtol=0, atol=1e-7)
    np.testing.assert_array_equal(found.active, found.multipliers > 1e-9)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 6), m=st.integers(0, 10), spread=st.floats(0.1, 20.0))
def test_projections_are_idempotent_and_never_expand(seed: int, n: int, m: int, spread: float) -> None:
    one, other = random_rows(seed, 6, n, m, spread=spread), random_rows(seed + 1, 6, n, m, spread=spread)
    a, b = one.project(), one.project(other.proposals)
    distance = np.linalg.norm(a.point - b.point, axis=1)
    assert (distance <= np.linalg.norm(one.proposals - other.proposals, axis=1) + 1e-12).all()
    np.testing.assert_allclose(one.project(a.point).point, a.point, rtol=0, atol=1e-12)
    # The derivative is an orthogonal projector.
    np.testing.assert_array_equal(a.M, a.M.transpose(0, 2, 1))
    np.testing.assert_allclose(a.M @ a.M, a.M, atol=1e-12)
    np.testing.assert_allclose(np.trace(a.M, axis1=1, axis2=2), n - rank_of_active(a, one.G), atol=1e-9)


def rank_of_active(projected: Projected, G: Array) -> Array:
    n = projected.point.shape[1]
    ranks = []
    for b in range(len(projected.point)):
        rows = (G if G.ndim == 2 else G[b])[projected.active[b]]
        ranks.append(np.linalg.matrix_rank(np.concatenate([rows, np.eye(n)[projected.active_bounds[b]]])))
    return np.array(ranks, dtype=np.float64)


@dataclass(frozen=True)
class Levels:
    """A safe set of constant rows whose levels are the observation."""

    of: Rows

    @property
    def low(self) -> Array:
        return self.of.low

    @property
    def high(self) -> Array:
        return self.of.high

    def rows(self, observations: Array) -> tuple[Array, Array]:
        return self.of.G, observations

    def executable(self, actions: Array) -> Array:
        return actions

    def fallback(self, observations: Array) -> Array:
        raise NotImplementedError


# --- Polytopes: the derivative --------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (3, 6), (6, 12)])
def test_gradcheck_on_batches_with_mixed_active_sets(n: int, m: int) -> None:
    rows = random_rows(7, 60, n, m)
    found = rows.project()
    assert found.differentiable.all()
    active = Counter((found.active.sum(axis=1) + found.active_bounds.sum(axis=1)).tolist())
    assert {0, 1, n} <= set(active), active  # free, on a face, and fully blocked: M = I and M = 0 among them
    assert (found.M[found.active.sum(axis=1) + found.active_bounds.sum(axis=1) == n] == 0.0).all()
    assert (found.M[~found.active.any(axis=1) & ~found.active_bounds.any(axis=1)] == np.eye(n)).all()

    def layer(proposals: torch.Tensor) -> torch.Tensor:
        return through(proposals, rows.project(proposals.detach().numpy()))

    assert torch.autograd.gradcheck(
        layer, torch.tensor(rows.proposals, requires_grad=True), eps=STEP, atol=1e-8
    )
    np.testing.assert_allclose(differences(rows.project, rows.proposals), found.M, atol=1e-8)


def test_backward_is_m_times_the_gradient_and_nothing_else() -> None:
    """Rows and levels made from tensors with a gradient get none, and there is no second derivative to be wrong."""
    rows = random_rows(3, 8, 3, 6)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    observations = torch.tensor(rows.h, requires_grad=True)

    proposals = torch.tensor(rows.proposals, requires_grad=True)
    layer = ProjectionLayer(Levels(rows))
    out = layer(proposals, observations * scale)
    found = layer.project(proposals, observations)
    weights = torch.tensor(np.random.default_rng(0).normal(size=(8, 3)))
    by_proposals, by_observations, by_scale = torch.autograd.grad(
        (out * weights).sum(), (proposals, observations, scale), create_graph=True, allow_unused=True
    )
    np.testing.assert_allclose(
        by_proposals.detach().numpy(), np.einsum("bij,bj->bi", found.M, weights.numpy()), atol=1e-15
    )
    assert by_observations is None
    assert by_scale is None
    with pytest.raises(RuntimeError, match="once_differentiable"):
        torch.autograd.grad((layer(proposals, observations) ** 2).sum(), proposals, create_graph=True)[
            0
        ].sum().backward()


def test_levels_that_move_with_the_state() -> None:
    """The sensitivity of spec section 3: ``du/dx = M dpi/dx + C'(C C')^-1 dd/dx``, by finite differences."""
    rows = random_rows(11, 40, 3, 6)
    found = rows.project()
    rng = np.random.default_rng(0)
    d_proposals, d_levels = rng.normal(size=(40, 3, 2)), rng.normal(size=(40, 6, 2))
    predicted = found.M @ d_proposals + level_sensitivity(found, rows.G) @ d_levels

    def at(shift: Array) -> Array:
        h = rows.h + d_levels @ shift
        return project_polytope(
            rows.proposals + d_proposals @ shift, rows.G, h, rows.low, rows.high, POOL
        ).point

    for j, shift in enumerate(STEP * np.eye(2)):
        measured = (at(shift) - at(-shift)) / (2.0 * STEP)
        np.testing.assert_allclose(measured, predicted[:, :, j], atol=1e-7)
    assert (found.active.sum(axis=1) >= 2).any()
    assert (found.active_bounds & found.active.any(axis=1)[:, None]).any()


def test_single_precision_in_and_out_computed_in_double() -> None:
    rows = random_rows(5, 16, 3, 6)
    proposals = torch.tensor(rows.proposals, dtype=torch.float32, requires_grad=True)
    found = rows.project(proposals.detach().numpy())
    out = through(proposals, found)
    out.sum().backward()
    assert out.dtype == torch.float32
    assert proposals.grad is not None
    assert proposals.grad.dtype == torch.float32
    np.testing.assert_array_equal(out.detach().numpy(), found.point.astype(np.float32))
    np.testing.assert_array_equal(proposals.grad.numpy(), found.M.sum(axis=2).astype(np.float32))


# --- Degenerate, dependent and weakly active ------------------------------------------------------------------

PYRAMID = np.array([[1.0, 0.0, 1.0], [-1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [0.0, -1.0, 1.0]])
"""Four faces that meet in one point: three actions, four rows."""


def one(proposal: list[float], G: Any, h: list[float], low: float = -INF, high: float = INF) -> Projected:
    n = len(proposal)
    return project_polytope(
        np.array([proposal]), np.array(G, dtype=float).reshape(-1, n), np.array([h]), np.full(n, low),
        np.full(n, high), POOL,
    )  # fmt: skip


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::5])
def test_at_the_tip_of_a_pyramid_two_rows_carry_the_multipliers_and_four_block(
    order: tuple[int, ...],
) -> None:
    found = one([0.0, 0.0, 1.0], PYRAMID[list(order)], [0.0] * 4)
    np.testing.assert_allclose(found.point, 0.0, atol=1e-15)
    assert (found.multipliers[0] > 0.0).sum() <= 3  # what a solver returns is one choice of many
    assert found.active[0].all()
    np.testing.assert_array_equal(found.M[0], 0.0)  # the tip stays the closest point all around the proposal
    assert found.differentiable[0]
    moved = project_polytope(
        np.array([[0.0, 0.0, 1.0]]) + 1e-3 * np.random.default_rng(0).normal(size=(50, 3)),
        PYRAMID, np.zeros((50, 4)), np.full(3, -INF), np.full(3, INF), POOL,
    )  # fmt: skip
    np.testing.assert_allclose(moved.point, 0.0, atol=1e-15)


def test_dependent_rows_change_nothing() -> None:
    """A row repeated, scaled, and added to another one: the same point and the same M."""
    plain = one([1.0, 1.0, 0.3], [[1.0, 1.0, 0.0]], [1.0])
    G = [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [1e-6, 1e-6, 0.0], [1e6, 1e6, 0.0], [2.0, 2.0, 0.0]]
    repeated = one([1.0, 1.0, 0.3], G, [1.0, 1.0, 1e-6, 1e6, 2.0])
    np.testing.assert_allclose(repeated.point, plain.point, atol=1e-14)
    np.testing.assert_allclose(repeated.M, plain.M, atol=1e-14)
    assert repeated.active.all()
    assert repeated.differentiable.all()
    for scale in (
        1e-10,
        1e12,
    ):  # a multiplier is as large as its row is short: it is their product that counts
        scaled = one([1.0, 1.0, 0.3], [[scale, scale, 0.0]], [scale])
        np.testing.assert_allclose(scaled.M, plain.M, atol=1e-14)
        assert scaled.active.all()
    corner = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0]]
    np.testing.assert_array_equal(
        one([3.0, 2.0, 0.3], corner, [1.0, 1.0, 2.0]).M[0], np.diag([0.0, 0.0, 1.0])
    )


@pytest.mark.parametrize("beyond", [0.4, 0.0, -0.4])
def test_two_rows_that_make_an_equality_are_one(beyond: float) -> None:
    """On either side of the plane and on it, where no multiplier is positive in the solver's choice."""
    found = one([0.5 + beyond, 0.5 + beyond], [[1.0, 1.0], [-1.0, -1.0]], [1.0, -1.0])
    np.testing.assert_allclose(found.point[0], [0.5, 0.5], atol=1e-15)
    np.testing.assert_allclose(found.M[0], [[0.5, -0.5], [-0.5, 0.5]], atol=1e-15)
    assert found.active.all()
    assert found.differentiable.all()


def test_an_action_that_is_fixed_has_no_derivative() -> None:
    for proposal in (0.25, 0.7):
        found = project_polytope(
            np.array([[proposal, 0.1]]), np.zeros((0, 2)), np.zeros((1, 0)), np.array([0.25, -1.0]),
            np.array([0.25, 1.0]), POOL,
        )  # fmt: skip
        np.testing.assert_array_equal(found.M[0], np.diag([0.0, 1.0]))
        np.testing.assert_array_equal(found.active_bounds, [[True, False]])
        assert found.differentiable.all()


def test_a_weakly_active_row_is_left_out_and_told() -> None:
    """A proposal on the boundary: the derivative is that of the side where the row does not bind."""
    found = one([0.5, 0.5], [[1.0, 1.0], [1.0, 0.0]], [1.0, 2.0])
    np.testing.assert_array_equal(found.M[0], np.eye(2))
    assert not found.active.any()
    assert not found.differentiable[0]
    inwards = one([0.5 - 1e-4, 0.5 - 2e-4], [[1.0, 1.0], [1.0, 0.0]], [1.0, 2.0])
    np.testing.assert_allclose(
        inwards.point - found.point, found.M[0] @ [-1e-4, -2e-4] + [[0.0, 0.0]], atol=1e-15
    )
    # Beside a strictly active row: that one alone projects.
    beside = one([1.0, 0.5], [[1.0, 0.0], [0.0, 1.0]], [0.5, 0.5])
    np.testing.assert_array_equal(beside.M[0], np.diag([0.0, 1.0]))
    np.testing.assert_array_equal(beside.active, [[True, False]])
    assert not beside.differentiable[0]
    # A bound likewise.
    bound = one([1.0, 2.0], [], [], -1.0, 1.0)
    np.testing.assert_array_equal(bound.M[0], np.diag([1.0, 0.0]))
    assert not bound.differentiable[0]


small = st.integers(-2, 2)


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(1, 3),
    coefficients=st.lists(small, min_size=15, max_size=15),
    limits=st.lists(st.integers(0, 2), min_size=5, max_size=5),
    point=st.lists(st.integers(-3, 3), min_size=3, max_size=3),
    shuffle=st.permutations(range(5)),
    scales=st.lists(st.sampled_from([1e-3, 0.5, 1.0, 7.0, 1e3]), min_size=5, max_size=5),
)
def test_small_integers_make_every_degeneracy_and_m_is_the_derivative(
    n: int,
    coefficients: list[int],
    limits: list[int],
    point: list[int],
    shuffle: list[int],
    scales: list[float],
) -> None:
    G = np.array(coefficients, dtype=np.float64).reshape(5, 3)[:, :n]
    h, proposal = np.array([limits], dtype=np.float64), np.array([point[:n]], dtype=np.float64)
    box = -np.ones(n), np.ones(n)
    found = project_polytope(proposal, G, h, *box, POOL)
    # The order and the scale of the rows are no property of the set, nor is a row that is there twice.
    again = np.array([*shuffle, shuffle[0]])
    scale = np.array([scales[i] for i in again])
    other = project_polytope(proposal, G[again] * scale[:, None], h[:, again] * scale, *box, POOL)
    np.testing.assert_allclose(other.point, found.point, atol=1e-12)
    np.testing.assert_allclose(other.M, found.M, atol=1e-9)
    np.testing.assert_array_equal(other.active, found.active[:, again])
    np.testing.assert_array_equal(other.differentiable, found.differentiable)
    directions = np.random.default_rng(0).normal(size=(40, n))
    shifted = project_polytope(proposal + STEP * directions, G, np.repeat(h, 40, axis=0), *box, POOL)
    slope = (shifted.point - found.point) / STEP
    error = np.abs(slope - directions @ found.M[0]).max(axis=1)
    if found.differentiable[0]:
        assert error.max() <= 1e-8
    else:
        # A kink: M is right wherever the weakly active constraints do not bind, and somewhere they do.
        normals = np.concatenate([G, -np.eye(n), np.eye(n)])
        room = np.concatenate([h[0] - G @ found.point[0], found.point[0] + 1.0, 1.0 - found.point[0]])
        strict = np.concatenate([found.active[0], found.active_bounds[0], found.active_bounds[0]])
        weak = normals[(room <= 1e-9) & ~strict & (normals != 0.0).any(axis=1)]
        clear = ((directions @ found.M[0]) @ weak.T <= 0.0).all(axis=1)
        assert error[clear].max(initial=0.0) <= 1e-8
        blocked = ((directions @ found.M[0]) @ weak.T > 1e-3).any(axis=1)
        assert (error[blocked] > 1e-8).all()


def test_many_degenerate_entries_in_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("algorithms.common.projection.PAIRS", 7)
    proposals = np.tile([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.1, 0.2, 1.0]], (5, 1))
    found = project_polytope(proposals, PYRAMID, np.zeros((20, 4)), np.full(3, -INF), np.full(3, INF), POOL)
    np.testing.assert_array_equal(found.M[::4], 0.0)
    np.testing.assert_array_equal(found.M[1::4], np.broadcast_to(np.eye(3), (5, 3, 3)))
    np.testing.assert_array_equal(found.M[3::4], 0.0)
    normal = PYRAMID[0] / np.sqrt(2.0)
    np.testing.assert_allclose(found.M[2], np.eye(3) - np.outer(normal, normal), atol=1e-15)


# --- Smooth convex sets ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ellipsoids:
    """``(u - c_i)'E_i (u - c_i) <= x``, with the first observation as the squared radius."""

    E: Array
    c: Array
    low: Array = field(default_factory=lambda: np.full(3, -INF))
    high: Array = field(default_factory=lambda: np.full(3, INF))

    def value(self, observations: Array, actions: Array) -> Array:
        away = actions[:, None] - self.c
        return np.einsum("bmi,mij,bmj->bm", away, self.E, away) - observations[:, :1]

    def jacobian(self, observations: Array, actions: Array) -> Array:
        return 2.0 * np.einsum("mij,bmj->bmi", self.E, actions[:, None] - self.c)

    def hessian(self, observations: Array, actions: Array, multipliers: Array) -> Array:
        return 2.0 * np.einsum("bm,mij->bij", multipliers, self.E)


@dataclass(frozen=True)
class Exponential:
    """``exp(2 u_0) + u_1^4 <= x`` and ``u_0 + u_1 <= 1``, inside ``[-3, 3]^2``: far from quadratic."""

    low: Array = field(default_factory=lambda: np.full(2, -3.0))
    high: Array = field(default_factory=lambda: np.full(2, 3.0))

    def value(self, observations: Array, actions: Array) -> Array:
        return np.stack(
            [
                np.exp(2.0 * actions[:, 0]) + actions[:, 1] ** 4 - observations[:, 0],
                actions.sum(axis=1) - 1.0,
            ],
            axis=1,
        )

    def jacobian(self, observations: Array, actions: Array) -> Array:
        first = np.stack([2.0 * np.exp(2.0 * actions[:, 0]), 4.0 * actions[:, 1] ** 3], axis=1)
        return np.stack([first, np.ones_like(first)], axis=1)

    def hessian(self, observations: Array, actions: Array, multipliers: Array) -> Array:
        out = np.zeros((len(actions), 2, 2))
        out[:, 0, 0] = multipliers[:, 0] * 4.0 * np.exp(2.0 * actions[:, 0])
        out[:, 1, 1] = multipliers[:, 0] * 12.0 * actions[:, 1] ** 2
        return out


def two_ellipsoids(box: float = INF) -> Ellipsoids:
    rng = np.random.default_rng(2)
    roots = rng.normal(size=(2, 3, 3))
    return Ellipsoids(
        roots @ roots.transpose(0, 2, 1) + 0.3 * np.eye(3), rng.uniform(-0.2, 0.2, size=(2, 3)),
        np.full(3, -box), np.full(3, box),
    )  # fmt: skip


def by_ipopt(convex_set: ConvexSet, observation: Array, proposal: Array) -> Array:
    """The same program as a Pyomo model, for Ipopt."""
    model = pyo.ConcreteModel()
    n = len(proposal)
    model.u = pyo.Var(range(n), initialize=0.0)
    for j in range(n):
        model.u[j].setlb(None if np.isinf(convex_set.low[j]) else convex_set.low[j])
        model.u[j].setub(None if np.isinf(convex_set.high[j]) else convex_set.high[j])
    model.s = pyo.ConstraintList()
    if isinstance(convex_set, Ellipsoids):
        for E, c in zip(convex_set.E, convex_set.c, strict=True):
            form = sum(
                E[i, j] * (model.u[i] - c[i]) * (model.u[j] - c[j]) for i in range(n) for j in range(n)
            )
            model.s.add(form <= observation[0])
    else:
        model.s.add(pyo.exp(2.0 * model.u[0]) + model.u[1] ** 4 <= observation[0])
        model.s.add(model.u[0] + model.u[1] <= 1.0)
    model.distance = pyo.Objective(expr=0.5 * sum((model.u[j] - proposal[j]) ** 2 for j in range(n)))
    answer = POOL.solve(NonlinearProgram(model), SolveOptions(backend="ipopt", tolerance=1e-9))
    assert answer.status is Status.OPTIMAL, answer.message
    assert answer.x is not None
    return answer.x


@pytest.mark.parametrize("kind", ["ellipsoids", "exponential"])
@pytest.mark.parametrize("spread", [1.0, 100.0])
def test_curved_sets_equal_ipopt(kind: str, spread: float) -> None:
    convex_set: ConvexSet = two_ellipsoids(0.6) if kind == "ellipsoids" else Exponential()
    assert isinstance(convex_set, ConvexSet)
    rng = np.random.default_rng(1)
    size, n = 8, len(convex_set.low)
    observations, proposals = rng.uniform(0.3, 1.5, size=(size, 1)), spread * rng.normal(size=(size, n))
    found = project(convex_set, observations, proposals, POOL)
    assert found.solved.all()
    assert found.active.any()
    for i in range(size):
        expected = by_ipopt(convex_set, observations[i], proposals[i])
        np.testing.assert_allclose(found.point[i], expected, atol=1e-6)
        # And closer than Ipopt, which stays inside: first-order conditions to the last digits.
        J = convex_set.jacobian(observations[i : i + 1], found.point[i : i + 1])[0]
        pull = found.point[i] - proposals[i] + found.multipliers[i] @ J + found.bound_multipliers[i]
        assert np.abs(pull).max() <= 1e-9 * spread
        assert convex_set.value(observations[i : i + 1], found.point[i : i + 1]).max() <= 1e-9 * spread


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), spread=st.floats(0.01, 1000.0), box=st.sampled_from([0.3, INF]))
def test_newtons_method_settles_every_proposal(seed: int, spread: float, box: float) -> None:
    rng = np.random.default_rng(seed)
    n, m, size = 3, 3, 10
    roots = rng.normal(size=(m, n, n)) * 10.0 ** rng.uniform(-1, 1, size=(m, 1, n))
    convex_set = Ellipsoids(
        roots @ roots.transpose(0, 2, 1) + 0.05 * np.eye(n), rng.uniform(-0.05, 0.05, size=(m, n)),
        np.full(n, -box), np.full(n, box),
    )  # fmt: skip
    # The centre of the box is inside by a margin.
    radius = np.einsum("mi,mij,mj->m", convex_set.c, convex_set.E, convex_set.c).max()
    observations = np.full((size, 1), 1.2 * radius + 0.05)
    wanted = spread * rng.normal(size=(size, n))
    found = project_convex(convex_set, observations, wanted, POOL)
    # Non-expansive, idempotent, and a symmetric derivative between 0 and I.
    other = project_convex(convex_set, observations, wanted[::-1], POOL)
    gap = np.linalg.norm(found.point - other.point, axis=1)
    assert (gap <= np.linalg.norm(wanted - wanted[::-1], axis=1) + 1e-8).all()
    eigenvalues = np.linalg.eigvalsh(found.M)
    assert eigenvalues.min() >= -1e-12
    assert eigenvalues.max() <= 1.0 + 1e-12


def test_the_curvature_of_the_constraint_belongs_to_the_derivative() -> None:
    """On ellipsoids M meets finite differences, and ``N N'``, which leaves the curvature out, does not."""
    convex_set = two_ellipsoids()
    rng = np.random.default_rng(0)
    observations = rng.uniform(0.3, 1.5, size=(40, 1))
    proposals = rng.uniform(0.0, 1.5, size=(40, 1)) * rng.normal(size=(40, 3))

    def at(wanted: Array) -> Projected:
        return project_convex(convex_set, observations, wanted, POOL)

    found, measured = at(proposals), differences(at, proposals)
    count = found.active.sum(axis=1)
    assert set(count.tolist()) == {0, 1, 2}
    np.testing.assert_allclose(found.M, measured, atol=1e-7)
    flat = np.array([
        np.eye(3) - np.linalg.pinv(J[a]) @ J[a]
        for J, a in zip(convex_set.jacobian(observations, found.point), found.active, strict=True)
    ])  # fmt: skip
    wrong = np.abs(flat - measured).max(axis=(1, 2))
    assert (wrong[count > 0] > 1e-3).all()
    assert np.median(wrong[count > 0]) > 0.1
    np.testing.assert_allclose(flat[count == 0], measured[count == 0], atol=1e-7)


def test_gradcheck_on_curved_sets() -> None:
    rng = np.random.default_rng(5)
    for convex_set in (two_ellipsoids(0.4), Exponential()):
        layer = ProjectionLayer(convex_set)
        n = len(convex_set.low)
        observations = torch.tensor(rng.uniform(0.3, 1.5, size=(20, 1)))
        wanted = rng.uniform(0.0, 2.0, size=(20, 1)) * rng.normal(size=(20, n))
        proposals = torch.tensor(wanted, requires_grad=True)
        found = layer.project(proposals, observations)
        assert found.differentiable.all()
        assert {0, 1, 2} <= set((found.active.sum(axis=1) + found.active_bounds.sum(axis=1)).tolist())
        assert torch.autograd.gradcheck(
            lambda p, x=observations, f=layer: f(p, x), proposals, eps=STEP, atol=1e-7
        )


def test_affine_functions_make_a_polytope() -> None:
    rows = random_rows(9, 30, 3, 6)
    rows = Rows(rows.proposals, rows.G, np.where(np.isinf(rows.h), 10.0, rows.h), rows.low, rows.high)

    class Affine:
        low, high = rows.low, rows.high

        def value(self, observations: Array, actions: Array) -> Array:
            return (
                np.einsum("bmn,bn->bm", rows.G[observations[:, 0].astype(int)], actions) - observations[:, 1:]
            )

        def jacobian(self, observations: Array, actions: Array) -> Array:
            return rows.G[observations[:, 0].astype(int)]

        def hessian(self, observations: Array, actions: Array, multipliers: Array) -> Array:
            return np.zeros((len(actions), 3, 3))

    observations = np.column_stack([np.arange(30), rows.h])
    curved, flat = project(Affine(), observations, rows.proposals, POOL), rows.project()
    np.testing.assert_allclose(curved.point, flat.point, atol=1e-12)
    np.testing.assert_allclose(curved.M, flat.M, atol=1e-12)
    np.testing.assert_array_equal(curved.active, flat.active)
    np.testing.assert_array_equal(curved.active_bounds, flat.active_bounds)


# --- Bad input ------------------------------------------------------------------------------------------------


def with_empty_sets() -> Rows:
    rows = random_rows(1, 6, 2, 4)
    G, h = rows.G.copy(), rows.h.copy()
    for i in (1, 4):
        G[i, :2], h[i, :2] = [[1.0, 0.0], [-1.0, 0.0]], [-0.25, -0.125]  # u_0 <= -0.25 and u_0 >= 0.125
    return Rows(rows.proposals, G, h, rows.low, rows.high)


def test_empty_sets_are_named_with_their_rows() -> None:
    with pytest.raises(EmptySafeSet) as error:
        with_empty_sets().project()
    assert error.value.entries == (1, 4)
    message = str(error.value)
    assert "batch entries [1, 4] (2 of 6)" in message
    assert "[1. 0.] u <= -0.25; [-1.  0.] u <= -0.125" in message
    assert "on_failure='mask'" in message
    again = pickle.loads(pickle.dumps(error.value))
    assert (type(again), str(again), again.entries) == (EmptySafeSet, message, (1, 4))


def test_a_mask_instead_of_an_error_lets_a_fallback_in() -> None:
    """Entries without an answer are NaN, pass no gradient, and do not touch the others."""
    rows = with_empty_sets()
    found = rows.project(on_failure="mask")
    assert found.solved.tolist() == [True, False, True, True, False, True]
    assert (found.status[~found.solved] == Status.INFEASIBLE).all()
    assert np.isnan(found.point[~found.solved]).all()
    assert (found.M[~found.solved] == 0.0).all()
    assert not found.differentiable[~found.solved].any()
    proposals = torch.tensor(rows.proposals, requires_grad=True)
    kept = torch.tensor(found.solved)[:, None]
    out = torch.where(kept, through(proposals, found), torch.zeros(2, dtype=torch.float64))
    (out.sum() + (out**2).sum()).backward()
    assert torch.isfinite(out).all()
    assert proposals.grad is not None
    assert (proposals.grad[~found.solved] == 0.0).all()
    alone = Rows(*(a[found.solved] for a in (rows.proposals, rows.G, rows.h)), rows.low, rows.high).project()
    np.testing.assert_array_equal(found.point[found.solved], alone.point)
    np.testing.assert_array_equal(found.M[found.solved], alone.M)


@pytest.mark.parametrize("on_failure", ["raise", "mask"])
@pytest.mark.parametrize("field", ["proposals", "G", "h", "low"])
def test_numbers_that_are_not_finite_are_refused_by_name(field: str, on_failure: str) -> None:
    rows = random_rows(0, 4, 2, 3)
    value = getattr(rows, field).copy()
    value.flat[value.size - 1] = np.nan
    bad = Rows(**{**vars(rows), field: value})
    with pytest.raises(InvalidProblem, match="nan at index") as error:
        bad.project(on_failure=on_failure)
    assert error.value.field == field
    if field == "G":
        assert "(3, 2, 1)" in error.value.problem
    with pytest.raises(InvalidProblem, match="shape") as error:
        Rows(**{**vars(rows), field: np.zeros((2, 5, 7))}).project()
    assert error.value.field == field


def test_a_solver_that_does_not_finish_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The batched method gives up on every second program; DAQP gets them, and a limit too short for it."""
    rows = random_rows(0, 6, 40, 150, spread=20.0)
    native = active_set_kernel.solve_batch

    def stalled(*arguments: Any) -> None:
        native(*arguments)
        arguments[7][::2], arguments[10][::2] = np.nan, active_set_kernel.UNDECIDED

    reference = rows.project()
    monkeypatch.setattr(active_set_kernel, "solve_batch", stalled)
    np.testing.assert_allclose(rows.project().point, reference.point, atol=1e-9)
    with pytest.raises(ProjectionUnfinished, match="time limit came first") as error:
        rows.project(time_limit=1e-9)
    assert set(error.value.entries) <= {0, 2, 4}
    assert "TIME_LIMIT" in str(error.value)
    assert "Raise time_limit" in str(error.value)
    masked = rows.project(time_limit=1e-9, on_failure="mask")
    assert np.flatnonzero(~masked.solved).tolist() == list(error.value.entries)
    np.testing.assert_array_equal(masked.point[1::2], reference.point[1::2])
    monkeypatch.setitem(sys.modules, "daqp", None)
    with pytest.raises(ProjectionUnfinished, match="did not settle") as error:
        rows.project()
    assert error.value.entries == (0, 2, 4)


def test_curved_sets_fail_by_name_too() -> None:
    observations = np.array([[1.0], [-0.5], [0.5]])
    proposals = np.full((3, 3), 2.0)
    empty = two_ellipsoids()
    with pytest.raises(EmptySafeSet, match=r"batch entries \[1\] \(1 of 3\)") as error:
        project_convex(empty, observations, proposals, POOL)
    assert "entry 1 (INFEASIBLE): s = [" in str(error.value)
    masked = project_convex(empty, observations, proposals, POOL, on_failure="mask")
    assert masked.solved.tolist() == [True, False, True]
    np.testing.assert_array_equal(masked.M[1], 0.0)
    with pytest.raises(ProjectionUnfinished, match="time limit came first") as late:
        project_convex(empty, observations[:1], proposals[:1], POOL, time_limit=1e-9)
    assert late.value.entries == (0,)
    # A single point has no multipliers: Slater's condition is asked for.
    ball = Ellipsoids(np.eye(3)[None], np.zeros((1, 3)))
    with pytest.raises(ProjectionUnfinished, match="does a point with s < 0 exist"):
        project_convex(ball, np.zeros((1, 1)), proposals[:1], POOL)
    with pytest.raises(InvalidProblem, match="convex") as concave:
        project_convex(
            Ellipsoids(-np.eye(3)[None], np.zeros((1, 3))), -observations[:1], 0.1 * proposals[:1], POOL
        )
    assert concave.value.field == "hessian"


@pytest.mark.parametrize("part", ["value", "jacobian", "hessian"])
@pytest.mark.parametrize(("harm", "words"), [("nan", "nan at index"), ("shape", "shape")])
def test_a_convex_set_that_returns_nonsense_is_named(part: str, harm: str, words: str) -> None:
    good = two_ellipsoids()

    def broken(*arguments: Any) -> Array:
        value = getattr(good, part)(*arguments)
        return value * np.nan if harm == "nan" else value[:1]

    bad = copy.copy(good)
    object.__setattr__(bad, part, broken)
    with pytest.raises(InvalidProblem, match=words) as error:
        project_convex(bad, np.ones((2, 1)), np.full((2, 3), 2.0), POOL)
    assert error.value.field == part


# --- The module -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Budget:
    """``u_0 + u_1 <= x`` in the unit square."""

    low = np.zeros(2)
    high = np.ones(2)

    def rows(self, observations: Array) -> tuple[Array, Array]:
        return np.ones((1, 2)), observations

    def executable(self, actions: Array) -> Array:
        return actions

    def fallback(self, observations: Array) -> Array:
        return np.zeros((len(observations), 2))


def test_a_policy_learns_through_the_layer() -> None:
    """``min |u - (0.9, 0.5)|^2`` on the budget: closed form ``(0.7, 0.3)`` at ``x = 1``, reached by gradients alone."""

    class Policy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proposal = torch.nn.Parameter(torch.tensor([0.2, 0.9]))
            self.safe = ProjectionLayer(Budget())

        def forward(self, observations: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.safe(self.proposal.expand(len(observations), 2), observations)
            return out

    policy = Policy()
    assert list(policy.state_dict()) == ["proposal"]
    policy = copy.deepcopy(policy)
    optimiser = torch.optim.SGD(policy.parameters(), lr=0.2)
    observations = torch.ones(4, 1)
    for _ in range(60):
        optimiser.zero_grad()
        actions = policy(observations)
        assert (actions.sum(dim=1) <= 1.0 + 1e-6).all()
        ((actions - torch.tensor([0.9, 0.5])) ** 2).sum(dim=1).mean().backward()
        optimiser.step()
    np.testing.assert_allclose(policy(observations).detach().numpy(), np.tile([0.7, 0.3], (4, 1)), atol=1e-5)
    assert pickle.loads(pickle.dumps(policy.safe)).safe_set == Budget()


def test_an_empty_batch_and_other_proposals() -> None:
    found = project(Budget(), np.zeros((0, 1)), np.zeros((0, 2)), POOL)
    assert found.M.shape == (0, 2, 2)
    assert through(torch.zeros(0, 2, requires_grad=True), found).shape == (0, 2)
    with pytest.raises(InvalidProblem, match="were projected"):
        through(torch.zeros(3, 2), found)

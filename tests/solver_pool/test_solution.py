"""Certificates are recomputed from the problem, and a status claims no more than they support."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_problems import random_batch, random_quadratic_batch

from solver_pool.backends import solve
from solver_pool.options import SolveOptions
from solver_pool.problem import Array, CriticBatch
from solver_pool.solution import (
    BatchSolution,
    Status,
    certify_batch,
    primal_residuals,
    verified_batch,
    verified_quadratic,
)


def plain_residuals(problem: CriticBatch, i: int, x: Array, y: Array, z: Array) -> tuple[float, float, float]:
    """The three residuals of one program, written out."""
    G = problem.G if problem.G.ndim == 2 else problem.G[i]
    gradient = problem.values_and_gradients(x)[1][i]
    scale = max(1.0, np.abs(gradient).max())
    slack = problem.h[i] - G @ x[i]
    sides = np.where(z[i] > 0, problem.high - x[i], x[i] - problem.low)
    primal = max(0.0, (-slack).max(initial=0.0), (problem.low - x[i]).max(), (x[i] - problem.high).max())
    pull = np.abs(gradient - G.T @ y[i] - z[i]).max()
    product = max(np.abs(y[i] * slack).max(initial=0.0), np.abs(z[i] * sides).max())
    return primal, pull / scale, product / scale


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n_rows=st.integers(0, 5), shared=st.booleans())
def test_compiled_residuals_equal_the_written_out_ones(seed: int, n_rows: int, shared: bool) -> None:
    problem = random_batch(seed, size=3, n_rows=n_rows, shared_rows=shared)
    rng = np.random.default_rng(seed)
    x, z = rng.normal(size=(3, 3)), rng.normal(size=(3, 3))
    y = rng.uniform(size=(3, n_rows))
    objective, certificate = certify_batch(problem, x, y, z, np.full(3, 5.0))
    np.testing.assert_allclose(objective, problem.values(x))
    np.testing.assert_allclose(certificate.gap, np.abs(5.0 - objective))
    np.testing.assert_allclose(certificate.primal_residual, primal_residuals(problem, x))
    for i in range(3):
        expected = plain_residuals(problem, i, x, y, z)
        seen = (certificate.primal_residual, certificate.stationarity, certificate.complementarity)
        np.testing.assert_allclose([np.asarray(v)[i] for v in seen], expected, rtol=1e-10, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n_rows=st.integers(0, 5), kind=st.sampled_from(["plain", "shared"]))
def test_the_bound_of_a_quadratic_program_is_its_dual_objective(seed: int, n_rows: int, kind: str) -> None:
    problem = random_quadratic_batch(seed, 3, 4, n_rows, kind)
    rng = np.random.default_rng(seed)
    x, z = rng.uniform(-1.0, 1.0, size=(3, 4)), rng.normal(size=(3, 4))
    y = np.where(np.isfinite(problem.h), rng.uniform(size=(3, n_rows)), 0.0)
    # The linear term for which x is stationary with these multipliers: P x + q + G'y + z = 0.
    P, G = np.broadcast_to(problem.P, (3, 4, 4)), np.broadcast_to(problem.G, (3, n_rows, 4))
    q = -(np.einsum("bij,bj->bi", P, x) + np.einsum("bmn,bm->bn", G, y) + z)
    problem = replace(problem, q=q, h=np.where(np.isfinite(problem.h), np.einsum("bmn,bn->bm", G, x), np.inf))
    low, high = np.where(z < 0, x, -2.0), np.where(z > 0, x, 2.0)
    shift = 1e-3  # of every limit, so that nothing is exactly active
    h = np.where(y > 0, problem.h + shift, np.inf)
    problem = replace(problem, h=h, low=low - shift * (z < 0), high=high + shift * (z > 0))
    answer = verified_quadratic(
        problem, x, y, z, np.zeros(3, dtype=np.int8), tolerance=0.5,
        iterations=np.zeros(3, dtype=np.int64), solve_time=0.0, backend="test",
    )  # fmt: skip
    assert answer.certified.all()
    slack = shift * (y.sum(axis=1) + np.abs(z).sum(axis=1))
    dual = 0.5 * np.einsum("bi,bij,bj->b", x, P, x) + (q * x).sum(axis=1) - slack
    np.testing.assert_allclose(answer.bound, dual, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(answer.certificate.gap, slack, rtol=1e-6, atol=1e-9)


def claimed(problem: CriticBatch, answer: BatchSolution, **changes: Any) -> BatchSolution:
    """An answer whose solver claims OPTIMAL everywhere, verified again."""
    values: dict[str, Any] = {
        "x": answer.x, "row_duals": answer.row_duals, "bound_duals": answer.bound_duals, "bound": answer.bound,
    }  # fmt: skip
    values.update(changes)
    return verified_batch(
        problem, values["x"], values["row_duals"], values["bound_duals"], values["bound"],
        np.zeros(len(problem), dtype=np.int8), tolerance=1e-8, iterations=answer.iterations,
        solve_time=0.0, backend="test",
    )  # fmt: skip


def test_nothing_unverified_is_called_optimal() -> None:
    problem = random_batch(3, size=6)
    answer = solve(problem, SolveOptions(backend="interior_point"))
    assert (claimed(problem, answer).status == Status.OPTIMAL).all()
    wrong_duals = claimed(problem, answer, bound_duals=answer.bound_duals + 1e-3)
    assert (wrong_duals.status == Status.FEASIBLE).all()
    inside = claimed(problem, answer, x=0.5 * answer.x)
    assert not inside.certified.any()
    outside = claimed(problem, answer, x=answer.x + 5.0)
    assert (outside.status == Status.ERROR).all()
    assert np.isnan(outside.x).all()
    assert outside[0].x is None
    missing = claimed(problem, answer, x=np.full_like(answer.x, np.nan))
    assert (missing.status == Status.ERROR).all()


def test_a_closed_gap_is_a_proof_too() -> None:
    problem = random_batch(5, size=3)
    answer = solve(problem, SolveOptions(backend="interior_point"))
    no_duals = {"row_duals": 0 * answer.row_duals, "bound_duals": 0 * answer.bound_duals + 1.0}
    assert not claimed(problem, answer, **no_duals).certified.any()
    assert claimed(problem, answer, bound=answer.objective, **no_duals).certified.all()


@pytest.mark.parametrize("cut", [1, 4])
def test_chunks_join_in_order(cut: int) -> None:
    problem = random_batch(7, size=6)
    whole = solve(problem, SolveOptions(backend="interior_point"))
    parts = [solve(problem[slice(0, cut)]), solve(problem[slice(cut, 6)])]
    joined = BatchSolution.concatenate(parts)
    np.testing.assert_allclose(joined.objective, whole.objective, atol=1e-7)
    assert len(joined) == 6
    assert replace(joined, message="x").message == "x"

"""The safe action of a critic, in both ways of seed 002, section 3. No Ray.

Actions are scaled, ``a = low + width * u`` with `u` in the unit box, as in all programs of critics here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from solver_pool.options import SolveOptions
from solver_pool.pool import SolverPool
from solver_pool.problem import Array, CriticBatch, QuadraticBatch

Selection = Literal["constrained", "projected"]
SELECTIONS: tuple[Selection, ...] = ("constrained", "projected")


def safe_maximisers(
    selection: Selection, problem: CriticBatch, width: Array, pool: SolverPool, options: SolveOptions
) -> Array:
    """One safe action for each state of `problem`, ``(B, n_a)``; a row of NaN where a solve was not certified.

    ``"constrained"`` is equation (14) (returns are maximised here)::

        u_i = argmax_u Q(s_i, u)   s.t.   G_i u <= h_i,   0 <= u <= 1

    ``"projected"`` is equation (3) followed by (12), which loses optimality::

        p_i = argmax_u Q(s_i, u)   s.t.   0 <= u <= 1
        u_i = argmin_u |width (u - p_i)|^2   s.t.   G_i u <= h_i,   0 <= u <= 1

    Args:
        width: ``(n_a,)`` of the action box [action units], in which distances are measured.
    """
    if selection == "constrained":
        answer = pool.solve(problem, options)
        return np.where(answer.certified[:, None], answer.x, np.nan)
    free = pool.solve(without_rows(problem), options)
    wanted = np.where(free.certified[:, None], free.x, 0.0)
    metric = width**2
    nearest = pool.solve(
        QuadraticBatch(np.diag(metric), -metric * wanted, problem.G, problem.h, problem.low, problem.high)
    )
    return np.where((free.certified & nearest.certified)[:, None], nearest.x, np.nan)


def without_rows(problem: CriticBatch) -> CriticBatch:
    """The same programs under the box alone: equation (3)."""
    nothing = np.zeros((0, problem.n_actions))
    return replace(problem, G=nothing, h=np.zeros((len(problem), 0)))

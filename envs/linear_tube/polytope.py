"""Polytopes ``{y : H y <= c}`` with the origin inside (``c > 0``): redundant rows, projection, vertices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, HalfspaceIntersection

from envs.errors import InvalidSetting
from envs.linear_tube.disturbance import Array
from solver_pool.pool import SolverPool
from solver_pool.problem import LinearProgram
from solver_pool.solution import Solution, Status

REDUNDANT = 1e-9
"""A row is dropped only if the others keep it this far, relative to its level, from being attained."""

MOST_ROWS = 50_000
"""Rows of a projection beyond which it is given up."""


def largest(direction: Array, H: Array, c: Array, pool: SolverPool) -> Solution:
    """``max direction'y  s.t.  H y <= c`` as a solution of the minimisation of its negative."""
    n = H.shape[1]
    free = np.full(n, np.inf)
    return pool.solve(LinearProgram(-direction, H, np.full(len(H), -np.inf), c, -free, free))


def bounding_box(field: str, H: Array, c: Array, pool: SolverPool) -> tuple[Array, Array]:
    """The smallest box ``low (n,), high (n,)`` around ``{y : H y <= c}``.

    Raises:
        InvalidSetting: if the polytope is unbounded; `field` names it.
    """
    n = H.shape[1]
    sides = np.empty((2, n))
    for k, sign in enumerate((-1.0, 1.0)):
        for j in range(n):
            answer = largest(sign * np.eye(n)[j], H, c, pool)
            if answer.status != Status.OPTIMAL:
                raise InvalidSetting(
                    field,
                    f"does not bound coordinate {j} {'above' if sign > 0 else 'below'} ({answer.status.name})",
                    "Add rows until the set is a bounded polytope.",
                )
            sides[k, j] = -sign * answer.objective
    return sides[0], sides[1]


def needed(H: Array, c: Array, pool: SolverPool) -> NDArray[np.intp]:
    """Indices of rows that describe ``{y : H y <= c}``, ``c > 0``, in increasing order.

    Row `r` is left out if ``max H_r y`` over the rows kept is below ``c_r`` (`REDUNDANT`), or if it repeats
    another. Rows are kept one by one and then tried against each other, so that every program is small.
    """
    scaled = H / c[:, None]
    _, first = np.unique(np.round(scaled, 12), axis=0, return_index=True)
    kept: list[int] = []
    for r in np.sort(first).tolist():
        if not _implied(scaled, r, kept, pool):
            kept.append(r)
    for r in list(kept):
        if _implied(scaled, r, [k for k in kept if k != r], pool):
            kept.remove(r)
    return np.array(kept, dtype=np.intp)


def _implied(scaled: Array, row: int, others: list[int], pool: SolverPool) -> bool:
    """Whether ``scaled_others y <= 1`` implies the row; its own level, doubled, keeps the program bounded."""
    if not others:
        return not scaled[row].any()
    H = scaled[[*others, row]]
    levels = np.ones(len(H))
    levels[-1] = 2.0
    answer = largest(scaled[row], H, levels, pool)
    return answer.status == Status.OPTIMAL and -float(answer.objective) <= 1.0 - REDUNDANT


def hull_rows(H: Array, c: Array) -> tuple[Array, Array]:
    """The rows that a bounded ``{y : H y <= c}``, ``c > 0``, needs, scaled to ``c = 1``, in low dimension.

    They are the vertices of the hull of the points ``H_r / c_r``, the polar of the polytope.
    """
    dual = H / c[:, None]
    if dual.shape[1] == 1:
        keep = np.array([dual[:, 0].argmin(), dual[:, 0].argmax()])
    else:
        keep = np.sort(ConvexHull(dual).vertices)
    return dual[keep], np.ones(len(keep))


def eliminate(H: Array, c: Array, count: int) -> tuple[Array, Array]:
    """Rows, scaled to ``c = 1``, of the projection of a bounded ``{(y, v) : H (y, v) <= c}``, ``c > 0``, on `y`.

    Fourier-Motzkin elimination of the last `count` coordinates, with redundant rows dropped after each.

    Raises:
        InvalidSetting: if it grows beyond `MOST_ROWS` rows.
    """
    H, c = hull_rows(H, c)
    for _ in range(count):
        last = H[:, -1]
        up, down = np.flatnonzero(last > 1e-12), np.flatnonzero(last < -1e-12)
        if len(up) * len(down) > MOST_ROWS:
            raise InvalidSetting(
                "tube",
                f"needs {len(up) * len(down)} rows for its explicit set",
                "Project with envs.linear_tube.projection.project, which needs no explicit rows.",
            )
        level = np.abs(last) <= 1e-12
        a, b = last[up][:, None], -last[down][None, :]
        # Positive combinations in which the coordinate cancels, with weights that add to one and keep c = 1.
        weight = b / (a + b)
        mixed = weight[:, :, None] * H[up][:, None, :-1] + (1.0 - weight)[:, :, None] * H[down][None, :, :-1]
        H = np.concatenate([H[level][:, :-1], mixed.reshape(-1, H.shape[1] - 1)])
        H, c = hull_rows(H, np.ones(len(H)))
    return H, c


def corners(H: Array, c: Array) -> tuple[Array, NDArray[np.intp]]:
    """Vertices ``(k, n)`` of a bounded ``{y : H y <= c}``, ``c > 0``, and its simplicial facets ``(n_f, n)``.

    A facet is named by the indices of its `n` vertices.
    """
    n = H.shape[1]
    if n == 1:
        ends = c / H[:, 0]
        return np.array([[ends.min()], [ends.max()]]), np.array([[0], [1]])
    found = HalfspaceIntersection(np.column_stack([H, -c]), np.zeros(n)).intersections
    hull = ConvexHull(found)
    number = np.full(len(found), -1)
    number[hull.vertices] = np.arange(len(hull.vertices))
    facets = number[hull.simplices]
    # Repeated points of a degenerate vertex can leave facets that name a point which is no vertex.
    return found[hull.vertices], facets[(facets >= 0).all(axis=1)]

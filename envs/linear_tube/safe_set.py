"""The safe set of a tube MPC as rows in the action alone, by exact projection."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from envs.errors import InvalidSetting
from envs.linear_tube.disturbance import Array
from envs.linear_tube.polytope import corners, eliminate, hull_rows
from envs.linear_tube.projection import Source, least_violation, log_empty, project
from envs.linear_tube.tube import TubeMPC
from solver_pool.pool import SolverPool

OUTSIDE = 1e-9
"""By how much, relative to its distance from the origin, a state may be outside the feasible set by rounding.

Worst disturbances lead to its very edge."""


class TubeSafeSet:
    """The first inputs of all feasible plans of a `TubeMPC`, ``{u : G u <= g, H_1 (A x + B u) <= c_1}``.

    Source: specification projected_pg, section 6. The corrections are eliminated one step at a time, from the
    terminal set backwards (Fourier and Motzkin)::

        C_N = {y : F A_K^j y <= f_{N+j}, G K A_K^j y <= g_{N+j}, j = 0 .. nu}
        C_i = {y : F y <= f_i,  G (K y + v) <= g_i,  A_K y + B v in C_{i+1}  for some v}

    so that ``C_1 = {y : H_1 y <= c_1}`` holds the nominal next states from which the plan can go on, and ``C_0``
    the states whose safe set is not empty, the feasible set. `G` is the same for all states.

    Every action inside keeps ``F x <= f`` and ``G u <= g`` now and at the next step, and ``C_0`` is robustly
    invariant under it: the theorem of `TubeMPC`, whose ``S(x)`` this is for every x with ``F x <= f``. For
    other states the rows hold the actions that lead back in one step.

    `fallback` is the vertex control law: at each vertex of ``C_0`` the safe input nearest to the gain's, and in
    between the same convex combination of vertices (and of the origin, where it is 0) as the state. As the pairs
    ``(x, u)`` with ``u in S(x)`` are convex, it is safe in all of ``C_0``, and no solver runs.
    Source: Gutman and Cwikel, Admissible sets and feedback control for discrete-time linear dynamical systems
    with bounded controls and states, IEEE Transactions on Automatic Control 31, 1986.

    Elimination suits few states and inputs, to about four of each; `projection.project` has no such limit.

    Args:
        tube: see `TubeMPC`.

    Attributes:
        feasible: ``H (k, n)`` and ``c (k,)`` of ``C_0``.
        vertices: ``(p, n)``, of ``C_0``.

    Raises:
        InvalidSetting: if the elimination grows too large.
    """

    def __init__(self, tube: TubeMPC) -> None:
        self.tube = tube
        system, N = tube.system, tube.horizon
        n_f, m = len(system.f), system.m
        powers = [np.linalg.matrix_power(tube.closed_loop, j) for j in range(tube.terminal + 1)]
        H, c = hull_rows(
            np.vstack([tube.outputs @ p for p in powers]), tube.levels[N : N + len(powers)].ravel()
        )
        successors = [(H, c)]
        step = np.hstack([tube.closed_loop, system.B])
        own = np.block([[system.F, np.zeros((n_f, m))], [tube.outputs[n_f:], system.G]])
        for i in range(N - 1, -1, -1):
            H, c = eliminate(np.vstack([own, H @ step]), np.concatenate([tube.levels[i], c]), m)
            successors.append((H, c))
        self.feasible = successors[-1]
        self._next = successors[-2]
        # Rows of one input alone stand in the box already.
        self._coupled = np.count_nonzero(system.G, axis=1) > 1
        self._G = np.vstack([system.G[self._coupled], self._next[0] @ system.B])
        self.vertices, facets = corners(*self.feasible)
        pool = SolverPool()
        chosen = project(tube, self.vertices, self.vertices @ tube.gain.T, pool)
        if (chosen.source == Source.EMPTY).any():
            raise InvalidSetting(
                "tube",
                "has a feasible set too ill-conditioned for explicit rows: its vertices have no plan",
                "Rescale states and inputs to similar size, or use envs.linear_tube.projection.project.",
            )
        # On the cone over each facet the law is linear: u = U V^-1 x, with weights V^-1 x >= 0.
        self._weights = np.linalg.inv(self.vertices[facets].swapaxes(1, 2))
        self._gains = chosen.actions[facets].swapaxes(1, 2) @ self._weights

    @property
    def low(self) -> Array:
        """``(m,)``, of the box around ``G u <= g`` [input units]."""
        return self.tube.system.input_low.copy()

    @property
    def high(self) -> Array:
        """``(m,)`` [input units]."""
        return self.tube.system.input_high.copy()

    def rows(self, observations: Array) -> tuple[Array, Array]:
        """``G (k, m)``, shared by all states, and ``h (B, k)``, for states ``(B, n)``.

        Raises:
            InvalidSetting: if the observations are not finite states.
        """
        system = self.tube.system
        states = system.checked("observations", observations, system.n)
        H, c = self._next
        own = np.broadcast_to(system.g[self._coupled], (len(states), int(self._coupled.sum())))
        return self._G, np.hstack([own, c - states @ (H @ system.A).T])

    def executable(self, actions: Array) -> Array:
        """The actions themselves, ``(B, m)``: any input can be executed."""
        return np.array(actions, dtype=np.float64)

    def fallback(self, observations: Array) -> Array:
        """The vertex control law, ``(B, m)``.

        Outside the feasible set no action is safe: that of the plan of least violation is chosen, and logged as an
        error with the state and the rows in conflict.
        """
        system = self.tube.system
        states = system.checked("observations", observations, system.n)
        weights = np.einsum("fij,bj->bfi", self._weights, states)
        cone = weights.min(axis=2).argmax(axis=1)
        actions = np.einsum("bij,bj->bi", self._gains[cone], states)
        outside = weights[np.arange(len(states)), cone].sum(axis=1) > 1.0 + OUTSIDE
        for i in np.flatnonzero(outside).tolist():
            plan = least_violation(self.tube, states[i], SolverPool())
            actions[i] = self.tube.first_input(states[i, None], plan[None])[0]
            log_empty(self.tube, i, states[i], plan)
        return np.asarray(actions)

    def contains(self, states: Array) -> NDArray[np.bool_]:
        """Whether ``S(x)`` is not empty, up to rounding, ``(B,)``, for states ``(B, n)``."""
        H, c = self.feasible
        return np.asarray((np.asarray(states) @ H.T <= c * (1.0 + OUTSIDE)).all(axis=1))

    def sample(self, generator: np.random.Generator, size: int) -> Array:
        """Uniform states of the feasible set, ``(size, n)``, by rejection from its bounding box."""
        low, high = self.vertices.min(axis=0), self.vertices.max(axis=0)
        found = np.empty((0, len(low)))
        while len(found) < size:
            drawn = generator.uniform(low, high, (size, len(low)))
            found = np.concatenate([found, drawn[self.contains(drawn)]])
        return found[:size]

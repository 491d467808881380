"""The policy gradient where the model is known: what estimates are checked against, and how the best policy is found.

Linear dynamics ``x+ = A x + B u + w``, stage cost ``L = |x - target|^2 + weight |u|^2``, a linear policy
``pi(x) = K x + k`` whose projection on the safe set is executed. For given disturbances the return of an episode is a
function of ``theta = [K k]`` alone, so that finite differences are exact up to rounding. No Ray.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from algorithms.common.projection import ConvexSet, Projected, level_sensitivity, project
from envs.safe_set import SafeSet
from solver_pool.pool import SolverPool
from solver_pool.problem import Array


@dataclass(frozen=True, eq=False)
class KnownModel:
    """A linear system with a quadratic cost, under a safe set.

    Attributes:
        A: ``(n, n)``. B: ``(n, m)``. target: ``(n,)``. weight: of ``|u|^2``. gamma: discount.
        safe_set: rows whose ``G`` does not depend on the state and whose ``h`` is affine in it, or a `ConvexSet` that
            is the same in all states.
    """

    A: Array
    B: Array
    target: Array
    weight: float
    gamma: float
    safe_set: SafeSet | ConvexSet

    def _acted(self, theta: Array, states: Array, pool: SolverPool) -> Projected:
        return project(self.safe_set, states, states @ theta[:, :-1].T + theta[:, -1], pool)

    def cost(self, theta: Array, states: Array, disturbances: Array) -> Array:
        """``sum_t gamma^t L(x_t, u_t)``, ``(B,)``.

        Args:
            theta: ``(m, n + 1)``. states: ``(B, n)``, of the beginning. disturbances: ``(T, B, n)``.
        """
        pool, total, x = SolverPool(), np.zeros(len(states)), states
        for t, w in enumerate(disturbances):
            u = self._acted(theta, x, pool).point
            total += self.gamma**t * (((x - self.target) ** 2).sum(axis=1) + self.weight * (u**2).sum(axis=1))
            x = x @ self.A.T + u @ self.B.T + w
        return total

    def gradient(
        self, theta: Array, states: Array, disturbances: Array, correction: bool = True
    ) -> tuple[float, Array]:
        """The mean cost, and its gradient ``(m, n + 1)`` by Corollary 1 of seed 002 (equation 32)::

            grad J = E[ sum_t gamma^t  grad pi  M_t  grad_u Q_t ],   grad_u Q_t = L_u + gamma B' V_x(x_{t+1})

        with ``V_x = L_x + gamma A' V_x+ + (du/dx)' grad_u Q`` and ``du/dx = M K + du/dh dh/dx`` for a set that moves.

        Args:
            correction: without it M is left out of the first line, as in learning that overlooks the projection.
        """
        pool, x, path = SolverPool(), states, []
        total = np.zeros(len(states))
        for t, w in enumerate(disturbances):
            acted = self._acted(theta, x, pool)
            u = acted.point
            total += self.gamma**t * (((x - self.target) ** 2).sum(axis=1) + self.weight * (u**2).sum(axis=1))
            moved = acted.M @ theta[:, :-1]
            if not isinstance(self.safe_set, ConvexSet):
                G, h = self.safe_set.rows(x)
                shift = [self.safe_set.rows(x + unit)[1] - h for unit in np.eye(x.shape[1])]
                moved = moved + level_sensitivity(acted, G) @ np.stack(shift, axis=2)
            path.append((x, u, acted.M, moved))
            x = x @ self.A.T + u @ self.B.T + w
        slope, gradient = np.zeros_like(states), np.zeros_like(theta)
        for t in range(len(path) - 1, -1, -1):
            x, u, M, moved = path[t]
            q_u = 2.0 * self.weight * u + self.gamma * slope @ self.B
            acting = np.einsum("bij,bj->bi", M, q_u) if correction else q_u
            inputs = np.hstack([x, np.ones((len(x), 1))])
            gradient += self.gamma**t * acting.T @ inputs / len(x)
            slope = (
                2.0 * (x - self.target) + self.gamma * slope @ self.A + np.einsum("bij,bi->bj", moved, q_u)
            )
        return float(total.mean()), gradient

    def best(self, start: Array, states: Array, disturbances: Array) -> tuple[float, Array]:
        """The least mean cost over `theta` in these scenarios, and where; a local minimum near `start`."""

        def objective(flat: Array) -> tuple[float, Array]:
            cost, gradient = self.gradient(flat.reshape(start.shape), states, disturbances)
            return cost, gradient.ravel()

        found = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 200})
        return float(found.fun), found.x.reshape(start.shape)

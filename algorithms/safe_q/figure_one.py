"""Figure 1 of seed 002 in closed form: what projecting the best action costs. No Ray.

For a concave quadratic ``Q(u) = -1/2 (u - u*)'H (u - u*)`` and one half-plane ``n'u <= d`` that `u*` violates by
``v = n'u* - d > 0``::

    (14)  max Q  s.t.  n'u <= d          u_safe = u* - H^-1 n v / (n'H^-1 n),    Q = -1/2 v^2 / (n'H^-1 n)
    (12)  min |u - u*|^2  s.t.  n'u <= d    u_perp = u* - n v / (n'n),           Q = -1/2 v^2 n'Hn / (n'n)^2

The second costs ``(n'Hn)(n'H^-1 n) / (n'n)^2`` times the first. By the Cauchy-Schwarz and Kantorovich inequalities this
lies in ``[1, (k + 1)^2 / 4k]`` for the condition number `k` of `H`: it is 1 only where `n` is an eigenvector of `H`,
and has no bound over all problems. Returns are maximised here; the paper's costs are ``-Q``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from solver_pool.errors import InvalidProblem
from solver_pool.problem import Array


@dataclass(frozen=True, eq=False)
class FigureOne:
    """A quadratic ``Q`` with a half-plane of safe actions.

    Attributes:
        H: ``(n, n)``, symmetric positive definite.
        best: ``u* (n,)``, the maximiser without constraint.
        normal, bound: the half-plane ``n'u <= d``, ``(n,)`` and a number.

    Raises:
        InvalidProblem: if `H` is not symmetric positive definite, or `normal` is zero.
    """

    H: Array
    best: Array
    normal: Array
    bound: float

    def __post_init__(self) -> None:
        H = np.asarray(self.H, dtype=np.float64)
        if not np.allclose(H, H.T) or np.linalg.eigvalsh(H).min() <= 0:
            raise InvalidProblem("H", f"is {H.tolist()}", "Give a symmetric positive definite matrix.")
        if not np.any(self.normal):
            raise InvalidProblem("normal", f"is {self.normal}", "Give a vector that is not zero.")

    @property
    def excess(self) -> float:
        """``v``: by how much `best` violates the half-plane; 0 if it does not."""
        return max(float(self.normal @ self.best) - self.bound, 0.0)

    def value(self, actions: Array) -> Array:
        """``Q`` at actions ``(..., n)``."""
        away = np.asarray(actions, dtype=np.float64) - self.best
        return np.asarray(-0.5 * np.einsum("...i,ij,...j->...", away, self.H, away))

    def constrained(self) -> Array:
        """``u_safe (n,)``, equation (14)."""
        direction = np.linalg.solve(self.H, self.normal)
        return np.asarray(self.best - direction * self.excess / (self.normal @ direction))

    def projected(self) -> Array:
        """``u_perp (n,)``, equation (12)."""
        return np.asarray(self.best - self.normal * self.excess / (self.normal @ self.normal))


def loss_ratio(H: Array, normal: Array) -> float:
    """``(n'Hn)(n'H^-1 n) / (n'n)^2``: the projected action's cost over the constrained optimum's."""
    squared = float(normal @ normal)
    return float(normal @ H @ normal) * float(normal @ np.linalg.solve(H, normal)) / squared**2


def largest_loss_ratio(H: Array) -> float:
    """``(k + 1)^2 / 4k``: the most that `loss_ratio` can be over all half-planes, `k` the condition number of `H`."""
    k = float(np.linalg.cond(H))
    return (k + 1.0) ** 2 / (4.0 * k)

"""The packing problem: a quadratic objective that is hidden, over one knapsack row that is known.

Equation 11 of seed 001::

    max x'A x + b'x + c    s.t.   k'x <= p,   x in {0, 1}^N

Convex maximisation: A is positive semidefinite. Distributions are ours (specification boo, section 3), chosen so
that SCIP needs about a minute for the global optimum at N = 50.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from envs.errors import InvalidSetting
from solver_pool.problem import MixedIntegerProgram

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Packing:
    """One instance.

    Attributes:
        A: ``(N, N)``, symmetric, positive semidefinite. b: ``(N,)``. c: constant of the objective.
        k: ``(N,)``, sizes, at least 0. p: capacity, at least 0.

    Raises:
        InvalidSetting: on shapes that do not match, numbers that are not finite, or an asymmetric A.
    """

    A: Array
    b: Array
    k: Array
    p: float
    c: float = 1.0

    def __post_init__(self) -> None:
        n = len(self.b)
        for name, value, shape in (("A", self.A, (n, n)), ("b", self.b, (n,)), ("k", self.k, (n,))):
            if np.shape(value) != shape or not np.isfinite(value).all():
                raise InvalidSetting(
                    name, f"has shape {np.shape(value)}, or is not finite", f"Give finite numbers, {shape}."
                )
        if not np.array_equal(self.A, self.A.T):
            raise InvalidSetting("A", "is not symmetric", "Give (A + A') / 2, which has the same objective.")
        if (self.k < 0).any() or not 0 <= self.p < np.inf:
            raise InvalidSetting("k", "or p is negative or not finite", "Sizes and capacity are at least 0.")

    def __len__(self) -> int:
        return len(self.b)

    def objective(self, x: Array) -> float:
        """``x'A x + b'x + c`` at ``x (N,)``; hidden from a policy."""
        return float(x @ self.A @ x + self.b @ x + self.c)

    def violation(self, x: Array) -> float:
        """The largest violation of size and zero-or-one at ``x (N,)``, from the instance alone."""
        if x.shape != self.b.shape or not np.isfinite(x).all():
            return float("inf")
        overload = sum(size * float(chosen) for size, chosen in zip(self.k.tolist(), x, strict=True)) - self.p
        return max(0.0, float(overload), float(np.minimum(np.abs(x), np.abs(x - 1.0)).max(initial=0.0)))

    @cached_property
    def program(self) -> MixedIntegerProgram:
        """What is known: the knapsack without an objective, and the empty plan to start from."""
        n = len(self)
        return MixedIntegerProgram(
            c=np.zeros(n), A=self.k[None, :], row_low=np.array([-np.inf]), row_high=np.array([self.p]),
            low=np.zeros(n), high=np.ones(n), integer=np.ones(n, dtype=np.bool_), start=np.zeros(n),
        )  # fmt: skip

    @cached_property
    def features(self) -> Array:
        """What the paper shows of each item, ``(N, 5)``: ``A_ii, sum_j A_ij, b_i, k_i, p / N``.

        Insufficient to know A: the problem is partially observed. The capacity is shown per item, so that
        its size does not change with N.
        """
        n = len(self)
        return np.column_stack(
            [np.diag(self.A), self.A.sum(axis=1), self.b, self.k, np.full(n, self.p / max(n, 1))]
        )


def draw_packing(rng: np.random.Generator, items: int = 50) -> Packing:
    """Draw an instance: ``A = G'G / N`` with standard normal G, ``b ~ N(0, I)``, ``k ~ U(0, 1)``, ``p = sum(k) / 2``.

    Raises:
        InvalidSetting: for fewer than one item.
    """
    if items < 1:
        raise InvalidSetting("items", f"is {items}", "Draw at least one.")
    G = rng.standard_normal((items, items))
    A = G.T @ G / items
    b, k = rng.standard_normal(items), rng.uniform(size=items)
    return Packing((A + A.T) / 2, b, k, 0.5 * float(k.sum()))

"""A critic that is linear in monomials and fitted by least squares: exacter than networks where inputs are few. No Ray.

Source: seed 002 leaves the critic open; least-squares temporal differences for action values are Lagoudakis and Parr,
Least-squares policy iteration, Journal of Machine Learning Research 4, 2003, equation 5.
"""

from __future__ import annotations

from itertools import combinations_with_replacement

import torch
from torch import Tensor, nn

RIDGE = 1e-8
"""Added to the diagonal, relative to its mean: monomials of unused directions stay finite."""


class PolynomialCritic(nn.Module):
    """``Q(z) = w' m(z)`` with the monomials ``m`` up to a degree of ``z (B, n)``, in float64.

    Args:
        n_inputs: n. degree: at least 1. There are ``(n + degree)! / (n! degree!)`` monomials.
    """

    w: Tensor

    def __init__(self, n_inputs: int, degree: int) -> None:
        super().__init__()
        self.factors = [
            list(c) for d in range(degree + 1) for c in combinations_with_replacement(range(n_inputs), d)
        ]
        self.register_buffer("w", torch.zeros(len(self.factors), dtype=torch.float64))

    def monomials(self, z: Tensor) -> Tensor:
        """``m(z) (B, k)``."""
        z = z.double()
        columns: dict[tuple[int, ...], Tensor] = {(): torch.ones(len(z), dtype=torch.float64)}
        for factors in self.factors[1:]:
            columns[tuple(factors)] = columns[tuple(factors[:-1])] * z[:, factors[-1]]
        return torch.stack([columns[tuple(factors)] for factors in self.factors], dim=1)

    def forward(self, z: Tensor) -> Tensor:
        """``Q (B,)``."""
        q: Tensor = self.monomials(z) @ self.w
        return q

    @torch.no_grad()
    def fit(self, z: Tensor, rewards: Tensor, following: Tensor, going: Tensor, gamma: float) -> Tensor:
        """Solve ``E[m (m - gamma m')'] w = E[m r]`` and keep w; returns the mean squared TD error.

        Args:
            z, following: ``(B, n)``, state and action now and after the step. going: ``(B,)``, 0 where there is no
                value after the step.
        """
        m = self.monomials(z)
        difference = m - gamma * going.double()[:, None] * self.monomials(following)
        A, b = m.T @ difference / len(m), m.T @ rewards.double() / len(m)
        ridge = RIDGE * float((m**2).mean())
        self.w.copy_(torch.linalg.solve(A + ridge * torch.eye(len(A), dtype=torch.float64), b))
        return ((difference @ self.w - rewards) ** 2).mean()

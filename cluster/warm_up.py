"""Solve one small problem for each compiled kernel, so that numba's cache is there before the first run.

`.ci/setup` and the image do this once. Numba keeps its cache beside the source, for this kind of CPU.
"""

from __future__ import annotations

from numpy import eye, inf, ones, zeros

from solver_pool.backends import solve
from solver_pool.options import SolveOptions
from solver_pool.problem import MLP, CriticBatch, MixedIntegerProgram, QuadraticBatch


def warm_up() -> None:
    """Compile the interior point, the branch and bounds and the active-set method, unless they are cached."""
    critic = MLP((ones((4, 3)), ones((1, 4))), (zeros(4), zeros(1)), "softplus")
    batch = CriticBatch(critic, zeros((1, 2)), ones((1, 1)), ones((1, 1)), zeros(1), ones(1))
    for certify in (False, True):
        print(solve(batch, SolveOptions(certify=certify)))
    print(solve(QuadraticBatch(eye(1), ones((1, 1)), ones((1, 1)), ones((1, 1)), zeros(1), ones(1))))
    one = ones(1)
    print(solve(MixedIntegerProgram(-one, ones((1, 1)), -inf * one, one, 0.0 * one, one, one > 0)))


if __name__ == "__main__":
    warm_up()

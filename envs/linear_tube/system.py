"""Linear systems with constraints and a bounded disturbance: data, one step for a batch, and the LQR gain."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.linalg import LinAlgError, solve_discrete_are

from envs.errors import InvalidSetting
from envs.linear_tube.disturbance import Array, BoxDisturbance, Disturbance, numbers
from envs.linear_tube.polytope import bounding_box
from solver_pool.pool import SolverPool


@dataclass(frozen=True, eq=False)
class LinearSystem:
    """``x+ = A x + B u + w,  w in W``, which owes ``F x <= f`` and ``G u <= g`` at all times.

    Attributes:
        A: ``(n, n)``. B: ``(n, m)``.
        F: ``(n_f, n)``. f: ``(n_f,)``, positive: the origin is inside [state units].
        G: ``(n_g, m)``. g: ``(n_g,)``, positive [input units].
        disturbance: W.
        input_low, input_high: ``(m,)``, the box around ``G u <= g`` [input units].

    Raises:
        InvalidSetting: on shapes that do not fit, numbers that are not finite, an origin that is not inside,
            or constraints that leave a state or an input unbounded.
    """

    A: Array
    B: Array
    F: Array
    f: Array
    G: Array
    g: Array
    disturbance: Disturbance
    input_low: Array = field(init=False)
    input_high: Array = field(init=False)

    def __post_init__(self) -> None:
        A = numbers("A", self.A, -1, -1)
        n = len(A)
        A, B = numbers("A", A, n, n), numbers("B", self.B, n, -1)
        F, G = numbers("F", self.F, -1, n), numbers("G", self.G, -1, B.shape[1])
        f, g = numbers("f", self.f, len(F)), numbers("g", self.g, len(G))
        for name, level in (("f", f), ("g", g)):
            if level.min() <= 0:
                raise InvalidSetting(
                    name,
                    f"is {level.min():.6g} at index {int(level.argmin())}",
                    "The origin must be strictly inside its constraints: shift the coordinates.",
                )
        if not isinstance(self.disturbance, Disturbance):
            raise InvalidSetting(
                "disturbance",
                f"is a {type(self.disturbance).__name__}",
                "Give a BoxDisturbance, EllipsoidDisturbance or PolytopeDisturbance.",
            )
        if self.disturbance.dimension != n:
            raise InvalidSetting(
                "disturbance",
                f"has {self.disturbance.dimension} coordinates, the state has {n}",
                "Give a set in the state space; a disturbance E d has the vertices, or the shape, of its image.",
            )
        for name, value in (("A", A), ("B", B), ("F", F), ("f", f), ("G", G), ("g", g)):
            object.__setattr__(self, name, value)
        pool = SolverPool()
        bounding_box("F", F, f, pool)  # its errors
        low, high = bounding_box("G", G, g, pool)
        object.__setattr__(self, "input_low", low)
        object.__setattr__(self, "input_high", high)

    @property
    def n(self) -> int:
        """States."""
        return len(self.A)

    @property
    def m(self) -> int:
        """Inputs."""
        return int(self.B.shape[1])

    def step(self, states: Array, inputs: Array, disturbances: Array) -> Array:
        """``x+`` for states ``(B, n)``, inputs ``(B, m)`` and disturbances ``(B, n)``."""
        return np.asarray(states @ self.A.T + inputs @ self.B.T + disturbances)

    def excess(self, states: Array, inputs: Array) -> Array:
        """``max(0, F x - f)`` and ``max(0, G u - g)``, ``(B, n_f + n_g)``: what is violated, and by how much."""
        return np.maximum(np.hstack([states @ self.F.T - self.f, inputs @ self.G.T - self.g]), 0.0)

    def checked(self, name: str, values: Array, width: int) -> Array:
        """`values` as a finite batch ``(B, width)``.

        Raises:
            InvalidSetting: otherwise; it names the entry.
        """
        array = np.asarray(values, dtype=np.float64)
        if array.ndim != 2 or array.shape[1] != width:
            raise InvalidSetting(
                name, f"have shape {array.shape}, expected (B, {width})", "Put the batch in front."
            )
        bad = np.argwhere(~np.isfinite(array))
        if bad.size:
            at, entry = (int(i) for i in bad[0])
            raise InvalidSetting(
                name, f"of index {at} are {array[at].tolist()}", f"Entry {entry} must be a finite number."
            )
        return array


def box_rows(limits: Array) -> tuple[Array, Array]:
    """``H (2 n, n)`` and ``c (2 n,)`` of ``|y| <= limits (n,)``."""
    limits = numbers("limits", limits, -1)
    return np.vstack([np.eye(len(limits)), -np.eye(len(limits))]), np.concatenate([limits, limits])


def lqr_gain(system: LinearSystem, state_weight: Array, input_weight: Array) -> Array:
    """``K (m, n)`` of ``u = K x``, which minimises ``sum x'Q x + u'R u`` without constraints.

    Args:
        state_weight: ``Q (n, n)``, symmetric. input_weight: ``R (m, m)``, symmetric positive definite.

    Raises:
        InvalidSetting: if no gain stabilises the system, or the weights do not lead to one.
    """
    A, B = system.A, system.B
    Q = numbers("state_weight", state_weight, system.n, system.n)
    R = numbers("input_weight", input_weight, system.m, system.m)
    try:
        P = solve_discrete_are(A, B, Q, R)
        gain = -np.linalg.solve(R + B.T @ P @ B, B.T @ P @ A)
    except (LinAlgError, ValueError) as error:
        raise InvalidSetting(
            "state_weight",
            f"gives a Riccati equation without a stabilising solution ({error})",
            "(A, B) must be stabilisable, Q detectable and R positive definite.",
        ) from error
    return np.asarray(gain)


def double_integrator(disturbance: Disturbance | None = None) -> LinearSystem:
    """The reference system of the specification projected_pg, sections 6 and 7: position and speed, two inputs.

    ``A = [[1, .2], [0, 1]]``, ``B = [[.02, .1], [.2, .05]]``, ``|x| <= (1, .8)``, ``|u| <= (1, .6)``.

    Args:
        disturbance: W; None for ``|w| <= (.02, .04)``.
    """
    F, f = box_rows(np.array([1.0, 0.8]))
    G, g = box_rows(np.array([1.0, 0.6]))
    W = BoxDisturbance(np.array([0.02, 0.04])) if disturbance is None else disturbance
    return LinearSystem(
        np.array([[1.0, 0.2], [0.0, 1.0]]), np.array([[0.02, 0.1], [0.2, 0.05]]), F, f, G, g, W
    )

"""Robust linear MPC as data: constraints tightened along a tube, whose first input is a safe action."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from envs.errors import InvalidSetting
from envs.linear_tube.disturbance import Array, numbers
from envs.linear_tube.polytope import largest, needed
from envs.linear_tube.system import LinearSystem, double_integrator, lqr_gain
from solver_pool.pool import SolverPool
from solver_pool.problem import QuadraticBatch
from solver_pool.solution import Status

BLOCK = 256
"""Steps that are summed at once towards the limit of the tightening."""

STABLE = 1.0 - 1e-6
"""Largest spectral radius of a closed loop that counts as stable."""


@dataclass(frozen=True, eq=False)
class TubeMPC:
    """The tightened constraints of a robust MPC, and the safe set that they define.

    Source: seed 002, section 5; specification projected_pg, section 6. For ``x+ = A x + B u + w`` with a gain
    `K`, ``A_K = A + B K``, and plans ``z = (v_0, .., v_{N-1})`` of corrections to it, the rows are::

        xbar_0 = x,   xbar_{i+1} = A_K xbar_i + B v_i,     v_i = 0 for i >= N
        F xbar_i <= f_i,   G (K xbar_i + v_i) <= g_i,      i = 0 .. N + nu
        f_i = f - sum_{l<i} h_W(F A_K^l),   g_i = g - sum_{l<i} h_W(G K A_K^l)

    and the safe set is ``S(x) = {K x + v_0 : some v_1, .., v_{N-1} satisfies the rows}``. The projection of a
    proposal `pi` on it is, up to `rho`, the program that `quadratic` builds::

        min_z 1/2 |K x + v_0 - pi|^2 + 1/2 rho |(v_1, .., v_{N-1})|^2   s.t. the rows

    **Theorem.** If z satisfies the rows at x, and ``u = K x + v_0`` is executed, then x and u satisfy their
    constraints, and the shifted plan ``(v_1, .., v_{N-1}, 0)`` satisfies the rows at ``x+``, whatever w in W.
    So ``S(x)`` is not empty at any later time.

    *Proof.* ``x+ = xbar_1 + w``, so that along the shifted plan ``xbar'_i = xbar_{i+1} + A_K^i w``. Then
    ``F xbar'_i <= f_{i+1} + h_W(F A_K^i) = f_i``, and likewise for the inputs, for ``i < N + nu``. For the last
    i the row of step ``N + nu + 1`` is needed. It is implied: construction finds, by linear programs, a
    ``k <= nu`` such that the terminal rows ``i = N .. N + k`` imply those of the next step. With that, all later
    rows are implied too: the terminal set is the maximal robust invariant one for the disturbances ``A_K^N W``
    (Kolmanovsky and Gilbert, Theory and computation of disturbance invariant sets for discrete-time linear
    systems, Mathematical Problems in Engineering 4, 1998). QED

    Rows that others imply are left out once. What is left is ``Hx x + Hz z <= c``: one matrix for all states.

    Attributes:
        system: see `LinearSystem`.
        gain: ``K (m, n)``, stabilising.
        horizon: ``N``, corrections that are planned, at least 1.
        terminal: ``nu``, further steps without corrections, of which only those that matter are kept.
        rho: weight of the corrections after the first, which makes the plan unique.
        Hx: ``(k, n)``. Hz: ``(k, N m)``. c: ``(k,)``.
        step, row: ``(k,)``, where each row comes from: its i, and its place in ``(F, G)``.
        levels: ``(N + nu + 2, n_f + n_g)``, ``(f_i, g_i)``.
        limit: ``(n_f + n_g,)``, ``(f_inf, g_inf)``, positive.

    Raises:
        InvalidSetting: if the gain does not stabilise, the tightening leaves nothing, or `terminal` is too small.
    """

    system: LinearSystem
    gain: Array
    horizon: int = 6
    terminal: int = 40
    rho: float = 1e-7
    Hx: Array = field(init=False, repr=False)
    Hz: Array = field(init=False, repr=False)
    c: Array = field(init=False, repr=False)
    step: NDArray[np.intp] = field(init=False, repr=False)
    row: NDArray[np.intp] = field(init=False, repr=False)
    levels: Array = field(init=False, repr=False)
    limit: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        system = self.system
        object.__setattr__(self, "gain", numbers("gain", self.gain, system.m, system.n))
        if self.horizon < 1:
            raise InvalidSetting("horizon", f"is {self.horizon}", "Plan at least one correction.")
        if self.terminal < 0:
            raise InvalidSetting("terminal", f"is {self.terminal}", "Give zero or more further steps.")
        if not self.rho > 0:
            raise InvalidSetting("rho", f"is {self.rho}", "Give a small positive weight, such as 1e-7.")
        radius = float(np.abs(np.linalg.eigvals(self.closed_loop)).max())
        if radius > STABLE:
            raise InvalidSetting(
                "gain",
                f"leaves A + B K with the spectral radius {radius:.6g}",
                "Give a stabilising gain (radius below 1), such as lqr_gain(system, Q, R).",
            )
        steps = self.horizon + self.terminal + 2
        object.__setattr__(self, "levels", _levels(self, steps))
        object.__setattr__(self, "limit", _limit(self))
        _check_levels(self, np.vstack([self.levels, self.limit]))
        pool = SolverPool()
        Hx, Hz, c, step, row = _all_rows(self, self.horizon + _determined(self, pool))
        keep = needed(np.hstack([Hx, Hz]), c, pool)
        for name, value in (("Hx", Hx), ("Hz", Hz), ("c", c), ("step", step), ("row", row)):
            object.__setattr__(self, name, np.ascontiguousarray(value[keep]))

    @property
    def closed_loop(self) -> Array:
        """``A_K (n, n)``."""
        return np.asarray(self.system.A + self.system.B @ self.gain)

    @property
    def outputs(self) -> Array:
        """``(F; G K) (n_f + n_g, n)``: what is constrained while nothing is corrected."""
        return np.vstack([self.system.F, self.system.G @ self.gain])

    def quadratic(self, states: Array, proposals: Array) -> QuadraticBatch:
        """The programs of the class, in z, for states ``(B, n)`` and proposals ``(B, m)``; P and G are shared."""
        m, size = self.system.m, self.Hz.shape[1]
        weight = np.full(size, self.rho)
        weight[:m] = 1.0
        linear = np.zeros((len(states), size))
        linear[:, :m] = states @ self.gain.T - proposals
        free = np.full(size, np.inf)
        return QuadraticBatch(np.diag(weight), linear, self.Hz, self.room(states), -free, free)

    def room(self, states: Array) -> Array:
        """``c - Hx x``, ``(B, k)``: what the rows leave to plans."""
        return np.asarray(self.c - states @ self.Hx.T)

    def first_input(self, states: Array, plans: Array) -> Array:
        """``u_0 = K x + v_0``, ``(B, m)``, of plans ``(B, N, m)``."""
        return np.asarray(states @ self.gain.T + plans[:, 0])

    def violation(self, states: Array, plans: Array) -> Array:
        """Largest violation of the rows by each plan, ``(B,)``; zero means that it satisfies them."""
        used = plans.reshape(len(plans), -1) @ self.Hz.T
        return np.asarray(np.maximum((used - self.room(states)).max(axis=1), 0.0))

    def shifted(self, plans: Array) -> Array:
        """The plans ``(v_1, .., v_{N-1}, 0)`` of the next step, ``(B, N, m)``."""
        return np.concatenate([plans[:, 1:], np.zeros_like(plans[:, :1])], axis=1)

    def describe(self, k: int, state: Array) -> str:
        """Row `k` at one state ``(n,)``, in words."""
        n_f = len(self.system.f)
        i, r = int(self.step[k]), int(self.row[k])
        left = f"F[{r}] x_{i}" if r < n_f else f"G[{r - n_f}] u_{i}"
        return f"{left} <= {self.c[k]:.6g} (nominal, {self.Hx[k] @ state:.6g} without corrections)"


def reference_tube() -> TubeMPC:
    """The tube of the specification's example: `double_integrator`, LQR with Q = I and R = I / 2, N = 6."""
    system = double_integrator()
    return TubeMPC(system, lqr_gain(system, np.eye(2), 0.5 * np.eye(2)))


def _levels(tube: TubeMPC, steps: int) -> Array:
    """``(f_i, g_i)`` for ``i < steps``, ``(steps, n_f + n_g)``."""
    lost = np.array([tube.system.disturbance.support(C) for C in _images(tube, steps - 1)])
    start = np.concatenate([tube.system.f, tube.system.g])
    return np.vstack([start, start - np.cumsum(lost, axis=0)])


def _images(tube: TubeMPC, count: int) -> list[Array]:
    """``(F; G K) A_K^l`` for ``l < count``."""
    images = [tube.outputs]
    for _ in range(count - 1):
        images.append(images[-1] @ tube.closed_loop)
    return images


def _limit(tube: TubeMPC) -> Array:
    """``(f_inf, g_inf)``: the sum to where a further block of steps is below rounding."""
    level = np.concatenate([tube.system.f, tube.system.g])
    block, leap = np.array(_images(tube, BLOCK)), np.linalg.matrix_power(tube.closed_loop, BLOCK)
    while True:
        lost = tube.system.disturbance.support(block).sum(axis=0)
        level = level - lost
        if (np.abs(lost) <= 1e-16 * np.maximum(1.0, np.abs(level))).all():
            return np.asarray(level)
        block = block @ leap


def _check_levels(tube: TubeMPC, levels: Array) -> None:
    bad = np.argwhere(levels <= 0)
    if not bad.size:
        return
    i, r = int(bad[0, 0]), int(bad[0, 1])
    n_f = len(tube.system.f)
    name, row = ("f", r) if r < n_f else ("g", r - n_f)
    raise InvalidSetting(
        "disturbance",
        f"leaves nothing of {name}[{row}] = {getattr(tube.system, name)[row]:.6g}: {name}_inf[{row}] is"
        f" {tube.limit[r]:.6g}, and the level at step {min(i, len(tube.levels) - 1)} is {levels[i, r]:.6g}",
        "Every tightened level must be positive: make W smaller, the constraints wider, or choose a gain that"
        " damps the disturbance faster.",
    )


def _determined(tube: TubeMPC, pool: SolverPool) -> int:
    """The first k whose terminal rows ``N .. N + k`` imply those of one more step, and with that all later ones.

    The programs are in the ``n`` coordinates of ``xbar_N``.
    """
    images, levels = np.array(_images(tube, tube.terminal + 2)), tube.levels[tube.horizon :]
    reached = np.empty(len(tube.outputs))
    for k in range(tube.terminal + 1):
        H, c = images[: k + 1].reshape(-1, tube.system.n), levels[: k + 1].ravel()
        for r, direction in enumerate(images[k + 1]):
            answer = largest(direction, H, c, pool)
            reached[r] = -answer.objective if answer.status == Status.OPTIMAL else np.inf
            if reached[r] > levels[k + 1, r]:
                break
        else:
            return k
    raise InvalidSetting(
        "terminal",
        f"is {tube.terminal}, but row {r} of (F; G K) is not implied {tube.terminal + 1} steps after the horizon:"
        f" it reaches {reached[r]:.6g} of {levels[-1, r]:.6g}, so that recursive feasibility is not proved",
        f"Allow more terminal steps, such as {2 * tube.terminal + 10}.",
    )


def _all_rows(tube: TubeMPC, last: int) -> tuple[Array, Array, Array, NDArray[np.intp], NDArray[np.intp]]:
    """``Hx, Hz, c, step, row`` of all rows ``i = 0 .. last``, redundant ones included."""
    n, m, N = tube.system.n, tube.system.m, tube.horizon
    n_f, rows, count = len(tube.system.f), len(tube.outputs), last + 1
    Hx = np.array(_images(tube, count))
    # What v_j does to the rows of step i > j is what B v_j does as a state, i - 1 - j steps later.
    responses = Hx @ tube.system.B
    Hz = np.zeros((count, rows, N, m))
    for i in range(count):
        for j in range(min(i, N)):
            Hz[i, :, j] = responses[i - 1 - j]
        if i < N:
            Hz[i, n_f:, i] += tube.system.G
    step, row = np.divmod(np.arange(count * rows), rows)
    return Hx.reshape(-1, n), Hz.reshape(-1, N * m), tube.levels[:count].ravel(), step, row

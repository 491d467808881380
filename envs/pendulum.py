"""A speed limit for Gymnasium's Pendulum-v1: a safe set written for an environment that knows nothing of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from envs.errors import InvalidSetting
from envs.safe_set import Array

STEP = 0.05
"""Time step of the environment [s]."""
GRAVITY = 15.0
"""``3 g / 2 l`` with its default ``g = 10`` [rad/s^2]: the angular acceleration by gravity is this times sin(theta)."""
GAIN = 3.0
"""``3 / m l^2``: the angular acceleration of a unit of torque [rad/s^2]."""
TORQUE = 2.0
"""The most that the motor gives, either way."""
FASTEST = 8.0
"""Where the environment itself cuts the speed off [rad/s]."""
START = 1.0
"""The largest speed that an episode begins with [rad/s]."""

BRAKE = 4.75
"""Deceleration that the envelope counts on [rad/s^2]; the motor has ``GAIN * TORQUE = 6``."""
LEAD = 0.22
"""By how much the envelope looks ahead [rad], more than half of the way of a step at the limit."""
MARGIN = 1e-5
"""By how much speeds stay below the envelope [rad/s]: observations are float32, which costs up to 1e-6."""
GRID = 65_536
"""Angles at which the inequality of the proof is evaluated."""


@dataclass(frozen=True)
class PendulumSpeedLimit:
    """Torques of Pendulum-v1 that keep ``|omega| <= limit``, now and for ever.

    One step, from the angle ``theta`` (0 upright) and the speed ``omega``, is linear in the torque ``u``::

        v = omega + 0.05 (15 sin(theta) + 3 u),     theta' = theta + 0.05 v,     omega' = v

    Gravity is stronger than the motor: a speed that is allowed near the top may be impossible to brake further down.
    So the speed ``v`` that may be reached in a step from ``theta`` has an envelope ``F(theta) <= limit``, and the rows
    are ``-F(-theta) <= v <= F(theta)`` (two rows; falling to the other side is the mirror image)::

         0.15 u  <=  F(theta)  - omega - 0.75 sin(theta)
        -0.15 u  <=  F(-theta) + omega + 0.75 sin(theta)

    both divided by 0.15, so that a violation is in units of torque, and with `MARGIN` taken off `F`.

    *The envelope.* Let ``theta_b`` in ``(pi/2, pi)`` be the angle where ``15 sin(theta_b) = BRAKE``: up to there
    gravity beats the brake. `F` is the speed from which braking with `BRAKE` peaks at the limit there, by the balance
    of energy, ``F(theta) = min(limit, f(theta + LEAD))`` and ::

        f(t)^2 / 2 = limit^2 / 2 - 15 (cos(t) - cos(theta_b)) + BRAKE (theta_b - t),   t in (theta_b - 2 pi, theta_b]

    **Theorem.** From every start of the environment, if every torque satisfies the rows, then ``|omega| <= limit`` at
    all times, and in every state that is reached some torque satisfies them.

    *Proof.* The first claim is ``|v| <= F <= limit``; as the limit is less than 8, the environment's own cut never
    acts. Torques reach the speeds ``[a - 0.3, a + 0.3]``, ``a = omega + 0.75 sin(theta)``, and the rows allow
    ``[-F(-theta), F(theta)]``, which is not empty. The two intervals meet if and only if ``a - 0.3 <= F(theta)`` and
    its mirror image hold. In a state that was reached from ``theta`` with ``v <= F(theta)`` the former reads ::

        F(theta + 0.05 v) - 0.75 sin(theta + 0.05 v) + 0.3 - v  >=  0

    With a Lipschitz constant ``L < 19.25`` of `F` the left side falls in ``v``, its derivative being at most
    ``0.05 L + 0.0375 - 1 < 0``. So ``v = F(theta)`` is the worst case, and one inequality in one variable is left. The
    constructor evaluates it on `GRID` angles and subtracts its own Lipschitz constant times half their distance, which
    proves it for all. For a start, ``|omega| <= 1``, the constructor checks ``1 + 0.75 - 0.3 <= min F``. QED

    Attributes:
        limit: [rad/s], from about 6 on. Falling from rest against the full motor ends at 5.2, so that much less is
            impossible.

    Raises:
        InvalidSetting: if the proof fails for the limit.
    """

    limit: float = 6.0

    def __post_init__(self) -> None:
        if not START < self.limit < FASTEST:
            raise InvalidSetting(
                "limit",
                f"is {self.limit} rad/s",
                f"Give a speed between {START:g} and {FASTEST:g}, such as 6.",
            )
        slack, lowest, steepest = self.proof()
        start = lowest - (START + STEP * GRAVITY - STEP * GAIN * TORQUE)
        if not (slack > 2.0 * MARGIN and start > 2.0 * MARGIN and STEP * (steepest + GRAVITY * STEP) < 1.0):
            raise InvalidSetting(
                "limit",
                f"is {self.limit} rad/s, which the motor cannot keep from every start "
                f"(slack {slack:.3g}, at a start {start:.3g})",
                "Give a higher one, such as 6.",
            )

    def envelope(self, angle: Array) -> Array:
        """``F``, the speed that a step from each angle [rad] may reach [rad/s]; any shape."""
        peak = np.pi - np.arcsin(BRAKE / GRAVITY)
        t = peak - np.mod(peak - (angle + LEAD), 2.0 * np.pi)
        half_square = 0.5 * self.limit**2 - GRAVITY * (np.cos(t) - np.cos(peak)) + BRAKE * (peak - t)
        return np.asarray(np.minimum(self.limit, np.sqrt(2.0 * np.maximum(half_square, 0.0))))

    def proof(self) -> tuple[float, float, float]:
        """A lower bound of the inequality's left side over all angles; the minimum of `F`; its Lipschitz constant."""
        # F F' = 15 sin(t) - BRAKE where F is below the limit, so that F is lowest where that changes from - to +.
        lowest = float(self.envelope(np.arcsin(BRAKE / GRAVITY) - LEAD))
        if lowest == 0.0:
            return -np.inf, 0.0, np.inf
        steepest = (GRAVITY + BRAKE) / lowest
        angle = np.linspace(-np.pi, np.pi, GRID, endpoint=False)
        speed = self.envelope(angle)
        following = angle + STEP * speed
        left = self.envelope(following) - STEP * GRAVITY * np.sin(following) + STEP * GAIN * TORQUE - speed
        change = (steepest + STEP * GRAVITY) * (1.0 + STEP * steepest) + steepest
        return float(left.min() - change * np.pi / GRID), lowest, steepest

    @property
    def low(self) -> Array:
        """``(1,)``, the torque's bound."""
        return np.array([-TORQUE])

    @property
    def high(self) -> Array:
        return np.array([TORQUE])

    def rows(self, observations: Array) -> tuple[Array, Array]:
        """``G (2, 1)``, shared by all states, and ``h (B, 2)`` [torque], for ``(cos, sin, omega)``, ``(B, 3)``."""
        angle, drift = self._state(observations)
        room = np.stack([self.envelope(angle) - drift, self.envelope(-angle) + drift], axis=1) - MARGIN
        return np.array([[1.0], [-1.0]]), room / (STEP * GAIN)

    def executable(self, actions: Array) -> Array:
        """The environment executes torques as they are."""
        return actions

    def fallback(self, observations: Array) -> Array:
        """The smallest safe torque ``(B, 1)``; the strongest brake in states that no safe start leads to."""
        _, h = self.rows(observations)
        return np.clip(np.minimum(np.maximum(0.0, -h[:, 1]), h[:, 0]), -TORQUE, TORQUE)[:, None]

    @staticmethod
    def _state(observations: Array) -> tuple[Array, Array]:
        """Angles ``(B,)`` [rad], and the speeds that a step without torque would reach ``(B,)`` [rad/s]."""
        seen = np.asarray(observations, dtype=np.float64)
        if seen.ndim != 2 or seen.shape[1] != 3:
            raise InvalidSetting(
                "observations",
                f"have shape {seen.shape}, expected (B, 3)",
                "The safe set reads cos, sin and speed as Pendulum-v1 returns them, with a batch in front.",
            )
        angle = np.arctan2(seen[:, 1], seen[:, 0])
        return angle, seen[:, 2] + STEP * GRAVITY * np.sin(angle)

"""Confidence balls around an empirical kernel. No Ray.

Source: seed 003, equations (6) and (8), Lemma 1; specification online_crl, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from envs.errors import InvalidSetting
from envs.tabular import Array, Ints

RadiusKind: TypeAlias = Literal["mp", "paper", "author", "none"]
RADII: tuple[RadiusKind, ...] = ("mp", "paper", "author", "none")


@dataclass(frozen=True, eq=False)
class Ball:
    """All kernels with ``|P'(s' | s, a) - centre[s, a, s']| <= radius[s, a, s']`` for every entry (equation (6)).

    Attributes:
        centre: ``(S, A, S)``, the empirical kernel. radius: ``(S, A, S)``, at most 1.
    """

    centre: Array
    radius: Array

    @property
    def low(self) -> Array:
        """The least probability of each entry."""
        return np.maximum(self.centre - self.radius, 0.0)

    @property
    def high(self) -> Array:
        """The greatest probability of each entry."""
        return np.minimum(self.centre + self.radius, 1.0)

    def contains(self, kernel: Array) -> bool:
        """Whether the ball holds the kernel, up to rounding."""
        return bool((np.abs(kernel - self.centre) <= self.radius + 1e-12).all())

    def widened(self, factor: float) -> Ball:
        """The ball with its radius times `factor`, at most 1."""
        return Ball(self.centre, np.minimum(factor * self.radius, 1.0))

    @staticmethod
    def everything(states: int, actions: int) -> Ball:
        """All kernels: what is known before any sample."""
        return Ball(np.full((states, actions, states), 1.0 / states), np.ones((states, actions, states)))

    @staticmethod
    def point(kernel: Array) -> Ball:
        """That kernel alone."""
        return Ball(kernel, np.zeros_like(kernel))


def ball(counts: Ints, kind: RadiusKind = "mp", failure: float = 0.05) -> Ball:
    """The ball of transition counts ``n(s, a, s') (S, A, S)``.

    With ``n = n(s, a)``, ``p`` the empirical probability and ``v = p (1 - p)`` of each entry, ``L = log(4 / failure)``
    and ``M = log(8 / failure)``::

        "mp":      min( sqrt(2 v M / (n - 1)) + 7 M / (3 (n - 1)),  sqrt(L / (2 n)),  1 )    n >= 2, else 1
        "paper":   min( sqrt(2 v L / n) + 2 L / (3 n),              sqrt(L / (2 n)),  1 )    n >= 1, else 1
        "author":  min( sqrt(v / n) + 1 / n,                        1 / sqrt(n),      1 )    n >= 1, else 1
        "none":    0

    ``"mp"`` combines Hoeffding's bound with the empirical Bernstein bound of Maurer and Pontil (Theorem 4), each with
    half of `failure`: an entry lies outside with at most that probability. ``"paper"`` is our reconstruction of the
    printed constants, which cover a little less; ``"author"`` is what the published curves were made with, about one
    standard deviation, and guarantees nothing. Pairs without a sample have a uniform centre.

    Args:
        failure: probability that one entry of the true kernel lies outside.

    Raises:
        InvalidSetting: on an unknown kind, or a probability outside (0, 1).
    """
    if kind not in RADII:
        raise InvalidSetting("radius", f"is {kind!r}", f"Choose one of: {', '.join(RADII)}.")
    if not 0 < failure < 1:
        raise InvalidSetting("failure", f"is {failure}", "Choose a probability in (0, 1).")
    n = counts.sum(axis=2, keepdims=True).astype(np.float64)
    some = np.maximum(n, 1.0)
    centre = np.where(n > 0, counts / some, 1.0 / counts.shape[2])
    if kind == "none":
        return Ball(centre, np.zeros_like(centre))
    v = centre * (1.0 - centre)
    if kind == "author":
        radius, least = np.minimum(np.sqrt(v / some) + 1.0 / some, 1.0 / np.sqrt(some)), 1
    else:
        log4, log8 = np.log(4.0 / failure), np.log(8.0 / failure)
        hoeffding = np.sqrt(log4 / (2.0 * some))
        if kind == "paper":
            bernstein, least = np.sqrt(2.0 * v * log4 / some) + 2.0 * log4 / (3.0 * some), 1
        else:
            rest = np.maximum(n - 1.0, 1.0)
            bernstein, least = np.sqrt(2.0 * v * log8 / rest) + 7.0 * log8 / (3.0 * rest), 2
        radius = np.minimum(bernstein, hoeffding)
    return Ball(centre, np.where(n >= least, np.minimum(radius, 1.0), 1.0))

"""Learning rates over a training, as RLlib takes them."""

from __future__ import annotations


def decay(rate: float, factor: float, steps: int, points: int = 9) -> list[list[float]]:
    """Exponential decay from `rate` to ``factor * rate`` over `steps` environment steps: ``[[step, rate], ...]``."""
    return [[steps * i / (points - 1), rate * factor ** (i / (points - 1))] for i in range(points)]

"""Statistics of evaluations, as pure functions: how sure a count, a mean or a curve is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta

from envs.errors import InvalidSetting

Array = NDArray[np.float64]


def clopper_pearson(violations: int, steps: int, confidence: float = 0.95) -> float:
    """Upper bound on the probability of a violation, from `violations` seen in `steps` independent steps.

    One-sided and exact: whatever the probability is, the bound lies below it with probability at most
    ``1 - confidence``. Zero violations give ``1 - (1 - confidence) ** (1 / steps)``, about ``3 / steps``.

    Raises:
        InvalidSetting: unless ``0 <= violations <= steps``, ``steps >= 1`` and ``0 < confidence < 1``.
    """
    _check_confidence(confidence)
    if steps < 1:
        raise InvalidSetting("steps", f"is {steps}", "Count at least one step.")
    if not 0 <= violations <= steps:
        raise InvalidSetting("violations", f"is {violations} of {steps} steps", "Count each step once.")
    if violations == steps:
        return 1.0
    return float(beta.ppf(confidence, violations + 1, steps - violations))


def interquartile_mean(values: ArrayLike) -> float:
    """Mean without the smallest and the largest quarter, ``floor(n / 4)`` values each.

    Unlike the mean it resists outliers, and it is less noisy than the median.

    Raises:
        InvalidSetting: if there are no values.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64).ravel())
    if not ordered.size:
        raise InvalidSetting("values", "are none", "Give at least one.")
    cut = ordered.size // 4
    return float(ordered[cut : ordered.size - cut].mean())


def bootstrap_interval(
    values: ArrayLike,
    generator: np.random.Generator,
    statistic: Callable[..., Any] = np.mean,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> tuple[Array, Array]:
    """Percentile interval of a statistic of ``values (n, ...)`` whose first axis holds independent runs.

    Args:
        generator: draws the resamples; seed it for a repeatable interval.
        statistic: takes ``(array, axis=...)``, as NumPy's do.

    Returns:
        Lower and upper end, each of the shape of one run, ``values.shape[1:]``.

    Raises:
        InvalidSetting: if there are no runs, no resamples, or `confidence` is not in (0, 1).
    """
    _check_confidence(confidence)
    runs = np.asarray(values, dtype=np.float64)
    if runs.ndim == 0 or not len(runs):
        raise InvalidSetting("values", f"have shape {runs.shape}", "Give at least one run on the first axis.")
    if resamples < 1:
        raise InvalidSetting("resamples", f"is {resamples}", "Draw at least one.")
    drawn = generator.integers(len(runs), size=(resamples, len(runs)))
    statistics = np.asarray(statistic(runs[drawn], axis=1))
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(statistics, [tail, 1.0 - tail], axis=0)
    return np.asarray(low), np.asarray(high)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise InvalidSetting("confidence", f"is {confidence}", "Choose a number in (0, 1).")

"""Statistics against SciPy and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, binomtest, bootstrap, trim_mean

from envs.errors import InvalidSetting
from envs.statistics import bootstrap_interval, clopper_pearson, interquartile_mean


@pytest.mark.parametrize(("violations", "steps"), [(0, 1), (0, 3000), (1, 20), (7, 50), (49, 50), (50, 50)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_clopper_pearson_is_scipys_exact_bound(violations: int, steps: int, confidence: float) -> None:
    exact = binomtest(violations, steps, alternative="less").proportion_ci(confidence, method="exact")
    assert clopper_pearson(violations, steps, confidence) == pytest.approx(exact.high, abs=1e-12)


def test_clopper_pearson_covers() -> None:
    """By enumeration: the bound is below the truth with probability at most 5 %, whatever the truth."""
    n = 40
    bounds = np.array([clopper_pearson(k, n) for k in range(n + 1)])
    for p in np.linspace(0.0, 1.0, 101):
        assert binom.pmf(np.arange(n + 1), n, p)[bounds < p].sum() <= 0.05 + 1e-12


def test_clopper_pearson_of_no_violation() -> None:
    assert clopper_pearson(0, 3000) == pytest.approx(1 - 0.05 ** (1 / 3000), rel=1e-9)


@pytest.mark.parametrize("arguments", [(-1, 3), (4, 3), (0, 0), (0, 3, 0.0), (0, 3, 1.0)])
def test_clopper_pearson_refuses_nonsense(arguments: tuple[float, ...]) -> None:
    with pytest.raises(InvalidSetting):
        clopper_pearson(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 100, 101])
def test_interquartile_mean_is_scipys_trimmed_mean(n: int) -> None:
    values = np.random.default_rng(n).normal(size=n)
    assert interquartile_mean(values) == pytest.approx(trim_mean(values, 0.25))


def test_interquartile_mean_ignores_outliers() -> None:
    assert interquartile_mean([1.0, 2.0, 3.0, 1e9]) == 2.5
    with pytest.raises(InvalidSetting):
        interquartile_mean([])


def test_bootstrap_interval_against_scipy() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=60)
    low, high = bootstrap_interval(values, np.random.default_rng(1), resamples=20_000)
    theirs = bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert low == pytest.approx(theirs.low, abs=0.02)
    assert high == pytest.approx(theirs.high, abs=0.02)


def test_bootstrap_interval_by_enumeration() -> None:
    """Two runs have three possible means, with probabilities 1/4, 1/2 and 1/4."""
    low, high = bootstrap_interval([0.0, 1.0], np.random.default_rng(0), confidence=0.6)
    assert (float(low), float(high)) == (0.0, 1.0)
    low, high = bootstrap_interval([0.0, 1.0], np.random.default_rng(0), confidence=0.4)
    assert (float(low), float(high)) == (0.5, 0.5)


def test_bootstrap_interval_of_curves_repeats_with_its_seed() -> None:
    curves = np.random.default_rng(3).normal(size=(5, 20))
    first, again = (bootstrap_interval(curves, np.random.default_rng(4), resamples=100) for _ in range(2))
    assert first[0].shape == (20,)
    np.testing.assert_array_equal(first, again)
    assert (first[0] <= curves.mean(axis=0)).all()
    assert (curves.mean(axis=0) <= first[1]).all()

"""Advantages and PPO's loss against their definitions, and the centred baseline against an exact gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.common.policy_gradient import centred, clipped_surrogate, generalised_advantages

numbers = st.floats(-10.0, 10.0)


# --- Advantages -----------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(st.tuples(numbers, numbers), min_size=1, max_size=6),
    gamma=st.floats(0.0, 1.0),
    lambda_=st.floats(0.0, 1.0),
    bootstrap=numbers,
)
def test_generalised_advantages_are_their_definition(
    steps: list[tuple[float, float]], gamma: float, lambda_: float, bootstrap: float
) -> None:
    rewards, values = (np.array(column) for column in zip(*steps, strict=True))
    after = [*values[1:], bootstrap]
    expected = []
    for t in range(len(steps)):
        total = 0.0
        for k in range(t, len(steps)):
            total += (gamma * lambda_) ** (k - t) * (rewards[k] + gamma * after[k] - values[k])
        expected.append(total)
    found = generalised_advantages(rewards, values, np.array(after), gamma, lambda_)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_with_lambda_one_they_are_returns_less_values_and_with_zero_one_step_errors() -> None:
    rng = np.random.default_rng(0)
    rewards, values = rng.standard_normal(5), rng.standard_normal(5)
    returns = [sum(0.9**k * rewards[t + k] for k in range(5 - t)) for t in range(5)]
    after = np.append(values[1:], 0.0)
    found = generalised_advantages(rewards, values, after, 0.9, 1.0)
    np.testing.assert_allclose(found, np.array(returns) - values)
    found = generalised_advantages(rewards, values, after, 0.9, 0.0)
    np.testing.assert_allclose(found, rewards + 0.9 * after - values)


def test_a_terminal_episode_earns_nothing_after_its_end_and_a_truncated_one_its_value() -> None:
    rewards, values = np.array([1.0, 2.0]), np.array([0.5, 0.25])
    np.testing.assert_allclose(
        generalised_advantages(rewards, values, np.array([0.25, 0.0]), 1.0, 1.0), [2.5, 1.75]
    )
    after = np.array([0.25, 10.0])
    np.testing.assert_allclose(generalised_advantages(rewards, values, after, 1.0, 1.0), [12.5, 11.75])


def test_episodes_side_by_side_are_judged_as_each_alone() -> None:
    rng = np.random.default_rng(1)
    rewards, values, after = rng.standard_normal((3, 6, 4))
    together = generalised_advantages(rewards, values, after, 0.9, 0.7)
    for i in range(4):
        alone = generalised_advantages(rewards[:, i], values[:, i], after[:, i], 0.9, 0.7)
        np.testing.assert_allclose(together[:, i], alone)


def test_centring_takes_the_mean_of_the_others_step_by_step() -> None:
    advantages = [np.array([1.0, 2.0]), np.array([4.0]), np.array([10.0, 20.0, 7.0]), np.array([3.0])]
    given_before = [a.copy() for a in advantages]
    out = centred(advantages, ["a", "a", "a", "b"])
    np.testing.assert_allclose(out[0], [1.0 - (4.0 + 10.0) / 2, 2.0 - 20.0])
    np.testing.assert_allclose(out[1], [4.0 - (1.0 + 10.0) / 2])
    np.testing.assert_allclose(out[2], [10.0 - (1.0 + 4.0) / 2, 20.0 - 2.0, 7.0])  # none else got that far
    np.testing.assert_allclose(out[3], [3.0])
    for before, after in zip(given_before, advantages, strict=True):
        np.testing.assert_array_equal(before, after)


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 2), st.lists(numbers, min_size=1, max_size=4)), min_size=1, max_size=8
    ),
    shift=numbers,
)
def test_what_a_whole_group_earns_alike_does_not_matter(
    rows: list[tuple[int, list[float]]], shift: float
) -> None:
    """A constant added to all episodes of a group is gone, and groups do not see each other."""
    groups, advantages = [g for g, _ in rows], [np.array(a) for _, a in rows]
    out = centred(advantages, groups)
    shifted = centred([a + shift * (g == 0) for a, g in zip(advantages, groups, strict=True)], groups)
    for i, (group, values) in enumerate(zip(groups, advantages, strict=True)):
        for t in range(len(values)):
            alone = sum(g == group and len(a) > t for g, a in zip(groups, advantages, strict=True)) == 1
            expected = out[i][t] + (shift if alone and group == 0 else 0.0)
            assert shifted[i][t] == pytest.approx(expected, abs=1e-9)


def test_centring_leaves_the_policy_gradient_unbiased_and_less_noisy() -> None:
    """Actions ``a ~ N(mu, 1)``, reward ``z - (a - 1)^2`` with luck z of the group: dJ/dmu = -2 (mu - 1)."""
    mu, size, groups = 0.25, 4, 20_000
    exact = -2.0 * (mu - 1.0)
    rng = np.random.default_rng(0)
    actions = mu + rng.standard_normal((groups, size))
    rewards = 10.0 * rng.standard_normal((groups, 1)) - (actions - 1.0) ** 2
    labels = np.repeat(np.arange(groups), size).tolist()
    judged = np.concatenate(centred([np.array([r]) for r in rewards.ravel()], labels)).reshape(groups, size)
    estimates = {
        name: (weight * (actions - mu)).mean(axis=1)
        for name, weight in (("plain", rewards), ("centred", judged))
    }
    for estimate in estimates.values():
        assert abs(estimate.mean() - exact) < 4.0 * estimate.std(ddof=1) / np.sqrt(groups)
    assert estimates["centred"].std() < 0.5 * estimates["plain"].std()
    assert estimates["centred"].std() / np.sqrt(groups) < 0.02, "a bias of 4 percent would be seen"
    # The mean of the whole group, the episode's own among it, would shrink the gradient by 1 / size.
    biased = ((rewards - rewards.mean(axis=1, keepdims=True)) * (actions - mu)).mean(axis=1)
    assert abs(biased.mean() - exact) > 4.0 * biased.std(ddof=1) / np.sqrt(groups)


# --- The loss -------------------------------------------------------------------------------------------------


def plain(
    log_prob: np.ndarray, old: np.ndarray, A: np.ndarray, v: np.ndarray, target: np.ndarray, h: np.ndarray,
    clip: float, c1: float, c2: float,
) -> dict[str, float]:  # fmt: skip
    """Equations 7 and 9, one sample after the other."""
    policy = value = kl = clipped = 0.0
    for i in range(len(A)):
        r = np.exp(log_prob[i] - old[i])
        policy -= min(r * A[i], min(max(r, 1 - clip), 1 + clip) * A[i])
        value += (v[i] - target[i]) ** 2
        kl += 0.5 * np.log(r) ** 2
        clipped += r < 1 - clip or r > 1 + clip
    n = len(A)
    return {
        "policy": policy / n, "value": value / n, "entropy": h.mean(), "kl": kl / n, "clipped": clipped / n,
        "total": policy / n + c1 * value / n - c2 * h.mean(),
    }  # fmt: skip


@pytest.mark.parametrize("clip", [0.1, 0.3])
def test_the_loss_is_the_papers(clip: float) -> None:
    rng = np.random.default_rng(1)
    columns = [0.5 * rng.standard_normal(40) for _ in range(6)]
    expected = plain(*columns, clip, 0.7, 0.03)
    losses = clipped_surrogate(
        *(torch.tensor(c) for c in columns), clip=clip, value_coefficient=0.7, entropy_coefficient=0.03
    )
    assert 0 < expected["clipped"] < 1
    for name, number in expected.items():
        assert float(getattr(losses, name)) == pytest.approx(
            number, abs=1e-6 if name == "clipped" else 1e-12
        ), name


@pytest.mark.parametrize(
    ("ratio", "advantage", "counts"),
    [
        (1.0, 1.0, True), (1.0, -1.0, True), (1.1, 1.0, True), (0.9, -1.0, True),
        (1.3, 1.0, False), (0.7, -1.0, False),  # gone far enough that way
        (1.3, -1.0, True), (0.7, 1.0, True),  # too far the wrong way: it is called back
    ],
)  # fmt: skip
def test_the_gradient_ends_where_the_clip_is_passed(ratio: float, advantage: float, counts: bool) -> None:
    log_prob = torch.tensor([np.log(ratio)], dtype=torch.float64, requires_grad=True)
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    losses = clipped_surrogate(
        log_prob,
        zero,
        advantage * one,
        zero,
        zero,
        zero,
        clip=0.2,
        value_coefficient=0.0,
        entropy_coefficient=0.0,
    )
    (gradient,) = torch.autograd.grad(losses.total, log_prob)
    assert float(gradient) == pytest.approx(-ratio * advantage if counts else 0.0)


def test_the_gradient_meets_finite_differences() -> None:
    rng = np.random.default_rng(2)
    log_prob, v, h = (torch.tensor(0.4 * rng.standard_normal(6), requires_grad=True) for _ in range(3))
    old, A, target = (torch.tensor(0.4 * rng.standard_normal(6)) for _ in range(3))

    def total(p: torch.Tensor, value: torch.Tensor, entropy: torch.Tensor) -> torch.Tensor:
        return clipped_surrogate(
            p, old, A, value, target, entropy, clip=0.2, value_coefficient=0.5, entropy_coefficient=0.01
        ).total

    assert torch.autograd.gradcheck(total, (log_prob, v, h))


def test_the_reported_divergence_is_never_negative_and_takes_no_part_in_the_gradient() -> None:
    p = torch.tensor([-3.0, 0.0, 2.0], requires_grad=True)
    zero = torch.zeros(3)
    losses = clipped_surrogate(
        p, zero, zero, zero, zero, zero, clip=0.2, value_coefficient=0.5, entropy_coefficient=0.0
    )
    assert float(losses.kl) > 0
    assert not losses.kl.requires_grad
    same = clipped_surrogate(
        zero, zero, zero, zero, zero, zero, clip=0.2, value_coefficient=0.5, entropy_coefficient=0.0
    )
    assert float(same.kl) == 0.0

"""Cuts that are linear in the features of the variables: their distribution, and how they are deployed. No Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from algorithms.boo.feature_policy import CARRIES_CUTS, FeatureCut, FeatureCutPolicy
from algorithms.boo.graphs import GraphBatch
from algorithms.boo.writer import CutWriter
from algorithms.common import checkpoint
from envs.cutting_planes import Cut, GraphObservation
from envs.job_shop import JobShopEnv


def shops() -> list[GraphObservation]:
    """Of different sizes, the jobs alone; the second one later in its episode."""
    out = []
    for jobs, steps in ((6, 0), (9, 1)):
        env = JobShopEnv(jobs, months=8, copies=1, replan="cut", observe="jobs")
        graph, _ = env.reset(seed=jobs)
        for _ in range(steps):
            graph = env.step(Cut(np.ones(jobs), 0.0))[0]
        out.append(graph)
    return out


def policy_for(some: list[GraphObservation], **changes: Any) -> FeatureCutPolicy:
    with torch.random.fork_rng(devices=[]):  # the layers' own first weights have no generator argument
        torch.manual_seed(0)
        return FeatureCutPolicy(
            some[0].variables.shape[1], some[0].constraints.shape[1], width=16, rounds=2, **changes
        )


def test_weights_are_linear_in_the_features_of_each_variable() -> None:
    some = shops()
    distribution, _ = policy_for(some)(GraphBatch.of(some))
    cuts, _ = distribution.sample(torch.Generator().manual_seed(0))
    for graph, cut in zip(some, cuts, strict=True):
        assert isinstance(cut, FeatureCut)
        *a, b = cut.drawn
        np.testing.assert_allclose(
            cut.w, graph.variables[graph.cut_variables] @ np.array(a), rtol=1e-4, atol=1e-5
        )
        assert cut.b == pytest.approx(b)


def test_the_density_is_that_of_a_diagonal_gaussian_over_what_was_drawn() -> None:
    some = shops()
    policy = policy_for(some)
    with torch.no_grad():
        policy.log_std += torch.linspace(-1.0, 0.5, len(policy.log_std))
    distribution, _ = policy(GraphBatch.of(some))
    cuts, log_prob = distribution.sample(torch.Generator().manual_seed(1))
    normal = torch.distributions.Normal(distribution.mean, policy.log_std.exp())
    drawn = torch.tensor([cut.drawn for cut in cuts if isinstance(cut, FeatureCut)])
    torch.testing.assert_close(log_prob, normal.log_prob(drawn).sum(dim=1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(distribution.log_prob(cuts), log_prob, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(distribution.entropy(), normal.entropy().sum(dim=1))


def test_samples_scatter_as_the_distribution_says() -> None:
    some = shops()[:1] * 2000
    policy = policy_for(some, log_std=-1.0)
    distribution, _ = policy(GraphBatch.of(some))
    cuts, _ = distribution.sample(torch.Generator().manual_seed(2))
    drawn = np.array([cut.drawn for cut in cuts if isinstance(cut, FeatureCut)])
    mean = distribution.mean[0].detach().numpy()
    np.testing.assert_allclose(drawn.mean(axis=0), mean, atol=5 * np.exp(-1.0) / np.sqrt(2000))
    np.testing.assert_allclose(drawn.std(axis=0), np.exp(-1.0), rtol=0.1)


def test_learning_begins_from_equal_weights() -> None:
    some = shops()
    policy = policy_for(some, prior=1.0)
    assert float(policy.coefficients.bias[CARRIES_CUTS]) == 1.0
    for cut in policy(GraphBatch.of(some))[0].mode():
        assert np.abs(cut.w - 1.0).max() < 0.6
        assert (cut.w > 0).all()


def test_a_master_in_a_batch_gets_what_it_gets_alone_and_the_gradient_reaches_the_graph() -> None:
    some = shops()
    policy = policy_for(some)
    together, values = policy(GraphBatch.of(some))
    for k, graph in enumerate(some):
        alone, value = policy(GraphBatch.of([graph]))
        torch.testing.assert_close(together.mean[k : k + 1], alone.mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(values[k : k + 1], value, rtol=1e-4, atol=1e-5)
    cuts = together.mode()
    together.log_prob([FeatureCut(c.w, c.b, tuple(x + 0.1 for x in c.drawn)) for c in cuts]).sum().backward()
    assert policy.encoder.variables.weight.grad.abs().max() > 0


def test_later_cuts_of_an_episode_begin_below_the_ones_before() -> None:
    env = JobShopEnv(6, months=8, copies=1, cuts=2, observe="jobs")
    first, _ = env.reset(seed=0)
    second = env.step(Cut(np.ones(6), 0.0))[0]
    policy = policy_for([first], supersede=2.0)
    plain = policy_for([first], supersede=0.0)
    for graph, lower in ((first, 0.0), (second, 2.0 * 6)):
        b = [float(p(GraphBatch.of([graph]))[0].mean[0, -1]) for p in (policy, plain)]
        assert b[1] - b[0] == pytest.approx(lower, abs=1e-4)


def test_it_deploys_from_a_checkpoint(tmp_path: Path) -> None:
    some = shops()
    writer = CutWriter(policy_for(some))
    writer.save(tmp_path)
    checkpoint.seal(tmp_path)
    for cut, same in zip(writer(some), CutWriter.from_checkpoint(tmp_path)(some), strict=True):
        np.testing.assert_array_equal(cut.w, same.w)


def test_held_noise_is_the_same_whoever_plays_beside_and_at_every_step() -> None:
    """Seeds of its own give an episode the noise it would have alone."""
    some = shops()
    distribution, _ = policy_for(some)(GraphBatch.of(some))
    alone, _ = policy_for(some)(GraphBatch.of(some[1:]))

    def noise(d: Any, *seeds: int) -> Any:
        cuts, _ = d.sample([torch.Generator().manual_seed(seed) for seed in seeds])
        return np.array([cut.drawn for cut in cuts]) - d.mean.detach().numpy()

    together = noise(distribution, 7, 8)
    np.testing.assert_allclose(together[1:], noise(alone, 8), atol=1e-5)
    np.testing.assert_allclose(together, noise(distribution, 7, 8), atol=1e-6)
    assert np.abs(together[0] - together[1]).max() > 0.1

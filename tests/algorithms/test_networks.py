"""Networks of actor and critics: explicit gradients equal autograd's, plain copies equal the originals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from algorithms.common.critic import mlp_from_torch
from algorithms.common.networks import Ensemble
from solver_pool.errors import InvalidProblem
from solver_pool.problem import ACTIVATIONS, MLP


def ensemble(activation: str, n_outputs: int = 1, mixing: bool = False) -> Ensemble:
    generator = torch.Generator().manual_seed(0)
    matrix = np.eye(5) + 0.3 * np.random.default_rng(0).normal(size=(5, 5)) if mixing else None
    return Ensemble(3, 5, (7, 6), n_outputs, activation, generator, mixing=matrix)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("mixing", [False, True])
def test_regression_gradients_equal_autograds(activation: str, mixing: bool) -> None:
    network = ensemble(activation, n_outputs=2, mixing=mixing).double()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(20, 5, generator=generator, dtype=torch.float64)
    y = torch.randn(20, 2, generator=generator, dtype=torch.float64)
    weights = torch.rand(20, generator=generator, dtype=torch.float64)
    loss = (weights[:, None] * (network(x) - y) ** 2).sum()
    expected = torch.autograd.grad(loss, list(network.parameters()))
    error = network.regression_gradients(x, y, weights)
    torch.testing.assert_close(error, network(x) - y)
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_plain_copies_give_the_same_numbers(activation: str) -> None:
    network = ensemble(activation, mixing=True)
    x = torch.randn(20, 5, generator=torch.Generator().manual_seed(2))
    outputs = network(x)[..., 0].detach().numpy()
    for member, plain in enumerate(network.networks()):
        np.testing.assert_allclose(plain(x.double().numpy()), outputs[member], rtol=1e-4, atol=1e-5)
    mean = MLP.mean(network.networks())
    np.testing.assert_allclose(mean(x.double().numpy()), outputs.mean(axis=0), rtol=1e-4, atol=1e-5)


def test_soft_updates_move_by_the_rate() -> None:
    one, two = ensemble("tanh"), ensemble("tanh")
    with torch.no_grad():
        for parameter in two.parameters():
            parameter += 1.0
    before = [p.clone() for p in one.parameters()]
    one.move_towards(two, 0.25)
    for old, new, goal in zip(before, one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * goal)


def test_copies_and_states_stay_connected_to_what_they_compute_with() -> None:
    """The plain list beside torch's containers must survive loading and deep copies."""
    import copy

    source, target = ensemble("elu"), copy.deepcopy(ensemble("elu"))
    with torch.no_grad():
        next(iter(source.parameters())).mul_(3.0)
    target.load_state_dict(source.state_dict())
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(target(x), source(x))
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.zero_()
    assert (target(x) == 0).all()


@pytest.mark.parametrize("name", ["ReLU", "Tanh", "Softplus", "Sigmoid", "ELU"])
def test_any_feed_forward_torch_critic_becomes_a_plain_network(name: str) -> None:
    torch_critic = nn.Sequential(
        nn.Linear(4, 8),
        getattr(nn, name)(),
        nn.Linear(8, 8, bias=False),
        getattr(nn, name)(),
        nn.Linear(8, 1),
    )
    x = torch.randn(10, 4, generator=torch.Generator().manual_seed(4))
    plain = mlp_from_torch(torch_critic)
    expected = torch_critic(x)[:, 0].detach().numpy()
    np.testing.assert_allclose(plain(x.double().numpy()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("critic", "message"),
    [
        (nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)), r"critic\[1\].*BatchNorm1d"),
        (nn.Sequential(nn.Linear(4, 8), nn.Softplus(beta=2), nn.Linear(8, 1)), r"critic\[1\].*Softplus"),
        (nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1)), "one kind"),
        (nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)), "2 outputs"),
    ],
)
def test_unsupported_critics_name_the_layer(critic: nn.Module, message: str) -> None:
    with pytest.raises(InvalidProblem, match=message):
        mlp_from_torch(critic)


def test_weights_that_are_not_finite_are_named() -> None:
    critic = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    with torch.no_grad():
        critic[2].weight[0, 3] = float("nan")
    with pytest.raises(InvalidProblem, match=r"weights\[1\].*\(0, 3\)"):
        mlp_from_torch(critic)

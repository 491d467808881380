"""From a torch critic to the plain network that solvers take."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from solver_pool.errors import InvalidProblem
from solver_pool.problem import MLP

ACTIVATION_LAYERS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "sigmoid": nn.Sigmoid,
    "elu": nn.ELU,
}


def mlp_from_torch(network: nn.Module, name: str = "critic") -> MLP:
    """Copy a feed-forward torch network into an `MLP` of float64 arrays.

    Args:
        network: an ``nn.Sequential`` of ``nn.Linear`` layers with one of `ACTIVATION_LAYERS` between them;
            its inputs are the state followed by the action, its output one number.
        name: how errors call it.

    Raises:
        InvalidProblem: naming the first layer that solvers cannot take, or a weight that is not finite.
    """
    layers = list(network.children()) if not isinstance(network, nn.Linear) else [network]
    weights, biases, activations = [], [], []
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.Linear):
            weights.append(_numbers(layer.weight))
            biases.append(_numbers(layer.bias) if layer.bias is not None else np.zeros(layer.out_features))
            continue
        kind = next((k for k, t in ACTIVATION_LAYERS.items() if type(layer) is t), None)
        if kind is None or not _standard(layer):
            raise InvalidProblem(
                f"{name}[{i}]",
                f"the layer {layer} is not supported",
                f"Use nn.Linear layers with {', '.join(ACTIVATION_LAYERS)} (default settings) between them.",
            )
        activations.append(kind)
    if len(activations) != len(weights) - 1 or len(set(activations)) > 1:
        raise InvalidProblem(
            name,
            f"{len(weights)} linear layers with activations {activations}",
            "Alternate linear layers with one kind of activation, and end with a linear layer.",
        )
    return MLP(tuple(weights), tuple(biases), activations[0] if activations else "tanh")


def _numbers(parameter: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return parameter.detach().cpu().numpy().astype(np.float64)


def _standard(layer: nn.Module) -> bool:
    """Whether an activation layer has its default constants, the only ones that solvers know."""
    if isinstance(layer, nn.Softplus):
        return bool(layer.beta == 1)
    if isinstance(layer, nn.ELU):
        return bool(layer.alpha == 1.0)
    return True

"""Feed-forward networks of the actor and the critics, and their plain-array copies for solvers. No Ray."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from solver_pool.errors import InvalidProblem
from solver_pool.problem import ACTIVATIONS, MLP, Array


def activation_and_slope(name: str, z: Tensor) -> tuple[Tensor, Tensor]:
    """The activation `name` and its derivative at `z`, elementwise."""
    if name == "softplus":
        h = functional.softplus(z)
        return h, 1.0 - torch.exp(-h)
    if name == "tanh":
        h = torch.tanh(z)
        return h, 1.0 - h * h
    if name == "sigmoid":
        h = torch.sigmoid(z)
        return h, h * (1.0 - h)
    if name == "elu":
        h = functional.elu(z)
        return h, h.clamp(max=0.0) + 1.0
    h = torch.relu(z)
    return h, (z > 0).to(z.dtype)


class Ensemble(nn.Module):
    """`n_members` networks of one shape, evaluated as batched matrix products.

    Parameters are ``(E, n_in, n_out)`` weights and ``(E, 1, n_out)`` biases for each layer.

    Args:
        n_members: E. n_inputs, hidden, n_outputs: widths of the layers.
        activation: of the hidden layers, one of `ACTIVATIONS`; the output is linear.
        generator: draws the initial weights, normal with variance ``1 / n_in``.
        output_scale: multiplies the initial weights of the last layer.
        mixing: ``(n_inputs, n_inputs)`` fixed linear map before the first layer, or None.
    """

    mixing: Tensor

    def __init__(
        self,
        n_members: int,
        n_inputs: int,
        hidden: Sequence[int],
        n_outputs: int,
        activation: str,
        generator: torch.Generator,
        output_scale: float = 1.0,
        mixing: Array | None = None,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise InvalidProblem(
                "activation", f"{activation!r} is unknown", f"Use one of {', '.join(ACTIVATIONS)}."
            )
        self.activation = activation
        widths = [n_inputs, *hidden, n_outputs]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for layer, (n_in, n_out) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            last = layer == len(widths) - 2
            deviation = (output_scale if last else 1.0) / math.sqrt(n_in)
            self.weights.append(
                nn.Parameter(torch.randn(n_members, n_in, n_out, generator=generator) * deviation)
            )
            self.biases.append(nn.Parameter(torch.zeros(n_members, 1, n_out)))
        fixed = torch.eye(n_inputs) if mixing is None else torch.as_tensor(mixing, dtype=torch.float32)
        self.register_buffer("mixing", fixed)

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs ``(E, B, n_out)`` at inputs ``(B, n_inputs)``."""
        h = (inputs @ self.mixing).expand(self.weights[0].shape[0], -1, -1)
        last = len(self.weights) - 1
        for layer, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(b, h, w)
            if layer < last:
                h = activation_and_slope(self.activation, h)[0]
        return h

    @torch.no_grad()
    def regression_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Set every parameter's ``.grad`` to that of ``sum_e mean_b (f_e(x_b) - y_b)^2``.

        The same as autograd's, by explicit back-propagation, in a third of the time at these sizes.

        Args:
            inputs: ``(B, n_inputs)``. targets: ``(B, n_out)``, shared, or ``(E, B, n_out)``.

        Returns:
            The errors ``f_e(x_b) - y_b``, ``(E, B, n_out)``.
        """
        size = self.weights[0].shape[0]
        h = (inputs @ self.mixing).expand(size, -1, -1)
        values, slopes = [h], []
        last = len(self.weights) - 1
        for layer, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(b, h, w)
            if layer < last:
                h, slope = activation_and_slope(self.activation, h)
                values.append(h)
                slopes.append(slope)
        error = h - targets
        delta = error * (2.0 / inputs.shape[0])
        for layer in range(last, -1, -1):
            self.weights[layer].grad = torch.bmm(values[layer].transpose(1, 2), delta)
            self.biases[layer].grad = delta.sum(1, keepdim=True)
            if layer:
                delta = torch.bmm(delta, self.weights[layer].transpose(1, 2)) * slopes[layer - 1]
        return error

    @torch.no_grad()
    def move_towards(self, source: Ensemble, rate: float) -> None:
        """Soft update ``theta <- rate * theta_source + (1 - rate) * theta``."""
        torch._foreach_lerp_(list(self.parameters()), list(source.parameters()), rate)

    def networks(self) -> list[MLP]:
        """The members as plain float64 networks, the fixed linear map folded into the first layer.

        Only for scalar outputs.

        Raises:
            InvalidProblem: if a weight is not finite.
        """
        members = range(self.weights[0].shape[0])
        return [MLP(*self.layers(member), self.activation) for member in members]

    def layers(self, member: int = 0) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """Weights ``(n_out, n_in)`` and biases ``(n_out,)`` of one member, the fixed linear map folded in."""
        mixing = self.mixing.detach().cpu().numpy().astype(np.float64)
        weights = [w.detach().cpu().numpy()[member].astype(np.float64) for w in self.weights]
        weights[0] = mixing @ weights[0]
        biases = [b.detach().cpu().numpy()[member, 0].astype(np.float64) for b in self.biases]
        return tuple(np.ascontiguousarray(w.T) for w in weights), tuple(biases)

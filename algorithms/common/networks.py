"""Feed-forward networks of the actor and the critics, and their plain-array copies for solvers. No Ray."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from solver_pool.errors import InvalidProblem
from solver_pool.problem import ACTIVATIONS, MLP, Array

_SIMPLE = {"tanh": torch.tanh, "sigmoid": torch.sigmoid, "relu": torch.relu}


def activation(name: str, z: Tensor) -> Tensor:
    """The activation `name` at `z`, elementwise."""
    if name == "softplus":
        return functional.softplus(z)
    return functional.elu(z) if name == "elu" else _SIMPLE[name](z)


def activation_and_slope(name: str, z: Tensor) -> tuple[Tensor, Tensor]:
    """The activation `name` and its derivative at `z`, elementwise."""
    h = activation(name, z)
    if name == "softplus":
        return h, 1.0 - torch.exp(-h)
    if name == "tanh":
        return h, 1.0 - h * h
    if name == "sigmoid":
        return h, h * (1.0 - h)
    if name == "elu":
        return h, h.clamp(max=0.0) + 1.0
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
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for layer, (n_in, n_out) in enumerate(pairwise(widths)):
            last = layer == len(widths) - 2
            deviation = (output_scale if last else 1.0) / math.sqrt(n_in)
            draw = torch.randn(n_members, n_in, n_out, generator=generator)
            self.weights.append(nn.Parameter(draw * deviation))
            self.biases.append(nn.Parameter(torch.zeros(n_members, 1, n_out)))
        # A plain list of the same parameters: torch's containers cost more than the products at these sizes.
        self._layers = list(zip(self.weights, self.biases, strict=True))
        self._flat = [p for layer in self._layers for p in layer]
        fixed = torch.eye(n_inputs) if mixing is None else torch.as_tensor(mixing, dtype=torch.float32)
        self.register_buffer("mixing", fixed)
        self._mixes = mixing is not None and not np.array_equal(mixing, np.eye(n_inputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs ``(E, B, n_out)`` at inputs ``(B, n_inputs)``."""
        h = self._entry(inputs)
        for w, b in self._layers[:-1]:
            h = activation(self.activation, torch.baddbmm(b, h, w))
        w, b = self._layers[-1]
        return torch.baddbmm(b, h, w)

    def _entry(self, inputs: Tensor) -> Tensor:
        mixed = inputs @ self.mixing if self._mixes else inputs
        return mixed.expand(self._layers[0][0].shape[0], -1, -1)

    @torch.no_grad()
    def regression_gradients(self, inputs: Tensor, targets: Tensor, sample_weights: Tensor) -> Tensor:
        """Set every parameter's ``.grad`` to that of ``sum_e sum_b w_b |f_e(x_b) - y_b|^2``.

        The same as autograd's, by explicit back-propagation, in a third of the time at these sizes.

        Args:
            inputs: ``(B, n_inputs)``. targets: ``(B, n_out)``, shared by the members.
            sample_weights: ``w (B,)``.

        Returns:
            The errors ``f_e(x_b) - y_b``, ``(E, B, n_out)``.
        """
        h = self._entry(inputs)
        values, slopes = [h], []
        for w, b in self._layers[:-1]:
            h, slope = activation_and_slope(self.activation, torch.baddbmm(b, h, w))
            values.append(h)
            slopes.append(slope)
        w, b = self._layers[-1]
        error = torch.baddbmm(b, h, w) - targets
        delta = error * (2.0 * sample_weights[:, None])
        for layer in range(len(self._layers) - 1, -1, -1):
            w, b = self._layers[layer]
            w.grad = torch.bmm(values[layer].transpose(1, 2), delta)
            b.grad = delta.sum(1, keepdim=True)
            if layer:
                delta = torch.bmm(delta, w.transpose(1, 2)) * slopes[layer - 1]
        return error

    @torch.no_grad()
    def move_towards(self, source: Ensemble, rate: float) -> None:
        """Soft update ``theta <- rate * theta_source + (1 - rate) * theta``."""
        torch._foreach_lerp_(self._flat, source._flat, rate)

    def networks(self) -> list[MLP]:
        """The members as plain float64 networks, the fixed linear map folded into the first layer.

        Only for scalar outputs.

        Raises:
            InvalidProblem: if a weight is not finite.
        """
        members = range(self._layers[0][0].shape[0])
        return [MLP(*self.layers(member), self.activation) for member in members]

    def layers(self, member: int = 0) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """Weights ``(n_out, n_in)`` and biases ``(n_out,)`` of one member, the fixed linear map folded in."""
        weights = [w.detach().cpu().numpy()[member].astype(np.float64) for w, _ in self._layers]
        biases = [b.detach().cpu().numpy()[member, 0].astype(np.float64) for _, b in self._layers]
        if self._mixes:
            weights[0] = self.mixing.cpu().numpy().astype(np.float64) @ weights[0]
        return tuple(np.ascontiguousarray(w.T) for w in weights), tuple(biases)

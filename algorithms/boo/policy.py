"""The graph neural network that writes a cut: message passing over the master, and its distribution. No Ray.

Seed 001, section 4 ("Graph Neural Network connecting variable nodes with constraint nodes"); specification boo,
section 2. With ``v_j`` of a variable and ``c_i`` of a constraint, each of the rounds is::

    c_i <- c_i + relu(U c_i + U' mean_j A_ij v_j)
    v_j <- v_j + relu(W v_j + W' mean_i A_ij c_i + W'' sum_l Q_jl v_l)

where A are the constraints' coefficients, cuts among them, and Q the couplings, if the task shows any. Heads: ``w_j``
from the variables that carry cuts, ``b`` and the value from means over the graph. The network does not depend on the
size of the master.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.pool import global_add_pool, global_mean_pool

from algorithms.boo.graphs import GraphBatch, Messages
from envs.cutting_planes import Cut
from envs.cutting_planes.graph import CONSTRAINT_FEATURES, VARIABLE_FEATURES

IS_CUT = CONSTRAINT_FEATURES.index("is_cut")
LOW, HIGH = (VARIABLE_FEATURES.index(name) for name in ("low", "high"))


class _Product(torch.autograd.Function):
    """``matrix @ x`` of a sparse constant, whose transpose is at hand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor, transposed: Tensor) -> Tensor:
        ctx.transposed = transposed
        return matrix @ x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.transposed @ gradients[0], None, None


class EdgeWeightedConv(MessagePassing):
    """``W' sum_j e_ij x_j``: messages from sources x along weighted edges; nothing where there is no edge."""

    def __init__(self, width: int) -> None:
        super().__init__(aggr="sum")
        self.received = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, messages: Messages) -> Tensor:
        """Features ``(destinations, width)`` from ``x (sources, width)``."""
        total = self.propagate(messages.matrix, x=x, transposed=messages.transposed)
        out: Tensor = self.received(total)
        return out

    def message_and_aggregate(self, edge_index: Tensor, x: Tensor, transposed: Tensor) -> Tensor:
        product: Tensor = _Product.apply(x, edge_index, transposed)  # type: ignore[no-untyped-call]
        return product


class MasterEncoder(nn.Module):
    """Features of every node after rounds of messages between variables and constraints.

    Args:
        variable_features, constraint_features: ``f_v`` and ``f_c``. width: of the hidden features. rounds: of messages.
    """

    def __init__(self, variable_features: int, constraint_features: int, width: int, rounds: int) -> None:
        super().__init__()
        self.variables = nn.Linear(variable_features, width)
        self.constraints = nn.Linear(constraint_features, width)

        def messages() -> nn.ModuleList:
            return nn.ModuleList([EdgeWeightedConv(width) for _ in range(rounds)])

        def own() -> nn.ModuleList:
            return nn.ModuleList([nn.Linear(width, width) for _ in range(rounds)])

        self.own_variables, self.own_constraints = own(), own()
        self.to_constraints, self.to_variables, self.couplings = messages(), messages(), messages()

    def forward(self, graph: GraphBatch) -> tuple[Tensor, Tensor]:
        """Features ``(V, width)`` of the variables and ``(C, width)`` of the constraints."""
        v, c = self.variables(graph.variables).relu(), self.constraints(graph.constraints).relu()
        for own_v, own_c, down, up, across in zip(
            self.own_variables, self.own_constraints, self.to_constraints, self.to_variables, self.couplings,
            strict=True,
        ):  # fmt: skip
            c = c + (own_c(c) + down(v, graph.to_constraints)).relu()
            message = own_v(v) + up(c, graph.to_variables)
            if graph.couplings is not None:
                message = message + across(v, graph.couplings)
            v = v + message.relu()
        return v, c


Generators: TypeAlias = torch.Generator | Sequence[torch.Generator]
"""One for all masters of a batch, or one for each, with which an episode can draw the same noise at every step."""


def normal(sizes: Sequence[int], generators: Generators) -> list[Tensor]:
    """Standard normal numbers, so many for each master."""
    if isinstance(generators, torch.Generator):
        return list(torch.split(torch.randn(sum(sizes), generator=generators), list(sizes)))
    return [torch.randn(size, generator=own) for size, own in zip(sizes, generators, strict=True)]


class Distribution(Protocol):
    """Over one action for each of B masters; an action is a cut, whatever it was made of."""

    def sample(self, generators: Generators) -> tuple[list[Cut], Tensor]:
        """One action for each master, and their log-probabilities ``(B,)``."""
        ...

    def mode(self) -> list[Cut]:
        """The action that is deployed."""
        ...

    def log_prob(self, cuts: Sequence[Cut]) -> Tensor:
        """``(B,)``, of one action for each master."""
        ...

    def entropy(self) -> Tensor:
        """``(B,)`` [nats]."""
        ...


@dataclass(frozen=True, eq=False)
class CutDistribution:
    """A diagonal Gaussian over one cut for each of B masters, with D weights in all.

    A variable that is fixed in its master leaves nothing to decide: its weight is the mean, and has no density.

    Attributes:
        w: ``(D,)``, b: ``(B,)``, means. log_std: ``(2,)``, of each weight and of each bias.
        graph: ``(D,)``, the master of each weight, ascending. free: ``(D,)``, 0 for variables that are fixed, else 1.
    """

    w: Tensor
    b: Tensor
    log_std: Tensor
    graph: Tensor
    free: Tensor

    def sample(self, generators: Generators) -> tuple[list[Cut], Tensor]:
        std = self.log_std.detach().exp()
        sizes = torch.bincount(self.graph, minlength=len(self.b)).tolist()
        w = self.w.detach() + std[0] * torch.cat(normal(sizes, generators)).to(std.device) * self.free
        b = self.b.detach() + std[1] * torch.cat(normal([1] * len(sizes), generators)).to(std.device)
        return self._as_cuts(w, b), self._density(w, b)

    def mode(self) -> list[Cut]:
        return self._as_cuts(self.w, self.b)

    def log_prob(self, cuts: Sequence[Cut]) -> Tensor:
        """``(B,)``: the densities of a master's weights and bias, multiplied."""
        w = torch.from_numpy(np.concatenate([cut.w for cut in cuts]).astype(np.float32))
        b = torch.tensor([cut.b for cut in cuts], dtype=torch.float32)
        return self._density(w.to(self.w.device), b.to(self.b.device))

    def entropy(self) -> Tensor:
        """``(B,)`` [nats]; it grows with the number of weights."""
        constant = 0.5 * math.log(2.0 * math.pi * math.e)
        of_w = (self.log_std[0] + constant) * self.free
        return (self.log_std[1] + constant).expand(self.b.shape).index_add(0, self.graph, of_w)

    def _density(self, w: Tensor, b: Tensor) -> Tensor:
        half_log_two_pi = 0.5 * math.log(2.0 * math.pi)
        std = self.log_std.exp()
        of_w = -0.5 * ((w - self.w) / std[0]) ** 2 - self.log_std[0] - half_log_two_pi
        of_b = -0.5 * ((b - self.b) / std[1]) ** 2 - self.log_std[1] - half_log_two_pi
        return of_b.index_add(0, self.graph, of_w * self.free)

    def _as_cuts(self, w: Tensor, b: Tensor) -> list[Cut]:
        sizes = torch.bincount(self.graph, minlength=len(self.b)).cumsum(0)[:-1].tolist()
        parts = np.split(w.detach().cpu().numpy(), sizes)
        return [Cut(part, bias) for part, bias in zip(parts, b.tolist(), strict=True)]


class CutPolicy(nn.Module):
    """Actor and critic on one encoder.

    Args:
        variable_features, constraint_features: ``f_v`` and ``f_c``. width, rounds: see `MasterEncoder`.
        log_std: of the weights in the beginning.
        supersede: with each cut of an episode the mean of ``b`` begins this much lower, for each variable that carries
            cuts. With 2, twice what weights of unit root mean square add up to at most, the last cut binds alone
            until learning finds better; 0 begins with biases around zero.
        prior: mean of the weights in the beginning: 1 maximises the sum of the cut variables, as a solver would that
            knows nothing else; 0 nothing in particular.
    """

    def __init__(
        self,
        variable_features: int,
        constraint_features: int,
        width: int = 64,
        rounds: int = 4,
        log_std: float = -0.5,
        supersede: float = 2.0,
        prior: float = 0.0,
    ) -> None:
        super().__init__()
        self.arguments = (variable_features, constraint_features, width, rounds, log_std, supersede, prior)
        self.encoder = MasterEncoder(variable_features, constraint_features, width, rounds)
        self.weight = nn.Linear(width, 1)
        self.bias = nn.Linear(2 * width, 1)
        self.value = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 1))
        self.log_std = nn.Parameter(torch.full((2,), log_std))
        self.supersede = supersede
        with torch.no_grad():
            for head in (self.weight, self.bias):
                head.weight *= 0.1
                head.bias.zero_()
            self.weight.bias.fill_(prior)

    def forward(self, graph: GraphBatch) -> tuple[CutDistribution, Tensor]:
        """The distribution of the next cut of each master, and the value ``(B,)`` of its state."""
        v, c = self.encoder(graph)
        carriers = v[graph.cut_variables]
        pooled = torch.cat(
            [
                global_mean_pool(carriers, graph.cut_graph, graph.size),
                global_mean_pool(c, graph.constraint_graph, graph.size),
            ],
            dim=1,
        )
        made = global_add_pool(graph.constraints[:, IS_CUT], graph.constraint_graph, graph.size)
        carried = torch.bincount(graph.cut_graph, minlength=graph.size)
        bias = self.bias(pooled)[:, 0] - self.supersede * carried * made
        bounds = graph.variables[graph.cut_variables][:, [LOW, HIGH]]
        free = (bounds[:, 0] < bounds[:, 1]).float()
        distribution = CutDistribution(self.weight(carriers)[:, 0], bias, self.log_std, graph.cut_graph, free)
        return distribution, self.value(pooled)[:, 0]

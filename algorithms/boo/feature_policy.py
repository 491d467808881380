"""A policy whose cuts are linear in the features of the variables: few numbers to explore for any size. No Ray.

With ``f_j`` the features of variable j, the graph network writes one coefficient for each feature, and b::

    w_j = f_j'a,   (a, b) ~ N(mean(graph), diag(std^2))

where `CutPolicy` draws every ``w_j`` on its own. A cut of independent noise over hundreds of variables tries nothing in
particular: which kinds of jobs it favours averages out, while jobs that had better stay out come in. Noise on a favours
a kind as a whole. The price is that only kinds which the features tell apart can be weighed differently.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.nn.pool import global_add_pool, global_mean_pool

from algorithms.boo.graphs import GraphBatch
from algorithms.boo.policy import IS_CUT, Generators, MasterEncoder, normal
from envs.cutting_planes import Cut
from envs.cutting_planes.graph import VARIABLE_FEATURES

CARRIES_CUTS = VARIABLE_FEATURES.index("carries_cuts")
"""The feature that is 1 for every variable that a cut weighs."""


@dataclass(frozen=True, eq=False)
class FeatureCut(Cut):
    """A cut, with the numbers it was made of.

    Attributes:
        drawn: ``(f + 1,)``, a and b.
    """

    drawn: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class FeatureCutDistribution:
    """A diagonal Gaussian over (a, b) for each of B masters, with D weights in all.

    Attributes:
        mean: ``(B, f + 1)``. log_std: ``(f + 1,)``. features: ``(D, f)``.
        graph: ``(D,)``, the master of each weight, ascending.
    """

    mean: Tensor
    log_std: Tensor
    features: Tensor
    graph: Tensor

    def sample(self, generators: Generators) -> tuple[list[Cut], Tensor]:
        noise = torch.stack(normal([self.mean.shape[1]] * len(self.mean), generators)).to(self.mean.device)
        drawn = (self.mean + self.log_std.exp() * noise).detach()
        return self._as_cuts(drawn), self._density(drawn)

    def mode(self) -> list[Cut]:
        return self._as_cuts(self.mean.detach())

    def log_prob(self, cuts: Sequence[Cut]) -> Tensor:
        """``(B,)``, of one cut that was drawn here for each master."""
        drawn = torch.tensor([cut.drawn for cut in cuts if isinstance(cut, FeatureCut)])
        return self._density(drawn.to(self.mean))

    def entropy(self) -> Tensor:
        """``(B,)`` [nats], the same for every master."""
        each = self.log_std + 0.5 * math.log(2.0 * math.pi * math.e)
        return each.sum().expand(len(self.mean))

    def _density(self, drawn: Tensor) -> Tensor:
        standard = (drawn - self.mean) / self.log_std.exp()
        each = -0.5 * standard**2 - self.log_std - 0.5 * math.log(2.0 * math.pi)
        return each.sum(dim=1)

    def _as_cuts(self, drawn: Tensor) -> list[Cut]:
        w = (self.features * drawn[self.graph, :-1]).sum(dim=1)
        sizes = torch.bincount(self.graph, minlength=len(drawn)).cumsum(0)[:-1].tolist()
        parts = np.split(w.cpu().numpy(), sizes)
        return [
            FeatureCut(part, row[-1], tuple(row)) for part, row in zip(parts, drawn.tolist(), strict=True)
        ]


class FeatureCutPolicy(nn.Module):
    """Actor and critic on BOO's encoder. Arguments as of `CutPolicy`; `log_std` is that of each coefficient, and the
    mean of a begins as `prior` on the feature that is 1 everywhere.
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
        self.coefficients = nn.Linear(2 * width, variable_features + 1)
        self.value = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 1))
        self.log_std = nn.Parameter(torch.full((variable_features + 1,), log_std))
        self.supersede = supersede
        with torch.no_grad():
            self.coefficients.weight *= 0.1
            self.coefficients.bias.zero_()
            self.coefficients.bias[CARRIES_CUTS] = prior

    def forward(self, graph: GraphBatch) -> tuple[FeatureCutDistribution, Tensor]:
        """The distribution of the next cut of each master, and the value ``(B,)`` of its state."""
        v, c = self.encoder(graph)
        pooled = torch.cat(
            [
                global_mean_pool(v[graph.cut_variables], graph.cut_graph, graph.size),
                global_mean_pool(c, graph.constraint_graph, graph.size),
            ],
            dim=1,
        )
        made = global_add_pool(graph.constraints[:, IS_CUT], graph.constraint_graph, graph.size)
        carried = torch.bincount(graph.cut_graph, minlength=graph.size)
        mean = self.coefficients(pooled)
        lowered = torch.zeros_like(mean)
        lowered[:, -1] = self.supersede * carried * made
        features = graph.variables[graph.cut_variables]
        distribution = FeatureCutDistribution(mean - lowered, self.log_std, features, graph.cut_graph)
        return distribution, self.value(pooled)[:, 0]

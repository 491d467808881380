"""A pointer network over the items of a packing. No Ray.

Seed 001, section 5.1, after Bello et al., Neural combinatorial optimization with reinforcement learning: a softmax over
the graph network's variable nodes, chosen ones masked, beside a node that stops. The selection also ends when the item
that was pointed at would not fit. The network that reads the graph is BOO's; the query that points is made of the
graph, of the items chosen so far and of the room that is left. The graph is read once for a selection.

A selection x is handed to the environment as the cut ``w = 2 x - 1``, whose unique maximiser it is (specification boo,
section 1, fact ii): pointer network and BOO play the same environment, one evaluation an episode.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch_geometric.nn.pool import global_mean_pool
from torch_geometric.utils import to_dense_batch

from algorithms.boo.graphs import GraphBatch
from algorithms.boo.policy import Generators, MasterEncoder
from envs.cutting_planes import Cut
from envs.cutting_planes.graph import VARIABLE_FEATURES
from envs.errors import InvalidSetting

SIZE, ROOM = (len(VARIABLE_FEATURES) + i for i in (3, 4))
"""Columns of a packing's variables: an item's size ``k_i``, and the capacity over the number of items."""

STOP = -1
"""In an order: the network stopped. The column of that choice depends on the packings that are read together."""


@dataclass(frozen=True, eq=False)
class Selection(Cut):
    """The cut of a selection, with how it came about.

    Attributes:
        order: item by item what was pointed at; the last is `STOP`, or the item that did not fit. Empty for none.
    """

    order: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class SelectionDistribution:
    """Over sequences of items, for each of B packings of at most N items.

    Attributes:
        items: ``(B, N + 1, width)``, keys, that of stopping behind the last column. sizes: ``(B, N)``, room: ``(B,)``.
        present: ``(B, N)``, which columns are items. graph: ``(B, width)``, summary. network: makes queries.
    """

    items: Tensor
    sizes: Tensor
    room: Tensor
    present: Tensor
    graph: Tensor
    network: PointerPolicy

    def sample(self, generators: Generators) -> tuple[list[Cut], Tensor]:
        if not isinstance(generators, torch.Generator):
            raise InvalidSetting(
                "hold_noise", "is True", "A pointer network has no noise to hold: leave it False."
            )
        with torch.no_grad():
            return self._select(generators)

    def mode(self) -> list[Cut]:
        with torch.no_grad():
            return self._select(None)[0]

    def _select(self, generator: torch.Generator | None) -> tuple[list[Cut], Tensor]:
        count, n = self.sizes.shape
        chosen = torch.zeros(count, n + 1)
        room, going = self.room.clone(), torch.ones(count, dtype=torch.bool)
        orders: list[list[int]] = [[] for _ in range(count)]
        log_prob = torch.zeros(count)
        while going.any():
            logits = self._logits(chosen[:, None], room[:, None])[:, 0]
            logp = logits.log_softmax(dim=1)
            if generator is None:
                pointed = logp.argmax(dim=1)
            else:
                pointed = torch.multinomial(logp.exp(), 1, generator=generator)[:, 0]
            log_prob += torch.where(going, logp.gather(1, pointed[:, None])[:, 0], 0.0)
            size = torch.cat([self.sizes, torch.full((count, 1), torch.inf)], dim=1).gather(
                1, pointed[:, None]
            )
            for i in going.nonzero()[:, 0].tolist():
                orders[i].append(STOP if pointed[i] == n else int(pointed[i]))
            going = going & (size[:, 0] <= room)
            chosen[going, pointed[going]] = 1.0
            room = torch.where(going, room - size[:, 0], room)
        items = self.present.sum(dim=1).tolist()
        return [
            Selection(2.0 * chosen[i, : items[i]].numpy() - 1.0, 0.0, tuple(orders[i])) for i in range(count)
        ], log_prob

    def _logits(self, chosen: Tensor, room: Tensor) -> Tensor:
        """``(B, T, N + 1)`` for T states with ``chosen (B, T, N + 1)`` and ``room (B, T)``."""
        query = self.network.query(self.graph, chosen, self.items, room, self.room)
        logits = query @ self.items.transpose(1, 2) / math.sqrt(self.items.shape[2])
        stop = torch.ones(len(self.present), 1, dtype=torch.bool)
        allowed = torch.cat([self.present, stop], dim=1)[:, None] & (chosen == 0)
        return logits.masked_fill(~allowed, -torch.inf)

    def _replayed(self, cuts: Sequence[Cut]) -> tuple[Tensor, Tensor, Tensor]:
        """What was pointed at ``(B, T)``, which of it happened ``(B, T)``, and the logits then ``(B, T, N + 1)``."""
        orders = [cut.order for cut in cuts if isinstance(cut, Selection)]
        count, n = self.sizes.shape
        steps = max(len(order) for order in orders)
        pointed = torch.full((count, steps), n)
        for i, order in enumerate(orders):
            items = torch.tensor(order)
            pointed[i, : len(order)] = torch.where(items == STOP, n, items)
        happened = torch.arange(steps) < torch.tensor([len(order) for order in orders])[:, None]
        taken = torch.nn.functional.one_hot(pointed, n + 1).float()
        before = (
            taken.cumsum(dim=1) - taken
        )  # what was chosen before each step; the last, which ended it, is not
        before[..., n] = 0.0
        used = (before[..., :n] * self.sizes[:, None]).sum(dim=2)
        before = before * happened[..., None]
        return pointed, happened, self._logits(before, self.room[:, None] - used)

    def log_prob(self, cuts: Sequence[Cut]) -> Tensor:
        pointed, happened, logits = self._replayed(cuts)
        logp = logits.log_softmax(dim=2).gather(2, pointed[..., None])[..., 0]
        return torch.where(happened, logp, 0.0).sum(dim=1)

    def entropy(self) -> Tensor:
        """``(B,)``, of the first item; that of whole sequences would need all of them."""
        first = self._logits(torch.zeros(len(self.room), 1, self.items.shape[1]), self.room[:, None])[:, 0]
        logp = first.log_softmax(dim=1)
        return -(logp.exp() * logp.masked_fill(torch.isinf(logp), 0.0)).sum(dim=1)


class PointerPolicy(nn.Module):
    """Actor and critic on BOO's encoder. Arguments as of `CutPolicy`; those of the Gaussian have no use here."""

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
        self.keys = nn.Linear(width, width)
        self.stop = nn.Parameter(torch.zeros(width))
        self.queries = nn.Sequential(nn.Linear(2 * width + 1, width), nn.ReLU(), nn.Linear(width, width))
        self.value = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, graph: GraphBatch) -> tuple[SelectionDistribution, Tensor]:
        """The distribution of the selection of each packing, and the value ``(B,)`` of its state."""
        v, _ = self.encoder(graph)
        pooled = global_mean_pool(v, graph.variable_graph, graph.size)
        keys, present = to_dense_batch(self.keys(v), graph.variable_graph, batch_size=graph.size)
        features, _ = to_dense_batch(
            graph.variables[:, [SIZE, ROOM]], graph.variable_graph, batch_size=graph.size
        )
        items = torch.cat([keys, self.stop.expand(graph.size, 1, -1)], dim=1)
        room = features[:, 0, 1] * present.sum(dim=1)
        distribution = SelectionDistribution(items, features[..., 0], room, present, pooled, self)
        return distribution, self.value(pooled)[:, 0]

    def query(self, graph: Tensor, chosen: Tensor, items: Tensor, room: Tensor, capacity: Tensor) -> Tensor:
        """``(B, T, width)``, from the graph ``(B, width)``, the chosen ``(B, T, N + 1)`` and the room ``(B, T)``."""
        mean = (chosen @ items) / chosen.sum(dim=2, keepdim=True).clamp(min=1.0)
        left = (room / capacity.clamp(min=1e-6)[:, None])[..., None]
        return torch.as_tensor(
            self.queries(torch.cat([graph[:, None].expand(-1, chosen.shape[1], -1), mean, left], dim=2))
        )

"""Masters of different sizes as one disjoint graph, in tensors. No Ray."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from envs.cutting_planes import GraphObservation


@dataclass(frozen=True, eq=False)
class Messages:
    """Weighted edges from sources to destinations, as sparse matrices.

    Attributes:
        matrix: ``(destinations, sources)``. transposed: the same the other way, which gradients take: left to itself
            PyTorch would sort the edges anew in every backward pass.
    """

    matrix: Tensor
    transposed: Tensor


@dataclass(frozen=True, eq=False)
class GraphBatch:
    """B masters side by side: V variables, C constraints, D cut variables in all.

    Attributes:
        variables: ``(V, f_v)``. constraints: ``(C, f_c)``.
        to_constraints: from variables to constraints, each weight divided by the constraint's number of edges, so that
            messages are averaged. to_variables: likewise, the other way.
        couplings: between variables, weights as they are, so that messages are added; None where no master has any.
        variable_graph: ``(V,)``, constraint_graph: ``(C,)``, the master of each node, ascending.
        cut_variables: ``(D,)``, nodes that a cut weighs, in its order. cut_graph: ``(D,)``, their master.
        size: B.
    """

    variables: Tensor
    constraints: Tensor
    to_constraints: Messages
    to_variables: Messages
    couplings: Messages | None
    variable_graph: Tensor
    constraint_graph: Tensor
    cut_variables: Tensor
    cut_graph: Tensor
    size: int

    @staticmethod
    def of(graphs: Sequence[GraphObservation], device: str | torch.device = "cpu") -> GraphBatch:
        """Put observations side by side."""
        n, m = [len(g.variables) for g in graphs], [len(g.constraints) for g in graphs]
        first_variable, first_constraint = _starts(n), _starts(m)
        shape = (sum(n), sum(m))
        j = np.concatenate([g.edges[0] + at for g, at in zip(graphs, first_variable, strict=True)])
        i = np.concatenate([g.edges[1] + at for g, at in zip(graphs, first_constraint, strict=True)])
        weights = np.concatenate([g.edge_weights for g in graphs])
        couplings = None
        if any(len(g.coupling_weights) for g in graphs):
            pairs = np.concatenate(
                [g.couplings + at for g, at in zip(graphs, first_variable, strict=True)], axis=1
            )
            values = np.concatenate([g.coupling_weights for g in graphs])
            couplings = _messages(values, pairs[0], pairs[1], (shape[0], shape[0]), device, mean=False)

        def tensor(array: Any) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        members = np.arange(len(graphs))
        return GraphBatch(
            variables=tensor(np.concatenate([g.variables for g in graphs])),
            constraints=tensor(np.concatenate([g.constraints for g in graphs])),
            to_constraints=_messages(weights, j, i, shape, device),
            to_variables=_messages(weights, i, j, shape[::-1], device),
            couplings=couplings,
            variable_graph=tensor(np.repeat(members, n)),
            constraint_graph=tensor(np.repeat(members, m)),
            cut_variables=tensor(
                np.concatenate([g.cut_variables + at for g, at in zip(graphs, first_variable, strict=True)])
            ),
            cut_graph=tensor(np.repeat(members, [len(g.cut_variables) for g in graphs])),
            size=len(graphs),
        )


def _starts(sizes: Sequence[int]) -> Any:
    return np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)


def _messages(
    values: Any,
    sources: Any,
    destinations: Any,
    size: tuple[int, int],
    device: str | torch.device,
    mean: bool = True,
) -> Messages:
    if mean:
        values = values / np.bincount(destinations, minlength=size[1])[destinations]
    matrix = csr_matrix((values.astype(np.float32), (destinations, sources)), shape=size[::-1])
    return Messages(*(_tensor(side, device) for side in (matrix, matrix.T.tocsr())))


# Said once by PyTorch for every process, whatever one does with such tensors.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")


def _tensor(matrix: csr_matrix, device: str | torch.device) -> Tensor:
    return torch.sparse_csr_tensor(
        torch.from_numpy(matrix.indptr.astype(np.int64)),
        torch.from_numpy(matrix.indices.astype(np.int64)),
        torch.from_numpy(matrix.data),
        matrix.shape,
        device=device,
        check_invariants=False,
    )

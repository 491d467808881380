"""A master as a graph: variables, constraints and cuts as plain arrays, and the spaces that carry them.

Variable nodes and constraint nodes are joined where a coefficient is not zero (seed 001, section 4;
specification boo, section 2). Added cuts are constraint nodes. Instances differ in size, and so do the
observations and the cuts that answer them.

A space of such samples must not be `gymnasium.spaces.Graph`: RLlib would take its samples apart as trees of arrays,
and mix the rows of environments (ray issue 51129). `GraphObservation` and `Cut` are single objects to RLlib,
which are batched into arrays of objects. The functions that Gymnasium's vectorisation needs for that are registered
here, where every worker that unpickles a space imports them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from envs.cutting_planes.cuts import Array, Cut, Indices
from envs.errors import InvalidSetting
from solver_pool.problem import MixedIntegerProgram

Floats = NDArray[np.float32]

VARIABLE_FEATURES = ("low", "high", "plan", "progress", "is_integer", "carries_cuts")
"""Of every variable, before a task's own: bounds, value in the last plan, cuts made so far over K, two flags."""

CONSTRAINT_FEATURES = ("rhs", "activity", "slack", "is_cut", "is_equality")
"""Of every constraint. The first three are divided by the sum of its absolute coefficients, which unlike their
maximum does not grow with the number of variables; edge weights are divided by the maximum."""

LARGEST = 1e3
"""Features are cut off here, infinite bounds too."""


@dataclass(frozen=True, eq=False)
class Couplings:
    """Edges between variables, with weights: what a task shows of its objective's quadratic part.

    Attributes:
        edges: ``(2, e)``, both directions listed. weights: ``(e,)``.
    """

    edges: Indices
    weights: Array


@dataclass(frozen=True, eq=False)
class GraphObservation:
    """A master, its cuts and its last plan. To RLlib and Gymnasium it is one object, not a tree of arrays.

    Attributes:
        variables: ``(n, f_v)``, float32: `VARIABLE_FEATURES`, then the task's.
        constraints: ``(m + cuts, f_c)``, float32: `CONSTRAINT_FEATURES`; the cuts come last.
        edges: ``(2, e)``, int64: variable above, constraint below.
        edge_weights: ``(e,)``, float32, largest magnitude 1 in each constraint.
        cut_variables: ``(d,)``, int64: the variables that a cut weighs, in its order.
        couplings: ``(2, e')``, int64: edges between variables; none unless the task has them.
        coupling_weights: ``(e',)``, float32.
    """

    variables: Floats
    constraints: Floats
    edges: Indices
    edge_weights: Floats
    cut_variables: Indices
    couplings: Indices
    coupling_weights: Floats

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GraphObservation) and all(
            np.array_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)
        )


class GraphBuilder:
    """Builds observations of one instance; what does not change with plan and cuts is computed once.

    Args:
        program: the model. cut_variables: ``(d,)``.
        features: ``(n, f)``, the task's features of the variables.
        couplings: edges between variables, or None.

    Raises:
        InvalidSetting: on features of another length, or not finite.
    """

    def __init__(
        self,
        program: MixedIntegerProgram,
        cut_variables: Indices,
        features: Array,
        couplings: Couplings | None = None,
    ) -> None:
        n = len(program.c)
        features = np.asarray(features, dtype=np.float64)
        if features.ndim != 2 or len(features) != n or not np.isfinite(features).all():
            raise InvalidSetting(
                "features",
                f"have shape {features.shape}, or are not finite",
                f"Give finite numbers, one row for each of {n} variables.",
            )
        A = csr_matrix(program.A)
        # A constraint with only a lower side is turned around, so that every activity stays below its rhs.
        lower = ~np.isfinite(program.row_high)
        sign = np.where(lower, -1.0, 1.0)
        largest = np.maximum(abs(A).max(axis=1).toarray().ravel(), 1e-300) if n else np.ones(0)
        total = np.asarray(abs(A).sum(axis=1)).ravel()
        # A row without coefficients says nothing: its features are zero.
        total = np.where(total > 0.0, total, np.inf)
        edges = A.tocoo()
        self._A, self._sign, self._total = A, sign, total
        self._rhs = np.where(lower, -program.row_low, program.row_high)
        self._other = np.where(lower, np.inf, -program.row_low)  # of the opposite side, as ``-a'x <= other``
        self._equality = (program.row_low == program.row_high).astype(np.float64)
        self._edges = np.stack([edges.col, edges.row]).astype(np.int64)
        self._weights = (edges.data * (sign / largest)[edges.row]).astype(np.float32)
        flags = np.zeros((n, 2))
        flags[:, 0] = program.integer
        flags[cut_variables, 1] = 1.0
        self._low, self._high, self._flags, self._features = program.low, program.high, flags, features
        self._cut_variables = np.asarray(cut_variables, dtype=np.int64)
        none = Couplings(np.zeros((2, 0), dtype=np.int64), np.zeros(0))
        couplings = couplings or none
        self._couplings = np.asarray(couplings.edges, dtype=np.int64)
        self._coupling_weights = np.asarray(couplings.weights, dtype=np.float32)

    def observe(self, plan: Array, cuts: Sequence[Cut], of: int) -> GraphObservation:
        """The observation after `plan` ``(n,)`` answered `cuts`; `of` is K, the cuts of an episode."""
        n, m = len(self._low), len(self._rhs)
        variables = np.column_stack(
            [self._low, self._high, plan, np.full(n, len(cuts) / of), self._flags, self._features]
        )
        activity = self._sign * (self._A @ plan)
        slack = np.minimum(self._rhs - activity, self._other + activity)
        constraints = np.column_stack(
            [
                self._rhs / self._total, activity / self._total, slack / self._total, np.zeros(m), self._equality
            ]
        )  # fmt: skip
        edges, weights, rows = [self._edges], [self._weights], [constraints]
        chosen = self._cut_variables
        phi = min((cut.value(plan[chosen]) for cut in cuts), default=0.0)
        for k, cut in enumerate(cuts):
            # ``phi <= b + w'x``: its activity is the estimate w'x, its slack zero where the cut binds.
            estimate, size = float(cut.w @ plan[chosen]), max(float(np.abs(cut.w).sum()), 1e-300)
            row = [cut.b / size, estimate / size, (cut.b + estimate - phi) / size, 1.0, 0.0]
            rows.append(np.array([row]))
            edges.append(np.stack([chosen, np.full(len(chosen), m + k)]))
            weights.append((cut.w / max(float(np.abs(cut.w).max()), 1e-300)).astype(np.float32))
        return GraphObservation(
            variables=_bounded(variables),
            constraints=_bounded(np.concatenate(rows)),
            edges=np.concatenate(edges, axis=1),
            edge_weights=np.concatenate(weights),
            cut_variables=chosen,
            couplings=self._couplings,
            coupling_weights=self._coupling_weights,
        )


def _bounded(features: Array) -> Floats:
    return np.clip(features, -LARGEST, LARGEST).astype(np.float32)


# --- Spaces ---------------------------------------------------------------------------------------------------


class _ObjectSpace(gym.Space[Any]):
    """A space of single objects, which batches into a one-dimensional array of objects."""

    def __init__(self, seed: int | np.random.Generator | None = None) -> None:
        super().__init__(shape=None, dtype=None, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        return False


class GraphSpace(_ObjectSpace):
    """Graph observations of any size.

    Args:
        variable_features: ``f_v``. constraint_features: ``f_c``.
    """

    def __init__(
        self,
        variable_features: int,
        constraint_features: int = len(CONSTRAINT_FEATURES),
        seed: int | None = None,
    ) -> None:
        self.variable_features, self.constraint_features = variable_features, constraint_features
        super().__init__(seed)

    def sample(self, mask: Any = None, probability: Any = None) -> GraphObservation:
        """A random graph of two to five variables, one constraint for each pair of neighbours."""
        rng = self.np_random
        n = int(rng.integers(2, 6))
        left = np.arange(n - 1)
        return GraphObservation(
            variables=rng.standard_normal((n, self.variable_features)).astype(np.float32),
            constraints=rng.standard_normal((n - 1, self.constraint_features)).astype(np.float32),
            edges=np.stack([np.concatenate([left, left + 1]), np.concatenate([left, left])]),
            edge_weights=rng.uniform(-1, 1, 2 * (n - 1)).astype(np.float32),
            cut_variables=np.arange(n),
            couplings=np.zeros((2, 0), dtype=np.int64),
            coupling_weights=np.zeros(0, dtype=np.float32),
        )

    def contains(self, x: Any) -> bool:
        """Whether `x` is an observation with these numbers of features and with edges between its own nodes."""
        if not isinstance(x, GraphObservation):
            return False
        n, m = len(x.variables), len(x.constraints)
        return bool(
            x.variables.shape == (n, self.variable_features)
            and x.constraints.shape == (m, self.constraint_features)
            and x.edges.shape == (2, len(x.edge_weights))
            and x.couplings.shape == (2, len(x.coupling_weights))
            and _within(x.edges[0], n)
            and _within(x.edges[1], m)
            and _within(x.couplings, n)
            and _within(x.cut_variables, n)
            and all(
                np.isfinite(v).all() for v in (x.variables, x.constraints, x.edge_weights, x.coupling_weights)
            )
        )

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, GraphSpace)
            and other.variable_features == self.variable_features
            and other.constraint_features == self.constraint_features
        )

    def __repr__(self) -> str:
        return f"GraphSpace({self.variable_features}, {self.constraint_features})"


class CutSpace(_ObjectSpace):
    """Cuts over any number of variables; the master they go to checks the number.

    Args:
        size: ``d`` of random samples; an environment sets it to that of the instance which is played.
    """

    def __init__(self, size: int = 2, seed: int | None = None) -> None:
        self.size = size
        super().__init__(seed)

    def sample(self, mask: Any = None, probability: Any = None) -> Cut:
        """A cut with standard normal weights and bias."""
        return Cut(self.np_random.standard_normal(self.size), float(self.np_random.standard_normal()))

    def contains(self, x: Any) -> bool:
        return isinstance(x, Cut)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CutSpace)

    def __repr__(self) -> str:
        return f"CutSpace({self.size})"


class BatchedObjects(_ObjectSpace):
    """``n`` samples of one space of objects, as an array ``(n,)`` of objects."""

    def __init__(self, single: _ObjectSpace, n: int) -> None:
        self.single, self.n = single, n
        super().__init__()

    def sample(self, mask: Any = None, probability: Any = None) -> NDArray[np.object_]:
        return as_objects([self.single.sample() for _ in range(self.n)])

    def seed(self, seed: Any = None) -> Any:
        return self.single.seed(seed)

    def contains(self, x: Any) -> bool:
        return (
            isinstance(x, np.ndarray)
            and x.dtype == np.object_
            and x.shape == (self.n,)
            and all(self.single.contains(one) for one in x)
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BatchedObjects) and (other.single, other.n) == (self.single, self.n)

    def __repr__(self) -> str:
        return f"BatchedObjects({self.single!r}, {self.n})"


def as_objects(items: Sequence[Any]) -> NDArray[np.object_]:
    """An array ``(n,)`` with one object in each place, whatever NumPy would like to make of them."""
    array = np.empty(len(items), dtype=np.object_)
    for i, item in enumerate(items):
        array[i] = item
    return array


@batch_space.register(_ObjectSpace)  # type: ignore[untyped-decorator]
def _batch_space(space: _ObjectSpace, n: int = 1) -> BatchedObjects:
    return BatchedObjects(space, n)


@create_empty_array.register(_ObjectSpace)  # type: ignore[untyped-decorator]
def _create_empty_array(space: _ObjectSpace, n: int = 1, fn: Any = np.zeros) -> NDArray[np.object_]:
    return np.empty(n, dtype=np.object_)


@concatenate.register(_ObjectSpace)  # type: ignore[untyped-decorator]
def _concatenate(space: _ObjectSpace, items: Iterable[Any], out: Any) -> NDArray[np.object_]:
    # A fresh array: RLlib keeps what it was given, and `out` is used again in the next step.
    return as_objects(list(items))


@iterate.register(BatchedObjects)  # type: ignore[untyped-decorator]
def _iterate(space: BatchedObjects, items: Any) -> Iterator[Any]:
    return iter(items)


def _within(indices: Indices, size: int) -> bool:
    return not indices.size or bool(indices.min() >= 0 and indices.max() < size)

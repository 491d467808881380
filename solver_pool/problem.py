"""What a problem is: frozen dataclasses of float64 arrays, validated on construction, without behaviour.

Batches of small programs travel as one object: `CriticBatch` (maximise a trained critic over a polytope, one
program per state) and `QuadraticBatch` (projections). `QuadraticProgram`, `LinearProgram`,
`MixedIntegerProgram` and `NonlinearProgram` are one program each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from solver_pool.errors import InvalidProblem

Array: TypeAlias = NDArray[np.float64]

SMOOTH_ACTIVATIONS = ("softplus", "tanh", "sigmoid", "elu")
ACTIVATIONS = (*SMOOTH_ACTIVATIONS, "relu")


def _finite(field: str, value: Any, *, infinite: bool = False) -> Array:
    """Return `value` as a contiguous float64 array; NaN (and infinity, unless allowed) is an error."""
    array = np.ascontiguousarray(value, dtype=np.float64)
    bad = np.isnan(array) if infinite else ~np.isfinite(array)
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InvalidProblem(
            field,
            f"{array[index]} at index {index} ({int(bad.sum())} of {array.size} entries are not finite)",
            "Check the network or observation that produced it; nothing was solved.",
        )
    return array


def _shape(field: str, array: Array, *allowed: tuple[int, ...]) -> None:
    if array.shape not in allowed:
        wanted = " or ".join(str(shape) for shape in allowed)
        raise InvalidProblem(field, f"shape {array.shape}, expected {wanted}", "Reshape it to match.")


def _ordered(low: Array, high: Array) -> None:
    bad = np.argwhere(low > high)
    if bad.size:
        index = tuple(int(i) for i in bad[0])
        raise InvalidProblem(
            "low",
            f"low {low[index]} exceeds high {high[index]} at index {index}",
            "The box is empty: swap or repair the bounds.",
        )


@dataclass(frozen=True, eq=False)
class MLP:
    """A trained scalar network ``Q(x) = W_L f(... f(W_1 x + b_1) ...) + b_L``.

    Attributes:
        weights: per layer, shape ``(n_out, n_in)``; the last has ``n_out = 1``.
        biases: per layer, shape ``(n_out,)``.
        activation: of the hidden layers, one of `ACTIVATIONS`; the output is linear.
        blocks: the matrices between hidden layers are block-diagonal with this many equal blocks, as in the
            mean of an ensemble. Solvers may pass over the zeros.

    Raises:
        InvalidProblem: on NaN or infinite weights, shapes that do not chain, or an unknown activation.
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    activation: str
    blocks: int = 1

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise InvalidProblem(
                "activation", f"{self.activation!r} is unknown", f"Use one of {', '.join(ACTIVATIONS)}."
            )
        if not self.weights or len(self.weights) != len(self.biases):
            raise InvalidProblem(
                "weights",
                f"{len(self.weights)} weight arrays for {len(self.biases)} bias arrays",
                "Give one weight matrix and one bias vector for each layer, at least one layer.",
            )
        weights = tuple(_finite(f"weights[{i}]", w) for i, w in enumerate(self.weights))
        biases = tuple(_finite(f"biases[{i}]", b) for i, b in enumerate(self.biases))
        for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
            if w.ndim != 2:
                raise InvalidProblem(f"weights[{i}]", f"shape {w.shape}", "Weights are (n_out, n_in).")
            if i and w.shape[1] != weights[i - 1].shape[0]:
                raise InvalidProblem(
                    f"weights[{i}]",
                    f"takes {w.shape[1]} inputs, layer {i - 1} gives {weights[i - 1].shape[0]}",
                    "Layers must chain.",
                )
            _shape(f"biases[{i}]", b, (w.shape[0],))
        if weights[-1].shape[0] != 1:
            raise InvalidProblem(
                f"weights[{len(weights) - 1}]",
                f"gives {weights[-1].shape[0]} outputs",
                "A critic gives one number, Q(s, a).",
            )
        for i, w in enumerate(weights[1:-1], start=1):
            if self.blocks < 1 or w.shape[0] % self.blocks or w.shape[1] % self.blocks:
                raise InvalidProblem(
                    "blocks", f"is {self.blocks} for weights[{i}] of shape {w.shape}", "It must divide both."
                )
            if np.count_nonzero(w) != sum(
                np.count_nonzero(w[block]) for block in diagonal_blocks(w, self.blocks)
            ):
                raise InvalidProblem("blocks", f"weights[{i}] has entries off its blocks", "Use blocks=1.")
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "biases", biases)

    @property
    def n_inputs(self) -> int:
        return int(self.weights[0].shape[1])

    def __call__(self, inputs: Array) -> Array:
        """Evaluate at ``(..., n_inputs)``; returns ``(...)``."""
        x = np.asarray(inputs, dtype=np.float64)
        for w, b in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = activate(self.activation, x @ w.T + b)[0]
        return np.asarray((x @ self.weights[-1].T + self.biases[-1])[..., 0])

    def value_and_gradient(self, inputs: Array, first: int = 0) -> tuple[Array, Array]:
        """Value ``(B,)`` and gradient ``(B, n_inputs - first)`` at ``(B, n_inputs)``, by back-propagation.

        This is the plain reference from which certificates are computed. `first` leaves out the leading
        inputs (the state) of the gradient.
        """
        value = np.empty(len(inputs))
        gradient = np.empty((len(inputs), self.n_inputs - first))
        for begin in range(0, len(inputs), 256):  # blocks that stay in the cache
            block = slice(begin, begin + 256)
            x = np.asarray(inputs[block], dtype=np.float64)
            slopes = []
            for layer, (w, b) in enumerate(zip(self.weights[:-1], self.biases[:-1], strict=True)):
                z = _product(x, w.T, self.blocks if layer else 1)
                z += b
                x, slope = activate(self.activation, z)
                slopes.append(slope)
            value[block] = (x @ self.weights[-1].T)[:, 0] + self.biases[-1]
            g = np.broadcast_to(self.weights[-1], (x.shape[0], self.weights[-1].shape[1]))
            for layer in range(len(slopes) - 1, -1, -1):
                w, g = self.weights[layer], g * slopes[layer]
                g = _product(g, w, self.blocks) if layer else g @ w[:, first:]
            gradient[block] = g if slopes else g[:, first:]
        return value, gradient

    @staticmethod
    def mean(members: Sequence[MLP]) -> MLP:
        """The mean of several critics with one architecture, as a single block-diagonal network."""
        first = members[0]
        shapes = [w.shape for w in first.weights]
        for i, member in enumerate(members):
            if [w.shape for w in member.weights] != shapes or member.activation != first.activation:
                raise InvalidProblem(
                    f"members[{i}]", "architecture differs from the first", "Average critics of one shape."
                )
        if len(members) == 1:
            return first
        if len(shapes) == 1:
            return MLP(
                (np.mean([m.weights[0] for m in members], axis=0),),
                (np.mean([m.biases[0] for m in members], axis=0),),
                first.activation,
            )
        weights = [np.concatenate([m.weights[0] for m in members])]
        for layer in range(1, len(shapes) - 1):
            out, inp = shapes[layer]
            block = np.zeros((out * len(members), inp * len(members)))
            for i, m in enumerate(members):
                block[i * out : (i + 1) * out, i * inp : (i + 1) * inp] = m.weights[layer]
            weights.append(block)
        weights.append(np.concatenate([m.weights[-1] for m in members], axis=1) / len(members))
        biases = [np.concatenate([m.biases[i] for m in members]) for i in range(len(shapes) - 1)]
        biases.append(np.mean([m.biases[-1] for m in members], axis=0))
        return MLP(tuple(weights), tuple(biases), first.activation, len(members) * first.blocks)


def diagonal_blocks(matrix: Array, count: int) -> list[tuple[slice, slice]]:
    """Where the equal diagonal blocks of `matrix` stand."""
    rows, columns = matrix.shape[0] // count, matrix.shape[1] // count
    return [(slice(i * rows, (i + 1) * rows), slice(i * columns, (i + 1) * columns)) for i in range(count)]


def _product(left: Array, matrix: Array, blocks: int) -> Array:
    """``left @ matrix`` for a block-diagonal matrix."""
    if blocks == 1:
        return np.asarray(left @ matrix)
    out = np.empty((len(left), matrix.shape[1]))
    for rows, columns in diagonal_blocks(matrix, blocks):
        np.matmul(left[:, rows], matrix[rows, columns], out=out[:, columns])
    return out


def activate(name: str, z: Array) -> tuple[Array, Array]:
    """The activation `name` and its derivative at `z`, elementwise (ReLU: derivative 0 at the kink)."""
    if name == "relu":
        return np.maximum(z, 0.0), (z > 0).astype(np.float64)
    if name == "tanh":
        t = np.tanh(z)
        return t, 1.0 - t * t
    if name == "elu":
        e = np.exp(np.minimum(z, 0.0))
        return np.where(z > 0, z, e - 1.0), e
    e = np.exp(-np.abs(z))
    sigmoid = np.where(z >= 0, 1.0, e) / (1.0 + e)
    if name == "sigmoid":
        return sigmoid, e / (1.0 + e) ** 2
    return np.maximum(z, 0.0) + np.log1p(e), sigmoid  # softplus


@dataclass(frozen=True)
class CriticBatch:
    """A batch of programs that share a critic, one for each state ``s_i``::

        max_a Q(s_i, a)   s.t.   G_i a <= h_i,   low_i <= a <= high_i

    Source: seed 000, Algorithm 1 line 11 and Algorithm 2 line 2.

    Attributes:
        critic: the network; its inputs are the state followed by the action.
        states: ``(B, n_s)``.
        G: ``(m, n_a)`` shared or ``(B, m, n_a)``; ``m`` may be zero.
        h: ``(B, m)``; ``+inf`` switches a row off.
        low, high: ``(n_a,)`` shared or ``(B, n_a)``; finite.
        starts: ``(B, n_a)`` or ``(B, k, n_a)``, points to start from (the actor's actions), or None
            for the centre of the box. They need not be feasible.

    Raises:
        InvalidProblem: on NaN or infinity, shapes that do not match, or ``low > high``.
    """

    critic: MLP
    states: Array
    G: Array
    h: Array
    low: Array
    high: Array
    starts: Array | None = None

    def __post_init__(self) -> None:
        states = _finite("states", self.states)
        if states.ndim != 2:
            raise InvalidProblem("states", f"shape {states.shape}", "States are (B, n_s).")
        batch, n_states = states.shape
        n_actions = self.critic.n_inputs - n_states
        if n_actions < 1:
            raise InvalidProblem(
                "states",
                f"{n_states} numbers a state leave no action among the critic's {self.critic.n_inputs} inputs",
                "The critic's inputs are the state followed by the action.",
            )
        G = _finite("G", self.G)
        m = G.shape[-2] if G.ndim in (2, 3) else 0
        _shape("G", G, (m, n_actions), (batch, m, n_actions))
        h = _finite("h", self.h, infinite=True)
        _shape("h", h, (batch, m))
        if (h == -np.inf).any():
            raise InvalidProblem("h", "contains -inf", "No action satisfies such a row.")
        low, high = _finite("low", self.low), _finite("high", self.high)
        _shape("low", low, (n_actions,), (batch, n_actions))
        _shape("high", high, (n_actions,), (batch, n_actions))
        _ordered(np.broadcast_to(low, (batch, n_actions)), np.broadcast_to(high, (batch, n_actions)))
        starts = self.starts
        if starts is not None:
            starts = _finite("starts", starts)
            k = starts.shape[1] if starts.ndim == 3 else 1
            _shape("starts", starts, (batch, n_actions), (batch, k, n_actions))
        for name, value in (
            ("states", states), ("G", G), ("h", h), ("low", low), ("high", high), ("starts", starts),
        ):  # fmt: skip
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return int(self.states.shape[0])

    @property
    def n_actions(self) -> int:
        return self.critic.n_inputs - int(self.states.shape[1])

    @property
    def n_rows(self) -> int:
        return int(self.G.shape[-2])

    def values(self, actions: Array) -> Array:
        """``Q(s_i, a_i)`` for actions ``(B, n_a)``; returns ``(B,)``."""
        return self.critic(np.concatenate([self.states, actions], axis=1))

    def values_and_gradients(self, actions: Array) -> tuple[Array, Array]:
        """``Q`` ``(B,)`` and ``dQ/da`` ``(B, n_a)`` at ``(s_i, a_i)`` for actions ``(B, n_a)``."""
        inputs = np.concatenate([self.states, actions], axis=1)
        return self.critic.value_and_gradient(inputs, first=self.states.shape[1])

    def __getitem__(self, index: slice | Array) -> CriticBatch:
        """The sub-batch of the given states, sharing what is shared."""
        return CriticBatch(
            self.critic,
            self.states[index],
            self.G[index] if self.G.ndim == 3 else self.G,
            self.h[index],
            self.low[index] if self.low.ndim == 2 else self.low,
            self.high[index] if self.high.ndim == 2 else self.high,
            None if self.starts is None else self.starts[index],
        )


@dataclass(frozen=True)
class QuadraticProgram:
    """``min_x 1/2 x'P x + q'x   s.t.   G x <= h,   low <= x <= high``.

    Attributes:
        P: ``(n, n)``, symmetric positive definite.
        q: ``(n,)``.
        G, h: ``(m, n)`` and ``(m,)``.
        low, high: ``(n,)``; infinite entries mean no bound.
    """

    P: Array
    q: Array
    G: Array
    h: Array
    low: Array
    high: Array

    def __post_init__(self) -> None:
        q = _finite("q", self.q)
        n = q.shape[0] if q.ndim == 1 else -1
        P, G = _finite("P", self.P), _finite("G", self.G)
        _shape("P", P, (n, n))
        m = G.shape[0]
        _shape("G", G, (m, n))
        h = _finite("h", self.h, infinite=True)
        _shape("h", h, (m,))
        low, high = _finite("low", self.low, infinite=True), _finite("high", self.high, infinite=True)
        _shape("low", low, (n,))
        _shape("high", high, (n,))
        _ordered(low, high)
        for name, value in (("P", P), ("q", q), ("G", G), ("h", h), ("low", low), ("high", high)):
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class LinearProgram:
    """``min_x c'x   s.t.   row_low <= A x <= row_high,   low <= x <= high``.

    Attributes:
        c: ``(n,)``.
        A: ``(m, n)``, dense or ``scipy.sparse``.
        row_low, row_high: ``(m,)``; infinite entries mean no side.
        low, high: ``(n,)``; infinite entries mean no bound.
    """

    c: Array
    A: Any
    row_low: Array
    row_high: Array
    low: Array
    high: Array

    def __post_init__(self) -> None:
        c = _finite("c", self.c)
        n = c.shape[0] if c.ndim == 1 else -1
        _finite("A", self.A.data if hasattr(self.A, "tocsr") else self.A)
        m = self.A.shape[0]
        if self.A.shape != (m, n):
            raise InvalidProblem("A", f"shape {self.A.shape}, expected {(m, n)}", "Reshape it to match.")
        object.__setattr__(self, "c", c)
        for name, size in (("row_low", m), ("row_high", m), ("low", n), ("high", n)):
            value = _finite(name, getattr(self, name), infinite=True)
            _shape(name, value, (size,))
            object.__setattr__(self, name, value)
        _ordered(self.low, self.high)


@dataclass(frozen=True)
class MixedIntegerProgram:
    """``min_x c'x   s.t.   row_low <= A x <= row_high,   low <= x <= high,   x_j integer where `integer```.

    Attributes:
        c: ``(n,)``.
        A: ``(m, n)``, dense or ``scipy.sparse``.
        row_low, row_high: ``(m,)``; infinite entries mean no side.
        low, high: ``(n,)``; infinite entries mean no bound.
        integer: ``(n,)`` of bool.
        start: ``(n,)``, a solution to start from, or None; one that is not feasible is passed over.
    """

    c: Array
    A: Any
    row_low: Array
    row_high: Array
    low: Array
    high: Array
    integer: NDArray[np.bool_]
    start: Array | None = None

    def __post_init__(self) -> None:
        relaxed = LinearProgram(self.c, self.A, self.row_low, self.row_high, self.low, self.high)
        for name in ("c", "A", "row_low", "row_high", "low", "high"):
            object.__setattr__(self, name, getattr(relaxed, name))
        integer = np.ascontiguousarray(self.integer)
        if integer.dtype != np.bool_:
            raise InvalidProblem("integer", f"has type {integer.dtype}", "Give one bool for each variable.")
        if integer.shape != self.c.shape:
            raise InvalidProblem(
                "integer", f"shape {integer.shape}, expected {self.c.shape}", "Reshape it to match."
            )
        object.__setattr__(self, "integer", integer)
        if self.start is not None:
            start = _finite("start", self.start)
            _shape("start", start, self.c.shape)
            object.__setattr__(self, "start", start)

    @cached_property
    def is_knapsack(self) -> bool:
        """Whether all variables are binary or fixed, and one row with one side joins them."""
        if self.A.shape[0] != 1 or not self.integer.all():
            return False
        binary = (self.low == 0.0) & (self.high == 1.0)
        sides = int(np.isfinite(self.row_low[0])) + int(np.isfinite(self.row_high[0]))
        fixed = (self.low == self.high) & (self.low == np.round(self.low))
        return sides == 1 and bool((binary | fixed).all())


@dataclass(frozen=True, eq=False)
class NonlinearProgram:
    """A program written in Pyomo: nonlinear expressions, integer variables, one objective.

    Pickling takes the whole model along, with the functions that it was made of.

    Attributes:
        model: a ``pyomo.environ.ConcreteModel``, taken as it is now; solvers do not change it. The variables of
            a solution are its free variables in the order of ``component_data_objects(Var)``.

    Raises:
        InvalidProblem: for anything but a ``ConcreteModel`` with one active objective, of variables, constraints
            and expressions only; on NaN or contradictory bounds, and fixed variables without a value.
    """

    model: Any

    def __post_init__(self) -> None:
        from pyomo import environ as pyo
        from pyomo.repn.util import categorize_valid_components

        if not isinstance(self.model, pyo.ConcreteModel):
            raise InvalidProblem(
                "model", f"is a {type(self.model).__name__}", "Give a pyomo.environ.ConcreteModel."
            )
        parts = {pyo.Block, pyo.Objective, pyo.Constraint, pyo.Var, pyo.Param, pyo.Expression, pyo.Set}
        parts |= {pyo.RangeSet, pyo.Suffix, pyo.BooleanVar, pyo.BuildAction, pyo.BuildCheck}
        _, unknown = categorize_valid_components(self.model, active=True, valid=parts)
        if unknown:
            names = ", ".join(sorted(kind.__name__ for kind in unknown))
            raise InvalidProblem(
                "model", f"has active components of {names}", "Transform them to constraints."
            )
        objectives = list(self.model.component_data_objects(pyo.Objective, active=True))
        if len(objectives) != 1:
            raise InvalidProblem(
                "model", f"has {len(objectives)} active objectives", "Give one, and deactivate the others."
            )
        for variable in self.model.component_data_objects(pyo.Var):
            name = f"model.{variable.name}"
            if variable.fixed:
                if variable.value is None or not np.isfinite(variable.value):
                    raise InvalidProblem(name, f"is fixed at {variable.value}", "Fix it at a finite number.")
                continue
            try:
                low, high = variable.bounds
            except ValueError as error:  # Pyomo's word on NaN, and on parameters without a value
                raise InvalidProblem(
                    name, f"has a bound that is no number ({error})", "Give numbers, or None for no bound."
                ) from error
            if low is not None and high is not None and low > high:
                raise InvalidProblem(name, f"has the bounds ({low}, {high})", "Give low <= high.")
            if not (variable.is_continuous() or variable.is_integer()):  # binary variables are integer
                raise InvalidProblem(
                    name, f"has the domain {variable.domain}", "Use Reals, Integers or Binary."
                )

    def free_variables(self) -> list[Any]:
        """The Pyomo variables of a solution, in its order."""
        from pyomo import environ as pyo

        return [v for v in self.model.component_data_objects(pyo.Var) if not v.fixed]

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        # A model keeps the rules that it was made with, and plain pickle refuses functions without a name.
        return _unpickle_model, (import_module("cloudpickle").dumps(self.model),)


def _unpickle_model(data: bytes) -> NonlinearProgram:
    import pickle

    return NonlinearProgram(pickle.loads(data))


@dataclass(frozen=True)
class QuadraticBatch:
    """Convex quadratic programs of one shape, such as the projections of a batch of actions::

        min_x 1/2 x'P_i x + q_i'x   s.t.   G_i x <= h_i,   low_i <= x <= high_i

    Attributes:
        P: ``(n, n)`` shared or ``(B, n, n)``, symmetric positive definite.
        q: ``(B, n)``.
        G: ``(m, n)`` shared or ``(B, m, n)``; ``m`` may be zero.
        h: ``(B, m)``; ``+inf`` switches a row off.
        low, high: ``(n,)`` shared or ``(B, n)``; infinite entries mean no bound.
    """

    P: Array
    q: Array
    G: Array
    h: Array
    low: Array
    high: Array

    def __post_init__(self) -> None:
        q = _finite("q", self.q)
        if q.ndim != 2:
            raise InvalidProblem("q", f"shape {q.shape}", "Linear terms are (B, n).")
        batch, n = q.shape
        P, G = _finite("P", self.P), _finite("G", self.G)
        _shape("P", P, (n, n), (batch, n, n))
        m = G.shape[-2] if G.ndim in (2, 3) else 0
        _shape("G", G, (m, n), (batch, m, n))
        h = _finite("h", self.h, infinite=True)
        _shape("h", h, (batch, m))
        if (h == -np.inf).any():
            raise InvalidProblem("h", "contains -inf", "No point satisfies such a row.")
        low, high = _finite("low", self.low, infinite=True), _finite("high", self.high, infinite=True)
        _shape("low", low, (n,), (batch, n))
        _shape("high", high, (n,), (batch, n))
        _ordered(np.broadcast_to(low, (batch, n)), np.broadcast_to(high, (batch, n)))
        for name, value in (("P", P), ("q", q), ("G", G), ("h", h), ("low", low), ("high", high)):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return int(self.q.shape[0])

    @property
    def n_rows(self) -> int:
        return int(self.G.shape[-2])

    def __getitem__(self, index: slice | Array) -> QuadraticBatch:
        """The sub-batch of the given programs, sharing what is shared."""
        return QuadraticBatch(
            self.P[index] if self.P.ndim == 3 else self.P,
            self.q[index],
            self.G[index] if self.G.ndim == 3 else self.G,
            self.h[index],
            self.low[index] if self.low.ndim == 2 else self.low,
            self.high[index] if self.high.ndim == 2 else self.high,
        )


BatchProblem: TypeAlias = CriticBatch | QuadraticBatch
"""Many programs in one object: it has a length, can be sliced, and is answered by a `BatchSolution`."""
SingleProblem: TypeAlias = QuadraticProgram | LinearProgram | MixedIntegerProgram | NonlinearProgram
"""One program, answered by a `Solution`."""
Problem: TypeAlias = BatchProblem | SingleProblem

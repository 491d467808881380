"""Cutting planes on the surrogate objective, and the master problem with cuts as one program. Pure functions.

The master for a model ``max c'x  s.t.  x in F`` (specification boo, equation 10')::

    max  c'x + phi    s.t.   x in F,   phi <= b_k + w_k'x[cut variables]   (k = 1..K),   phi <= phi_max

At its optimum ``phi = min_k b_k + w_k'x``: a concave surrogate of an objective that nobody wrote down. Seed 001
prints ``phi >= b + w'x`` inside a maximisation (equations 9 and 10), which is unbounded; the sign is corrected.
Whatever the cuts are, phi is free to follow them, so that the set of plans x stays F: that is the whole
argument for safety.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix

from envs.errors import InvalidSetting
from solver_pool.problem import MixedIntegerProgram

Array: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Cut:
    """The cut ``phi <= b + w'x`` over the `d` cut variables of a master.

    Attributes:
        w: ``(d,)``, finite.
        b: finite.

    Raises:
        InvalidSetting: on NaN or infinity, which a diverged policy produces, or a `w` that is no vector.
    """

    w: Array
    b: float

    def __post_init__(self) -> None:
        w = np.array(self.w, dtype=np.float64)  # a copy: the policy may reuse its buffer
        if w.ndim != 1:
            raise InvalidSetting("w", f"has shape {w.shape}", "Give one weight for each cut variable.")
        if not np.isfinite(w).all():
            index = int(np.argmax(~np.isfinite(w)))
            raise InvalidSetting(
                "w",
                f"is {w[index]} at index {index}",
                "Check the policy that produced it; nothing was solved.",
            )
        b = float(self.b)
        if not np.isfinite(b):
            raise InvalidSetting("b", f"is {b}", "Check the policy that produced it; nothing was solved.")
        object.__setattr__(self, "w", w)
        object.__setattr__(self, "b", b)

    @staticmethod
    def of(action: Cut | ArrayLike, d: int) -> Cut:
        """A cut from itself or from the flat vector ``(w, b)`` of ``d + 1`` numbers; the size is checked."""
        if not isinstance(action, Cut):
            flat = np.asarray(action, dtype=np.float64)
            if flat.shape != (d + 1,):
                raise InvalidSetting(
                    "action",
                    f"has shape {flat.shape}, expected {(d + 1,)}",
                    "Give the weights of the cut variables, then the bias.",
                )
            action = Cut(flat[:-1], float(flat[-1]))
        if action.w.shape != (d,):
            raise InvalidSetting(
                "w", f"has shape {action.w.shape}, expected {(d,)}", "One for each cut variable."
            )
        return action

    def value(self, cut_values: Array) -> float:
        """``b + w'x`` at the values ``(d,)`` of the cut variables."""
        return self.b + float(self.w @ cut_values)

    def normalised(self) -> Cut:
        """The cut with `w` of unit root mean square; a zero `w` stays. Only the direction of w is then learned."""
        scale = root_mean_square(self.w)
        if not scale:
            return self
        largest = float(np.abs(self.w).max())
        return Cut(self.w / largest / (scale / largest), self.b)


def root_mean_square(v: Array) -> float:
    """``sqrt(mean(v**2))`` without overflow or underflow."""
    largest = float(np.abs(v).max(initial=0.0))
    return largest * float(np.sqrt(np.mean((v / largest) ** 2))) if largest else 0.0


@dataclass(frozen=True, eq=False)
class CutRows:
    """Cuts as a solver takes them: moderate numbers, the same best plans.

    The master ``min scaled c'x - phi  s.t.  phi <= biases_k + weights_k'x,  low <= phi <= high``.

    Attributes:
        weights: ``(k, d)``, biases: ``(k,)``, of the ``1 <= k <= K`` cuts that may bind.
        low, high: of phi; every plan of the box admits a phi between them that reaches its cuts.
        scale: what weights, biases and c were divided by.
        shift: what was taken from the biases, after scaling; ``phi = scale * (solver's phi + shift)``.
    """

    weights: Array
    biases: Array
    low: float
    high: float
    scale: float
    shift: float


def cut_rows(cuts: Sequence[Cut], c: Array, low: Array, high: Array) -> CutRows:
    """Scale and shift cuts for a solver without changing which plans are best.

    One scale divides the whole objective. Biases are taken relative to the smallest. A cut that lies above another
    one everywhere in the box never binds and is left out.

    Args:
        cuts: ``K >= 1`` of them. c: ``(n,)`` of the program. low, high: ``(d,)``, bounds of the cut variables.
    """
    scale = max(max(root_mean_square(cut.w) for cut in cuts), root_mean_square(c)) or 1.0
    weights = np.array([cut.w / scale for cut in cuts])
    with np.errstate(over="ignore"):  # a bias may be 1e300 times the weights: infinity is clipped below
        given = np.array([cut.b / scale for cut in cuts])
        lowest = int(np.argmin([cut.b for cut in cuts]))
        biases = np.array([(cut.b - cuts[lowest].b) / scale for cut in cuts])
    least = np.minimum(weights * low, weights * high).sum(axis=1)
    most = np.maximum(weights * low, weights * high).sum(axis=1)
    binding = biases + least < (biases + most).min()
    binding[np.argmin(biases + most)] = True  # what the others were compared with
    weights, biases, least, most = weights[binding], biases[binding], least[binding], most[binding]
    # phi_max of the specification, and a floor below every cut: a finite domain for a branching solver.
    return CutRows(
        weights, biases, float((biases + least).min()) - 1.0, float((biases + most).min()) + 1.0, scale,
        float(given[lowest]),
    )  # fmt: skip


def with_cuts(
    program: MixedIntegerProgram, cut_variables: Indices, cuts: Sequence[Cut], start: Array | None = None
) -> MixedIntegerProgram:
    """The master (10') as one program; any MILP solver, or the pool, takes it.

    Its variables are the model's and, behind them, phi. Where a single cut may bind there is no phi: it is the cut.

    Args:
        program: the model in the pool's sense, ``min c'x``: a maximised objective enters as ``-c``.
        cut_variables: ``(d,)``, indices of the variables that cuts weigh; their bounds are finite.
        cuts: ``K >= 1``.
        start: ``(n,)``, a feasible plan to start from.
    """
    rows = cut_rows(cuts, program.c, program.low[cut_variables], program.high[cut_variables])
    count = len(rows.biases)
    if count == 1:
        c = program.c / rows.scale
        c[cut_variables] -= rows.weights[0]
        return replace(program, c=c, start=start)
    A, d = csr_matrix(program.A), len(cut_variables)
    n = A.shape[1]
    # The cuts' rows appended by hand: stacking sparse matrices takes longer than a small master's solve.
    data = np.column_stack([-rows.weights, np.ones(count)])
    columns = np.append(cut_variables, n)
    matrix: Any = csr_matrix(
        (
            np.concatenate([A.data, data.ravel()]),
            np.concatenate([A.indices, np.tile(columns, count)]),
            np.concatenate([A.indptr, A.indptr[-1] + (d + 1) * np.arange(1, count + 1)]),
        ),
        shape=(A.shape[0] + count, n + 1),
    )
    if start is not None:
        phi = float((rows.biases + rows.weights @ start[cut_variables]).min())
        start = np.append(start, phi)
    return replace(
        program,
        c=np.append(program.c / rows.scale, -1.0),
        A=matrix,
        row_low=np.append(program.row_low, np.full(count, -np.inf)),
        row_high=np.append(program.row_high, rows.biases),
        # Not `rows.low`: below a finite bound HiGHS 1.15.1 was seen to call a plan optimal that was not.
        low=np.append(program.low, -np.inf),
        high=np.append(program.high, rows.high),
        integer=np.append(program.integer, False),
        start=start,
    )

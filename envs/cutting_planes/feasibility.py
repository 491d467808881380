"""The independent check of plans: rows that were not read by the code that built the master, and a count.

A plan is feasible by construction (see `cuts.py`); this module does not rely on it. The master reads files and
models through SCIP (`model.py`); here HiGHS's reader does, so that a mistake of one is not repeated by the other.
Tasks bring checks of their own: packing multiplies its instance's arrays, the job shop walks the schedule.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_matrix

from envs.cutting_planes.cuts import Array
from envs.cutting_planes.model import checked_path
from envs.errors import InvalidSetting
from solver_pool.problem import MixedIntegerProgram

Check: TypeAlias = Callable[[Array], float]
"""``check(plan (n,)) -> violation``: the largest violation of a constraint; zero means feasible."""

TOLERANCE = 1e-5
"""On the violation of a row, bound or integrality, in the model's units: ten times what masters are solved to."""


@dataclass(frozen=True, eq=False)
class ModelRows:
    """The constraints of a model: ``row_low <= A x <= row_high``, ``low <= x <= high``, integers; callable.

    Attributes:
        A: ``(m, n)``, sparse. row_low, row_high: ``(m,)``. low, high: ``(n,)``. integer: ``(n,)``.
    """

    A: Any
    row_low: Array
    row_high: Array
    low: Array
    high: Array
    integer: NDArray[np.bool_]

    def __call__(self, plan: Array) -> float:
        """The largest violation at ``plan (n,)``; infinite for NaN."""
        if plan.shape != self.low.shape or not np.isfinite(plan).all():
            return float("inf")
        activity = self.A @ plan
        return max(
            0.0,
            float((self.row_low - activity).max(initial=0.0)),
            float((activity - self.row_high).max(initial=0.0)),
            float((self.low - plan).max(initial=0.0)),
            float((plan - self.high).max(initial=0.0)),
            float(np.abs(plan - np.round(plan))[self.integer].max(initial=0.0)),
        )


def rows_of_program(program: MixedIntegerProgram) -> ModelRows:
    """The rows of arrays that the user gave as arrays."""
    return ModelRows(program.A, program.row_low, program.row_high, program.low, program.high, program.integer)


def rows_of_model(model: Any, names: tuple[str, ...]) -> ModelRows:
    """The rows of a PySCIPOpt model or of an LP or MPS file, as HiGHS reads them.

    Args:
        names: ``(n,)``, the variables in the order of the plans (`model.NamedProgram`).

    Raises:
        InvalidSetting: if HiGHS cannot read it, or finds other variables than `names`.
    """
    if isinstance(model, str | Path):
        return _read(checked_path(Path(model)), names)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.mps"
        # Generic names x0, x1, ... in the model's order: its own may repeat, or have blanks.
        model.writeProblem(str(path), trans=False, genericnames=True, verbose=False)
        return _read(path, tuple(f"x{j}" for j in range(len(names))))


def _read(path: Path, names: tuple[str, ...]) -> ModelRows:
    import highspy

    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    if highs.readModel(str(path)) == highspy.HighsStatus.kError:
        raise InvalidSetting("model", f"{path} does not parse", "HiGHS cannot read it: check its syntax.")
    lp = highs.getLp()
    found = {name: j for j, name in enumerate(lp.col_names_)}
    if set(found) != set(names):
        odd = sorted(set(found) ^ set(names))[:3]
        raise InvalidSetting(
            "model", f"is read differently by SCIP and HiGHS, in the variables {odd}", "Name each once."
        )
    order = [found[name] for name in names]
    # HiGHS stores its matrix by columns after reading a file, unless it says otherwise.
    by_column = lp.a_matrix_.format_ == highspy.MatrixFormat.kColwise
    data = (np.array(lp.a_matrix_.value_), np.array(lp.a_matrix_.index_), np.array(lp.a_matrix_.start_))
    shape = (lp.num_row_, lp.num_col_)
    A = csc_matrix(data, shape=shape) if by_column else csc_matrix(data, shape=shape[::-1]).T.tocsc()
    whole = np.zeros(lp.num_col_, dtype=np.bool_)
    if len(lp.integrality_):
        whole = np.array([kind == highspy.HighsVarType.kInteger for kind in lp.integrality_])
    return ModelRows(
        A.tocsc()[:, order].tocsr(),
        np.array(lp.row_lower_), np.array(lp.row_upper_),
        np.array(lp.col_lower_)[order], np.array(lp.col_upper_)[order], whole[order],
    )  # fmt: skip


@dataclass
class FeasibilityCount:
    """How many plans were checked and how many were infeasible: zero is the claim.

    Attributes:
        checked, infeasible: numbers of plans. worst: the largest violation seen, in the model's units.
    """

    checked: int = 0
    infeasible: int = 0
    worst: float = 0.0

    def add(self, violation: float) -> None:
        """Count one plan by its violation."""
        self.checked += 1
        self.infeasible += not violation <= TOLERANCE
        self.worst = max(self.worst, violation)

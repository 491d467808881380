"""Models of users: PySCIPOpt models and LP or MPS files, read as a `MixedIntegerProgram`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from envs.errors import InvalidSetting
from solver_pool.problem import MixedIntegerProgram

SUFFIXES = (".lp", ".mps")

INFINITE = 1e20
"""What SCIP takes for no bound."""


@dataclass(frozen=True, eq=False)
class NamedProgram:
    """A program with the names of its variables, ``(n,)``, in order.

    The program minimises (the pool's sense): the objective of a model that maximises is negated.
    """

    program: MixedIntegerProgram
    names: tuple[str, ...]

    def indices(self, prefix: str) -> list[int]:
        """The variables whose name begins with `prefix`, to select cut variables.

        Raises:
            InvalidSetting: if there are none.
        """
        found = [j for j, name in enumerate(self.names) if name.startswith(prefix)]
        if not found:
            raise InvalidSetting(
                "prefix", f"{prefix!r} begins no variable's name", f"Names are {self.names[:5]}..."
            )
        return found


def read_model(model: Any) -> NamedProgram:
    """Read a PySCIPOpt model, or an LP or MPS file by its path. The model itself is not changed.

    Raises:
        InvalidSetting: if a file is missing or does not parse, or a constraint is not linear.
    """
    if isinstance(model, str | Path):
        return _of_scip(_parsed(Path(model)))
    if hasattr(model, "getConss"):
        return _of_scip(model)
    raise InvalidSetting(
        "model", f"is a {type(model).__name__}", "Give a pyscipopt.Model or the path of an LP or MPS file."
    )


def checked_path(path: Path) -> Path:
    """The path, if it names an existing LP or MPS file."""
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidSetting("model", f"{path} is no LP or MPS file by its name", "Name it *.lp or *.mps.")
    if not path.is_file():
        raise InvalidSetting("model", f"{path} does not exist", "Check the path.")
    return path


def _parsed(path: Path) -> Any:
    import pyscipopt

    model = pyscipopt.Model()
    model.hideOutput()
    try:
        model.readProblem(str(checked_path(path)))
    except Exception as error:  # PySCIPOpt raises plain Exception and OSError here
        if isinstance(error, InvalidSetting):
            raise
        raise InvalidSetting(
            "model", f"{path} does not parse ({error})", "Check it with 'scip -f'."
        ) from error
    if not model.getNVars():
        # SCIP's LP reader passes over what it does not understand.
        raise InvalidSetting(
            "model", f"{path} does not parse: no variable was found in it", "Check it with 'scip -f'."
        )
    return model


def _of_scip(model: Any) -> NamedProgram:
    variables = model.getVars()
    position = {v.getIndex(): j for j, v in enumerate(variables)}
    rows, columns, values, row_low, row_high = [], [], [], [], []
    for r, constraint in enumerate(model.getConss(transformed=False)):
        if constraint.getConshdlrName() != "linear":
            raise InvalidSetting(
                f"constraint {constraint.name}",
                f"is of the kind {constraint.getConshdlrName()!r}",
                "Masters are mixed-integer linear: write it with linear rows.",
            )
        for variable, value in zip(model.getConsVars(constraint), model.getConsVals(constraint), strict=True):
            rows.append(r)
            columns.append(position[variable.getIndex()])
            values.append(value)
        row_low.append(model.getLhs(constraint))
        row_high.append(model.getRhs(constraint))
    c = np.array([v.getObj() for v in variables])
    shape = (len(row_low), len(variables))
    program = MixedIntegerProgram(
        c=-c if model.getObjectiveSense() == "maximize" else c,
        A=csr_matrix((np.array(values, dtype=np.float64), (rows, columns)), shape=shape),
        row_low=_infinite(row_low),
        row_high=_infinite(row_high),
        low=_infinite([v.getLbOriginal() for v in variables]),
        high=_infinite([v.getUbOriginal() for v in variables]),
        integer=np.array([v.vtype() != "CONTINUOUS" for v in variables], dtype=np.bool_),
    )
    return NamedProgram(program, tuple(v.name for v in variables))


def _infinite(values: list[float]) -> Any:
    array = np.array(values, dtype=np.float64)
    return np.where(np.abs(array) >= INFINITE, np.copysign(np.inf, array), array)

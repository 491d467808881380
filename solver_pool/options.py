"""How to solve: the knobs that a caller may turn, the same for every backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from solver_pool.errors import InvalidProblem

Formulation = Literal["auto", "full_space", "reduced_space", "big_m", "partition"]
NativeSolver = Literal["auto", "ipopt", "scip", "highs"]


@dataclass(frozen=True)
class SolveOptions:
    """Options of one solve.

    Attributes:
        backend: ``"auto"`` takes the fastest that solves the problem to `tolerance`: the interior-point
            engine for smooth critics, branch and bound for ReLU ones (a MILP beyond ten actions), DAQP for
            QPs and our active-set method for batches of them, our branch and bound for binary programs with
            one row, HiGHS for LPs and other MILPs, Ipopt for nonlinear programs and SCIP for those with integers.
        tolerance: on the residuals of the certificate.
        time_limit: [s] for each program; None means no limit.
        n_starts: starting points for each state of a `CriticBatch`; the best local optimum wins. The
            first are the batch's own `starts`, the others are drawn inside the box.
        seed: of the drawn starting points.
        certify: ask for the global optimum with a proof: ``backend="auto"`` then takes a solver whose answers
            carry a finite `bound`, branch and bound for critics and SCIP for nonlinear programs.
        gap: relative gap, of ``max(1, |objective|)``, at which a branch-and-bound solver may stop.
        formulation: how OMLT writes the network; ``"auto"`` is full space for smooth activations and
            big-M for ReLU, whose alternative is ``"partition"``.
        native_solver: what solves OMLT's model and our own MILP of a critic; ``"auto"`` is Ipopt for smooth
            and HiGHS for ReLU.
    """

    backend: str = "auto"
    tolerance: float = 1e-8
    time_limit: float | None = None
    n_starts: int = 1
    seed: int = 0
    certify: bool = False
    gap: float = 1e-4
    formulation: Formulation = "auto"
    native_solver: NativeSolver = "auto"

    def __post_init__(self) -> None:
        if self.n_starts < 1:
            raise InvalidProblem("n_starts", f"is {self.n_starts}", "At least one start is needed.")
        if not 0 < self.tolerance < 1:
            raise InvalidProblem("tolerance", f"is {self.tolerance}", "Choose a number in (0, 1).")
        if not self.gap >= 0:
            raise InvalidProblem("gap", f"is {self.gap}", "Give zero or more, such as 1e-3.")
        if self.time_limit is not None and not self.time_limit > 0:
            raise InvalidProblem("time_limit", f"is {self.time_limit} s", "Give a positive limit or None.")

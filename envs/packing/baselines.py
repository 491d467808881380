"""What a policy on the packing problem is compared with; each returns a plan ``(N,)`` of zeros and ones."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.cutting_planes.cuts import Cut
from envs.cutting_planes.master import Master, MasterSettings
from envs.errors import InvalidSetting
from envs.packing.instance import Array, Packing
from solver_pool.backends import scip
from solver_pool.backends.rounding import violation
from solver_pool.solution import Status

EXACT = MasterSettings(solver="auto", gap=1e-6)


def linearised(instance: Packing) -> Array:
    """``argmax b'x  s.t.  k'x <= p``: the objective's gradient at 0, the denominator of the reward (12)."""
    master = Master(instance.program, settings=EXACT)
    master.add(Cut(instance.b, 0.0))
    return master.solve().plan


def random_cuts(
    instance: Packing, rng: np.random.Generator, cuts: int = 2, settings: MasterSettings = MasterSettings()
) -> Array:
    """The last plan after standard normal cuts: a policy before it has learned."""
    master = Master(instance.program, settings=settings)
    for _ in range(cuts):
        master.add(rng.standard_normal(len(instance) + 1))
        plan = master.solve().plan
    return plan


def frank_wolfe(instance: Packing, rng: np.random.Generator, starts: int = 10, iterations: int = 8) -> Array:
    """White-box cuts: from random plans, maximise the gradient ``2 A x + b`` and go to the answer.

    Full steps, as the objective is convex: none can lose. It sees A, and BOO does not; a learned policy
    has to be compared with it all the same.
    """
    master = Master(instance.program, settings=EXACT)
    best, best_value = np.zeros(len(instance)), instance.c
    for _ in range(starts):
        x = rng.uniform(size=len(instance))
        for _ in range(iterations):
            master.reset()
            master.add(Cut(2.0 * instance.A @ x + instance.b, 0.0))
            after = master.solve().plan
            if np.array_equal(after, x):
                break
            x = after
        if instance.objective(x) > best_value:
            best, best_value = x, instance.objective(x)
    return best


@dataclass(frozen=True, eq=False)
class GlobalSolution:
    """SCIP's answer.

    Attributes:
        plan: ``(N,)``, its best. objective: of the plan. bound: no plan is better.
        status: OPTIMAL where SCIP closed the gap, FEASIBLE at the limit. seconds: of CPU time, of the solve.
    """

    plan: Array
    objective: float
    bound: float
    status: Status
    seconds: float


def global_optimum(instance: Packing, time_limit: float, gap: float = 1e-4, seed: int = 0) -> GlobalSolution:
    """Solve (11) by SCIP as a nonlinear mixed-integer program with the objective in view, on one thread::

        max z + c   s.t.   z <= sum_i (A_ii + b_i) x_i + 2 sum_{i<j} A_ij x_i x_j,   k'x <= p,   x binary

    Args:
        time_limit: [s] of CPU time, which other processes do not change. gap: relative, at which SCIP may stop.

    Raises:
        InvalidSetting: unless `time_limit` is positive.
    """
    import pyscipopt

    if not time_limit > 0:
        raise InvalidSetting("time_limit", f"is {time_limit} s", "Give a positive number of seconds.")
    n = len(instance)
    model = pyscipopt.Model()
    model.hideOutput()
    model.setParams(
        {
            "timing/clocktype": 1,
            "limits/time": time_limit,
            "limits/gap": gap,
            "randomization/randomseedshift": seed,
            "parallel/maxnthreads": 1,
            "lp/threads": 1,
            "misc/catchctrlc": False,
        }
    )
    x = [model.addVar(vtype="B") for _ in range(n)]
    z = model.addVar(lb=None, ub=None)
    model.addCons(pyscipopt.quicksum(float(instance.k[i]) * x[i] for i in range(n)) <= float(instance.p))
    terms: list[Any] = [float(instance.A[i, i] + instance.b[i]) * x[i] for i in range(n)]
    terms += [float(2.0 * instance.A[i, j]) * x[i] * x[j] for i in range(n) for j in range(i + 1, n)]
    model.addCons(z <= pyscipopt.quicksum(terms))
    model.setObjective(z, "maximize")
    started = time.process_time()
    model.optimize()
    seconds = time.process_time() - started
    plan = np.zeros(n)
    if model.getNSols():
        best = model.getBestSol()
        found = np.round([best[v] for v in x])
        plan = found if violation(instance.program, found) <= 1e-9 else plan
    proven = scip.STATUS.get(model.getStatus()) == Status.OPTIMAL
    return GlobalSolution(
        plan, instance.objective(plan), float(model.getDualbound()) + instance.c,
        Status.OPTIMAL if proven else Status.FEASIBLE, seconds,
    )  # fmt: skip

"""Critics as OMLT writes them, through Pyomo: the reference formulation, and global optima of ReLU critics.

Smooth critics go to Ipopt through cyipopt, in full or reduced space; ReLU critics become a MILP, with big-M or
partition constraints, for HiGHS or SCIP through Pyomo's own interfaces. Pyomo's way from a model to cyipopt needs
the AMPL solver library, which neither PyPI nor Debian ships, so `ComposedProgram` evaluates the Pyomo model itself.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solver_pool.backends import daqp, highs, ipopt
from solver_pool.backends.composed_program import ComposedProgram
from solver_pool.errors import BackendUnavailable, UnsupportedProblem
from solver_pool.options import Formulation, NativeSolver, SolveOptions
from solver_pool.problem import Array, CriticBatch, QuadraticProgram, activate
from solver_pool.solution import BatchSolution, Status, primal_residuals, verified_batch

NAME = "omlt"

SMOOTH = ("softplus", "tanh", "sigmoid")
"""The smooth activations that OMLT can write."""

RELU_FORMULATIONS = ("big_m", "partition")
"""How OMLT writes ReLU as a MILP."""

STATUS: dict[str, Status] = {
    "convergenceCriteriaSatisfied": Status.OPTIMAL,
    "maxTimeLimit": Status.TIME_LIMIT,
    "provenInfeasible": Status.INFEASIBLE,
    "infeasibleOrUnbounded": Status.INFEASIBLE,  # every variable is bounded: it cannot be the other
}
"""Names of Pyomo's `TerminationCondition` of a MILP; every other one is an ERROR. Ipopt has its own table."""

MILP_FEASIBILITY = 1e-9
"""Feasibility tolerance asked of the MILP solvers; the smallest that both take without trouble."""


@dataclass(frozen=True)
class _Libraries:
    pyomo: ModuleType
    omlt: ModuleType
    network: ModuleType
    layer: ModuleType


def _libraries() -> _Libraries:
    try:
        return _Libraries(
            import_module("pyomo.environ"),
            import_module("omlt"),
            import_module("omlt.neuralnet"),
            import_module("omlt.neuralnet.layer"),
        )
    except ImportError as error:
        raise BackendUnavailable(
            "OMLT or Pyomo is missing. Install them with 'pip install omlt pyomo'."
        ) from error


def choose(problem: CriticBatch, options: SolveOptions) -> tuple[Formulation, NativeSolver]:
    """The formulation and solver that `options` mean for `problem`.

    Raises:
        UnsupportedProblem: if OMLT cannot write the activation, or the formulation or solver does not fit it.
    """
    activation = problem.critic.activation
    if activation not in (*SMOOTH, "relu"):
        raise UnsupportedProblem(
            f"activation: OMLT cannot write {activation!r}. Use backend='interior_point', which takes it."
        )
    smooth = activation in SMOOTH
    formulation, native = options.formulation, options.native_solver
    if formulation == "auto":
        formulation = "full_space" if smooth else "big_m"
    if native == "auto":
        native = "ipopt" if smooth else "highs"
    if smooth == (formulation in RELU_FORMULATIONS):
        fitting = "'full_space' or 'reduced_space'" if smooth else "'big_m' or 'partition'"
        raise UnsupportedProblem(f"formulation: {formulation!r} does not fit {activation!r}. Use {fitting}.")
    if smooth != (native == "ipopt"):
        fitting = "'ipopt'" if smooth else "'highs' or 'scip'"
        raise UnsupportedProblem(f"native_solver: {native!r} does not fit {activation!r}. Use {fitting}.")
    return formulation, native


def build_model(problem: CriticBatch, index: int, formulation: Formulation) -> Any:
    """OMLT's Pyomo model of one state's program, with the state as fixed inputs.

    Returns a ``ConcreteModel`` with the network ``nn`` (an ``OmltBlock``), the rows ``rows`` (only those with
    a finite ``h``) and the objective ``value``::

        max nn.outputs[0]   s.t.   nn.inputs = (s, a),   G a <= h,   low <= a <= high,   OMLT's constraints

    Full space has variables ``zhat = W z + b`` and ``z = f(zhat)`` for each neuron; reduced space has one
    nested expression; big-M has a binary for each ReLU and constants from interval bounds at this state;
    partition has besides two auxiliary variables for each ReLU, the parts of ``W z`` with its smaller and its
    larger weights, and a tighter relaxation (Tsay et al., Partition-based formulations for mixed-integer
    optimization of trained ReLU neural networks, NeurIPS 2021).
    """
    lib = _libraries()
    pyo = lib.pyomo
    critic, state = problem.critic, problem.states[index]
    n_states, n = state.shape[0], problem.n_actions
    G = problem.G if problem.G.ndim == 2 else problem.G[index]
    low = problem.low if problem.low.ndim == 1 else problem.low[index]
    high = problem.high if problem.high.ndim == 1 else problem.high[index]

    # MILPs need bounds on every input. For smooth networks they would only make Ipopt's fixed variables.
    lower, upper = np.concatenate([state, low]), np.concatenate([state, high])
    bounds = {i: (float(lower[i]), float(upper[i])) for i in range(n_states + n)}
    definition = lib.network.NetworkDefinition(
        scaled_input_bounds=bounds if formulation in RELU_FORMULATIONS else None
    )
    previous = lib.layer.InputLayer([n_states + n])
    definition.add_layer(previous)
    for depth, (w, b) in enumerate(zip(critic.weights, critic.biases, strict=True)):
        activation = critic.activation if depth < len(critic.weights) - 1 else "linear"
        dense = lib.layer.DenseLayer(
            previous.output_size, [w.shape[0]], activation=activation, weights=w.T.copy(), biases=b
        )
        definition.add_layer(dense)
        definition.add_edge(previous, dense)
        previous = dense
    write = {
        "full_space": lib.network.FullSpaceSmoothNNFormulation,
        "reduced_space": lib.network.ReducedSpaceSmoothNNFormulation,
        "big_m": lib.network.ReluBigMFormulation,
        "partition": lib.network.ReluPartitionFormulation,
    }[formulation]

    model = pyo.ConcreteModel()
    model.nn = lib.omlt.OmltBlock()
    # OMLT starts every input at zero, and Pyomo warns of each whose bounds exclude it; NumPy warns of the
    # interval 0 * inf where a weight is zero and its input unbounded, which Pyomo then mends.
    quiet = import_module("pyomo.common.log").LoggingIntercept(module="pyomo.core")
    with quiet, np.errstate(invalid="ignore"):
        model.nn.build_formulation(write(definition))
    for i in range(n_states):
        model.nn.inputs[i].fix(float(state[i]))
    for j in range(n):
        model.nn.inputs[n_states + j].setlb(float(low[j]))
        model.nn.inputs[n_states + j].setub(float(high[j]))
    model.rows = pyo.Constraint(pyo.Any)
    for r in np.flatnonzero(np.isfinite(problem.h[index]) & (G != 0.0).any(axis=1)):
        body = sum(float(G[r, j]) * model.nn.inputs[n_states + j] for j in range(n))
        model.rows[int(r)] = body <= float(problem.h[index, r])
    model.value = pyo.Objective(expr=model.nn.outputs[0], sense=pyo.maximize)
    return model


def set_start(model: Any, problem: CriticBatch, index: int, action: Array) -> None:
    """Give every variable of a smooth model the value that it has at `action (n_a,)`."""
    pyo, critic = _libraries().pyomo, problem.critic
    inputs = np.concatenate([problem.states[index], action])
    for i, value in enumerate(inputs):
        if not model.nn.inputs[i].fixed:
            model.nn.inputs[i].set_value(float(value), skip_validation=True)
        model.nn.scaled_inputs[i].set_value(float(value), skip_validation=True)
    x = inputs
    for depth, key in enumerate(model.nn.layers):
        block = model.nn.layer[key]
        if depth:
            zhat = critic.weights[depth - 1] @ x + critic.biases[depth - 1]
            x = activate(critic.activation, zhat)[0] if depth < len(critic.weights) else zhat
        if depth and isinstance(block.zhat, pyo.Var):
            for j, value in enumerate(zhat):
                block.zhat[j].set_value(float(value), skip_validation=True)
        if isinstance(block.z, pyo.Var):
            for j, value in enumerate(x):
                block.z[j].set_value(float(value), skip_validation=True)
    model.nn.scaled_outputs[0].set_value(float(x[0]), skip_validation=True)
    model.nn.outputs[0].set_value(float(x[0]), skip_validation=True)


# --- The backend --------------------------------------------------------------------------------------------


def solve(problem: CriticBatch, options: SolveOptions = SolveOptions()) -> BatchSolution:
    """Solve ``max_a Q(s_i, a)  s.t.  G_i a <= h_i,  low_i <= a <= high_i`` by OMLT, one model for each state.

    Smooth critics end in the best local optimum of ``options.n_starts`` starts. ReLU critics end with a bound
    on the global optimum, and are OPTIMAL if the bound is within the relative ``options.gap`` of the critic's
    own value at the answer. The bound is as good as the MILP solver's floating-point arithmetic.
    ``options.time_limit`` [s] is for each state's solve, after the model is built; a MILP's incumbent at the
    limit is FEASIBLE.

    Raises:
        UnsupportedProblem: for an activation that OMLT cannot write, or a formulation or solver that does not
            fit it.
        BackendUnavailable: without omlt, pyomo, or the native solver's Python package.

    Source: seed 000, Algorithm 1 line 11; Ceccon et al., OMLT: Optimization & Machine Learning Toolkit,
    JMLR 23(349), 2022.
    """
    formulation, native = choose(problem, options)
    if native == "ipopt":
        return _solve_smooth(problem, options, formulation)
    return _solve_milp(problem, options, formulation, native)


def _solve_smooth(problem: CriticBatch, options: SolveOptions, formulation: Formulation) -> BatchSolution:
    cyipopt = ipopt._library()

    # Unpack.
    size, n, m = len(problem), problem.n_actions, problem.n_rows
    low, high = np.broadcast_to(problem.low, (size, n)), np.broadcast_to(problem.high, (size, n))
    G = np.broadcast_to(problem.G, (size, m, n))
    points = ipopt.start_points(problem, options)
    starts = points.shape[1]
    limit = np.inf if options.time_limit is None else options.time_limit
    x = np.full((starts, size, n), np.nan)
    row_duals, bound_duals = np.zeros((starts, size, m)), np.zeros((starts, size, n))
    status = np.full((starts, size), Status.TIME_LIMIT, dtype=np.int8)
    iterations = np.zeros((starts, size), dtype=np.int64)
    seconds = np.zeros((starts, size))
    messages = [["the time limit came first"] * size for _ in range(starts)]

    for i in range(size):
        # Build.
        model = build_model(problem, i, formulation)
        program = ComposedProgram(model)
        actions = [program._index.get(id(v)) for v in list(model.nn.inputs.values())[-n:]]
        rows = {id(c): k for k, c in enumerate(program.constraints_of)}
        deadline = time.perf_counter() + limit
        for k in range(starts):
            if time.perf_counter() >= deadline:
                break
            set_start(model, problem, i, points[i, k])
            program.deadline = deadline
            native = cyipopt.Problem(
                n=len(program.variables),
                m=len(program.constraints_of),
                problem_obj=program,
                lb=program.low,
                ub=program.high,
                cl=program.row_low,
                cu=program.row_high,
            )
            for name, value in ipopt.settings(options.tolerance).items():
                native.add_option(name, value)

            # Solve.
            started = time.perf_counter()
            answer, info = native.solve(np.array([v.value for v in program.variables], dtype=np.float64))
            seconds[k, i] = time.perf_counter() - started

            # Fill.
            status[k, i] = ipopt.STATUS.get(info["status"], Status.ERROR)
            iterations[k, i] = program.iterations
            messages[k][i] = f"Ipopt ended with {info['status']}: {ipopt._text(info['status_msg'])}"
            if np.isfinite(answer).all():
                x[k, i] = np.clip(answer[actions], low[i], high[i])
                for r, constraint in model.rows.items():
                    row_duals[k, i, r] = max(info["mult_g"][rows[id(constraint)]], 0.0)
                bound_duals[k, i] = (info["mult_x_U"] - info["mult_x_L"])[actions]

    best: BatchSolution | None = None
    for k in range(starts):
        fixed = low == high
        if fixed.any():
            pull = problem.values_and_gradients(x[k])[1] - np.einsum("bmn,bm->bn", G, row_duals[k])
            bound_duals[k] = np.where(fixed, pull, bound_duals[k])
        feasible = primal_residuals(problem, x[k]) <= options.tolerance
        claims = np.where(feasible, Status.OPTIMAL, status[k])
        result = verified_batch(
            problem,
            x[k],
            row_duals[k],
            bound_duals[k],
            np.full(size, np.inf),
            claims.astype(np.int8),
            tolerance=options.tolerance,
            iterations=iterations[k],
            solve_time=float(seconds[k].sum()),
            backend=NAME,
            message=next((messages[k][i] for i in np.flatnonzero(~feasible)), ""),
        )
        best = result if best is None else ipopt.better(best, result)
    assert best is not None
    return best


def _native_milp(native: NativeSolver) -> tuple[Any, dict[str, Any]]:
    """Pyomo's solver object, made anew (it keeps the model that it solved), and its options."""
    if native == "highs":
        highs._library()
        factory = import_module("pyomo.contrib.solver.solvers.highs").Highs
        return factory(), {
            "mip_feasibility_tolerance": MILP_FEASIBILITY,
            "primal_feasibility_tolerance": MILP_FEASIBILITY,
            "dual_feasibility_tolerance": MILP_FEASIBILITY,
        }
    try:
        import_module("pyscipopt")
        factory = import_module("pyomo.contrib.solver.solvers.scip.scip_direct").ScipDirect
    except ImportError as error:
        raise BackendUnavailable(
            "PySCIPOpt, or a Pyomo that knows it (6.10 or newer), is missing. Install them with "
            "'pip install pyscipopt \"pyomo>=6.10\"' or 'conda install -c conda-forge pyscipopt pyomo'."
        ) from error
    return factory(), {"numerics/feastol": MILP_FEASIBILITY}


def _solve_milp(
    problem: CriticBatch, options: SolveOptions, formulation: Formulation, native: NativeSolver
) -> BatchSolution:
    # Unpack.
    size, n, m = len(problem), problem.n_actions, problem.n_rows
    low, high = np.broadcast_to(problem.low, (size, n)), np.broadcast_to(problem.high, (size, n))
    G = np.broadcast_to(problem.G, (size, m, n))
    x, bound = np.full((size, n), np.nan), np.full(size, np.inf)
    status = np.full(size, Status.ERROR, dtype=np.int8)
    messages, seconds = [""] * size, 0.0

    for i in range(size):
        # Build.
        model = build_model(problem, i, formulation)
        solver, settings = _native_milp(native)

        # Solve. A margin on the gap, because it is recomputed from the critic's own value.
        started = time.perf_counter()
        result = solver.solve(
            model,
            load_solutions=False,
            raise_exception_on_nonoptimal_result=False,
            time_limit=options.time_limit,
            threads=1,
            rel_gap=0.9 * options.gap,
            solver_options=settings,
        )
        seconds += time.perf_counter() - started

        # Fill.
        code = result.termination_condition.name
        status[i] = STATUS.get(code, Status.ERROR)
        messages[i] = f"{native} ended with {code}"
        if result.objective_bound is not None and status[i] != Status.INFEASIBLE:
            bound[i] = float(result.objective_bound)
        if result.incumbent_objective is not None and np.isfinite(result.incumbent_objective):
            actions = list(model.nn.inputs.values())[-n:]
            primals = result.solution_loader.get_vars(actions)
            found = np.array([primals[v] for v in actions], dtype=np.float64)
            x[i] = inside(found, G[i], problem.h[i], low[i], high[i], options)

    return verified_incumbents(
        problem, x, bound, status, messages, np.zeros(size, dtype=np.int64), seconds, NAME, options
    )


def verified_incumbents(
    problem: CriticBatch,
    x: Array,
    bound: Array,
    status: NDArray[np.int8],
    messages: list[str],
    iterations: NDArray[np.int64],
    seconds: float,
    backend: str,
    options: SolveOptions,
) -> BatchSolution:
    """What a MILP solver found for each state, valued by the critic itself.

    Args:
        x: ``(B, n_a)``, NaN without an incumbent. bound: ``(B,)``. status, messages: ``(B,)``, where there is none.
    """
    feasible = primal_residuals(problem, x) <= options.tolerance
    # Rounding in the MILP must not put its bound below a value that was attained.
    bound = np.where(feasible, np.maximum(bound, np.nan_to_num(problem.values(x), nan=-np.inf)), bound)
    return verified_batch(
        problem,
        x,
        np.zeros((len(problem), problem.n_rows)),
        np.zeros((len(problem), problem.n_actions)),
        bound,
        np.where(feasible, Status.OPTIMAL, status).astype(np.int8),
        tolerance=options.tolerance,
        gap_tolerance=max(options.tolerance, options.gap),
        iterations=iterations,
        solve_time=seconds,
        backend=backend,
        message=next((messages[i] for i in np.flatnonzero(~feasible)), ""),
    )


def inside(a: Array, G: Array, h: Array, low: Array, high: Array, options: SolveOptions) -> Array:
    """The point `a (n_a,)` of a MILP, moved by its solver's rounding back into its rows and box."""
    a = np.clip(a, low, high)
    if not G.shape[0] or (G @ a - h).max() <= options.tolerance:
        return a
    nearest = daqp.solve(QuadraticProgram(np.eye(a.shape[0]), -a, G, h, low, high), options)
    return a if nearest.x is None else nearest.x

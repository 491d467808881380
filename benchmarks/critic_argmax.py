"""Maximising a critic over a polytope: the fast engine against OMLT and cyipopt, on one core.

``python -m benchmarks.critic_argmax [--quick]`` poses ``max_a Q(s, a)  s.t.  G a <= h,  -1 <= a <= 1`` with a
random 36-64-64-1 critic (33 state inputs, 3 actions) and 3 rows, softplus and tanh, tolerance 1e-8. Times are
for one solve, certificate included, in one process and thread on one core; they are CPU time, which a busy
neighbour disturbs least. Peers solve one state at a time from the centre of the box; the median over their
states is taken, and over repeats for the engine.

OMLT's time is Pyomo's build, the translation to an NLP, and Ipopt through cyipopt. The NLP is evaluated by
`solver_pool.backends.composed_program.ComposedProgram`, as Pyomo's own evaluator needs the AMPL solver library; the
column "evaluation" is the share of that, and `speedup_vs_omlt_without_evaluation` leaves it out.

Keys of the last line:
    speedup_vs_omlt: OMLT's full space over the engine at B = 4096, one start; the smaller of two activations.
    speedup_vs_omlt_without_evaluation: the same with OMLT's derivatives free of charge.
    speedup_vs_omlt_reduced, speedup_vs_cyipopt: the same for the other peers.
    max_kkt_residual: over all answers of the engine, recomputed; infinite if one of them has no point.
    not_worse_than_omlt: share of the peers' states where eight starts reach OMLT's optimum to 1e-7, relative.
    softplus, tanh: times [ms] for each method, and the engine's share of certified answers.
"""

from __future__ import annotations

import os

# Before NumPy and numba are imported: they read these once.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.common import machine, print_result, store
from solver_pool.backends import ipopt, omlt, solve
from solver_pool.backends.composed_program import ComposedProgram
from solver_pool.options import SolveOptions
from solver_pool.problem import MLP, CriticBatch
from solver_pool.solution import BatchSolution, certify_batch

TOLERANCE = 1e-8
N_STATES, N_ACTIONS, N_ROWS, HIDDEN = 33, 3, 3, (64, 64)
ACTIVATIONS = ("softplus", "tanh")
BATCHES = (8, 64, 4096)
STARTS = (1, 8)
SEED = 0

PEERS = {
    "omlt_full_space": SolveOptions(backend="omlt", formulation="full_space", tolerance=TOLERANCE),
    "omlt_reduced_space": SolveOptions(backend="omlt", formulation="reduced_space", tolerance=TOLERANCE),
    "cyipopt": SolveOptions(backend="ipopt", tolerance=TOLERANCE),
}


def make_batch(activation: str, size: int, seed: int, n_actions: int = N_ACTIONS) -> CriticBatch:
    """Random critic, states and rows; every row leaves a random point of the box a slack of 0.05 to 0.5."""
    rng = np.random.default_rng(seed)
    sizes = (N_STATES + n_actions, *HIDDEN, 1)
    pairs = list(itertools.pairwise(sizes))
    weights = tuple(1.5 * rng.normal(size=(n_out, n_in)) / np.sqrt(n_in) for n_in, n_out in pairs)
    biases = tuple(0.5 * rng.normal(size=n_out) for _, n_out in pairs)
    G = rng.normal(size=(size, N_ROWS, n_actions))
    inside = rng.uniform(-0.5, 0.5, size=(size, n_actions))
    h = np.einsum("bmn,bn->bm", G, inside) + rng.uniform(0.05, 0.5, size=(size, N_ROWS))
    return CriticBatch(
        MLP(weights, biases, activation),
        rng.normal(size=(size, N_STATES)),
        G,
        h,
        -np.ones(n_actions),
        np.ones(n_actions),
    )


def timed(call: Callable[[], BatchSolution]) -> tuple[float, BatchSolution]:
    """CPU time [s] and result."""
    started = time.process_time()
    result = call()
    return time.process_time() - started, result


def run_peer(batch: CriticBatch, options: SolveOptions, repeats: int) -> tuple[float, BatchSolution]:
    """Median time [s] of solving one state, and all the answers."""
    solve(batch[:1], options)  # imports and first-call costs
    times, answers = [], []
    for i in range(len(batch)):
        one = batch[i : i + 1]
        runs = [timed(partial(solve, one, options)) for _ in range(repeats)]
        times.append(statistics.median(seconds for seconds, _ in runs))
        answers.append(runs[0][1])
    return statistics.median(times), BatchSolution.concatenate(answers)


def split_omlt(batch: CriticBatch) -> dict[str, float]:
    """Where OMLT's full-space time goes [ms]: build, translation, Ipopt, evaluation; medians over states."""
    import cyipopt

    parts: dict[str, list[float]] = {"build": [], "translation": [], "ipopt": [], "evaluation": []}
    for i in range(len(batch)):
        marks = [time.process_time()]
        model = omlt.build_model(batch, i, "full_space")
        marks.append(time.process_time())
        omlt.set_start(model, batch, i, 0.5 * (batch.low + batch.high))
        program = ComposedProgram(model)
        marks.append(time.process_time())
        native = cyipopt.Problem(
            n=len(program.variables), m=len(program.constraints_of), problem_obj=program,
            lb=program.low, ub=program.high, cl=program.row_low, cu=program.row_high,
        )  # fmt: skip
        for name, value in ipopt.settings(TOLERANCE).items():
            native.add_option(name, value)
        native.solve(np.array([v.value for v in program.variables]))
        marks.append(time.process_time())
        parts["build"].append(marks[1] - marks[0])
        parts["translation"].append(marks[2] - marks[1])
        parts["ipopt"].append(marks[3] - marks[2] - program.evaluation_time)
        parts["evaluation"].append(program.evaluation_time)
    return {name: 1e3 * statistics.median(values) for name, values in parts.items()}


def engine(n_starts: int) -> SolveOptions:
    return SolveOptions(backend="interior_point", tolerance=TOLERANCE, n_starts=n_starts, seed=SEED)


def measure(activation: str, quick: bool) -> tuple[dict[str, Any], float, float]:
    """The table of one activation [ms], the largest residual, and the share not worse than OMLT."""
    batch = make_batch(activation, BATCHES[-1], SEED)
    peers = batch[: 4 if quick else 24]
    table: dict[str, Any] = {"peer_states": len(peers)}
    optimum = np.full(len(peers), np.nan)
    for name, options in PEERS.items():
        seconds, answers = run_peer(peers, options, 1 if quick else 3)
        table[f"{name}_ms"] = 1e3 * seconds
        table[f"{name}_certified"] = float(answers.certified.mean())
        if name == "omlt_full_space":
            optimum = answers.objective
    table["omlt_full_space_parts_ms"] = split_omlt(peers)

    worst = 0.0
    for n_starts in STARTS:
        for size in BATCHES:
            part = batch[:size]
            solve(part[:1], engine(n_starts))  # compilation
            repeats = min(200, max(1 if quick else 5, (1024 if quick else 8192) // (size * n_starts)))
            runs = [timed(partial(solve, part, engine(n_starts))) for _ in range(repeats)]
            answers = runs[0][1]
            table[f"engine_b{size}_starts{n_starts}_ms"] = 1e3 * statistics.median(t for t, _ in runs) / size
            duals = answers.row_duals, answers.bound_duals
            _, certificate = certify_batch(part, answers.x, *duals, answers.bound)
            worst = max(worst, float(np.max(certificate.kkt_residual)))
        table[f"engine_certified_starts{n_starts}"] = float(answers.certified.mean())
    reached = solve(peers, engine(8)).objective
    not_worse = reached >= optimum - 1e-7 * np.maximum(1.0, np.abs(optimum))
    return table, worst, float(not_worse.mean())


def print_table(tables: dict[str, dict[str, Any]]) -> None:
    """One line for each method: time of one solve [ms] for both activations."""
    lines = {
        "OMLT full space, Pyomo, cyipopt": "omlt_full_space_ms",
        "OMLT reduced space, Pyomo, cyipopt": "omlt_reduced_space_ms",
        "cyipopt, exact NumPy derivatives": "cyipopt_ms",
    }
    for n_starts in STARTS:
        for size in BATCHES:
            title = f"engine, B = {size}, {n_starts} start{'s' * (n_starts > 1)}"
            lines[title] = f"engine_b{size}_starts{n_starts}_ms"
    print(f"{'one solve [ms]':<38}" + "".join(f"{a:>12}" for a in tables))
    for title, key in lines.items():
        print(f"{title:<38}" + "".join(f"{t[key]:>12.4g}" for t in tables.values()))
    print("\nOMLT full space, parts [ms]")
    parts = [table["omlt_full_space_parts_ms"] for table in tables.values()]
    for part in parts[0]:
        print(f"{part:<38}" + "".join(f"{p[part]:>12.4g}" for p in parts))
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer states and repeats, within 60 s")
    quick = parser.parse_args().quick
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

    started = time.perf_counter()
    results = {activation: measure(activation, quick) for activation in ACTIVATIONS}
    tables = {activation: table for activation, (table, _, _) in results.items()}

    def speedup(peer: Callable[[dict[str, Any]], float]) -> float:
        """How often the engine's time fits into the peer's, in the worse case."""
        return min(peer(t) / float(t["engine_b4096_starts1_ms"]) for t in tables.values())

    payload: dict[str, Any] = {
        "speedup_vs_omlt": speedup(lambda t: t["omlt_full_space_ms"]),
        "speedup_vs_omlt_without_evaluation": speedup(
            lambda t: t["omlt_full_space_ms"] - t["omlt_full_space_parts_ms"]["evaluation"]
        ),
        "speedup_vs_omlt_reduced": speedup(lambda t: t["omlt_reduced_space_ms"]),
        "speedup_vs_cyipopt": speedup(lambda t: t["cyipopt_ms"]),
        "max_kkt_residual": max(worst for _, worst, _ in results.values()),
        "not_worse_than_omlt": float(np.mean([share for _, _, share in results.values()])),
        "tolerance": TOLERANCE,
        "quick": quick,
        "seconds": time.perf_counter() - started,
        "cores_used": machine()["cores_used"],
        **tables,
    }
    print_table(tables)
    if not quick:
        store("critic_argmax", payload, "python -m benchmarks.critic_argmax", [SEED])
    print_result(payload)


if __name__ == "__main__":
    main()

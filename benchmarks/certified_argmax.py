"""Certified global maxima of a critic: our branch and bound beside OMLT's programs on HiGHS and on SCIP.

The problem is ``max_a Q(s, a)`` for random critics 36-64-64-1 (33 state inputs, three actions), in the box
[-1, 1] and under three rows, to a relative gap of 1e-3. The peers solve the same programs in the same
process, one thread, one state at a time: ReLU critics as OMLT's big-M and partition MILPs and as our own
(state folded, bounds tightened, stable neurons removed), smooth ones as OMLT's full-space program on SCIP,
which is global. A solve that does not end within the stated limit counts with the limit, so that its ratio
is a lower bound (marked with a sign in the table).

``python -m benchmarks.certified_argmax`` stores ``results/certified_argmax.json``; ``--quick`` ends within
60 s: one state for each peer, a short limit, and peers for three actions only.

Keys of the result, for three actions:

- ``median_ms, p90_ms``: [ms] CPU time of one of our solves, alone, first candidates and certificate
  included; the worse of ReLU and softplus;
- ``ratio_vs_omlt_milp``: OMLT big-M on HiGHS, build and solve, over ours, medians over the states, ReLU;
  ``ratio_vs_omlt_scip`` the same on SCIP, ``ratio_vs_own_milp`` our own MILP on HiGHS;
- ``disagreements``: optima that differ from a finished peer's by more than both gaps, and sampled points,
  local optima of 64 starts and peers' incumbents above our bound; over both numbers of actions. Zero is right.
  Not among them are ``peers_refuted``: a peer's "proven" bound below the value of our action, which satisfies
  the rows and is valued by the plain network;
- ``milp_checked``: how many optima a finished MILP confirmed; ``certified``: share of states with a proved gap.

``tables`` has each activation and number of actions (3 and 6): boxes, milliseconds, peers.
"""

from __future__ import annotations

import os

# One thread everywhere, before NumPy loads its BLAS: a comparison of work, not of cores.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.common import machine, print_result, store
from benchmarks.critic_argmax import make_batch
from solver_pool.backends import omlt, solve
from solver_pool.options import Formulation, SolveOptions
from solver_pool.problem import Array, CriticBatch, NonlinearProgram
from solver_pool.solution import BatchSolution, Solution, Status, primal_residuals

GAP = 1e-3
SEED = 0
STATES = 24
ACTIVATIONS = ("relu", "softplus", "tanh")
COUNTED = ("relu", "softplus")
"""The activations that the summary keys speak of."""
ACTIONS = (3, 6)
SAMPLES = 200_000
OURS = SolveOptions(backend="branch_and_bound", gap=GAP)


@dataclass(frozen=True)
class Peer:
    """A solver beside ours: how many states it gets, and which of OMLT's models if it takes none by itself."""

    options: SolveOptions
    states: int
    model: Formulation | None = None

    def solve(self, one: CriticBatch) -> Solution:
        """The answer to a batch of one state."""
        if self.model is None:
            return solve(one, self.options)[0]
        return solve(NonlinearProgram(omlt.build_model(one, 0, self.model)), self.options)


def peers(activation: str, n_actions: int, quick: bool, limit: float | None) -> dict[str, Peer]:
    """Who solves the same programs, how many of them and how long."""
    if quick and n_actions != ACTIONS[0]:
        return {}

    def peer(states: int, seconds: float, model: Formulation | None = None, **more: Any) -> Peer:
        allowed = limit or (4.0 if quick else seconds)
        return Peer(SolveOptions(gap=GAP, time_limit=allowed, **more), 1 if quick else states, model)

    few = STATES if n_actions == ACTIONS[0] else 4
    if activation != "relu":
        return {"omlt_full_space_scip": peer(few, 5.0, "full_space", backend="scip", certify=True)}
    return {
        "omlt_highs": peer(few, 20.0, backend="omlt", native_solver="highs"),
        "omlt_scip": peer(few, 10.0, backend="omlt", native_solver="scip"),
        "omlt_partition_highs": peer(4, 20.0, backend="omlt", formulation="partition", native_solver="highs"),
        "own_milp_highs": peer(few, 20.0, backend="milp", native_solver="highs"),
        "own_milp_highs_unhurried": peer(4, 60.0, backend="milp", native_solver="highs"),
    }


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """CPU time [s] and result."""
    began = time.process_time()
    result = call()
    return time.process_time() - began, result


def best_sample(batch: CriticBatch, count: int) -> Array:
    """The best value ``(B,)`` of points drawn in the box that satisfy the rows; -inf without one."""
    rng = np.random.default_rng([SEED, 7])
    best = np.full(len(batch), -np.inf)
    for i in range(len(batch)):
        points = rng.uniform(batch.low, batch.high, size=(count, batch.n_actions))
        G = batch.G if batch.G.ndim == 2 else batch.G[i]
        points = points[(points @ G.T <= batch.h[i]).all(axis=1)]
        for part in np.array_split(points, max(1, len(points) // 4096)):
            states = np.repeat(batch.states[i : i + 1], len(part), axis=0)
            if len(part):
                best[i] = max(best[i], batch.critic(np.concatenate([states, part], axis=1)).max())
    return best


def measure(
    activation: str, n_actions: int, quick: bool, limit: float | None, console: Console
) -> dict[str, Any]:
    """The figures of one critic: our times, the peers' times, and every disagreement."""
    batch = make_batch(activation, STATES, SEED, n_actions)
    solve(batch[:1], OURS)  # compilation
    runs = [timed(partial(solve, batch[i : i + 1], OURS)) for i in range(len(batch))]
    times, ours = np.array([t for t, _ in runs]), BatchSolution.concatenate([a for _, a in runs])
    together, _ = timed(partial(solve, batch, OURS))
    allowed = GAP * np.maximum(1.0, np.abs(ours.objective))
    figures: dict[str, Any] = {
        "states": len(batch),
        "median_ms": 1e3 * float(np.median(times)),
        "p90_ms": 1e3 * float(np.percentile(times, 90)),
        "batch_ms_per_state": 1e3 * together / len(batch),
        "boxes_median": float(np.median(ours.iterations)),
        "boxes_max": int(ours.iterations.max()),
        "certified": float((ours.certified & (ours.bound - ours.objective <= allowed)).mean()),
        "largest_row_violation": float(primal_residuals(batch, ours.x).max()),
        "milp_checked": 0,
        "peers_refuted": 0,
        "peers": {},
    }
    above = [best_sample(batch, SAMPLES // 10 if quick else SAMPLES)]
    if activation != "relu":
        above.append(solve(batch, SolveOptions(n_starts=64)).objective)
    disagreements = sum(int((values > ours.bound).sum()) for values in above)
    for name, peer in peers(activation, n_actions, quick, limit).items():
        seconds, finished = [], 0
        label = f"{activation}, {n_actions} actions: {name}"
        for i in track(range(peer.states), label, console=console, transient=True):
            taken, theirs = timed(partial(peer.solve, batch[i : i + 1]))
            seconds.append(taken)
            disagreements += bool(theirs.status.usable and theirs.objective > ours.bound[i] + 1e-7)
            if theirs.status == Status.OPTIMAL:
                finished += 1
                refuted = theirs.bound < ours.objective[i] - 1e-6 * max(1.0, abs(ours.objective[i]))
                figures["peers_refuted"] += bool(refuted)
                figures["milp_checked"] += not refuted
                differs = abs(theirs.objective - ours.objective[i]) > 2.0 * allowed[i]
                disagreements += bool(differs and not refuted)
        figures["peers"][name] = {
            "states": peer.states,
            "limit_s": peer.options.time_limit,
            "finished": finished,
            "median_s": float(np.median(seconds)),
            "p90_s": float(np.percentile(seconds, 90)),
            "ratio": 1e3 * float(np.median(seconds)) / figures["median_ms"],
        }
    return {**figures, "disagreements": disagreements}


def print_table(tables: dict[str, dict[str, Any]], console: Console) -> None:
    """One line for each critic and solver."""
    table = Table(
        title=f"max_a Q(s, a) to a proved gap of {GAP:g}; one state at a time", title_justify="left"
    )
    for i, name in enumerate(("critic", "solver", "states", "finished", "median", "p90", "times ours")):
        table.add_column(name, justify="left" if i < 2 else "right", no_wrap=True)
    for key, figures in tables.items():
        done = round(figures["certified"] * figures["states"])
        table.add_row(
            key, "branch and bound", str(figures["states"]), str(done),
            f"{figures['median_ms']:.2f} ms", f"{figures['p90_ms']:.2f} ms", "1",
        )  # fmt: skip
        for name, peer in figures["peers"].items():
            unfinished = peer["finished"] < peer["states"]
            sign = "≥ " if unfinished else ""
            table.add_row(
                "", name.replace("_", " "), str(peer["states"]), str(peer["finished"]),
                f"{sign}{peer['median_s']:.1f} s", f"{sign}{peer['p90_s']:.1f} s", f"{sign}{peer['ratio']:,.0f}",
            )  # fmt: skip
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer states and samples, within 60 s")
    parser.add_argument("--limit", type=float, help="[s] of every peer for each state (default: 5 to 60)")
    options = parser.parse_args()
    quick = options.quick
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

    console, started = Console(width=110), time.perf_counter()
    tables = {
        f"{activation}, {n} actions": measure(activation, n, quick, options.limit, console)
        for n in ACTIONS
        for activation in ACTIVATIONS
    }
    three = [tables[f"{activation}, {ACTIONS[0]} actions"] for activation in COUNTED]
    ratio = {name: peer["ratio"] for name, peer in three[0]["peers"].items()}
    payload: dict[str, Any] = {
        "median_ms": max(t["median_ms"] for t in three),
        "p90_ms": max(t["p90_ms"] for t in three),
        "ratio_vs_omlt_milp": ratio["omlt_highs"],
        "ratio_vs_omlt_scip": ratio["omlt_scip"],
        "ratio_vs_own_milp": ratio["own_milp_highs"],
        "disagreements": sum(t["disagreements"] for t in tables.values()),
        "certified": float(np.mean([t["certified"] for t in tables.values()])),
        "milp_checked": sum(t["milp_checked"] for t in tables.values()),
        "peers_refuted": sum(t["peers_refuted"] for t in tables.values()),
        "gap": GAP,
        "quick": quick,
        "seconds": time.perf_counter() - started,
        "cores_used": machine()["cores_used"],
        "tables": tables,
    }
    print_table(tables, console)
    if not quick:
        store("certified_argmax", payload, "python -m benchmarks.certified_argmax", [SEED])
    print_result(payload)


if __name__ == "__main__":
    main()

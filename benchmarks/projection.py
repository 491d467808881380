"""Projecting proposals on polytopes, with gradients: our layer against cvxpylayers, qpth and a loop of DAQP.

``python -m benchmarks.projection [--quick]`` poses ``min_u 1/2 |u - pi|^2  s.t.  G u <= h,  -1 <= u <= 1`` with rows of
its own for every entry of the batch, 2 rows for each of 3 and 12 actions, about half of the entries with an active
constraint. A time is that of one projection, forward and backward, in one process and thread on one core; it is CPU
time, which a busy neighbour disturbs least. All work in float64.

Nothing is timed before it is compared: our points with DAQP's, over the whole batch, and our gradients with those of
cvxpylayers at a tolerance of 1e-10, on 256 entries. Errors beyond 1e-9 and 1e-3 end the run.

cvxpylayers runs as it comes: diffcp and SCS at its default tolerance, one job; "cvxpylayers_clarabel" is the same with
Clarabel. qpth runs as it comes (eps 1e-12, at most 20 iterations). DAQP has no gradient: its loop is forward only.
With --quick there is one repeat at B = 4096, cvxpylayers and qpth get 512 of these entries with 12 actions, and
Clarabel is left out.

    python -m pip install -c constraints.txt '.[peers]' && python -m pip install --no-deps -c constraints.txt qpth

Keys of the last line:
    speedup_vs_cvxpylayers, speedup_vs_qpth: their time over ours, at B = 4096 with 3 actions.
    max_error_vs_daqp: largest difference of a coordinate, over 4096 projections for each number of actions.
    max_gradient_error: largest difference of our gradients from those of cvxpylayers at 1e-10.
    actions_3, actions_12: times [us] by method and batch, ratios of both peers by batch, share of entries with an
        active constraint, and each peer's largest error of a point and of a gradient against ours.
"""

from __future__ import annotations

import os

# Before NumPy and numba are imported: they read these once.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"

import argparse
import ctypes
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from algorithms.common.projection import project_polytope, through
from benchmarks.common import machine, print_result, store
from solver_pool.backends import solve
from solver_pool.options import SolveOptions
from solver_pool.pool import SolverPool
from solver_pool.problem import Array, QuadraticBatch

SEED = 0
BATCHES = (1, 64, 4096)
SPREAD = {3: 0.7, 12: 0.18}
"""Of the proposals around a safe action, by number of actions: half of the entries have an active constraint."""
COMPARED = 256
"""Entries of the comparison of gradients."""
PEERS = ("cvxpylayers", "diffcp", "scs", "clarabel", "qpth", "daqp")
INSTALL = (
    "{name} is missing. Install the peers of this benchmark with\n"
    "    python -m pip install -c constraints.txt '.[peers]'\n"
    "    python -m pip install --no-deps -c constraints.txt qpth"
)

Answer = tuple[Array, Array]
"""Points ``(B, n)`` and the gradients of the proposals ``(B, n)``."""


@dataclass(frozen=True)
class Instance:
    """A batch of projections, and what arrives at the points in the backward pass, ``weights (B, n)``."""

    proposals: Array
    G: Array
    h: Array
    low: Array
    high: Array
    weights: Array

    def first(self, size: int) -> Instance:
        return replace(
            self,
            proposals=self.proposals[:size],
            G=self.G[:size],
            h=self.h[:size],
            weights=self.weights[:size],
        )

    @property
    def size(self) -> int:
        return len(self.proposals)

    @property
    def quadratic(self) -> QuadraticBatch:
        n = self.proposals.shape[1]
        return QuadraticBatch(np.eye(n), -self.proposals, self.G, self.h, self.low, self.high)


def make_instance(size: int, n: int) -> Instance:
    """Random rows that leave a point of the box a slack of 0.05 to 0.5, proposals around that point."""
    rng = np.random.default_rng([SEED, n])
    G = rng.normal(size=(size, 2 * n, n))
    inside = rng.uniform(-0.5, 0.5, size=(size, n))
    h = np.einsum("bmn,bn->bm", G, inside) + rng.uniform(0.05, 0.5, size=(size, 2 * n))
    away = SPREAD[n] * rng.uniform(size=(size, 1)) ** 2 * rng.normal(size=(size, n))
    return Instance(inside + away, G, h, -np.ones(n), np.ones(n), rng.normal(size=(size, n)))


Method = Callable[[Instance], Callable[[], Answer]]
"""Prepares what a caller would keep between batches, and returns the call to time."""


def answer_of(proposals: Tensor, points: Tensor, weights: Tensor) -> Answer:
    """The backward pass, and both results as arrays."""
    (gradient,) = torch.autograd.grad((points * weights).sum(), proposals)
    return points.detach().numpy(), gradient.numpy()


def ours(instance: Instance) -> Callable[[], Answer]:
    pool, weights = SolverPool(), torch.from_numpy(instance.weights)
    proposals = torch.from_numpy(instance.proposals).requires_grad_()

    def call() -> Answer:
        wanted = proposals.detach().numpy()
        found = project_polytope(wanted, instance.G, instance.h, instance.low, instance.high, pool)
        return answer_of(proposals, through(proposals, found), weights)

    return call


def by_cvxpylayers(**solver: Any) -> Method:
    cp, layers = _peer("cvxpy"), _peer("cvxpylayers.torch")

    def prepare(instance: Instance) -> Callable[[], Answer]:
        m, n = instance.G.shape[1:]
        u, wanted, G, h = cp.Variable(n), cp.Parameter(n), cp.Parameter((m, n)), cp.Parameter(m)
        program = cp.Problem(
            cp.Minimize(0.5 * cp.sum_squares(u - wanted)),
            [G @ u <= h, u >= instance.low, u <= instance.high],
        )
        layer = layers.CvxpyLayer(program, parameters=[wanted, G, h], variables=[u])
        rows, levels = torch.from_numpy(instance.G), torch.from_numpy(instance.h)
        weights = torch.from_numpy(instance.weights)
        proposals = torch.from_numpy(instance.proposals).requires_grad_()
        arguments = {"n_jobs_forward": 1, "n_jobs_backward": 1, **solver}

        def call() -> Answer:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                (points,) = layer(proposals, rows, levels, solver_args=arguments)
                return answer_of(proposals, points, weights)

        return call

    return prepare


def by_qpth(instance: Instance) -> Callable[[], Answer]:
    function = _peer("qpth.qp").QPFunction(verbose=-1)
    size, n = instance.proposals.shape
    eye = torch.eye(n, dtype=torch.float64)
    box = torch.cat([eye, -eye]).expand(size, 2 * n, n)
    rows = torch.cat([torch.from_numpy(instance.G), box], dim=1)
    sides = torch.from_numpy(np.concatenate([instance.high, -instance.low])).expand(size, 2 * n)
    levels = torch.cat([torch.from_numpy(instance.h), sides], dim=1)
    none, weights = torch.empty(0, dtype=torch.float64), torch.from_numpy(instance.weights)
    proposals = torch.from_numpy(instance.proposals).requires_grad_()

    def call() -> Answer:
        points = function(eye, -proposals, rows, levels, none, none)
        return answer_of(proposals, points, weights)

    return call


def by_daqp(instance: Instance) -> Callable[[], Answer]:
    """One program after the other, forward only."""
    daqp = import_module("daqp")
    n, m = instance.proposals.shape[1], instance.G.shape[1]
    P, sense = np.eye(n), np.zeros(n + m, dtype=ctypes.c_int)
    upper = np.concatenate([np.broadcast_to(instance.high, (instance.size, n)), instance.h], axis=1)
    lower = np.concatenate([instance.low, np.full(m, -1e30)])

    def call() -> Answer:
        points = np.empty_like(instance.proposals)
        for i in range(instance.size):
            points[i] = daqp.solve(
                P, -instance.proposals[i], instance.G[i], upper[i], lower, sense, primal_tol=1e-10
            )[0]
        return points, np.full_like(points, np.nan)

    return call


def _peer(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise SystemExit(INSTALL.format(name=module.split(".")[0])) from error


def methods(quick: bool) -> dict[str, Method]:
    found: dict[str, Method] = {
        "ours": ours,
        "daqp_loop": by_daqp,
        "qpth": by_qpth,
        "cvxpylayers": by_cvxpylayers(),
    }
    return found if quick else {**found, "cvxpylayers_clarabel": by_cvxpylayers(solve_method="Clarabel")}


def checked(instance: Instance) -> tuple[float, float, Answer]:
    """Our largest error of a point and of a gradient, and our answer; ends the run where they are too large."""
    points, gradients = ours(instance)()
    reference = solve(instance.quadratic, SolveOptions(backend="daqp"))
    assert reference.certified.all(), reference.message
    error = float(np.abs(points - reference.x).max())
    few = instance.first(COMPARED)
    _, expected = by_cvxpylayers(eps=1e-10, max_iters=100_000)(few)()
    gradient_error = float(np.abs(gradients[:COMPARED] - expected).max())
    if not (error <= 1e-9 and gradient_error <= 1e-3):
        raise SystemExit(f"wrong: points differ by {error:.1e}, gradients by {gradient_error:.1e}")
    return error, gradient_error, (points, gradients)


def timed(call: Callable[[], Answer], repeats: int) -> tuple[float, Answer]:
    """Median CPU time [s] of a call, and its result."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        result = call()
        times.append(time.process_time() - began)
    return statistics.median(times), result


def measure(n: int, quick: bool) -> dict[str, Any]:
    """The figures of one number of actions."""
    whole = make_instance(BATCHES[-1], n)
    error, gradient_error, (points, gradients) = checked(whole)
    print(
        f"{n} actions: points within {error:.1e} of DAQP's, gradients within {gradient_error:.1e}", flush=True
    )
    distance = np.abs(points - whole.proposals).max(axis=1)
    table: dict[str, Any] = {
        "max_error_vs_daqp": error,
        "max_gradient_error": gradient_error,
        "active_share": float((distance > 1e-9).mean()),
        "us": {},
        "peer_errors": {},
    }
    for name, method in methods(quick).items():
        slow = name.startswith("cvxpylayers")
        peer = slow or name == "qpth"
        method(whole.first(1))()  # imports, compilation, first-call costs
        times = {}
        for size in BATCHES:
            part = whole.first(512 if quick and peer and n == 12 and size == 4096 else size)
            repeats = {1: 10 if slow else 100, 64: 2 if slow else 20}.get(size, 1 if quick or peer else 5)
            if name == "ours":
                repeats = max(repeats, 9)
            seconds, answer = timed(method(part), repeats)
            times[str(size)] = 1e6 * seconds / part.size
        table["us"][name] = times
        if name != "ours":
            parts = {"point": answer[0] - points[: part.size], "gradient": answer[1] - gradients[: part.size]}
            errors = {what: np.abs(off).max(axis=1) for what, off in parts.items() if peer or what == "point"}
            table["peer_errors"][name] = {
                f"{what}_{kind}": float(of(off))
                for what, off in errors.items()
                for kind, of in (("median", np.median), ("max", np.max))
            }
        print(f"  {name}: " + ", ".join(f"{t:.4g} us at B = {b}" for b, t in times.items()), flush=True)
    own = table["us"]["ours"]
    for rival in ("cvxpylayers", "qpth"):
        table[f"speedup_vs_{rival}"] = {size: table["us"][rival][size] / own[size] for size in own}
    return table


def print_table(tables: dict[int, dict[str, Any]]) -> None:
    """One line for each method: time of one projection [us] by number of actions and batch."""
    columns = [(n, str(size)) for n in tables for size in BATCHES]
    print(
        f"\n{'one projection with gradient [us]':<36}" + "".join(f"{f'{n}, B = {b}':>14}" for n, b in columns)
    )
    titles = {
        "ours": "ours",
        "daqp_loop": "DAQP, one by one, forward only",
        "qpth": "qpth",
        "cvxpylayers": "cvxpylayers (diffcp, SCS)",
        "cvxpylayers_clarabel": "cvxpylayers (diffcp, Clarabel)",
    }
    for name, title in titles.items():
        if name in tables[columns[0][0]]["us"]:
            print(f"{title:<36}" + "".join(f"{tables[n]['us'][name][b]:>14.4g}" for n, b in columns))
    for peer in ("cvxpylayers", "qpth"):
        print(
            f"{peer + ' / ours':<36}"
            + "".join(f"{tables[n][f'speedup_vs_{peer}'][b]:>14.4g}" for n, b in columns)
        )
    kinds = ("point_median", "point_max", "gradient_median", "gradient_max")
    print(f"\n{'error against ours, largest batch':<36}" + "".join(f"{kind:>17}" for kind in kinds))
    for n, table in tables.items():
        for name, errors in table["peer_errors"].items():
            row = (f"{errors[kind]:>17.1e}" if kind in errors else f"{'':>17}" for kind in kinds)
            print(f"{f'{titles[name]}, {n}':<36}" + "".join(row))
    print()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.projection",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer repeats, within 60 s")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

    for module in ("cvxpylayers.torch", "qpth.qp"):  # before anything takes time
        _peer(module)
    tables = {n: measure(n, quick) for n in SPREAD}
    print_table(tables)
    headline = tables[3]
    result = {
        "speedup_vs_cvxpylayers": headline["speedup_vs_cvxpylayers"]["4096"],
        "speedup_vs_qpth": headline["speedup_vs_qpth"]["4096"],
        "max_error_vs_daqp": max(t["max_error_vs_daqp"] for t in tables.values()),
        "max_gradient_error": max(t["max_gradient_error"] for t in tables.values()),
        **{f"actions_{n}": table for n, table in tables.items()},
    }
    print(machine()["cpu"])
    if not quick:
        stored = {**result, "peers": {name: version(name) for name in PEERS}}
        print(store("projection", stored, command="python -m benchmarks.projection", seeds=[SEED]))
    print_result(result)


if __name__ == "__main__":
    main()

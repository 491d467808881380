"""Environment steps per second of the inventory chain, beside OR-Gym's own environment on one core.

``python -m benchmarks.env_throughput [--quick]`` plays the default chain with random orders drawn beforehand,
episode after episode with every reset counted, in one process and thread. Times are CPU time, which a busy
neighbour disturbs least; the environments take turns, round after round, and the median round is reported.
OR-Gym's environment has its old interface, draws its own demand, and is called without our adapter; ours are
called as a learner would, with infos and checked actions.

Keys of the last line, in environment steps per second of CPU time:
    steps_per_second: ``vector_1``, ``vector_64``, ``vector_4096`` (the vectorised class with N chains; a step
        of N chains counts N), ``single`` (the Gymnasium class), ``or_gym`` (the original), ``dynamics_4096``
        (the pure function alone).
    single_over_or_gym, vector_4096_over_or_gym: ratios of these.
"""

from __future__ import annotations

import os

# Before NumPy is imported: its libraries read these once.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.common import machine, print_result, store
from envs.adapters.or_gym import make_original, numpy_global_generator_kept
from envs.inventory import DEFAULT, MultiEchelonInventory, MultiEchelonInventoryVector
from envs.inventory.dynamics import initial_state, step

SEED = 0
SIZES = (1, 64, 4096)


def vector_player(size: int) -> Callable[[], int]:
    """Plays an episode of `size` chains and the reset, which is a step of its own; returns its steps."""
    env = MultiEchelonInventoryVector(size)
    env.reset(seed=SEED)
    orders = np.random.default_rng(SEED).uniform(0, 40, (DEFAULT.periods, size, DEFAULT.stages))

    def play() -> int:
        for n in range(DEFAULT.periods):
            env.step(orders[n])
        env.step(orders[0])  # the automatic reset
        return size * DEFAULT.periods

    return play


def single_player() -> Callable[[], int]:
    """Plays an episode of the Gymnasium class."""
    env = MultiEchelonInventory()
    env.reset(seed=SEED)
    orders = np.random.default_rng(SEED).uniform(0, 40, (DEFAULT.periods, DEFAULT.stages))

    def play() -> int:
        env.reset()
        for n in range(DEFAULT.periods):
            env.step(orders[n])
        return DEFAULT.periods

    return play


def or_gym_player() -> Callable[[], int]:
    """Plays an episode of OR-Gym's own environment, Poisson demand from NumPy's global generator."""
    env = make_original(DEFAULT, dist=1)
    orders = np.random.default_rng(SEED).uniform(0, 40, (DEFAULT.periods, DEFAULT.stages))

    def play() -> int:
        env.reset()
        for n in range(DEFAULT.periods):
            env.step(orders[n])
        return DEFAULT.periods

    return play


def dynamics_player(size: int) -> Callable[[], int]:
    """Plays an episode of the pure function, demand drawn beforehand."""
    generator = np.random.default_rng(SEED)
    orders = generator.uniform(0, 40, (DEFAULT.periods, size, DEFAULT.stages))
    demand = generator.poisson(DEFAULT.demand_mean, (DEFAULT.periods, size)).astype(np.float64)

    def play() -> int:
        state = initial_state(DEFAULT, size)
        for n in range(DEFAULT.periods):
            state = step(DEFAULT, state, orders[n], demand[n]).state
        return size * DEFAULT.periods

    return play


def rate(play: Callable[[], int], seconds: float) -> float:
    """Steps per second over at least `seconds` [s of CPU time] and one episode."""
    steps, started = 0, time.process_time()
    while (elapsed := time.process_time() - started) < seconds or not steps:
        steps += play()
    return steps / elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="shorter and fewer rounds, within 60 s")
    quick = parser.parse_args().quick
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rounds, seconds = (3, 0.5) if quick else (9, 2.0)

    started = time.perf_counter()
    with numpy_global_generator_kept():
        players = {f"vector_{n}": vector_player(n) for n in SIZES}
        players |= {
            "single": single_player(),
            "or_gym": or_gym_player(),
            "dynamics_4096": dynamics_player(4096),
        }
        for play in players.values():
            play()
        measured: dict[str, list[float]] = {name: [] for name in players}
        for _ in range(rounds):
            for name, play in players.items():
                measured[name].append(rate(play, seconds))
    speeds = {name: round(statistics.median(values)) for name, values in measured.items()}
    payload: dict[str, Any] = {
        "steps_per_second": speeds,
        "single_over_or_gym": speeds["single"] / speeds["or_gym"],
        "vector_4096_over_or_gym": speeds["vector_4096"] / speeds["or_gym"],
        "rounds": rounds,
        "seconds_per_round": seconds,
        "quick": quick,
        "seconds": time.perf_counter() - started,
        "cores_used": machine()["cores_used"],
    }
    for name, speed in speeds.items():
        print(f"{name:>14} {speed:>12,} steps/s")
    if not quick:
        store("env_throughput", payload, "python -m benchmarks.env_throughput", [SEED])
    print_result(payload)


if __name__ == "__main__":
    main()

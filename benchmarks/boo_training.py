"""Training of BOO and its baselines for benchmarks: a curve of what the policy earns on held-out instances."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from algorithms.boo.config import BOOConfig
from algorithms.boo.writer import FILE, CutWriter
from algorithms.common import checkpoint

Validate = Callable[[CutWriter], dict[str, float]]


def train(
    config: BOOConfig,
    episodes: int,
    validate: Validate,
    points: int,
    folder: Path,
    at: tuple[float, ...] = (),
) -> dict[str, Any]:
    """Train for a number of episodes; store the policy, and how it fared on the way.

    Args:
        validate: figures of a policy on held-out instances. points: how often it is asked, the beginning not counted.
        folder: gets ``policy/`` (a sealed checkpoint for `CutWriter`), ``policy_<fraction>/`` for each fraction of
            `at`, and ``curve.json``.

    Returns:
        What ``curve.json`` holds: ``points``, a list of figures with ``episodes`` and training ``seconds``; ``seconds``
        in all; ``plans`` checked and ``infeasible``, in training.
    """
    folder.mkdir(parents=True, exist_ok=True)
    algorithm = config.build_algo()
    try:
        curve = [{"episodes": 0, "seconds": 0.0, **validate(algorithm.writer())}]
        played, seconds, master, learned = 0, 0.0, {}, {}
        kept = sorted(at)
        while played < episodes:
            began = time.perf_counter()
            result = algorithm.train()
            seconds += time.perf_counter() - began
            played = sum(record.count for record in algorithm.episodes.finished)
            learned = result["learners"]["default_policy"]
            master = {k: float(v) for k, v in result["env_runners"]["master"].items()}
            while kept and played >= kept[0] * episodes:
                _keep(algorithm.writer(), folder / f"policy_{kept.pop(0):g}")
            if played >= len(curve) * episodes / points:
                point = {
                    "episodes": played,
                    "seconds": seconds,
                    "training_return": algorithm.episodes.finished[-1].reward,
                    "master_seconds": master["seconds"],
                    "master_seconds_p95": master["seconds_p95"],
                    "master_gap": master.get("gap", 0.0),
                    **{k: float(learned[k]) for k in ("kl", "clipped_fraction", "entropy")},
                    **validate(algorithm.writer()),
                }
                curve.append(point)
                print(json.dumps({k: round(v, 4) for k, v in point.items()}), flush=True)
        _keep(algorithm.writer(), folder / "policy")
        plans = result["env_runners"]["plans"]
        record = {
            "points": curve,
            "seconds": seconds,
            "episodes": played,
            "plans": int(plans["checked"]),
            "infeasible": int(plans["infeasible"]),
        }
    finally:
        algorithm.stop()
    (folder / "curve.json").write_text(json.dumps(record, indent=1))
    return record


def _keep(writer: CutWriter, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    writer.save(folder)
    checkpoint.seal(folder)


def regret(points: list[dict[str, float]], key: str) -> float:
    """The area of ``1 - performance`` over training, by the trapezoidal rule, with its length taken as 1."""
    total = 0.0
    for before, after in pairwise(points):
        width = after["episodes"] - before["episodes"]
        total += width * (1.0 - 0.5 * (before[key] + after[key]))
    return total / points[-1]["episodes"]


def copy_policy(source: Path, target: Path) -> None:
    """Store the policy of `source` for quick runs."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    shutil.copy(source / FILE, target / FILE)
    checkpoint.seal(target)

"""What every benchmark shares: the machine, the versions, a stored result and the last line.

A full run stores ``benchmarks/results/NAME.json``; both kinds of run end with one JSON object on one line.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"

PACKAGES = (
    "cyipopt", "daqp", "gymnasium", "highspy", "numba", "numpy", "omlt", "pyomo", "pyscipopt", "qpsolvers",
    "ray", "scipy", "torch",
)  # fmt: skip


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """The machine: CPU model, its cores, the cores that this process may use, memory [GiB]."""
    try:
        usable = len(os.sched_getaffinity(0))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):  # macOS has no affinity
        usable, memory = os.cpu_count() or 1, float("nan")
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "cores_used": usable,
        "memory_gib": round(memory, 1),
        "system": platform.system(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages whose speed is measured, where they are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def local_cluster(**environment: str) -> Any:
    """A Ray of two CPUs whose workers find this checkout, one thread each; returns the ``ray`` module."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray

    variables = {
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        "OMP_NUM_THREADS": "1",
        **environment,
    }
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": variables},
    )
    return ray


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} does not belong in a benchmark's result")


def store(name: str, payload: Mapping[str, Any], command: str, seeds: Sequence[int]) -> Path:
    """Write ``results/NAME.json``: figures, command, seeds, versions, machine and date; returns the path."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    record = {
        "figures": dict(payload),
        "command": command,
        "seeds": list(seeds),
        "versions": versions(),
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    path.write_text(json.dumps(record, indent=1, default=_plain) + "\n")
    return path


def print_result(payload: Mapping[str, Any]) -> None:
    """Print the figures as one JSON object on one line: the last line of every benchmark."""
    print(json.dumps(dict(payload), default=_plain), flush=True)

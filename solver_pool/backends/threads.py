"""Threads for compiled kernels that release the interpreter's lock."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache


def available() -> int:
    """Threads this process may use: OMP_NUM_THREADS if set (Ray sets it), else the cores it is bound to."""
    setting = os.environ.get("OMP_NUM_THREADS", "")
    return int(setting) if setting.isdigit() and int(setting) > 0 else len(os.sched_getaffinity(0))


def in_slices(run: Callable[[slice], object], size: int, smallest: int) -> None:
    """Call ``run`` on consecutive slices of ``range(size)``, of `smallest` or more, one for each thread."""
    count = min(available(), max(1, size // smallest))
    if count == 1:
        run(slice(0, size))
        return
    edges = [size * i // count for i in range(count + 1)]
    list(_executor(available()).map(run, [slice(a, b) for a, b in itertools.pairwise(edges)]))


@lru_cache(maxsize=1)
def _executor(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="kernel")

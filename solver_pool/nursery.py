"""The two processes behind a worker: a nursery that has imported everything, and the solver process it forks.

Importing solvers and loading compiled kernels takes seconds, a fork takes milliseconds. So the nursery does the
former once and never solves anything that starts threads (forking those hangs), and whenever the worker
asks, it forks a solver process, which meets the native code. A crash, a hang or a leak ends with that process.

Messages from the worker are pickled tuples ``(verb, ...)``; pipes that close end both processes.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import mmap
import os
import pickle
import signal
import sys
import time
from multiprocessing import reduction
from multiprocessing.connection import Connection, Pipe
from typing import Any

from solver_pool.backends import BACKENDS, solve
from solver_pool.options import SolveOptions
from solver_pool.solution import Status
from solver_pool.tasks import Outcome, Task, forget_critic, learn_critic, sample, solve_task
from solver_pool.worker import PROGRESS

logger = logging.getLogger(__name__)

COMPILED = ("interior_point", "branch_and_bound", "active_set", "knapsack")
"""Backends of compiled kernels: they start no threads, so the nursery loads them by solving a sample."""
FLUSH_SECONDS = 0.005
"""[s] Answers are sent back together within this time: small solves are not slowed by messages."""


def main(descriptor: int) -> None:
    """The nursery: load backends and fork solver processes for the worker at the other end of a pipe."""
    worker = Connection(descriptor)
    children: set[int] = set()
    killed: set[int] = set()
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            verb, *arguments = worker.recv()
            if verb == "load":
                worker.send(_load(*arguments))
            elif verb == "killed":
                children -= _ended(children, killed, arguments[0])
                worker.send(arguments[0] in killed)
            else:
                pipe, memory = reduction.recv_handle(worker), reduction.recv_handle(worker)
                pid = os.fork()
                if pid == 0:
                    worker.close()
                    _solver_process(pipe, memory)
                os.close(pipe)
                os.close(memory)
                children = (children - _ended(children, killed)) | {pid}
                worker.send(pid)
    for child in children - _ended(children, killed):  # the worker is gone: what still runs is nobody's
        os.kill(child, signal.SIGKILL)


def _ended(children: set[int], killed: set[int], awaited: int = 0) -> set[int]:
    """Which solver processes have ended; those that SIGKILL ended are added to `killed`.

    Args:
        awaited: one that is known to be ending, and is waited for up to a second.
    """
    ended, patience = set(), time.monotonic() + 1.0
    for child in children:
        pid, status = os.waitpid(child, os.WNOHANG)
        while child == awaited and not pid and time.monotonic() < patience:
            time.sleep(0.002)
            pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            ended.add(child)
            if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
                killed.add(child)
    return ended


def _load(name: str, pickled: bytes) -> str:
    """Load a backend; returns why it cannot be used here, or nothing."""
    try:
        entry: tuple[str, tuple[type, ...]] = pickle.loads(pickled)
        BACKENDS[name] = entry
        importlib.import_module(entry[0])
    except ImportError as error:
        return f"{type(error).__name__}: {error}"
    problem = sample(entry[1][0])
    if problem is None:
        return ""
    if name in COMPILED:
        solve_task(Task(name, problem, 0), SolveOptions(backend=name), None)
        return ""
    # Native libraries are imported by the first solve. A process of its own finds out which they are.
    here, there = Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        _probe(name, problem, there)
    there.close()
    try:
        modules, reason = here.recv()
    except EOFError:  # the sample crashed; the problems to come will tell
        modules, reason = [], ""
    os.waitpid(pid, 0)
    for module in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    return str(reason)


def _probe(name: str, problem: Any, answer: Any) -> None:
    before, reason = set(sys.modules), ""
    try:
        solve(problem, SolveOptions(backend=name))
    except ImportError as error:
        reason = f"{type(error).__name__}: {error}"
    except Exception:
        logger.warning("backend %s failed on its sample", name, exc_info=True)
    answer.send(([module for module in sys.modules if module not in before], reason))
    os._exit(0)


def _solver_process(pipe: int, memory: int) -> None:
    """Solve what comes through `pipe` until it closes, noting progress in `memory`; does not return."""
    worker, progress = Connection(pipe), mmap.mmap(memory, PROGRESS.size)
    try:
        while True:
            verb, *arguments = worker.recv()
            if verb == "learn":
                learn_critic(arguments[0], worker.recv_bytes())
            elif verb == "forget":
                forget_critic(arguments[0])
            else:
                _solve(worker, progress, *arguments)
    except (EOFError, ConnectionError):
        os._exit(0)
    except BaseException:
        logger.exception("a solver process failed outside a solve")
        os._exit(1)


def _solve(
    worker: Connection,
    progress: mmap.mmap,
    options: bytes,
    budget: float | None,
    tasks: list[tuple[int, bytes]],
) -> None:
    """Solve numbered tasks in order and send ``(numbers, pickled [(number, outcome)])`` back in a few messages."""
    common: SolveOptions = pickle.loads(options)
    ends = None if budget is None else time.monotonic() + budget
    done: list[tuple[int, Outcome]] = []
    flushed = time.monotonic()
    for number, data in tasks:
        PROGRESS.pack_into(progress, 0, time.monotonic(), number)
        task: Task = pickle.loads(data)
        done.append((number, solve_task(task, common, ends)))
        if time.monotonic() - flushed >= FLUSH_SECONDS:
            _send(worker, done)
            done, flushed = [], time.monotonic()
    if done:
        _send(worker, done)


def _send(worker: Connection, done: list[tuple[int, Outcome]]) -> None:
    try:
        data = pickle.dumps(done, protocol=5)
    except Exception as error:  # an answer that holds something native
        text = f"its answer cannot be sent back: {error}"
        data = pickle.dumps([(n, _unsent(outcome, text)) for n, outcome in done], protocol=5)
    worker.send([number for number, _ in done])
    worker.send_bytes(data)


def _unsent(outcome: Outcome, message: str) -> Outcome:
    try:
        pickle.dumps(outcome)
    except Exception:
        from solver_pool.solution import Solution

        return Outcome(Solution.failed(Status.ERROR, outcome.answer.backend, message))
    return outcome

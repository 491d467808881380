"""The worker: an actor that keeps a solver process, watches over it, and replaces it.

The actor itself never calls a solver, so it lives on when one crashes or hangs: it kills the solver process at
the time limit plus grace, whatever that process is doing, and the nursery forks the next within milliseconds.
The program that was being solved is reported lost; the others of its chunk are solved all the same.

This file imports neither Ray (`solver_pool.actors` makes the class an actor) nor NumPy, so an actor starts fast.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import reduction
from multiprocessing.connection import Pipe
from typing import Any

KEPT_CRITICS = 4
"""Critics that a solver process keeps unpickled: a few networks, or versions of one."""
PROGRESS = struct.Struct("dq")
"""Memory shared with a solver process: monotonic time [s] at which its current task began, and its number."""


@dataclass(frozen=True)
class Parcel:
    """A chunk of tasks on its way to a worker.

    Attributes:
        tasks: each pickled by `solver_pool.tasks.pack`.
        allowances: [s] that each may take, without grace; infinite without a time limit.
        options: pickled `SolveOptions` of all tasks.
        budget: [s] for all tasks together, or None.
        versions: of the critics that come with the parcel.
    """

    tasks: tuple[bytes, ...]
    allowances: tuple[float, ...]
    options: bytes
    budget: float | None
    versions: tuple[str, ...]


@dataclass
class Report:
    """What came of a parcel.

    Attributes:
        outcomes: pickled lists of ``(number of the task, Outcome)``.
        lost: number of the task, whether it hung (else its process died), and how.
        killed: numbers of tasks whose process was ended by a SIGKILL that this worker did not send: by the
            kernel, short of memory, or by an operator. No native solver does that to itself.
        recycled: solver processes that were replaced after `recycle_after` tasks.
        abandoned: the caller asked to stop; tasks may be missing.
    """

    outcomes: list[bytes] = field(default_factory=list)
    lost: list[tuple[int, bool, str]] = field(default_factory=list)
    killed: list[int] = field(default_factory=list)
    recycled: int = 0
    abandoned: bool = False


class SolverWorker:
    """Solves one parcel a call. `abandon` may be called meanwhile, from another thread.

    Args:
        grace: [s] past its allowance after which a task counts as hung.
        recycle_after: tasks after which the solver process is replaced; 0 means never.
    """

    def __init__(self, grace: float, recycle_after: int) -> None:
        self._grace = grace
        self._recycle_after = recycle_after
        self._backends: dict[str, tuple[bytes, str]] = {}
        self._nursery: _Nursery | None = None
        self._process: _Process | None = None
        self._abandoned = False

    def prepare(self, name: str, entry: bytes) -> str:
        """Load backend `name`, so that no time limit counts its import or compilation.

        Args:
            name: of the backend.
            entry: the caller's ``BACKENDS[name]``, pickled, so that a backend registered there is known here.

        Returns:
            Why it cannot be used on this node, such as a missing library, or nothing.
        """
        known = self._backends.get(name)
        if known is None or known[0] != entry:
            reason = self._open().load(name, entry)
            self._backends[name] = entry, reason
            self._dismiss()  # it was forked without the backend
        if self._process is None:
            self._process = self._open().fork()
        return self._backends[name][1]

    def solve(self, parcel: Parcel, *critics: Any) -> Report:
        """Solve a parcel; never raises for what solvers do.

        Args:
            parcel: the tasks.
            critics: for each of ``parcel.versions``, the pickled critic as an array of bytes.
        """
        report, self._abandoned = Report(), False
        ends = None if parcel.budget is None else time.monotonic() + parcel.budget
        todo = list(range(len(parcel.tasks)))
        while todo and not self._abandoned:
            if self._process is not None and 0 < self._recycle_after <= self._process.solves:
                fresh = self._open().fork()
                self._process.end()
                self._process, report.recycled = fresh, report.recycled + 1
            if self._process is None:
                self._process = self._open().fork()
            todo = self._attempt(self._process, parcel, critics, todo, ends, report)
        report.abandoned = self._abandoned
        return report

    def abandon(self) -> None:
        """End the solve under way: the caller does not want it any more."""
        self._abandoned = True
        if self._process is not None:
            self._process.kill()

    def address(self) -> tuple[int, int]:
        """The process ids of the actor and of its solver process (0 if there is none yet)."""
        return os.getpid(), 0 if self._process is None else self._process.pid

    def _attempt(
        self,
        process: _Process,
        parcel: Parcel,
        critics: Sequence[Any],
        todo: list[int],
        ends: float | None,
        report: Report,
    ) -> list[int]:
        """Let `process` solve the tasks `todo`; returns those still to do after it was lost."""
        missing = dict.fromkeys(todo)
        budget = None if ends is None else ends - time.monotonic()
        hung = outside = False
        try:
            process.teach(parcel.versions, critics)
            tasks = [(number, parcel.tasks[number]) for number in todo]
            process.begin(todo[0])
            process.send(("solve", parcel.options, budget, tasks))
            while missing:
                began, number = process.progress()
                due = began + parcel.allowances[number] + self._grace
                if ends is not None:
                    due = min(due, max(ends, began) + self._grace)
                wait = due - time.monotonic()
                if wait <= 0 and process.progress() == (began, number):
                    hung = True
                    break
                if process.pipe.poll(min(max(wait, 0.0), 3600.0)):
                    done = process.pipe.recv()
                    report.outcomes.append(process.pipe.recv_bytes())
                    process.solves += len(done)
                    for one in done:
                        del missing[one]
        except (EOFError, OSError):  # the solver process is gone
            outside = not self._abandoned and self._nursery is not None and self._nursery.killed(process.pid)
        if not missing:
            return []
        _, number = process.progress()
        process.kill()
        self._process = None
        if not self._abandoned:
            number = number if number in missing else next(iter(missing))
            del missing[number]
            if outside:
                report.killed.append(number)
                return list(missing)
            reason = "no answer within its time limit" if hung else "its solver process died"
            report.lost.append((number, hung, reason))
        return list(missing)

    def _open(self) -> _Nursery:
        if self._nursery is None or not self._nursery.alive:
            self._nursery = _Nursery()
            for name, (entry, _) in self._backends.items():
                self._nursery.load(name, entry)
        return self._nursery

    def _dismiss(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process = None


class _Process:
    """A solver process, as the worker sees it."""

    def __init__(self, pid: int, pipe: Any, memory: mmap.mmap) -> None:
        self.pid = pid
        self.pipe = pipe
        self.solves = 0
        self._memory = memory
        self._known: OrderedDict[str, None] = OrderedDict()

    def send(self, message: tuple[Any, ...]) -> None:
        self.pipe.send(message)

    def begin(self, number: int) -> None:
        """Note that the process will start with task `number`, until it says so itself."""
        PROGRESS.pack_into(self._memory, 0, time.monotonic(), number)

    def progress(self) -> tuple[float, int]:
        """When the current task began (monotonic time [s]) and its number."""
        began, number = PROGRESS.unpack_from(self._memory, 0)
        return began, number

    def teach(self, versions: Sequence[str], critics: Sequence[Any]) -> None:
        """Send the critics that the process does not know, and have it forget those used longest ago."""
        for version, critic in zip(versions, critics, strict=True):
            if version not in self._known:
                self.send(("learn", version))
                self.pipe.send_bytes(memoryview(critic))
            self._known[version] = None
            self._known.move_to_end(version)
        while len(self._known) > max(KEPT_CRITICS, len(versions)):
            self.send(("forget", self._known.popitem(last=False)[0]))

    def end(self) -> None:
        """Let the process end by itself."""
        self.pipe.close()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class _Nursery:
    """The process that forks solver processes, as the worker sees it."""

    def __init__(self) -> None:
        self._pipe, there = Pipe()
        code = f"from solver_pool.nursery import main; main({there.fileno()})"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._popen = subprocess.Popen(
            [sys.executable, "-c", code], pass_fds=[there.fileno()], stdin=subprocess.DEVNULL, env=environment
        )
        there.close()

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def load(self, name: str, entry: bytes) -> str:
        self._pipe.send(("load", name, entry))
        return str(self._pipe.recv())

    def killed(self, pid: int) -> bool:
        """Whether SIGKILL ended a solver process, which is gone."""
        if not self.alive:
            return False
        self._pipe.send(("killed", pid))
        return bool(self._pipe.recv())

    def fork(self) -> _Process:
        here, there = Pipe()
        with tempfile.TemporaryFile() as file:
            file.truncate(PROGRESS.size)
            memory = mmap.mmap(file.fileno(), PROGRESS.size)
            self._pipe.send(("fork",))
            reduction.send_handle(self._pipe, there.fileno(), self._popen.pid)
            reduction.send_handle(self._pipe, file.fileno(), self._popen.pid)
            there.close()
            return _Process(self._pipe.recv(), here, memory)

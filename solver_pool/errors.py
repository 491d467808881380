"""Exceptions of the solver pool. Each names the field, the value and the remedy."""

from __future__ import annotations


class SolverPoolError(Exception):
    """Base of every error that the pool raises on purpose."""


class InvalidProblem(SolverPoolError, ValueError):
    """A problem whose data cannot be solved as stated.

    Attributes:
        field: name of the offending field, such as ``"h"``.
        problem: what found it, such as ``"contains NaN at index (3, 1)"``.
        remedy: what the caller can do about it.
    """

    def __init__(self, field: str, problem: str, remedy: str) -> None:
        super().__init__(f"{field}: {problem}. {remedy}")
        self.field = field
        self.problem = problem
        self.remedy = remedy

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.field, self.problem, self.remedy)


class UnsupportedProblem(SolverPoolError, TypeError):
    """No backend, or not the one asked for, takes this kind of problem."""


class BackendUnavailable(SolverPoolError, ImportError):
    """A backend's native library is missing; the message says how to install it."""

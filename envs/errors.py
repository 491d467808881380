"""The one exception of the environments: it names the field, what is wrong with its value, and the remedy."""

from __future__ import annotations


class InvalidSetting(ValueError):
    """A setting, action or demand that an environment cannot use.

    Attributes:
        field: its name, such as ``"lead_times"``.
        problem: what is wrong, with the value.
        remedy: what the caller can do about it.
    """

    def __init__(self, field: str, problem: str, remedy: str) -> None:
        super().__init__(f"{field}: {problem}. {remedy}")
        self.field = field
        self.problem = problem
        self.remedy = remedy

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        # The default would call the class with the joined message, and a Ray worker's error would be lost.
        return type(self), (self.field, self.problem, self.remedy)

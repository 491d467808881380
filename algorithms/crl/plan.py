"""What planning answers, whichever engine planned. No Ray."""

from __future__ import annotations

from dataclasses import dataclass

from envs.tabular import Array


@dataclass(frozen=True, eq=False)
class Plan:
    """An optimistic (or, for a ball of one kernel, an optimal) policy.

    Attributes:
        policy: ``pi (H, S, A)``; uniform in states that the plan does not reach.
        value, costs: of the plan in the kernel that it chose. Optimistic: no estimate of what the policy is worth.
        occupation: ``q (H, S, A)`` in that kernel.
        seconds: [s] that planning took, with the building of what was solved.
        solves: extended value iterations, or iterations of the simplex method.
    """

    policy: Array
    value: float
    costs: Array
    occupation: Array
    seconds: float
    solves: int

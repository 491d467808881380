"""Primal-dual Q-learning with finite horizon. No Ray.

With prices ``lambda`` the reward is ``r - sum_i lambda_i c_i``; Q-learning follows it, and after each episode the
prices of budgets that it exceeded rise. Rates ``(H + 1) / (H + n)`` and a bonus for rare pairs as in Jin, Allen-Zhu,
Bubeck and Jordan, Is Q-learning provably efficient?, 2018; Hoeffding's bonus, scaled down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algorithms.crl.agent import refuse_hopeless
from envs.errors import InvalidSetting
from envs.tabular import Array, Ints, Task


@dataclass(frozen=True)
class LagrangianSettings:
    """How prices and values move.

    Attributes:
        price_rate: of the prices, for each unit that an episode costs beyond its budget.
        bonus: times ``sqrt(H / n)`` is added to what a pair that was seen n times is worth.
        average_rate: of the averaging over episodes of the greedy policies; their average is deployed, as a single
            greedy policy does not randomise, and prices oscillate.
    """

    price_rate: float = 0.05
    bonus: float = 0.1
    average_rate: float = 0.02

    def __post_init__(self) -> None:
        for name in ("price_rate", "average_rate"):
            if not 0 < getattr(self, name) <= 1:
                raise InvalidSetting(name, f"is {getattr(self, name)}", "Choose a rate in (0, 1].")
        if not self.bonus >= 0:
            raise InvalidSetting("bonus", f"is {self.bonus}", "Give zero or more.")


def table_shapes(task: Task) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name, shape and type of what is learned."""
    pairs = (task.horizon, *task.shape)
    return {
        "values": (pairs, "float64"),
        "visits": (pairs, "int64"),
        "average": (pairs, "float64"),
        "prices": ((task.constraints,), "float64"),
    }


class LagrangianAgent:
    """Learns from episodes like `OptimisticAgent`, without a model.

    Args:
        tables: arrays of `table_shapes`, written in place; None makes them.

    Attributes:
        planned, infeasible, plan_seconds: 0, as it solves nothing.

    Raises:
        InvalidSetting: if no kernel and no policy keep the budgets.
    """

    planned = infeasible = 0
    plan_seconds = 0.0

    def __init__(
        self,
        task: Task,
        settings: LagrangianSettings = LagrangianSettings(),
        tables: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        refuse_hopeless(task)
        self.task, self.settings = task, settings
        if tables is None:
            tables = {name: np.zeros(shape, dtype=kind) for name, (shape, kind) in table_shapes(task).items()}
        self._values, self._visits = tables["values"], tables["visits"]
        self._average, self._prices = tables["average"], tables["prices"]

    def policy(self) -> Array:
        """Greedy under the present prices, with the bonus; ``(H, S, A)``."""
        greedy = self._optimistic().argmax(axis=2)
        return np.asarray(np.eye(self.task.shape[1])[greedy])

    def deployed(self) -> Array:
        """The average of the greedy policies; uniform before the first episode."""
        mass = self._average.sum(axis=2, keepdims=True)
        return np.where(mass > 0, self._average / np.where(mass > 0, mass, 1.0), 1.0 / self._average.shape[2])

    def count(self, states: Ints, actions: Ints) -> None:
        """Learn from an episode, ``(H + 1,)`` and ``(H,)``: its policy, its transitions, its costs."""
        task, settings, horizon = self.task, self.settings, self.task.horizon
        self._average *= 1.0 - settings.average_rate
        self._average += settings.average_rate * self.policy()
        priced = task.rewards - np.tensordot(self._prices, task.costs, axes=1)
        for h in range(horizon - 1, -1, -1):
            s, a, t = states[h], actions[h], states[h + 1]
            self._visits[h, s, a] += 1
            rate = (horizon + 1) / (horizon + self._visits[h, s, a])
            after = 0.0 if h + 1 == horizon else self._values[h + 1, t].max()
            self._values[h, s, a] += rate * (priced[s, a] + after - self._values[h, s, a])
        spent = task.costs[:, states[:-1], actions].sum(axis=1)
        self._prices += settings.price_rate * (spent - task.budgets)
        np.maximum(self._prices, 0.0, out=self._prices)

    def _optimistic(self) -> Array:
        bonus = self.settings.bonus * np.sqrt(self.task.horizon / np.maximum(self._visits, 1))
        return np.where(self._visits > 0, self._values + bonus, self.task.horizon)

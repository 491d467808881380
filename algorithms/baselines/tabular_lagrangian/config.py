"""The Lagrangian learner as an RLlib algorithm: Online-CRL's training with another agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from algorithms.baselines.tabular_lagrangian.agent import LagrangianAgent, LagrangianSettings, table_shapes
from algorithms.crl.config import Tables, TabularConfig
from envs.errors import InvalidSetting
from envs.tabular import Task
from solver_pool.pool import SolverPool


class TabularLagrangianConfig(TabularConfig):
    """Attributes that `training` sets: ``price_rate``, ``bonus`` and ``average_rate`` of `LagrangianSettings`."""

    def __init__(self, algo_class: type | None = None) -> None:
        from algorithms.baselines.tabular_lagrangian.tabular_lagrangian import TabularLagrangian

        super().__init__(algo_class or TabularLagrangian)
        default = LagrangianSettings()
        self.price_rate, self.bonus, self.average_rate = (
            default.price_rate,
            default.bonus,
            default.average_rate,
        )

    @classmethod
    def parameters(cls) -> tuple[str, ...]:
        return (*super().parameters(), "price_rate", "bonus", "average_rate")

    def settings(self) -> LagrangianSettings:
        """How the agent learns."""
        return LagrangianSettings(self.price_rate, self.bonus, self.average_rate)

    def validate(self) -> None:
        super().validate()
        try:
            self.settings()
        except InvalidSetting as error:
            self._value_error(str(error))

    def tables(self, task: Task) -> Tables:
        return table_shapes(task)

    def make_agent(self, task: Task, tables: Mapping[str, NDArray[Any]], pool: SolverPool) -> LagrangianAgent:
        return LagrangianAgent(task, self.settings(), tables)

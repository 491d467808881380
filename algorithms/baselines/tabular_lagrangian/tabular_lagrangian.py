"""The Lagrangian learner: play greedily, learn, move the prices."""

from __future__ import annotations

from algorithms.baselines.tabular_lagrangian.config import TabularLagrangianConfig
from algorithms.crl.online_crl import OnlineCRL


class TabularLagrangian(OnlineCRL):
    """Primal-dual Q-learning in place of the plan; see `LagrangianAgent`."""

    config: TabularLagrangianConfig  # type: ignore[assignment]

    @classmethod
    def get_default_config(cls) -> TabularLagrangianConfig:  # type: ignore[override]
        return TabularLagrangianConfig()

"""How the paper's algorithms and what they are compared with run on tabular environments."""

from __future__ import annotations

from algorithms.baselines.tabular_lagrangian.config import TabularLagrangianConfig
from algorithms.crl.config import OnlineCRLConfig, OptimisticGMBLConfig, TabularConfig
from algorithms.crl.names import KINDS
from envs.errors import InvalidSetting


def preset(kind: str) -> TabularConfig:
    """One of `KINDS` on any environment.

    ``"online"`` and ``"generative"`` are the paper's algorithms with the radius of its curves, ``"online_valid"`` has
    the radius that guarantees; ``"certainty"`` plans without optimism, ``"uniform"`` explores without plan, and
    ``"lagrangian"`` has no model.

    Raises:
        InvalidSetting: if the kind is unknown.
    """
    if kind == "online":
        return OnlineCRLConfig().training(radius="author")
    if kind == "generative":
        return OptimisticGMBLConfig().training(radius="author")
    if kind == "online_valid":
        return OnlineCRLConfig().training(radius="mp")
    if kind == "certainty":
        return OnlineCRLConfig().training(radius="none")
    if kind == "uniform":
        return OnlineCRLConfig().training(radius="author", exploration="uniform")
    if kind == "lagrangian":
        return TabularLagrangianConfig()
    raise InvalidSetting("preset", f"{kind!r} is unknown", f"Choose one of: {', '.join(KINDS)}.")

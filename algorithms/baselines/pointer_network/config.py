"""The pointer network as an RLlib algorithm: BOO's training with another policy."""

from __future__ import annotations

from algorithms.baselines.pointer_network.policy import PointerPolicy
from algorithms.boo.config import BOOConfig


class PointerNetworkConfig(BOOConfig):
    """BOO's configuration with `PointerPolicy`, one selection an episode; for packings (seed 001, section 5.1)."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class)
        self.policy_class = PointerPolicy

    def validate(self) -> None:
        super().validate()
        if self.env_config.get("cuts", 2) != 1:
            self._value_error("env_config: 'cuts' must be 1; a selection is made in one episode's only step.")

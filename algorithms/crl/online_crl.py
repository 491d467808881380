"""Online-CRL: play each episode with the plan that is best in the best model that the counts allow.

Source: seed 003, Algorithm 2; specification online_crl, section 5.
"""

from __future__ import annotations

from algorithms.crl.algorithm import TabularAlgorithm, transitions
from algorithms.crl.config import OnlineCRLConfig


class OnlineCRL(TabularAlgorithm):
    """Algorithm 2: plan, roll out, count."""

    config: OnlineCRLConfig

    @classmethod
    def get_default_config(cls) -> OnlineCRLConfig:
        return OnlineCRLConfig()

    def training_step(self) -> None:
        """`episodes_per_iteration` episodes, one plan for each (for each round, with several runners)."""
        played = 0
        while played < self.config.episodes_per_iteration:
            self.hand_out(self.agent.policy())
            episodes = self.play()
            if not episodes:
                break
            for episode in episodes:
                self.agent.count(*transitions(episode))
            played += len(episodes)
        self.report()

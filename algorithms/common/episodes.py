"""The record of every training episode, kept with the algorithm and its checkpoints. No Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np


@dataclass
class EpisodeRecord:
    """One episode so far, or several that were played together.

    Attributes:
        reward: sum of the environment's rewards [reward units].
        length: steps.
        cost: sum over steps of the cost vector [cost units], one number for each constraint.
        distance_to_capacity: smallest seen in the episode for each stage, where the environment tells.
        unsafe_steps: executed actions that violated their rows, or plans their constraints, by independent check.
        count: episodes that the record stands for: `reward` and `length` are their means.
    """

    reward: float = 0.0
    length: int = 0
    cost: list[float] = field(default_factory=list)
    distance_to_capacity: list[float] = field(default_factory=list)
    unsafe_steps: int = 0
    count: int = 1

    def add(self, reward: float, info: Mapping[str, Any], unsafe: bool) -> None:
        """Add one step."""
        self.reward += float(reward)
        self.length += 1
        self.unsafe_steps += int(unsafe)
        if "cost" in info:
            cost = np.atleast_1d(info["cost"]).astype(float)
            self.cost = (cost + (np.asarray(self.cost) if self.cost else 0.0)).tolist()
        if "distance_to_capacity" in info:
            distance = np.atleast_1d(info["distance_to_capacity"]).astype(float)
            self.distance_to_capacity = (
                np.minimum(distance, self.distance_to_capacity).tolist()
                if self.distance_to_capacity
                else distance.tolist()
            )


class EpisodeLog:
    """Finished episodes in the order of their ends, and those under way."""

    def __init__(self) -> None:
        self.finished: list[EpisodeRecord] = []
        self._open: dict[str, EpisodeRecord] = {}

    def add(
        self,
        episode: str,
        rewards: Sequence[float],
        infos: Sequence[Mapping[str, Any]],
        unsafe: Sequence[bool],
        done: bool,
    ) -> None:
        """Append consecutive steps of `episode`; `done` says that its last step was among them."""
        record = self._open.setdefault(episode, EpisodeRecord())
        for reward, info, bad in zip(rewards, infos, unsafe, strict=True):
            record.add(reward, info, bad)
        if done:
            self.finished.append(self._open.pop(episode))

    def get_state(self) -> dict[str, Any]:
        return {
            "finished": [asdict(r) for r in self.finished],
            "open": {name: asdict(r) for name, r in self._open.items()},
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        self.finished = [EpisodeRecord(**r) for r in state["finished"]]
        self._open = {name: EpisodeRecord(**r) for name, r in state["open"].items()}

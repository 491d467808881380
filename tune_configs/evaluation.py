"""What an evaluation found: one row for each policy, as data, as JSON and as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from envs.statistics import clopper_pearson


@dataclass(frozen=True)
class PolicyResult:
    """One policy on fresh episodes, or the figures that somebody published for one.

    Attributes:
        name: for the table.
        reward, penalty: mean and standard deviation over episodes [money; units above capacity].
        rewards, penalties: of each episode; empty where only the mean is known.
        violations: periods in which a constraint was broken at any moment; None where unknown.
        steps: executed steps that were counted; 0 where unknown.
        ms_per_action: [ms], median of one decision at a time; None where unknown.
        solver: figures of the solves behind the actions; empty where nothing is solved.
        published: whether the figures are somebody else's.
    """

    name: str
    reward: tuple[float, float]
    penalty: tuple[float, float] | None = None
    rewards: list[float] = field(default_factory=list)
    penalties: list[float] = field(default_factory=list)
    violations: int | None = None
    steps: int = 0
    ms_per_action: float | None = None
    solver: dict[str, float] = field(default_factory=dict)
    published: bool = False

    @staticmethod
    def of(
        name: str,
        rewards: Sequence[float],
        penalties: Sequence[float],
        violations: int,
        steps: int,
        **more: Any,
    ) -> PolicyResult:
        """The row of a policy that was measured, from the figures of its episodes."""
        return PolicyResult(
            name,
            (float(np.mean(rewards)), float(np.std(rewards))),
            (float(np.mean(penalties)), float(np.std(penalties))),
            [float(r) for r in rewards],
            [float(p) for p in penalties],
            int(violations),
            int(steps),
            **more,
        )

    @property
    def bound(self) -> float | None:
        """Upper 95 % bound on the probability that a step violates (Clopper-Pearson, one-sided)."""
        if self.violations is None or not self.steps:
            return None
        return clopper_pearson(self.violations, self.steps)

    @property
    def cells(self) -> tuple[str, str, str, str, str]:
        """Reward, penalty, violations, bound and milliseconds, as text."""
        return (
            f"{self.reward[0]:.1f} ± {self.reward[1]:.1f}",
            "–" if self.penalty is None else f"{self.penalty[0]:.1f} ± {self.penalty[1]:.1f}",
            "–" if self.violations is None else f"{self.violations:,} of {self.steps:,}",
            "–" if self.bound is None else f"{100 * self.bound:.3g} %",
            "–" if self.ms_per_action is None else f"{self.ms_per_action:.2f}",
        )


COLUMNS = ("policy", "reward", "penalty [units]", "violating steps", "95 % bound", "ms per action")


@dataclass(frozen=True)
class Published:
    """Figures of others: deployment rows, and horizontal lines for the learning curve (label to reward)."""

    source: str
    deployment: tuple[PolicyResult, ...] = ()
    lines: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """Several policies on the same fresh episodes.

    Attributes:
        episodes, seed: of the evaluation; the seed is not the one of training.
        setting: what was played, in words.
        policies: one row each: the trained ones first, then references.
    """

    episodes: int
    seed: int
    setting: str
    policies: list[PolicyResult]

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1))

    @staticmethod
    def load(path: Path) -> Evaluation:
        """Read what `save` wrote."""
        data = json.loads(path.read_text())
        rows = [
            PolicyResult(
                **{**row, "reward": tuple(row["reward"]), "penalty": row["penalty"] and tuple(row["penalty"])}
            )
            for row in data.pop("policies")
        ]
        return Evaluation(**data, policies=rows)

    def table(self, published: Published | None = None) -> Table:
        """For the terminal, the published figures below the measured ones."""
        table = Table(
            title=f"{self.episodes} fresh episodes, seed {self.seed}, {self.setting}", title_justify="left"
        )
        for i, column in enumerate(COLUMNS):
            table.add_column(column, justify="right" if i else "left", no_wrap=i != 0)
        for row in self.policies:
            table.add_row(row.name, *row.cells)
        if published is not None and published.deployment:
            table.add_section()
            for row in published.deployment:
                table.add_row(row.name, *row.cells, style="dim")
        return table

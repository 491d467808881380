"""What an evaluation found: one row for each policy, as data, as JSON and as a table."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from envs.statistics import bootstrap_interval, clopper_pearson


@dataclass(frozen=True)
class PolicyResult:
    """One policy on fresh episodes, or the figures that somebody published for one.

    Attributes:
        name: for the table.
        reward, penalty: mean and standard deviation (NaN if unknown) over episodes, in the experiment's units.
        rewards, penalties: of each episode; empty where only the mean is known.
        violations: of those counted (steps or plans), how many broke a constraint; None where unknown.
        steps: that were counted; 0 where unknown.
        ms_per_action: [ms], median of one decision at a time; None where unknown.
        solver: figures of the solves behind the actions; empty where nothing is solved, and for references.
        published: whether the figures are somebody else's.
        more: further figures of each episode, by the names of their columns.
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
    more: dict[str, list[float]] = field(default_factory=dict)

    @staticmethod
    def of(
        name: str,
        rewards: Sequence[float],
        penalties: Sequence[float],
        violations: int,
        steps: int,
        **more: Any,
    ) -> PolicyResult:
        """The row of a policy that was measured, from the figures of its episodes; penalties may be none."""
        return PolicyResult(
            name,
            (float(np.mean(rewards)), float(np.std(rewards))),
            (float(np.mean(penalties)), float(np.std(penalties))) if len(penalties) else None,
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

    def ratio(self, reference: PolicyResult) -> tuple[float, float, float] | None:
        """The mean reward over that of `reference` and its 95 % interval.

        The interval is a bootstrap of pairs: both rewards of an episode are drawn together. Where several runs were
        put together, the mean over runs stands for an episode. None unless both played the same episodes, and where
        a reference that earns next to nothing leaves the ratio open.
        """
        n = len(reference.rewards)
        if not n or not self.rewards or len(self.rewards) % n:
            return None
        pairs = np.column_stack([np.reshape(self.rewards, (-1, n)).mean(axis=0), reference.rewards])
        with np.errstate(divide="ignore", invalid="ignore"):
            low, high = bootstrap_interval(pairs, np.random.default_rng(0), _quotient)
            mean = _quotient(pairs, 0)
        return (float(mean), float(low), float(high)) if np.isfinite([mean, low, high]).all() else None


def _quotient(pairs: Any, axis: int) -> Any:
    means = pairs.mean(axis=axis)
    return means[..., 0] / means[..., 1]


@dataclass(frozen=True)
class Columns:
    """What an experiment calls the figures of its `PolicyResult` rows, and how they are written.

    Attributes:
        reward, penalty: of an episode, with units; an empty `penalty` leaves the column out.
        digits: behind the point, of figures of episodes.
        violations: what is counted; empty leaves it out, with its bound. time: of what [ms].
        reference: the policy by whose reward the others' are divided in a column of their own; empty for none.
        note: what is counted and how, for the report.
    """

    reward: str = "reward"
    penalty: str = "penalty [units]"
    digits: int = 1
    violations: str = "violating steps"
    time: str = "ms per action"
    reference: str = ""
    note: str = ""

    def head(self, rows: Sequence[PolicyResult]) -> tuple[str, ...]:
        """Titles of the table of `rows`."""
        return (
            "policy",
            self.reward,
            *([f"over {self.reference} [95 %]"] if self.reference else []),
            *([self.penalty] if self.penalty else []),
            *_more(rows),
            *([self.violations, "95 % bound"] if self.violations else []),
            self.time,
        )

    def cells(self, row: PolicyResult, rows: Sequence[PolicyResult]) -> tuple[str, ...]:
        """A row of the table of the measured `rows`, as text; `row` may be a published one."""
        reference = next((r for r in rows if r.name == self.reference), None)
        ratio = None if reference is None or row is reference else row.ratio(reference)
        return (
            row.name,
            self.spread(row.reward),
            *(
                []
                if not self.reference
                else ["–"]
                if ratio is None
                else ["{:.3f} [{:.3f}, {:.3f}]".format(*ratio)]
            ),
            *([self.spread(row.penalty)] if self.penalty else []),
            *(
                self.spread(
                    (float(np.mean(values)), float(np.std(values)) if len(values) > 1 else math.nan)
                    if values
                    else None
                )
                for values in (row.more.get(name) for name in _more(rows))
            ),
            *(
                [
                    "–" if row.violations is None else f"{row.violations:,} of {row.steps:,}",
                    "–" if row.bound is None else f"{100 * row.bound:.3g} %",
                ]
                if self.violations
                else []
            ),
            "–" if row.ms_per_action is None else f"{row.ms_per_action:.2f}",
        )

    def spread(self, value: tuple[float, float] | None) -> str:
        """Mean ± standard deviation, as far as they are known."""
        if value is None:
            return "–"
        mean, std = value
        return f"{mean:.{self.digits}f}" + ("" if math.isnan(std) else f" ± {std:.{self.digits}f}")


def _more(rows: Sequence[PolicyResult]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.more))


@dataclass(frozen=True)
class Published:
    """Figures of others: deployment rows, and horizontal lines for the learning curve (label to reward).

    Attributes:
        comparable: whether rewards are on our scale, so that a figure may show them beside ours.
    """

    source: str
    deployment: tuple[PolicyResult, ...] = ()
    lines: tuple[tuple[str, float], ...] = ()
    comparable: bool = True


@dataclass(frozen=True)
class Evaluation:
    """Several policies on the same fresh episodes.

    Attributes:
        episodes, seed: of the evaluation; the seed is not the one of training.
        setting: what was played, in words.
        policies: one row each: the trained ones first, then references.
        columns: what their figures are called.
        drawing: what the experiment's own sections of the report draw, as plain data.
    """

    episodes: int
    seed: int
    setting: str
    policies: list[PolicyResult]
    columns: Columns = Columns()
    drawing: dict[str, Any] = field(default_factory=dict)

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
        return Evaluation(**{**data, "columns": Columns(**data.get("columns", {})), "policies": rows})

    def table(self, published: Published | None = None) -> Table:
        """For the terminal, the published figures below the measured ones."""
        table = Table(
            title=f"{self.episodes} fresh episodes, seed {self.seed}, {self.setting}", title_justify="left"
        )
        for i, column in enumerate(self.columns.head(self.policies)):
            title = "\n".join(textwrap.wrap(column, 16))
            table.add_column(title, justify="right" if i else "left", no_wrap=i != 0)
        for row in self.policies:
            table.add_row(*self.columns.cells(row, self.policies))
        if published is not None and published.deployment:
            table.add_section()
            for row in published.deployment:
                table.add_row(*self.columns.cells(row, self.policies), style="dim")
        return table

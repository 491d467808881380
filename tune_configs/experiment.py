"""What an experiment is: a module of this package with a `config` function. Finding one imports no Ray."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from envs.errors import InvalidSetting
from tune_configs.evaluation import Evaluation, Published
from tune_configs.runs import Record


class Section(NamedTuple):
    """What an experiment adds to a report: HTML below a title, and a note in plain text below that."""

    title: str
    body: str
    note: str


class Experiment(Protocol):
    """The names that a module defines to be an experiment.

    Attributes:
        TITLE: of the report.
        PRESETS: names that `config` knows, the default first.
        EPISODES: of a full training run.
        STOP: Tune's stopping rule for a full run: one metric of RLlib's results, and the number that ends the run.
        CHECKPOINT_EVERY: [s] of training between checkpoints, at least; 0 writes one after every iteration.
        EVALUATION_EPISODES: that each policy plays after training.
        FLAGS: of the command line that `evaluation` takes as further arguments.
        PUBLISHED: figures of others for comparison.
    """

    TITLE: str
    PRESETS: tuple[str, ...]
    EPISODES: int
    STOP: dict[str, int]
    CHECKPOINT_EVERY: float
    EVALUATION_EPISODES: int
    FLAGS: tuple[str, ...]
    PUBLISHED: Published

    def config(self, preset: str = ..., seed: int = ...) -> Any:
        """The `AlgorithmConfig` to train with. Raises InvalidSetting on an unknown preset."""
        ...

    def fit(self, config: Any, episodes: int) -> None:
        """Change the iterations of `config` so that they end with the last of so many episodes, or soon after."""
        ...

    def param_space(self, preset: str = ..., seeds: int = ..., rates: bool = ...) -> Any:
        """What a sweep searches, as an `AlgorithmConfig` with Tune's search spaces in it."""
        ...

    def evaluation(self, checkpoint: Path, episodes: int, seed: int, **flags: Any) -> Evaluation:
        """Deploy a checkpoint on fresh episodes. Needs no Ray."""
        ...

    def sections(self, records: Sequence[Record]) -> list[Section]:
        """What a report of these runs shows besides what all reports show."""
        ...


@dataclass(frozen=True)
class Goal:
    """Where a run ends: when a metric of RLlib's results reaches a total.

    Attributes:
        metric: its names, joined by slashes. total: [episodes or environment steps, see `unit`].
    """

    metric: str
    total: int

    @staticmethod
    def of(chosen: Experiment, episodes: int) -> Goal:
        """The experiment's `STOP`, for a run of another number of episodes."""
        ((metric, total),) = chosen.STOP.items()
        return Goal(metric, total * episodes // chosen.EPISODES)

    @property
    def unit(self) -> str:
        return "episodes" if "episodes" in self.metric else "samples"

    def seen(self, result: Mapping[str, Any]) -> int:
        """How far a result of an iteration is; 0 without the metric."""
        value: Any = result
        for name in self.metric.split("/"):
            value = value.get(name) if isinstance(value, Mapping) else None
        return int(value or 0)

    def counted(self, algorithm: Any) -> int:
        """How far an algorithm is, restored ones included."""
        name = self.metric.rpartition("/")[2]
        return int(algorithm.metrics.peek(("env_runners", name), default=0))


def scaled(rate: float | list[list[float]], factor: float) -> float | list[list[float]]:
    """A learning rate, or RLlib's schedule of one, times `factor`."""
    return (
        rate * factor if isinstance(rate, int | float) else [[step, value * factor] for step, value in rate]
    )


def names() -> dict[str, str]:
    """The experiments and the first line of each one's docstring, found without importing them."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "config" for node in tree.body):
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def find(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        InvalidSetting: if there is none.
    """
    known = names()
    if name not in known:
        raise InvalidSetting("experiment", f"{name!r} is unknown", f"Choose one of: {', '.join(known)}.")
    return cast(Experiment, importlib.import_module(f"tune_configs.{name}"))

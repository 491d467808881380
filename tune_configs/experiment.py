"""What an experiment is: a module of this package with a `config` function. Finding one imports no Ray."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any, Protocol, cast

from envs.errors import InvalidSetting
from tune_configs.evaluation import Evaluation, Published


class Experiment(Protocol):
    """The names that a module defines to be an experiment.

    Attributes:
        TITLE: of the report.
        PRESETS: names that `config` knows, the default first.
        EPISODES: of a full training run. EPISODE_LENGTH: [environment steps].
        STOP: Tune's stopping rule for a full run.
        PUBLISHED: figures of others for comparison.
    """

    TITLE: str
    PRESETS: tuple[str, ...]
    EPISODES: int
    EPISODE_LENGTH: int
    STOP: dict[str, int]
    PUBLISHED: Published

    def config(self, preset: str = ..., seed: int = ...) -> Any:
        """The `AlgorithmConfig` to train with. Raises InvalidSetting on an unknown preset."""
        ...

    def param_space(self, preset: str = ..., seeds: int = ..., rates: bool = ...) -> Any:
        """What a sweep searches, as an `AlgorithmConfig` with Tune's search spaces in it."""
        ...

    def evaluation(
        self,
        checkpoint: Path,
        episodes: int,
        seed: int,
        capacities: str | None = ...,
        certify: bool | None = ...,
    ) -> Evaluation:
        """Deploy a checkpoint on fresh episodes. Needs no Ray."""
        ...


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

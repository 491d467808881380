"""The folder of a training run: its settings, checkpoints, records of iterations and episodes. No Ray.

::

    run.json          the settings; everything that resuming needs
    checkpoints/      the last two, each named after the samples it has seen, each whole or absent
    result.json       one JSON object a line for each iteration, with the episodes that ended in it
    episodes.json     all episodes at the last checkpoint; episodes.csv is the same for a spreadsheet
    events.out...     TensorBoard; wandb/ is Weights & Biases
    evaluation.json   the trained policies on fresh episodes; report.html shows everything

What is rewritten is written beside itself and renamed, so that a kill leaves the old or the new file.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

from algorithms.common import checkpoint
from algorithms.common.checkpoint import CheckpointError
from algorithms.common.episodes import EpisodeRecord
from envs.errors import InvalidSetting
from tune_configs.evaluation import Evaluation
from tune_configs.metrics import scalars

CHECKPOINTS_KEPT = 2


@dataclass(frozen=True)
class Actors:
    """Ray actors of one training run besides the process of the algorithm.

    Attributes:
        env_runners: that play. solver_workers: that solve. 0 of either leaves the work to the algorithm.
        solver_nodes: whether solver workers ask for a unit of the resource ``solver`` each, so that they are
            placed on, and make an autoscaler add, the nodes that have it.
    """

    env_runners: int = 0
    solver_workers: int = 0
    solver_nodes: bool = False


@dataclass(frozen=True)
class Settings:
    """What was asked for. Stored in ``run.json``; a resumed run takes these and looks at no flag.

    Attributes:
        experiment, preset, seed: of the training.
        episodes: to train. env_runners, solver_workers, solver_nodes: see `Actors`.
        evaluation_episodes: for each policy after training.
        wandb: whether Weights & Biases is written.
        certify: whether the solver proves its maximisers to be global.
        name: of the run, also its W&B identity.
    """

    experiment: str
    preset: str
    seed: int
    episodes: int
    env_runners: int
    solver_workers: int
    evaluation_episodes: int
    wandb: bool
    name: str
    solver_nodes: bool = False
    certify: bool = False

    @property
    def actors(self) -> Actors:
        """The Ray actors that were asked for."""
        return Actors(self.env_runners, self.solver_workers, self.solver_nodes)


class Run:
    """A run folder that this process writes, locked against every other one."""

    def __init__(self, path: Path, settings: Settings, lock: IO[str]) -> None:
        # RLlib takes a relative path for an address without a scheme.
        self.path, self.settings, self._lock = path.resolve(), settings, lock

    @staticmethod
    def create(path: Path, settings: Settings) -> Run:
        """Make a new folder.

        Raises:
            InvalidSetting: if it has contents already, or cannot be written.
        """
        if path.is_dir() and any(path.iterdir()):
            raise InvalidSetting(
                "run",
                f"{path} is not empty",
                "Continue it with --resume, or choose another folder with --run.",
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
            run = Run(path, settings, _locked(path))
            run.write("run.json", json.dumps(asdict(settings), indent=1))
        except OSError as error:
            raise InvalidSetting(
                "run",
                f"{path} cannot be written ({error.strerror or error})",
                "Choose another folder with --run.",
            ) from error
        return run

    @staticmethod
    def open(path: Path) -> Run:
        """An existing folder, to resume it.

        Raises:
            InvalidSetting: if it is no run folder, or another process is writing it.
        """
        settings = read_settings(path)
        if "preset" not in settings or settings.get("sweep"):
            raise InvalidSetting("run", f"{path} is a sweep", "Resume it with `solverl sweep ... --resume`.")
        try:
            return Run(path, Settings(**settings), _locked(path))
        except OSError as error:
            raise InvalidSetting(
                "run",
                f"{path} cannot be written ({error.strerror or error})",
                "Check its owner and the disk.",
            ) from error

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()

    def write(self, name: str, text: str) -> None:
        """Replace a file of the folder atomically."""
        partial = self.path / f".{name}.partial"
        partial.write_text(text)
        os.replace(partial, self.path / name)

    # Checkpoints.

    def checkpoints(self) -> list[Path]:
        """The checkpoints, the newest first; they may be damaged."""
        folder = self.path / "checkpoints"
        found = [p for p in folder.glob("[0-9]*") if p.is_dir()] if folder.is_dir() else []
        return sorted(found, reverse=True)

    def save_checkpoint(self, samples: int, save: Callable[[Path], None]) -> None:
        """Write the checkpoint of `samples` environment steps, and drop those that are too old.

        Raises:
            CheckpointError: if the disk is full or not writable.
        """

        def write(folder: Path) -> None:
            save(folder)
            # With its settings inside, a checkpoint that was copied elsewhere can still be evaluated.
            shutil.copy(self.path / "run.json", folder / "run.json")
            checkpoint.seal(folder)

        checkpoint.write_atomically(self.path / "checkpoints" / f"{samples:09d}", write)
        for old in self.checkpoints()[CHECKPOINTS_KEPT:]:
            shutil.rmtree(old, ignore_errors=True)

    def newest_intact(self, tell: Callable[[str], None]) -> Path | None:
        """The newest whole checkpoint, after telling about each that is not; None if none was written.

        Raises:
            CheckpointError: if there are checkpoints and all of them are damaged.
        """
        found = self.checkpoints()
        for path in found:
            try:
                return checkpoint.verify(path)
            except CheckpointError as error:
                tell(f"{error}")
        if found:
            raise CheckpointError(
                f"checkpoint: none of {self.path / 'checkpoints'} is whole, so the run cannot be continued. "
                "Begin a new one in another folder."
            )
        return None

    # Records.

    def append_result(self, line: dict[str, Any]) -> None:
        """Add an iteration's line."""
        with (self.path / "result.json").open("a") as stream:
            stream.write(json.dumps(line) + "\n")

    def keep_results(self, samples: int) -> list[dict[str, Any]]:
        """Drop the lines after `samples`, which a resumed run plays again; returns the others."""
        kept = [line for line in _lines(self.path / "result.json") if line["samples"] <= samples]
        self.write("result.json", "".join(json.dumps(line) + "\n" for line in kept))
        return kept

    def write_episodes(self, episodes: Sequence[EpisodeRecord]) -> None:
        """Rewrite the record of all episodes, as JSON and as CSV."""
        self.write("episodes.json", json.dumps([asdict(e) for e in episodes]))
        numbers = accumulate(e.count for e in episodes)
        flat = [_flat(n, e) for n, e in zip(numbers, episodes, strict=True)]
        text = io.StringIO()
        if flat:
            writer = csv.DictWriter(text, list(flat[0]))
            writer.writeheader()
            writer.writerows(flat)
        self.write("episodes.csv", text.getvalue())


@dataclass(frozen=True)
class Record:
    """What a finished or unfinished run says about itself, whether `train` or a sweep's trial wrote it.

    Attributes:
        settings: of the run. parameters: of the algorithm, as text, where they differ from RLlib's defaults.
        iterations: scalars of each (`tune_configs.metrics`). episodes: in the order of training.
        evaluation: None if there was none.
        varied: what a sweep chose for this trial, as text.
    """

    path: Path
    settings: dict[str, Any]
    parameters: dict[str, str]
    iterations: list[dict[str, float]]
    episodes: list[EpisodeRecord]
    evaluation: Evaluation | None = None
    name: str = field(default="")
    varied: dict[str, str] = field(default_factory=dict)


def read(path: Path) -> list[Record]:
    """The record of a run, or of every trial of a sweep that has played an episode.

    Raises:
        InvalidSetting: if it is neither, or nothing was played yet.
    """
    settings = read_settings(path)
    folders = sorted(p.parent for p in path.glob("*/result.json")) if settings.get("sweep") else [path]
    records = [record for folder in folders if (record := _read_one(folder, settings)).episodes]
    if not records:
        raise InvalidSetting("run", f"{path} has no finished episode yet", "Train longer, then report.")
    return records


def read_settings(path: Path) -> dict[str, Any]:
    """``run.json`` of a run or sweep folder.

    Raises:
        InvalidSetting: if there is none that can be read.
    """
    file = path / "run.json"
    if not file.is_file():
        what = "has no run.json" if path.is_dir() else "is not a folder"
        raise InvalidSetting(
            "run", f"{path} {what}", "Give the folder that `solverl train` or `sweep` wrote."
        )
    try:
        settings: dict[str, Any] = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise InvalidSetting("run", f"{file} is damaged ({error})", "Begin a new run.") from error
    return settings


def find_checkpoint(path: Path) -> tuple[Path, dict[str, Any]]:
    """The checkpoint meant by a run folder (its newest whole one) or a checkpoint folder, and its settings.

    Raises:
        InvalidSetting: if `path` is neither. CheckpointError: if nothing there is whole.
    """
    if (path / "checkpoints").is_dir() or (
        (path / "run.json").is_file() and not (path / checkpoint.MANIFEST).is_file()
    ):
        settings = read_settings(path)
        if settings.get("sweep"):
            raise InvalidSetting("checkpoint", f"{path} is a sweep", "Give one of its trials' checkpoints.")
        for folder in sorted((path / "checkpoints").glob("[0-9]*"), reverse=True):
            try:
                return checkpoint.verify(folder), settings
            except CheckpointError:
                continue
        raise CheckpointError(f"checkpoint: {path} has no whole checkpoint. Train first.")
    checkpoint.verify(path)
    for parent in (path, *path.resolve().parents):
        if (parent / "run.json").is_file():
            return path, read_settings(parent)
    raise InvalidSetting(
        "checkpoint", f"{path} does not say which experiment it belongs to", "Keep it inside its run folder."
    )


def _read_one(folder: Path, settings: dict[str, Any]) -> Record:
    lines = _lines(folder / "result.json")
    episodes: dict[int, EpisodeRecord] = {}
    for line in lines:
        for record in line.get("episodes", []):
            # A trial that was restored tells of some episodes twice.
            episodes[record["episode"]] = EpisodeRecord(**{k: v for k, v in record.items() if k != "episode"})
    iterations = {}
    for line in lines:
        # Tune writes RLlib's nested results, `train` their scalars.
        flat = scalars(line) if "env_runners" in line else {k: v for k, v in line.items() if k != "episodes"}
        iterations[flat["samples"]] = flat
    own, varied = dict(settings), {}
    if (folder / "params.json").is_file():
        chosen = json.loads((folder / "params.json").read_text())
        own["seed"] = chosen.get("seed", own.get("seed"))
        varied = {name: choice(chosen, name) for name in settings.get("varied", [])}
    parameters_file = next(
        (f / "parameters.json" for f in (folder, folder.parent) if (f / "parameters.json").is_file()), None
    )
    return Record(
        folder,
        own,
        json.loads(parameters_file.read_text()) if parameters_file else {},
        [iterations[k] for k in sorted(iterations)],
        [episodes[k] for k in sorted(episodes)],
        Evaluation.load(folder / "evaluation.json") if (folder / "evaluation.json").is_file() else None,
        folder.name,
        varied,
    )


def choice(config: dict[str, Any], name: str) -> str:
    """One parameter of an algorithm, by its names joined by slashes, as text; of a schedule, where it starts."""
    value: Any = config
    for part in name.split("/"):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, list):
        return f"{value[0][1]:.2g} …"
    return "–" if value is None else f"{value:.2g}" if isinstance(value, float) else str(value)


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of JSON lines; a kill may have cut the last one."""

    def whole() -> Iterator[dict[str, Any]]:
        for line in path.read_text().splitlines() if path.is_file() else []:
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue

    return list(whole())


def _flat(number: int, episode: EpisodeRecord) -> dict[str, float]:
    row: dict[str, float] = {"episode": number, "reward": episode.reward, "length": episode.length}
    if episode.count > 1:
        row["count"] = episode.count
    row |= {f"cost_{i}": c for i, c in enumerate(episode.cost)}
    row |= {f"distance_to_capacity_{i}": d for i, d in enumerate(episode.distance_to_capacity)}
    return {**row, "unsafe_steps": episode.unsafe_steps}


def _locked(path: Path) -> IO[str]:
    """Hold the folder's lock; the kernel releases it however this process ends."""
    lock = (path / ".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise InvalidSetting(
            "run", f"{path} is being written by another process", "Wait for it, or choose another folder."
        ) from error
    return lock

"""TensorBoard always, Weights & Biases where it can: neither its absence nor its failure stops a run."""

from __future__ import annotations

import importlib.util
import logging
import netrc
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tune_configs.runs import Settings

logger = logging.getLogger(__name__)

PROJECT = "solverl"
HOST = "api.wandb.ai"


def prepare_wandb(wanted: bool) -> str:
    """Choose W&B's mode before Ray starts: its workers inherit the environment, and only then heed it.

    Returns:
        ``"online"``, ``"offline"`` (no key, or no network: `wandb sync` can send it later) or ``"disabled"``.
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    if not wanted or importlib.util.find_spec("wandb") is None:
        return "disabled"
    mode = os.environ.get("WANDB_MODE")
    if mode is None:
        mode = "online" if _has_key() and _reachable() else "offline"
        os.environ["WANDB_MODE"] = mode
    return mode


class Tracker:
    """Writes the scalars of each iteration to TensorBoard and W&B.

    Args:
        folder: of the run. settings: stored with it. wandb_mode: what `prepare_wandb` returned.
        samples: where a resumed run continues; later points that a killed process wrote are discarded.
    """

    def __init__(self, folder: Path, settings: Settings, wandb_mode: str, samples: int) -> None:
        from tensorboardX import SummaryWriter  # type: ignore[import-untyped]

        self._board = SummaryWriter(str(folder), purge_step=samples + 1 if samples else None)
        self._wandb: Any = None
        if wandb_mode != "disabled":
            self._wandb = _start_wandb(folder, settings)

    def log(self, scalars: Mapping[str, float]) -> None:
        """Log one iteration at its number of samples."""
        step = int(scalars["samples"])
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)
        self._board.flush()
        if self._wandb is not None:
            try:
                self._wandb.log(dict(scalars), step=step)
            except Exception:
                logger.warning("Weights & Biases failed and is left out from here on.", exc_info=True)
                self._wandb = None

    def close(self) -> None:
        """Finish both logs."""
        self._board.close()
        if self._wandb is not None:
            try:
                self._wandb.finish()
            except Exception:
                logger.warning("Weights & Biases could not finish its log.", exc_info=True)


def tune_callbacks(wandb_mode: str) -> list[Any]:
    """W&B for the trials of a sweep; Tune writes TensorBoard files by itself."""
    if wandb_mode == "disabled":
        return []
    from ray.air.integrations.wandb import WandbLoggerCallback

    class ForgivingWandb(WandbLoggerCallback):
        """W&B whose failures are logged and do not end the sweep."""

        def setup(self, *args: Any, **kwargs: Any) -> None:
            _forgive(super().setup, *args, **kwargs)

        def log_trial_start(self, trial: Any) -> None:
            _forgive(super().log_trial_start, trial)

        def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
            _forgive(super().log_trial_result, iteration, trial, result)

        def log_trial_save(self, trial: Any) -> None:
            _forgive(super().log_trial_save, trial)

        def log_trial_end(self, trial: Any, failed: bool = False) -> None:
            _forgive(super().log_trial_end, trial, failed)

    return [ForgivingWandb(project=PROJECT, excludes=["episodes", "config"])]


def _forgive(call: Any, *args: Any, **kwargs: Any) -> None:
    try:
        call(*args, **kwargs)
    except Exception:
        logger.warning("Weights & Biases failed; the sweep goes on without this record.", exc_info=True)


def _start_wandb(folder: Path, settings: Settings) -> Any:
    try:
        import wandb

        return wandb.init(
            project=PROJECT,
            dir=str(folder),
            id=settings.name,
            name=settings.name,
            group=f"{settings.experiment}-{settings.preset}",
            config={"experiment": settings.experiment, "preset": settings.preset, "seed": settings.seed},
            resume="allow",
            settings=wandb.Settings(console="off", init_timeout=20),
        )
    except Exception as error:
        logger.warning("Weights & Biases could not start (%s); the run goes on without it.", error)
        return None


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(HOST) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _reachable() -> bool:
    try:
        with socket.create_connection((HOST, 443), timeout=3.0):
            return True
    except OSError:
        return False

"""Training in this process: `Algorithm.train()` in a loop, with checkpoints in between."""

from __future__ import annotations

import json
import logging
import math
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from algorithms.common.episodes import EpisodeRecord
from envs.errors import InvalidSetting
from tune_configs.experiment import Experiment, Goal, find
from tune_configs.metrics import OUTCOMES, number, scalars
from tune_configs.runs import Actors, Run, Settings
from tune_configs.tracking import Tracker, prepare_wandb

EVALUATION_SEED = 1_000_000
"""Seeds of training are small numbers, so that evaluation meets other customers."""
SOLVER = "solver"
"""The resource of a cluster's solver nodes; the manifests in ``cluster/`` give it to them."""


def train(run: Run, console: Console) -> None:
    """Train to the end of `run`, from its newest whole checkpoint if it has any.

    Raises:
        CheckpointError: if no checkpoint can be read, or the disk is full.
    """
    settings, experiment = run.settings, find(run.settings.experiment)
    wandb_mode = prepare_wandb(settings.wandb)
    config = configured(experiment, settings)
    run.write("parameters.json", json.dumps(parameters(config), indent=1))
    goal = Goal.of(experiment, settings.episodes)
    begin = run.newest_intact(
        lambda text: console.print(f"[yellow]{text} Trying the one before.[/]", highlight=False)
    )
    with local_ray(config):
        algorithm = config.build_algo()
        try:
            if begin is not None:
                algorithm.restore_from_path(str(begin))
                seen = goal.counted(algorithm)
                console.print(f"Continuing after {seen:,} of {goal.total:,} {goal.unit}.")
            _loop(run, algorithm, goal, experiment.CHECKPOINT_EVERY, wandb_mode, console)
        finally:
            algorithm.stop()


def configured(experiment: Experiment, settings: Settings) -> Any:
    """The experiment's configuration with the run's settings; its iterations fit their number of episodes."""
    config = experiment.config(settings.preset, settings.seed)
    set_actors(config, settings.actors)
    if settings.certify:
        config.training(certify=True)
    experiment.fit(config, settings.episodes)
    return config


def set_actors(config: Any, actors: Actors) -> None:
    """Have the algorithm of `config` start these actors, and again those that are lost with their node."""
    if actors.env_runners:
        config.env_runners(num_env_runners=actors.env_runners)
        # RLlib's defaults, 60 s and 30 s, are longer than whole episodes take.
        config.fault_tolerance(
            restart_failed_env_runners=True,
            delay_between_env_runner_restarts_s=0.0,
            env_runner_health_probe_timeout_s=5.0,
        )
    if actors.solver_workers:
        if not hasattr(config, "solver_pool"):
            raise InvalidSetting(
                "--solver-workers",
                f"is {actors.solver_workers}, but {config.algo_class.__name__} has no solver pool",
                "Leave it out: the shield solves where the environments run.",
            )
        from solver_pool.pool import PoolConfig

        pool = PoolConfig(n_workers=actors.solver_workers)
        if actors.solver_nodes:
            # No CPU: solver nodes have none to give, so that nothing else is placed on them.
            pool = replace(pool, cpus_per_worker=0.0, resources={SOLVER: 1.0})
        config.training(solver_pool=pool)


def parameters(config: Any) -> dict[str, str]:
    """The algorithm's parameters that differ from RLlib's defaults, as text."""
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

    default = AlgorithmConfig().to_dict()
    return {
        name: text
        for name, value in sorted(config.to_dict().items())
        if not name.startswith("_") and (text := _text(value)) != _text(default.get(name)) and name != "class"
    }


def _text(value: Any) -> str:
    text = repr(value)
    # Addresses say nothing, and change from run to run.
    return type(value).__name__ if " object at 0x" in text or " at 0x" in text else text


@contextmanager
def local_ray(config: Any) -> Iterator[None]:
    """Ray for this process and the actors of an algorithm, quietly, unless it runs already.

    ``RAY_ADDRESS`` joins a cluster instead, and is set in every job.
    """
    import ray

    for name in ("ray", "ray.rllib", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    mine = not ray.is_initialized()
    if mine:
        wanted = config.algo_class.default_resource_request(config).required_resources
        here = {
            "num_cpus": max(os.cpu_count() or 1, math.ceil(wanted.get("CPU", 1.0))),
            "resources": {SOLVER: wanted[SOLVER]} if SOLVER in wanted else {},
        }
        ray.init(
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if os.environ.get("RAY_ADDRESS") else here),
        )
    try:
        yield
    finally:
        if mine:
            ray.shutdown()


def _loop(
    run: Run, algorithm: Any, goal: Goal, checkpoint_every: float, wandb_mode: str, console: Console
) -> None:
    samples = _samples(algorithm)
    lines = run.keep_results(samples)
    saved = seconds = lines[-1]["seconds"] if lines else 0.0
    run.write_episodes(algorithm.episodes.finished)
    told = len(algorithm.episodes.finished)
    tracker = Tracker(run.path, run.settings, wandb_mode, samples)
    try:
        with _Line(console, run.settings.episodes, played(algorithm.episodes.finished)) as line:
            seen = goal.counted(algorithm)
            while seen < goal.total:
                start = time.perf_counter()
                result = algorithm.train()
                seconds += time.perf_counter() - start
                seen = goal.counted(algorithm)
                before, samples = samples, _samples(algorithm)
                if samples == before:
                    raise RuntimeError(
                        "An iteration sampled no environment step; every environment runner is lost."
                    )
                episodes = algorithm.episodes.finished
                figures = scalars(result) | {
                    "samples": samples,
                    "seconds": seconds,
                    "iteration": len(lines) + 1,
                }
                figures["reward_last_10"] = last_reward(episodes)
                lines.append(figures)
                # The line first: whatever a kill leaves, no line of a checkpointed iteration is missing.
                run.append_result({**figures, "episodes": episode_lines(episodes, told)})
                if seen >= goal.total or seconds - saved >= checkpoint_every:
                    run.save_checkpoint(samples, lambda folder: algorithm.save_to_path(str(folder)))
                    run.write_episodes(episodes)
                    saved = seconds
                tracker.log(figures)
                told = len(episodes)
                line.show(played(episodes), figures["reward_last_10"], _tally(lines))
    except OSError as error:
        raise InvalidSetting(
            "run",
            f"{run.path} cannot be written ({error.strerror or error})",
            "Free space, then continue with --resume; the last complete checkpoint is untouched.",
        ) from error
    finally:
        tracker.close()


def episode_lines(episodes: list[EpisodeRecord], told: int) -> list[dict[str, Any]]:
    """The records after the first `told` as plain data, each with the number of its last episode, from 1."""
    numbers = list(accumulate(e.count for e in episodes))
    return [{"episode": n, **asdict(e)} for n, e in zip(numbers[told:], episodes[told:], strict=True)]


def played(episodes: Sequence[EpisodeRecord]) -> int:
    """How many episodes the records stand for."""
    return sum(e.count for e in episodes)


def last_reward(episodes: Sequence[EpisodeRecord], count: int = 10) -> float:
    """Mean reward of the last `count` episodes, or of all that were played together with them; NaN without any."""
    total, weights = 0.0, 0
    for episode in reversed(episodes):
        total, weights = total + episode.count * episode.reward, weights + episode.count
        if weights >= count:
            break
    return total / weights if weights else math.nan


def _samples(algorithm: Any) -> int:
    return int(algorithm.metrics.peek(("env_runners", "num_env_steps_sampled_lifetime"), default=0))


def _tally(lines: list[dict[str, Any]]) -> str:
    """The counts that must stay small: infeasible plans, solves that failed, or else what the shield did."""
    last = lines[-1]
    if "plans/checked" in last:
        return f"plans {last['plans/checked']:,.0f}, infeasible {last['plans/infeasible']:,.0f}"
    if "solver/solves" not in last and "shield/certified" in last:
        return ", ".join(f"{name} {last[f'shield/{name}']:,.0f}" for name in OUTCOMES)
    solves, failures = (
        sum(line.get(f"solver/{name}", 0.0) for line in lines) for name in ("solves", "failures")
    )
    return f"solves {solves:,.0f}, failed {failures:,.0f}"


class _Line:
    """What is shown while training runs: a live line on a terminal, now and then a printed one elsewhere."""

    EVERY = 10.0
    """[s] between printed lines."""

    def __init__(self, console: Console, episodes: int, done: int) -> None:
        self._console, self._episodes = console, episodes
        self._start, self._first, self._printed = time.monotonic(), done, time.monotonic()
        self._progress = Progress(
            TextColumn("episode"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=episodes, completed=done, text="starting")

    def __enter__(self) -> _Line:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, done: int, reward: float, tally: str) -> None:
        text = f"reward lately {number(reward)}  {tally}"
        self._progress.update(self._task, completed=done, text=text)
        now = time.monotonic()
        if not self._console.is_terminal and (now - self._printed >= self.EVERY or done >= self._episodes):
            self._printed = now
            left = (now - self._start) / max(done - self._first, 1) * (self._episodes - done)
            self._console.print(
                f"episode {done}/{self._episodes}  {text}  left {left:.0f} s", highlight=False
            )


def evaluate_and_report(run: Run, console: Console) -> Path:
    """Deploy the trained policies on fresh episodes, print and store their table, write the report."""
    from tune_configs.report import write_report

    settings, experiment = run.settings, find(run.settings.experiment)
    newest = run.newest_intact(lambda text: console.print(f"[yellow]{text}[/]", highlight=False))
    if newest is None:
        raise InvalidSetting("run", f"{run.path} has no checkpoint", "Train first.")
    result = experiment.evaluation(newest, settings.evaluation_episodes, EVALUATION_SEED)
    result.save(run.path / "evaluation.json")
    console.print(result.table(experiment.PUBLISHED))
    report = write_report([run.path], run.path / "report.html")
    console.print(f"Report: {report}", highlight=False, soft_wrap=True)
    console.print(f"Checkpoint: {newest}", highlight=False, soft_wrap=True)
    return report

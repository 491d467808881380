"""Many trainings with Ray Tune: seeds, what an experiment searches, ASHA, checkpoints, and resuming after a kill."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from envs.errors import InvalidSetting
from tune_configs.experiment import Experiment, Goal, find
from tune_configs.metrics import number
from tune_configs.runs import Actors, choice, read_settings
from tune_configs.tracking import prepare_wandb, tune_callbacks
from tune_configs.training import EVALUATION_SEED, episode_lines, local_ray, parameters, set_actors

METRIC = "env_runners/episode_return_mean"
RESTARTS = 2
"""How often a trial that failed is continued from its checkpoint before it is given up."""


def tell(algorithm: Any, result: dict[str, Any], checkpoint_every: float, **kwargs: Any) -> None:
    """RLlib callback: put this iteration's episodes into the result, and ask for a checkpoint when it is due."""
    told = getattr(algorithm, "_episodes_told", 0)
    result["episodes"] = episode_lines(algorithm.episodes.finished, told)
    algorithm._episodes_told = len(algorithm.episodes.finished)
    seconds = result["time_total_s"]
    if seconds - getattr(algorithm, "_saved_after", 0.0) >= checkpoint_every:
        result["should_checkpoint"] = True
        algorithm._saved_after = seconds


class Progress:
    """Tune callback: one line for every trial, now and then. Tune's own tables print whole configurations."""

    EVERY = 10.0
    """[s] between two lines of a trial."""

    def __init__(self, goal: Goal) -> None:
        self._goal = goal
        self._printed: dict[str, float] = {}

    def __call__(self, trial: Any, result: dict[str, Any]) -> None:
        """Tell about a new result of `trial`, unless it was told about a moment ago."""
        goal = self._goal
        seen, now = goal.seen(result), time.monotonic()
        if now - self._printed.get(trial.trial_id, -self.EVERY) < self.EVERY and seen < goal.total:
            return
        self._printed[trial.trial_id] = now
        reward = (result.get("env_runners") or {}).get("episode_return_mean", float("nan"))
        seed = trial.config.get("seed")
        text = f"trial {trial.trial_id} seed {seed}: {seen:,} of {goal.total:,} {goal.unit}"
        print(f"{text}, reward {number(reward)}", flush=True)


def _callbacks(goal: Goal, wandb_mode: str) -> list[Any]:
    from ray.tune import Callback

    progress = Progress(goal)

    class Told(Callback):
        """Passes results on; the class is made here because only a sweep imports Ray."""

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            progress(trial, result)

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            print(f"trial {trial.trial_id} failed; see {trial.local_path}", flush=True)

    return [Told(), *tune_callbacks(wandb_mode)]


def begin(
    path: Path,
    console: Console,
    experiment: str,
    preset: str,
    seeds: int,
    episodes: int | None,
    samples: int | None,
    asha: bool,
    parallel: int | None,
    actors: Actors = Actors(),
) -> Any:
    """Run a new sweep to its end.

    Args:
        path: of its folder. seeds: trials ``0 .. seeds - 1``. episodes: of each; None for the experiment's.
        samples: draws of what the experiment searches, for each seed; None keeps the preset's parameters.
        asha: stop bad trials early.
        parallel: trials at once; None for as many as fit.
        actors: of each trial.

    Raises:
        InvalidSetting: if the folder has contents already or cannot be written.
    """
    chosen = find(experiment)
    space = chosen.param_space(preset, seeds, samples is not None)
    episodes = chosen.EPISODES if episodes is None else episodes
    if path.is_dir() and any(path.iterdir()):
        raise InvalidSetting(
            "run", f"{path} is not empty", "Continue it with --resume, or choose another folder with --run."
        )
    settings: dict[str, Any] = {
        "sweep": True,
        "experiment": experiment,
        "preset": preset,
        "episodes": episodes,
        "seeds": seeds,
        "actors": asdict(actors),
        "varied": varied(space.to_dict()),
    }
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / "run.json").write_text(json.dumps(settings, indent=1))
        (path / "parameters.json").write_text(json.dumps(parameters(chosen.config(preset)), indent=1))
    except OSError as error:
        raise InvalidSetting(
            "run",
            f"{path} cannot be written ({error.strerror or error})",
            "Choose another folder with --run.",
        ) from error

    goal = Goal.of(chosen, episodes)
    space.callbacks(on_train_result=partial(tell, checkpoint_every=chosen.CHECKPOINT_EVERY))
    set_actors(space, actors)
    chosen.fit(space, episodes)
    wandb_mode = prepare_wandb(True)
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    grace = max(1, goal.total // 5)
    with local_ray(_closed(chosen, preset, actors)):
        tuner = tune.Tuner(
            space.algo_class,
            param_space=space,
            tune_config=tune.TuneConfig(
                metric=METRIC,
                mode="max",
                num_samples=samples or 1,
                max_concurrent_trials=parallel,
                scheduler=ASHAScheduler(goal.metric, max_t=goal.total, grace_period=grace) if asha else None,
            ),
            run_config=tune.RunConfig(
                name=path.name,
                storage_path=str(path.resolve().parent),
                stop={goal.metric: goal.total},
                checkpoint_config=tune.CheckpointConfig(num_to_keep=2, checkpoint_at_end=True),
                failure_config=tune.FailureConfig(max_failures=RESTARTS),
                callbacks=_callbacks(goal, wandb_mode),
                verbose=0,
            ),
        )
        results = tuner.fit()
    return _finish(chosen, path, results, goal, settings["varied"], console)


def varied(space: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Parameters that a search space leaves open, but for those that follow from others; names joined by slashes."""
    from ray.tune.search.sample import Domain, Function

    found = []
    for name, value in space.items():
        if isinstance(value, Mapping) and "grid_search" not in value:
            found += varied(value, f"{prefix}{name}/")
        elif isinstance(value, Mapping) or (isinstance(value, Domain) and not isinstance(value, Function)):
            found.append(f"{prefix}{name}")
    return sorted(found, key="seed".__ne__)


def resume(path: Path, console: Console, experiment: str) -> Any:
    """Continue an interrupted sweep: finished trials stay, the others go on from their checkpoints.

    Raises:
        InvalidSetting: if `path` is no sweep of the experiment, or was interrupted before its first trial.
    """
    settings = read_settings(path)
    if not settings.get("sweep"):
        raise InvalidSetting(
            "run", f"{path} is a training run", "Resume it with `solverl train ... --resume`."
        )
    if settings["experiment"] != experiment:
        raise InvalidSetting("run", f"{path} belongs to {settings['experiment']}", "Name that experiment.")
    chosen = find(experiment)
    prepare_wandb(True)
    from ray import tune

    if not tune.Tuner.can_restore(str(path.resolve())):
        raise InvalidSetting("run", f"{path} was interrupted before its first trial", "Begin a new sweep.")
    config = _closed(chosen, settings["preset"], Actors(**settings.get("actors", {})))
    with local_ray(config):
        tuner = tune.Tuner.restore(str(path.resolve()), trainable=config.algo_class, resume_errored=True)
        results = tuner.fit()
    goal = Goal.of(chosen, settings["episodes"])
    return _finish(chosen, path, results, goal, settings.get("varied", ["seed"]), console)


def _closed(chosen: Experiment, preset: str, actors: Actors) -> Any:
    """The preset without a search space, which asks Ray for what every trial asks for."""
    config = chosen.config(preset)
    set_actors(config, actors)
    return config


def _finish(
    experiment: Experiment, path: Path, results: Any, goal: Goal, names: list[str], console: Console
) -> Any:
    """Print the trials and the best checkpoint, deploy the finished ones, write the report."""
    from tune_configs.report import write_report

    table = Table(title=f"Trials of {path.name}", title_justify="left")
    shown = [name.rpartition("/")[2] for name in names]
    for column in ("trial", *shown, "reward", goal.unit, "state"):
        table.add_column(column, justify="left" if column in ("trial", "state") else "right")
    ranked = sorted(results, key=_reward, reverse=True)
    for result in ranked:
        metrics = result.metrics or {}
        config, seen = metrics.get("config", {}), goal.seen(metrics)
        state = "failed" if result.error else "finished" if seen >= goal.total else "stopped early"
        choices = (choice(config, name) for name in names)
        trial = str(metrics.get("trial_id", Path(result.path).name))
        table.add_row(trial, *choices, number(_reward(result)), f"{seen:,}", state)
        if state == "finished" and result.checkpoint is not None:
            checkpoint = Path(result.checkpoint.path)
            found = experiment.evaluation(checkpoint, experiment.EVALUATION_EPISODES, EVALUATION_SEED)
            found.save(Path(result.path) / "evaluation.json")
    console.print(table)
    for result in ranked:
        if result.error is not None:
            where = os.path.join(result.path, "error.txt")
            console.print(f"[red]Failed: {where}[/]", highlight=False, soft_wrap=True)
    if ranked and ranked[0].checkpoint is not None:
        console.print(f"Best checkpoint: {ranked[0].checkpoint.path}", highlight=False, soft_wrap=True)
        report = write_report([path], path / "report.html")
        console.print(f"Report: {report}", highlight=False, soft_wrap=True)
    return results


def _reward(result: Any) -> float:
    reward = ((result.metrics or {}).get("env_runners") or {}).get("episode_return_mean")
    # A trial without an episode ranks last.
    return float("-inf") if reward is None or reward != reward else float(reward)

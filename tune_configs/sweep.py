"""Many trainings with Ray Tune: seeds, learning rates, ASHA, checkpoints, and resuming after a kill."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from envs.errors import InvalidSetting
from tune_configs.experiment import Experiment, find
from tune_configs.runs import Actors, read_settings
from tune_configs.tracking import prepare_wandb, tune_callbacks
from tune_configs.training import EVALUATION_SEED, episode_lines, local_ray, parameters, set_actors

METRIC = "env_runners/episode_return_mean"
EVALUATION_EPISODES = 100
RESTARTS = 2
"""How often a trial that failed is continued from its checkpoint before it is given up."""


def tell_episodes(algorithm: Any, result: dict[str, Any], **kwargs: Any) -> None:
    """RLlib callback: put the episodes of this iteration into the result, for the report."""
    told = getattr(algorithm, "_episodes_told", 0)
    result["episodes"] = episode_lines(algorithm.episodes.finished, told)
    algorithm._episodes_told = len(algorithm.episodes.finished)


class Progress:
    """Tune callback: one line for every trial, now and then. Tune's own tables print whole configurations."""

    EVERY = 10.0
    """[s] between two lines of a trial."""

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self._printed: dict[str, float] = {}

    def __call__(self, trial: Any, result: dict[str, Any]) -> None:
        """Tell about a new result of `trial`, unless it was told about a moment ago."""
        seen, now = int(result.get("num_env_steps_sampled_lifetime", 0)), time.monotonic()
        if now - self._printed.get(trial.trial_id, -self.EVERY) < self.EVERY and seen < self._samples:
            return
        self._printed[trial.trial_id] = now
        reward = (result.get("env_runners") or {}).get("episode_return_mean", float("nan"))
        seed = trial.config.get("seed")
        text = (
            f"trial {trial.trial_id} seed {seed}: {seen:,} of {self._samples:,} samples, reward {reward:.1f}"
        )
        print(text, flush=True)


def _callbacks(samples: int, wandb_mode: str) -> list[Any]:
    from ray.tune import Callback

    progress = Progress(samples)

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
        samples: draws of the learning rates for each seed; None keeps the preset's.
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
    settings = {
        "sweep": True,
        "experiment": experiment,
        "preset": preset,
        "episodes": episodes,
        "seeds": seeds,
        "actors": asdict(actors),
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

    steps = dict.fromkeys(chosen.STOP, episodes * chosen.EPISODE_LENGTH)
    space.training(steps_per_iteration=min(space.steps_per_iteration, *steps.values()))
    space.callbacks(on_train_result=tell_episodes)
    set_actors(space, actors)
    wandb_mode = prepare_wandb(True)
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    iterations = -(-max(steps.values()) // space.steps_per_iteration)
    with local_ray(actors):
        tuner = tune.Tuner(
            space.algo_class,
            param_space=space,
            tune_config=tune.TuneConfig(
                metric=METRIC,
                mode="max",
                num_samples=samples or 1,
                max_concurrent_trials=parallel,
                scheduler=ASHAScheduler(max_t=iterations, grace_period=max(1, iterations // 5))
                if asha
                else None,
            ),
            run_config=tune.RunConfig(
                name=path.name,
                storage_path=str(path.resolve().parent),
                stop=steps,
                checkpoint_config=tune.CheckpointConfig(
                    num_to_keep=2, checkpoint_frequency=1, checkpoint_at_end=True
                ),
                failure_config=tune.FailureConfig(max_failures=RESTARTS),
                callbacks=_callbacks(max(steps.values()), wandb_mode),
                verbose=0,
            ),
        )
        results = tuner.fit()
    return _finish(chosen, path, results, max(steps.values()), console)


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
    trainable = chosen.config(settings["preset"]).algo_class
    with local_ray(Actors(**settings.get("actors", {}))):
        tuner = tune.Tuner.restore(str(path.resolve()), trainable=trainable, resume_errored=True)
        results = tuner.fit()
    return _finish(chosen, path, results, settings["episodes"] * chosen.EPISODE_LENGTH, console)


def _finish(experiment: Experiment, path: Path, results: Any, samples: int, console: Console) -> Any:
    """Print the trials and the best checkpoint, deploy the finished ones, write the report."""
    from tune_configs.report import write_report

    table = Table(title=f"Trials of {path.name}", title_justify="left")
    for i, column in enumerate(("trial", "seed", "critic rate", "actor rate", "reward", "samples", "state")):
        table.add_column(column, justify="right" if 0 < i < 6 else "left")
    ranked = sorted(results, key=_reward, reverse=True)
    for result in ranked:
        metrics = result.metrics or {}
        config, seen = metrics.get("config", {}), int(metrics.get("num_env_steps_sampled_lifetime", 0))
        state = "failed" if result.error else "finished" if seen >= samples else "stopped early"
        rates = (_rate(config.get("critic_lr")), _rate(config.get("actor_lr")))
        name = str(metrics.get("trial_id", Path(result.path).name))
        table.add_row(
            name, str(config.get("seed", "–")), *rates, f"{_reward(result):.1f}", f"{seen:,}", state
        )
        if state == "finished" and result.checkpoint is not None:
            found = experiment.evaluation(Path(result.checkpoint.path), EVALUATION_EPISODES, EVALUATION_SEED)
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


def _rate(rate: Any) -> str:
    """A learning rate; of a schedule, where it starts."""
    if isinstance(rate, list):
        return f"{rate[0][1]:.2g} …"
    return "–" if rate is None else f"{rate:.2g}"

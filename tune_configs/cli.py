"""The command `solverl`: train, sweep, evaluate, report. What it does is in the modules beside this one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rich.console import Console

from algorithms.common.checkpoint import CheckpointError
from envs.errors import InvalidSetting
from solver_pool.errors import SolverPoolError
from tune_configs import experiment

SETTINGS = ("preset", "seed", "episodes", "env_runners", "solver_workers", "evaluation_episodes", "no_wandb")
"""Flags of `train` that a resumed run takes from its folder."""

_EXAMPLES = """\
examples:
  solverl train {name}                         train, evaluate, write a report
  solverl train {name} --preset paper --seed 3 --run runs/paper3
  solverl train {name} --resume --run runs/paper3
  solverl evaluate runs/paper3 --episodes 1000 --capacities stress
  solverl sweep {name} --seeds 5 --run runs/seeds
  solverl report runs/paper3 runs/other --output report.html
  tensorboard --logdir runs
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0, 2 for what the user can mend, and 130 after Ctrl-C."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    options = _parser().parse_args(arguments)
    try:
        command = {"train": _train, "sweep": _sweep, "evaluate": _evaluate, "report": _report}[
            options.command
        ]
        command(options, console)
    except (InvalidSetting, CheckpointError, SolverPoolError) as error:
        print(f"solverl {options.command}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted. Continue with --resume --run and the folder of the run.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    known = experiment.names()
    listed = "experiments:\n" + "".join(f"  {name:<24}{about}\n" for name, about in known.items())
    examples = _EXAMPLES.format(name=next(iter(known)))
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="solverl",
        description="Safe reinforcement learning with optimisation solvers in the loop.",
        epilog=f"{listed}\n{examples}",
        formatter_class=raw,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="train once, then evaluate and report",
        description=(
            "Train in one process, with a checkpoint after every iteration; then deploy the actor alone\n"
            "and SAFE on fresh episodes and write report.html into the run's folder. A run that was killed\n"
            "at any moment continues with --resume as if nothing had happened."
        ),
        epilog=f"{listed}\n{examples}",
        formatter_class=raw,
    )
    train.add_argument("experiment", metavar="EXPERIMENT", help="see below")
    train.add_argument("--preset", help="the algorithm's parameters (default: the experiment's first preset)")
    train.add_argument("--seed", type=int, help="of everything random (default 0)")
    train.add_argument("--episodes", type=int, help="to train (default: the experiment's)")
    train.add_argument(
        "--run", type=Path, metavar="DIR", help="folder of the run (default: a new one in runs/)"
    )
    train.add_argument(
        "--resume", action="store_true", help="continue the run in DIR with the settings stored there"
    )
    train.add_argument(
        "--env-runners", type=int, metavar="N", help="Ray actors that play (default 0: this process)"
    )
    train.add_argument(
        "--solver-workers", type=int, metavar="N", help="Ray actors that solve (default 0: this process)"
    )
    train.add_argument(
        "--evaluation-episodes", type=int, metavar="N", help="for each policy afterwards (default 100)"
    )
    train.add_argument("--no-wandb", action="store_true", default=None, help="leave Weights & Biases out")

    sweep = commands.add_parser(
        "sweep",
        help="train many times with Ray Tune",
        description=(
            "Train once for each seed with Ray Tune: side by side, with checkpoints, continued after a\n"
            "kill. --samples also draws learning rates; --asha stops the trials that learn worst."
        ),
        epilog=f"{listed}\n{examples}",
        formatter_class=raw,
    )
    sweep.add_argument("experiment", metavar="EXPERIMENT", help="see below")
    sweep.add_argument("--preset", help="the algorithm's parameters (default: the experiment's first preset)")
    sweep.add_argument("--seeds", type=int, default=5, help="how many (default 5)")
    sweep.add_argument("--episodes", type=int, help="of each trial (default: the experiment's)")
    sweep.add_argument("--samples", type=int, metavar="N", help="draws of the learning rates for each seed")
    sweep.add_argument("--asha", action="store_true", help="stop bad trials early (asynchronous halving)")
    sweep.add_argument(
        "--parallel", type=int, metavar="N", help="trials at once (default: as many as CPUs allow)"
    )
    sweep.add_argument(
        "--run", type=Path, metavar="DIR", help="folder of the sweep (default: a new one in runs/)"
    )
    sweep.add_argument("--resume", action="store_true", help="continue the sweep in DIR as it was begun")

    evaluate = commands.add_parser(
        "evaluate",
        help="deploy a trained policy on fresh episodes",
        description=(
            "Deploy the actor alone and SAFE on fresh episodes and count every violation. Needs no Ray.\n"
            "The newest whole checkpoint of a run is taken."
        ),
        epilog=examples,
        formatter_class=raw,
    )
    evaluate.add_argument("path", metavar="RUN_OR_CHECKPOINT", type=Path, help="a folder that training wrote")
    evaluate.add_argument("--episodes", type=int, default=100, help="for each policy (default 100)")
    evaluate.add_argument(
        "--seed", type=int, help="of the customers (default: one that training does not use)"
    )
    evaluate.add_argument(
        "--capacities",
        metavar="C",
        help="default, stress, or units such as 120,160,260 (default: as trained)",
    )

    report = commands.add_parser(
        "report",
        help="write one HTML file about one or several runs",
        description="Write one HTML file that needs nothing else; several runs, or a sweep, are averaged.",
        epilog=examples,
        formatter_class=raw,
    )
    report.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="folders of runs or sweeps")
    report.add_argument("--output", type=Path, metavar="FILE", help="default: report.html in the first RUN")
    return parser


def _train(options: argparse.Namespace, console: Console) -> None:
    from tune_configs.runs import Run, Settings

    chosen = experiment.find(options.experiment)
    if options.resume:
        path = _needs_run(options)
        given = [name for name in SETTINGS if getattr(options, name) is not None]
        if given:
            flag = f"--{given[0].replace('_', '-')}"
            raise InvalidSetting(
                flag,
                "is given with --resume",
                f"Leave it out: a resumed run takes its settings from {path / 'run.json'}.",
            )
        run = Run.open(path)
        if run.settings.experiment != options.experiment:
            raise InvalidSetting(
                "run",
                f"{path} belongs to {run.settings.experiment}",
                "Name that experiment, or give another folder.",
            )
    else:
        preset = _preset(options, chosen)
        seed = _at_least(0, "seed", options.seed, 0)
        name = f"{options.experiment}-{preset}-seed{seed}-{datetime.now():%Y%m%d-%H%M%S}"
        settings = Settings(
            experiment=options.experiment,
            preset=preset,
            seed=seed,
            episodes=_at_least(1, "episodes", options.episodes, chosen.EPISODES),
            env_runners=_at_least(0, "env-runners", options.env_runners, 0),
            solver_workers=_at_least(0, "solver-workers", options.solver_workers, 0),
            evaluation_episodes=_at_least(1, "evaluation-episodes", options.evaluation_episodes, 100),
            wandb=not options.no_wandb,
            name=name,
        )
        run = Run.create(options.run or Path("runs") / name, settings)
    console.print(f"Run: {run.path}", highlight=False, soft_wrap=True)
    # Ray and RLlib take seconds to import; errors above come at once.
    from tune_configs.training import evaluate_and_report, train

    try:
        train(run, console)
        evaluate_and_report(run, console)
    finally:
        run.close()


def _sweep(options: argparse.Namespace, console: Console) -> None:
    chosen = experiment.find(options.experiment)
    if options.resume:
        path = _needs_run(options)
        from tune_configs.sweep import resume

        resume(path, console, options.experiment)
        return
    preset = _preset(options, chosen)
    seeds = _at_least(1, "seeds", options.seeds, 5)
    numbers = {
        name: None if getattr(options, name) is None else _at_least(1, name, getattr(options, name), 1)
        for name in ("episodes", "samples", "parallel")
    }
    name = f"{options.experiment}-{preset}-sweep-{datetime.now():%Y%m%d-%H%M%S}"
    from tune_configs.sweep import begin

    begin(
        options.run or Path("runs") / name,
        console,
        options.experiment,
        preset,
        seeds,
        asha=options.asha,
        **numbers,
    )


def _evaluate(options: argparse.Namespace, console: Console) -> None:
    from tune_configs.runs import find_checkpoint

    episodes = _at_least(1, "episodes", options.episodes, 100)
    checkpoint, settings = find_checkpoint(options.path)
    chosen = experiment.find(settings["experiment"])
    seed = _at_least(0, "seed", options.seed, 1_000_000)
    result = chosen.evaluation(checkpoint, episodes, seed, options.capacities)
    console.print(f"Checkpoint: {checkpoint}", highlight=False, soft_wrap=True)
    console.print(result.table(chosen.PUBLISHED))


def _report(options: argparse.Namespace, console: Console) -> None:
    from tune_configs.report import write_report

    target = options.output or options.runs[0] / "report.html"
    console.print(f"Report: {write_report(options.runs, target)}", highlight=False, soft_wrap=True)


def _preset(options: argparse.Namespace, chosen: experiment.Experiment) -> str:
    preset = str(chosen.PRESETS[0] if options.preset is None else options.preset)
    if preset not in chosen.PRESETS:
        raise InvalidSetting(
            "preset", f"{preset!r} is unknown", f"Choose one of: {', '.join(chosen.PRESETS)}."
        )
    return preset


def _needs_run(options: argparse.Namespace) -> Path:
    if options.run is None:
        raise InvalidSetting("run", "is missing", "Say which one to continue: --resume --run DIR.")
    return Path(options.run)


def _at_least(least: int, name: str, value: int | None, default: int) -> int:
    chosen = default if value is None else value
    if chosen < least:
        raise InvalidSetting(name, f"is {chosen}", f"Give at least {least}.")
    return chosen


if __name__ == "__main__":
    sys.exit(main())

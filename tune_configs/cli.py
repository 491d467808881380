"""The command `solverl`: train, sweep, submit, evaluate, report. What it does is in the modules beside this one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from algorithms.common.checkpoint import CheckpointError
from envs.errors import InvalidSetting
from solver_pool.errors import SolverPoolError
from tune_configs import experiment, pool

SETTINGS = (
    "preset", "seed", "episodes", "env_runners", "solver_workers", "solver_nodes", "certify",
    "evaluation_episodes", "no_wandb",
)  # fmt: skip
"""Flags of `train` that a resumed run takes from its folder."""

_EXAMPLES = """\
examples:
  solverl train {name}                         train, evaluate, write a report
  solverl train {name} --preset paper --seed 3 --run runs/paper3
  solverl train {name} --resume --run runs/paper3
  solverl evaluate runs/paper3 --episodes 1000 --capacities stress
  solverl sweep {name} --seeds 5 --run runs/seeds
  solverl report runs/paper3 runs/other --output report.html
  solverl submit sweep {name} --seeds 5 --run /shared/seeds --address http://HOST:8265
  solverl pool status
  tensorboard --logdir runs
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit code: 0, 1 if a submitted job failed, 2 for what the user can mend, 130 after Ctrl-C.
    """
    console = Console(width=None if sys.stdout.isatty() else 120)
    options = _parser().parse_args(arguments)
    try:
        if options.command == "submit":
            return _submit(options, console)
        commands = {"train": _train, "sweep": _sweep, "evaluate": _evaluate, "report": _report}
        command = (commands | {"pool": pool.run})[options.command]
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
            "Train in one process, with checkpoints; then deploy what was learned on fresh episodes and write\n"
            "report.html into the run's folder. A run that was killed at any moment continues with --resume\n"
            "as if nothing had happened."
        ),
        epilog=f"{listed}\n{examples}",
        formatter_class=raw,
    )
    train.add_argument("experiment", metavar="EXPERIMENT", help="see below")
    train.add_argument("--preset", help="the algorithm's parameters (default: the experiment's first preset)")
    train.add_argument("--seed", type=int, help="of everything random (default 0)")
    train.add_argument("--episodes", type=int, help="to train (default: the experiment's)")
    train.add_argument(
        "--run", type=_folder, metavar="DIR", help="folder of the run (default: a new one in runs/)"
    )
    train.add_argument(
        "--resume", action="store_true", help="continue the run in DIR with the settings stored there"
    )
    _add_actors(train, "of the run")
    train.add_argument(
        "--certify",
        action="store_true",
        default=None,
        help="learn from, and deploy, maximisers that are proved to be global (omlt_ddpg_inventory)",
    )
    train.add_argument(
        "--evaluation-episodes",
        type=int,
        metavar="N",
        help="for each policy afterwards (default: the experiment's)",
    )
    train.add_argument("--no-wandb", action="store_true", default=None, help="leave Weights & Biases out")

    sweep = commands.add_parser(
        "sweep",
        help="train many times with Ray Tune",
        description=(
            "Train once for each seed with Ray Tune: side by side, with checkpoints, continued after a\n"
            "kill. --samples also draws learning rates, and tries numbers of cuts where there are any;\n"
            "--asha stops the trials that learn worst."
        ),
        epilog=f"{listed}\n{examples}",
        formatter_class=raw,
    )
    sweep.add_argument("experiment", metavar="EXPERIMENT", help="see below")
    sweep.add_argument("--preset", help="the algorithm's parameters (default: the experiment's first preset)")
    sweep.add_argument("--seeds", type=int, default=5, help="how many (default 5)")
    sweep.add_argument("--episodes", type=int, help="of each trial (default: the experiment's)")
    sweep.add_argument(
        "--samples", type=int, metavar="N", help="draws of the learning rates for each seed (and K)"
    )
    sweep.add_argument("--asha", action="store_true", help="stop bad trials early (asynchronous halving)")
    sweep.add_argument(
        "--parallel", type=int, metavar="N", help="trials at once (default: as many as CPUs allow)"
    )
    _add_actors(sweep, "of each trial")
    sweep.add_argument(
        "--run", type=_folder, metavar="DIR", help="folder of the sweep (default: a new one in runs/)"
    )
    sweep.add_argument("--resume", action="store_true", help="continue the sweep in DIR as it was begun")

    submit = commands.add_parser(
        "submit",
        help="run train or sweep as a job of a Ray cluster",
        description=(
            "Send this checkout and one command to a running Ray cluster and show the job's log. Ctrl-C\n"
            "detaches; the job goes on. The exit code is 0 if the job succeeded and 1 if it did not."
        ),
        epilog=examples,
        formatter_class=raw,
        parents=[_submit_options()],
        allow_abbrev=False,
    )
    submit.add_argument(
        "work",
        nargs=argparse.REMAINDER,
        metavar="[train|sweep] EXPERIMENT ...",
        help="the command and its flags; without a word before EXPERIMENT it is train",
    )

    evaluate = commands.add_parser(
        "evaluate",
        help="deploy a trained policy on fresh episodes",
        description=(
            "Deploy what was learned on fresh episodes beside references, and count every violation.\n"
            "Needs no Ray. The newest whole checkpoint of a run is taken."
        ),
        epilog=examples,
        formatter_class=raw,
    )
    evaluate.add_argument("path", metavar="RUN_OR_CHECKPOINT", type=Path, help="a folder that training wrote")
    evaluate.add_argument("--episodes", type=int, help="for each policy (default: the experiment's)")
    evaluate.add_argument(
        "--seed", type=int, help="of the episodes (default: one that training does not use)"
    )
    evaluate.add_argument(
        "--capacities",
        metavar="C",
        help="default, stress, or units such as 120,160,260 (omlt_ddpg_inventory; default: as trained)",
    )
    evaluate.add_argument(
        "--certify",
        action="store_true",
        default=None,
        help="prove every action of SAFE to be a global maximiser (omlt_ddpg_inventory; default: as trained)",
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

    pool.add_parser(commands)
    return parser


def _add_actors(parser: argparse.ArgumentParser, whose: str) -> None:
    parser.add_argument(
        "--env-runners", type=int, metavar="N", help=f"Ray actors {whose} that play (default 0: its process)"
    )
    parser.add_argument(
        "--solver-workers", type=int, metavar="N",
        help=f"Ray actors {whose} that solve (default 0: its process)",
    )  # fmt: skip
    parser.add_argument(
        "--solver-nodes",
        action="store_true",
        default=None,
        help="put solver workers on nodes with the resource `solver` only, one unit each",
    )


def _submit_options() -> argparse.ArgumentParser:
    """Flags of `submit` itself; they may stand before the command that is submitted, or anywhere in it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--address", metavar="URL", help="of the job server (default http://127.0.0.1:8265)")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="the cluster's token (default: where Ray looks)"
    )
    parser.add_argument(
        "--working-dir", type=Path, metavar="DIR", help="the checkout to send (default: the one in use)"
    )
    parser.add_argument(
        "--install", action="store_true", help="install the pinned packages on nodes that lack them"
    )
    parser.add_argument(
        "--follow", action=argparse.BooleanOptionalAction, default=True, help="show the log until the end"
    )
    return parser


def _folder(text: str) -> Path:
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text!r} is an address. Give a folder; where a cluster has only a bucket, mount it on every node."
        )
    return Path(text)


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
        _flags(options, chosen, "certify")
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
            solver_nodes=bool(options.solver_nodes),
            certify=bool(options.certify),
            evaluation_episodes=_at_least(
                1, "evaluation-episodes", options.evaluation_episodes, chosen.EVALUATION_EPISODES
            ),
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
    from tune_configs.runs import Actors

    actors = Actors(
        _at_least(0, "env-runners", options.env_runners, 0),
        _at_least(0, "solver-workers", options.solver_workers, 0),
        bool(options.solver_nodes),
    )
    name = f"{options.experiment}-{preset}-sweep-{datetime.now():%Y%m%d-%H%M%S}"
    from tune_configs.sweep import begin

    begin(
        options.run or Path("runs") / name,
        console,
        options.experiment,
        preset,
        seeds,
        asha=options.asha,
        actors=actors,
        **numbers,
    )


def _submit(options: argparse.Namespace, console: Console) -> int:
    options, command = _submit_options().parse_known_args(options.work, options)
    if command and command[0] in experiment.names():
        command = ["train", *command]
    if not command or command[0] not in ("train", "sweep"):
        raise InvalidSetting(
            "command",
            f"{' '.join(command[:1])!r} cannot be submitted",
            "Give train or sweep, an experiment and their flags: solverl submit sweep EXPERIMENT --run DIR.",
        )
    work = _parser().parse_args(command)  # a wrong flag is told here, not in the job's log
    experiment.find(work.experiment)
    if work.run is None or not work.run.is_absolute():
        raise InvalidSetting(
            "run",
            "is missing" if work.run is None else f"is {work.run}, a relative path",
            "A job runs in a copy of the checkout that is deleted after it. Give an absolute path on storage "
            "that every node of the cluster mounts: --run /shared/NAME.",
        )
    from cluster.submit import DEFAULT_ADDRESS, Submission, run

    submission = Submission(
        command, options.address or DEFAULT_ADDRESS, options.working_dir, options.token_file, options.install
    )
    return run(
        submission,
        options.follow,
        lambda line: console.print(line, highlight=False, soft_wrap=True, markup=False),
    )


def _evaluate(options: argparse.Namespace, console: Console) -> None:
    from tune_configs.runs import find_checkpoint

    if options.episodes is not None:
        _at_least(1, "episodes", options.episodes, 1)
    checkpoint, settings = find_checkpoint(options.path)
    options.experiment = settings["experiment"]
    chosen = experiment.find(options.experiment)
    flags = _flags(options, chosen, "capacities", "certify")
    episodes = chosen.EVALUATION_EPISODES if options.episodes is None else options.episodes
    seed = _at_least(0, "seed", options.seed, 1_000_000)
    result = chosen.evaluation(checkpoint, episodes, seed, **flags)
    console.print(f"Checkpoint: {checkpoint}", highlight=False, soft_wrap=True)
    console.print(result.table(chosen.PUBLISHED))
    for policy in result.policies:
        if "mean_gap" in policy.solver:
            solves, failures = policy.solver["solves"], policy.solver["failures"]
            console.print(
                f"{policy.name}: {solves - failures:,.0f} of {solves:,.0f} actions proved to be global maximisers "
                f"(mean gap {policy.solver['mean_gap']:.1e}).",
                highlight=False,
            )


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


def _flags(options: argparse.Namespace, chosen: experiment.Experiment, *names: str) -> dict[str, Any]:
    """Those of the flags that were given, which the experiment has to understand."""
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    for name in given:
        if name not in chosen.FLAGS:
            raise InvalidSetting(f"--{name}", f"means nothing to {options.experiment}", "Leave it out.")
    return given


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

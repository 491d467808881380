"""Tabular experiments on the command line: train, resume, evaluate, report, sweep."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from algorithms.crl.names import KINDS
from envs.errors import InvalidSetting
from tune_configs import cli, experiment, sweep, tracking
from tune_configs.evaluation import Evaluation
from tune_configs.runs import Run, read

GRID, LAKE = "crl_grid_world", "crl_frozen_lake"
EPISODES = 25


@pytest.fixture(scope="module", autouse=True)
def offline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        # One Ray for all runs of this module; each would start its own.
        if not ray.is_initialized():
            ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
        ray.shutdown()


def train(name: str, path: Path, *more: str) -> Path:
    flags = ["--seed", "3", "--episodes", str(EPISODES), "--evaluation-episodes", "20", *more]
    assert cli.main(["train", name, *flags, "--run", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(GRID, tmp_path_factory.mktemp("runs") / "grid")


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(LAKE, tmp_path_factory.mktemp("runs") / "lake")


def evaluated(run: Path) -> Evaluation:
    found = read(run)[0].evaluation
    assert found is not None
    return found


def test_online_crl_trains_and_deploys(grid: Path) -> None:
    record = read(grid)[0]
    assert [e.count for e in record.episodes] == [1] * EPISODES
    last = record.iterations[-1]
    assert (last["episode"], last["samples"], last["crl/infeasible"]) == (EPISODES, 10 * EPISODES, 0)
    assert sum(line["solver/solves"] for line in record.iterations) == EPISODES
    assert last["crl/violation"] >= 0
    rows = {row.name: row for row in evaluated(grid).policies}
    best = rows["optimal (knows the model)"].more
    assert best["exact value"] == pytest.approx([3.23193], abs=1e-5)
    assert best["exact cost"] == pytest.approx([2.0])
    assert rows["no budget (knows the model)"].more["exact value"] == pytest.approx([4.03516], abs=1e-5)
    learned = rows["OnlineCRL, deployed"]
    assert learned.more["exact value"] == pytest.approx([last["crl/value"]])
    assert learned.more["gap"] == pytest.approx([last["crl/value_gap"]])
    spread = np.std(learned.rewards) / np.sqrt(20)
    assert abs(np.mean(learned.rewards) - learned.more["exact value"][0]) < 5 * spread + 1e-9


def test_generative_runs_count_samples_as_episodes(tmp_path: Path) -> None:
    record = read(train(GRID, tmp_path / "run", "--preset", "generative_2"))[0]
    # 36 pairs, 5 samples of each in an iteration: as many as 18 episodes of ten steps.
    assert [e.count for e in record.episodes] == [18, 18]
    assert record.iterations[-1]["samples"] == 360
    assert evaluated(record.path).policies[0].name == "OptimisticGMBL, deployed"


def test_frozen_lake_trains_and_deploys(lake: Path) -> None:
    record = read(lake)[0]
    assert record.iterations[-1]["samples"] == 40 * EPISODES
    assert all(e.cost[0] in (0.0, 1.0) for e in record.episodes)
    assert "StateCost(states=(5, 7, 11, 12))" in record.parameters["env_config"]
    rows = {row.name: row for row in evaluated(lake).policies}
    assert rows["optimal (knows the model)"].more["exact cost"] == pytest.approx([0.05])
    assert set(evaluated(lake).drawing["occupations"]) == {"OnlineCRL, deployed", "optimal (knows the model)"}


def test_a_stopped_run_continues_the_same(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "stopped"
    log, save = tracking.Tracker.log, Run.save_checkpoint

    def stop(self: Any, figures: Any) -> None:
        if figures["iteration"] == 3:
            raise KeyboardInterrupt
        log(self, figures)

    with monkeypatch.context() as patch:
        patch.setattr(tracking.Tracker, "log", stop)
        patch.setattr(experiment.find(GRID), "CHECKPOINT_EVERY", 0.0)
        patch.setattr(
            Run, "save_checkpoint", lambda self, n, write: save(self, n, write) if n <= 100 else None
        )
        flags = ["--seed", "3", "--episodes", str(EPISODES), "--evaluation-episodes", "20", "--no-wandb"]
        assert cli.main(["train", GRID, *flags, "--run", str(run)]) == 130
    assert [p.name for p in Run.open(run).checkpoints()] == ["000000100", "000000050"]
    assert cli.main(["train", GRID, "--resume", "--run", str(run)]) == 0
    ours, theirs = read(run)[0], read(grid)[0]
    assert ours.episodes == theirs.episodes
    for name in ("samples", "crl/value", "crl/violation", "solver/solves"):
        assert [i[name] for i in ours.iterations] == [i[name] for i in theirs.iterations]
    assert [row.rewards for row in evaluated(run).policies] == [
        row.rewards for row in evaluated(grid).policies
    ]


@pytest.mark.parametrize("name", ["grid", "lake"])
def test_logs_and_reports(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = request.getfixturevalue(name)
    accumulator: Any = EventAccumulator(str(run))
    accumulator.Reload()
    assert {"crl/value_gap", "crl/violation", "solver/solves"} <= set(accumulator.Tags()["scalars"])
    (offline,) = run.glob("wandb/offline-run-*/*.wandb")
    assert b"crl/violation" in offline.read_bytes()
    both = tmp_path / "both.html"
    assert cli.main(["report", str(run), str(run), "--output", str(both)]) == 0
    for file in (run / "report.html", both):
        page = file.read_text()
        for figure in ("learning curve", "distance to the optimum", "tabular policies", "deployment"):
            assert page.count(f'aria-label="{figure}"') == 1
        assert "exact value" in page
        assert "Budgets hold for expected costs" in page
        assert "violating steps" not in page
        assert "optimistic plan over the ball" in page


def test_evaluation_needs_no_ray(lake: Path) -> None:
    script = (
        "import sys; from tune_configs.cli import main;"
        f"code = main(['evaluate', {str(lake)!r}, '--episodes', '3']);"
        "sys.exit(code or 10 * ('ray' in sys.modules))"
    )
    environment = {**os.environ, "COLUMNS": "160"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "17 states, 4 actions, 40 steps" in done.stdout
    assert "budget" in done.stdout


@pytest.mark.learning
def test_a_sweep_over_radii(tmp_path: Path) -> None:
    path = tmp_path / "sweep"
    environment = {**os.environ, "WANDB_MODE": "disabled", "COLUMNS": "400"}
    script = f"""
import tune_configs.crl_grid_world as grid, sys
from tune_configs.cli import main
grid.EVALUATION_EPISODES = 5
sys.exit(main("sweep {GRID} --seeds 1 --samples 1 --episodes 10 --run".split() + [{str(path)!r}]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    header = next(line for line in done.stdout.splitlines() if line.startswith("┃"))
    assert header.replace("┃", " ").split() == ["trial", "seed", "radius", "reward", "episodes", "state"]
    records = read(path)
    assert sorted(record.varied["radius"] for record in records) == ["author", "mp"]
    assert all(record.iterations[-1]["samples"] == 100 for record in records)
    assert all(record.iterations[-1]["crl/infeasible"] == 0 for record in records)
    assert 'aria-label="distance to the optimum"' in (path / "report.html").read_text()


def test_both_experiments_are_whole() -> None:
    for name in (GRID, LAKE):
        chosen = experiment.find(name)
        assert experiment.Goal.of(chosen, 5) == experiment.Goal("env_runners/num_episodes_lifetime", 5)
        for preset in chosen.PRESETS:
            config = chosen.config(preset, 1)
            config.validate()
            chosen.fit(config, EPISODES)
            assert EPISODES % config.episodes_per_iteration == 0
        with pytest.raises(InvalidSetting, match="preset: 'x' is unknown"):
            chosen.config("x")
    assert len(experiment.find(GRID).PRESETS) == 3 * len(KINDS)
    config = experiment.find(GRID).config("lagrangian_1b", 1)
    assert config.env_config == {"scenario": "1b"}
    space = experiment.find(GRID).param_space("lagrangian", 2, True).to_dict()
    assert sweep.varied(space) == ["seed", "price_rate"]

"""BOO from the command line: training, resuming, deployment, reports and a sweep, on small shops and knapsacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from algorithms.common.episodes import EpisodeRecord
from envs.job_shop import JobShop, check_schedule
from tune_configs import boo_job_shop, boo_packing, cli, experiment, figures, sweep, tracking
from tune_configs.evaluation import Columns, Evaluation, PolicyResult
from tune_configs.metrics import number, scalars
from tune_configs.runs import Run, choice, find_checkpoint, read
from tune_configs.training import episode_lines, last_reward

PACKING, SHOP = "boo_packing", "boo_job_shop"
EPISODES = 20
"""Three iterations of eight: the last one runs over."""


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """One local Ray for this file, presets of a hundredth of their sizes, W&B without a key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("NETRC", os.devnull)
        for name in ("WANDB_API_KEY", "WANDB_MODE"):
            patch.delenv(name, raising=False)
        import ray
        import torch

        from algorithms.boo import presets

        def shrunk(preset: Any, **env_config: Any) -> Any:
            def smaller() -> Any:
                config = preset().environment(env_config=env_config)
                config.env_runners(num_envs_per_env_runner=8)
                return config.training(group_size=4, width=16, rounds=2)

            return smaller

        patch.setattr(presets, "packing_tuned", shrunk(presets.packing_tuned, items=10))
        patch.setattr(presets, "job_shop_tuned", shrunk(presets.job_shop_tuned, jobs=8, months=8, copies=1))
        patch.setattr(boo_packing, "CHECKPOINT_EVERY", 0.0)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        ray.shutdown()
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()
        torch.set_num_threads(threads)


def train(name: str, path: Path) -> Path:
    flags = ["--seed", "3", "--episodes", str(EPISODES), "--evaluation-episodes", "4"]
    assert cli.main(["train", name, *flags, "--run", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def packing(tmp_path_factory: pytest.TempPathFactory, small: None) -> Path:
    return train(PACKING, tmp_path_factory.mktemp("runs") / "packing")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, small: None) -> Path:
    return train(SHOP, tmp_path_factory.mktemp("runs") / "shop")


def evaluated(run: Path) -> Evaluation:
    found = read(run)[0].evaluation
    assert found is not None
    return found


def test_packing_trains_and_deploys(packing: Path) -> None:
    record = read(packing)[0]
    assert [e.count for e in record.episodes] == [8, 8, 8]
    assert record.iterations[-1]["episode"] == 24
    assert record.iterations[-1]["plans/checked"] == record.iterations[-1]["samples"] == 72
    assert record.iterations[-1]["plans/infeasible"] == 0
    rows = (packing / "episodes.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["episode", "8", "16", "24"]
    policies = {row.name: row for row in evaluated(packing).policies}
    last, best = policies["BOO, last plan"], policies["BOO, best plan (objective observable)"]
    assert (last.violations, last.steps, best.steps) == (0, 12, 12)
    assert all(a <= b <= 1.0 for a, b in zip(last.rewards, best.rewards, strict=True))
    linear = policies["linearised objective"]
    np.testing.assert_allclose(linear.more["reward (12)"], 1.0)
    # Fractions and rewards are of the same plans.
    np.testing.assert_allclose(np.divide(last.rewards, linear.rewards), last.more["reward (12)"])
    assert all(row.violations == 0 and row.ms_per_action is not None for row in policies.values())


def test_job_shop_trains_and_deploys(shop: Path) -> None:
    record = read(shop)[0]
    assert sum(e.count for e in record.episodes) == record.iterations[-1]["episode"] == 24
    assert record.iterations[-1]["plans/infeasible"] == 0
    found = evaluated(shop)
    assert "J = 8, T = 8, M = 1" in found.setting
    assert [row.name for row in found.policies][:2] == ["BOO", "greedy MILP"]
    for row in found.policies:
        # A plan for each solve, and an executed schedule for each episode.
        assert row.violations == 0
        assert row.steps >= 8
    assert found.policies[0].steps == found.policies[0].solver["solves"] + 4
    data = found.drawing["shop"]
    instance = JobShop(np.array(data["durations"]), np.array(data["classes"]), data["months"], data["copies"])
    assert len(found.drawing["schedules"]) == 2
    for title, bars in found.drawing["schedules"].items():
        start, end = np.full((8, 3), -1), np.zeros((8, 3), dtype=np.int64)
        for machine, _, job, first, last, _ in bars:
            start[job, machine], end[job, machine] = first, last
        assert check_schedule(instance, start, end) == []
        finished = (end[:, 2] > 0) & (end[:, 2] <= 8)
        assert title.endswith(f"profit {instance.profits[finished].sum():.1f}")


def test_a_stopped_run_continues_the_same(
    packing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in its second iteration: the checkpoint of the first is followed by the same two iterations."""
    run = tmp_path / "stopped"
    log = tracking.Tracker.log

    def stop(self: Any, figures: Any) -> None:
        if figures["iteration"] == 2:
            raise KeyboardInterrupt
        log(self, figures)

    with monkeypatch.context() as patch:
        patch.setattr(tracking.Tracker, "log", stop)
        patch.setattr(Run, "save_checkpoint", first_only(Run.save_checkpoint))
        flags = ["--seed", "3", "--episodes", str(EPISODES), "--evaluation-episodes", "4", "--no-wandb"]
        assert cli.main(["train", PACKING, *flags, "--run", str(run)]) == 130
    assert [p.name for p in Run.open(run).checkpoints()] == ["000000024"]
    assert cli.main(["train", PACKING, "--resume", "--run", str(run)]) == 0
    ours, theirs = read(run)[0], read(packing)[0]
    assert ours.episodes == theirs.episodes
    for name in ("samples", "episode", "plans/checked", "policy_loss", "value_loss"):
        assert [i[name] for i in ours.iterations] == [i[name] for i in theirs.iterations]
    assert json.loads((run / "episodes.json").read_text()) == json.loads(
        (packing / "episodes.json").read_text()
    )
    assert [row.rewards for row in evaluated(run).policies] == [
        row.rewards for row in evaluated(packing).policies
    ]


def first_only(save: Any) -> Any:
    def saving(self: Run, samples: int, write: Any) -> None:
        if samples == 24:
            save(self, samples, write)

    return saving


def test_checkpoints_are_not_written_more_often_than_worthwhile(shop: Path) -> None:
    """The small shop trains within the ten seconds after which one would be due."""
    written = len(Run.open(shop).checkpoints())
    assert 1 <= written <= 1 + int(read(shop)[0].iterations[-1]["seconds"] // 10.0)


@pytest.mark.parametrize("name", ["packing", "shop"])
def test_logs(name: str, request: pytest.FixtureRequest) -> None:
    """TensorBoard and W&B's offline files have the masters' gap and seconds, and the count of infeasible plans."""
    run = request.getfixturevalue(name)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator: Any = EventAccumulator(str(run))
    accumulator.Reload()
    wanted = {"master/gap", "master/seconds", "master/seconds_p95", "plans/infeasible", "policy_loss", "kl"}
    assert wanted <= set(accumulator.Tags()["scalars"])
    (offline,) = run.glob("wandb/offline-run-*/*.wandb")
    data = offline.read_bytes()
    assert b"master/gap" in data
    assert b"plans/infeasible" in data


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("packing", ("learning curve", "master solve time", "deployment")),
        ("shop", ("learning curve", "master solve time", "deployment", "gantt")),
    ],
)
def test_reports(name: str, wanted: tuple[str, ...], request: pytest.FixtureRequest, tmp_path: Path) -> None:
    run, both = request.getfixturevalue(name), tmp_path / "both.html"
    assert cli.main(["report", str(run), str(run), "--output", str(both)]) == 0
    for file in (run / "report.html", both):
        page = file.read_text()
        for figure in wanted:
            assert page.count(f'aria-label="{figure}"') == 1
        assert "infeasible plans in training" in page
        assert "24 training episodes" in page
        assert 'aria-label="distance to capacity"' not in page
        assert "certified" not in page


def test_evaluation_needs_no_ray(packing: Path) -> None:
    script = (
        "import sys; from tune_configs.cli import main;"
        f"code = main(['evaluate', {str(packing)!r}, '--episodes', '3']);"
        "sys.exit(code or 10 * ('ray' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "0 of 9" in done.stdout
    assert "MINLP" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", PACKING, "--certify"], "--certify: means nothing to boo_packing. Leave it out."),
        (["train", SHOP, "--preset", "x"], "preset: 'x' is unknown. Choose one of: tuned, paper."),
        (["evaluate", "{run}", "--capacities", "stress"], "--capacities: means nothing to boo_packing."),
        (["evaluate", "{run}", "--certify"], "--certify: means nothing to boo_packing."),
        (["sweep", PACKING, "--resume", "--run", "{run}"], "is a training run"),
    ],
)
def test_errors(
    arguments: list[str], expected: str, packing: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([a.format(run=packing) for a in arguments]) == 2
    assert expected in capsys.readouterr().err


def test_a_sweep_over_the_number_of_cuts(tmp_path: Path) -> None:
    """In a process of its own, whose trials are whole ones: no preset is patched there."""
    path = tmp_path / "sweep"
    environment = {**os.environ, "WANDB_MODE": "disabled", "COLUMNS": "400"}
    script = f"""
import tune_configs.boo as boo, tune_configs.boo_packing as packing, sys
from tune_configs.cli import main
boo.CUTS, packing.EVALUATION_EPISODES = (1, 2), 2
flags = "--seeds 1 --samples 1 --episodes 16 --asha".split()
sys.exit(main(["sweep", "{PACKING}", *flags, "--run", {str(path)!r}]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    header = next(line for line in done.stdout.splitlines() if line.startswith("┃"))
    assert header.replace("┃", " ").split() == ["trial", "seed", "cuts", "lr", "reward", "episodes", "state"]
    records = read(path)
    assert sorted(record.varied["env_config/cuts"] for record in records) == ["1", "2"]
    for record in records:
        steps = 16 * int(record.varied["env_config/cuts"])
        assert record.iterations[-1]["samples"] == record.iterations[-1]["plans/checked"] == steps
        assert find_checkpoint(record.path / "checkpoint_000000")[1]["experiment"] == PACKING
    assert any(record.evaluation for record in records)
    page = (path / "report.html").read_text()
    assert "<th>cuts</th>" in page
    assert 'aria-label="master solve time"' in page


# --- Pieces ---------------------------------------------------------------------------------------------------


def test_both_experiments_are_whole() -> None:
    from algorithms.boo import presets

    assert {PACKING, SHOP} <= set(experiment.names())
    for name in (PACKING, SHOP):
        chosen = experiment.find(name)
        assert experiment.Goal.of(chosen, 5) == experiment.Goal("env_runners/num_episodes_lifetime", 5)
        for preset in chosen.PRESETS:
            chosen.config(preset, 1).validate()
    # Over these the learning rate falls.
    assert (boo_packing.EPISODES, boo_job_shop.EPISODES) == (
        presets.PACKING_EPISODES,
        presets.JOB_SHOP_EPISODES,
    )


def test_goals() -> None:
    chosen = experiment.find("omlt_ddpg_inventory")
    goal = experiment.Goal.of(chosen, 11)
    assert (goal.total, goal.unit) == (330, "samples")
    assert goal.seen({"num_env_steps_sampled_lifetime": 60.0}) == 60
    goal = experiment.Goal("env_runners/num_episodes_lifetime", 5)
    assert goal.unit == "episodes"
    assert goal.seen({"env_runners": {"num_episodes_lifetime": 3.0}}) == 3
    assert goal.seen({}) == goal.seen({"env_runners": None}) == 0


def test_a_short_run_plays_what_it_was_asked_for() -> None:
    for episodes, runners, expected in ((1, 0, 4), (5, 0, 8), (100, 0, 8), (8, 2, 4), (100, 2, 8)):
        config = boo_packing.config()
        config.env_runners(num_env_runners=runners)
        boo_packing.fit(config, episodes)
        assert config.num_envs_per_env_runner == expected


def test_what_a_sweep_varies() -> None:
    space = boo_packing.param_space(seeds=2, rates=True).to_dict()
    assert sweep.varied(space) == ["seed", "env_config/cuts", "lr"]
    assert space["env_config"]["items"] == 10
    assert sweep.varied(boo_packing.param_space(seeds=2).to_dict()) == ["seed"]
    inventory = experiment.find("omlt_ddpg_inventory").param_space("tuned", 2, True).to_dict()
    assert sweep.varied(inventory) == ["seed", "critic_lr", "actor_lr"]
    config = {"lr": [[0, 1e-3], [9, 1e-4]], "env_config": {"cuts": 3}, "seed": 0}
    assert [choice(config, n) for n in ("seed", "env_config/cuts", "lr", "x/y")] == ["0", "3", "0.001 …", "–"]


def test_records_of_several_episodes() -> None:
    episodes = [EpisodeRecord(1.0, 2, count=8), EpisodeRecord(3.0, 2, count=4)]
    assert [line["episode"] for line in episode_lines(episodes, 0)] == [8, 12]
    assert [line["episode"] for line in episode_lines(episodes, 1)] == [12]
    assert last_reward(episodes) == pytest.approx((8 * 1.0 + 4 * 3.0) / 12)
    assert last_reward(episodes, 4) == 3.0
    assert np.isnan(last_reward([]))
    assert figures.record_name([episodes]) == "iteration"
    assert [number(v) for v in (1234.56, 0.98765, 5.0)] == ["1,234.6", "0.9877", "5"]


def test_ratios_are_paired() -> None:
    rng = np.random.default_rng(0)
    theirs = rng.normal(5.0, 1.0, 200)
    reference = PolicyResult.of("reference", theirs.tolist(), (), 0, 10)
    better = PolicyResult.of("better", (1.1 * theirs).tolist(), (), 0, 10, more={"jobs": [2.0, 4.0]})
    twice = PolicyResult.of("twice", np.tile(1.1 * theirs, 2).tolist(), (), 0, 10)
    for row in (better, twice):
        # The same luck in both: the interval closes, however much episodes differ.
        assert row.ratio(reference) == pytest.approx((1.1, 1.1, 1.1))
    assert PolicyResult.of("other", [1.0], (), 0, 1).ratio(reference) is None
    columns = Columns("profit", "", 2, reference="reference")
    rows = [better, reference]
    assert columns.head(rows)[:4] == ("policy", "profit", "over reference [95 %]", "jobs")
    assert columns.cells(better, rows)[2:4] == ("1.100 [1.100, 1.100]", "3.00 ± 1.00")
    assert columns.cells(reference, rows)[2:4] == ("–", "–")
    assert columns.cells(PolicyResult("paper", (1.8, float("nan"))), rows)[1] == "1.80"


def test_scalars_of_masters() -> None:
    result = {
        "env_runners": {
            "num_episodes_lifetime": 8.0,
            "master": {"seconds": 0.01, "seconds_p95": 0.02, "gap": 1e-3, "stood": 1.0, "solves": 9.0},
            "plans": {"checked": 9, "infeasible": 0},
        },
        "learners": {"default_policy": {"policy_loss": 1.0, "kl": float("nan")}},
    }
    assert scalars(result) == {
        "episode": 8.0, "policy_loss": 1.0, "master/seconds": 0.01, "master/seconds_p95": 0.02, "master/gap": 1e-3,
        "master/stood": 1.0, "plans/checked": 9.0, "plans/infeasible": 0.0,
    }  # fmt: skip

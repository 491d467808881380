"""The evaluation's counts, by playing the environment itself, and the errors of the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from envs.errors import InvalidSetting
from envs.inventory import DEFAULT, STRESS, MultiEchelonInventory
from envs.inventory.evaluation import demand_paths
from tune_configs import cli, experiment, omlt_ddpg_inventory, tracking
from tune_configs.evaluation import Columns, Evaluation, PolicyResult
from tune_configs.metrics import scalars

NAME = "omlt_ddpg_inventory"


def greedy(observations: np.ndarray) -> np.ndarray:
    """Order 80 everywhere: soon above the capacities."""
    return np.full((len(observations), 3), 80.0)


def test_counts_are_those_of_the_environment() -> None:
    episodes, seed = 7, 5
    row = omlt_ddpg_inventory.measured("greedy", greedy, DEFAULT, episodes, seed)
    rewards, penalties, violations = [], [], 0
    for demand in demand_paths(DEFAULT, episodes, seed):
        env = MultiEchelonInventory(DEFAULT, user_demand=demand)
        env.reset(seed=0)
        reward, penalty, over = 0.0, 0.0, False
        while not over:
            _, r, over, _, info = env.step(np.full(3, 80.0))
            reward, penalty = reward + r, penalty + float(info["cost"].sum())
            violations += int((info["peak_excess"] > 0).any())
        rewards.append(reward)
        penalties.append(penalty)
    assert violations > 0
    assert row.violations == violations
    assert row.steps == episodes * 30
    np.testing.assert_allclose(row.rewards, rewards, rtol=1e-12)
    np.testing.assert_allclose(row.penalties, penalties, rtol=1e-12)
    assert row.reward == pytest.approx((np.mean(rewards), np.std(rewards)))


def test_evaluation_is_stored_and_shown(tmp_path: Path) -> None:
    row = PolicyResult.of("ours", [1.0, 3.0], [0.0, 4.0], 2, 60, ms_per_action=0.5, solver={"solves": 60.0})
    found = Evaluation(2, 9, "capacities 1, 2, 3", [row, PolicyResult("theirs", (1.0, 0.1))])
    found.save(tmp_path / "evaluation.json")
    assert Evaluation.load(tmp_path / "evaluation.json") == found
    assert Columns().cells(row, [row]) == ("ours", "2.0 ± 1.0", "2.0 ± 2.0", "2 of 60", "10.1 %", "0.50")
    console = Console(width=140, record=True, file=(tmp_path / "out").open("w"))
    console.print(found.table(omlt_ddpg_inventory.PUBLISHED))
    text = console.export_text()
    assert "2 of 60" in text
    assert "433.9 ± 23.9" in text


def test_capacities() -> None:
    assert omlt_ddpg_inventory.chain(None, STRESS) == STRESS
    assert omlt_ddpg_inventory.chain("stress") == STRESS
    assert omlt_ddpg_inventory.chain("default", STRESS) == DEFAULT
    assert omlt_ddpg_inventory.chain("130,170,270").storage_capacity == (130, 170, 270)
    for bad in ("", "1,2", "a,b,c", "120.5,160,260", "50,160,260", "nan,160,260"):
        with pytest.raises(InvalidSetting, match="capacities"):
            omlt_ddpg_inventory.chain(bad)


def test_scalars_of_a_result() -> None:
    tally = {"solves": 8.0, "status_optimal": 7.0, "solver_seconds": 0.3}
    result = {
        "num_env_steps_sampled_lifetime": 60.0,
        "env_runners": {
            "episode_return_mean": float("nan"),
            "num_env_steps_sampled": 30,
            "shield": {"certified": 29.0, "repaired": 1.0},
        },
        "learners": {"default_policy": {"critic_loss": np.float64(2.0)}},
        "solver": {"interior_point": tally, "daqp": {"solves": 1.0, "status_optimal": 1.0}, "gap": 1e-3},
    }
    found = scalars(result)
    assert "reward_mean" not in found
    assert found["samples"] == 60.0
    assert found["shield/fallback"] == 0.0
    assert (found["solver/solves"], found["solver/failures"]) == (9.0, 1.0)
    assert found["solver/seconds_per_step"] == pytest.approx(0.01)
    assert found["solver/gap"] == 1e-3
    assert scalars({}) == {}


def test_wandb_mode(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert tracking.prepare_wandb(False) == "disabled"
    assert tracking.prepare_wandb(True) == "offline"
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setattr(tracking, "_reachable", lambda: False)
    assert tracking.prepare_wandb(True) == "offline"
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr(tracking, "_reachable", lambda: True)
    assert tracking.prepare_wandb(True) == "online"


def test_experiments_are_found() -> None:
    assert NAME in experiment.names()
    assert experiment.find(NAME).EPISODE_LENGTH == 30
    assert experiment.find(NAME).STOP == {"num_env_steps_sampled_lifetime": 4500}


@pytest.mark.parametrize("command", [[], ["train"], ["sweep"], ["evaluate"], ["report"]])
def test_help_teaches(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([*command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    assert "solverl" in text
    assert command in (["evaluate"], ["report"]) or "OMLT-DDPG and SAFE on the three-stage" in text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["train", "nothing"],
            "experiment: 'nothing' is unknown. Choose one of: boo_job_shop, boo_packing, crl_frozen_lake,",
        ),
        (["train", NAME, "--preset", "x"], "preset: 'x' is unknown. Choose one of: tuned, paper."),
        (["train", NAME, "--episodes", "0"], "episodes: is 0. Give at least 1."),
        (["train", NAME, "--seed", "-1"], "seed: is -1. Give at least 0."),
        (["train", NAME, "--env-runners", "-1"], "env-runners: is -1."),
        (["train", NAME, "--run", "{full}"], "is not empty. Continue it with --resume"),
        (["train", NAME, "--run", "{file}/run"], "cannot be written"),
        (["train", NAME, "--resume"], "run: is missing."),
        (["train", NAME, "--resume", "--run", "{full}"], "has no run.json"),
        (["train", NAME, "--resume", "--run", "{full}", "--seed", "1"], "--seed: is given with --resume"),
        (["sweep", NAME, "--seeds", "0"], "seeds: is 0. Give at least 1."),
        (["sweep", NAME, "--run", "{full}"], "is not empty."),
        (["sweep", NAME, "--run", "{file}/run"], "cannot be written"),
        (["sweep", NAME, "--resume", "--run", "{full}"], "has no run.json"),
        (["evaluate", "{file}"], "checkpoint: {file} is not a folder."),
        (["evaluate", "{full}"], "MANIFEST.json, so it was never finished."),
        (["evaluate", "{full}", "--episodes", "0"], "episodes: is 0."),
        (["report", "{full}"], "has no run.json. Give the folder"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full, file = tmp_path / "full", tmp_path / "file"
    full.mkdir()
    (full / "something").touch()
    file.touch()
    names = {"full": str(full), "file": str(file)}
    assert cli.main([a.format(**names) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"solverl {arguments[0]}: error: ")
    assert expected.format(**names) in error
    assert error.count("\n") == 1
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "full", "something"]

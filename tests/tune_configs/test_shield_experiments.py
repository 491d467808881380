"""The experiments with shielded PPO and SAC: training, its record, resuming, deployment, the report."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from algorithms.common.deployed import DeployedPolicy
from envs.errors import InvalidSetting
from envs.inventory import DEFAULT, InventorySafeSet
from envs.inventory.dynamics import initial_state
from tune_configs import cli, shield_inventory, shield_pendulum
from tune_configs.runs import find_checkpoint, read
from tune_configs.shield import PRESETS


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    import ray

    ray.shutdown()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def trained(folder: Path, experiment: str, preset: str, episodes: int) -> Path:
    run = folder / f"{experiment}-{preset}"
    flags = ["--preset", preset, "--episodes", str(episodes), "--evaluation-episodes", "5", "--no-wandb"]
    assert cli.main(["train", experiment, *flags, "--run", str(run)]) == 0
    return run


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory: pytest.TempPathFactory, cluster: None) -> Path:
    """Four episodes of PPO on the pendulum, in one iteration."""
    return trained(tmp_path_factory.mktemp("runs"), "shield_pendulum", "ppo", 4)


def test_training_is_recorded_and_counted(pendulum: Path) -> None:
    record = read(pendulum)[0]
    last = record.iterations[-1]
    assert [e.length for e in record.episodes] == [200] * 4
    assert sum(e.unsafe_steps for e in record.episodes) == 0
    assert last["shield/certified"] + last["shield/repaired"] == last["samples"] == 800
    assert last["shield/repaired"] > 0
    assert last["shield/fallback"] == last["shield/unsafe"] == 0
    mean = np.mean([e.reward for e in record.episodes])
    assert last["reward_mean"] == pytest.approx(mean)
    page = (pendulum / "report.html").read_text()
    assert "Violations while training" in page
    assert "<td>0 of 800</td>" in page
    assert "Grey rows" not in page


def test_the_same_policy_breaks_the_limit_without_the_shield(pendulum: Path) -> None:
    evaluation = read(pendulum)[0].evaluation
    assert evaluation is not None
    behind, without = evaluation.policies
    assert (behind.violations, behind.steps) == (0, 1000)
    assert max(behind.more["fastest [rad/s]"]) <= shield_pendulum.LIMIT
    assert behind.solver["certified"] + behind.solver["repaired"] == 1000
    assert behind.solver["largest_row_violation"] <= 1e-6
    assert without.violations is not None
    assert without.violations > 0
    assert without.solver["unsafe"] > 0


def test_a_resumed_run_goes_on_with_its_record(pendulum: Path) -> None:
    before = read(pendulum)[0].episodes
    settings = json.loads((pendulum / "run.json").read_text())
    (pendulum / "run.json").write_text(json.dumps({**settings, "episodes": 5}))
    assert cli.main(["train", "shield_pendulum", "--resume", "--run", str(pendulum)]) == 0
    record = read(pendulum)[0]
    assert len(record.episodes) == 9  # an iteration of 5 episodes follows the one of 4
    assert record.episodes[:4] == before
    assert json.loads((pendulum / "episodes.json").read_text())[0]["reward"] == before[0].reward
    last = record.iterations[-1]
    assert last["shield/certified"] + last["shield/repaired"] == last["samples"] == 9 * 200


def test_deployment_needs_no_ray(pendulum: Path) -> None:
    script = (
        "import sys; from tune_configs.cli import main;"
        f"code = main(['evaluate', {str(pendulum)!r}, '--episodes', '3']);"
        "sys.exit(code or 10 * ('ray' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 of 600" in done.stdout


def test_sac_on_the_inventory_chain(tmp_path: Path) -> None:
    run = trained(tmp_path, "shield_inventory", "sac", 4)
    record = read(run)[0]
    last = record.iterations[-1]
    assert len(record.episodes) == 4
    assert all(e.unsafe_steps == 0 and min(e.distance_to_capacity) >= 0.0 for e in record.episodes)
    assert last["shield/certified"] + last["shield/repaired"] == last["samples"] == 120
    assert last["shield/unsafe"] == 0
    policy = DeployedPolicy.from_checkpoint(find_checkpoint(run)[0])
    assert policy.squashed
    orders = policy(initial_state(DEFAULT, 1).copy(order="C") / shield_inventory.UNIT)
    np.testing.assert_array_equal(orders, np.round(orders))


def test_unshielded_training_executes_and_counts(tmp_path: Path) -> None:
    run = trained(tmp_path, "shield_inventory", "ppo-unshielded", 16)
    record = read(run)[0]
    last = record.iterations[-1]
    assert last["shield/unsafe"] > 0
    assert last["shield/repaired"] == last["shield/fallback"] == 0
    broken = sum(e.unsafe_steps for e in record.episodes)
    assert 0 < broken <= 480
    assert f"<td>{broken:,} of 480</td>" in (run / "report.html").read_text()


def test_scaled_observations_have_the_same_rows() -> None:
    env = shield_inventory.ScaledInventory({})
    seen, _ = env.reset(seed=0)
    scaled = env.safe_set.rows(seen[None])
    exact = InventorySafeSet(DEFAULT).rows(shield_inventory.UNIT * seen[None])
    for ours, theirs in zip(scaled, exact, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert env.observation_space.contains(seen)


def test_bad_flags_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for experiment in (shield_pendulum, shield_inventory):
        with pytest.raises(
            InvalidSetting, match=rf"^preset: 'paper' is unknown. Choose one of: {PRESETS[0]}"
        ):
            experiment.config("paper")
    flags = ["--solver-workers", "1", "--no-wandb", "--run", str(tmp_path / "run")]
    assert cli.main(["train", "shield_pendulum", *flags]) == 2
    assert "--solver-workers: is 1, but RecordedPPO has no solver pool" in capsys.readouterr().err

"""Projected policy gradients from the command line: training, deployment and reports, on shortened presets."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.linear_tube import reference_task
from tune_configs import cli, experiment, projected_pg_inventory, projected_pg_tube, sweep
from tune_configs.evaluation import Evaluation
from tune_configs.runs import read

TUBE, INVENTORY = "projected_pg_tube", "projected_pg_inventory"


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """One local Ray for this file, few updates, W&B without a key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("NETRC", os.devnull)
        for name in ("WANDB_API_KEY", "WANDB_MODE"):
            patch.delenv(name, raising=False)
        import ray

        from algorithms.projected_pg import presets

        full = presets.preset

        def shrunk(problem: str, name: str, **changes: Any) -> Any:
            config = full(problem, name, **changes).env_runners(num_envs_per_env_runner=4)
            return config.training(updates=4) if hasattr(config, "updates") else config

        patch.setattr(presets, "preset", shrunk)
        ray.shutdown()
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


def train(name: str, preset: str, path: Path) -> Path:
    flags = ["--preset", preset, "--seed", "3", "--episodes", "8", "--evaluation-episodes", "5"]
    assert cli.main(["train", name, *flags, "--run", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def tube(tmp_path_factory: pytest.TempPathFactory, small: None) -> Path:
    return train(TUBE, "stochastic", tmp_path_factory.mktemp("runs") / "tube")


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory, small: None) -> Path:
    return train(INVENTORY, "corrected", tmp_path_factory.mktemp("runs") / "inventory")


def evaluated(run: Path) -> Evaluation:
    found = read(run)[0].evaluation
    assert found is not None
    return found


def test_the_tube_trains_and_deploys_without_a_violation(tube: Path) -> None:
    record = read(tube)[0]
    assert [e.count for e in record.episodes] == [4, 4]
    assert record.iterations[-1]["samples"] == 800
    assert record.iterations[-1]["shield/unsafe"] == 0
    assert record.iterations[-1]["shield/repaired"] > 0
    found = evaluated(tube)
    assert [row.name for row in found.policies] == [
        "trained policy", "LQR gain towards the target", "LQR gain towards the origin",
    ]  # fmt: skip
    for row in found.policies:
        assert (row.violations, row.steps) == (0, 500)
    paths = {name: np.array(path) for name, path in found.drawing["paths"].items()}
    system = reference_task().safe_set.tube.system
    for path in paths.values():
        assert path.shape == (101, 4, 2)
        assert (path @ system.F.T <= system.f + 1e-9).all()
    # The gain that heads for the target earns more than the one that does not.
    towards, away = (found.policies[k].reward[0] for k in (1, 2))
    assert towards < away


def test_the_inventory_chain_trains_and_deploys_without_a_violation(inventory: Path) -> None:
    found = evaluated(inventory)
    assert [row.name for row in found.policies][:2] == ["projected policy", "base-stock, tuned (reference)"]
    assert (found.policies[0].violations, found.policies[0].steps) == (0, 150)
    assert read(inventory)[0].iterations[-1]["shield/unsafe"] == 0


def test_reports(tube: Path, inventory: Path, tmp_path: Path) -> None:
    for run, figure in ((tube, "episodes in the plane"), (inventory, "deployment")):
        page = (run / "report.html").read_text()
        assert page.count(f'aria-label="{figure}"') == 1
        assert "repaired" in page
    both = tmp_path / "both.html"
    assert cli.main(["report", str(tube), str(tube), "--output", str(both)]) == 0
    assert "learning curve" in both.read_text()


def test_evaluation_needs_no_ray(tube: Path) -> None:
    script = (
        "import sys; from tune_configs.cli import main;"
        f"code = main(['evaluate', {str(tube)!r}, '--episodes', '3']);"
        "sys.exit(code or 10 * ('ray' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "0 of 300" in done.stdout


def test_both_experiments_are_whole() -> None:
    from algorithms.projected_pg import presets

    assert {TUBE, INVENTORY} <= set(experiment.names())
    for chosen in (projected_pg_tube, projected_pg_inventory):
        for preset in chosen.PRESETS:
            chosen.config(preset, 1).validate()
    # Over these the learning rates fall.
    assert (projected_pg_tube.EPISODES, projected_pg_inventory.EPISODES) == (
        presets.TUBE_EPISODES,
        presets.INVENTORY_EPISODES,
    )


def test_what_a_sweep_varies() -> None:
    deterministic = projected_pg_tube.param_space("corrected", seeds=2, rates=True).to_dict()
    assert sweep.varied(deterministic) == ["seed", "actor_lr"]
    assert sweep.varied(projected_pg_tube.param_space("stochastic", 2, True).to_dict()) == ["seed", "lr"]
    assert sweep.varied(projected_pg_inventory.param_space(seeds=2).to_dict()) == ["seed"]


def test_an_unknown_preset_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", TUBE, "--preset", "x"]) == 2
    assert "preset: 'x' is unknown. Choose one of: corrected, uncorrected, stochastic, executed." in (
        capsys.readouterr().err
    )

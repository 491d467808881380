"""Training that is killed, damaged and resumed; its logs and report; a small sweep."""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tune_configs import cli
from tune_configs.runs import Run, find_checkpoint, read

NAME = "omlt_ddpg_inventory"
EPISODES = 11
"""The tuned preset draws its first minibatch of 256 transitions in the ninth episode."""
FLAGS = ["--preset", "tuned", "--seed", "3", "--episodes", str(EPISODES), "--evaluation-episodes", "10"]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One local Ray for this file; W&B neither has a key nor is told its mode."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("NETRC", os.devnull)
        for name in ("WANDB_API_KEY", "WANDB_MODE"):
            patch.delenv(name, raising=False)
        import ray
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in the processes that are killed: sums of floats depend on it
        ray.shutdown()
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory: pytest.TempPathFactory, cluster: None) -> Path:
    """A run from beginning to end."""
    path = tmp_path_factory.mktemp("runs") / "unkilled"
    assert cli.main(["train", NAME, *FLAGS, "--run", str(path)]) == 0
    return path


def replay(run: Path) -> dict[str, Any]:
    checkpoint, _ = find_checkpoint(run)
    state = pickle.loads((checkpoint / "algorithm_state.pkl").read_bytes())
    buffer: dict[str, Any] = state["omlt_ddpg"]["replay"]
    return buffer


def assert_same(run: Path, other: Path) -> None:
    """The same episodes, samples, iterations and replay buffer; nothing twice, nothing missing."""
    assert json.loads((run / "episodes.json").read_text()) == json.loads(
        (other / "episodes.json").read_text()
    )
    ours, theirs = read(run)[0], read(other)[0]
    assert len(ours.episodes) == EPISODES
    assert ours.episodes == theirs.episodes
    assert [line["samples"] for line in ours.iterations] == [line["samples"] for line in theirs.iterations]
    assert [line.get("critic_loss") for line in ours.iterations] == [
        line.get("critic_loss") for line in theirs.iterations
    ]
    first, second = replay(run), replay(other)
    assert first["added"] == second["added"] == 30 * EPISODES
    assert first["generator"] == second["generator"]
    for name, values in first["fields"].items():
        np.testing.assert_array_equal(values, second["fields"][name])


def test_a_killed_run_resumes_as_if_it_had_not_been(unkilled: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    arguments = [sys.executable, "-m", "tune_configs.cli", "train", NAME, *FLAGS, "--run", str(run)]
    moment = random.SystemRandom().random()  # RLlib has seeded the ordinary one
    with subprocess.Popen(
        [*arguments, "--no-wandb"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 120
        while not (run / "checkpoints").is_dir() and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.02)
        # Training takes a few seconds from here on a busy machine.
        time.sleep(5.0 * moment)
        process.send_signal(signal.SIGKILL)
    print(f"killed {5.0 * moment:.3f} s after the first checkpoint began")
    assert cli.main(["train", NAME, "--resume", "--run", str(run)]) == 0
    assert_same(run, unkilled)


def test_certified_training_proves_what_it_learns_and_deploys(
    tmp_path: Path, unkilled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "certified"
    flags = [*FLAGS, "--certify", "--no-wandb"]
    assert cli.main(["train", NAME, *flags, "--run", str(run)]) == 0
    assert json.loads((run / "run.json").read_text())["certify"]
    told = []
    for path, more in ((run, []), (unkilled, ["--certify"]), (unkilled, [])):
        capsys.readouterr()
        assert cli.main(["evaluate", str(path), "--episodes", "5", *more]) == 0
        told.append("150 of 150 actions proved to be global maximisers" in capsys.readouterr().out)
    assert told == [True, True, False]


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(
    unkilled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by a relative path, as the default one is."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "damaged"
    shutil.copytree(unkilled, run)
    newest, previous = Run.open(run).checkpoints()
    file = newest / "algorithm_state.pkl"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert cli.main(["train", NAME, "--resume", "--run", "damaged"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"the contents of {file} are damaged" in told
    assert f"Continuing after {int(previous.name)} of {30 * EPISODES} samples." in told
    assert_same(run, unkilled)


def test_nothing_to_resume_from_is_an_error(
    unkilled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "hopeless"
    shutil.copytree(unkilled, run)
    for checkpoint in (run / "checkpoints").iterdir():
        (checkpoint / "MANIFEST.json").unlink()
    assert cli.main(["train", NAME, "--resume", "--run", str(run)]) == 2
    assert "so the run cannot be continued" in capsys.readouterr().err


def test_one_process_writes_a_run(unkilled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "locked"
    shutil.copytree(unkilled, run)
    writer = Run.open(run)
    assert cli.main(["train", NAME, "--resume", "--run", str(run)]) == 2
    assert "is being written by another process" in capsys.readouterr().err
    writer.close()


def test_records(unkilled: Path) -> None:
    """TensorBoard and W&B's offline files are there, checkpoints are the last two, tables agree."""
    assert any(unkilled.glob("events.out.tfevents.*"))
    assert any(unkilled.glob("wandb/offline-run-*/*.wandb"))
    assert [p.name for p in Run.open(unkilled).checkpoints()] == ["000000330", "000000300"]
    record = read(unkilled)[0]
    rows = (unkilled / "episodes.csv").read_text().splitlines()
    assert len(rows) == 1 + EPISODES
    assert rows[0].startswith("episode,reward,length,cost_0")
    assert float(rows[-1].split(",")[1]) == record.episodes[-1].reward
    last = record.iterations[-1]
    assert last["shield/certified"] + last["shield/repaired"] + last["shield/fallback"] == 30 * EPISODES
    assert sum(line.get("solver/solves", 0.0) for line in record.iterations) > 0
    assert record.evaluation is not None
    safe = next(row for row in record.evaluation.policies if row.name == "SAFE")
    assert (safe.violations, safe.steps) == (0, 300)
    assert safe.solver["certified"] + safe.solver["repaired"] + safe.solver["fallback"] == 300


def test_the_report_stands_alone(unkilled: Path, tmp_path: Path) -> None:
    both = tmp_path / "both.html"
    assert cli.main(["report", str(unkilled), str(unkilled), "--output", str(both)]) == 0
    for file in (unkilled / "report.html", both):
        page = file.read_text()
        for figure in ("learning curve", "distance to capacity", "deployment"):
            assert f'aria-label="{figure}"' in page
        # Names of XML formats are the only addresses, and nothing looks those up.
        addresses = set(re.findall(r"""https?://[^\s"'<>)]+""", page))
        assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
        assert not re.search(r"<(script|link|img|iframe)\b|@import|<!DOCTYPE svg", page)
        identifiers = re.findall(r'\bid="([^"]+)"', page)
        assert len(set(identifiers)) == len(identifiers)
        assert set(re.findall(r'xlink:href="#([^"]+)"', page)) <= set(identifiers)
        assert "433.9" in page
    assert "2 runs (seeds 3, 3)" in both.read_text()


def test_evaluation_needs_no_ray(unkilled: Path, tmp_path: Path) -> None:
    """Not even of a checkpoint that was copied elsewhere, nor on other capacities."""
    copy = tmp_path / "deployed"
    shutil.copytree(find_checkpoint(unkilled)[0], copy)
    script = (
        "import sys; from tune_configs.cli import main;"
        f"code = main(['evaluate', {str(copy)!r}, '--episodes', '5', '--capacities', 'stress']);"
        "sys.exit(code or 10 * ('ray' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "capacities 100, 100, 200" in done.stdout
    assert "0 of 150" in done.stdout


def solverl(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as users run it: Tune's actors and a test's Ray do not mix."""
    command = [sys.executable, "-m", "tune_configs.cli", *arguments]
    # W&B's process for each trial would double the time.
    environment = {**os.environ, "WANDB_MODE": "disabled", "COLUMNS": "400"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.learning
def test_a_sweep_trains_each_seed_and_can_be_reported_and_resumed(tmp_path: Path) -> None:
    path = tmp_path / "sweep"
    flags = ["--preset", "tuned", "--seeds", "2", "--episodes", "4", "--asha", "--run", str(path)]
    done = solverl("sweep", NAME, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    told = " ".join(done.stdout.split())
    assert f"Report: {path / 'report.html'}" in told
    assert str(path) in told.split("Best checkpoint: ")[1]
    records = read(path)
    assert sorted(record.settings["seed"] for record in records) == [0, 1]
    explorations = [pickle.loads(p.read_bytes())["exploration"] for p in sorted(path.glob("*/params.pkl"))]
    first, second = (e._generator.bit_generator.state for e in explorations)
    assert first != second
    finished = [record for record in records if record.iterations[-1]["samples"] == 120]
    assert finished
    assert all(len(record.episodes) == 4 and record.evaluation for record in finished)
    assert any(path.glob("*/events.out.tfevents.*"))

    again = solverl("sweep", NAME, "--resume", "--run", str(path))
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Best checkpoint" in again.stdout
    wrong = solverl("train", NAME, "--resume", "--run", str(path))
    assert wrong.returncode == 2
    assert "is a sweep" in wrong.stderr

"""`solverl submit` against a head of its own, with a token, through the job server."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ray_nodes import ROOT, TOKEN, Node, environment, free_ports, head, token_environment

from tune_configs import cli
from tune_configs.runs import read

NAME = "omlt_ddpg_inventory"


@pytest.fixture(scope="module")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("secret") / "token"
    path.write_text(TOKEN + "\n")
    return path


@pytest.fixture(scope="module")
def cluster(token_file: Path) -> Iterator[Node]:
    with head(token_environment(token_file), cpus=2) as node:
        yield node


def submit(
    *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 240.0
) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, away from the checkout and without a token in its environment."""
    command = [sys.executable, "-m", "tune_configs.cli", "submit", *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        cwd=ROOT,
        env=env or environment(),
    )


def ask(cluster: Node, path: str, method: str = "GET") -> Any:
    """What the job server answers to somebody with the token."""
    request = urllib.request.Request(
        cluster.dashboard + path, headers={"Authorization": f"Bearer {TOKEN}"}, method=method
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


@pytest.mark.cluster
def test_the_main_job_through_the_job_server(cluster: Node, token_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = ["--episodes", "3", "--evaluation-episodes", "5", "--env-runners", "1", "--run", str(run)]
    env = environment(WANDB_PROJECT="mine", WANDB_API_KEY="not-for-the-dashboard")
    done = submit(
        "train", NAME, *flags, "--address", cluster.dashboard, "--token-file", str(token_file), env=env
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^Job raysubmit_\w+: SUCCEEDED$", done.stdout, re.MULTILINE)
    assert "episode 3/3" in done.stdout, "the job's log is followed"
    assert "INFO" not in done.stderr
    assert (run / "report.html").is_file()
    record = read(run)[0]
    assert len(record.episodes) == 3
    assert record.settings["env_runners"] == 1

    jobs = ask(cluster, "/api/jobs/")
    (job,) = [job for job in jobs if job["type"] == "SUBMISSION"]
    assert job["runtime_env"]["env_vars"] == {
        "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled", "WANDB_PROJECT": "mine",
    }  # fmt: skip
    assert "not-for-the-dashboard" not in json.dumps(jobs)
    assert str(ROOT) not in json.dumps(job["runtime_env"]), "the path of the checkout stays here"


def test_a_failed_job_is_a_failure(cluster: Node, token_file: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    flags = [
        "--run",
        str(tmp_path / "taken"),
        "--address",
        cluster.dashboard,
        "--token-file",
        str(token_file),
    ]
    done = submit(NAME, *flags)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "is not empty" in done.stdout
    assert ": FAILED" in done.stdout


def test_without_following_it_returns_at_once(cluster: Node, token_file: Path, tmp_path: Path) -> None:
    flags = ["--address", cluster.dashboard, "--token-file", str(token_file), "--no-follow"]
    done = submit(*flags, "train", NAME, "--resume", "--run", str(tmp_path / "nothing"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"ray job logs --address \S+ --follow raysubmit_", done.stdout)
    assert re.search(r"ray job stop --address \S+ raysubmit_", done.stdout)
    assert "SUCCEEDED" not in done.stdout


def test_ctrl_c_detaches_and_the_job_goes_on(cluster: Node, token_file: Path, tmp_path: Path) -> None:
    flags = ["--run", str(tmp_path / "run"), "--address", cluster.dashboard, "--token-file", str(token_file)]
    following = subprocess.Popen(
        [sys.executable, "-m", "tune_configs.cli", "submit", NAME, *flags],
        cwd=ROOT, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # Tests that run in the background were told to ignore Ctrl-C, and would pass that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        assert following.stdout is not None
        job = ""
        for line in following.stdout:
            job = job or "".join(re.findall(r"^Job (raysubmit_\w+):", line))
            if line.startswith("Run: "):  # the job's own first line
                break
        following.send_signal(signal.SIGINT)
        told, error = following.communicate(timeout=60)
    finally:
        following.kill()
        following.wait()
    assert following.returncode == 130, told + error
    assert f"Detached; job {job} goes on." in told
    assert ask(cluster, f"/api/jobs/{job}")["status"] == "RUNNING"
    assert ask(cluster, f"/api/jobs/{job}/stop", method="POST") == {"stopped": True}


@pytest.mark.parametrize(("token", "said"), [(None, "none was found"), ("f" * 32, "refuses the token")])
def test_a_token_that_is_missing_or_wrong(
    cluster: Node, tmp_path: Path, token: str | None, said: str
) -> None:
    flags = []
    if token is not None:
        (tmp_path / "token").write_text(token)
        flags = ["--token-file", str(tmp_path / "token")]
    done = submit("train", NAME, "--run", "/shared/x", "--address", cluster.dashboard, *flags)
    assert done.returncode == 2
    assert "error: token-file:" in done.stderr
    assert said in done.stderr
    assert "--token-file FILE" in done.stderr


def test_a_checkout_that_is_too_large(cluster: Node, token_file: Path, tmp_path: Path) -> None:
    (tmp_path / "tune_configs").mkdir()
    for name in ("pyproject.toml", "constraints.txt", "tune_configs/cli.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    with (tmp_path / "data").open("wb") as stream, Path("/dev/urandom").open("rb") as noise:
        for _ in range(101):
            stream.write(noise.read(1 << 20))
    flags = ["--address", cluster.dashboard, "--token-file", str(token_file), "--working-dir", str(tmp_path)]
    done = submit("train", NAME, "--run", "/shared/x", *flags)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "error: working-dir:" in done.stderr
    assert "at most 100 MiB" in done.stderr
    assert ".rayignore" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["train", NAME, "--run", "/shared/x", "--address", "127.0.0.1:6379"],
            "is no address of a job server",
        ),
        (["train", NAME, "--run", "/shared/x", "--token-file", "/nowhere"], "/nowhere cannot be read"),
        (["train", NAME, "--run", "runs/x"], "a relative path"),
        (["train", NAME], "run: is missing"),
        (["train", NAME, "--run", "s3://bucket/x"], "mount it on every node"),
        (["evaluate", "x"], "'evaluate' cannot be submitted"),
        ([], "cannot be submitted"),
        (["train", NAME, "--run", "/shared/x", "--sneed", "3"], "unrecognized arguments: --sneed 3"),
        (["train", "inventory", "--run", "/shared/x"], "'inventory' is unknown"),
    ],
)
def test_what_can_be_told_without_a_cluster(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = cli.main(["submit", *arguments])
    except SystemExit as usage:  # a wrong flag
        code = int(usage.code or 0)
    assert code == 2
    assert said in capsys.readouterr().err


def test_no_head_at_the_address() -> None:
    address = f"http://127.0.0.1:{free_ports(1)[0]}"
    done = submit("train", NAME, "--run", "/shared/x", "--address", address)
    assert done.returncode == 2
    assert f"no job server answers at {address}" in done.stderr
    assert "kubectl port-forward" in done.stderr

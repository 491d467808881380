"""Two hosts with addresses of their own and a token, one of which is cut off under a training run.

The hosts are network namespaces joined by a virtual cable. What the test shows: training **goes on** with the
environment runner that is left, once Ray has found the other host dead. Ray's own settings take about a minute
for that; the test shortens its health checks to seconds.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_nodes import BIN, ROOT, TOKEN, environment, head, token_environment, worker

from tune_configs.runs import read

HERE, THERE = "10.77.0.1", "10.77.0.2"
EPISODES = 20
HEALTH = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts() -> Iterator[tuple[list[str], list[str]]]:
    """The commands that enter each of two joined network namespaces."""
    near, far = (f"solverl-{os.getpid()}-{side}" for side in "ab")
    try:
        ip("netns", "add", near)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces are not permitted here: {getattr(error, 'stderr', error)}")
    try:
        ip("netns", "add", far)
        ip("-n", near, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", far)
        for name, address in ((near, HERE), (far, THERE)):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield ["ip", "netns", "exec", near], ["ip", "netns", "exec", far]
    finally:
        for name in (near, far):
            listed = subprocess.run(
                ["ip", "netns", "pids", name], capture_output=True, text=True, check=False
            )
            for pid in listed.stdout.split():
                os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@pytest.mark.cluster
def test_a_host_without_the_token_is_refused_and_one_that_is_cut_off_is_missed_for_seconds(
    hosts: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    near, far = hosts
    (tmp_path / "token").write_text(TOKEN)
    env = {**token_environment(tmp_path / "token"), **HEALTH}
    with head(env, cpus=1, host=HERE, before=near) as leader:
        # Without the token, and with another one.
        for refused in (environment(), environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="f" * 32)):
            join = [*far, str(BIN / "ray"), "start", "--address", leader.address, "--node-ip-address", THERE]
            done = subprocess.run(join, env=refused, capture_output=True, text=True, check=False, timeout=120)
            assert done.returncode != 0
            assert "AuthenticationError" in done.stdout + done.stderr

        with worker(env, leader.address, THERE, cpus=1, before=far):
            run = tmp_path / "run"
            # One CPU on each host: each has one of the runners.
            flags = ["--preset", "paper", "--episodes", str(EPISODES), "--env-runners", "2", "--no-wandb"]
            training = subprocess.Popen(
                [*near, sys.executable, "-m", "tune_configs.cli", "train", "omlt_ddpg_inventory", *flags,
                 "--evaluation-episodes", "5", "--run", str(run)],
                env={**env, "RAY_ADDRESS": leader.address}, cwd=ROOT, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            try:
                until = time.monotonic() + 120
                while not _lines(run):
                    assert training.poll() is None, training.communicate()[0]
                    assert time.monotonic() < until
                    time.sleep(0.1)
                subprocess.run([*far, "ip", "link", "set", "cable", "down"], check=True)
                seen, cut = len(_lines(run)), time.monotonic()
                while len(_lines(run)) <= seen + 1:  # the next one may have been ready
                    assert training.poll() is None, training.communicate()[0]
                    assert time.monotonic() < cut + 60
                    time.sleep(0.1)
                missed = time.monotonic() - cut
                told, _ = training.communicate(timeout=180)
            finally:
                training.kill()
                training.wait()
    assert training.returncode == 0, told
    print(f"training went on {missed:.1f} s after the host was cut off")
    record = read(run)[0]
    assert 30 * EPISODES <= record.iterations[-1]["samples"] <= 30 * EPISODES + 1
    lengths = [episode.length for episode in record.episodes]
    assert set(lengths) == {30}
    # One episode was under way on the host that is gone, and one may be on the other at the end.
    assert EPISODES - 2 <= len(lengths) < EPISODES


def _lines(run: Path) -> list[dict[str, float]]:
    file = run / "result.json"
    lines = file.read_text().splitlines(keepends=True) if file.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]

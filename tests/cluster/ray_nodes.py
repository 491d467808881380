"""Ray nodes in processes of their own, with their own ports, folders and token, ended when a test is over."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
TOKEN = "0123456789abcdef0123456789abcdef"


def environment(**more: str) -> dict[str, str]:
    """This process's environment less what Ray or W&B would read from it, and our interpreter first."""
    kept = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("RAY_", "WANDB_")) or k == "RAY_USAGE_STATS_ENABLED"
    }
    kept |= {
        "PATH": f"{BIN}{os.pathsep}{kept.get('PATH', '')}",
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "disabled",
    }
    return {**kept, "RAY_AUTH_MODE": "disabled", "NETRC": os.devnull, "COLUMNS": "400", **more}


def token_environment(token_file: Path) -> dict[str, str]:
    """As `environment`, for the nodes and drivers of a cluster with a token."""
    return environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token_file))


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on just now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@dataclass(frozen=True)
class Node:
    """A running `ray start --block`.

    Attributes:
        address: of the cluster, HOST:PORT. dashboard: URL of the job server; empty except on a head.
    """

    process: subprocess.Popen[bytes]
    log: Path
    address: str
    dashboard: str = ""


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder for Ray's sockets, whose paths may have 107 characters at most."""
    path = Path(tempfile.mkdtemp(prefix="sr", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def head(
    env: Mapping[str, str], cpus: int, host: str = "127.0.0.1", before: Sequence[str] = ()
) -> Iterator[Node]:
    """A head with the job server. `before` precedes the command, such as ``ip netns exec NAME``."""
    port, dashboard, client, *agents = free_ports(6)
    flags = [
        "--head", "--port", str(port), "--node-ip-address", host, "--num-cpus", str(cpus),
        "--include-dashboard", "true", "--dashboard-host", host, "--dashboard-port", str(dashboard),
        "--ray-client-server-port", str(client), "--dashboard-agent-listen-port", str(agents[0]),
        "--dashboard-agent-grpc-port", str(agents[1]), "--metrics-export-port", str(agents[2]),
    ]  # fmt: skip
    with short_folder() as folder:
        process = _start([*before, str(BIN / "ray"), "start", *flags, "--temp-dir", str(folder)], env, folder)
        try:
            node = Node(process, folder / "log", f"{host}:{port}", f"http://{host}:{dashboard}")
            _until(node, "--block")
            yield node
        finally:
            end(process)


@contextmanager
def worker(
    env: Mapping[str, str], address: str, host: str, cpus: int, before: Sequence[str] = ()
) -> Iterator[Node]:
    """A node that joins the cluster at `address`."""
    flags = ["--address", address, "--node-ip-address", host, "--num-cpus", str(cpus)]
    with short_folder() as folder:
        process = _start([*before, str(BIN / "ray"), "start", *flags], env, folder)
        try:
            node = Node(process, folder / "log", address)
            _until(node, "--block")
            yield node
        finally:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and, should it not react, its whole session."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _start(command: Sequence[str], env: Mapping[str, str], folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [*command, "--block", "--disable-usage-stats"],
            env=dict(env), cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip


def _until(node: Node, text: str, within: float = 60.0) -> None:
    """Wait until the node's log says `text`."""
    until = time.monotonic() + within
    while text not in node.log.read_text(errors="replace"):
        told = node.log.read_text(errors="replace")
        assert node.process.poll() is None, f"the node ended: {told}"
        assert time.monotonic() < until, f"no {text!r} within {within:g} s: {told}"
        time.sleep(0.1)

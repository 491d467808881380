"""Job submission: a checkout and one command go to a running Ray cluster, whose log is shown until it ends.

Only HTTP is spoken, with the job server of the head node (port 8265). The cluster brings the dependencies
(`cluster/Dockerfile`), the checkout brings the code: what runs there is what lies here, committed or not.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from envs.errors import InvalidSetting

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
EXCLUDES = (
    ".git/", ".ci/", ".venv/", "runs/", "wandb/", "tests/", "benchmarks/results/", "*.egg-info/",
    "**/__pycache__/", ".env*",
)  # fmt: skip
"""Patterns, in gitignore's notation, of what a job does not need; those of ``.gitignore`` come on top."""
CHATTY = (
    "ray._private.runtime_env.packaging", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk",
)  # fmt: skip
"""Loggers of Ray that tell about every file that they leave out."""
REACHED_WITHIN = 5.0
"""[s] for the job server to accept a connection; without it an unroutable address takes minutes to fail."""
STATUS_EVERY = 1.0
"""[s] between two looks at a job whose log has ended but whose status has not settled."""


@dataclass(frozen=True)
class Submission:
    """What to run and where.

    Attributes:
        command: of `solverl`, such as ``["train", "omlt_ddpg_inventory", "--run", "/shared/run"]``.
        address: of the job server, ``http://HOST:8265``.
        working_dir: the checkout to send; None for the one that this module belongs to.
        token_file: holds the cluster's token; None looks where Ray looks (see `find_token`).
        install: let each node install the pinned packages first, for images without them.
    """

    command: Sequence[str]
    address: str = DEFAULT_ADDRESS
    working_dir: Path | None = None
    token_file: Path | None = None
    install: bool = False


def run(submission: Submission, follow: bool, tell: Callable[[str], None]) -> int:
    """Submit, and follow the job to its end.

    Args:
        submission: see `Submission`.
        follow: False returns as soon as the cluster has accepted the job.
        tell: receives each line meant for the user; the job's own log goes to the standard output.

    Returns:
        0 if the job succeeded or is not followed, 1 if it failed or was stopped, 130 after Ctrl-C, which
        leaves the job running.

    Raises:
        InvalidSetting: if the checkout, the address or the token is at fault.
    """
    client = connect(submission.address, find_token(submission.token_file))
    root = checkout(submission.working_dir)
    entrypoint = shlex.join(["python", "-m", "tune_configs.cli", *submission.command])
    tell(f"Sending {root} to {submission.address}")
    try:
        job: str = client.submit_job(
            entrypoint=entrypoint, runtime_env=runtime_environment(root, submission.install)
        )
    except RuntimeError as error:
        raise _refusal(error, root) from error
    at = f"--address {submission.address}"
    tell(f"Job {job}: {entrypoint}")
    tell(f"  its log   ray job logs {at} --follow {job}")
    tell(f"  stop it   ray job stop {at} {job}")
    if not follow:
        return 0
    try:
        status = asyncio.run(_follow(client, job))
    except KeyboardInterrupt:
        tell(f"Detached; job {job} goes on. The commands above show its log again, or stop it.")
        return 130
    except (RuntimeError, OSError) as error:
        raise InvalidSetting(
            "address",
            f"{submission.address} is lost ({error})",
            f"The job may still run. When the head answers again: ray job status {at} {job}.",
        ) from error
    message = client.get_job_info(job).message
    tell(f"Job {job}: {status}" + ("" if status == "SUCCEEDED" or not message else f". {message}"))
    return 0 if status == "SUCCEEDED" else 1


def checkout(given: Path | None) -> Path:
    """The checkout to send.

    Raises:
        InvalidSetting: if there is none.
    """
    root = (Path(__file__).parents[1] if given is None else given).resolve()
    for needed in ("pyproject.toml", "constraints.txt", "tune_configs/cli.py"):
        if not (root / needed).is_file():
            raise InvalidSetting(
                "working-dir",
                f"{root} is no checkout of SolveRL: it has no {needed}",
                "Give the folder that holds pyproject.toml.",
            )
    return root


def runtime_environment(root: Path, install: bool) -> dict[str, Any]:
    """The `runtime_env` of a job.

    Settings of Weights & Biases go along, its key does not: a runtime environment is shown to everybody who
    may look at the cluster. The key belongs in a secret of the nodes.
    """
    variables = {k: v for k, v in os.environ.items() if k.startswith("WANDB_") and not _secret_or_local(k)}
    environment: dict[str, Any] = {
        "working_dir": str(root),
        "excludes": list(EXCLUDES),
        # One thread in each actor: Ray's CPUs are counted by process.
        "env_vars": {"OMP_NUM_THREADS": "1", **variables},
    }
    if install:
        environment["pip"] = {
            "packages": pins(root),
            "pip_check": False,  # or-gym's own requirements contradict ours
            "pip_install_options": ["--no-deps"],
        }
    return environment


def pins(root: Path) -> list[str]:
    """The lines of ``constraints.txt``, less Ray and pip, which the cluster has and which must not change."""
    lines = (line.strip() for line in (root / "constraints.txt").read_text().splitlines())
    kept = [line for line in lines if line and not line.startswith("#")]
    return [line for line in kept if line.partition("==")[0] not in ("ray", "pip", "setuptools")]


def find_token(given: Path | None) -> str | None:
    """The token to send: from `given`, else where Ray looks, in Ray's order.

    That is ``RAY_AUTH_TOKEN``, the file ``RAY_AUTH_TOKEN_PATH``, then ``~/.ray/auth_token``;
    ``RAY_AUTH_MODE=disabled`` sends none.

    Raises:
        InvalidSetting: if the file that was asked for cannot be read or is empty.
    """
    if given is not None:
        return _read_token("token-file", given)
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled":
        return None
    if os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"]
    if os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return _read_token("RAY_AUTH_TOKEN_PATH", Path(os.environ["RAY_AUTH_TOKEN_PATH"]))
    usual = Path.home() / ".ray" / "auth_token"
    return _read_token("token-file", usual) if usual.is_file() else None


def connect(address: str, token: str | None) -> Any:
    """A `JobSubmissionClient` of a job server that answers and takes the token.

    Raises:
        InvalidSetting: if it does not.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidSetting(
            "address",
            f"{address!r} is no address of a job server",
            "Give http://HOST:8265, the address of the head's dashboard.",
        )
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), timeout=REACHED_WITHIN).close()
    except OSError as error:
        raise InvalidSetting(
            "address",
            f"no job server answers at {address} ({error})",
            "Is the head running, with `ray start --head --dashboard-host 0.0.0.0`? From outside its network, "
            "forward the port first: `kubectl port-forward service/solverl-head-svc 8265`, or "
            "`ray dashboard cluster/launcher.yaml`.",
        ) from error
    # Ray prefers these to the address that it is given.
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(name, None)
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    headers = None if token is None else {"Authorization": f"Bearer {token}"}
    try:
        return JobSubmissionClient(address, headers=headers)
    except AuthenticationError as error:
        raise InvalidSetting(
            "token-file",
            f"{address} asks for a token, and none was found"
            if token is None
            else f"{address} refuses the token",
            "Give the file that holds the cluster's token: --token-file FILE. `ray get-auth-token` prints it "
            "on a node of the launcher; cluster/README.md tells how to take it from Kubernetes.",
        ) from error
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InvalidSetting(
            "address",
            f"what answers at {address} is no job server ({error})",
            "Give the address of the head's dashboard, http://HOST:8265.",
        ) from error


def _read_token(field: str, path: Path) -> str:
    try:
        token = path.read_text().strip()
    except OSError as error:
        raise InvalidSetting(
            field, f"{path} cannot be read ({error.strerror or error})", "Give the file that holds the token."
        ) from error
    if not token:
        raise InvalidSetting(field, f"{path} is empty", "Give the file that holds the token.")
    return token


def _secret_or_local(name: str) -> bool:
    return name.endswith(("_KEY", "_TOKEN", "_FILE", "_DIR", "_PATH", "_SERVICE"))


def _refusal(error: RuntimeError, root: Path) -> InvalidSetting:
    """What a job server said against a submission, as an error that names the remedy."""
    text = str(error)
    if "status code 413" in text or "exceeds the maximum size" in text:
        return InvalidSetting(
            "working-dir",
            f"{root} is too large: Ray takes packages of at most 100 MiB",
            f"Name what a job does not need in {root / '.rayignore'} (gitignore's notation).",
        )
    return InvalidSetting("address", f"the job server refused the job: {text.strip()}", "See the head's log.")


async def _follow(client: Any, job: str) -> str:
    async for text in client.tail_job_logs(job):
        print(text, end="", flush=True)
    while not (status := client.get_job_status(job)).is_terminal():
        await asyncio.sleep(STATUS_EVERY)
    return str(status.value)

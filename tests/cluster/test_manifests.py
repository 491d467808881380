"""The launcher's YAML against Ray's own validator; KubeRay's manifests and the Dockerfile against the repository."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray_nodes import ROOT

from tune_configs import cli
from tune_configs.training import SOLVER

FOLDER = ROOT / "cluster"
IMAGE = "solverl:0.1.0"


def load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return loaded


def spec(name: str) -> dict[str, Any]:
    """The specification of the cluster in a manifest of KubeRay."""
    found: dict[str, Any] = load(name)["spec"]
    return found.get("rayClusterSpec", found)


def groups(name: str) -> dict[str, Any]:
    return {group["groupName"]: group for group in spec(name)["workerGroupSpecs"]}


def pin(package: str) -> str:
    (version,) = re.findall(rf"^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    return str(version)


def test_the_launcher_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load("launcher.yaml")
    validate_config(prepare_config(config | {"cluster_synced_files": []}))
    types = config["available_node_types"]
    assert set(types) == {"head", "learner", "env_runner", "solver"}
    assert sum(node.get("max_workers", 0) for node in types.values()) == config["max_workers"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert types["solver"]["resources"]["CPU"] == 0
    assert types["solver"]["resources"][SOLVER] > 0
    assert types["solver"]["min_workers"] < types["solver"]["max_workers"], "scaled on the resource"
    assert config["docker"]["image"] == IMAGE
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_kuberay_manifests(name: str) -> None:
    assert load(name)["apiVersion"] == "ray.io/v1"
    cluster = spec(name)
    assert cluster["rayVersion"] == pin("ray")
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert set(groups(name)) == {"learner", "env-runner", "solver"}
    for group in [cluster["headGroupSpec"], *groups(name).values()]:
        # KubeRay passes these on as text.
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["image"] == IMAGE
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/shared"]
        assert [volume["name"] for volume in pod["volumes"]] == ["shared"]
        assert pod["restartPolicy"] == "Never"
    for group in groups(name).values():
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        cores = group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]
        start = group["rayStartParams"]
        if group["groupName"] == "solver":
            assert group["minReplicas"] == 0 < group["maxReplicas"]
            assert start["num-cpus"] == "0"
            # Quoted once for the shell that starts Ray and once for JSON.
            (quoted,) = shlex.split(start["resources"])
            assert json.loads(quoted) == {SOLVER: int(cores)}
        else:
            assert start == {"num-cpus": cores}


def test_both_manifests_describe_the_same_cluster() -> None:
    assert spec("raycluster.yaml") == spec("rayjob.yaml")


def test_the_job_of_the_manifest_is_a_command_of_ours() -> None:
    job = load("rayjob.yaml")["spec"]
    python, dash, module, *command = shlex.split(job["entrypoint"])
    assert (python, dash, module) == ("python", "-m", "tune_configs.cli")
    options = cli._parser().parse_args(command)
    assert options.command == "sweep"
    assert options.run.is_relative_to("/shared")
    assert yaml.safe_load(job["runtimeEnvYAML"])["env_vars"] == {"OMP_NUM_THREADS": "1"}
    assert job["shutdownAfterJobFinishes"] is True


def test_the_image_has_what_the_setup_installs() -> None:
    text = (FOLDER / "Dockerfile").read_text().replace("\\\n", " ")
    (apt,) = re.findall(r"apt-get install -y --no-install-recommends (.*?) &&", text)
    (wanted,) = re.findall(r"local packages=\((.*?)\)", (ROOT / ".ci" / "setup").read_text())
    assert set(apt.split()) == {*wanted.split(), "wget"}
    for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE):
        *sources, _ = line.split()
        for source in sources:
            assert (ROOT / source).exists(), source
    project = (ROOT / "pyproject.toml").read_text()
    for package in re.findall(r'"(\w+)\*"', project):
        assert re.search(rf"^COPY {package} {package}$", text, re.MULTILINE), package
    for install in re.findall(r"pip install (.*)$", text, re.MULTILINE):
        assert install.startswith("-c constraints.txt"), install
    assert f"-t {IMAGE} ." in text
    assert re.search(rf'^version = "{IMAGE.partition(":")[2]}"$', project, re.MULTILINE)
    assert text.rindex("USER ray") > text.rindex("apt-get")

"""A node of three is killed under a training run and under a sweep.

The nodes are those of `ray.cluster_utils.Cluster`: raylets of their own on one host, with one IP address.
`test_partition.py` has two hosts. What the tests show: a training run **goes on** when the node with a runner
and a solver worker dies, and a trial whose own node dies **resumes** from its last checkpoint.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray_nodes import ROOT, environment

from solver_pool.options import SolveOptions
from solver_pool.pool import PoolConfig
from tune_configs.runs import Actors, read
from tune_configs.training import SOLVER, set_actors

STEPS = 60
"""Environment steps of an iteration: two episodes."""


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without CPUs, to which the tests add nodes; no driver is connected yet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        import ray
        from ray.cluster_utils import Cluster

        ray.shutdown()
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            yield made
        finally:
            ray.shutdown()
            made.shutdown()


def where(actor_class: str) -> list[str]:
    """The nodes of the living actors of a class."""
    from ray._private.state import actors

    table = actors(actor_state_name="ALIVE").values()
    return sorted(entry["Address"]["NodeID"] for entry in table if actor_class in entry["ActorClassName"])


@pytest.mark.cluster
def test_training_goes_on_when_the_node_of_a_runner_and_a_solver_worker_dies(cluster: Any) -> None:
    import ray

    from algorithms.omlt_ddpg import presets

    node = {"num_cpus": 2, "resources": {"play": 1}}
    kept, lost = cluster.add_node(**node), cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False)
    config = presets.paper()
    set_actors(config, Actors(env_runners=2))
    # A unit of `play` on each node puts a runner on each, and leaves a CPU on each for a solver worker.
    config.env_runners(custom_resources_per_env_runner={"play": 1})
    config.training(
        # Slow enough to be worth an actor: the compiled engine would solve in process.
        solve_options=SolveOptions(backend="ipopt", time_limit=20.0),
        solver_pool=PoolConfig(n_workers=2),
        train_batch_size_per_learner=2, critic_hidden=(8,), actor_hidden=(8,), warm_up=30,
        steps_per_iteration=STEPS,
    )  # fmt: skip
    algorithm = config.build_algo()
    try:
        algorithm.train()
        for actors in ("EnvRunner", "SolverWorker"):
            assert where(actors) == sorted([kept.node_id, lost.node_id])

        spare = cluster.add_node(**node)
        killer = threading.Timer(1.0, cluster.remove_node, [lost], {"allow_graceful": False})
        steps = algorithm.replay.added
        killer.start()
        result = algorithm.train()  # about 3 s: the node dies in its midst
        killer.join()
        assert algorithm.replay.added >= steps + STEPS, "the iteration had its steps from the other runner"

        until = time.monotonic() + 60
        solves = lost_workers = 0.0
        while algorithm.env_runner_group.num_healthy_remote_workers() < 2 or not lost_workers:
            assert time.monotonic() < until, "the lost actors did not come back"
            solved = result["solver"]["ipopt"]
            solves, lost_workers = solves + solved["solves"], lost_workers + solved["worker_restarts"]
            assert solved["solves"] == solved["status_optimal"] + solved["status_feasible"]
            result = algorithm.train()
        for actors in ("EnvRunner", "SolverWorker"):
            assert where(actors) == sorted([kept.node_id, spare.node_id])

        # With every runner lost at once, an iteration waits for the first that is back.
        for runner in algorithm.env_runner_group._worker_manager.actors().values():
            ray.kill(runner, no_restart=False)
        steps = algorithm.replay.added
        algorithm.train()
        assert algorithm.replay.added >= steps + STEPS

        # No step twice and none in two episodes; the episode that was under way on the lost node never ends.
        log = algorithm.episodes
        assert all(episode.length == 30 for episode in log.finished)
        under_way = [episode.length for episode in log._open.values()]
        assert 30 * len(log.finished) + sum(under_way) == algorithm.replay.added
        assert len(under_way) <= 5, "one for each of three lost runners, and two now"
    finally:
        algorithm.stop()


@pytest.mark.cluster
def test_a_trial_resumes_from_its_checkpoint_when_its_node_dies(cluster: Any, tmp_path: Path) -> None:
    path, episodes = tmp_path / "sweep", 25
    nodes = {_raylet(node): node for node in (cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1))}
    # The trial's solver worker asks for no CPU and a unit of `solver`, which only this node has.
    cluster.add_node(num_cpus=0, resources={SOLVER: 1})
    flags = [
        "--preset", "paper", "--seeds", "1", "--episodes", str(episodes), "--run", str(path),
        "--solver-workers", "1", "--solver-nodes",
    ]  # fmt: skip
    sweep = subprocess.Popen(
        [sys.executable, "-m", "tune_configs.cli", "sweep", "omlt_ddpg_inventory", *flags],
        env=environment(RAY_ADDRESS=cluster.address), cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        until = time.monotonic() + 120
        while len(results := _results(path)) < 2:
            assert sweep.poll() is None, sweep.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.1)
        cluster.remove_node(nodes[_parent(results[-1]["pid"])], allow_graceful=False)
        seen = len(_results(path))
        told, _ = sweep.communicate(timeout=180)
    finally:
        sweep.kill()
        sweep.wait()
    assert sweep.returncode == 0, told
    results = _results(path)
    before, after = results[:seen], results[seen:]
    assert before[-1]["num_env_steps_sampled_lifetime"] < 30 * episodes, "killed in its midst"
    assert len({line["pid"] for line in before}) == len({line["pid"] for line in after}) == 1
    assert before[-1]["pid"] != after[0]["pid"]
    # It continues with the iteration after its last checkpoint, and ends with as many steps as were asked for.
    assert (
        before[-1]["training_iteration"]
        <= after[0]["training_iteration"]
        <= before[-1]["training_iteration"] + 1
    )
    assert after[-1]["num_env_steps_sampled_lifetime"] == 30 * episodes
    assert [episode.length for episode in read(path)[0].episodes] == [30] * episodes
    assert "Best checkpoint" in told
    asked = json.loads((path / "run.json").read_text())["actors"]
    assert asked == {"env_runners": 0, "solver_workers": 1, "solver_nodes": True}


def _raylet(node: Any) -> int:
    """The process of a node that its actors are children of."""
    return int(node.all_processes["raylet"][0].process.pid)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _results(path: Path) -> list[dict[str, Any]]:
    """The whole lines of the one trial's results."""
    lines = [
        line for file in path.glob("*/result.json") for line in file.read_text().splitlines(keepends=True)
    ]
    return [json.loads(line) for line in lines if line.endswith("\n")]

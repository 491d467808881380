"""A local Ray cluster for each test file, and the misbehaving backend."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from solver_pool.backends import BACKENDS
from solver_pool.pool import PoolConfig, SolverPool

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))


@pytest.fixture(autouse=True)
def faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "faulty", ("faulty_backend", (object,)))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ray with two CPUs, whose workers find the faulty backend."""
    import faulty_backend
    import ray

    notes = str(tmp_path_factory.mktemp("attempts"))
    os.environ[faulty_backend.DIRECTORY] = notes
    path = os.pathsep.join([str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    ray.shutdown()
    ray.init(
        address="local",  # not a cluster that happens to run on this machine
        num_cpus=2,
        object_store_memory=100 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": path, faulty_backend.DIRECTORY: notes}},
    )
    yield
    ray.shutdown()
    del os.environ[faulty_backend.DIRECTORY]


@pytest.fixture(scope="module")
def pool(cluster: None) -> Iterator[SolverPool]:
    """Two workers, shared by the tests of a file: each test also shows that the previous left it usable."""
    import faulty_backend

    with SolverPool(PoolConfig(n_workers=2, cpus_per_worker=0.5, grace=faulty_backend.GRACE)) as shared:
        yield shared

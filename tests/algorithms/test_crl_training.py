"""Online-CRL, Optimistic-GMBL and their baselines as RLlib algorithms: counting, checkpoints, remote runners."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from algorithms.baselines.tabular_lagrangian.config import TabularLagrangianConfig
from algorithms.crl import presets, sample_sizes
from algorithms.crl.config import OnlineCRLConfig, OptimisticGMBLConfig, TabularConfig
from algorithms.crl.evaluation import evaluate
from algorithms.crl.policy import TabularPolicy
from envs.errors import InvalidSetting
from envs.tabular import StateCost, grid_world
from solver_pool.pool import PoolConfig

pytestmark = pytest.mark.usefixtures("local_ray")

GRID = "solverl/GridWorld-v0"


def on_grid(config: TabularConfig, scenario: str = "1a", seed: int = 3) -> TabularConfig:
    config.environment(GRID, env_config={"scenario": scenario})
    return config.debugging(seed=seed, log_level="ERROR")


@pytest.mark.parametrize("kind", presets.KINDS)
def test_a_restored_run_continues_the_same(kind: str, tmp_path: Path) -> None:
    """Episodes, tables, counters and the deployed policy, bit by bit."""
    config = on_grid(presets.preset(kind))
    algorithm, restored = config.build_algo(), config.copy(copy_frozen=False).build_algo()
    try:
        for _ in range(2):
            algorithm.train()
        algorithm.save_to_path(str(tmp_path / "saved"))
        result = algorithm.train()
        restored.restore_from_path(str(tmp_path / "saved"))
        again = restored.train()
        assert algorithm.episodes.finished == restored.episodes.finished
        assert result["crl"] == again["crl"]
        assert result["num_env_steps_sampled_lifetime"] == again["num_env_steps_sampled_lifetime"]
        for name, table in algorithm.module.get_state().items():
            other = restored.module.get_state()[name]
            assert table.dtype == other.dtype
            np.testing.assert_array_equal(table, other)
        np.testing.assert_array_equal(algorithm.agent.deployed(), restored.agent.deployed())
        deployed = TabularPolicy.from_checkpoint(tmp_path / "saved")
        np.testing.assert_allclose(deployed.policy.sum(axis=2), 1.0)
        assert deployed.env == GRID
    finally:
        algorithm.stop()
        restored.stop()


def test_every_transition_is_counted_once() -> None:
    config = on_grid(OnlineCRLConfig().training(radius="author", episodes_per_iteration=7))
    algorithm = config.build_algo()
    try:
        result = algorithm.train()
        counts = algorithm.module.table("counts")
        assert counts.dtype == np.int64
        assert counts.sum() == result["num_env_steps_sampled_lifetime"] == 70
        assert result["env_runners"]["num_episodes_lifetime"] == 7
        assert ((counts > 0) <= (grid_world("1a").kernel > 0)).all()
        # One extended program for each episode, and none that failed.
        (tally,) = result["solver"].values()
        assert (tally["solves"], tally["status_optimal"]) == (7, 7)
        records = algorithm.episodes.finished
        spent = sum(record.cost[0] for record in records)
        assert spent == counts[:8, 1].sum()
        assert sum(record.reward for record in records) == counts[8].sum()
        problem = grid_world("1a")
        worth = evaluate(problem, algorithm.agent.deployed())
        assert result["crl"]["value"] == pytest.approx(worth.value)
        assert result["crl"]["value_gap"] == pytest.approx(abs(worth.value - 3.23193), abs=1e-5)
        assert result["crl"]["violation"] == pytest.approx(max(worth.costs[0] - 2.0, 0.0))
        module = algorithm.get_module()
        actions = module.forward_inference({"obs": np.tile([[9, 8]], (50, 1))})["actions"]
        assert actions.shape == (50,)
    finally:
        algorithm.stop()


def test_epsilon_sets_the_sample_sizes() -> None:
    """Algorithm 1 with Theorem 1's number of samples at once; Algorithm 2 with Theorem 2's ball and cap."""
    config = on_grid(OptimisticGMBLConfig().training(epsilon=1.0, delta=0.1))
    algorithm = config.build_algo()
    try:
        result = algorithm.train()
        task = grid_world("1a").task
        n = sample_sizes.gmbl_samples(task, 1.0, 0.1)
        assert (algorithm.module.table("counts").sum(axis=2) == n).all()
        assert result["num_env_steps_sampled_lifetime"] == 36 * n
        assert result["crl"]["value_gap"] < 1.0
        assert result["crl"]["violation"] < 1.0
        assert sum(record.count for record in algorithm.episodes.finished) == -(-36 * n // 10)
    finally:
        algorithm.stop()
    settings = OnlineCRLConfig().training(epsilon=0.5).settings(task)
    assert settings.cap == sample_sizes.online_cap(task, 0.5, 0.05)
    assert settings.failure == sample_sizes.failure_for_online(task, 0.5, 0.05)


@pytest.mark.parametrize("engine", ["kept", "pool"])
def test_engines_promise_the_same(engine: Any) -> None:
    config = on_grid(OptimisticGMBLConfig().training(radius="author", engine=engine, samples_per_pair=10))
    fast = on_grid(OptimisticGMBLConfig().training(radius="author", samples_per_pair=10))
    first, second = config.build_algo(), fast.build_algo()
    try:
        first.train()
        second.train()
        np.testing.assert_array_equal(first.module.table("counts"), second.module.table("counts"))
        assert first.agent.plan()[0].value == pytest.approx(second.agent.plan()[0].value, abs=1e-6)
    finally:
        first.stop()
        second.stop()


def test_remote_runners_play_different_episodes_with_one_plan() -> None:
    config = on_grid(OnlineCRLConfig().training(radius="author", episodes_per_iteration=4))
    algorithm = config.env_runners(num_env_runners=2).build_algo()
    try:
        for _ in range(3):
            result = algorithm.train()
        assert algorithm.module.table("counts").sum() == result["num_env_steps_sampled_lifetime"] == 120
        assert algorithm.agent.planned == 6
        played = algorithm.env_runner_group.foreach_env_runner(
            lambda runner: runner.module.table("policy").copy(), local_env_runner=False
        )
        for policy in played:
            np.testing.assert_array_equal(policy, algorithm.module.table("policy"))
        names = algorithm.env_runner_group.foreach_env_runner(
            lambda runner: list(runner.module.state_dict()), local_env_runner=False
        )
        assert names == [["policy"], ["policy"]]
    finally:
        algorithm.stop()


def test_other_environments_of_gymnasium() -> None:
    config = OnlineCRLConfig().training(radius="author").debugging(seed=0)
    config.environment(
        "solverl/TabularGymnasium-v0",
        env_config={
            "env": "FrozenLake-v1",
            "cost": StateCost((5, 7, 11, 12)),
            "budgets": 0.05,
            "horizon": 12,
        },
    )
    algorithm = config.build_algo()
    try:
        algorithm.train()
        assert all(record.cost[0] in (0.0, 1.0) for record in algorithm.episodes.finished)
        assert algorithm.module.table("counts").shape == (17, 4, 17)
    finally:
        algorithm.stop()
    with pytest.raises(InvalidSetting, match=r"environment: is a CartPoleEnv. Wrap it"):
        OnlineCRLConfig().environment("CartPole-v1").make_env()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (OnlineCRLConfig().training(radius="wide"), "radius: is 'wide'"),
        (OnlineCRLConfig().training(delta=0.0), "delta: is 0.0"),
        (OnlineCRLConfig().training(epsilon=-1.0), "epsilon: is -1.0"),
        (OnlineCRLConfig().training(engine="slow"), "engine: is 'slow'"),
        (OnlineCRLConfig().training(exploration="none"), "exploration: is 'none'"),
        (OnlineCRLConfig().training(episodes_per_iteration=0), "episodes_per_iteration: is 0"),
        (OnlineCRLConfig().learners(num_learners=1), "num_learners: is 1"),
        (OptimisticGMBLConfig().training(samples_per_pair=0), "samples_per_pair: is 0"),
        (TabularLagrangianConfig().training(price_rate=2.0), "price_rate: is 2.0"),
    ],
)
def test_bad_parameters_are_named(config: TabularConfig, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        on_grid(config).validate()


def test_solver_workers_are_reserved() -> None:
    config = on_grid(OnlineCRLConfig().training(engine="pool", solver_pool=PoolConfig(n_workers=2)))
    request = config.algo_class.default_resource_request(config)
    assert request.required_resources["CPU"] >= 3


def test_unknown_presets() -> None:
    with pytest.raises(InvalidSetting, match="preset: 'x' is unknown"):
        presets.preset("x")

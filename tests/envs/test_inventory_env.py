"""The environments keep Gymnasium's contract, and many in step equal many alone."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import envs
from envs.errors import InvalidSetting
from envs.inventory import DEFAULT, STRESS, InventoryChain, MultiEchelonInventory, MultiEchelonInventoryVector
from envs.registry import ENVIRONMENTS, register_all

IDS = [name for name in ENVIRONMENTS if "Inventory" in name]


@pytest.mark.parametrize("name", IDS)
@pytest.mark.filterwarnings("ignore:.*normalized space", "ignore:.*maximum value is infinity")
def test_gymnasium_accepts_the_environment(name: str) -> None:
    check_env(gym.make(name).unwrapped, skip_render_check=True)


def test_registering_twice_changes_nothing() -> None:
    before = dict(gym.registry)
    register_all()
    assert dict(gym.registry) == before
    assert set(IDS) <= set(before)


def test_the_mathematics_do_not_import_ray() -> None:
    code = "import sys, envs, envs.inventory, envs.adapters.or_gym; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_ray_knows_the_same_names() -> None:
    registry = pytest.importorskip("ray.tune.registry")
    envs.registry.register_with_ray()
    create = registry._global_registry.get("env_creator", IDS[1])
    env = create({"storage_capacity": (100, 100, 200), "alpha": 1.0})
    assert env.unwrapped.chain == InventoryChain(storage_capacity=(100, 100, 200), alpha=1.0, backlog=False)


def test_v0_waits_and_v1_loses() -> None:
    assert gym.make(IDS[0]).unwrapped.chain == DEFAULT
    assert not gym.make(IDS[1]).unwrapped.chain.backlog


def test_the_observation_is_laid_out_as_documented() -> None:
    env = MultiEchelonInventory()
    observation, info = env.reset(seed=0)
    lay = env.chain.layout
    assert lay.size == 3 + 3 + 1 + (3 + 5 + 10) + 1 == len(observation)
    np.testing.assert_array_equal(observation[lay.stock], [100, 100, 200])
    assert observation[lay.periods_left] == 30
    assert observation[lay.unfilled].sum() + observation[lay.backlog] + observation[lay.pipeline].sum() == 0
    np.testing.assert_array_equal(info["distance_to_capacity"], [20, 60, 60])
    for k, order in enumerate([7.0, 8.0, 9.0]):
        observation, *_ = env.step(np.array([order, order + 10, order + 20]))
        assert observation[lay.periods_left] == 29 - k
    np.testing.assert_array_equal(observation[lay.stages[0]], [7, 8, 9])  # oldest first
    np.testing.assert_array_equal(observation[lay.stages[1]], [0, 0, 17, 18, 19])
    np.testing.assert_array_equal(observation[lay.stages[2]], [0] * 7 + [27, 28, 29])


def test_info_reports_excess_demand_and_sales() -> None:
    demand = [0.0] * 29 + [500.0]
    env = MultiEchelonInventory(STRESS, user_demand=demand)
    env.reset(seed=0)
    for n in range(30):
        observation, reward, over, truncated, info = env.step(np.array([100.0, 90.0, 80.0]))
        stock = observation[env.chain.layout.stock]
        np.testing.assert_array_equal(info["cost"], np.maximum(stock - [100, 100, 200], 0))
        np.testing.assert_array_equal(info["distance_to_capacity"], np.array([100, 100, 200]) - stock)
        assert (info["peak_excess"] >= info["cost"]).all()
        assert info["demand"] == demand[n]
        assert reward == 0.97**n * info["reward_undiscounted"]
        assert info["period"] == n + 1
        assert (over, truncated) == (n == 29, False)
    assert info["cost"][0] < info["peak_excess"][0], "500 customers came after the peak"
    assert info["sold"] == 500


def test_alpha_one_trains_what_alpha_reports() -> None:
    train, report = gym.make(IDS[0], alpha=1.0), gym.make(IDS[0])
    train.reset(seed=5)
    report.reset(seed=5)
    for n in range(30):
        _, undiscounted, _, _, _ = train.step(np.full(3, 20.0))
        _, reward, _, _, info = report.step(np.full(3, 20.0))
        assert undiscounted == info["reward_undiscounted"]
        assert reward == 0.97**n * float(undiscounted)


def test_a_seed_fixes_an_episode_and_those_that_follow() -> None:
    def demands(env: MultiEchelonInventory, seed: int | None) -> list[float]:
        env.reset(seed=seed)
        return [env.step(np.zeros(3))[4]["demand"] for _ in range(30)]

    first, second = MultiEchelonInventory(), MultiEchelonInventory()
    # The global generator has no say.
    np.random.seed(0)  # noqa: NPY002
    np.random.poisson(20, 7)  # noqa: NPY002
    assert demands(first, 3) == demands(second, 3)
    assert demands(first, None) == demands(second, None)
    assert demands(first, 3) != demands(first, 4)


def test_demand_may_come_from_the_user() -> None:
    path = np.arange(30.0)
    env = MultiEchelonInventory(user_demand=path)
    env.reset()
    assert [env.step(np.zeros(3))[4]["demand"] for _ in range(30)] == path.tolist()
    halves = MultiEchelonInventory(user_demand=lambda rng: rng.integers(0, 2, 30) * 40)
    halves.reset(seed=1)
    assert {float(halves.step(np.zeros(3))[4]["demand"]) for _ in range(30)} == {0.0, 40.0}


@pytest.mark.parametrize("observation", ["state", "or_gym"])
@pytest.mark.parametrize("name", IDS)
def test_many_in_step_equal_many_alone(name: str, observation: str) -> None:
    """Two and a half episodes, every return value and every info, against Gymnasium's own vectoriser."""
    vector = gym.make_vec(
        name,
        4,
        vectorization_mode="vector_entry_point",
        observation=observation,
        storage_capacity=(100, 100, 200),
    )
    assert isinstance(vector.unwrapped, MultiEchelonInventoryVector)
    assert vector.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    alone = SyncVectorEnv(
        [lambda: gym.make(name, observation=observation, storage_capacity=(100, 100, 200))] * 4
    )
    assert vector.observation_space == alone.observation_space
    assert vector.action_space == alone.action_space
    rng = np.random.default_rng(0)
    same(vector.reset(seed=11), alone.reset(seed=11))
    ends = 0
    for _ in range(75):
        actions = rng.uniform(0, 150, (4, 3))
        ours, theirs = vector.step(actions), alone.step(actions)
        same(ours, theirs)
        ends += int(ours[2].all())
    assert ends == 2
    mask = np.array([True, False, False, True])
    same(vector.reset(options={"reset_mask": mask}), alone.reset(options={"reset_mask": mask}), where=mask)
    for _ in range(75):
        actions = rng.uniform(0, 150, (4, 3))
        ours = vector.step(actions)
        same(ours, alone.step(actions))
        ends += int(ours[2].any() and not ours[2].all())
    assert ends > 2, "after a partial reset the episodes end at different steps"
    same(vector.reset(seed=[5, None, 7, 8]), alone.reset(seed=[5, None, 7, 8]))


def same(ours: Any, theirs: Any, where: Any = slice(None)) -> None:
    assert len(ours) == len(theirs)
    for mine, other in zip(ours[:-1], theirs[:-1], strict=True):
        np.testing.assert_array_equal(mine, other)
        assert mine.dtype == other.dtype
    assert set(ours[-1]) == set(theirs[-1])
    for key, value in theirs[-1].items():
        np.testing.assert_array_equal(ours[-1][key][where], value[where], err_msg=key)


def test_observations_are_the_callers_to_change() -> None:
    env, other = MultiEchelonInventory(), MultiEchelonInventory()
    observation, _ = env.reset(seed=0)
    other.reset(seed=0)
    observation[:] = -1
    np.testing.assert_array_equal(env.step(np.ones(3))[0], other.step(np.ones(3))[0])


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.array([1.0, np.nan, 2.0]), r"action: is nan at index \(1,\)\. Check the policy"),
        (np.array([1.0, np.inf, 2.0]), r"action: is inf at index \(1,\)"),
        (np.ones(4), r"action: has shape \(4,\), expected \(3,\)\. Give one order for each stage"),
        (np.ones((1, 3)), r"action: has shape \(1, 3\)"),
    ],
)
def test_an_unusable_action_is_named_and_nothing_is_executed(action: Any, message: str) -> None:
    env = MultiEchelonInventory()
    env.reset(seed=0)
    with pytest.raises(InvalidSetting, match=message):
        env.step(action)
    assert env.step(np.zeros(3))[4]["period"] == 1
    vector = MultiEchelonInventoryVector(2)
    vector.reset(seed=0)
    with pytest.raises(InvalidSetting, match=r"action: (has shape|is (nan|inf) at index \(1, 1\))"):
        vector.step(np.stack([np.ones(action.shape), action]))


def test_no_step_without_an_episode() -> None:
    env = MultiEchelonInventory()
    with pytest.raises(ResetNeeded, match="reset"):
        env.step(np.zeros(3))
    with pytest.raises(ResetNeeded, match="reset"):
        MultiEchelonInventoryVector(2).step(np.zeros((2, 3)))
    env.reset()
    for _ in range(30):
        env.step(np.zeros(3))
    with pytest.raises(ResetNeeded, match="over"):
        env.step(np.zeros(3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"initial_stock": (1, -2, 3)},
            r"initial_stock: is \(1, -2, 3\)\. Give finite numbers of at least 0",
        ),
        ({"supply_capacity": (1, 0, 3)}, "supply_capacity: .*at least 1"),
        ({"lead_times": (1, 2)}, r"lead_times: has shape \(2,\), expected 3 numbers"),
        ({"lead_times": (1, 2, 1.5)}, "lead_times: .*whole"),
        ({"unit_cost": (1, 1, 1)}, "unit_cost: has shape .*expected 4 numbers"),
        ({"storage_capacity": (np.nan, 1, 1)}, "storage_capacity: is .*nan"),
        ({"storage_capacity": (100.5, 1, 1)}, "storage_capacity: .*whole"),
        ({"alpha": 0.0}, r"alpha: is 0\.0\. Choose a number in \(0, 1\]"),
        ({"periods": 0}, "periods: is 0"),
        ({"price": "dear"}, "price: is 'dear', not numbers"),
        ({"backlog": "yes"}, "backlog: is 'yes'"),
        ({"discount": 0.97}, r"discount: is not a setting of the chain\. The settings are periods, "),
        ({"observation": "pixels"}, r"observation: is 'pixels'\. Use 'state' or 'or_gym'"),
        (
            {"user_demand": [1, 2]},
            r"user_demand: has shape \(2,\)\. Give one number for each of the 30 periods",
        ),
        ({"user_demand": [-1] * 30}, r"user_demand: is -1\.0 in period 0"),
    ],
)
def test_an_unusable_setting_is_named_with_its_remedy(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSetting, match=message) as error:
        MultiEchelonInventory(**changes)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


def test_chains_of_any_length_are_values() -> None:
    chain = InventoryChain(
        initial_stock=[3], supply_capacity=[4], lead_times=[0], unit_cost=[1, 1], backlog_cost=[0, 0],
        holding_cost=[0], storage_capacity=np.array([9]),
    )  # fmt: skip
    assert hash(chain) == hash(pickle.loads(pickle.dumps(chain)))
    env = MultiEchelonInventory(chain)
    env.reset(seed=0)
    assert env.step(np.array([4.0]))[0].shape == (chain.layout.size,) == (4,)

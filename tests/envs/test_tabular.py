"""Tabular constrained MDPs: the data, the paper's grid worlds, adapters of Gymnasium's environments, pictures."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

import envs
from envs.errors import InvalidSetting
from envs.tabular import (
    SCENARIOS,
    ConstrainedMDP,
    GridWorldEnv,
    Layout,
    StateCost,
    TabularEnv,
    TabularGymnasium,
    Task,
    draw_policy,
    grid_world,
    memory,
    picture,
)
from envs.tabular.grid_worlds import MOVES, RIGHT

assert envs

HOLES = StateCost((5, 7, 11, 12))


def tiny(**changed: Any) -> Task:
    given = {
        "rewards": np.array([[0.0, 1.0], [0.5, 0.0]]),
        "costs": np.array([[[0.0, 1.0], [0.0, 0.0]]]),
        "budgets": np.array([0.5]),
        "horizon": 3,
    }
    return Task(**{**given, **changed})


# --- Data -----------------------------------------------------------------------------------------------------


def test_a_task_knows_its_sizes() -> None:
    task = tiny()
    assert (task.shape, task.constraints, task.horizon, task.start) == ((2, 2), 1, 3, 0)
    assert task.violation(np.array([0.7])) == pytest.approx(0.2)
    assert task.violation(np.array([0.3])) == 0.0
    np.testing.assert_array_equal(task.least_costs, [0.0])
    free = tiny(costs=np.zeros((0, 2, 2)), budgets=np.zeros(0))
    assert (free.constraints, free.violation(np.zeros(0))) == (0, 0.0)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"horizon": 0}, "horizon: is 0. An episode has at least one step."),
        ({"horizon": 2.5}, "horizon: is 2.5"),
        ({"start": 2}, "start: is 2. Choose a state in 0 .. 1."),
        ({"rewards": np.zeros(3)}, "rewards: have shape (3,)"),
        ({"rewards": np.array([[np.nan, 1.0], [0.0, 0.0]])}, "rewards: is nan at index (0, 0)"),
        ({"costs": np.zeros((1, 3, 2))}, "costs: have shape (1, 3, 2)"),
        ({"budgets": np.array([0.5, 1.0])}, "costs: have shape (1, 2, 2) with budgets of shape (2,)"),
        ({"budgets": np.array([-0.1])}, "no kernel and policy cost less than 0. Raise the budget"),
        (
            {"costs": np.array([[[0.5, 1.0], [0.25, 0.25]]]), "budgets": np.array([0.9])},
            "budgets: of constraint 0 is 0.9, but no kernel and policy cost less than 1.",
        ),
    ],
)
def test_a_bad_task_is_refused(changed: dict[str, Any], expected: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        tiny(**changed)
    assert expected in str(caught.value)


def test_negative_costs_are_warned_about() -> None:
    with pytest.warns(UserWarning, match=r"c\[0\] is -0.5 in state 1 for action 0"):
        tiny(costs=np.array([[[0.0, 1.0], [-0.5, 0.0]]]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny()


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            [0.5, 0.4],
            "kernel: sums to 0.9 over the next states of state 1 and action 0. Each row must sum to one",
        ),
        ([1.5, -0.5], "kernel: has probability -0.5 from state 1 by action 0 to state 1"),
        ([np.inf, 0.0], "kernel: is inf at index (1, 0, 0)"),
    ],
)
def test_a_bad_kernel_is_refused(row: list[float], expected: str) -> None:
    kernel = np.full((2, 2, 2), 0.5)
    kernel[1, 0] = row
    with pytest.raises(InvalidSetting) as caught:
        ConstrainedMDP(tiny(), kernel)
    assert expected in str(caught.value)
    with pytest.raises(InvalidSetting, match=r"kernel: has shape \(2, 2, 3\)"):
        ConstrainedMDP(tiny(), np.ones((2, 2, 3)) / 3)


def test_draws_follow_the_kernel() -> None:
    problem, rng = grid_world("1a"), np.random.default_rng(0)
    counts = problem.draw_counts(rng, 4_000)
    assert counts.shape == (9, 4, 9)
    assert (counts.sum(axis=2) == 4_000).all()
    np.testing.assert_allclose(counts / 4_000, problem.kernel, atol=0.03)
    drawn = np.bincount([problem.draw(rng, 0, RIGHT) for _ in range(4_000)], minlength=9)
    np.testing.assert_allclose(drawn / 4_000, problem.kernel[0, RIGHT], atol=0.03)


# --- The paper's grid worlds ----------------------------------------------------------------------------------


@given(st.integers(2, 5), st.data())
@settings(max_examples=20, deadline=None)
def test_moves_succeed_with_two_thirds(side: int, data: st.DataObject) -> None:
    from envs.tabular import action_budget

    problem = action_budget(side, 5, 1.0)
    states = side * side
    s, a = data.draw(st.integers(0, states - 2)), data.draw(st.integers(0, 3))
    row, column = s // side + MOVES[a][0], s % side + MOVES[a][1]
    if 0 <= row < side and 0 <= column < side:
        assert problem.kernel[s, a, row * side + column] == pytest.approx(2 / 3)
        assert problem.kernel[s, a, s] == pytest.approx(1 / 3)
    else:
        assert problem.kernel[s, a, s] == 1.0
    assert (problem.kernel[-1, :, -1] == 1.0).all()
    assert problem.task.costs[0].sum() == states - 1
    assert (problem.task.costs[0, :-1, RIGHT] == 1.0).all()


def test_scenarios() -> None:
    sizes = {name: (grid_world(name).task.shape, grid_world(name).task.horizon) for name in SCENARIOS}
    assert sizes == {"1a": ((9, 4), 10), "1b": ((16, 4), 15), "2": ((9, 4), 10)}
    bad = grid_world("2")
    assert bad.kernel[4, 0, 3] == pytest.approx(0.9)
    assert bad.task.costs[0].sum(axis=1).tolist() == [0, 0, 0, 0, 4, 0, 0, 0, 0]
    assert bad.task.budgets.tolist() == [0.0]
    arrival = grid_world("1a", "arrival").task.rewards
    assert arrival[5, 2] == pytest.approx(2 / 3)
    assert arrival[8].tolist() == [0, 0, 0, 0]
    author = grid_world("1a", "author").task.rewards
    assert author[5, 2] == author[7, 1] == 1.0
    with pytest.raises(InvalidSetting, match="scenario: is '3'"):
        grid_world("3")  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match="reward: is 'author' on 16 cells"):
        grid_world("1b", "author")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_grid_worlds_are_environments(scenario: str) -> None:
    env = gym.make("solverl/GridWorld-v0", scenario=scenario, render_mode="rgb_array")
    check_env(env.unwrapped, skip_render_check=False)
    bare: Any = env.unwrapped
    observation, info = bare.reset(seed=1)
    assert observation.tolist() == [0, 0]
    assert info["cost"].tolist() == [0.0]
    total, spent, over = 0.0, np.zeros(1), False
    for h in range(bare.task.horizon):
        state, action = bare.state, (RIGHT, 2)[h % 2]
        observation, reward, over, truncated, info = bare.step(action)
        assert reward == bare.task.rewards[state, action]
        assert info["cost"][0] == bare.task.costs[0, state, action]
        assert bare.problem.kernel[state, action, observation[1]] > 0
        assert observation[0] == h + 1
        assert not truncated
        total, spent = total + reward, spent + info["cost"]
    assert over
    with pytest.raises(gym.error.ResetNeeded):
        bare.step(0)
    bare.reset()
    with pytest.raises(InvalidSetting, match="action: is 4"):
        bare.step(4)
    with pytest.raises(InvalidSetting, match="render_mode: is 'human'"):
        GridWorldEnv(render_mode="human")


def test_episodes_repeat_with_their_seed() -> None:
    env = GridWorldEnv("1b")

    def walk(seed: int) -> list[int]:
        env.reset(seed=seed)
        return [int(env.step(h % 3)[0][1]) for h in range(15)]

    assert walk(3) == walk(3)
    assert len({tuple(walk(seed)) for seed in range(10)}) > 1


# --- Other environments ---------------------------------------------------------------------------------------


def test_frozen_lake_pays_in_the_step_after_the_arrival() -> None:
    env = TabularGymnasium("FrozenLake-v1", HOLES, 0.05, 40)
    check_env(env, skip_render_check=True)
    task, problem = env.task, env.problem
    assert problem is not None
    assert (task.shape, task.horizon, task.start) == ((17, 4), 40, 0)
    assert np.argwhere(task.rewards).tolist() == [[15, a] for a in range(4)]
    assert np.flatnonzero(task.costs[0].any(axis=1)).tolist() == [5, 7, 11, 12]
    for s in (5, 7, 11, 12, 15, 16):
        assert (problem.kernel[s, :, 16] == 1.0).all()
    inner: Any = gym.make("FrozenLake-v1").unwrapped
    for s, a in ((0, 1), (6, 2), (14, 2)):
        wanted = np.zeros(17)
        for p, t, _, _ in inner.P[s][a]:
            wanted[t] += p
        np.testing.assert_allclose(problem.kernel[s, a], wanted)
    assert env.layout is not None
    assert env.layout.marks[15] == "G"


def test_the_adapter_plays_the_other_environment() -> None:
    """Rewards, falls and lengths are those of FrozenLake played alone with the same actions and luck."""
    env = TabularGymnasium("FrozenLake-v1", HOLES, 0.05, 40)
    alone: Any = gym.make("FrozenLake-v1", max_episode_steps=100)
    for seed in range(30):
        rng = np.random.default_rng(seed)
        observation, _ = env.reset(seed=seed)
        luck = np.random.Generator(np.random.PCG64())
        luck.bit_generator.state = gym.utils.seeding.np_random(seed)[0].bit_generator.state
        state, _ = alone.reset(seed=int(luck.integers(2**31)))
        over, arrived = False, 0.0
        for h in range(40):
            action = int(rng.integers(4))
            assert observation.tolist() == [h, state if not over else observation[1]]
            was_over = over
            if not over:
                state, arrived, over, _, _ = alone.step(action)
            observation, reward, _, _, info = env.step(action)
            if was_over:
                # One step after the end of the other episode its reward and cost are paid; then nothing is.
                assert observation[1] == 16
                assert reward == arrived
                assert info["cost"][0] == float(state in HOLES.states)
                arrived, state = 0.0, -1
            else:
                assert reward == info["cost"][0] == 0.0


@pytest.mark.parametrize(("name", "states", "extra"), [("Taxi-v3", 502, 1), ("CliffWalking-v1", 49, 0)])
def test_other_toy_environments(name: str, states: int, extra: int) -> None:
    """Their rewards depend on state and action; Taxi's first state is random, a state and a step of their own."""
    env = TabularGymnasium(name, lambda s, a: [float(a == 1), 0.5], [3.0, 50.0], 20)
    assert (env.task.shape[0], env.task.horizon, env.task.constraints) == (states, 20 + extra, 2)
    inner: Any = gym.make(name).unwrapped
    assert env.problem is not None
    for s in range(0, states - 2, 7):
        for a in range(env.task.shape[1]):
            if env.problem.kernel[s, a, states - 1 - extra] != 1.0:
                assert env.task.rewards[s, a] == inner.P[s][a][0][2]
    observation, _ = env.reset(seed=0)
    rng, total, played = np.random.default_rng(0), 0.0, 0.0
    while observation[0] < env.task.horizon:
        s, action = int(observation[1]), int(rng.integers(env.task.shape[1]))
        observation, reward, *_ = env.step(action)
        total += reward
        played += inner.P[s][action][0][2] if s < states - 1 - extra else 0.0
    assert total == played


class NoTable(gym.Env[Any, Any]):
    """Ten states in a row, of which nobody knows the probabilities."""

    observation_space = gym.spaces.Discrete(10)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.at = 3
        return self.at, {}

    def step(self, action: Any) -> Any:
        self.at += 1 if action else -1
        return self.at, float(self.at == 9), self.at in (0, 9), False, {}


def test_an_environment_without_table_can_be_played() -> None:
    env = TabularGymnasium(NoTable(), StateCost((0,)), 0.5, 12, rewards=lambda s, a: float(s == 9))
    assert env.problem is None
    assert env.task.shape == (12, 2)
    observations = [env.reset(seed=0)[0].tolist()]
    rewards = []
    for _ in range(13):
        observation, reward, over, _, _ = env.step(1)
        observations.append(observation.tolist())
        rewards.append(reward)
    assert over
    assert [s for _, s in observations] == [11, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10, 10, 10, 10]
    assert rewards == [0.0] * 7 + [1.0] + [0.0] * 5
    with pytest.raises(InvalidSetting, match="environment: cannot be put into a chosen state"):
        env.sample_counts(np.random.default_rng(0), 1)
    with pytest.raises(InvalidSetting, match="rewards: are unknown, as NoTable has no table P"):
        TabularGymnasium(NoTable(), StateCost((0,)), 0.5, 12)


class Mixed(NoTable):
    """Its rewards depend on where a step began and where it ended."""

    initial_state_distrib = np.eye(10)[3]

    def __init__(self) -> None:
        outcomes = {s: [(0.5, s, float(s), False), (0.5, (s + 1) % 10, 0.0, False)] for s in range(10)}
        self.P = {s: dict.fromkeys((0, 1), outcomes[s]) for s in range(10)}


def test_rewards_of_whole_transitions_are_averaged_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="rewards: depend on state, action and next state together"):
        env = TabularGymnasium(Mixed(), StateCost((0,)), 0.5, 12)
    np.testing.assert_allclose(env.task.rewards[:10, 0], 0.5 * np.arange(10))


def test_bad_adapters() -> None:
    with pytest.raises(InvalidSetting, match="observation_space: is Box"):
        TabularGymnasium("CartPole-v1", HOLES, 1.0, 5)
    with pytest.raises(InvalidSetting, match=r"cost: has shape \(1, 3, 2\)"):
        TabularGymnasium("FrozenLake-v1", np.zeros((3, 2)), 1.0, 5)
    with pytest.raises(InvalidSetting, match="horizon: is 0"):
        TabularGymnasium("FrozenLake-v1", HOLES, 1.0, 0)
    short = TabularGymnasium(gym.make("CliffWalking-v1", max_episode_steps=3), StateCost(()), 1.0, 9)
    short.reset(seed=0)
    short.step(0)
    short.step(0)
    with pytest.raises(InvalidSetting, match="env: was cut off by a limit of time"):
        short.step(0)


def test_what_does_not_fit_is_refused_before_it_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert memory.needed(9, 4, 10) < 100_000
    with pytest.raises(InvalidSetting, match=r"200,000 states and 4 actions.*takes about.*GiB, but"):
        memory.check_states(200_000, 4, 10)
    assert "takes about" in capsys.readouterr().err
    memory.check_states(9, 4, 10)
    assert capsys.readouterr().err == ""

    class Huge(NoTable):
        observation_space = gym.spaces.Discrete(500_000)

    with pytest.raises(InvalidSetting, match="500,002 states"):
        TabularGymnasium(Huge(), StateCost(()), 1.0, 5, rewards=lambda s, a: 0.0)


def test_pictures() -> None:
    layout = Layout(3, 3, {0: "S", 8: "G"})
    empty, full = picture(layout, np.zeros(9)), picture(layout, np.eye(9)[4])
    assert empty.shape == full.shape == (216, 216, 3)
    differs = np.argwhere((empty != full).any(axis=2))
    # The shade of the visited cell is in the middle of the picture.
    assert ((differs.min(axis=0) > 60) & (differs.max(axis=0) < 156)).all()

    from matplotlib.figure import Figure

    axes = Figure().subplots()
    occupation = np.zeros((9, 4))
    occupation[0] = [0.0, 0.5, 0.5, 0.0]
    occupation[1] = [0.0, 0.0, 1.0, 0.0]
    draw_policy(axes, layout, occupation)
    assert len(axes.texts) == 3 + len(layout.marks)
    env = GridWorldEnv("2", render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().ndim == 3
    bare = TabularEnv(tiny(), ConstrainedMDP(tiny(), np.full((2, 2, 2), 0.5)), render_mode="rgb_array")
    with pytest.raises(InvalidSetting, match="render_mode: is set for a task without layout"):
        bare.render()

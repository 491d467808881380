"""The shield in stock RLlib algorithms: what is executed, what is learned from, and what a restore keeps."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from ray import cloudpickle as pickle
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.iql import IQLConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.algorithms.sac.torch.default_sac_torch_rl_module import DefaultSACTorchRLModule
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.env_to_module import MeanStdFilter
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from algorithms.common.scaling import ActionScale, CastSafeSet
from algorithms.common.shielding import ProjectingSACModule, shielded
from envs.errors import InvalidSetting

pytestmark = pytest.mark.usefixtures("local_ray")
pickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test

Array = NDArray[np.float64]
LOW, HIGH = np.array([0.0, -3.0]), np.array([10.0, 1.0])
"""Bounds of the actions, as little like ``[-1, 1]`` as can be."""
STEPS = 7
"""Length of an episode."""


@dataclass(frozen=True)
class Corridor:
    """Safe actions of `Walk`: ``a_0 / 10 + a_1 <= level - x_0`` and ``a_0 >= 1``; never empty for ``|x_0| <= 1``.

    ``(1, -3)`` satisfies both in every state, since ``0.1 - 3 <= level - x_0`` for ``level >= -1``.
    """

    level: float = -1.0
    low: Array = field(default_factory=LOW.copy)
    high: Array = field(default_factory=HIGH.copy)

    def rows(self, observations: Array) -> tuple[Array, Array]:
        h = np.stack([self.level - observations[:, 0], np.full(len(observations), -1.0)], axis=1)
        return np.array([[0.1, 1.0], [-1.0, 0.0]]), h

    def executable(self, actions: Array) -> Array:
        return actions

    def fallback(self, observations: Array) -> Array:
        return np.tile([1.0, -3.0], (len(observations), 1))


class Walk(gym.Env[Array, Array]):
    """Two actions, ``x`` wanders; it checks its constraint itself, and raises on an action that breaks it.

    Args (of ``env_config``):
        level: of the constraint. own: whether it has a safe set. strict: whether a broken constraint raises.
    """

    executed: ClassVar[list[Array]] = []
    """All actions of this process, with the state that they were taken in."""

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        config = dict(config or {})
        self.level, self.strict = config.get("level", -1.0), config.get("strict", True)
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (3,), dtype=np.float32)
        self.action_space = gym.spaces.Box(LOW.astype(np.float32), HIGH.astype(np.float32))
        if config.get("own", False):
            self.safe_set = Corridor(self.level)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        self.played = 0
        return self._draw(), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        assert action.dtype == np.float32
        assert action.shape == (2,)
        worst = max(action[0] / 10.0 + action[1] - (self.level - float(self.x[0])), 1.0 - action[0])
        if self.strict:
            assert worst <= 1e-6, f"action {action} in state {self.x} breaks its constraint by {worst}"
            assert self.action_space.contains(action)
        self.executed.append(np.concatenate([self.x, action]).astype(np.float64))
        reward = float(action[1] - 0.01 * (action[0] - 4.0) ** 2)
        self.played += 1
        return self._draw(), reward, False, self.played == STEPS, {}

    def _draw(self) -> Array:
        self.x = self.np_random.uniform(-1.0, 1.0, 3).astype(np.float32)
        return self.x


def ppo(**env: Any) -> PPOConfig:
    config = (
        PPOConfig()
        .environment(Walk, env_config=env)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=2)
    )
    config.training(train_batch_size_per_learner=64, minibatch_size=32, num_epochs=2)
    config.rl_module(model_config={"fcnet_hiddens": [8]})
    return config.debugging(seed=3)


def sac(**env: Any) -> SACConfig:
    config = SACConfig().environment(Walk, env_config=env).env_runners(num_env_runners=0)
    config.training(
        train_batch_size_per_learner=16, num_steps_sampled_before_learning_starts=16, n_step=1,
        replay_buffer_config={"type": "EpisodeReplayBuffer", "capacity": 1000},
    )  # fmt: skip
    config.reporting(min_sample_timesteps_per_iteration=32, min_time_s_per_iteration=None)
    config.rl_module(model_config={"fcnet_hiddens": [8], "head_fcnet_hiddens": [8], "fusionnet_hiddens": [8]})
    return config.debugging(seed=3)


def counts(result: dict[str, Any], *path: str) -> dict[str, float]:
    for name in (*path, "env_runners", "shield"):
        result = result[name]
    return {name: float(value) for name, value in result.items()}


@pytest.fixture
def built() -> Iterator[Callable[[AlgorithmConfig], Algorithm]]:
    algorithms = []
    Walk.executed.clear()

    def build(config: AlgorithmConfig) -> Algorithm:
        algorithms.append(config.build_algo())
        return algorithms[-1]

    yield build
    for algorithm in algorithms:
        algorithm.stop()


# --- What is executed, and what is learned from ---------------------------------------------------------------


def test_ppo_executes_projections_and_learns_from_its_samples(built: Any) -> None:
    algorithm = built(shielded(ppo(), Corridor()))
    episodes = algorithm.env_runner.sample(num_timesteps=100)
    executed = np.concatenate(
        [e.get_observations() for e in episodes if len(e)]
    )  # as a check that all are told apart
    assert len(np.unique(executed, axis=0)) == len(executed)
    told = {tuple(row[:3].astype(np.float32)): row[3:] for row in Walk.executed}
    module, differing = algorithm.env_runner.module, 0
    for episode in episodes:
        observed = np.asarray(episode.get_observations())[:-1]
        sampled = np.asarray(episode.get_actions())
        with torch.no_grad():
            logits = module.forward_exploration({Columns.OBS: torch.as_tensor(observed)})[
                Columns.ACTION_DIST_INPUTS
            ]
        logp = module.get_exploration_action_dist_cls().from_logits(logits).logp(torch.as_tensor(sampled))
        kept = np.asarray(episode.get_extra_model_outputs(Columns.ACTION_LOGP))
        np.testing.assert_allclose(kept, logp.numpy(), rtol=1e-4, atol=1e-5)
        for x, a in zip(observed, sampled, strict=True):
            wanted = np.clip(LOW + 0.5 * (a + 1.0) * (HIGH - LOW), LOW, HIGH)
            safe = wanted[0] / 10.0 + wanted[1] <= -1.0 - x[0] and wanted[0] >= 1.0
            if safe:
                np.testing.assert_allclose(told[tuple(x)], wanted, atol=1e-5)
            differing += not safe
    assert differing > 10


def test_sac_stores_what_was_executed_in_the_modules_scale(built: Any) -> None:
    algorithm = built(shielded(sac(), Corridor()))
    result = algorithm.train()
    kept = counts(result)
    assert kept["certified"] + kept["repaired"] == len(Walk.executed) == 32
    assert kept["repaired"] > 0
    assert kept["fallback"] == kept["unsafe"] == 0
    stored = {}
    for episode in algorithm.local_replay_buffer.episodes:
        for x, a in zip(episode.get_observations()[:-1], episode.get_actions(), strict=True):
            stored[tuple(x)] = a
    assert len(stored) == 32
    for row in Walk.executed:
        action = stored[tuple(row[:3].astype(np.float32))]
        assert (np.abs(action) <= 1.0).all()
        np.testing.assert_allclose(LOW + 0.5 * (action + 1.0) * (HIGH - LOW), row[3:], atol=2e-6)


def test_scaling_is_rllibs_and_its_inverse() -> None:
    from ray.rllib.utils.spaces.space_utils import unsquash_action

    space = gym.spaces.Box(np.array([0.0, -3.0, 2.0], np.float32), np.array([10.0, 1.0, 2.0], np.float32))
    scale, draws = ActionScale(space), np.random.default_rng(0).uniform(-1.0, 1.0, (50, 3))
    for a in draws:
        np.testing.assert_allclose(scale.to_env(a), unsquash_action(a, space), atol=1e-6)
    np.testing.assert_allclose(scale.to_module(scale.to_env(draws))[:, :2], draws[:, :2], atol=1e-12)
    np.testing.assert_array_equal(scale.to_module(scale.to_env(draws))[:, 2], 0.0)
    cast = CastSafeSet(Corridor(), np.dtype(np.float32))
    np.testing.assert_array_equal(cast.executable(draws[:, :2]), draws[:, :2].astype(np.float32))


def test_remote_runners_and_evaluation_are_shielded_by_each_environments_own_safe_set(built: Any) -> None:
    config = ppo(own=True).env_runners(num_env_runners=1, num_envs_per_env_runner=2)
    config.evaluation(
        evaluation_interval=1, evaluation_num_env_runners=0, evaluation_duration=3,
        evaluation_config=AlgorithmConfig.overrides(env_config={"level": -1.5, "own": True}, explore=False),
    )  # fmt: skip
    result = built(shielded(config)).train()
    kept = counts(result)
    assert sum(kept.values()) == result["env_runners"]["num_env_steps_sampled_lifetime"]
    assert kept["repaired"] > 0
    assert kept["unsafe"] == kept["fallback"] == 0
    # The evaluation's environment is stricter, and asserts it.
    evaluated = counts(result, "evaluation")
    assert sum(evaluated.values()) >= 3 * STEPS
    assert evaluated["unsafe"] == 0
    assert all(row[3] / 10.0 + row[4] + 1.5 + row[0] <= 1e-6 for row in Walk.executed)


def test_raw_executes_and_counts(built: Any) -> None:
    result = built(shielded(ppo(strict=False), Corridor(), mode="raw")).train()
    kept = counts(result)
    broken = [max(r[3] / 10 + r[4] + 1 + r[0], 1 - r[3]) > 1e-6 for r in Walk.executed]
    assert kept["unsafe"] == sum(broken) > 0
    assert kept["certified"] == len(broken) - sum(broken)
    assert kept["repaired"] == kept["fallback"] == 0


class Doubles(ConnectorV2):
    """Spoils actions that are greater than they should be, as a user's own connector might."""

    def __call__(self, *, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        for key, items in batch[Columns.ACTIONS].items():
            batch[Columns.ACTIONS][key] = [2.0 * items[0]]
        return batch


def test_the_shield_reads_what_the_environment_returned_whatever_other_connectors_do(built: Any) -> None:
    config = ppo().env_runners(
        env_to_module_connector=lambda env, spaces, device: MeanStdFilter(),
        module_to_env_connector=lambda env, spaces: [Doubles()],
    )
    result = built(shielded(config, Corridor())).train()  # `Walk` asserts
    assert counts(result)["repaired"] > 0
    late = shielded(ppo(), Corridor()).env_runners(
        env_to_module_connector=lambda env, spaces, device: MeanStdFilter()
    )
    with pytest.raises(RuntimeError, match=r"env_to_module_connector: was set after `shielded`"):
        built(late).env_runner.sample(num_timesteps=2)


# --- The layer --------------------------------------------------------------------------------------------------


@pytest.fixture
def module() -> ProjectingSACModule:
    config = shielded(sac(), Corridor(level=0.0))
    env = Walk()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = config.get_rl_module_spec(env=env).build()
        made.make_target_networks()
    assert isinstance(made, ProjectingSACModule)
    return made.double()


def states(size: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    observations = (2.0 * torch.rand(size, 3, generator=draw) - 1.0).double()
    return observations, (2.0 * torch.rand(size, 2, generator=draw) - 1.0).double()


def test_the_actors_loss_has_the_projections_derivative(module: ProjectingSACModule) -> None:
    """Central differences of ``Q(s, Proj(a))`` in every action; the uncorrected gradient is far from them."""
    observations, actions = states()

    def value(a: torch.Tensor) -> torch.Tensor:
        return module.compute_q_values({Columns.OBS: observations, Columns.ACTIONS: a})

    proposed = actions.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(value(proposed).sum(), proposed)
    step, differences = 1e-6, torch.zeros_like(actions)
    for j in range(2):
        shift = torch.zeros(2, dtype=torch.float64)
        shift[j] = step
        with torch.no_grad():
            differences[:, j] = (value(actions + shift) - value(actions - shift)) / (2.0 * step)
    torch.testing.assert_close(gradient, differences, rtol=1e-5, atol=1e-8)

    executed = module._executed({Columns.OBS: observations, Columns.ACTIONS: actions})[Columns.ACTIONS]
    moved = (executed - actions).abs().amax(1) > 1e-9
    assert 10 < int(moved.sum()) < len(moved)
    plain = executed.clone().requires_grad_(True)
    q = DefaultSACTorchRLModule.compute_q_values(module, {Columns.OBS: observations, Columns.ACTIONS: plain})
    (uncorrected,) = torch.autograd.grad(q.sum(), plain)
    torch.testing.assert_close(gradient[~moved], uncorrected[~moved])
    assert float((gradient - uncorrected)[moved].norm() / gradient[moved].norm()) > 0.1


def test_the_losses_see_executed_actions(
    module: ProjectingSACModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the actor's loss and in the target every action satisfies its rows; the replayed ones pass as they are."""
    observations, actions = states()
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    own = module._qf_forward_train_helper

    def spy(batch: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        seen.append((batch[Columns.OBS], batch[Columns.ACTIONS]))
        return own(batch, *args, **kwargs)

    monkeypatch.setattr(module, "_qf_forward_train_helper", spy)
    following = observations.flip(0)
    out = module.forward_train(
        {Columns.OBS: observations, Columns.NEXT_OBS: following, Columns.ACTIONS: actions}
    )
    assert out["q_curr"].shape == (len(actions),)
    (_, replayed), *policys = [(o, a) for o, a in seen if a is actions] + [
        s for s in seen if s[1] is not actions
    ]
    assert replayed is actions
    checked = [(o, a) for o, a in policys if a is not actions]
    assert len(checked) == 4  # two critics for each of the actor's loss and the target
    low, width = torch.as_tensor(LOW), torch.as_tensor(HIGH - LOW)
    for o, a in checked:
        env = low + 0.5 * (a.detach() + 1.0) * width
        assert float((env[:, 0] / 10.0 + env[:, 1] + o[:, 0]).max()) <= 1e-9
        assert float((1.0 - env[:, 0]).max()) <= 1e-9
    assert torch.equal(checked[0][0], observations)
    assert torch.equal(checked[-1][0], following)


def test_an_empty_safe_set_yields_the_fallback_without_a_gradient(module: ProjectingSACModule) -> None:
    observations, actions = states(3)
    observations[1, 0] = 100.0
    proposed = actions.clone().requires_grad_(True)
    executed = module._executed({Columns.OBS: observations, Columns.ACTIONS: proposed})[Columns.ACTIONS]
    np.testing.assert_allclose(
        executed[1].detach(), ActionScale(Walk().action_space).to_module(np.array([1.0, -3.0]))
    )
    (gradient,) = torch.autograd.grad(executed.sum(), proposed)
    assert torch.equal(gradient[1], torch.zeros(2, dtype=torch.float64))
    assert torch.isfinite(gradient).all()


@dataclass(frozen=True)
class Halves(Corridor):
    """Executes multiples of a half, below what was wanted where the row asks for it."""

    def executable(self, actions: Array) -> Array:
        return np.maximum(np.floor(2.0 * actions) / 2.0, [1.0, -3.0])


def test_a_rounding_is_executed_and_has_the_gradient_of_the_identity() -> None:
    env = Walk()
    exact, rounding = (
        shielded(sac(), safe_set).get_rl_module_spec(env=env).build()
        for safe_set in (Corridor(0.0), Halves(0.0))
    )
    observations, actions = states()
    results = []
    for module in (exact, rounding):
        proposed = actions.clone().requires_grad_(True)
        executed = module._executed({Columns.OBS: observations, Columns.ACTIONS: proposed})[Columns.ACTIONS]
        results.append((executed.detach().numpy(), torch.autograd.grad(executed.sum(), proposed)[0]))
    (point, gradient), (rounded, same) = results
    scale = ActionScale(env.action_space)
    np.testing.assert_allclose(scale.to_env(rounded), Halves().executable(scale.to_env(point)), atol=1e-9)
    torch.testing.assert_close(gradient, same)


def test_who_has_a_layer() -> None:
    def chosen(config: AlgorithmConfig) -> Any:
        return config.rl_module_spec.module_class

    assert chosen(shielded(sac(), Corridor())) is ProjectingSACModule
    assert chosen(shielded(sac(), Corridor(), layer=False)) is DefaultSACTorchRLModule
    assert chosen(shielded(sac(), Corridor(), mode="raw")) is DefaultSACTorchRLModule
    assert chosen(shielded(ppo(), Corridor())) is chosen(ppo())
    kept = shielded(sac(), Corridor()).get_rl_module_spec(env=Walk()).model_config
    assert kept["fcnet_hiddens"] == [8]
    with pytest.raises(InvalidSetting, match=r"^layer: is True for PPOConfig"):
        shielded(ppo(), Corridor(), layer=True)
    with pytest.raises(InvalidSetting, match=r"^layer: is True with mode='raw'"):
        shielded(sac(), Corridor(), mode="raw", layer=True)
    filtered = sac().env_runners(env_to_module_connector=lambda env, spaces, device: MeanStdFilter())
    with pytest.raises(InvalidSetting, match=r"^layer: is True, but env_to_module_connector is set"):
        shielded(filtered, Corridor())

    class Other(DefaultSACTorchRLModule):
        pass

    with pytest.raises(InvalidSetting, match=r"^layer: is True, but the module is Other"):
        shielded(sac().rl_module(rl_module_spec=RLModuleSpec(module_class=Other)), Corridor())


# --- Checkpoints and Tune -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [ppo, sac])
def test_a_restored_algorithm_is_shielded(make: Any, built: Any, tmp_path: Path) -> None:
    algorithm = built(shielded(make(own=True)))
    before = counts(algorithm.train())
    algorithm.save_to_path(str(tmp_path / "checkpoint"))
    again = Algorithm.from_checkpoint(str(tmp_path / "checkpoint"))
    try:
        Walk.executed.clear()
        after = counts(again.train())
        steps = len(Walk.executed)
        weights = again.learner_group.get_weights()[DEFAULT_MODULE_ID]
        assert all(np.isfinite(w).all() for w in weights.values())
    finally:
        again.stop()
    assert steps > 0
    # Counts go on from the checkpoint's.
    assert sum(after.values()) == sum(before.values()) + steps
    assert after["unsafe"] == after["fallback"] == 0


def test_a_shielded_config_survives_what_tune_does_to_it(built: Any) -> None:
    """Tune makes a dictionary of it, pickles that, and updates the algorithm's default config with it."""
    config = shielded(sac(), Corridor())
    sent = pickle.loads(pickle.dumps(config.to_dict()))
    algorithm = built(config.algo_class.get_default_config().update_from_dict(sent))
    assert counts(algorithm.train())["repaired"] > 0
    assert isinstance(
        algorithm.learner_group._learner.module[DEFAULT_MODULE_ID].unwrapped(), ProjectingSACModule
    )


# --- Errors -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Broken(Corridor):
    """One method returns what it should not."""

    what: str = ""

    def rows(self, observations: Array) -> tuple[Array, Array]:
        G, h = super().rows(observations)
        return (G[:, :1] if self.what == "G" else G), (h[0] if self.what == "h" else h)

    def fallback(self, observations: Array) -> Array:
        return (
            super().fallback(observations)[:, :1]
            if self.what == "fallback"
            else super().fallback(observations)
        )


@pytest.mark.parametrize(
    ("safe_set", "field"),
    [
        (Corridor(low=np.zeros(3)), "safe_set.low: has shape (3,)"),
        (Corridor(high=np.array([10.0, 2.0])), "safe_set.high: is [10.  2.], outside the action space"),
        (Broken(what="G"), "safe_set.rows(...)[0]: has shape (2, 1)"),
        (Broken(what="h"), "safe_set.rows(...)[1]: has shape (2,)"),
        (Broken(what="fallback"), "safe_set.fallback(...): has shape (1, 1)"),
        ("none", "safe_set: is 'none'"),
    ],
)
def test_a_safe_set_that_does_not_fit_is_named(safe_set: Any, field: str) -> None:
    with pytest.raises(InvalidSetting) as raised:
        shielded(ppo(), safe_set)
    assert str(raised.value).startswith(field)


def test_what_cannot_be_shielded_is_named() -> None:
    with pytest.raises(InvalidSetting, match=r"^safe_set: is missing, and the environment .*Walk.* has none"):
        shielded(ppo())
    with pytest.raises(InvalidSetting, match=r"^action_space: of 'CartPole-v1' is Discrete"):
        shielded(DQNConfig().environment("CartPole-v1"), Corridor())
    with pytest.raises(InvalidSetting, match=r"^store: is missing, and IQLConfig"):
        shielded(IQLConfig().environment(Walk), Corridor())
    with pytest.raises(ValueError, match=r"^environment: none was given"):
        shielded(PPOConfig(), Corridor())
    with pytest.raises(InvalidSetting, match=r"^config: is shielded already"):
        shielded(shielded(ppo(), Corridor()), Corridor())
    with pytest.raises(InvalidSetting, match=r"^mode: is 'off'"):
        shielded(ppo(), Corridor(), mode="off")  # type: ignore[arg-type]

"""BOO as an RLlib algorithm: what it learns from, that it resumes exactly, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.evaluation.postprocessing import Postprocessing

from algorithms.baselines.pointer_network.config import PointerNetworkConfig
from algorithms.baselines.pointer_network.policy import PointerPolicy, Selection
from algorithms.boo.boo import BOO
from algorithms.boo.config import BOOConfig
from algorithms.boo.env_runner import GROUP
from algorithms.boo.graphs import GraphBatch
from algorithms.boo.policy import CutPolicy
from algorithms.boo.writer import CutWriter
from algorithms.common.checkpoint import CheckpointError
from envs.cutting_planes import MasterSettings
from envs.errors import InvalidSetting
from envs.packing import PackingEnv
from solver_pool.pool import PoolConfig

pytestmark = pytest.mark.usefixtures("local_ray")

PACKING = {
    "items": 8,
    "cuts": 2,
    "couplings": True,
    "settings": MasterSettings("auto", gap=0.0, time_limit=60.0),
}
ENVS, GROUP_SIZE = 16, 4


def small(config: BOOConfig | None = None, env: dict[str, Any] | None = None, **changes: Any) -> BOOConfig:
    """A small network on packings of eight items."""
    config = config or BOOConfig()
    config.environment("solverl/Packing-v0", env_config={**PACKING, **(env or {})})
    config.env_runners(num_envs_per_env_runner=ENVS)
    config.training(
        **{
            "group_size": GROUP_SIZE,
            "width": 16,
            "rounds": 2,
            "minibatch_size": 16,
            "num_epochs": 2,
            "lr": 1e-3,
            **changes,
        }
    )
    config.debugging(seed=3)
    return config


Build = Callable[[BOOConfig], BOO]


@pytest.fixture
def built() -> Iterator[Build]:
    algorithms = []

    def build(config: BOOConfig) -> BOO:
        algorithms.append(config.build_algo())
        return algorithms[-1]

    yield build
    for algorithm in algorithms:
        algorithm.stop()


@pytest.fixture(scope="module")
def shared(local_ray: None) -> Iterator[BOO]:
    """One algorithm for the tests that look at its parts; they do not depend on each other."""
    algorithm = small().build_algo()
    algorithm.train()
    yield algorithm
    algorithm.stop()


def policy_of(algorithm: BOO) -> torch.nn.Module:
    module = algorithm.learner_group._learner.module[DEFAULT_MODULE_ID].unwrapped()
    policy: torch.nn.Module = module.policy
    return policy


def weights(algorithm: BOO) -> list[np.ndarray]:
    return [p.detach().numpy().copy() for p in policy_of(algorithm).parameters()]


def score(writer: CutWriter, instances: int) -> np.ndarray:
    """The reward of each of some unseen packings, side by side."""
    envs = [PackingEnv(**PACKING) for _ in range(instances)]
    graphs = [env.reset(seed=10_000 + i)[0] for i, env in enumerate(envs)]
    scores = np.zeros(instances)
    for _ in range(2):
        results = [env.step(cut) for env, cut in zip(envs, writer(graphs), strict=True)]
        graphs = [graph for graph, *_ in results]
        scores += [reward for _, reward, *_ in results]
    assert all(over for _, _, over, _, _ in results)
    assert all((env.feasibility.checked, env.feasibility.infeasible) == (2, 0) for env in envs)
    return scores


# --- Training -------------------------------------------------------------------------------------------------


def test_training_improves_plans_that_were_never_seen_and_all_are_feasible(built: Build) -> None:
    config = small(lr=5e-3, group_size=8, minibatch_size=64)
    config.env_runners(num_envs_per_env_runner=64)
    algorithm = built(config)
    before = score(algorithm.writer(), 60)
    for _ in range(12):
        result = algorithm.train()
    gain = score(algorithm.writer(), 60) - before
    assert gain.mean() > 4.0 * gain.std(ddof=1) / np.sqrt(60)
    plans = result["env_runners"]["plans"]
    assert plans["checked"] == 12 * 64 * 2
    assert plans["infeasible"] == 0
    assert [(e.length, e.count, e.unsafe_steps) for e in algorithm.episodes.finished] == [(2, 64, 0)] * 12
    learner = result["learners"][DEFAULT_MODULE_ID]
    assert learner["skipped_minibatches"] == 0
    assert 0 < learner["kl"] < 1
    assert result["solver"]["knapsack"]["solves"] > 0


def test_every_master_is_counted_with_its_figures(shared: BOO) -> None:
    result = shared.train()
    master = result["env_runners"]["master"]
    assert master["solves"] == result["env_runners"]["plans"]["checked"] > 0
    assert 0.0 <= master["gap"] <= 1e-6
    assert 0.0 < master["seconds"] < master["seconds_p95"] + 1.0
    assert master["stood"] == 0


def test_an_infeasible_plan_would_be_reported(shared: BOO) -> None:
    before = [e.unsafe_steps for e in shared.episodes.finished]
    shared.env_runner.env.envs[3].feasibility.add(0.5)
    shared.train()
    assert [e.unsafe_steps for e in shared.episodes.finished] == [*before, 1]
    shared.train()
    assert shared.episodes.finished[-1].unsafe_steps == 0, "it is told once"


def test_episodes_are_judged_against_the_others_of_their_group(shared: BOO) -> None:
    """``A - mean of the others``, normalised; targets are lambda-returns. Everything by hand."""
    episodes = shared._sample()
    assert len(episodes) == ENVS
    assert [len(e) for e in episodes] == [2] * ENVS
    gamma, lam = shared.config.gamma, shared.config.lambda_
    assert (gamma, lam) == (1.0, 0.95)
    A = np.empty((ENVS, 2))
    for i, e in enumerate(episodes):
        (r0, r1), (v0, v1) = e.get_rewards(), e.get_extra_model_outputs(Columns.VF_PREDS)
        A[i] = [r0 + v1 - v0 + lam * (r1 - v1), r1 - v1]
    values = np.array([e.get_extra_model_outputs(Columns.VF_PREDS) for e in episodes])
    judged = np.empty_like(A)
    for i in range(ENVS):
        first = i - i % GROUP_SIZE
        others = [k for k in range(first, first + GROUP_SIZE) if k != i]
        judged[i] = A[i] - A[others].mean(axis=0)
        assert episodes[i].get_infos(0)[GROUP] == episodes[first].get_infos(0)[GROUP]
        assert episodes[i].get_observations(0) == episodes[first].get_observations(0)
    assert len({e.get_infos(0)[GROUP] for e in episodes}) == ENVS // GROUP_SIZE
    batch = shared._judged(episodes)[DEFAULT_MODULE_ID]
    expected = ((judged - judged.mean()) / judged.std()).ravel()
    np.testing.assert_allclose(batch[Postprocessing.ADVANTAGES], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        batch[Postprocessing.VALUE_TARGETS], (A + values).ravel(), rtol=1e-5, atol=1e-6
    )
    assert list(batch[Columns.ACTIONS]) == [a for e in episodes for a in e.get_actions()]
    assert batch[Columns.OBS][1] == episodes[0].get_observations(1)


def test_what_was_sampled_has_the_density_that_the_learner_computes(shared: BOO) -> None:
    shared.train()  # weights in step
    batch = shared._judged(shared._sample())[DEFAULT_MODULE_ID]
    with torch.no_grad():
        distribution, values = policy_of(shared)(GraphBatch.of(list(batch[Columns.OBS])))
        log_prob = distribution.log_prob(batch[Columns.ACTIONS]).numpy()
    np.testing.assert_allclose(log_prob, batch[Columns.ACTION_LOGP], rtol=1e-4, atol=1e-4)
    assert np.isfinite(values).all()


def test_an_update_is_an_adam_step_on_ppos_loss(built: Build) -> None:
    """One epoch of one minibatch, against the loss written with `torch.distributions` and a copy of the policy."""
    config = small(num_epochs=1, minibatch_size=1000, lr=2e-3, entropy_coeff=0.02, grad_clip=0.7)
    algorithm = built(config)
    twin = CutPolicy(*policy_of(algorithm).arguments)  # type: ignore[misc]
    twin.load_state_dict(policy_of(algorithm).state_dict())
    batch = algorithm._judged(algorithm._sample())
    data = batch[DEFAULT_MODULE_ID]
    advantages, targets, old = (
        torch.tensor(data[name])
        for name in (Postprocessing.ADVANTAGES, Postprocessing.VALUE_TARGETS, Columns.ACTION_LOGP)
    )
    distribution, values = twin(GraphBatch.of(list(data[Columns.OBS])))
    std, d = twin.log_std.exp(), 8
    w = torch.distributions.Normal(distribution.w.view(-1, d), std[0])
    b = torch.distributions.Normal(distribution.b, std[1])
    taken = torch.tensor(np.array([cut.w for cut in data[Columns.ACTIONS]]), dtype=torch.float32)
    bias = torch.tensor([cut.b for cut in data[Columns.ACTIONS]])
    ratio = (w.log_prob(taken).sum(1) + b.log_prob(bias) - old).exp()
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    entropy = w.entropy().sum(1) + b.entropy()
    loss = (-surrogate + 0.5 * (values - targets) ** 2 - 0.02 * entropy).mean()
    optimizer = torch.optim.Adam(twin.parameters(), lr=2e-3)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.7)
    assert norm > 0.7, "the clip has a part in it"
    gradients = [p.grad.abs() for p in twin.parameters() if p.grad is not None]
    optimizer.step()
    algorithm.learner_group.update(batch=batch, timesteps={"num_env_steps_sampled_lifetime": 0})
    for name, expected, found in zip(
        dict(twin.named_parameters()), twin.parameters(), policy_of(algorithm).parameters(), strict=True
    ):
        # Adam's first step is the gradient's sign: nothing for one that is rounding.
        clear = expected.grad.abs() > 1e-4
        torch.testing.assert_close(found[clear], expected[clear], rtol=1e-3, atol=2e-5, msg=name)
    assert sum(int((g > 1e-4).sum()) for g in gradients) > 1000


def test_epochs_end_at_the_divergence_asked_for_and_an_average_is_deployed(built: Build) -> None:
    algorithm = built(small(target_kl=1e-9, deployed_rate=0.25))
    module = algorithm.learner_group._learner.module[DEFAULT_MODULE_ID].unwrapped()
    before = [p.detach().clone() for p in module.deployed.parameters()]
    algorithm.train()
    optimizer = algorithm.learner_group._learner.get_optimizer(DEFAULT_MODULE_ID)
    steps = {int(state["step"]) for state in optimizer.state.values()}
    assert steps == {1}, "the first minibatch meets the sampling policy, the second no longer does"
    for old, kept, new in zip(before, module.deployed.parameters(), module.policy.parameters(), strict=True):
        torch.testing.assert_close(kept.detach(), old + 0.25 * (new.detach() - old))
    graph, _ = PackingEnv(**PACKING).reset(seed=1)
    mean = module.deployed(GraphBatch.of([graph]))[0].mode()[0]
    np.testing.assert_array_equal(algorithm.writer()([graph])[0].w, mean.w)


def test_a_loss_that_is_not_finite_is_skipped_and_counted(shared: BOO) -> None:
    batch = shared._judged(shared._sample())
    advantages = batch[DEFAULT_MODULE_ID][Postprocessing.ADVANTAGES]
    good, before = advantages.copy(), weights(shared)

    def update() -> int:
        results = shared.learner_group.update(batch=batch, timesteps={"num_env_steps_sampled_lifetime": 0})
        metric = results[0][DEFAULT_MODULE_ID]["skipped_minibatches"]
        value = metric.peek() if hasattr(metric, "peek") else metric
        return int(value)

    advantages[:] = np.nan
    all_of_them = update()
    assert all_of_them == 2 * (2 * ENVS // 16), "every minibatch of both epochs"
    for a, b in zip(before, weights(shared), strict=True):
        np.testing.assert_array_equal(a, b)
    advantages[:] = good
    advantages[5] = np.inf
    assert update() == 2, "the one that held it, in both epochs"
    after = weights(shared)
    assert all(np.isfinite(w).all() for w in after)
    assert any((a != b).any() for a, b in zip(before, after, strict=True)), "the others were learned from"
    advantages[:] = good
    assert update() == 0
    shared.train()


def test_weights_that_became_nan_stop_training_with_a_name(built: Build) -> None:
    algorithm = built(small())
    with torch.no_grad():
        algorithm.get_module().policy.weight.bias[0] = float("nan")
    before = weights(algorithm)
    with pytest.raises(InvalidSetting, match=r"(?s)w: is nan at index 0.*nothing was solved"):
        algorithm.train()
    assert algorithm.env_runner.env.checked == 0
    for a, b in zip(before, weights(algorithm), strict=True):
        np.testing.assert_array_equal(a, b)


def test_without_exploration_a_group_plays_alike_as_the_writer_would(shared: BOO) -> None:
    shared.train()
    episodes = shared.env_runner._sample(explore=False)
    writer = shared.writer()
    for i, episode in enumerate(episodes):
        leader = episodes[i - i % GROUP_SIZE]
        assert episode.get_rewards() == leader.get_rewards()
        assert list(episode.get_observations()) == list(leader.get_observations())
        if episode is leader:
            for k in range(2):
                cut, expected = episode.get_actions(k), writer([episode.get_observations(k)])[0]
                np.testing.assert_allclose(cut.w, expected.w, rtol=1e-4, atol=1e-5)
                assert cut.b == pytest.approx(expected.b, rel=1e-4, abs=1e-5)


# --- Checkpoints ----------------------------------------------------------------------------------------------


def test_a_restored_run_continues_exactly_as_the_one_that_was_not_stopped(
    built: Build, tmp_path: Path
) -> None:
    one = built(small())
    one.train()
    one.env_runner.env.envs[0].feasibility.add(0.5)  # counts are carried over as well
    one.train()
    one.save_to_path(str(tmp_path / "checkpoint"))
    two = built(small())
    two.train()  # what it did before is forgotten
    two.restore_from_path(str(tmp_path / "checkpoint"))
    checked = []
    for algorithm in (one, two):
        algorithm.train()
        checked.append(algorithm.train()["env_runners"]["plans"]["checked"])
        assert [e.unsafe_steps for e in algorithm.episodes.finished] == [0, 1, 0, 0]
    assert checked == [4 * 2 * ENVS + 1] * 2
    assert [e.reward for e in one.episodes.finished] == [e.reward for e in two.episodes.finished]
    assert len({e.reward for e in one.episodes.finished}) == 4
    for a, b in zip(weights(one), weights(two), strict=True):
        np.testing.assert_array_equal(a, b)
    graphs = [episode.get_observations(0) for episode in one._sample()]
    loaded, current = CutWriter.from_checkpoint(tmp_path / "checkpoint"), one.writer()
    assert (loaded.env, loaded.env_config) == ("solverl/Packing-v0", one.config.env_config)
    assert any((a.w != b.w).any() for a, b in zip(loaded(graphs), current(graphs), strict=True)), (
        "it learned since"
    )


def test_an_earlier_checkpoint_takes_everybody_back(shared: BOO, tmp_path: Path) -> None:
    """The learner, the runner that plays next, and the writer that would be deployed."""
    folder = str(tmp_path / "checkpoint")
    shared.save_to_path(folder)
    at_checkpoint, graph = weights(shared), shared._sample()[0].get_observations(0)
    shared.train()
    shared.train()
    shared.restore_from_path(folder)
    for a, b in zip(at_checkpoint, weights(shared), strict=True):
        np.testing.assert_array_equal(a, b)
    cut, expected = shared.writer()([graph])[0], CutWriter.from_checkpoint(folder)([graph])[0]
    np.testing.assert_array_equal(cut.w, expected.w)
    for a, parameter in zip(at_checkpoint, shared.env_runner.module.policy.parameters(), strict=True):
        np.testing.assert_array_equal(a, parameter.detach().numpy())


def test_a_damaged_checkpoint_is_refused_before_anything_changes(shared: BOO, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shared.save_to_path(str(folder))
    shared.train()
    before, records = weights(shared), len(shared.episodes.finished)
    state = next(iter(sorted(folder.rglob("module_state.*"))))
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"module_state.* has \d+ bytes instead of \d+"):
        shared.restore_from_path(str(folder))
    with pytest.raises(CheckpointError, match="module_state"):
        CutWriter.from_checkpoint(folder)
    with pytest.raises(CheckpointError, match="not a folder"):
        shared.restore_from_path(str(tmp_path / "nowhere"))
    assert len(shared.episodes.finished) == records
    for a, b in zip(before, weights(shared), strict=True):
        np.testing.assert_array_equal(a, b)
    shared.train()


# --- Where it runs --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def remote(local_ray: None) -> Iterator[BOO]:
    """With two runners elsewhere."""
    config = small()
    config.env_runners(num_env_runners=2)
    algorithm = config.build_algo()
    yield algorithm
    algorithm.stop()


def test_remote_runners_draw_other_cuts_and_are_kept_in_step(remote: BOO, tmp_path: Path) -> None:
    before = weights(remote)
    episodes = remote._sample()
    assert len(episodes) == 2 * ENVS
    assert len({e.get_infos(0)[GROUP] for e in episodes}) == 2 * ENVS // GROUP_SIZE
    noise = [e.get_actions(0).b for e in episodes]
    assert len(set(noise)) == len(noise)
    remote.train()
    assert remote.episodes.finished[-1].count == 2 * ENVS
    assert any((a != b).any() for a, b in zip(before, weights(remote), strict=True))
    learned = [torch.as_tensor(w) for w in weights(remote)]

    def in_step(runner: Any) -> bool:
        return all(torch.equal(a, b) for a, b in zip(learned, runner.module.policy.parameters(), strict=True))

    assert remote.env_runner_group.foreach_env_runner(in_step, local_env_runner=False) == [True, True]
    state = remote.get_state()["boo"]["runners"]
    remote.save_to_path(str(tmp_path / "checkpoint"))
    remote.train()
    remote.restore_from_path(str(tmp_path / "checkpoint"))
    again = remote.get_state()["boo"]["runners"]
    assert sorted(again) == [1, 2]
    for index in (1, 2):
        assert again[index]["instances"] == state[index]["instances"]
        np.testing.assert_array_equal(again[index]["cuts"], state[index]["cuts"])


def test_no_instance_is_played_by_two_groups(remote: BOO) -> None:
    episodes = remote._sample()
    instances = {e.get_infos(0)[GROUP]: e.get_observations(0).variables.tobytes() for e in episodes}
    assert len(set(instances.values())) == len(instances) == 2 * ENVS // GROUP_SIZE


def test_solver_workers_give_the_plans_that_this_process_gives(built: Build) -> None:
    settings = {"settings": MasterSettings("highs", gap=0.0, time_limit=60.0)}
    seen = []
    for pool in (PoolConfig(), PoolConfig(n_workers=1)):
        algorithm = built(small(env=settings, solver_pool=pool))
        episodes = algorithm._sample()
        solver = algorithm.env_runner.env.pool
        assert (solver._crew is not None) == bool(pool.n_workers)
        seen.append([(e.get_rewards(), list(e.get_observations())) for e in episodes])
    for (rewards, observations), (others, graphs) in zip(*seen, strict=True):
        np.testing.assert_array_equal(rewards, others)
        assert observations == graphs


def test_the_resources_of_solver_pools_are_asked_for() -> None:
    config = small(solver_pool=PoolConfig(n_workers=2, cpus_per_worker=0.5))
    plain = BOO.default_resource_request(small())
    local = BOO.default_resource_request(config)
    assert local.bundles[-2:] == [{"CPU": 0.5}] * 2
    config.env_runners(num_env_runners=3)
    remote = BOO.default_resource_request(config)
    assert remote.bundles.count({"CPU": 0.5}) == 6
    assert plain is None or {"CPU": 0.5} not in plain.bundles


def test_episodes_of_different_lengths_are_learned_from_together(built: Build) -> None:
    """A job shop with a cut at every planning moment: how many there are, luck decides."""
    config = small(group_size=2)
    exact = MasterSettings("highs", gap=0.0, time_limit=60.0)
    config.env_config = {}
    config.environment(
        "solverl/JobShop-v0",
        env_config={"jobs": 4, "months": 9, "copies": 1, "replan": "cut", "settings": exact},
    )
    config.env_runners(num_envs_per_env_runner=4)
    algorithm = built(config)
    before = weights(algorithm)
    episodes = algorithm._sample()
    assert len({len(e) for e in episodes}) > 1
    batch = algorithm._judged(episodes)[DEFAULT_MODULE_ID]
    assert len(batch[Postprocessing.ADVANTAGES]) == sum(len(e) for e in episodes)
    result = algorithm.train()
    assert any((a != b).any() for a, b in zip(before, weights(algorithm), strict=True))
    assert result["learners"][DEFAULT_MODULE_ID]["skipped_minibatches"] == 0
    plans = 2 * sum(len(e) for e in episodes)  # about as many again, and a schedule of each episode
    assert result["env_runners"]["plans"]["checked"] > plans / 2 + 8
    assert result["env_runners"]["plans"]["infeasible"] == algorithm.episodes.finished[-1].unsafe_steps == 0


# --- The baseline ---------------------------------------------------------------------------------------------


def test_the_pointer_network_trains_in_the_same_way(built: Build, tmp_path: Path) -> None:
    algorithm = built(small(PointerNetworkConfig(), env={"cuts": 1}))
    before = weights(algorithm)
    algorithm.train()
    result = algorithm.train()
    assert isinstance(policy_of(algorithm), PointerPolicy)
    assert any((a != b).any() for a, b in zip(before, weights(algorithm), strict=True))
    assert result["learners"][DEFAULT_MODULE_ID]["skipped_minibatches"] == 0
    assert (result["env_runners"]["plans"]["checked"], result["env_runners"]["plans"]["infeasible"]) == (
        2 * ENVS,
        0,
    )
    assert all(isinstance(e.get_actions(0), Selection) for e in algorithm._sample())
    algorithm.save_to_path(str(tmp_path / "checkpoint"))
    assert isinstance(CutWriter.from_checkpoint(tmp_path / "checkpoint").policy, PointerPolicy)


@pytest.mark.parametrize("env", [{"cuts": 2}, {"cuts": 3}])
def test_the_pointer_network_makes_one_selection_an_episode(env: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"env_config: 'cuts' must be 1"):
        small(PointerNetworkConfig(), env=env).validate()
    config = PointerNetworkConfig()
    config.environment("solverl/Packing-v0", env_config={"items": 8})  # whose default are two
    with pytest.raises(ValueError, match=r"env_config: 'cuts' must be 1"):
        config.validate()


# --- Bad settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("group_size", 3), ("group_size", 0), ("group_size", 32), ("width", 0), ("rounds", -1), ("num_epochs", 0),
        ("minibatch_size", -5), ("clip_param", -0.2), ("gamma", 1.5), ("lambda_", -0.1), ("vf_loss_coeff", -1.0),
        ("entropy_coeff", -0.001), ("supersede", -2.0), ("grad_clip", -1.0), ("lr", -0.001), ("grad_clip", 0.0),
        ("lr", np.inf), ("log_std", np.nan), ("log_std", -np.inf), ("prior", np.inf), ("prior", np.nan),
    ],
)  # fmt: skip
def test_bad_settings_name_the_field_the_value_and_the_remedy(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"(?s){field}.*{value}.*(must|divide)"):
        small(**{field: value}).validate()


def test_a_group_that_does_not_divide_says_what_it_should_divide() -> None:
    with pytest.raises(
        ValueError, match=r"group_size: is 3, which does not divide num_envs_per_env_runner \(16\)"
    ):
        small(group_size=3).validate()


def test_another_runner_is_refused() -> None:
    config = small()
    config.env_runners(env_runner_cls=SingleAgentEnvRunner)
    with pytest.raises(ValueError, match=r"env_runner_cls.*CutEnvRunner"):
        config.validate()


def test_an_environment_without_masters_says_what_to_derive_it_from(built: Build) -> None:
    config = BOOConfig()
    config.environment("CartPole-v1")
    config.env_runners(num_envs_per_env_runner=2)
    with pytest.raises(
        InvalidSetting, match=r"environment: CartPoleEnv has no method `stepping`.*CuttingPlaneEnv"
    ):
        built(config)


def test_the_defaults_are_the_specifications() -> None:
    config = BOOConfig()
    assert (config.width, config.rounds, config.log_std) == (64, 4, -0.5)
    assert (config.clip_param, config.lambda_, config.gamma) == (0.2, 0.95, 1.0)
    assert (config.num_epochs, config.lr, config.entropy_coeff) == (4, 3e-4, 1e-3)
    assert config.num_envs_per_env_runner == 512
    assert PackingEnv()._n_cuts == 2

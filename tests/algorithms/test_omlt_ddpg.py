"""OMLT-DDPG as an RLlib algorithm: it follows Algorithm 1, resumes exactly, and refuses bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns

from algorithms.common.checkpoint import CheckpointError
from algorithms.omlt_ddpg.config import OMLTDDPGConfig
from algorithms.omlt_ddpg.omlt_ddpg import OMLTDDPG
from algorithms.omlt_ddpg.presets import paper, tuned
from algorithms.omlt_ddpg.updates import td_target
from algorithms.safe.policy import SafePolicy
from envs.inventory import DEFAULT
from envs.inventory.evaluation import evaluate
from envs.safe_set import violation
from solver_pool.errors import InvalidProblem

pytestmark = pytest.mark.usefixtures("local_ray")


def small(preset: str = "paper", **changes: Any) -> OMLTDDPGConfig:
    """A preset with small networks, learning from the second episode on, two episodes an iteration."""
    config = paper() if preset == "paper" else tuned(seed=3)
    config.training(critic_hidden=(8, 8), actor_hidden=(8,), warm_up=30, steps_per_iteration=60)
    if preset == "tuned":
        config.training(train_batch_size_per_learner=16, refresh=8, n_critics=2)
    config.training(**changes)
    config.debugging(seed=3)
    return config


def networks(algorithm: OMLTDDPG) -> list[np.ndarray]:
    module = algorithm.learner_group._learner.module[DEFAULT_MODULE_ID].unwrapped()
    return [p.detach().numpy().copy() for p in module.parameters()]


@pytest.fixture
def built() -> Any:
    algorithms = []

    def build(config: OMLTDDPGConfig) -> OMLTDDPG:
        algorithms.append(config.build_algo())
        return algorithms[-1]

    yield build
    for algorithm in algorithms:
        algorithm.stop()


def test_the_defaults_are_the_papers() -> None:
    config = OMLTDDPGConfig()
    assert config.train_batch_size_per_learner == 8
    assert (config.actor_lr, config.critic_lr) == (0.005, 0.001)
    assert config.buffer_capacity == 35_000
    assert config.shield == "raw"


def test_replay_holds_the_executed_transitions_with_their_rows(built: Any) -> None:
    algorithm = built(small())
    algorithm.train()
    kept = algorithm.replay.contents()
    assert len(kept["reward"]) == 60
    np.testing.assert_array_equal(np.flatnonzero(kept["done"]), [29, 59])
    whole_orders = kept["action"] * DEFAULT.supply
    np.testing.assert_allclose(whole_orders, np.round(whole_orders), atol=1e-9)
    # The rows beside a transition are those of its states, in scaled actions.
    np.testing.assert_allclose(kept["h"][1:30], kept["next_h"][:29])
    np.testing.assert_allclose(kept["G"][0], algorithm._safe_set.rows(np.zeros((1, 26)))[0] * DEFAULT.supply)


def test_the_actor_waits_for_the_warm_up_and_the_critic_does_not(built: Any) -> None:
    algorithm = built(small(warm_up=60))
    module = algorithm.learner_group._learner.module[DEFAULT_MODULE_ID].unwrapped()
    actor = [p.clone() for p in module.actor.parameters()]
    critic = [p.clone() for p in module.critics.parameters()]
    algorithm.train()
    assert all(torch.equal(a, b) for a, b in zip(actor, module.actor.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(critic, module.critics.parameters(), strict=True))
    algorithm.train()
    assert not all(torch.equal(a, b) for a, b in zip(actor, module.actor.parameters(), strict=True))


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_certified_training_learns_from_global_maximisers_only(built: Any, activation: str) -> None:
    config = small(activation=activation, certify=True)
    assert config.solve_options.certify
    algorithm = built(config)
    result = algorithm.train()
    assert result["solver"]["branch_and_bound"]["solves"] == 30 * 8
    assert result["solver"]["branch_and_bound"]["status_optimal"] == 30 * 8
    assert 0.0 <= result["solver"]["gap"] <= config.solve_options.gap * 100.0
    assert algorithm.safe_policy().options.certify


def test_td_targets_stop_at_the_end_and_take_what_they_are_told() -> None:
    from algorithms.common.networks import Ensemble

    critics = Ensemble(2, 3, (4,), 1, "tanh", torch.Generator().manual_seed(0))
    state, action = torch.randn(5, 2, generator=torch.Generator().manual_seed(1)), torch.rand(5, 1)
    done = torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0])
    q = critics(torch.cat([state, action], dim=1))[..., 0]
    for pessimism, value in ((0.0, q.mean(0)), (1.0, q.min(0).values)):
        y = td_target(critics, torch.ones(5), state, action, done, 0.9, pessimism)
        torch.testing.assert_close(y, 1.0 + 0.9 * (1 - done) * value)


def test_the_learners_loss_has_the_gradients_that_its_update_takes(built: Any) -> None:
    algorithm = built(small())
    algorithm.train()
    learner = algorithm.learner_group._learner
    module = learner.module[DEFAULT_MODULE_ID].unwrapped()
    sample = {k: torch.as_tensor(v, dtype=torch.float32) for k, v in algorithm.replay.sample(8).items()}
    batch = {
        Columns.OBS: sample["obs"], Columns.ACTIONS: sample["action"], Columns.REWARDS: sample["reward"],
        Columns.NEXT_OBS: sample["next_obs"], "done": sample["done"],
    }  # fmt: skip
    loss = learner.compute_loss_for_module(
        module_id=DEFAULT_MODULE_ID, config=algorithm.config, batch=batch, fwd_out={}
    )
    expected = torch.autograd.grad(loss, list(module.critics.parameters()))
    target = learner._td_target(module, batch)
    inputs = torch.cat([sample["obs"], sample["action"]], dim=1)
    module.critics.regression_gradients(inputs, target[:, None], torch.full((8,), 1 / 8))
    for parameter, gradient in zip(module.critics.parameters(), expected, strict=True):
        torch.testing.assert_close(
            parameter.grad, gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max())
        )


@pytest.mark.parametrize("preset", ["paper", "tuned"])
def test_a_restored_run_continues_exactly_as_the_one_that_was_not_stopped(
    preset: str, built: Any, tmp_path: Path
) -> None:
    one = built(small(preset))
    for _ in range(3):
        one.train()
    one.save_to_path(str(tmp_path / "checkpoint"))
    two = built(small(preset))
    two.restore_from_path(str(tmp_path / "checkpoint"))
    assert len(two.replay) == 180
    for algorithm in (one, two):
        algorithm.train()
    assert [e.reward for e in one.episodes.finished] == [e.reward for e in two.episodes.finished]
    for a, b in zip(networks(one), networks(two), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_same_seed_gives_the_same_run_and_another_does_not(built: Any) -> None:
    rewards = []
    for seed in (3, 3, 4):
        algorithm = built(small("tuned").debugging(seed=seed))
        algorithm.train()
        rewards.append([e.reward for e in algorithm.episodes.finished])
    assert rewards[0] == rewards[1]
    assert rewards[0] != rewards[2]


def test_training_inside_the_safe_set_never_violates_it(built: Any) -> None:
    algorithm = built(small("tuned"))
    for _ in range(3):
        algorithm.train()
    assert sum(e.length for e in algorithm.episodes.finished) == 180
    assert sum(e.unsafe_steps for e in algorithm.episodes.finished) == 0
    assert all(c == 0 for e in algorithm.episodes.finished for c in e.cost)


def test_the_kept_maximisers_follow_the_transitions(built: Any) -> None:
    """`next_best` of a transition is `best` of the one that came after it in the same episode."""
    algorithm = built(small("tuned"))
    for _ in range(3):
        algorithm.train()
    kept = algorithm.replay.contents()
    inner = np.flatnonzero(kept["done"] == 0)
    np.testing.assert_array_equal(kept["next_best"][inner], kept["best"][inner + 1])
    assert kept["solved"].mean() > 0.9


def test_several_environment_runners_and_solver_workers(built: Any, tmp_path: Path) -> None:
    from solver_pool.pool import PoolConfig

    config = small(solver_pool=PoolConfig(n_workers=1))
    config.env_runners(num_env_runners=2, rollout_fragment_length=30)
    algorithm = built(config)
    for _ in range(2):
        algorithm.train()
    assert len(algorithm.replay) >= 120
    assert len(algorithm.episodes.finished) >= 4
    algorithm.save_to_path(str(tmp_path / "checkpoint"))
    other = built(config.copy(copy_frozen=False))
    other.restore_from_path(str(tmp_path / "checkpoint"))
    assert len(other.replay) == len(algorithm.replay)
    request = OMLTDDPG.default_resource_request(config)
    assert request.bundles[-1] == {"CPU": 1.0}


def test_a_failed_solve_is_masked_and_counted(built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every solve failing the actor learns nothing, training goes on, and the failures are in the result."""
    from solver_pool import backends
    from solver_pool.solution import BatchSolution, Status

    def fail(problem: Any, options: Any) -> BatchSolution:
        return BatchSolution.failed(problem, Status.ERROR, "interior_point", "made to fail")

    algorithm = built(small())
    algorithm.train()
    before = networks(algorithm)
    monkeypatch.setattr("solver_pool.backends.interior_point.solve", fail)
    result = algorithm.train()
    module = algorithm.learner_group._learner.module[DEFAULT_MODULE_ID].unwrapped()
    names = [n for n, _ in module.named_parameters()]
    changed = {
        n.split(".")[0] for n, a, b in zip(names, before, networks(algorithm), strict=True) if (a != b).any()
    }
    assert "actor" not in changed
    assert "critics" in changed
    counts = result["solver"]["interior_point"]
    assert counts["status_error"] == counts["solves"] > 0
    assert backends.BACKENDS["interior_point"]


def test_weights_that_became_nan_stop_training_with_a_name(built: Any) -> None:
    algorithm = built(small())
    algorithm.train()
    module = algorithm.learner_group._learner.module[DEFAULT_MODULE_ID].unwrapped()
    with torch.no_grad():
        module.critics.weights[0][0, 0, 0] = float("nan")
    with pytest.raises(InvalidProblem, match=r"weights\[0\].*nan"):
        algorithm.train()


def test_a_checkpoint_cut_in_half_is_refused_by_name(built: Any, tmp_path: Path) -> None:
    algorithm = built(small())
    algorithm.train()
    folder = tmp_path / "checkpoint"
    algorithm.save_to_path(str(folder))
    state = folder / "algorithm_state.pkl"
    state.write_bytes(state.read_bytes()[: state.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r"algorithm_state\.pkl has \d+ bytes instead of \d+"):
        algorithm.restore_from_path(str(folder))
    with pytest.raises(CheckpointError, match="algorithm_state"):
        SafePolicy.from_checkpoint(folder)
    with pytest.raises(CheckpointError, match="not a folder"):
        SafePolicy.from_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tau", 0.0), ("deployed_rate", 2.0), ("gamma", 1.5), ("warm_up", -1), ("activation", "gelu"),
        ("buffer_capacity", 0), ("actor_updates", 5), ("constraint_lag", 2), ("n_critics", 0),
    ],
)  # fmt: skip
def test_bad_settings_name_the_field_and_the_value(field: str, value: Any) -> None:
    config = paper()
    config.training(**{field: value})
    with pytest.raises(ValueError, match=rf"(?s){field}.*{value}"):
        config.validate()


def test_an_environment_without_a_safe_set_says_what_to_give() -> None:
    config = OMLTDDPGConfig()
    config.environment("Pendulum-v1")
    with pytest.raises(ValueError, match=r"safe_set.*config\.safety"):
        config.probed()


def test_safe_deploys_from_a_checkpoint_without_a_violation(built: Any, tmp_path: Path) -> None:
    algorithm = built(small("tuned"))
    algorithm.train()
    algorithm.save_to_path(str(tmp_path / "checkpoint"))
    policy = SafePolicy.from_checkpoint(tmp_path / "checkpoint")
    seen = evaluate(policy, DEFAULT, episodes=20, seed=11)
    assert seen.violations.sum() == 0
    assert seen.peak_violations.sum() == 0
    assert seen.steps == 600
    from envs.inventory import MultiEchelonInventory

    state, _ = MultiEchelonInventory().reset(seed=1)
    action, certificate = policy.act(state)
    assert violation(policy.safe_set, state[None], action[None])[0] == 0.0
    assert certificate.violation == 0.0
    assert certificate.certificate.kkt_residual < 1e-5
    np.testing.assert_array_equal(action, algorithm.safe_policy()(state[None])[0])


def test_safe_is_rllibs_evaluation(built: Any) -> None:
    from algorithms.safe.evaluation import evaluate_safe

    config = small("tuned")
    config.evaluation(evaluation_interval=1, evaluation_duration=3, custom_evaluation_function=evaluate_safe)
    seen = built(config).train()["evaluation"]["env_runners"]
    assert np.isfinite(seen["episode_return_mean"])
    assert seen["certified"] + seen["repaired"] + seen["fallback"] == 90
    assert seen["unsafe_steps"] == 0
    assert seen["cost_mean"] == 0


def test_remote_runners_explore_differently(built: Any) -> None:
    config = small("tuned")
    config.env_runners(num_env_runners=2, rollout_fragment_length=30)
    algorithm = built(config)
    algorithm.train()
    first = algorithm.replay.contents()["action"]
    episodes = first[: len(first) // 30 * 30].reshape(-1, 30, 3)
    assert len({episode.tobytes() for episode in episodes}) == len(episodes)

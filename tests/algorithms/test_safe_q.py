"""SafeQ: Figure 1 in closed form, targets against brute force, safety in training, exact resume."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns

from algorithms.common import checkpoint
from algorithms.common.networks import Ensemble
from algorithms.common.shield import Outcome
from algorithms.omlt_ddpg.updates import td_target
from algorithms.safe.policy import SafePolicy
from algorithms.safe_q.config import SafeQConfig
from algorithms.safe_q.exploration import RandomChords, chord
from algorithms.safe_q.figure_one import FigureOne, largest_loss_ratio, loss_ratio
from algorithms.safe_q.maximisers import Selection, safe_maximisers
from algorithms.safe_q.policy import ProjectedPolicy, load
from algorithms.safe_q.safe_q import SafeQ
from algorithms.safe_q.updates import solved_gradients
from envs.safe_set import violation
from envs.tracking import DEFAULT, SupplySafeSet
from envs.tracking.encoder import StateEncoder
from envs.tracking.planning import constrained_controller, optimum, play, projected_controller
from solver_pool.errors import InvalidProblem
from solver_pool.options import SolveOptions
from solver_pool.pool import PoolConfig, SolverPool
from solver_pool.problem import MLP, CriticBatch, QuadraticBatch
from tune_configs import safe_q

POOL = SolverPool()
SIDE = 201
GRID = np.stack([a.ravel() for a in np.meshgrid(*2 * [np.linspace(0.0, 1.0, SIDE)])], axis=1)


def random_critic(seed: int, n_inputs: int) -> MLP:
    rng = np.random.default_rng(seed)
    return MLP(
        (rng.normal(size=(12, n_inputs)), rng.normal(size=(12, 12)) / 3, rng.normal(size=(1, 12))),
        (rng.normal(size=12), rng.normal(size=12), np.zeros(1)),
        "tanh",
    )


# Figure 1, in closed form.


def quadratic(seed: int, n: int = 2) -> FigureOne:
    """A random one whose maximiser is not safe."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(n, n)))[0]
    H = turn @ np.diag(np.exp(rng.uniform(-2.0, 2.0, size=n))) @ turn.T
    best, normal = rng.normal(size=n), rng.normal(size=n)
    return FigureOne((H + H.T) / 2, best, normal, float(normal @ best) - float(rng.uniform(0.1, 2.0)))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 5))
def test_both_actions_are_what_a_solver_finds_and_the_loss_is_the_formula(seed: int, n: int) -> None:
    case = quadratic(seed, n)
    far = np.full(n, 1e3)
    rows = case.normal[None], np.array([[case.bound]]), -far, far
    solved = POOL.solve(QuadraticBatch(case.H, -(case.H @ case.best)[None], *rows)).x[0]
    nearest = POOL.solve(QuadraticBatch(np.eye(n), -case.best[None], *rows)).x[0]
    np.testing.assert_allclose(case.constrained(), solved, atol=1e-6)
    np.testing.assert_allclose(case.projected(), nearest, atol=1e-6)
    ratio = float(case.value(case.projected()) / case.value(case.constrained()))
    assert ratio == pytest.approx(loss_ratio(case.H, case.normal), rel=1e-6)
    assert 1.0 - 1e-9 <= ratio <= largest_loss_ratio(case.H) * (1.0 + 1e-9)


def test_the_loss_vanishes_along_an_axis_and_is_largest_between_the_extreme_ones() -> None:
    H = np.diag([9.0, 1.0])
    assert loss_ratio(H, np.array([0.0, 2.0])) == pytest.approx(1.0)
    assert loss_ratio(H, np.array([1.0, 1.0])) == pytest.approx(100.0 / 36.0)
    assert largest_loss_ratio(H) == pytest.approx(100.0 / 36.0)
    safe = FigureOne(H, np.array([0.5, 0.5]), np.array([1.0, 1.0]), 2.0)
    for action in (safe.constrained(), safe.projected()):
        np.testing.assert_array_equal(action, safe.best)
    with pytest.raises(InvalidProblem, match="H"):
        FigureOne(-H, np.zeros(2), np.ones(2), 0.0)


def test_one_period_of_the_tracking_system_is_figure_one() -> None:
    """The costs beyond that of the unlimited optimum have exactly the ratio of the closed form."""
    system = replace(DEFAULT, periods=1, decay=0.0, gamma=0.5)
    states = np.zeros((1, 2))
    H = system.B.T @ system.B + system.effort * np.eye(2)
    # So that none of the three actions meets the box.
    system = replace(system, goal=tuple(system.B @ np.array([0.6, 0.4])))
    supplies = np.full((1, 2), 0.55)
    free = optimum(system, states, np.full((1, 1), np.inf))[1]
    costs = [
        float((play(make(system), system, states, supplies).costs - free)[0])
        for make in (constrained_controller, projected_controller)
    ]
    assert costs[0] > 1e-3
    assert costs[1] / costs[0] == pytest.approx(loss_ratio(H, system.n), rel=1e-4)
    assert costs[1] / costs[0] == pytest.approx(2.5, abs=0.1)


# The safe action of a critic.


@pytest.mark.parametrize("selection", ["constrained", "projected"])
def test_the_selected_actions_are_those_of_a_dense_grid(selection: Selection) -> None:
    critic, rng = random_critic(0, 4), np.random.default_rng(1)
    states, h = rng.normal(size=(6, 2)), rng.uniform(0.2, 1.5, size=(6, 1))
    width = np.array([1.0, 3.0])
    problem = CriticBatch(critic, states, np.array([[1.0, 0.7]]), h, np.zeros(2), np.ones(2))
    actions = safe_maximisers(selection, problem, width, POOL, SolveOptions(n_starts=8))
    for i, state in enumerate(states):
        values = critic(np.concatenate([np.tile(state, (len(GRID), 1)), GRID], axis=1))
        safe = GRID @ problem.G[0] <= h[i]
        assert problem.G[0] @ actions[i] <= h[i] + 1e-7
        if selection == "constrained":
            assert values[safe].max() - 1e-7 <= critic(np.concatenate([state, actions[i]])[None])[0]
        else:
            wanted = GRID[values.argmax()]
            nearest = GRID[safe][(((GRID[safe] - wanted) * width) ** 2).sum(axis=1).argmin()]
            np.testing.assert_allclose(actions[i], nearest, atol=3.0 / SIDE)


@pytest.mark.parametrize("selection", ["constrained", "projected"])
def test_an_empty_safe_set_gives_nan_for_its_state_alone(selection: Selection) -> None:
    h = np.array([[1.0], [-0.5], [1.0]])
    problem = CriticBatch(random_critic(0, 4), np.zeros((3, 2)), np.ones((1, 2)), h, np.zeros(2), np.ones(2))
    actions = safe_maximisers(selection, problem, np.ones(2), POOL, SolveOptions(tolerance=1e-6))
    assert list(np.isnan(actions).all(axis=1)) == [False, True, False]


def test_samples_without_a_target_count_for_nothing() -> None:
    critics = Ensemble(2, 3, (5,), 1, "tanh", torch.Generator().manual_seed(0))
    rng = torch.Generator().manual_seed(1)
    state, action, target = (torch.randn(6, n, generator=rng) for n in (2, 1, 1))
    solved = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    kept = solved > 0

    def gradients(*data: torch.Tensor) -> list[torch.Tensor]:
        solved_gradients(critics, *data)
        return [p.grad.clone() for p in critics.parameters()]  # type: ignore[union-attr]

    whole = gradients(state, action, torch.where(kept, target[:, 0], 1e6), solved)
    part = gradients(state[kept], action[kept], target[kept, 0], solved[kept])
    for one, other in zip(whole, part, strict=True):
        torch.testing.assert_close(one, other)
    assert all((g == 0).all() for g in gradients(state, action, target[:, 0], torch.zeros(6)))


# Exploration.


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 4))
def test_explored_actions_satisfy_their_rows(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    G, low, high = rng.normal(size=(3, n)), -np.ones(n), rng.uniform(0.5, 2.0, size=n)
    greedy = rng.uniform(low, high)
    h = G @ greedy + rng.uniform(0.0, 1.0, size=3) * (rng.uniform(size=3) < 0.7)
    exploration = RandomChords(share=1.0, share_end=1.0, seed=seed)
    for _ in range(5):
        wanted = exploration.explore("e", G, h, low, high, greedy)
        assert (G @ wanted <= h + 1e-9).all()
        assert (wanted >= low - 1e-9).all()
        assert (wanted <= high + 1e-9).all()


def test_the_whole_chord_is_used_and_only_the_share_departs() -> None:
    low, high = np.zeros(2), np.ones(2)
    G, h, greedy = np.array([[1.0, 0.0]]), np.array([0.5]), np.array([0.25, 0.5])
    assert chord(greedy, np.array([1.0, 0.0]), G, h, low, high) == (-0.25, 0.25)
    assert chord(np.array([0.9, 0.5]), np.array([1.0, 0.0]), G, h, low, high) == (0.0, 0.0)
    exploration = RandomChords(share=1.0, share_end=0.0, steps=1000, seed=1)
    seen = np.array([exploration.explore("e", G, h, low, high, greedy) for _ in range(2000)])
    moved = (seen != greedy).any(axis=1)
    assert 0.4 < moved[:1000].mean() < 0.6
    assert not moved[1000:].any()
    assert seen[:, 0].min() < 0.02
    assert seen[:, 0].max() > 0.48
    assert seen[:, 1].max() > 0.95
    lost = np.full(2, np.nan)
    np.testing.assert_array_equal(RandomChords().explore("e", G, h, low, high, lost), lost)
    with pytest.raises(ValueError, match=r"share: is 1.5"):
        RandomChords(share=1.5)


# The algorithm. One small one for each selection serves several tests.


def small(**changes: Any) -> SafeQConfig:
    config = SafeQConfig()
    config.environment("solverl/Tracking-v0")
    config.training(
        gamma=DEFAULT.gamma, critic_hidden=(8, 8), activation="elu", train_batch_size_per_learner=8,
        steps_per_iteration=20,
    )  # fmt: skip
    config.training(**changes)
    config.safety(exploration=RandomChords(steps=60, seed=3))
    config.env_runners(rollout_fragment_length=10)
    config.debugging(seed=3)
    return config


def module_of(algorithm: SafeQ) -> Any:
    return algorithm.learner_group._learner.module[DEFAULT_MODULE_ID].unwrapped()


@pytest.fixture
def built(local_ray: None) -> Any:
    algorithms = []

    def build(config: SafeQConfig) -> SafeQ:
        algorithms.append(config.build_algo())
        return algorithms[-1]

    yield build
    for algorithm in algorithms:
        algorithm.stop()


@pytest.mark.parametrize("selection", ["constrained", "projected"])
def test_a_restored_run_continues_exactly_and_its_policy_is_deployed(
    selection: Selection, built: Any, tmp_path: Path
) -> None:
    one = built(small(selection=selection))
    for _ in range(2):
        one.train()
    folder = tmp_path / "checkpoint"
    one.save_to_path(str(folder))

    # Targets are the maximum over the safe actions of the next state: brute force over a grid of them.
    sample = {name: values[-16:] for name, values in one.replay.contents().items()}
    best = one._safe_actions(sample["next_obs"], sample["next_G"], sample["next_h"], sample["next_best"])
    parts = sample["reward"], sample["next_obs"], best, sample["done"]
    tensors = [torch.as_tensor(v, dtype=torch.float32) for v in parts]
    targets = td_target(module_of(one).target_critics, *tensors, DEFAULT.gamma, 0.0).numpy()
    critic = one._target_critic()
    for i in range(16):
        features = np.repeat(sample["next_obs"][i : i + 1], len(GRID), axis=0)
        values = critic(np.concatenate([features, GRID], axis=1))
        safe = GRID @ sample["next_G"][i, 0] <= sample["next_h"][i, 0]
        wanted = values[safe].max()
        if selection == "projected":
            chosen = GRID[safe][((GRID[safe] - GRID[values.argmax()]) ** 2).sum(axis=1).argmin()]
            wanted = critic(np.concatenate([sample["next_obs"][i], chosen])[None])[0]
        assert targets[i] == pytest.approx(sample["reward"][i] + DEFAULT.gamma * wanted, abs=5e-3)

    # The deployed policy is the one in memory, and its class says how it selects.
    policy = load(folder)
    assert type(policy) is (SafePolicy if selection == "constrained" else ProjectedPolicy)
    states, supplies = DEFAULT.episodes(20, seed=5)
    seen = np.column_stack([states, supplies[:, 0]])
    np.testing.assert_array_equal(policy(seen), one.safe_policy()(seen))
    assert violation(policy.safe_set, seen, policy(seen)).max() == 0.0
    assert play(policy, DEFAULT, states, supplies).violations.sum() == 0

    # Resuming.
    two = built(small(selection=selection))
    two.restore_from_path(str(folder))
    for algorithm in (one, two):
        algorithm.train()
    assert [e.reward for e in one.episodes.finished] == [e.reward for e in two.episodes.finished]
    for a, b in zip(module_of(one).parameters(), module_of(two).parameters(), strict=True):
        assert torch.equal(a, b)
    kept, again = one.replay.contents(), two.replay.contents()
    for name in kept:
        np.testing.assert_array_equal(kept[name], again[name])

    # Nothing unsafe was executed, and what was executed was not touched by the shield.
    assert sum(e.length for e in one.episodes.finished) == 60
    assert sum(e.unsafe_steps for e in one.episodes.finished) == 0
    assert all(c <= 1e-6 for e in one.episodes.finished for c in e.cost)

    # The loss that RLlib could differentiate has the gradients that are taken.
    learner = one.learner_group._learner
    batch = {
        Columns.OBS: tensors[1], Columns.ACTIONS: tensors[2], Columns.REWARDS: tensors[0],
        Columns.NEXT_OBS: tensors[1], "done": tensors[3], "next_best": tensors[2],
        "solved": torch.tensor([1.0, 0.0] * 8),
    }  # fmt: skip
    loss = learner.compute_loss_for_module(
        module_id=DEFAULT_MODULE_ID, config=one.config, batch=batch, fwd_out={}
    )
    critics = module_of(one).critics
    expected = torch.autograd.grad(loss, list(critics.parameters()))
    target = learner._td_target(module_of(one), batch)
    solved_gradients(critics, batch[Columns.OBS], batch[Columns.ACTIONS], target, batch["solved"])
    for parameter, gradient in zip(critics.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-4)


def test_deployment_imports_no_ray(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    ProjectedPolicy(random_critic(0, 4), SupplySafeSet(DEFAULT), StateEncoder()).save(folder)
    checkpoint.seal(folder)
    script = (
        "import sys, numpy as np\n"
        "from algorithms.safe_q.policy import load\n"
        f"action, certificate = load({str(folder)!r}).act(np.array([0.2, 0.3, 0.1]))\n"
        "assert 'ray' not in sys.modules, 'Ray was imported'\n"
        "assert certificate.violation == 0.0 and action[0] + 0.2 * action[1] <= 0.1"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@dataclass(frozen=True)
class NothingIsSafe(SupplySafeSet):
    """The supply's rows, moved so far that no action satisfies them."""

    def rows(self, observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        G, h = super().rows(observations)
        return G, h - 10.0


def test_with_an_empty_safe_set_the_fallback_is_executed_and_counted_and_nothing_is_learned(
    built: Any,
) -> None:
    config = small()
    config.safety(safe_set=NothingIsSafe(DEFAULT))
    algorithm = built(config)
    before = [p.clone() for p in module_of(algorithm).parameters()]
    result = algorithm.train()
    assert result["env_runners"]["shield"]["fallback"] == 20
    assert result["env_runners"]["shield"].get("certified", 0) == 0
    np.testing.assert_array_equal(algorithm.replay.contents()["action"], 0.0)
    counts = result["solver"]["interior_point"]
    assert counts["solves"] > 0
    assert counts.get("status_optimal", 0) == 0
    for a, b in zip(before, module_of(algorithm).parameters(), strict=True):
        assert torch.equal(a, b)


def test_weights_that_became_nan_stop_training_with_a_name(built: Any) -> None:
    algorithm = built(small())
    algorithm.train()
    with torch.no_grad():
        module_of(algorithm).critics.weights[0][0, 0, 0] = float("nan")
    with pytest.raises(InvalidProblem, match=r"weights\[0\].*nan"):
        algorithm.train()


def test_a_remote_runner_gets_the_critics_and_solver_workers_solve_for_them(built: Any) -> None:
    config = small(solver_pool=PoolConfig(n_workers=1))
    config.env_runners(num_env_runners=1)
    algorithm = built(config)
    algorithm.train()
    theirs = algorithm.env_runner_group.foreach_env_runner(
        lambda runner: [p.numpy() for p in runner.module.target_critics.parameters()], local_env_runner=False
    )[0]
    for ours, copy in zip(module_of(algorithm).target_critics.parameters(), theirs, strict=True):
        np.testing.assert_array_equal(ours.numpy(), copy)
    assert SafeQ.default_resource_request(config).bundles[-1] == {"CPU": 1.0}


@pytest.mark.parametrize(
    ("setting", "value"), [("selection", "nearest"), ("tau", 0.0), ("activation", "gelu"), ("shield", "raw")]
)
def test_bad_settings_name_the_field_and_the_value(setting: str, value: Any) -> None:
    config = small()
    (config.safety if setting == "shield" else config.training)(**{setting: value})
    with pytest.raises(ValueError, match=rf"(?s){setting}.*{value}"):
        config.validate()


def test_settings_of_an_actor_are_refused() -> None:
    with pytest.raises(ValueError, match=r"(?s)actor_lr: is 0.1.*no actor"):
        SafeQConfig().training(actor_lr=0.1)


def test_a_policy_that_has_nothing_to_do_is_certified_and_a_projected_one_repaired() -> None:
    """`ProjectedPolicy` says what it moved."""
    weights = np.array([[0.0, 0.0, 1.0, 1.0]]), np.ones((1, 1))
    rising = MLP(weights, (np.zeros(1), np.zeros(1)), "softplus")
    projected = ProjectedPolicy(rising, SupplySafeSet(DEFAULT), StateEncoder())
    constrained = SafePolicy(rising, SupplySafeSet(DEFAULT), StateEncoder())
    scarce, plenty = np.array([0.0, 0.0, 0.6]), np.array([0.0, 0.0, 5.0])
    assert projected.act(plenty)[1].outcome == constrained.act(plenty)[1].outcome == Outcome.CERTIFIED
    moved, certificate = projected.act(scarce)
    assert certificate.outcome == Outcome.REPAIRED
    best, certificate = constrained.act(scarce)
    assert certificate.outcome == Outcome.CERTIFIED
    # The sum is largest where the cheap second action is used up; the nearest point to (1, 1) has less of both.
    np.testing.assert_allclose(best, [0.4, 1.0], atol=1e-5)
    np.testing.assert_allclose(moved, np.ones(2) - DEFAULT.n * 0.6 / (DEFAULT.n @ DEFAULT.n), atol=1e-5)
    assert moved.sum() < best.sum() - 0.05


def test_the_experiment_deploys_both_selections_beside_the_bound_and_draws_figure_one(tmp_path: Path) -> None:
    """A critic that is right: fitted to the true `Q` of one period, so that what is lost is the projection's alone."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(200, 4)), rng.uniform(-1.0, 1.0, size=200)
    inputs = np.concatenate([rng.uniform(0.0, 1.5, size=(4000, 2)), rng.uniform(size=(4000, 2))], axis=1)
    x = DEFAULT.decay * inputs[:, :2] + inputs[:, 2:] @ DEFAULT.B.T
    reward = -((x - DEFAULT.goal) ** 2).sum(axis=1) - DEFAULT.effort * (inputs[:, 2:] ** 2).sum(axis=1)
    features = np.column_stack([np.tanh(inputs @ hidden[0].T + hidden[1]), np.ones(4000)])
    last = np.linalg.lstsq(features, reward, rcond=None)[0]
    critic = MLP((hidden[0], last[None, :-1]), (hidden[1], last[-1:]), "tanh")
    ProjectedPolicy(critic, SupplySafeSet(DEFAULT), StateEncoder()).save(tmp_path)
    checkpoint.seal(tmp_path)

    found = safe_q.evaluation(tmp_path, episodes=30, seed=1)
    cost = {row.name: -row.reward[0] for row in found.policies}
    assert list(cost)[:2] == ["SafeQ, projected", "the same critic, constrained"]
    assert all((row.violations, row.steps) == (0, 300) for row in found.policies)
    assert min(cost.values()) == cost[safe_q.PERFECT]
    assert cost["the same critic, constrained"] < 1.1 * cost[safe_q.PERFECT]
    assert cost["SafeQ, projected"] > 1.4 * cost["the same critic, constrained"]
    assert found.policies[0].solver["repaired"] > 100
    assert found.policies[1].solver["certified"] == 300
    (section,) = safe_q.sections([SimpleNamespace(evaluation=found)])
    assert section.body.startswith("<svg")
    # The constrained maximum lies on the limit, where the projection also is, and is worth more.
    points = found.drawing["points"]
    for name in ("projected (12)", "constrained (14)"):
        assert DEFAULT.n @ points[name] == pytest.approx(found.drawing["supply"], abs=1e-5)
    assert np.linalg.norm(np.subtract(points["constrained (14)"], points["projected (12)"])) > 0.2


@pytest.mark.learning
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_learning_reaches_the_optimum_and_projecting_does_not(seed: int, built: Any) -> None:
    starts = DEFAULT.episodes(300, seed=10**6)
    best = play(constrained_controller(DEFAULT), DEFAULT, *starts).costs.mean()  # knows the model
    ratio = {}
    for selection in safe_q.PRESETS:
        algorithm = built(safe_q.config(selection, seed))
        for _ in range(safe_q.STOP["num_env_steps_sampled_lifetime"] // algorithm.config.steps_per_iteration):
            algorithm.train()
        assert sum(e.unsafe_steps for e in algorithm.episodes.finished) == 0
        played = play(algorithm.safe_policy(), DEFAULT, *starts)
        assert played.violations.sum() == 0
        ratio[selection] = played.costs.mean() / best
    assert ratio["constrained"] < 1.05
    assert ratio["projected"] > 1.4

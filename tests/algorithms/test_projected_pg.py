"""Projected policy gradients: exact gradients against finite differences, estimates against exact ones, training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from algorithms.common.checkpoint import CheckpointError
from algorithms.common.projection import project_polytope
from algorithms.projected_pg.config import ProjectedDPGConfig, ProjectedPGConfig
from algorithms.projected_pg.estimators import executed, gaussian_log_prob, scored
from algorithms.projected_pg.exact import KnownModel
from algorithms.projected_pg.learner import in_two
from algorithms.projected_pg.least_squares import PolynomialCritic
from algorithms.projected_pg.policy import ProjectedPolicy
from solver_pool.errors import InvalidProblem
from solver_pool.pool import SolverPool

POOL = SolverPool()
A, B = np.array([[1.0, 0.2], [0.0, 1.0]]), np.array([[0.02, 0.1], [0.2, 0.05]])
TARGET = np.array([0.9, 0.0])


class Polytope:
    """``G u <= h + E x``: half-planes that move with the state."""

    low, high = np.full(2, -np.inf), np.full(2, np.inf)

    def __init__(self, G: Any, h: Any, E: Any) -> None:
        self.G, self.h, self.E = (np.asarray(a, dtype=np.float64) for a in (G, h, E))

    def rows(self, observations: np.ndarray[Any, Any]) -> tuple[Any, Any]:
        return self.G, self.h + observations @ self.E.T

    def executable(self, actions: Any) -> Any:
        return actions

    def fallback(self, observations: Any) -> Any:
        return np.zeros((len(observations), 2))


class Ellipsoid:
    """``u'E u <= r``: curved, so that M is no projector."""

    low, high = np.full(2, -np.inf), np.full(2, np.inf)
    E, r = np.array([[3.0, 1.0], [1.0, 1.0]]), 0.3

    def value(self, observations: Any, actions: Any) -> Any:
        return np.einsum("bi,ij,bj->b", actions, self.E, actions)[:, None] - self.r

    def jacobian(self, observations: Any, actions: Any) -> Any:
        return (2.0 * actions @ self.E)[:, None, :]

    def hessian(self, observations: Any, actions: Any, multipliers: Any) -> Any:
        return 2.0 * multipliers[:, :, None] * self.E


NOWHERE = [[0.0, 0.0]]
SETS = {
    "no active constraint": Polytope([[1.0, 0.0]], [50.0], NOWHERE),
    "one half-plane": Polytope([[1.0, 0.5]], [0.1], [[0.1, -0.2]]),
    "several half-planes": Polytope(
        [[1.0, 0.5], [-1.0, 0.3], [0.2, -1.0]], [0.1, 0.2, 0.1], [[0.1, -0.2], [0.0, 0.1], [-0.1, 0.0]]
    ),
    "an ellipsoid": Ellipsoid(),
}


def scenario(name: str) -> tuple[KnownModel, Any, Any, Any]:
    """A linear-quadratic problem, a policy, and its disturbances."""
    model = KnownModel(A, B, TARGET, 0.05, 0.95, SETS[name])
    rng = np.random.default_rng(3)
    theta = rng.normal(size=(2, 3))
    return model, theta, rng.normal(size=(16, 2)) * 0.5, rng.normal(size=(12, 16, 2)) * 0.03


def finite_differences(
    model: KnownModel, theta: Any, states: Any, disturbances: Any, step: float = 1e-6
) -> Any:
    out = np.zeros_like(theta)
    for index in np.ndindex(*theta.shape):
        shift = np.zeros_like(theta)
        shift[index] = step
        up, down = (model.cost(theta + s * shift, states, disturbances).mean() for s in (1, -1))
        out[index] = (up - down) / (2.0 * step)
    return out


# --- The deterministic gradient ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_the_corrected_gradient_is_the_derivative_of_the_cost(name: str) -> None:
    model, theta, states, disturbances = scenario(name)
    reference = finite_differences(model, theta, states, disturbances)
    _, found = model.gradient(theta, states, disturbances)
    assert np.linalg.norm(found - reference) < 1e-5 * np.linalg.norm(reference)


@pytest.mark.parametrize("name", [name for name in SETS if name != "no active constraint"])
def test_the_uncorrected_gradient_is_not(name: str) -> None:
    model, theta, states, disturbances = scenario(name)
    reference = finite_differences(model, theta, states, disturbances)
    _, found = model.gradient(theta, states, disturbances, correction=False)
    assert np.linalg.norm(found - reference) > 0.1 * np.linalg.norm(reference)


def test_without_active_constraints_both_agree() -> None:
    model, theta, states, disturbances = scenario("no active constraint")
    gradients = [model.gradient(theta, states, disturbances, correction)[1] for correction in (True, False)]
    np.testing.assert_array_equal(*gradients)


def test_the_executed_action_is_the_point_and_its_gradient_passes_through_M_or_past_it() -> None:
    proposals = torch.tensor([[2.0, 0.5], [0.1, 0.2]], dtype=torch.float64, requires_grad=True)
    projected = project_polytope(
        proposals.detach().numpy(), np.empty((0, 2)), np.empty((2, 0)), -np.ones(2), np.ones(2), POOL
    )
    for correction, expected in ((True, [[0.0, 1.0], [1.0, 1.0]]), (False, [[1.0, 1.0], [1.0, 1.0]])):
        actions = executed(proposals, projected, correction)
        np.testing.assert_allclose(actions.detach(), [[1.0, 0.5], [0.1, 0.2]], atol=1e-12)
        (gradient,) = torch.autograd.grad(actions.sum(), proposals)
        np.testing.assert_allclose(gradient, expected, atol=1e-12)


def test_an_empty_safe_set_leaves_the_proposal_without_a_gradient() -> None:
    proposals = torch.tensor([[2.0], [0.5]], dtype=torch.float64, requires_grad=True)
    rows = (
        np.array([[1.0], [-1.0]]),
        np.array([[-1.0, -1.0], [1.0, 1.0]]),
    )  # u <= -1 and u >= 1, then u in [-1, 1]
    projected = project_polytope(
        proposals.detach().numpy(), *rows, np.full(1, -9.0), np.full(1, 9.0), POOL, on_failure="mask"
    )
    actions = executed(proposals, projected)
    (gradient,) = torch.autograd.grad(actions.sum(), proposals)
    np.testing.assert_allclose(actions.detach(), [[2.0], [0.5]])
    np.testing.assert_allclose(gradient, [[0.0], [1.0]])


# --- The stochastic gradient ------------------------------------------------------------------------------------


def test_of_the_stochastic_estimates_only_the_score_of_the_proposal_is_unbiased() -> None:
    """One step, ``Q(u) = -|u - c|^2 + u_1 u_2 / 2`` on a box; the reference is quadrature over the clipped Gaussian."""
    mean, std, target = np.array([0.7, -0.3]), 0.5, np.array([1.5, 0.4])

    def q(u: Any) -> Any:
        return -((u - target) ** 2).sum(axis=-1) + 0.5 * u[..., 0] * u[..., 1]

    nodes = np.linspace(-7.0, 7.0, 2001)
    weights = np.exp(-0.5 * nodes**2)
    weights /= weights.sum()

    def value(m: Any) -> float:
        u = np.clip(np.stack(np.meshgrid(*(m[:, None] + std * nodes), indexing="ij"), axis=-1), -1.0, 1.0)
        return float((weights[:, None] * weights[None, :] * q(u)).sum())

    step = 0.01  # wider than the nodes are apart, so that kinks between them average out
    reference = np.array(
        [(value(mean + step * e) - value(mean - step * e)) / (2.0 * step) for e in np.eye(2)]
    )

    generator = torch.Generator().manual_seed(0)
    proposed = torch.tensor(mean) + std * torch.randn(400_000, 2, generator=generator, dtype=torch.float64)
    clipped = proposed.clamp(-1.0, 1.0)
    advantages = torch.from_numpy(q(clipped.numpy()) - value(mean))
    found = {}
    for score in ("proposed", "executed", "interior"):
        at, counts = scored(score, proposed, clipped)
        samples = ((at - torch.tensor(mean)) / std**2 * (counts * advantages)[:, None]).numpy()
        found[score] = samples.mean(axis=0), samples.std(axis=0) / np.sqrt(len(samples))
    estimate, error = found["proposed"]
    assert (np.abs(estimate - reference) < 4.0 * error).all()
    for wrong in ("executed", "interior"):
        estimate, error = found[wrong]
        assert (np.abs(estimate - reference) > 20.0 * error).any()


def test_the_log_density_is_the_gaussians() -> None:
    rng = np.random.default_rng(0)
    mean, at, log_std = (torch.from_numpy(rng.normal(size=shape)) for shape in ((5, 3), (5, 3), (3,)))
    expected = torch.distributions.Normal(mean, log_std.exp()).log_prob(at).sum(dim=1)
    np.testing.assert_allclose(gaussian_log_prob(mean, log_std, at), expected)


# --- The polynomial critic ----------------------------------------------------------------------------------------


def test_least_squares_finds_the_value_of_a_linear_policy() -> None:
    """``x+ = x / 2 + u``, ``u = -x / 4``, reward ``-x^2``: Q is a quadratic, known in closed form."""
    rng, gamma = np.random.default_rng(0), 0.9
    x, u = rng.normal(size=(2, 500))
    following = x / 2 + u
    critic = PolynomialCritic(2, 2)
    now, after = (torch.from_numpy(np.stack(pair, axis=1)) for pair in ((x, u), (following, -following / 4)))
    error = critic.fit(now, torch.from_numpy(-(x**2)), after, torch.ones(len(x)), gamma)
    p = 1.0 / (1.0 - gamma / 16.0)  # V(x) = -p x^2 with p = 1 + gamma p / 16
    at = torch.tensor([[1.0, 0.5], [-2.0, 0.0], [0.0, 1.0]])
    expected = [-(a**2) - gamma * p * (a / 2 + b) ** 2 for a, b in at.tolist()]
    np.testing.assert_allclose(critic(at), expected, rtol=1e-5)
    assert 0.0 <= float(error) < 1e-10


def test_monomials_are_all_up_to_the_degree() -> None:
    critic = PolynomialCritic(2, 3)
    x, y = 2.0, 3.0
    expected = [1, x, y, x * x, x * y, y * y, x**3, x * x * y, x * y * y, y**3]
    np.testing.assert_allclose(critic.monomials(torch.tensor([[x, y]])), [expected])


def test_where_nothing_follows_the_critic_is_a_regression_on_rewards() -> None:
    z = torch.from_numpy(np.random.default_rng(1).normal(size=(500, 2)))
    rewards = 1.0 + 2.0 * z[:, 0] - z[:, 0] * z[:, 1]
    critic = PolynomialCritic(2, 2)
    critic.fit(z, rewards, 9.0 * z, torch.zeros(500), 0.9)
    np.testing.assert_allclose(critic(z), rewards, atol=1e-5)


# --- Training ---------------------------------------------------------------------------------------------------


class Slope(gym.Env[Any, Any]):
    """One action, one state: ``x+ = x + u``, reward ``-(x - 2)^2``, and the floor ends at ``x <= 1``."""

    observation_space = gym.spaces.Box(-5.0, 5.0, (1,), np.float64)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float64)

    def __init__(self, config: Any = None) -> None: ...

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x, self.t = self.np_random.uniform(-1.0, 0.0, 1), 0
        return self.x.copy(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.x, self.t = self.x + action, self.t + 1
        assert self.x[0] <= 1.0 + 1e-6
        return self.x.copy(), float(-((self.x[0] - 2.0) ** 2)), False, self.t == 8, {"cost": [0.0]}


class Floor:
    """``x + u <= 1``."""

    low, high = np.full(1, -1.0), np.full(1, 1.0)

    def rows(self, observations: Any) -> tuple[Any, Any]:
        return np.ones((1, 1)), 1.0 - observations

    def executable(self, actions: Any) -> Any:
        return actions

    def fallback(self, observations: Any) -> Any:
        return np.minimum(1.0 - observations, 0.0)


def small(kind: str) -> Any:
    if kind in ("deterministic", "least squares"):
        config = ProjectedDPGConfig().training(updates=10, train_batch_size_per_learner=32, actor_lr=3e-3)
        config.training(critic_degree=2 if kind == "least squares" else 0, excess_coeff=0.01)
    else:
        config = ProjectedPGConfig().training(num_epochs=2, minibatch_size=64, lr=3e-3)
    config.environment(Slope).safety(safe_set=Floor()).training(gamma=0.9, actor_hidden=(8,))
    return config.env_runners(num_envs_per_env_runner=8).debugging(seed=1)


KINDS = ("deterministic", "least squares", "stochastic")


def weights(algorithm: Any) -> list[Any]:
    policy = algorithm.policy()
    return [*policy.weights, *policy.biases]


@pytest.fixture
def built(local_ray: None) -> Iterator[Any]:
    algorithms: list[Any] = []

    def build(config: Any) -> Any:
        algorithms.append(config.build_algo())
        return algorithms[-1]

    yield build
    for algorithm in algorithms:
        algorithm.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_training_earns_more_and_nothing_executed_was_unsafe(kind: str, built: Any) -> None:
    algorithm = built(small(kind))
    for _ in range(25):
        result = algorithm.train()
    rewards = [record.reward for record in algorithm.episodes.finished]
    assert np.mean(rewards[-5:]) > np.mean(rewards[:3]) + 1.0
    assert sum(record.unsafe_steps for record in algorithm.episodes.finished) == 0
    counted = result["env_runners"]["shield"]
    assert counted["repaired"] > 0
    assert counted["unsafe"] == 0
    assert sum(counted.values()) == 25 * 8 * 8 == result["env_runners"]["num_env_steps_sampled_lifetime"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_run_continues_exactly_as_the_one_that_was_not_stopped(
    kind: str, built: Any, tmp_path: Path
) -> None:
    first = built(small(kind))
    for _ in range(2):
        first.train()
    folder = first.save_to_path(tmp_path / "checkpoint")
    for _ in range(2):
        first.train()
    second = built(small(kind))
    second.restore_from_path(folder)
    for _ in range(2):
        second.train()
    for a, b in zip(weights(first), weights(second), strict=True):
        np.testing.assert_array_equal(a, b)
    assert first.episodes.get_state() == second.episodes.get_state()


def test_a_checkpoint_deploys_without_ray_and_a_damaged_one_is_named(built: Any, tmp_path: Path) -> None:
    algorithm = built(small("deterministic"))
    algorithm.train()
    folder = Path(algorithm.save_to_path(tmp_path / "checkpoint"))
    states = np.array([[0.9], [-0.5]])
    acted = ProjectedPolicy.from_checkpoint(folder).act_batch(states)
    np.testing.assert_allclose(acted.actions, algorithm.policy().act_batch(states).actions)
    assert (states + acted.actions <= 1.0).all()
    (folder / "projected_policy.pkl").write_bytes(b"cut off")
    with pytest.raises(CheckpointError, match="projected_policy"):
        ProjectedPolicy.from_checkpoint(folder)


def test_weights_that_are_not_finite_are_an_error_that_names_the_actor(built: Any) -> None:
    algorithm = built(small("deterministic"))

    def spoil(learner: Any) -> None:
        module = learner.module["default_policy"].unwrapped()
        with torch.no_grad():
            module.deployed_actor.weights[0].fill_(torch.nan)

    algorithm.of_learner(spoil)
    with pytest.raises(InvalidProblem, match="actor: has weights that are not finite"):
        algorithm.policy()


def test_the_first_proposals_are_where_they_were_asked_to_be(built: Any) -> None:
    config = small("deterministic").training(initial_action=(0.4,), actor_hidden=())
    proposals = built(config).policy().propose(np.zeros((1, 1)))
    np.testing.assert_allclose(proposals, 0.4, atol=1e-6)


def test_a_policy_far_outside_comes_back_only_with_the_penalty(built: Any) -> None:
    """Started where every proposal is projected on a vertex, M is 0."""
    moved = {}
    for coefficient in (0.0, 1.0):
        algorithm = built(small("deterministic").training(initial_action=(9.0,), excess_coeff=coefficient))
        before = algorithm.policy().propose(np.zeros((1, 1)))
        for _ in range(3):
            algorithm.train()
        moved[coefficient] = float((before - algorithm.policy().propose(np.zeros((1, 1))))[0, 0])
    assert moved[0.0] == pytest.approx(0.0, abs=1e-5)
    assert moved[1.0] > 1e-3


def test_remote_runners_play_other_episodes_than_the_first(built: Any) -> None:
    config = ProjectedPGConfig().environment("solverl/LinearTube-v0")
    algorithm = built(config.env_runners(num_env_runners=2, num_envs_per_env_runner=4).debugging(seed=1))
    episodes = algorithm.rollouts()
    assert episodes.rewards.shape == (100, 8)
    assert len(np.unique(episodes.observations[0], axis=0)) == 8
    np.testing.assert_array_equal(episodes.lengths, 100)
    np.testing.assert_array_equal(episodes.terminated, False)


def test_the_rounded_part_of_a_state_survives_float32() -> None:
    states = np.random.default_rng(0).normal(size=(100, 3)) * 1e3
    columns = in_two("obs", states)
    assert all(column.dtype == np.float32 for column in columns.values())
    np.testing.assert_allclose(sum(c.astype(np.float64) for c in columns.values()), states, rtol=1e-14)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("deterministic", {"noise": -1.0}, "noise: is -1.0; it must not be negative"),
        ("deterministic", {"tau": 0.0}, r"tau: is 0.0; it must lie in \(0, 1\]"),
        ("deterministic", {"excess_coeff": -1.0}, "excess_coeff: is -1.0; it must not be negative"),
        ("deterministic", {"critic_degree": -1}, "critic_degree: is -1; 0 takes networks"),
        ("deterministic", {"updates": 0}, "updates: is 0; it must be positive"),
        ("stochastic", {"score": "both"}, "score: is 'both'; use one of proposed, executed, interior"),
        ("stochastic", {"lambda_": 2.0}, r"lambda_: is 2.0; it must lie in \[0, 1\]"),
        ("stochastic", {"reward_scale": 0.0}, "reward_scale: is 0.0; it must be positive"),
        ("stochastic", {"gamma": 1.5}, r"gamma: is 1.5; it must lie in \[0, 1\]"),
    ],
)
def test_errors_name_field_value_and_remedy(kind: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(kind).training(**changes).validate()


def test_an_environment_without_a_safe_set_is_an_error_that_says_how_to_give_one() -> None:
    with pytest.raises(ValueError, match=r"safe_set: the environment .* has none. Give one with"):
        ProjectedDPGConfig().environment(Slope).get_rl_module_spec()


@pytest.mark.learning
def test_the_papers_example_reaches_the_best_linear_policy(built: Any) -> None:
    """Within 1 %; `benchmarks.projected_pg` does the same for five seeds, and for the uncorrected gradient."""
    from benchmarks.projected_pg import best_linear_policy, cost_of, train_tube

    policy = train_tube("corrected", seed=0)
    best, _ = best_linear_policy()
    assert cost_of(policy)[0] < 1.01 * best

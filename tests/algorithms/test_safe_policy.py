"""SAFE for any critic: exact against a grid, safe whatever happens, and quick without Ray."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from algorithms.common import checkpoint
from algorithms.common.shield import Outcome
from algorithms.safe.policy import SafePolicy
from envs.inventory import DEFAULT, InventorySafeSet, MultiEchelonInventory
from envs.inventory.encoder import InventoryEncoder
from solver_pool.errors import InvalidProblem
from solver_pool.options import SolveOptions
from solver_pool.problem import MLP


def inventory_policy(seed: int = 0) -> SafePolicy:
    encoder = InventoryEncoder(DEFAULT)
    rng = np.random.default_rng(seed)
    sizes = (encoder.n_features + 3, 64, 64, 1)
    weights = tuple(rng.normal(size=(o, i)) / np.sqrt(i) for i, o in itertools.pairwise(sizes))
    critic = MLP(weights, tuple(np.zeros(o) for o in sizes[1:]), "softplus")
    return SafePolicy(critic, InventorySafeSet(DEFAULT), encoder)


class UnitBox:
    """A safe set with a one-row triangle in the unit square, for any observation."""

    low, high = np.zeros(2), np.ones(2)

    def rows(self, observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.ones((1, 2)), np.full((len(observations), 1), 1.2)

    def executable(self, actions: np.ndarray) -> np.ndarray:
        return np.array(actions)

    def fallback(self, observations: np.ndarray) -> np.ndarray:
        return np.zeros((len(observations), 2))


@pytest.mark.parametrize("activation", ["tanh", "softplus", "relu"])
def test_the_action_is_the_best_of_a_dense_grid(activation: str) -> None:
    rng = np.random.default_rng(1)
    critic = MLP(
        (rng.normal(size=(10, 4)), rng.normal(size=(10, 10)) / 3, rng.normal(size=(1, 10))),
        (rng.normal(size=10), rng.normal(size=10), np.zeros(1)),
        activation,
    )
    policy = SafePolicy(critic, UnitBox(), options=SolveOptions(n_starts=8, gap=1e-6))
    axis = np.linspace(0, 1, 201)
    grid = np.stack([a.ravel() for a in np.meshgrid(axis, axis)], axis=1)
    grid = grid[grid.sum(axis=1) <= 1.2]
    for _ in range(3):
        state = rng.normal(size=2)
        action, certificate = policy.act(state)
        best = critic(np.concatenate([np.tile(state, (len(grid), 1)), grid], axis=1)).max()
        assert critic(np.concatenate([state, action])[None])[0] >= best - 1e-5
        assert certificate.outcome == Outcome.CERTIFIED


def test_every_executed_action_is_safe_whatever_the_critic() -> None:
    policy = inventory_policy()
    env = MultiEchelonInventory()
    for seed in range(10):
        state, _ = env.reset(seed=seed)
        over = False
        while not over:
            action, certificate = policy.act(state)
            assert certificate.violation == 0.0
            assert certificate.outcome in (Outcome.CERTIFIED, Outcome.REPAIRED)
            state, _, over, _, info = env.step(action)
            assert (info["cost"] == 0).all()


def test_certified_actions_carry_a_proof_and_are_never_worse(tmp_path: Path) -> None:
    local, options = inventory_policy(), SolveOptions(n_starts=8, gap=1e-4)
    proved = SafePolicy(local.critic, local.safe_set, local.encoder, options=options, certify=True)
    env = MultiEchelonInventory()
    state, _ = env.reset(seed=1)
    for _ in range(10):
        action, certificate = proved.act(state)
        allowed = 1e-4 * max(1.0, abs(certificate.value))
        assert certificate.certificate.gap <= allowed
        assert certificate.violation == 0.0
        assert local.act(state)[1].certificate.gap == np.inf
        assert certificate.value >= local.act(state)[1].value - allowed
        state = env.step(action)[0]
    proved.save(tmp_path)
    checkpoint.seal(tmp_path)
    assert SafePolicy.from_checkpoint(tmp_path).options.certify
    assert not SafePolicy.from_checkpoint(tmp_path, certify=False).options.certify


def test_a_critic_that_cannot_be_solved_falls_back_to_a_safe_action(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("made to fail")

    policy = inventory_policy()
    state, _ = MultiEchelonInventory().reset(seed=0)
    monkeypatch.setattr("solver_pool.backends.interior_point.solve", broken)
    action, certificate = policy.act(state)
    assert certificate.outcome == Outcome.FALLBACK
    np.testing.assert_array_equal(action, 0.0)


def test_observations_that_are_not_finite_or_misshapen_are_refused() -> None:
    policy = inventory_policy()
    with pytest.raises((InvalidProblem, ValueError), match=r"(?i)nan|finite"):
        policy.act(np.full(26, np.nan))
    with pytest.raises(ValueError, match="26"):
        policy.act(np.zeros(5))


def test_torch_critics_with_unsupported_layers_are_refused_when_deployed() -> None:
    critic = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(), nn.Linear(8, 1))
    with pytest.raises(InvalidProblem, match="Dropout"):
        SafePolicy(critic, UnitBox())


def test_deployment_imports_no_ray_and_takes_less_than_a_millisecond(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    policy = inventory_policy()
    policy.save(folder)
    checkpoint.seal(folder)
    script = (
        "import sys, numpy as np\n"
        "from algorithms.safe.policy import SafePolicy\n"
        f"policy = SafePolicy.from_checkpoint({str(folder)!r})\n"
        "action, certificate = policy.act(np.r_[100., 100., 200., np.zeros(22), 30.])\n"
        "assert 'ray' not in sys.modules, 'Ray was imported'\n"
        "print(action)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    state, _ = MultiEchelonInventory().reset(seed=0)
    policy.act(state)
    times = []
    for _ in range(300):
        began = time.thread_time()
        policy.act(state)
        times.append(time.thread_time() - began)
    # The time of this thread alone, and the best of many, so that a busy machine does not fail the test.
    assert np.min(times) < 1e-3

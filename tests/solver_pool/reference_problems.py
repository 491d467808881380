"""Reference problems for every backend: random critics, shapes and constraint sets, all from a seed."""

from __future__ import annotations

import itertools

import numpy as np

from solver_pool.problem import MLP, Array, CriticBatch, LinearProgram, QuadraticProgram


def random_critic(
    seed: int, n_inputs: int, hidden: tuple[int, ...] = (16, 16), activation: str = "tanh", gain: float = 1.5
) -> MLP:
    """A network with Gaussian weights of standard deviation ``gain / sqrt(fan in)``."""
    rng = np.random.default_rng(seed)
    sizes = (n_inputs, *hidden, 1)
    weights = tuple(
        gain * rng.normal(size=(n_out, n_in)) / np.sqrt(n_in) for n_in, n_out in itertools.pairwise(sizes)
    )
    biases = tuple(0.5 * rng.normal(size=n_out) for n_out in sizes[1:])
    return MLP(weights, biases, activation)


def random_batch(
    seed: int,
    *,
    size: int = 3,
    n_states: int = 4,
    n_actions: int = 3,
    n_rows: int = 3,
    hidden: tuple[int, ...] = (16, 16),
    activation: str = "tanh",
    shared_rows: bool = False,
) -> CriticBatch:
    """Random states and rows around a point inside the box ``[-1, 1]``, so that the set is not empty.

    Each row leaves the point a slack of 0.05 to 0.5: some rows bind at the optimum, some do not.
    """
    rng = np.random.default_rng([seed, 1])
    critic = random_critic(seed, n_states + n_actions, hidden, activation)
    shape = (n_rows, n_actions) if shared_rows else (size, n_rows, n_actions)
    G = rng.normal(size=shape)
    inside = rng.uniform(-0.5, 0.5, size=(size, n_actions))
    per_state = np.broadcast_to(G, (size, n_rows, n_actions))
    h = np.einsum("bmn,bn->bm", per_state, inside) + rng.uniform(0.05, 0.5, size=(size, n_rows))
    return CriticBatch(
        critic, rng.normal(size=(size, n_states)), G, h, -np.ones(n_actions), np.ones(n_actions)
    )


def with_empty_set(batch: CriticBatch, index: int) -> CriticBatch:
    """The batch with two rows of one state made contradictory: ``a_0 <= -0.2`` and ``a_0 >= 0.2``."""
    size, n = len(batch), batch.n_actions
    G = np.zeros((size, batch.n_rows + 2, n))
    G[:, : batch.n_rows] = batch.G
    h = np.concatenate([batch.h, np.full((size, 2), np.inf)], axis=1)
    G[:, -2, 0], G[:, -1, 0] = 1.0, -1.0
    h[index, -2:] = -0.2
    return CriticBatch(batch.critic, batch.states, G, h, batch.low, batch.high, batch.starts)


def grid_optimum(batch: CriticBatch, points: int) -> Array:
    """Best value ``(B,)`` over a dense grid of the box's feasible points: a lower bound on the optimum."""
    best = np.full(len(batch), -np.inf)
    low = np.broadcast_to(batch.low, (len(batch), batch.n_actions))
    high = np.broadcast_to(batch.high, (len(batch), batch.n_actions))
    for i in range(len(batch)):
        axes = [np.linspace(low[i, j], high[i, j], points) for j in range(batch.n_actions)]
        actions = np.stack([axis.ravel() for axis in np.meshgrid(*axes)], axis=1)
        G = batch.G if batch.G.ndim == 2 else batch.G[i]
        actions = actions[(actions @ G.T <= batch.h[i]).all(axis=1)]
        inputs = np.concatenate(
            [np.broadcast_to(batch.states[i], (len(actions), batch.states.shape[1])), actions], 1
        )
        best[i] = batch.critic(inputs).max()
    return best


def random_quadratic(seed: int, n: int, m: int) -> QuadraticProgram:
    """A strictly convex QP whose set is not empty; the first of three or more rows is switched off."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n, n))
    G = rng.normal(size=(m, n))
    h = G @ rng.uniform(-0.5, 0.5, size=n) + rng.uniform(0.0, 0.5, size=m)
    if m >= 3:
        h[0] = np.inf
    return QuadraticProgram(
        root @ root.T + 0.1 * np.eye(n), 3.0 * rng.normal(size=n), G, h, -np.ones(n), np.ones(n)
    )


def random_linear(seed: int, n: int, m: int) -> LinearProgram:
    """A bounded LP whose set is not empty, with one-sided, two-sided and equality rows."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(m, n))
    activity = A @ rng.uniform(-1.0, 1.0, size=n)
    width = rng.uniform(0.1, 1.0, size=(2, m))
    width[:, ::3] = 0.0
    low, high = activity - width[0], activity + width[1]
    low[1::3] = -np.inf
    return LinearProgram(rng.normal(size=n), A, low, high, -2.0 * np.ones(n), 2.0 * np.ones(n))

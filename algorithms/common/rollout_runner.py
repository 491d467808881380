"""The environment runner of on-policy algorithms: whole episodes side by side, in arrays from end to end."""

from __future__ import annotations

import time
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from algorithms.common.environments import make_vector_env
from algorithms.common.rollouts import Array, Rollouts
from algorithms.common.shield import SAFE_WITHIN, Outcome, shield
from solver_pool.pool import SolverPool


class RolloutEnvRunner(SingleAgentEnvRunner):
    """RLlib's runner without its episode objects and connectors, which cost more than small environments do.

    The module's exploration pass maps observations ``(N, n_s)`` to ``actions`` and, for a stochastic policy,
    ``action_logp``, and draws with its `generator`; values are asked of a module with RLlib's `ValueFunctionAPI`. Where
    there is a safe set, the shield stands between the module and the environment.

    Episodes are a function of the weights, the seed, the runner's index and the number of the `round`, and of nothing
    else: a run that is resumed at a round continues as if it had not stopped.
    """

    def make_env(self) -> None:
        self.num_envs = self.config.num_envs_per_env_runner
        self.env: gym.vector.VectorEnv[Any, Any, Any] = make_vector_env(self.config, self.num_envs)
        self.safe_set, _ = self.config.probed()
        self.round = 0
        self._pool = SolverPool()
        torch.set_num_threads(1)

    def play(self, number: int) -> Rollouts:
        """The episodes of a round."""
        self.round = number
        episodes: Rollouts = self.sample(num_episodes=self.num_envs)  # type: ignore[assignment]
        return episodes

    def _sample(self, *, explore: bool, **kwargs: Any) -> Rollouts:  # type: ignore[override]
        began = time.perf_counter()
        source = np.random.SeedSequence([self.config.seed or 0, self.worker_index, self.round])
        seeds = source.generate_state(self.num_envs + 1).tolist()
        observations, _ = self.env.reset(seed=seeds[1:])
        self.module.generator.manual_seed(seeds[0])
        forward = self.module.forward_exploration if explore else self.module.forward_inference
        alive, steps = np.ones(self.num_envs, dtype=np.bool_), []
        seen, terminated = [observations], np.zeros(self.num_envs, dtype=np.bool_)
        while alive.any():
            with torch.no_grad():
                out = forward({Columns.OBS: torch.from_numpy(np.asarray(observations, dtype=np.float64))})
            proposed = out[Columns.ACTIONS].numpy().astype(np.float64)
            executed, outcome = proposed, np.full(self.num_envs, Outcome.CERTIFIED, dtype=np.int8)
            unsafe = np.zeros(self.num_envs, dtype=np.bool_)
            if self.safe_set is not None:
                # Episodes that are over are played along, from where they stand; nobody reads them.
                shielded = shield(self.safe_set, observations, proposed, self._pool, self.config.shield)
                executed, outcome = shielded.actions, shielded.outcome
                unsafe = shielded.violation > SAFE_WITHIN
            observations, rewards, ended, cut, infos = self.env.step(executed)
            cost = _costs(infos, self.num_envs)
            log_prob = (
                out[Columns.ACTION_LOGP].numpy() if Columns.ACTION_LOGP in out else np.zeros(self.num_envs)
            )
            step = (proposed, log_prob, executed, rewards, cost, outcome, unsafe)
            steps.append([*(np.where(_like(alive, a), a, 0) for a in step), alive.copy()])
            seen.append(np.where(_like(alive, observations), observations, 0.0))
            terminated |= alive & ended
            alive &= ~(ended | cut)
        columns = [np.stack(column) for column in zip(*steps, strict=True)]
        names = ("proposed", "log_prob", "executed", "rewards", "costs", "outcomes", "unsafe", "alive")
        observed = np.stack(seen)
        episodes = Rollouts(
            observations=observed,
            values=self._values(observed),
            terminated=terminated,
            **dict(zip(names, columns, strict=True)),
        )
        self._log(episodes, time.perf_counter() - began)
        return episodes

    def _values(self, observations: Array) -> Array:
        """``(T + 1, N, k)`` of all observations ``(T + 1, N, n_s)``; ``k = 0`` of a module without a value function."""
        if not isinstance(self.module, ValueFunctionAPI):
            return np.empty((*observations.shape[:2], 0))
        flat = torch.from_numpy(observations.reshape(-1, observations.shape[-1]))
        with torch.no_grad():
            values = self.module.compute_values({Columns.OBS: flat})
        return np.asarray(values.numpy().astype(np.float64).reshape(*observations.shape[:2], -1))

    def _log(self, episodes: Rollouts, seconds: float) -> None:
        for length, reward in zip(
            episodes.lengths.tolist(), episodes.rewards.sum(axis=0).tolist(), strict=True
        ):
            self._log_episode_metrics(length, reward, seconds)
        for i, cost in enumerate(episodes.costs.sum(axis=0).mean(axis=0).tolist()):
            self.metrics.log_value(("cost", str(i)), cost, window=1)
        if self.safe_set is not None:
            for outcome in Outcome:
                count = int((episodes.outcomes[episodes.alive] == outcome).sum())
                self.metrics.log_value(("shield", outcome.name.lower()), count, reduce="lifetime_sum")
        self._increase_sampled_metrics(int(episodes.alive.sum()), len(episodes.terminated))

    def assert_healthy(self) -> None:
        assert self.env is not None
        assert self.module is not None


def _like(alive: np.ndarray[Any, Any], array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """`alive (N,)` with trailing axes as `array (N, ...)` has."""
    return alive.reshape(-1, *[1] * (array.ndim - 1))


def _costs(infos: dict[str, Any], count: int) -> Array:
    """``(N, m)`` of Gymnasium's vectorised infos; an environment that tells no cost in this step has none."""
    if "cost" not in infos:
        return np.empty((count, 0))
    given = infos["cost"]
    if given.dtype != object:
        return np.asarray(given, dtype=np.float64).reshape(count, -1)
    rows = [np.atleast_1d(np.asarray(one, dtype=np.float64)) for one in given if one is not None]
    out = np.zeros((count, len(rows[0])))
    out[[one is not None for one in given]] = rows
    return out

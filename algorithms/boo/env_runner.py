"""The environment runner of BOO: one episode in each environment, all masters of a step solved together."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from algorithms.boo.rl_module import SEEDS
from envs.cutting_planes import MasterSolution
from envs.cutting_planes.graph import as_objects
from envs.cutting_planes.vector import CutVectorEnv
from solver_pool.pool import SolverPool

GROUP = "group"
"""Entry of an episode's first info: which episodes played the same instance."""


class CutEnvRunner(SingleAgentEnvRunner):
    """RLlib's runner, which plays whole episodes side by side instead of a number of steps.

    Every call of `sample` begins an episode in each of the environments and ends with the last of them; RLlib's own
    would restart or cut episodes in between. Graphs and cuts go past the connectors, whose batches are arrays.
    """

    env: CutVectorEnv

    def make_env(self) -> None:
        count = self.config.num_envs_per_env_runner
        envs = [self.config.make_env() for _ in range(count)]
        self.env = CutVectorEnv(envs, SolverPool(self.config.solver_pool), self.config.group_size)
        self.num_envs = count
        self._needs_initial_reset = True
        self._rounds = 0
        self._counted = np.zeros(2, dtype=np.int64)  # plans checked and infeasible that were told about
        torch.set_num_threads(1)

    def make_module(self) -> None:
        super().make_module()
        # Runners of one algorithm draw different cuts.
        self.module.generator.manual_seed((self.config.seed or 0) + 1_000_003 * self.worker_index)

    def _sample(self, *, explore: bool, **kwargs: Any) -> list[SingleAgentEpisode]:
        """One episode in each environment; numbers of steps or episodes that RLlib asks for are not looked at."""
        observations, infos = self.env.reset(seed=self._seed if self._needs_initial_reset else None)
        self._needs_initial_reset = False
        self._rounds += 1
        episodes = []
        for i in range(self.num_envs):
            episode = SingleAgentEpisode(
                observation_space=self.env.single_observation_space, action_space=self.env.single_action_space
            )
            group = (self.worker_index, self._rounds, i // self.env.group)
            episode.add_env_reset(observations[i], {**_of(infos, i), GROUP: group})
            episodes.append(episode)

        seeds = np.random.SeedSequence(
            [self.config.seed or 0, self.worker_index, self._rounds]
        ).generate_state(self.num_envs)  # fmt: skip
        forward = self.module.forward_exploration if explore else self.module.forward_inference
        playing, steps = list(range(self.num_envs)), 0
        solutions: list[MasterSolution] = []
        while playing:
            batch: dict[str, Any] = {Columns.OBS: [observations[i] for i in playing]}
            if self.config.hold_noise:
                batch[SEEDS] = seeds[playing].tolist()
            out = forward(batch)
            actions = np.full(self.num_envs, None, dtype=object)
            actions[playing] = as_objects(out[Columns.ACTIONS])
            observations, rewards, terminated, truncated, infos = self.env.step(actions)
            for place, i in enumerate(playing):
                extra = {
                    name: out[name][place] for name in (Columns.ACTION_LOGP, Columns.VF_PREDS) if name in out
                }
                episodes[i].add_env_step(
                    observations[i], actions[i], float(rewards[i]), _of(infos, i),
                    terminated=bool(terminated[i]), truncated=bool(truncated[i]), extra_model_outputs=extra,
                )  # fmt: skip
            steps += len(playing)
            solutions += self.env.solutions
            playing = [i for i in playing if not episodes[i].is_done]

        self._log_masters(solutions)
        self._done_episodes_for_metrics.extend(episodes)
        self._log_env_steps(metric=self._metrics_num_env_steps_sampled, num_steps=steps)
        self._increase_sampled_metrics(steps, len(episodes))
        return episodes

    def _log_masters(self, solutions: list[MasterSolution]) -> None:
        """Figures of the masters of these episodes, and the count that has to stay zero."""
        seconds = np.array([s.seconds for s in solutions])
        gaps = np.array([s.gap for s in solutions])
        bounded = np.isfinite(gaps)
        log = self.metrics.log_value
        log(("master", "solves"), len(solutions), reduce="lifetime_sum")
        log(("master", "seconds"), float(seconds.mean()), window=1)
        log(("master", "seconds_p95"), float(np.quantile(seconds, 0.95)), window=1)
        if bounded.any():
            log(("master", "gap"), float(gaps[bounded].mean()), window=1)
        log(("master", "stood"), int((~bounded).sum()), reduce="lifetime_sum")
        counted = np.array([self.env.checked, self.env.infeasible])
        for name, new in zip(("checked", "infeasible"), (counted - self._counted).tolist(), strict=True):
            log(("plans", name), new, reduce="lifetime_sum")
        self._counted = counted

    def assert_healthy(self) -> None:
        assert self.env is not None
        assert self.module is not None

    # What the next episodes and cuts are drawn from, for checkpoints.

    def generators(self) -> tuple[int, dict[str, Any]]:
        """This runner's index, and the states of its generators."""
        return self.worker_index, {
            "instances": [env.np_random.bit_generator.state for env in self.env.leaders],
            "cuts": self.module.generator.get_state().numpy(),
            "rounds": self._rounds,
        }

    def set_generators(self, states: dict[int, dict[str, Any]]) -> None:
        """Draw on from where a checkpoint left it, instead of from the seed."""
        state = states.get(self.worker_index)
        if state is None:  # a runner that the checkpointed run did not have
            return
        for env, generator in zip(self.env.leaders, state["instances"], strict=True):
            env.np_random.bit_generator.state = generator
        self.module.generator.set_state(torch.from_numpy(np.array(state["cuts"])))
        self._rounds = state["rounds"]
        self._needs_initial_reset = False


def _of(infos: dict[str, Any], i: int) -> dict[str, Any]:
    """One environment's info from Gymnasium's vectorised form."""
    return {
        name: values[i]
        for name, values in infos.items()
        if not name.startswith("_") and infos.get(f"_{name}", np.ones(i + 1, dtype=bool))[i]
    }

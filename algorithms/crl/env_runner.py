"""The environment runner of tabular algorithms: one episode in each environment, without connectors."""

from __future__ import annotations

from typing import Any

import numpy as np
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from envs.tabular import TabularEnv


class TabularEnvRunner(SingleAgentEnvRunner):
    """RLlib's runner, whose every call of `sample` plays one whole episode in each environment.

    An episode is a few dozen look-ups in a table, which connectors would make ten times as slow.
    """

    def make_env(self) -> None:
        super().make_env()
        self._first = True

    def make_module(self) -> None:
        super().make_module()
        # Runners of one algorithm draw different actions.
        self.module.generator = np.random.default_rng([self.config.seed or 0, self.worker_index])

    @property
    def envs(self) -> list[TabularEnv]:
        """The environments, without RLlib's wrappers."""
        return [env.unwrapped for env in self.env.unwrapped.envs]

    def _sample(self, *, explore: bool, **kwargs: Any) -> list[SingleAgentEpisode]:
        """One episode in each environment; numbers of steps or episodes that RLlib asks for are not looked at."""
        episodes = []
        for i, env in enumerate(self.envs):
            seed = None if self._seed is None else self._seed + 1_009 * i
            observation, info = env.reset(seed=seed if self._first else None)
            episode = SingleAgentEpisode(
                observation_space=env.observation_space, action_space=env.action_space
            )
            episode.add_env_reset(observation, info)
            while not episode.is_done:
                action = self.module.act(observation[None])[0]
                observation, reward, terminated, truncated, info = env.step(action)
                episode.add_env_step(
                    observation, action, reward, info, terminated=terminated, truncated=truncated
                )
            episodes.append(episode)
        self._first = False
        steps = sum(len(episode) for episode in episodes)
        self._done_episodes_for_metrics.extend(episodes)
        self._log_env_steps(metric=self._metrics_num_env_steps_sampled, num_steps=steps)
        self._increase_sampled_metrics(steps, len(episodes))
        return episodes

    # What the next episodes and actions are drawn from, for checkpoints.

    def generators(self) -> tuple[int, dict[str, Any]]:
        """This runner's index, and the states of its generators."""
        return self.worker_index, {
            "environments": [env.np_random.bit_generator.state for env in self.envs],
            "actions": self.module.generator.bit_generator.state,
        }

    def set_generators(self, states: dict[int, dict[str, Any]]) -> None:
        """Draw on from where a checkpoint left it, instead of from the seed."""
        state = states.get(self.worker_index)
        if state is None:  # a runner that the checkpointed run did not have
            return
        for env, generator in zip(self.envs, state["environments"], strict=True):
            env.np_random.bit_generator.state = generator
        self.module.generator.bit_generator.state = state["actions"]
        self._first = False

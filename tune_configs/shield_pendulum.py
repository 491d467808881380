"""Stock PPO and SAC behind the shield on Gymnasium's Pendulum-v1, with a speed limit of 6 rad/s.

The environment knows nothing of safety; the safe set and its proof are `envs.pendulum.PendulumSpeedLimit`. Presets
that end in ``-unshielded`` train the same algorithm without the shield, and count.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from algorithms.common.deployed import DeployedPolicy
from envs.pendulum import PendulumSpeedLimit
from solver_pool.problem import Array
from tune_configs import shield
from tune_configs.evaluation import Columns, Evaluation, PolicyResult, Published
from tune_configs.shield import CHECKPOINT_EVERY, PRESETS, sections

__all__ = ["CHECKPOINT_EVERY", "PRESETS", "config", "evaluation", "fit", "param_space", "sections"]

TITLE = "Shielded PPO and SAC on the pendulum"
ENVIRONMENT = "Pendulum-v1"
LIMIT = 6.0
"""[rad/s]; the environment cuts speeds off at 8."""
EPISODE_LENGTH = 200
EPISODES = 400
STOP = {shield.EPISODES_METRIC: EPISODES}
EVALUATION_EPISODES = 100
FLAGS = ()
PUBLISHED = Published(source="")
COLUMNS = Columns(
    reward="return",
    penalty="",
    violations="steps over the limit",
    note=(
        f"A step violates if the pendulum's speed, read from the simulator's state, exceeds {LIMIT:g} rad/s after it; "
        "the bound is Clopper-Pearson's upper 95 % bound on the probability of such a step, with steps counted as "
        "independent."
    ),
)


def config(preset: str = "ppo", seed: int = 0) -> Any:
    """The algorithm of a preset, ready to build.

    Raises:
        InvalidSetting: if the preset is unknown.
    """
    chosen = shield.base(preset).environment(ENVIRONMENT)
    if preset.startswith("ppo"):
        chosen.env_runners(num_envs_per_env_runner=16)
        chosen.training(
            gamma=0.9, lambda_=0.95, lr=1e-3, train_batch_size_per_learner=3200, minibatch_size=128, num_epochs=10,
            vf_clip_param=1e4, vf_loss_coeff=0.01, use_kl_loss=False, clip_param=0.2, entropy_coeff=0.0,
        )  # fmt: skip
    else:
        chosen.env_runners(num_envs_per_env_runner=16)
        chosen.training(
            gamma=0.95, actor_lr=1e-3, critic_lr=1e-3, alpha_lr=1e-3, train_batch_size_per_learner=128,
            num_steps_sampled_before_learning_starts=1000,
        )  # fmt: skip
    return shield.prepared(chosen, preset, seed, too_fast, PendulumSpeedLimit(LIMIT))


def fit(config: Any, episodes: int) -> None:
    """Iterations of whole episodes, of no more than the run has, or soon after."""
    shield.fitted(config, episodes, EPISODE_LENGTH)


def param_space(preset: str = "ppo", seeds: int = 5, rates: bool = False) -> Any:
    """Seeds ``0 .. seeds - 1`` as a grid; `rates` also draws learning rates around the preset's."""
    return shield.opened(config(preset), seeds, rates)


def too_fast(observations: NDArray[Any], infos: list[dict[str, Any]]) -> NDArray[np.bool_]:
    """Which steps ended above the limit ``(T,)``."""
    return np.asarray(np.abs(observations[:, 2]) > LIMIT)


def evaluation(checkpoint: Path, episodes: int, seed: int) -> Evaluation:
    """The trained policy behind the shield and without it, from the same starts.

    Raises:
        CheckpointError: if the checkpoint is missing or damaged.
    """
    policy = DeployedPolicy.from_checkpoint(checkpoint)
    rows = [
        _played(name, shield.Counted(policy, mode), episodes, seed)
        for name, mode in zip(shield.names(policy), ("repair", "raw"), strict=True)
    ]
    return Evaluation(episodes, seed, f"limit {LIMIT:g} rad/s", rows, COLUMNS)


def _played(name: str, policy: shield.Counted, episodes: int, seed: int) -> PolicyResult:
    pendulums = gym.make_vec(ENVIRONMENT, num_envs=episodes, vectorization_mode="sync")
    assert isinstance(pendulums, gym.vector.SyncVectorEnv)
    observations, _ = pendulums.reset(seed=seed)
    rewards, fastest, violations = np.zeros(episodes), np.zeros(episodes), 0
    starts: Array = np.asarray(observations)
    for _ in range(EPISODE_LENGTH):
        actions = policy(np.asarray(observations, dtype=np.float64)).astype(np.float32)
        observations, reward, _, _, _ = pendulums.step(actions)
        # From the simulator itself: nothing that the safe set says about it is used.
        speed = np.abs([pendulum.unwrapped.state[1] for pendulum in pendulums.envs])
        rewards += reward
        fastest = np.maximum(fastest, speed)
        violations += int((speed > LIMIT).sum())
    pendulums.close()
    return PolicyResult.of(
        name,
        rewards.tolist(),
        (),
        violations,
        episodes * EPISODE_LENGTH,
        solver=policy.figures(),
        ms_per_action=policy.milliseconds(starts),
        more={"fastest [rad/s]": fastest.tolist()},
    )

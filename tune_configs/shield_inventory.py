"""Stock PPO and SAC behind the shield on the inventory chain, whose environment has its own safe set.

Presets that end in ``-unshielded`` train the same algorithm without the shield, and count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from algorithms.common.deployed import DeployedPolicy
from envs.inventory import DEFAULT, InventorySafeSet
from envs.inventory.chain import Array
from envs.inventory.env import MultiEchelonInventory
from envs.inventory.evaluation import Policy, demand_paths
from envs.inventory.planning import perfect_information
from envs.inventory.policies import tuned_base_stock
from tune_configs import figures, shield
from tune_configs.evaluation import Columns, Evaluation, PolicyResult, Published
from tune_configs.experiment import Section
from tune_configs.omlt_ddpg_inventory import measured
from tune_configs.runs import Record
from tune_configs.shield import CHECKPOINT_EVERY, PRESETS

__all__ = ["CHECKPOINT_EVERY", "PRESETS", "config", "evaluation", "fit", "param_space", "sections"]

TITLE = "Shielded PPO and SAC on the inventory chain"
EPISODES = 3_000
STOP = {shield.EPISODES_METRIC: EPISODES}
EVALUATION_EPISODES = 400
FLAGS = ()
PUBLISHED = Published(source="")
COLUMNS = Columns(
    note=(
        "A step violates if a stock exceeds its capacity at any moment of the period; the bound is Clopper-Pearson's "
        "upper 95 % bound on the probability of such a step, with steps counted as independent."
    )
)
UNIT = 64.0
"""Units of product that stocks are divided by for the networks: a power of two, so that no digit is lost."""


@dataclass(frozen=True)
class ScaledSafeSet:
    """The chain's safe set for observations in units of `UNIT`."""

    inner: InventorySafeSet

    @property
    def low(self) -> Array:
        return self.inner.low

    @property
    def high(self) -> Array:
        return self.inner.high

    def rows(self, observations: Array) -> tuple[Array, Array]:
        return self.inner.rows(UNIT * observations)

    def executable(self, actions: Array) -> Array:
        return self.inner.executable(actions)

    def fallback(self, observations: Array) -> Array:
        return self.inner.fallback(observations)


class ScaledInventory(gym.ObservationWrapper[Array, Array, Array]):
    """``solverl/MultiEchelonInventory-v0`` with its state, and the safe set that reads it, in units of `UNIT`."""

    def __init__(self, config: dict[str, Any]) -> None:
        env = MultiEchelonInventory(**config)
        super().__init__(env)
        bounds = env.observation_space
        assert isinstance(bounds, gym.spaces.Box)
        self.observation_space = gym.spaces.Box(bounds.low / UNIT, bounds.high / UNIT, dtype=np.float64)
        self.safe_set = ScaledSafeSet(env.safe_set)

    def observation(self, observation: Array) -> Array:
        return observation / UNIT


def config(preset: str = "ppo", seed: int = 0) -> Any:
    """The algorithm of a preset, ready to build.

    The reward of a period carries the chain's discount already, so that the learner has none.

    Raises:
        InvalidSetting: if the preset is unknown.
    """
    chosen = shield.base(preset).environment(ScaledInventory)
    if preset.startswith("ppo"):
        chosen.env_runners(num_envs_per_env_runner=16)
        chosen.training(
            gamma=1.0, lambda_=0.95, lr=1e-3, train_batch_size_per_learner=1920, minibatch_size=240, num_epochs=10,
            vf_clip_param=1e6, vf_loss_coeff=1e-4, use_kl_loss=False, grad_clip=0.5, grad_clip_by="global_norm",
        )  # fmt: skip
    else:
        chosen.env_runners(num_envs_per_env_runner=16)
        chosen.training(
            gamma=1.0, actor_lr=1e-3, critic_lr=1e-3, alpha_lr=1e-3, train_batch_size_per_learner=128,
            num_steps_sampled_before_learning_starts=960,
        )  # fmt: skip
    return shield.prepared(chosen, preset, seed, over_capacity)


def fit(config: Any, episodes: int) -> None:
    """Iterations of whole episodes, of no more than the run has, or soon after."""
    shield.fitted(config, episodes, DEFAULT.periods)


def param_space(preset: str = "ppo", seeds: int = 5, rates: bool = False) -> Any:
    """Seeds ``0 .. seeds - 1`` as a grid; `rates` also draws learning rates around the preset's."""
    return shield.opened(config(preset), seeds, rates)


def over_capacity(observations: NDArray[Any], infos: list[dict[str, Any]]) -> NDArray[np.bool_]:
    """In which periods a stock was above its capacity at any moment ``(T,)``."""
    return np.array([bool((info["peak_excess"] > 0.0).any()) for info in infos])


def evaluation(checkpoint: Path, episodes: int, seed: int) -> Evaluation:
    """The trained policy behind the shield and without it, a tuned base-stock policy, and perfect information.

    All of them meet the same customers.

    Raises:
        CheckpointError: if the checkpoint is missing or damaged.
    """
    policy = DeployedPolicy.from_checkpoint(checkpoint)
    rows = []
    for name, mode in zip(shield.names(policy), ("repair", "raw"), strict=True):
        counted = shield.Counted(policy, mode)
        rows.append(measured(name, _in_units(counted), DEFAULT, episodes, seed, counted))
    rows.append(measured("base-stock, tuned (reference)", tuned_base_stock(DEFAULT), DEFAULT, episodes, seed))
    best = perfect_information(DEFAULT, demand_paths(DEFAULT, episodes, seed))
    rows.append(PolicyResult("perfect information (upper bound)", (float(best.mean()), float(best.std()))))
    room = ", ".join(f"{c:g}" for c in DEFAULT.storage_capacity)
    return Evaluation(episodes, seed, f"capacities {room}", rows, COLUMNS)


def sections(records: Sequence[Record]) -> list[Section]:
    """Violations while training, and how close stocks came to their capacities."""
    drawing = figures.distance_to_capacity([record.episodes for record in records])
    note = (
        "Smallest distance of each stage's stock at the end of a period to its capacity in every episode, and its mean "
        f"over {figures.WINDOW} episodes; below zero the capacity was exceeded."
    )
    return [
        *shield.sections(records),
        *([Section("Distance to capacity while training", drawing, note)] if drawing else []),
    ]


def _in_units(policy: Policy) -> Policy:
    """The policy as a function of unscaled states."""
    return lambda states: policy(states / UNIT)

"""Two ways to train on the inventory chain: as the paper does, and with what today's practice adds."""

from __future__ import annotations

from algorithms.common.exploration import HeldIntentions
from algorithms.common.schedules import decay
from algorithms.omlt_ddpg.config import OMLTDDPGConfig
from envs.inventory import DEFAULT, InventorySafeSet
from envs.inventory.encoder import InventoryEncoder
from solver_pool.options import SolveOptions

ENVIRONMENT = "solverl/MultiEchelonInventory-v0"
EPISODES = 150
STEPS = EPISODES * DEFAULT.periods


def paper() -> OMLTDDPGConfig:
    """The paper's settings (seed 000, experiments; the specification, section 1, for what it leaves open):
    batch 8, one update a step, actor rate 0.005, critic rate 0.001, buffer 35,000."""
    config = OMLTDDPGConfig()
    config.environment(ENVIRONMENT)
    return config


def tuned(seed: int = 0) -> OMLTDDPGConfig:
    """The same algorithm and the same 4,500 samples, with many small steps since a solve costs microseconds.

    What was added and why: the solver's maximisers are kept beside the transitions and renewed in turn, and
    the TD target takes them; four critics, averaged; three critic steps for each sample; features that show
    projected stocks after the decision; exploration that holds an intention for an episode, inside the safe
    set, for an order is paid now and sold eighteen periods later; orders limited to what suppliers have, as
    the paper's description of the environment says.
    """
    config = paper()
    config.safety(
        safe_set=InventorySafeSet(DEFAULT, availability=True),
        encoder=InventoryEncoder(DEFAULT),
        shield="repair",
        exploration=HeldIntentions(episodes=EPISODES, horizon=DEFAULT.periods, seed=seed),
    )
    config.training(
        train_batch_size_per_learner=128,
        critic_updates=3,
        actor_updates=2,
        refresh=32,
        warm_up=150,
        n_critics=4,
        pessimism=0.0,
        activation="elu",
        critic_hidden=(64, 64),
        critic_lr=decay(2e-3, 0.1, STEPS),
        actor_lr=decay(1e-3, 0.2, STEPS),
        critic_weight_decay=0.05,
        tau=0.01,
        deployed_rate=0.002,
        reward_scale=50.0,
        solve_options=SolveOptions(tolerance=1e-6),
    )
    config.env_runners(rollout_fragment_length=DEFAULT.periods)
    return config

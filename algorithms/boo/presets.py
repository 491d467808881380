"""How BOO trains on the paper's two problems: as the specification fills the paper's gaps, and tuned."""

from __future__ import annotations

from dataclasses import replace

from algorithms.boo.config import BOOConfig
from algorithms.boo.feature_policy import FeatureCutPolicy
from algorithms.common.schedules import decay
from envs.job_shop.planning import SETTINGS as JOB_SHOP_MASTERS

PACKING = "solverl/Packing-v0"
JOB_SHOP = "solverl/JobShop-v0"
PACKING_EPISODES = 60_000
JOB_SHOP_EPISODES = 14_000
JOB_SHOP_STEPS = 7
"""Planning moments of an episode, about."""


def packing_paper(cuts: int = 2) -> BOOConfig:
    """N = 50 with the features of the paper, which do not determine the objective (specification boo, section 3)."""
    config = BOOConfig()
    config.environment(PACKING, env_config={"items": 50, "cuts": cuts})
    return config


def packing_tuned(cuts: int = 3, episodes: int = PACKING_EPISODES) -> BOOConfig:
    """The same with A's off-diagonal shown as edges between items, three cuts, and sixteen episodes for each instance.

    `episodes` is how long the learning rate takes to fall. Without the off-diagonal even a policy fitted to optimal
    plans stays near 0.9 of the optimum. Instances differ far more in what can be earned than plans of one instance
    do, so that a baseline of the instance's own is worth much.
    """
    config = packing_paper(cuts)
    config.environment(PACKING, env_config={"items": 50, "cuts": cuts, "couplings": True})
    config.env_runners(num_envs_per_env_runner=256)
    config.training(
        group_size=16,
        lr=decay(4e-4, 0.1, cuts * episodes),
        num_epochs=2,
        minibatch_size=128,
        entropy_coeff=0.0,
    )
    return config


def job_shop_paper() -> BOOConfig:
    """J = 200, T = 12, M = 4; one cut over the jobs at the beginning, which serves every plan of the episode."""
    config = BOOConfig()
    config.environment(JOB_SHOP, env_config={"jobs": 200, "months": 12, "copies": 4, "cuts": 1})
    return config


def job_shop_tuned(episodes: int = JOB_SHOP_EPISODES) -> BOOConfig:
    """Trained on a smaller shop, for the policy does not depend on its size, with a cut at every planning moment.

    The jobs alone are observed, and in training the list schedule stands for the solver (a limit of 0 s), which
    repeats exactly and plays an episode in a twentieth of a second; where few jobs are wanted it is optimal anyway.
    Sixteen episodes share jobs and luck. Cuts are linear in the jobs' features (`FeatureCutPolicy`) and noise is held
    for an episode, so that exploration favours kinds of jobs throughout; learning begins from the greedy plan, weights
    around 1, with steps of whole batches. `episodes` is how long the learning rate takes to fall.
    """
    config = BOOConfig()
    config.environment(
        JOB_SHOP,
        env_config={
            "jobs": 100,
            "months": 12,
            "copies": 2,
            "cuts": 1,
            "replan": "cut",
            "observe": "jobs",
            "settings": replace(JOB_SHOP_MASTERS, time_limit=0.0),
            "exchanges": 200,
        },
    )
    config.policy_class = FeatureCutPolicy
    config.env_runners(num_envs_per_env_runner=128)
    config.training(
        group_size=16,
        lr=decay(6e-4, 0.1, JOB_SHOP_STEPS * episodes),
        clip_param=0.5,
        target_kl=0.5,
        deployed_rate=0.1,
        num_epochs=4,
        minibatch_size=2_000,
        entropy_coeff=0.0,
        log_std=-1.6,
        prior=1.0,
        hold_noise=True,
    )
    return config

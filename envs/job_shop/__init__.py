"""The stochastic job shop with hidden profits (seed 001, section 5.2)."""

from envs.job_shop.env import JobShopEnv
from envs.job_shop.instance import JobShop, draw_delays, draw_job_shop
from envs.job_shop.milp import ScheduleModel, schedule_model
from envs.job_shop.planning import Outcome, Planner, count_jobs, play, random_cut, true_profits
from envs.job_shop.simulation import Bar, ShopState, Simulation, check_plan, check_schedule, draw_gantt

__all__ = [
    "Bar",
    "JobShop",
    "JobShopEnv",
    "Outcome",
    "Planner",
    "ScheduleModel",
    "ShopState",
    "Simulation",
    "check_plan",
    "check_schedule",
    "count_jobs",
    "draw_delays",
    "draw_gantt",
    "draw_job_shop",
    "play",
    "random_cut",
    "schedule_model",
    "true_profits",
]

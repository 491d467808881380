"""Linear systems with constraints and bounded disturbances: robust MPC, its safe set, and an environment."""

from envs.linear_tube.disturbance import (
    BoxDisturbance,
    Disturbance,
    EllipsoidDisturbance,
    PolytopeDisturbance,
)
from envs.linear_tube.env import LinearTube
from envs.linear_tube.projection import Projection, Source, derivative, project
from envs.linear_tube.safe_set import TubeSafeSet
from envs.linear_tube.system import LinearSystem, box_rows, double_integrator, lqr_gain
from envs.linear_tube.task import Outcome, SetPoint, draw_plane, reference_task
from envs.linear_tube.tube import TubeMPC, reference_tube

__all__ = [
    "BoxDisturbance",
    "Disturbance",
    "EllipsoidDisturbance",
    "LinearSystem",
    "LinearTube",
    "Outcome",
    "PolytopeDisturbance",
    "Projection",
    "SetPoint",
    "Source",
    "TubeMPC",
    "TubeSafeSet",
    "box_rows",
    "derivative",
    "double_integrator",
    "draw_plane",
    "lqr_gain",
    "project",
    "reference_task",
    "reference_tube",
]

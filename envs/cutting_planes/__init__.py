"""The cutting-plane MDP of Bender's Oracle Optimization: masters, graphs, checks, environment (seed 001)."""

from envs.cutting_planes.cuts import Cut, with_cuts
from envs.cutting_planes.env import CutProblem, CuttingPlaneEnv
from envs.cutting_planes.feasibility import FeasibilityCount, ModelRows, rows_of_model, rows_of_program
from envs.cutting_planes.graph import Couplings, CutSpace, GraphObservation, GraphSpace
from envs.cutting_planes.master import Master, MasterSettings, MasterSolution
from envs.cutting_planes.model import NamedProgram, read_model
from envs.cutting_planes.vector import CutVectorEnv

__all__ = [
    "Couplings",
    "Cut",
    "CutProblem",
    "CutSpace",
    "CutVectorEnv",
    "CuttingPlaneEnv",
    "FeasibilityCount",
    "GraphObservation",
    "GraphSpace",
    "Master",
    "MasterSettings",
    "MasterSolution",
    "ModelRows",
    "NamedProgram",
    "read_model",
    "rows_of_model",
    "rows_of_program",
    "with_cuts",
]

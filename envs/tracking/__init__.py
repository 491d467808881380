"""Tracking a set point with two actuators that pull in similar directions and share a limited supply."""

from envs.tracking.env import Tracking
from envs.tracking.safe_set import SupplySafeSet
from envs.tracking.system import DEFAULT, TrackingSystem

__all__ = ["DEFAULT", "SupplySafeSet", "Tracking", "TrackingSystem"]

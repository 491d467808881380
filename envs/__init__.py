"""Gymnasium environments, each with its safe set."""

from envs.registry import register_all

register_all()

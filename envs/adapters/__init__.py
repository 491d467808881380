"""Environments of other projects, as Gymnasium environments."""

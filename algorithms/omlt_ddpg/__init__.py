"""OMLT-DDPG (seed 000, Algorithm 1)."""

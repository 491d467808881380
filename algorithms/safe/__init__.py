"""SAFE: deployment by constrained maximisation of a trained critic (seed 000, Algorithm 2)."""

"""Policy gradients through a safety projection (seed 002)."""

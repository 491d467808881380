"""The solver pool: what a problem is, what a solution is, who solves it, and where."""

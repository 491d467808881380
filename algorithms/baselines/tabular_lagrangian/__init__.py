"""Q-learning on the Lagrangian of a tabular constrained MDP: what is tried without a model and without guarantee."""

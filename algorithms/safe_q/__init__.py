"""Safe Q-learning (seed 002, section 3): the maximum of a critic under the safe rows, in targets and to act."""

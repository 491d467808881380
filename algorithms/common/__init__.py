"""What several algorithms share: replay, shielding of actions, networks as data, checkpoints."""

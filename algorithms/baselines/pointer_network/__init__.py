"""The pointer network of seed 001, section 5.1: items are chosen one by one, on BOO's own graph network."""

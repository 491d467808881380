"""Bender's Oracle Optimization: a graph neural network writes cutting planes into a MILP (seed 001)."""

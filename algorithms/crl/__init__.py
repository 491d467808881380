"""Unknown constrained MDPs with guarantees: Optimistic-GMBL and Online-CRL (seed 003)."""

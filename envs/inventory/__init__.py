"""The multi-echelon inventory chain: dynamics, environments, safe set."""

from envs.inventory.chain import DEFAULT, STRESS, UNCONSTRAINED, InventoryChain, Layout
from envs.inventory.env import MultiEchelonInventory, MultiEchelonInventoryVector
from envs.inventory.safe_set import InventorySafeSet

__all__ = [
    "DEFAULT",
    "STRESS",
    "UNCONSTRAINED",
    "InventoryChain",
    "InventorySafeSet",
    "Layout",
    "MultiEchelonInventory",
    "MultiEchelonInventoryVector",
]

"""OR-Gym's own inventory environment as a Gymnasium one: the reference that our dynamics are compared with.

OR-Gym 0.5.0 imports `gym`, uses ``np.Inf`` (gone in NumPy 2) and draws demand from NumPy's global generator.
Only its one module is imported here, with Gymnasium aliased while that lasts; nothing else of the process
changes: `sys.modules` is put back, NumPy is not touched, and none of OR-Gym's environments is registered.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any, ClassVar

import gymnasium
import numpy as np

from envs.inventory.chain import Array, InventoryChain
from envs.inventory.env import ChainBatch, Demand, checked_actions

_INSTALL = "pip install --no-deps or-gym==0.5.0"


class _NumpyBefore2:
    """NumPy with the name that OR-Gym still uses."""

    Inf = np.inf

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


@contextmanager
def _only_these_modules(replacements: dict[str, ModuleType]) -> Iterator[None]:
    """`sys.modules` with the replacements, and put back as it was for every name of `gym` and `or_gym`."""

    def ours() -> list[str]:
        return [name for name in sys.modules if name.split(".")[0] in ("gym", "or_gym")]

    before = {name: sys.modules[name] for name in ours()}
    for name in before:
        del sys.modules[name]
    sys.modules.update(replacements)
    try:
        yield
    finally:
        for name in ours():
            del sys.modules[name]
        sys.modules.update(before)


@cache
def load_or_gym() -> ModuleType:
    """OR-Gym's module ``or_gym.envs.supply_chain.inventory_management``.

    Raises:
        ImportError: if OR-Gym is not installed; the message says how to install it.
    """
    spec = importlib.util.find_spec("or_gym")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"OR-Gym is not installed. Install it with: {_INSTALL}")
    root = next(iter(spec.submodule_search_locations))
    # Packages without their __init__, which would import and register all of OR-Gym.
    packages: dict[str, ModuleType] = {"gym": gymnasium}
    for name in ("or_gym", "or_gym.envs", "or_gym.envs.supply_chain"):
        packages[name] = ModuleType(name)
        packages[name].__path__ = ["/".join([root, *name.split(".")[1:]])]
    with _only_these_modules(packages):
        module = importlib.import_module("or_gym.envs.supply_chain.inventory_management")
    module.np = _NumpyBefore2()  # type: ignore[attr-defined]
    return module


@contextmanager
def numpy_global_generator_kept() -> Iterator[None]:
    """Whatever runs inside may seed and use NumPy's global generator; afterwards it is as before."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


class OrGymInventory(gymnasium.Env[Array, Array]):
    """OR-Gym's `InvManagement` behind Gymnasium's interface, for comparison; for work use
    `MultiEchelonInventory`.

    The demand of an episode is drawn beforehand from this environment's own generator, as ours is, and handed
    to OR-Gym as user demand: with the same seed both see the same demand and no global generator is used.
    OR-Gym has no storage capacities: those of the chain are ignored. It cannot play a chain whose lead times
    are all zero.

    Args:
        chain, user_demand, changes: as for `MultiEchelonInventory`.

    Raises:
        ImportError: if OR-Gym is not installed. InvalidSetting: as for `MultiEchelonInventory`.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(
        self, chain: InventoryChain | None = None, *, user_demand: Demand = None, **changes: Any
    ) -> None:
        batch = ChainBatch(1, chain, "or_gym", user_demand, changes)
        self.chain = batch.chain
        self._draw = batch.episode_demand
        self.observation_space, self.action_space = batch.spaces()
        self.original = make_original(self.chain, dist=5)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        self.original.demand_dist = self._draw(self.np_random)
        return np.asarray(self.original.reset(), dtype=np.float64), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        orders = checked_actions(action, (self.chain.stages,))
        observation, reward, done, _ = self.original.step(orders)
        return np.asarray(observation, dtype=np.float64), float(reward), bool(done), False, {}


def make_original(chain: InventoryChain, *, dist: int = 1) -> Any:
    """OR-Gym's own environment object for `chain`, with its old interface ``step -> (obs, reward, done,
    info)``.

    Args:
        dist: OR-Gym's code of the demand: 1 is Poisson from NumPy's global generator, which the constructor
            then seeds (see `numpy_global_generator_kept`); 5 is demand set by the user, which uses none.
    """
    module = load_or_gym()
    kind = module.InvManagementBacklogEnv if chain.backlog else module.InvManagementLostSalesEnv
    with warnings.catch_warnings():
        # Its spaces have bounds of another precision; they are replaced by ours.
        warnings.simplefilter("ignore", UserWarning)
        return kind(
            periods=chain.periods,
            I0=list(chain.initial_stock),
            p=chain.price,
            r=list(chain.unit_cost),
            k=list(chain.backlog_cost),
            h=list(chain.holding_cost),
            c=list(chain.supply_capacity),
            L=list(chain.lead_times),
            alpha=chain.alpha,
            dist=dist,
            dist_param={"mu": chain.demand_mean},
            user_D=np.zeros(chain.periods),
        )

"""The supply chain: its data, validated, and the layout of the observation that describes its state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from envs.errors import InvalidSetting

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Layout:
    """Where each quantity stands in the observation ``(..., size)``; all are in units of product.

    The observation is the state of the chain, in full: the dynamics and the safe set read nothing else.

    Attributes:
        stock: ``I (M,)``, on hand at the start of the period; stage 0 is the retailer.
        unfilled: ``BO (M,)``, what each stage has ordered and its supplier has not shipped yet.
        backlog: ``B0 (1,)``, demand that customers still wait for.
        pipeline: ``R (sum(L),)``, shipped and not arrived: stage after stage, oldest first, so that stage
            `j` owns ``R_j(n - L_j), ..., R_j(n - 1)`` and its first entry arrives in this period.
        periods_left: ``(1,)``, the periods still to be played, this one included.
        stages: the part of `pipeline` that belongs to each stage; empty where the lead time is zero.
        size: length of the observation.
    """

    stock: slice
    unfilled: slice
    backlog: slice
    pipeline: slice
    periods_left: slice
    stages: tuple[slice, ...]
    size: int

    @staticmethod
    def of(lead_times: Sequence[int]) -> Layout:
        """The layout of a chain with these lead times ``(M,)`` [periods]."""
        m = len(lead_times)
        starts = 2 * m + 1 + np.concatenate([[0], np.cumsum(lead_times, dtype=int)])
        stages = tuple(slice(int(a), int(b)) for a, b in pairwise(starts))
        end = int(starts[-1])
        return Layout(
            stock=slice(0, m),
            unfilled=slice(m, 2 * m),
            backlog=slice(2 * m, 2 * m + 1),
            pipeline=slice(2 * m + 1, end),
            periods_left=slice(end, end + 1),
            stages=stages,
            size=end + 1,
        )


def _numbers(
    field: str,
    value: Any,
    shape: tuple[int, ...],
    *,
    whole: bool = False,
    least: float = 0,
    infinite: bool = False,
) -> Array:
    """`value` as float64 of `shape`, at least `least`; NaN, a wrong shape or a fraction is an error."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidSetting(field, f"is {value!r}, not numbers", "Give numbers.") from error
    if array.shape != shape:
        wanted = f"{shape[0]} numbers" if shape else "one number"
        raise InvalidSetting(
            field,
            f"has shape {array.shape}, expected {wanted}",
            "The length of initial_stock is the number of stages; unit_cost and backlog_cost have one more.",
        )
    good = (array >= least) & (np.isfinite(array) | (infinite & (array == np.inf)))
    if not good.all():
        kind = "numbers" if infinite else "finite numbers"
        raise InvalidSetting(field, f"is {value!r}", f"Give {kind} of at least {least}.")
    if whole and (finite := array[np.isfinite(array)]).size and (finite != np.floor(finite)).any():
        raise InvalidSetting(field, f"is {value!r}", "Products and periods are counted: give whole numbers.")
    return array


def _whole(field: str, value: Any, size: int, *, least: int = 0) -> tuple[int, ...]:
    return tuple(int(v) for v in _numbers(field, value, (size,), whole=True, least=least))


def _money(field: str, value: Any, size: int) -> tuple[float, ...]:
    return tuple(float(v) for v in _numbers(field, value, (size,)))


def _capacity(value: Any, size: int) -> tuple[float, ...]:
    # Whole capacities make the right-hand sides of the safe rows whole, and rounding down is then safe.
    return tuple(float(v) for v in _numbers("storage_capacity", value, (size,), whole=True, infinite=True))


@dataclass(frozen=True)
class InventoryChain:
    """A serial supply chain of ``M`` stages that hold stock, stage 0 the retailer (OR-Gym's InvManagement).

    The supplier of the last stage has infinite material. The defaults are OR-Gym's, with the storage
    capacities of the specification (omlt_ddpg, sections 2 and 4). Any sequences are accepted and stored as
    tuples, so that a chain is hashable.

    Attributes:
        periods: length of an episode [periods].
        initial_stock: ``I(0) (M,)`` [units, whole].
        supply_capacity: ``c (M,)``, the most that a stage's supplier ships in a period [units, whole].
        lead_times: ``L (M,)`` [periods]; zero means that a shipment arrives in the period of its order.
        price: ``p``, of a unit sold to a customer [money / unit].
        unit_cost: ``r (M + 1,)``, of a unit ordered by each stage, and of raw material [money / unit]. What a
            stage pays is its supplier's price.
        backlog_cost: ``k (M + 1,)``, of a unit of demand and of each stage's orders left unfilled
            [money / unit / period]; the goodwill loss where sales are lost.
        holding_cost: ``h (M,)``, of a unit in stock at the end of a period [money / unit / period].
        alpha: the reward of period `n` carries ``alpha**n``. Train with ``alpha=1`` and a discount of 0.97 in
            the learner, report with 0.97: never discount twice.
        demand_mean: of the Poisson demand [units / period].
        storage_capacity: ``Cap (M,)`` [units, whole], or ``inf`` for a stage without a limit.
        backlog: whether unfilled demand and orders wait (True) or are lost (False).

    Raises:
        InvalidSetting: on a wrong length, sign or type; it names the field, the value and the remedy.
    """

    periods: int = 30
    initial_stock: tuple[int, ...] = (100, 100, 200)
    supply_capacity: tuple[int, ...] = (100, 90, 80)
    lead_times: tuple[int, ...] = (3, 5, 10)
    price: float = 2.0
    unit_cost: tuple[float, ...] = (1.5, 1.0, 0.75, 0.5)
    backlog_cost: tuple[float, ...] = (0.10, 0.075, 0.05, 0.025)
    holding_cost: tuple[float, ...] = (0.15, 0.10, 0.05)
    alpha: float = 0.97
    demand_mean: float = 20.0
    storage_capacity: tuple[float, ...] = (120, 160, 260)
    backlog: bool = True

    def __post_init__(self) -> None:
        stages = np.size(np.asarray(self.initial_stock))
        checked = {
            "periods": int(_numbers("periods", self.periods, (), whole=True, least=1)),
            "initial_stock": _whole("initial_stock", self.initial_stock, stages),
            "supply_capacity": _whole("supply_capacity", self.supply_capacity, stages, least=1),
            "lead_times": _whole("lead_times", self.lead_times, stages),
            "price": float(_numbers("price", self.price, ())),
            "unit_cost": _money("unit_cost", self.unit_cost, stages + 1),
            "backlog_cost": _money("backlog_cost", self.backlog_cost, stages + 1),
            "holding_cost": _money("holding_cost", self.holding_cost, stages),
            "alpha": float(_numbers("alpha", self.alpha, ())),
            "demand_mean": float(_numbers("demand_mean", self.demand_mean, ())),
            "storage_capacity": _capacity(self.storage_capacity, stages),
        }
        if not 0 < checked["alpha"] <= 1:  # type: ignore[operator]
            raise InvalidSetting("alpha", f"is {self.alpha}", "Choose a number in (0, 1].")
        if not isinstance(self.backlog, bool | np.bool_):
            raise InvalidSetting(
                "backlog", f"is {self.backlog!r}", "Give True (backlog) or False (lost sales)."
            )
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def stages(self) -> int:
        """``M``, the number of stages that hold stock and place orders."""
        return len(self.initial_stock)

    @cached_property
    def layout(self) -> Layout:
        """Where each quantity stands in the observation."""
        return Layout.of(self.lead_times)

    @cached_property
    def capacity(self) -> Array:
        """``Cap (M,)`` as an array [units]."""
        return np.array(self.storage_capacity, dtype=np.float64)

    @cached_property
    def supply(self) -> Array:
        """``c (M,)`` as an array [units / period]."""
        return np.array(self.supply_capacity, dtype=np.float64)

    @cached_property
    def money(self) -> tuple[Array, Array, Array, Array]:
        """Price, unit cost, backlog cost and holding cost, ``(M + 1,)`` each [money / unit].

        The last supplier is the last entry: it is paid for material and holds no stock.
        """
        prices = (self.price, *self.unit_cost[:-1])
        rows = (prices, self.unit_cost, self.backlog_cost, (*self.holding_cost, 0.0))
        return tuple(np.array(row, dtype=np.float64) for row in rows)  # type: ignore[return-value]

    @cached_property
    def discounts(self) -> Array:
        """``alpha**n`` for ``n = 0 .. periods`` (Python's power, as OR-Gym computes it)."""
        return np.array([self.alpha**n for n in range(self.periods + 1)], dtype=np.float64)

    def draw_demand(self, generator: np.random.Generator) -> Array:
        """The Poisson demand of one episode, ``(periods,)`` [units]."""
        return generator.poisson(self.demand_mean, self.periods).astype(np.float64)


DEFAULT = InventoryChain()
"""OR-Gym's chain with capacities (120, 160, 260): room for the mean demand over the lead times."""

STRESS = InventoryChain(storage_capacity=(100, 100, 200))
"""Too little room for the mean demand: ``Cap_j / (L_j + 1)`` is (25, 16.7, 18.2) against 20 a period."""

UNCONSTRAINED = InventoryChain(storage_capacity=(np.inf, np.inf, np.inf))
"""OR-Gym's chain as it is, without storage capacities."""

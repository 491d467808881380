"""The multi-echelon inventory environments: one chain, and many in step.

Both are thin faces of `ChainBatch`, which owns the state, the demand and the observation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, ClassVar, Literal, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from envs.errors import InvalidSetting
from envs.inventory.chain import DEFAULT, Array, InventoryChain
from envs.inventory.dynamics import Outcome, initial_state, step
from envs.inventory.encoder import InventoryEncoder
from envs.inventory.safe_set import InventorySafeSet

Observation: TypeAlias = Literal["state", "or_gym"]
Demand: TypeAlias = ArrayLike | Callable[[np.random.Generator], ArrayLike] | None
Flags: TypeAlias = NDArray[np.bool_]


class ChainBatch:
    """A batch of chains that are played together, with their demand and what is observed of them.

    Args:
        batch: ``B``, how many.
        chain: the chain, or None for `DEFAULT`.
        observation: ``"state"`` is the full state in units, Markov, laid out by ``chain.layout``.
            ``"or_gym"`` is what OR-Gym shows: stock and the last ``max(L)`` requests, oldest first and
            right-aligned, without back-orders, shipments or the period; it is not Markov.
        user_demand: None for the chain's Poisson demand; or the demand of every episode, ``(periods,)``
            [units, whole]; or a function of the environment's own generator that returns it.
        changes: fields of the chain to replace, such as ``alpha=1.0``.

    Raises:
        InvalidSetting: on an unknown or unusable setting.
    """

    def __init__(
        self,
        batch: int,
        chain: InventoryChain | None,
        observation: Observation,
        user_demand: Demand,
        changes: dict[str, Any],
    ) -> None:
        if observation not in ("state", "or_gym"):
            raise InvalidSetting("observation", f"is {observation!r}", "Use 'state' or 'or_gym'.")
        names = [f.name for f in fields(InventoryChain)]
        for name in changes:
            if name not in names:
                raise InvalidSetting(
                    name, "is not a setting of the chain", f"The settings are {', '.join(names)}."
                )
        self.chain = replace(chain or DEFAULT, **changes)
        self.observation: Observation = observation
        self.user_demand = user_demand
        if user_demand is not None and not callable(user_demand):
            self.user_demand = _checked_demand(self.chain, user_demand)
        self.state = initial_state(self.chain, batch)
        self.demand = np.zeros((batch, self.chain.periods))
        self.requests = np.zeros((batch, max(self.chain.lead_times), self.chain.stages))

    def spaces(self) -> tuple[gym.spaces.Box, gym.spaces.Box]:
        """Observation and action space of one chain, both float64 in units."""
        chain, lay = self.chain, self.chain.layout
        actions = gym.spaces.Box(np.zeros(chain.stages), chain.supply, dtype=np.float64)
        # Stock cannot exceed what a whole episode of full shipments brings; back-orders have no bound.
        stock = np.array(chain.initial_stock) + chain.supply * chain.periods
        if self.observation == "or_gym":
            high = np.full(self.requests[0].size + chain.stages, np.inf)
            high[: chain.stages] = stock
        else:
            high = np.full(lay.size, np.inf)
            high[lay.stock] = stock
            high[lay.periods_left] = chain.periods
            for own, most in zip(lay.stages, chain.supply_capacity, strict=True):
                high[own] = most
        return gym.spaces.Box(np.zeros(high.size), high, dtype=np.float64), actions

    def restart(self, which: Flags, generators: Sequence[np.random.Generator]) -> None:
        """Begin an episode in the chains that ``which (B,)`` marks, each with its generator's demand."""
        self.state[which] = initial_state(self.chain, 1)
        self.requests[which] = 0.0
        for i in np.flatnonzero(which).tolist():
            # A whole episode at once: one call of a generator costs as much as thirty draws.
            self.demand[i] = self.episode_demand(generators[i])

    def advance(self, actions: Array) -> tuple[Outcome, Array]:
        """Play one period with actions ``(B, M)``; returns the outcome and the demand ``(B,)``."""
        periods = self.chain.periods
        left = self.state[:, self.chain.layout.periods_left.start].astype(np.intp)
        # A chain whose episode is over (periods left 0) is played along and restarted by the caller.
        demand = self.demand[np.arange(len(self.state)), np.minimum(periods - left, periods - 1)]
        outcome = step(self.chain, self.state, actions, demand)
        self.state = outcome.state
        if self.observation == "or_gym" and self.requests.size:
            self.requests = np.concatenate([self.requests[:, 1:], outcome.ordered[:, None]], axis=1)
        return outcome, demand

    def observe(self) -> Array:
        """The observations, a fresh ``(B, n)``."""
        if self.observation == "state":
            return self.state.copy(order="C")
        flat = self.requests.reshape(len(self.state), -1)
        return np.concatenate([self.state[:, self.chain.layout.stock], flat], axis=1)

    def info(self, outcome: Outcome | None = None, demand: Array | None = None) -> dict[str, NDArray[Any]]:
        """What the observation need not say, arrays ``(B, ...)``; zeros before any period was played."""
        chain, batch = self.chain, len(self.state)
        nothing, none = np.zeros(batch), np.zeros((batch, chain.stages))
        left = self.state[:, chain.layout.periods_left.start]
        return {
            "cost": none if outcome is None else outcome.excess(chain),
            "peak_excess": none.copy() if outcome is None else outcome.peak_excess(chain),
            "distance_to_capacity": chain.capacity - self.state[:, chain.layout.stock],
            "demand": nothing if demand is None else demand,
            "sold": nothing.copy() if outcome is None else outcome.sold,
            "reward_undiscounted": nothing.copy() if outcome is None else outcome.profit,
            "period": chain.periods - left.astype(np.int64),
        }

    def safe_set(self) -> InventorySafeSet:
        if self.observation != "state":
            raise InvalidSetting(
                "observation",
                "is 'or_gym', which shows neither back-orders nor shipments and is not Markov:"
                " the same observation can need different safe sets",
                "Make the environment with observation='state' to have one.",
            )
        return InventorySafeSet(self.chain)

    def episode_demand(self, generator: np.random.Generator) -> Array:
        """The demand of a new episode, ``(periods,)``."""
        if self.user_demand is None:
            return self.chain.draw_demand(generator)
        if callable(self.user_demand):
            return _checked_demand(self.chain, self.user_demand(generator))
        return np.asarray(self.user_demand)


def _checked_demand(chain: InventoryChain, demand: ArrayLike) -> Array:
    path = np.asarray(demand, dtype=np.float64)
    if path.shape != (chain.periods,):
        raise InvalidSetting(
            "user_demand",
            f"has shape {path.shape}",
            f"Give one number for each of the {chain.periods} periods.",
        )
    bad = ~(np.isfinite(path) & (path >= 0) & (path == np.floor(path)))
    if bad.any():
        i = int(np.argmax(bad))
        raise InvalidSetting(
            "user_demand", f"is {path[i]} in period {i}", "Demand is whole units, at least 0."
        )
    return path


def checked_actions(actions: ArrayLike, shape: tuple[int, ...]) -> Array:
    """`actions` as float64 of `shape`; a wrong shape, NaN or infinity is an error."""
    array = np.asarray(actions, dtype=np.float64)
    if array.shape != shape:
        raise InvalidSetting(
            "action", f"has shape {array.shape}, expected {shape}", "Give one order for each stage."
        )
    if not np.isfinite(array).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise InvalidSetting(
            "action",
            f"is {array[index]} at index {index}",
            "Check the policy that produced it; nothing was executed.",
        )
    return array


class MultiEchelonInventory(gym.Env[Array, Array]):
    """A serial supply chain with storage capacities.

    Source: seed 000, experiments; specification omlt_ddpg, section 2.

    Action: orders ``(M,)`` [units] in ``Box(0, c)``, truncated to whole units; more than ``c`` waits as a
    back-order, less than zero is zero. Observation: see `ChainBatch`. Reward: the period's profit times
    ``alpha**n``. The episode terminates after ``periods`` periods; that is part of the state, so it is a
    termination and not a truncation.

    ``info`` after each period, and with zeros after a reset: ``cost (M,)``, units above capacity at the
    period's end; ``peak_excess (M,)``, the same at its peak; ``distance_to_capacity (M,)``; ``demand`` and
    ``sold`` [units]; ``reward_undiscounted``, the reward without ``alpha**n``; ``period``, how many were
    played.

    Args and errors: as for `ChainBatch`.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(
        self,
        chain: InventoryChain | None = None,
        *,
        observation: Observation = "state",
        user_demand: Demand = None,
        **changes: Any,
    ) -> None:
        self._batch = ChainBatch(1, chain, observation, user_demand, changes)
        self.observation_space, self.action_space = self._batch.spaces()
        self._playing = False

    @property
    def chain(self) -> InventoryChain:
        """The chain that is played."""
        return self._batch.chain

    @property
    def safe_set(self) -> InventorySafeSet:
        """The safe actions of each observation; an error where the observation is not the state."""
        return self._batch.safe_set()

    @property
    def encoder(self) -> InventoryEncoder | None:
        """Features of the observation for networks; None where the observation is not the state."""
        return InventoryEncoder(self.chain) if self._batch.observation == "state" else None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin an episode; `seed` fixes the demand of this one and of those that follow."""
        super().reset(seed=seed)
        self._batch.restart(np.ones(1, dtype=np.bool_), [self.np_random])
        self._playing = True
        return self._batch.observe()[0], {k: v[0] for k, v in self._batch.info().items()}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Play one period.

        Raises:
            InvalidSetting: if `action` is not ``(M,)`` finite numbers. ResetNeeded: if the episode is over.
        """
        orders = checked_actions(action, (self.chain.stages,))
        if not self._playing:
            raise ResetNeeded("The episode is over, or none has begun. Call reset() first.")
        outcome, demand = self._batch.advance(orders[None])
        info = {k: v[0] for k, v in self._batch.info(outcome, demand).items()}
        over = bool(info["period"] == self.chain.periods)
        self._playing = not over
        return self._batch.observe()[0], float(outcome.reward[0]), over, False, info


class MultiEchelonInventoryVector(gym.vector.VectorEnv[Array, Array, NDArray[Any]]):
    """`num_envs` independent `MultiEchelonInventory` chains, advanced by one call.

    Equal, number for number, to ``num_envs`` single environments with the same seeds: each has its own
    generator, and an integer seed gives chain `i` the seed ``seed + i``. Autoreset is Gymnasium's next-step
    mode: the step after an episode's last ignores its action, returns the first observation of a new episode
    and reward 0. Each entry of ``infos`` is an array with the batch in front, with Gymnasium's mask under
    ``_name``.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(
        self,
        num_envs: int = 1,
        chain: InventoryChain | None = None,
        *,
        observation: Observation = "state",
        user_demand: Demand = None,
        **changes: Any,
    ) -> None:
        if num_envs < 1:
            raise InvalidSetting("num_envs", f"is {num_envs}", "Ask for at least one environment.")
        self.num_envs = num_envs
        self._batch = ChainBatch(num_envs, chain, observation, user_demand, changes)
        self.single_observation_space, self.single_action_space = self._batch.spaces()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._generators: list[np.random.Generator] | None = None
        self._over = np.zeros(num_envs, dtype=np.bool_)

    @property
    def chain(self) -> InventoryChain:
        """The chain that is played."""
        return self._batch.chain

    @property
    def safe_set(self) -> InventorySafeSet:
        """The safe actions of each observation; an error where the observation is not the state."""
        return self._batch.safe_set()

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin an episode in every chain, or in those of ``options["reset_mask"] (num_envs,)``.

        Args:
            seed: None, one integer (chain `i` has ``seed + i``), or one for each chain.
        """
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int | np.integer) else seed
        if seeds is not None and len(seeds) != self.num_envs:
            raise InvalidSetting(
                "seed", f"has {len(seeds)} entries", f"Give one for each of {self.num_envs} chains."
            )
        which = np.ones(self.num_envs, dtype=np.bool_)
        if options and "reset_mask" in options:
            which = np.asarray(options["reset_mask"], dtype=np.bool_)
            if which.shape != (self.num_envs,):
                raise InvalidSetting(
                    "reset_mask", f"has shape {which.shape}", f"Its shape is ({self.num_envs},)."
                )
        if self._generators is None:
            self._generators = [seeding.np_random(s)[0] for s in seeds or [None] * self.num_envs]
        elif seeds is not None:
            for i in np.flatnonzero(which).tolist():
                if (own := seeds[i]) is not None:
                    self._generators[i] = seeding.np_random(own)[0]
        self._batch.restart(which, self._generators)
        self._over[which] = False
        return self._batch.observe(), self._masked(self._batch.info(), which)

    def step(self, actions: Array) -> tuple[Array, Array, Flags, Flags, dict[str, Any]]:
        """Play one period in every chain; see the class for what happens after an episode's end.

        Raises:
            InvalidSetting: if `actions` are not ``(num_envs, M)`` finite numbers. ResetNeeded: before a
                reset.
        """
        orders = checked_actions(actions, (self.num_envs, self.chain.stages))
        if self._generators is None:
            raise ResetNeeded("No episode has begun. Call reset() first.")
        again = self._over
        outcome, demand = self._batch.advance(orders)
        reward, infos = outcome.reward, None
        if again.any():
            self._batch.restart(again, self._generators)
            reward = np.where(again, 0.0, reward)
            infos = self._batch.info(outcome, demand)
            for name in ("cost", "peak_excess", "demand", "sold", "reward_undiscounted"):
                infos[name][again] = 0.0
        infos = self._batch.info(outcome, demand) if infos is None else infos
        self._over = infos["period"] == self.chain.periods
        everyone = np.ones(self.num_envs, dtype=np.bool_)
        never = np.zeros(self.num_envs, dtype=np.bool_)
        return self._batch.observe(), reward, self._over.copy(), never, self._masked(infos, everyone)

    @staticmethod
    def _masked(infos: dict[str, NDArray[Any]], which: Flags) -> dict[str, Any]:
        return {**infos, **{f"_{name}": which.copy() for name in infos}}

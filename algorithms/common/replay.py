"""A flat ring buffer of transitions with a seeded generator that a checkpoint carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class ReplayBuffer:
    """The last `capacity` transitions, one float64 array ``(capacity, *shape)`` for each field.

    Whole-number fields are exact in float64 up to 2**53. Fields are fixed by the first `add`.

    Args:
        capacity: transitions kept; the oldest is overwritten.
        seed: of the sampling generator, which belongs to this buffer alone.
    """

    def __init__(self, capacity: int, seed: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity: is {capacity}. A replay buffer keeps at least one transition.")
        self.capacity = capacity
        self.size = 0
        self.added = 0
        self._next = 0
        self._fields: dict[str, Array] = {}
        self._generator = np.random.default_rng(seed)

    def __len__(self) -> int:
        return self.size

    def add(self, transitions: Mapping[str, Array]) -> None:
        """Append a batch; every value is ``(n, *shape)`` with the same `n`.

        Raises:
            ValueError: if the fields or shapes differ from earlier ones, or a number is not finite (an
                infinite ``h`` switches a row off and is allowed). Nothing is added then.
        """
        count = len(next(iter(transitions.values())))
        if not self._fields:
            self._fields = {
                name: np.zeros((self.capacity, *np.shape(value)[1:])) for name, value in transitions.items()
            }
        if transitions.keys() != self._fields.keys():
            raise ValueError(f"fields: got {sorted(transitions)}, the buffer has {sorted(self._fields)}.")
        for name, value in transitions.items():
            expected = (count, *self._fields[name].shape[1:])
            if np.shape(value) != expected:
                raise ValueError(f"{name}: shape {np.shape(value)}, the buffer expects {expected}.")
            if np.isnan(value).any() or (np.isinf(value).any() and name not in ("h", "next_h")):
                raise ValueError(
                    f"{name}: contains NaN or infinity. Check the environment; nothing was added."
                )
        at = (self._next + np.arange(count)) % self.capacity
        for name, value in transitions.items():
            self._fields[name][at] = value
        self._next = (self._next + count) % self.capacity
        self.size = min(self.size + count, self.capacity)
        self.added += count

    def sample(self, count: int) -> dict[str, Array]:
        """Draw `count` transitions uniformly with replacement."""
        if not self.size:
            raise ValueError("sample: the buffer is empty. Add transitions first.")
        index = self._generator.integers(self.size, size=count)
        return {name: values[index] for name, values in self._fields.items()}

    def serials(self) -> NDArray[np.int64]:
        """Running numbers of what is kept, oldest first; number ``n`` stands in slot ``n % capacity``."""
        return np.arange(self.added - self.size, self.added)

    def read(self, serials: NDArray[np.int64], *names: str) -> tuple[Array, ...]:
        """Fields of the given transitions."""
        return tuple(self._fields[name][serials % self.capacity] for name in names)

    def write(self, serials: NDArray[np.int64], **values: Array) -> None:
        """Overwrite fields of the given transitions; those that are no longer kept are passed over."""
        kept = serials >= self.added - self.size
        for name, value in values.items():
            self._fields[name][serials[kept] % self.capacity] = value[kept]

    def contents(self) -> dict[str, Array]:
        """All transitions in the order of their arrival, as copies."""
        order = (
            np.arange(self.size)
            if self.size < self.capacity
            else np.arange(self._next, self._next + self.size)
        )
        return {name: values[order % self.capacity] for name, values in self._fields.items()}

    def get_state(self) -> dict[str, Any]:
        """Everything needed to continue: contents, position and generator."""
        return {
            "capacity": self.capacity,
            "next": self._next,
            "added": self.added,
            "fields": {name: values[: self.size].copy() for name, values in self._fields.items()},
            "generator": self._generator.bit_generator.state,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from `get_state`.

        Raises:
            ValueError: if the capacity differs, for then positions would not mean the same.
        """
        if state["capacity"] != self.capacity:
            raise ValueError(
                f"capacity: the checkpoint's buffer holds {state['capacity']}, this one {self.capacity}. "
                "Restore with the configuration that wrote it."
            )
        self._fields = {
            name: np.concatenate([values, np.zeros((self.capacity - len(values), *values.shape[1:]))])
            for name, values in state["fields"].items()
        }
        self.size = len(next(iter(state["fields"].values()))) if state["fields"] else 0
        self._next = state["next"]
        self.added = state["added"]
        self._generator.bit_generator.state = state["generator"]

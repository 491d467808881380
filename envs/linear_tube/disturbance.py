"""Bounded disturbances, known to a robust controller by their support function alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from envs.errors import InvalidSetting

Array: TypeAlias = NDArray[np.float64]


def numbers(field: str, value: Any, *shape: int) -> Array:
    """`value` as a float64 array of `shape`, where -1 stands for any length of at least one.

    Raises:
        InvalidSetting: if it is not numbers, not finite, or of another shape.
    """
    try:
        array = np.ascontiguousarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidSetting(field, f"is {value!r}, not numbers", "Give numbers.") from error
    wanted = tuple("any" if length == -1 else length for length in shape)
    fits = array.ndim == len(shape) and array.size > 0
    if not fits or any(w not in (-1, have) for w, have in zip(shape, array.shape, strict=True)):
        raise InvalidSetting(
            field, f"has shape {array.shape}, expected {wanted}".replace("'", ""), "Reshape it to match."
        )
    bad = np.argwhere(~np.isfinite(array))
    if bad.size:
        index = tuple(int(i) for i in bad[0])
        raise InvalidSetting(field, f"is {array[index]} at index {index}", "Give finite numbers.")
    return array


@runtime_checkable
class Disturbance(Protocol):
    """A compact convex set W in ``R^n``; `a` below stands for any array of directions ``(..., n)``."""

    @property
    def dimension(self) -> int:
        """``n``."""
        ...

    def support(self, a: Array) -> Array:
        """``h_W(a) = max_{w in W} a'w``, ``(...)``."""
        ...

    def worst(self, a: Array) -> Array:
        """A maximiser of ``a'w`` over W, ``(..., n)``."""
        ...

    def sample(self, generator: np.random.Generator, size: int) -> Array:
        """Points of W, ``(size, n)``."""
        ...

    def extreme(self, generator: np.random.Generator, size: int) -> Array:
        """Extreme points of W, ``(size, n)``."""
        ...


@dataclass(frozen=True, eq=False)
class BoxDisturbance:
    """``W = {w : |w_i| <= half_width_i}``, ``h_W(a) = sum_i |a_i| half_width_i``.

    Attributes:
        half_width: ``(n,)``, at least zero [state units].
    """

    half_width: Array

    def __post_init__(self) -> None:
        half_width = numbers("half_width", self.half_width, -1)
        if (half_width < 0).any():
            raise InvalidSetting("half_width", f"is {half_width.tolist()}", "Give numbers of at least 0.")
        object.__setattr__(self, "half_width", half_width)

    @property
    def dimension(self) -> int:
        return len(self.half_width)

    def support(self, a: Array) -> Array:
        return np.asarray(np.abs(a) @ self.half_width)

    def worst(self, a: Array) -> Array:
        return np.where(a < 0, -self.half_width, self.half_width)

    def sample(self, generator: np.random.Generator, size: int) -> Array:
        """Uniform."""
        return generator.uniform(-1.0, 1.0, (size, self.dimension)) * self.half_width

    def extreme(self, generator: np.random.Generator, size: int) -> Array:
        """Corners, each as likely."""
        return generator.choice([-1.0, 1.0], (size, self.dimension)) * self.half_width


@dataclass(frozen=True, eq=False)
class EllipsoidDisturbance:
    """``W = {P^(1/2) y : |y| <= 1}``, that is ``{w : w'P^-1 w <= 1}``, ``h_W(a) = sqrt(a'P a)``.

    Attributes:
        shape: ``P (n, n)``, symmetric positive semidefinite [state units squared].
    """

    shape: Array
    _root: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        shape = numbers("shape", self.shape, -1, -1)
        shape = numbers("shape", shape, len(shape), len(shape))
        if not np.allclose(shape, shape.T, rtol=1e-12, atol=0.0):
            raise InvalidSetting("shape", "is not symmetric", "Give (P + P') / 2.")
        values, vectors = np.linalg.eigh(shape)
        if values[0] < -1e-12 * max(values[-1], 0.0) or values[-1] < 0.0:
            raise InvalidSetting(
                "shape", f"has the eigenvalue {values[0]:.3g}", "Give a positive semidefinite matrix."
            )
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "_root", vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T)

    @property
    def dimension(self) -> int:
        return len(self.shape)

    def support(self, a: Array) -> Array:
        return np.asarray(np.linalg.norm(a @ self._root, axis=-1))

    def worst(self, a: Array) -> Array:
        """``P a / h_W(a)``; the centre where ``h_W(a) = 0``."""
        reach = self.support(a)[..., None]
        return np.divide(a @ self.shape, reach, out=np.zeros(np.shape(a)), where=reach > 0)

    def sample(self, generator: np.random.Generator, size: int) -> Array:
        """Uniform."""
        radius = generator.uniform(0.0, 1.0, (size, 1)) ** (1.0 / self.dimension)
        return radius * self.extreme(generator, size)

    def extreme(self, generator: np.random.Generator, size: int) -> Array:
        """Images of uniform points of the unit sphere."""
        y = generator.standard_normal((size, self.dimension))
        y /= np.linalg.norm(y, axis=1, keepdims=True)
        return np.asarray(y @ self._root)


@dataclass(frozen=True, eq=False)
class PolytopeDisturbance:
    """``W`` is the convex hull of its vertices, ``h_W(a) = max_k a'w_k``.

    Attributes:
        vertices: ``(k, n)`` [state units]; points inside the hull do no harm.
    """

    vertices: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "vertices", numbers("vertices", self.vertices, -1, -1))

    @property
    def dimension(self) -> int:
        return int(self.vertices.shape[1])

    def support(self, a: Array) -> Array:
        return np.asarray((a @ self.vertices.T).max(axis=-1))

    def worst(self, a: Array) -> Array:
        return np.asarray(self.vertices[(a @ self.vertices.T).argmax(axis=-1)])

    def sample(self, generator: np.random.Generator, size: int) -> Array:
        """Random convex combinations of the vertices, weights uniform on the simplex."""
        return np.asarray(generator.dirichlet(np.ones(len(self.vertices)), size) @ self.vertices)

    def extreme(self, generator: np.random.Generator, size: int) -> Array:
        """Vertices, each as likely."""
        return np.asarray(self.vertices[generator.integers(len(self.vertices), size=size)])

"""Pictures of tabular problems: where a policy goes, and what it does there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from envs.tabular.cmdp import Array

ARROWS = ((0.0, -1.0), (0.0, 1.0), (1.0, 0.0), (-1.0, 0.0))
"""Rows and columns of the grid worlds' actions."""
COLOUR = "#2563ab"


@dataclass(frozen=True)
class Layout:
    """Where states are drawn: state ``row * columns + column``; later ones are left out.

    Attributes:
        marks: labels of states, such as ``{8: "G"}``.
        moves: of each action, by how many rows and columns it moves; actions beyond are not drawn.
    """

    rows: int
    columns: int
    marks: Mapping[int, str] = field(default_factory=dict)
    moves: tuple[tuple[float, float], ...] = ARROWS


def draw_occupancy(axes: Any, layout: Layout, occupancy: Array) -> None:
    """Expected visits ``(S,)`` as shades, with their numbers."""
    shown = occupancy[: layout.rows * layout.columns].reshape(layout.rows, layout.columns)
    axes.imshow(shown, cmap="Blues", vmin=0.0, vmax=max(float(shown.max()), 1e-9) * 1.3)
    for (row, column), value in np.ndenumerate(shown):
        ink = "white" if value > 0.75 * shown.max() > 0 else "#374151"
        axes.text(column, row + 0.34, f"{value:.2f}", ha="center", va="center", fontsize=7, color=ink)
    _frame(axes, layout)


def draw_policy(axes: Any, layout: Layout, occupation: Array) -> None:
    """Arrows as long as the probability of each action in a state, over the steps at which it is there.

    Args:
        occupation: ``q (S, A)``, summed over steps; states that are not visited stay empty.
    """
    axes.imshow(np.zeros((layout.rows, layout.columns)), cmap="Greys", vmin=0.0, vmax=1.0)
    visits = occupation.sum(axis=1)
    for state in range(layout.rows * layout.columns):
        if visits[state] < 1e-6:
            continue
        row, column = divmod(state, layout.columns)
        for (down, right), mass in zip(layout.moves, occupation[state], strict=False):
            share = float(mass / visits[state])
            if share > 0.02:
                length = 0.42 * share
                axes.annotate(
                    "",
                    xy=(column + length * right, row + length * down),
                    xytext=(column, row),
                    arrowprops={"arrowstyle": "-|>", "color": COLOUR, "lw": 0.8 + 1.6 * share},
                )
    _frame(axes, layout)


def picture(layout: Layout, occupancy: Array) -> NDArray[np.uint8]:
    """`draw_occupancy` as an array ``(height, width, 3)``."""
    figure = Figure(figsize=(0.9 * layout.columns, 0.9 * layout.rows), dpi=80)
    draw_occupancy(figure.add_axes((0.02, 0.02, 0.96, 0.96)), layout, occupancy)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _frame(axes: Any, layout: Layout) -> None:
    for state, mark in layout.marks.items():
        row, column = divmod(state, layout.columns)
        axes.text(column - 0.42, row - 0.34, mark, ha="left", va="center", fontsize=8, fontweight="bold")
    for row in range(layout.rows):
        for column in range(layout.columns):
            axes.add_patch(
                Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="#9ca3af", linewidth=0.8)
            )
    axes.set(xticks=[], yticks=[], xlim=(-0.5, layout.columns - 0.5), ylim=(layout.rows - 0.5, -0.5))
    axes.grid(visible=False)

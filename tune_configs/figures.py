"""The figures of a report, each as one SVG element that loads nothing from elsewhere."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from algorithms.common.episodes import EpisodeRecord
from envs.job_shop import Bar, JobShop, draw_gantt
from envs.job_shop.instance import OPERATIONS
from envs.statistics import bootstrap_interval
from envs.tabular import Layout, draw_occupancy, draw_policy
from tune_configs.evaluation import Columns, PolicyResult

COLOURS = ("#2563ab", "#c2571a", "#2e8b57", "#7b4ea3", "#8c6d1f", "#a33b5e")
GREY = "#6b7280"
WINDOW = 10
"""Episodes, or records of several episodes each, of the moving mean."""

_STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9ca3af",
    "axes.labelcolor": "#374151",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.color": "#4b5563",
    "ytick.color": "#4b5563",
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "svg.fonttype": "path",
}

Array = NDArray[np.float64]


def learning_curve(runs: Sequence[Sequence[EpisodeRecord]], lines: Sequence[tuple[str, float]]) -> str:
    """Reward of each training episode with its moving mean; several runs as their mean and its interval.

    Args:
        runs: the records of each; one that stands for several episodes is a point at the last of them.
        lines: label and reward of horizontal lines.
    """
    point = record_name(runs)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8.6, 3.9), layout="constrained")
        axes = figure.subplots()
        rewards = _stack([[e.reward for e in run] for run in runs])
        x = _numbers(runs, rewards.shape[1])
        smooth = np.stack([_moving_mean(r) for r in rewards])
        if len(runs) == 1:
            axes.plot(x, rewards[0], ".", color=COLOURS[0], alpha=0.35, markersize=5, label=point)
            axes.plot(x, smooth[0], color=COLOURS[0], linewidth=2, label=f"mean of {WINDOW} {point}s")
        else:
            for row in smooth:
                axes.plot(x, row, color=COLOURS[0], alpha=0.25, linewidth=0.9)
            _band(axes, x, smooth, COLOURS[0], f"mean of {len(runs)} runs, each over {WINDOW} {point}s")
        for (label, value), style in zip(lines, ("--", ":", "-."), strict=False):
            axes.axhline(value, color=GREY, linestyle=style, linewidth=1.3, label=label)
        axes.set(xlabel="training episodes", ylabel="reward", xlim=(0, 1.01 * x[-1] + 1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(loc="outside upper center", ncols=2, fontsize=9)
        return _svg(figure, "learning curve")


def distance_to_capacity(runs: Sequence[Sequence[EpisodeRecord]]) -> str:
    """Smallest distance to capacity in each episode, a panel for each stage (Figure 4 of the paper)."""
    usable = [run for run in runs if all(e.distance_to_capacity for e in run)]
    if not usable:
        return ""
    stages = len(usable[0][0].distance_to_capacity)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8.6, 3.3), layout="constrained")
        panels = np.atleast_1d(figure.subplots(1, stages, sharey=True))
        for stage, axes in enumerate(panels):
            rows = _stack([[e.distance_to_capacity[stage] for e in run] for run in usable])
            x, colour = np.arange(1, rows.shape[1] + 1), COLOURS[stage % len(COLOURS)]
            if len(rows) == 1:
                axes.plot(x, rows[0], ".", color=colour, alpha=0.45, markersize=4)
                axes.plot(x, _moving_mean(rows[0]), color=colour, linewidth=1.8)
            else:
                for row in rows:
                    axes.plot(x, row, ".", color=colour, alpha=0.2, markersize=2.5)
                _band(axes, x, np.stack([_moving_mean(r) for r in rows]), colour, "")
            axes.axhline(0.0, color="#b91c1c", linewidth=1.2)
            axes.set(xlabel="training episode", xlim=(0, len(x) + 1))
            axes.set_title(f"stage {stage}" + (" (retailer)" if stage == 0 else ""), color=colour)
        panels[0].set_ylabel("smallest distance [units]")
        bottom, top = panels[0].get_ylim()
        low = min(bottom, -0.12 * top)
        for axes in panels:
            axes.axhspan(low, 0.0, color="#fee2e2", zorder=0)
            axes.text(0.02, 0.02, "above capacity", transform=axes.transAxes, fontsize=8, color="#b91c1c")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        panels[0].set_ylim(low, top)
        return _svg(figure, "distance to capacity")


def master_times(
    runs: Sequence[Sequence[Mapping[str, float]]],
) -> str:
    """Seconds of a master's solve, mean and 95 % quantile, and its gap, by training episode; a line for each run.

    Args:
        runs: the scalars of each one's iterations (`metrics.scalars`).
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8.6, 3.3), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        for run in runs:
            x = [line["episode"] for line in run]
            for (name, label), colour in zip(
                (("seconds", "mean"), ("seconds_p95", "95 % quantile")), COLOURS, strict=False
            ):
                y = [1e3 * line.get(f"master/{name}", np.nan) for line in run]
                left.plot(
                    x,
                    y,
                    ".-",
                    color=colour,
                    linewidth=1.4,
                    markersize=3,
                    label=label if run is runs[0] else None,
                )
            gaps = [100.0 * line.get("master/gap", np.nan) for line in run]
            right.plot(x, gaps, ".-", color=COLOURS[2], linewidth=1.4, markersize=3)
        left.set(ylabel="a master's solve [ms]", yscale="log")
        for ticks in (left.yaxis.set_major_formatter, left.yaxis.set_minor_formatter):
            ticks("{x:.3g}")
        right.set(ylabel="gap of the masters [%]", ylim=(0.0, None))
        for axes in (left, right):
            axes.set_xlabel("training episodes")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        figure.legend(loc="outside upper center", ncols=2, fontsize=9)
        return _svg(figure, "master solve time")


def gantt(schedules: Mapping[str, Sequence[Bar]], instance: JobShop) -> str:
    """Executed schedules of one instance, one below the other, each under its name."""
    with matplotlib.rc_context({**_STYLE, "axes.grid": False}):
        lines = len(schedules) * OPERATIONS * instance.copies
        figure = Figure(figsize=(8.6, 0.22 * lines + 0.9 * len(schedules)), layout="constrained")
        panels = np.atleast_1d(figure.subplots(len(schedules), 1, sharex=True))
        for axes, (name, bars) in zip(panels, schedules.items(), strict=True):
            draw_gantt(list(bars), instance, axes)
            axes.set_title(name)
        return _svg(figure, "gantt")


def planes(paths: Mapping[str, Array], draw: Callable[[Array, Any], None]) -> str:
    """Paths of states ``(T + 1, k, 2)`` of several policies side by side, each drawn by `draw` under its name."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8.6, 3.4), layout="constrained")
        panels = np.atleast_1d(figure.subplots(1, len(paths), sharex=True, sharey=True))
        for axes, (name, path) in zip(panels, paths.items(), strict=True):
            draw(path, axes)
            axes.get_legend().remove()
            axes.set_title(name)
        return _svg(figure, "episodes in the plane")


def optimality(runs: Sequence[Sequence[Mapping[str, float]]]) -> str:
    """Distance to the optimal value, and excess over the budgets, of tabular policies by samples.

    Args:
        runs: the scalars of each one's iterations (`metrics.scalars`); several are drawn with their mean's interval.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8.6, 3.3), layout="constrained")
        for axes, (name, label), colour in zip(
            figure.subplots(1, 2),
            (("value_gap", "distance to the optimal value"), ("violation", "cost beyond the budget")),
            COLOURS,
            strict=False,
        ):
            rows = _stack([[line[f"crl/{name}"] for line in run] for run in runs])
            x = np.array([line["samples"] for line in runs[0][: rows.shape[1]]])
            if len(rows) == 1:
                axes.plot(x, rows[0], color=colour, linewidth=1.6)
            else:
                for row in rows:
                    axes.plot(x, row, color=colour, alpha=0.25, linewidth=0.9)
                _band(axes, x, rows, colour, "")
            axes.axhline(0.0, color=GREY, linewidth=0.8)
            axes.set(xlabel="environment samples", ylabel=label)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        return _svg(figure, "distance to the optimum")


def tabular_policies(drawing: Mapping[str, Any]) -> str:
    """Expected visits and actions of tabular policies, a row for each.

    Args:
        drawing: ``rows``, ``columns``, ``marks``, ``moves`` of a `Layout`, and ``occupations (S, A)`` by policy.
    """
    marks = {int(state): mark for state, mark in drawing["marks"].items()}
    layout = Layout(
        drawing["rows"], drawing["columns"], marks, tuple((down, right) for down, right in drawing["moves"])
    )
    with matplotlib.rc_context({**_STYLE, "axes.grid": False}):
        count = len(drawing["occupations"])
        figure = Figure(figsize=(8.6, 3.9 * count * layout.rows / layout.columns), layout="constrained")
        panels = figure.subplots(count, 2, squeeze=False)
        for (name, found), (left, right) in zip(drawing["occupations"].items(), panels, strict=True):
            draw_occupancy(left, layout, np.array(found).sum(axis=1))
            draw_policy(right, layout, np.array(found))
            left.set_title(f"{name}: visits")
            right.set_title("actions")
        return _svg(figure, "tabular policies")


def record_name(runs: Sequence[Sequence[EpisodeRecord]]) -> str:
    """What a record of these runs is: an episode, or all those of an iteration."""
    return "episode" if all(e.count == 1 for run in runs for e in run) else "iteration"


def deployment(measured: Sequence[PolicyResult], published: Sequence[PolicyResult], columns: Columns) -> str:
    """Boxes of reward and, where there is one, penalty of deployed policies, beside published means."""
    boxes = [row for row in measured if row.rewards]
    others = list(published)
    names = [_wrapped(row.name) for row in (*boxes, *others)]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8.6, 0.46 * len(names) + 1.1), layout="constrained")
        quantities = ("reward", "penalty") if any(row.penalties for row in boxes) else ("reward",)
        panels = np.atleast_1d(figure.subplots(1, len(quantities), sharey=True))
        for axes, quantity in zip(panels, quantities, strict=True):
            values = [row.rewards if quantity == "reward" else row.penalties for row in boxes]
            drawn = axes.boxplot(
                values,
                positions=range(len(boxes)),
                orientation="horizontal",
                widths=0.55,
                patch_artist=True,
                showmeans=True,
                medianprops={"color": "#111827"},
                meanprops={
                    "marker": "D",
                    "markersize": 4,
                    "markerfacecolor": "white",
                    "markeredgecolor": "#111827",
                },
                flierprops={"marker": ".", "markersize": 4, "alpha": 0.5},
            )
            for patch, colour in zip(drawn["boxes"], itertools.cycle(COLOURS), strict=False):
                patch.set(facecolor=colour, alpha=0.55, edgecolor=colour)
            for position, row in enumerate(others, start=len(boxes)):
                mean, std = row.reward if quantity == "reward" else (row.penalty or (np.nan, np.nan))
                spread = None if np.isnan(std) else std
                axes.errorbar(mean, position, xerr=spread, fmt="o", color=GREY, capsize=3, markersize=4)
            axes.set_yticks(range(len(names)), names, fontsize=9)
            axes.grid(axis="y", visible=False)
            axes.set_xlabel(f"{columns.reward if quantity == 'reward' else columns.penalty} per episode")
        if any(v > 100 for row in boxes for v in row.penalties):
            panels[-1].set_xscale("symlog", linthresh=10)
        panels[0].set_ylim(len(names) - 0.4, -0.6)
        return _svg(figure, "deployment")


def _band(axes: Any, x: Array, rows: Array, colour: str, label: str) -> None:
    low, high = bootstrap_interval(rows, np.random.default_rng(0), _mean)
    axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(x, rows.mean(axis=0), color=colour, linewidth=2, label=label or None)


def _mean(values: Array, axis: int) -> Array:
    return np.asarray(values.mean(axis=axis))


def _stack(rows: Sequence[Sequence[float]]) -> Array:
    """Runs as rows, cut to the shortest."""
    length = min(len(row) for row in rows)
    return np.array([row[:length] for row in rows], dtype=np.float64)


def _numbers(runs: Sequence[Sequence[EpisodeRecord]], length: int) -> Array:
    """Numbers of the last episodes of the first `length` records; of the first run, as all play alike."""
    return np.cumsum([e.count for e in runs[0][:length]], dtype=np.float64)


def _moving_mean(values: Array) -> Array:
    """Mean of each value and up to ``WINDOW - 1`` before it."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    begin = np.maximum(end - WINDOW, 0)
    return np.asarray((total[end] - total[begin]) / (end - begin))


def _wrapped(name: str) -> str:
    return name.replace(" (", "\n(") if len(name) > 24 else name


def _svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element: no XML prologue, no metadata, identifiers of its own within a page."""
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(
            stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    prefix = name.replace(" ", "-")
    # Matplotlib numbers its groups alike in every figure; on one page they must differ.
    text = re.sub(r'(id="|xlink:href="#|url\(#)', rf"\g<1>{prefix}-", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{name}" ', 1)

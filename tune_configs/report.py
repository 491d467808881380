"""The report of one run, or of several seeds of one experiment: a single HTML file that loads nothing."""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from envs.errors import InvalidSetting
from tune_configs import figures
from tune_configs.evaluation import COLUMNS, PolicyResult
from tune_configs.experiment import Experiment, find
from tune_configs.runs import Record, read

FINAL = 20
"""Episodes at the end of training that the paper averages."""

_CSS = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  color: #1f2937; background: #f3f4f6; margin: 0; }
main { max-width: 960px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 18px; margin: 0 0 10px; }
p { margin: 6px 0 10px; }
.muted { color: #6b7280; font-size: 13.5px; }
section, .card { background: #fff; border: 1px solid #e5e7eb; border-radius: 8px; }
section { padding: 18px 22px; margin: 18px 0; }
.cards { display: grid; gap: 12px; margin: 18px 0; }
.cards { grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); }
.card { padding: 12px 16px; }
.card b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; }
.card span { color: #6b7280; font-size: 13px; }
.scroll { overflow-x: auto; margin-bottom: 14px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 10px; border-bottom: 1px solid #e5e7eb; text-align: right; white-space: nowrap; }
th { color: #4b5563; font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
tr.published td { color: #6b7280; }
tr:last-child td { border-bottom: 0; }
table.settings td { text-align: left; white-space: normal; vertical-align: top; }
td code { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 12.5px; }
svg { width: 100%; height: auto; display: block; }
details summary { cursor: pointer; font-weight: 600; }
"""


def write_report(paths: Sequence[Path], target: Path) -> Path:
    """Write the report of the runs (or sweeps) at `paths` to `target`, replacing it atomically.

    Raises:
        InvalidSetting: if a path is no run, nothing was played yet, experiments differ, or `target` cannot be
            written.
    """
    records = [record for path in paths for record in read(path)]
    experiments = {record.settings["experiment"] for record in records}
    if len(experiments) > 1:
        raise InvalidSetting(
            "run", f"the runs belong to {', '.join(sorted(experiments))}", "Report one experiment at a time."
        )
    page = _page(find(experiments.pop()), records)
    partial = target.with_name(f".{target.name}.partial")
    try:
        partial.write_text(page, encoding="utf-8")
        os.replace(partial, target)
    except OSError as error:
        raise InvalidSetting(
            "report",
            f"{target} cannot be written ({error.strerror or error})",
            "Choose another file with --output.",
        ) from error
    return target


def pooled(records: Sequence[Record]) -> list[PolicyResult]:
    """The evaluations of several runs, policy by policy, their episodes put together."""
    rows: dict[str, list[PolicyResult]] = {}
    for record in records:
        for row in record.evaluation.policies if record.evaluation else []:
            rows.setdefault(row.name, []).append(row)
    return [_pool(same) for same in rows.values()]


def _pool(same: list[PolicyResult]) -> PolicyResult:
    first = same[0]
    # A reference does not depend on the training: its episodes are the same in every run.
    if len(same) == 1 or all(row.rewards == first.rewards and row.reward == first.reward for row in same):
        return first
    solver = {
        key: (max if key.startswith("largest") else np.mean if key.startswith(("ms", "mean")) else sum)(
            [row.solver.get(key, 0.0) for row in same]
        )
        for key in first.solver
    }
    return PolicyResult.of(
        first.name,
        [r for row in same for r in row.rewards],
        [p for row in same for p in row.penalties],
        sum(row.violations or 0 for row in same),
        sum(row.steps for row in same),
        ms_per_action=float(np.median([row.ms_per_action for row in same if row.ms_per_action is not None])),
        solver={key: float(value) for key, value in solver.items()},
    )


def _page(experiment: Experiment, records: list[Record]) -> str:
    runs = [record.episodes for record in records]
    policies = pooled(records)
    published = experiment.PUBLISHED
    seeds = ", ".join(str(record.settings.get("seed")) for record in records)
    final = [e.reward for run in runs for e in run[-FINAL:]]
    samples = sorted({int(record.iterations[-1]["samples"]) for record in records})
    cards = [
        (f"{np.mean(final):.1f} ± {np.std(final):.1f}", f"training reward, last {FINAL} episodes"),
        *(
            (f"{p.reward[0]:.1f} ± {p.reward[1]:.1f}", f"{p.name}, deployed")
            for p in policies
            if p.rewards and p.solver
        ),
        *(
            (f"{p.violations:,} of {p.steps:,}", f"violating steps of {p.name}")
            for p in policies
            if p.violations is not None and p.solver
        ),
        (" – ".join(f"{s:,}" for s in dict.fromkeys((samples[0], samples[-1]))), "environment samples"),
    ]
    evaluated = next((record.evaluation for record in records if record.evaluation), None)
    what = f"{len(records)} runs (seeds {seeds})" if len(records) > 1 else f"seed {seeds}"
    parts = [
        f"<h1>{_t(experiment.TITLE)}</h1>",
        f'<p class="muted">preset {_t(records[0].settings.get("preset"))} · {_t(what)} · '
        f"{len(runs[0])} training episodes</p>",
        '<div class="cards">'
        + "".join(f'<div class="card"><b>{_t(a)}</b><span>{_t(b)}</span></div>' for a, b in cards)
        + "</div>",
    ]
    if evaluated:
        rows = [(row.name, *row.cells) for row in policies]
        theirs = [(row.name, *row.cells) for row in published.deployment]
        parts.append(
            _section(
                "Deployment",
                _table(COLUMNS, rows, theirs),
                f"{evaluated.episodes} fresh episodes each, seed {evaluated.seed}, {evaluated.setting}; mean "
                "± standard deviation over episodes. A step violates if a stock exceeds its capacity at any "
                "moment of the period; the bound is Clopper-Pearson's upper 95 % bound on the probability of "
                f"such a step, with steps counted as independent. Grey rows: {published.source}",
            )
        )
    parts.append(
        _section(
            "Learning curve",
            figures.learning_curve(runs, published.lines),
            "Reward of every training episode, exploration included."
            + (" The band is a 95 % bootstrap interval of the mean over runs." if len(runs) > 1 else ""),
        )
    )
    if drawing := figures.distance_to_capacity(runs):
        parts.append(
            _section(
                "Distance to capacity while training",
                drawing,
                "Smallest distance of each stage's stock to its capacity in every episode, and its mean over "
                f"{figures.WINDOW} episodes; below zero the capacity was exceeded (the paper's Figure 4).",
            )
        )
    if evaluated:
        parts.append(
            _section(
                "Reward and penalty in deployment",
                figures.deployment(policies, published.deployment),
                "Boxes span the quartiles of the evaluated episodes, with median (line) and mean (diamond). "
                "Grey: published mean ± standard deviation, where the scale of the penalties is unknown (the "
                "paper's Figure 5).",
            )
        )
    parts.append(_section("The solver", _solver_table(records, policies), ""))
    parts.append(_settings(records))
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_t(experiment.TITLE)}</title><style>{_CSS}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def _solver_table(records: list[Record], policies: list[PolicyResult]) -> str:
    """What the solver did in training, run by run, and in deployment."""
    columns = (
        "training, seed", "solves", "failed", "certified", "repaired", "fallback", "unsafe",
        "solver s", "ms per step", "gap",
    )  # fmt: skip
    rows = []
    for record in records:
        lines, last = record.iterations, record.iterations[-1]
        seconds = sum(line.get("solver/seconds", 0.0) for line in lines)
        gaps = [line["solver/gap"] for line in lines if "solver/gap" in line]
        rows.append(
            (
                str(record.settings.get("seed")),
                *(
                    f"{sum(line.get(k, 0.0) for line in lines):,.0f}"
                    for k in ("solver/solves", "solver/failures")
                ),
                *(
                    f"{last.get(f'shield/{k}', 0.0):,.0f}"
                    for k in ("certified", "repaired", "fallback", "unsafe")
                ),
                f"{seconds:.1f}",
                f"{1e3 * seconds / last['samples']:.2f}",
                f"{np.mean(gaps):.2e}" if gaps else "–",
            )
        )
    parts = [_table(columns, rows)]
    solved = [row for row in policies if row.solver]
    if solved:
        names = ("deployment", *(row.name for row in solved))
        cells = [
            (key.replace("_", " "), *(_number(row.solver.get(key, np.nan)) for row in solved))
            for key in solved[0].solver
        ]
        parts.append(_table(names, cells))
    parts.append(
        '<p class="muted">A solve has failed unless its point was verified as optimal; its sample is left '
        "out then. An executed action is certified if it satisfied its rows as proposed, repaired if it was "
        "projected on them, a fallback if that failed too, and unsafe if training was told not to interfere. "
        "A gap needs a solver that bounds the global optimum.</p>"
    )
    return "".join(parts)


def _settings(records: list[Record]) -> str:
    shown = {**{k: str(v) for k, v in records[0].settings.items()}, **records[0].parameters}
    if len(records) > 1:
        shown["seed"] = ", ".join(str(record.settings.get("seed")) for record in records)
        shown.pop("name", None)
    rows = "".join(f"<tr><td>{_t(k)}</td><td><code>{_t(v)}</code></td></tr>" for k, v in shown.items())
    table = f'<table class="settings"><tbody>{rows}</tbody></table>'
    note = '<p class="muted">Parameters where they differ from RLlib\'s defaults.</p>'
    summary = "<summary>Configuration</summary>"
    return f'<section><details>{summary}{note}<div class="scroll">{table}</div></details></section>'


def _table(
    columns: Iterable[str], rows: Iterable[Iterable[str]], published: Iterable[Iterable[str]] = ()
) -> str:
    def line(cells: Iterable[str], kind: str = "") -> str:
        return f"<tr{kind}>" + "".join(f"<td>{_t(cell)}</td>" for cell in cells) + "</tr>"

    head = "".join(f"<th>{_t(column)}</th>" for column in columns)
    body = "".join(line(row) for row in rows) + "".join(line(row, ' class="published"') for row in published)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _section(title: str, body: str, note: str) -> str:
    return (
        f"<section><h2>{_t(title)}</h2>{body}"
        + (f'<p class="muted">{_t(note)}</p>' if note else "")
        + "</section>"
    )


def _number(value: float) -> str:
    if (value == int(value) and abs(value) >= 1) or value == 0:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 0.01 else f"{value:.1e}"


def _t(value: object) -> str:
    return html.escape(str(value))

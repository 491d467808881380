"""The report of one run, or of several seeds of one experiment: a single HTML file that loads nothing."""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from envs.errors import InvalidSetting
from tune_configs import figures
from tune_configs.evaluation import Columns, PolicyResult
from tune_configs.experiment import Experiment, find
from tune_configs.metrics import OUTCOMES, number
from tune_configs.runs import Record, read

FINAL = 20
"""Records at the end of training that are averaged: episodes, or iterations of several episodes each."""

_ABOUT_ACTIONS = (
    "A solve is not optimal unless its point was verified as such; its sample is left out then. An executed action is "
    "certified if it satisfied its rows as proposed, repaired if it was projected on them, a fallback if that failed "
    "too, and unsafe if training was told not to interfere. A gap needs a solver that bounds the global optimum."
)
_ABOUT_PLANS = (
    "A solve is not optimal if its limit of time came before the gap was closed: its best plan is feasible all the "
    "same. Where it had none, the plan before stood. Every plan was checked by code that did not build the master."
)
_ABOUT_TABLES = (
    "A solve is an optimistic plan over the ball of kernels around the counts. It is not optimal if no kernel in the "
    "ball and no policy kept the budgets; the radius was doubled then."
)

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
    times = [row.ms_per_action for row in same if row.ms_per_action is not None]
    return PolicyResult.of(
        first.name,
        [r for row in same for r in row.rewards],
        [p for row in same for p in row.penalties],
        sum(row.violations or 0 for row in same),
        sum(row.steps for row in same),
        ms_per_action=float(np.median(times)) if times else None,
        solver={key: float(value) for key, value in solver.items()},
        more={name: [v for row in same for v in row.more.get(name, [])] for name in first.more},
    )


def _page(experiment: Experiment, records: list[Record]) -> str:
    runs = [record.episodes for record in records]
    policies = pooled(records)
    published = experiment.PUBLISHED
    seeds = ", ".join(str(record.settings.get("seed")) for record in records)
    final = [e.reward for run in runs for e in run[-FINAL:]]
    last = [record.iterations[-1] for record in records]
    samples = sorted({int(line["samples"]) for line in last})
    checked, infeasible = (
        int(sum(line.get(f"plans/{k}", 0) for line in last)) for k in ("checked", "infeasible")
    )
    evaluated = next((record.evaluation for record in records if record.evaluation), None)
    columns = evaluated.columns if evaluated else Columns()
    point = figures.record_name(runs)
    cards = [
        (
            f"{number(float(np.mean(final)))} ± {number(float(np.std(final)))}",
            f"training reward, last {FINAL} {point}s",
        ),
        *(
            (columns.spread(p.reward), f"{p.name}, deployed: {columns.reward}")
            for p in policies
            if p.rewards and p.solver
        ),
        *(
            (f"{p.violations:,} of {p.steps:,}", f"{columns.violations} of {p.name}")
            for p in policies
            if p.violations is not None and p.solver
        ),
        *([(f"{infeasible:,} of {checked:,}", "infeasible plans in training")] if checked else []),
        (" – ".join(f"{s:,}" for s in dict.fromkeys((samples[0], samples[-1]))), "environment samples"),
    ]
    what = f"{len(records)} runs (seeds {seeds})" if len(records) > 1 else f"seed {seeds}"
    parts = [
        f"<h1>{_t(experiment.TITLE)}</h1>",
        f'<p class="muted">preset {_t(records[0].settings.get("preset"))} · {_t(what)} · '
        f"{sum(e.count for e in runs[0]):,} training episodes</p>",
        '<div class="cards">'
        + "".join(f'<div class="card"><b>{_t(a)}</b><span>{_t(b)}</span></div>' for a, b in cards)
        + "</div>",
    ]
    if evaluated:
        rows = [columns.cells(row, policies) for row in policies]
        theirs = [columns.cells(row, policies) for row in published.deployment]
        parts.append(
            _section(
                "Deployment",
                _table(columns.head(policies), rows, theirs),
                f"{evaluated.episodes} fresh episodes each, seed {evaluated.seed}, {evaluated.setting}; mean "
                f"± standard deviation over episodes. {columns.note}"
                + (f" Grey rows: {published.source}" if theirs else ""),
            )
        )
    if records[0].varied:
        parts.append(
            _section("Trials", _trials(records), f"Reward of the last {FINAL} {point}s of training.")
        )
    parts.append(
        _section(
            "Learning curve",
            figures.learning_curve(runs, published.lines),
            f"Reward of every training {point}, exploration included."
            + (" The band is a 95 % bootstrap interval of the mean over runs." if len(runs) > 1 else ""),
        )
    )
    parts += [_section(*section) for section in experiment.sections(records)]
    if evaluated:
        theirs_drawn = published.deployment if published.comparable else ()
        parts.append(
            _section(
                "Episodes in deployment",
                figures.deployment(policies, theirs_drawn, columns),
                "Boxes span the quartiles of the evaluated episodes, with median (line) and mean (diamond)."
                + (" Grey: published means, with standard deviations where known." if theirs_drawn else ""),
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
    # What the algorithm counts since the start: executed actions, or plans.
    counted = [
        name
        for kind, names in (
            ("shield", OUTCOMES),
            ("master", ("stood",)),
            ("plans", ("checked", "infeasible")),
        )
        for name in (f"{kind}/{name}" for name in names)
        if any(name in record.iterations[-1] for record in records)
    ]
    titles = (name.partition("/")[2] for name in counted)
    columns = ("training, seed", "solves", "not optimal", *titles, "solver s", "ms per step", "gap")
    rows = []
    for record in records:
        lines, last = record.iterations, record.iterations[-1]
        seconds = sum(line.get("solver/seconds", 0.0) for line in lines)
        gaps = [line[k] for line in lines for k in ("solver/gap", "master/gap") if k in line]
        rows.append(
            (
                str(record.settings.get("seed")),
                *(
                    f"{sum(line.get(k, 0.0) for line in lines):,.0f}"
                    for k in ("solver/solves", "solver/failures")
                ),
                *(f"{last.get(name, 0.0):,.0f}" for name in counted),
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
    about = (
        _ABOUT_TABLES
        if any("crl/infeasible" in record.iterations[-1] for record in records)
        else _ABOUT_ACTIONS
        if any(name.startswith("shield") for name in counted)
        else _ABOUT_PLANS
    )
    parts.append(f'<p class="muted">{about}</p>')
    return "".join(parts)


def _trials(records: list[Record]) -> str:
    """What a sweep chose for each trial, and what came of it."""
    names = list(records[0].varied)
    columns = ("trial", *(name.rpartition("/")[2] for name in names), "reward", "deployed")
    rows = [
        (
            f"{i}",
            *(record.varied.get(name, "–") for name in names),
            number(float(np.mean([e.reward for e in record.episodes[-FINAL:]]))),
            record.evaluation.columns.spread(record.evaluation.policies[0].reward)
            if record.evaluation
            else "–",
        )
        for i, record in enumerate(records, start=1)
    ]
    return _table(columns, rows)


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

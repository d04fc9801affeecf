"""Write what a search has found: a page, the same as JSON, amounts to train with, and lines."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from common.files import atomic_write
from common.numbers import three_digits
from reporting.scored_folder import REPORT
from reporting.tables import write_json
from reporting.templating import render
from scale.comparison import Estimate
from scale.search_result import AMOUNTS_FILE, Finalist, ScoredTrial, SearchResult
from scale.study import SharedStudy

RESULT_FILE = "result.json"
MOST_POINTS = 1000  # rows of the page's table of points; RESULT_FILE has all
MOST_RUNS = 16  # columns of the same table
UNKNOWN = "\N{EN DASH}"


def write_search_report(shared: SharedStudy) -> list[str]:
    """Write what is known so far into the study's folder, and return it as lines."""
    result = SearchResult(shared)
    write_json(shared.folder / RESULT_FILE, summarize(result))
    if amounts := result.amounts():
        with atomic_write(shared.folder / AMOUNTS_FILE) as temporary:
            temporary.write_text(yaml.safe_dump(amounts))
    lines = describe(result)
    _write_page(shared.folder / REPORT, result, lines)
    return [*lines, f"next: open {shared.folder / REPORT} in a browser"]


def describe(result: SearchResult) -> list[str]:
    """The result in lines: the trials, the verdict, and what to do with it."""
    lines = [
        f"{len(result.trials)} trials trained to the end, {result.ended_early} ended early, "
        f"{len(result.failed)} failed",
        result.verdict(),
    ]
    command = result.command()
    return [*lines, *([f"to train with these settings: {command}"] if command else [])]


def summarize(result: SearchResult) -> dict[str, Any]:
    """The content of RESULT_FILE."""
    return {
        "objective": result.objective.metric.removeprefix("valid_"),
        "verdict": result.verdict(),
        "recommended": result.recommended.number if result.recommended else None,
        "command": result.command(),
        "trials": [
            {
                "trial": trial.number,
                "is_default": trial.is_default,
                "values": trial.values,
                "recall": asdict(trial.recall),
                "is_tied_with_the_best": trial.number in result.tied,
            }
            for trial in result.trials
        ],
        "ended_early": result.ended_early,
        "failed": result.failed,
        "finals": [
            {
                "trial": None if finalist.is_default else finalist.number,
                "values": finalist.values,
                "recalls": finalist.recalls,
                "recall": asdict(finalist.recall),
                "comparison": finalist.comparison and asdict(finalist.comparison),
            }
            for finalist in result.finalists
        ],
        "importances": result.importances(),
        "cover": [
            {"trial": trial.number, "new": new, "together": together}
            for trial, new, together in result.cover()
        ],
        "points": result.points(),
    }


def _write_page(path: Path, result: SearchResult, lines: list[str]) -> None:
    points = result.points()
    tables = [
        _finals(result),
        _trials(result),
        _table("Failed", ("training", "why"), result.failed.items()),
        _table(
            "How much of the differences each parameter explains",
            ("parameter", "share"),
            ((name, three_digits(share)) for name, share in result.importances().items()),
        ),
        _table(
            "Trials that together find most points of the sample",
            ("trial", "points that the ones above do not find", "together"),
            ((trial.number, new, total) for trial, new, total in result.cover()),
        ),
        _points(result, points),
    ]
    spec = result.spec
    page = render(
        "sections.html",
        title="Search of settings",
        lines=[*lines, *_notes(result, points)],
        tables=[table for table in tables if table["rows"]],
        chart=None,
        chart_title="",
        figures=[],
        settings={
            "objective": result.objective.describe(),
            "strips to train on": spec.training_dataset_path,
            "strips with known points": spec.test_path,
            "points": spec.points or "masks and names",
            "strips of false alarms": ", ".join(map(str, spec.fp_path)) or "none",
            "trials": spec.trials,
            "sample": spec.sample,
            **{f"--{name}": value for name, value in spec.space.fixed_flags.items()},
            **spec.space.fixed_amounts,
        },
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _notes(result: SearchResult, points: list[dict[str, Any]]) -> list[str]:
    """What a reader must know of the tables."""
    notes = ["Intervals are at 95 %, from a bootstrap over strips."]
    if len(result.tied) > 1:
        notes.append(
            f"{len(result.tied)} of the {len(result.trials)} trials may be as good as the best: "
            "the sample cannot tell them apart, and their order is noise."
        )
    if points:
        runs = len(result.point_runs())
        found = [point["found"] for point in points]
        notes.append(
            f"Of {len(points)} known points, {found.count(runs)} are found by all {runs} trainings "
            f"of the last table, and {found.count(0)} by none."
        )
    return notes


def _finals(result: SearchResult) -> dict[str, Any]:
    rows, names = [], _names_of(result.finalists)
    for finalist in result.finalists:
        comparison = finalist.comparison
        rows.append(
            (
                "default" if finalist.is_default else f"trial {finalist.number}",
                _shown(finalist.recall),
                ", ".join(map(three_digits, finalist.recalls)),
                _difference(comparison.difference) if comparison else UNKNOWN,
                f"{comparison.better} / {comparison.worse}" if comparison else UNKNOWN,
                *(_value(finalist.values.get(name, UNKNOWN)) for name in names),
            )
        )
    columns = ("settings", "recall", "of each seed", "more than the default")
    columns += ("strips with more / fewer", *names)
    return _table("Finals, on all strips", columns, rows)


def _trials(result: SearchResult) -> dict[str, Any]:
    names = _names_of(result.trials)
    rows = [
        (
            f"{trial.number}{' (default)' if trial.is_default else ''}",
            _shown(trial.recall),
            "yes" if trial.number in result.tied else "no",
            *(_value(trial.values.get(name, UNKNOWN)) for name in names),
        )
        for trial in result.trials
    ]
    columns = ("trial", "recall", "may be as good as the best", *names)
    return _table("Trials, on the sample", columns, rows)


def _points(result: SearchResult, points: list[dict[str, Any]]) -> dict[str, Any]:
    """The points that fewest trainings find come first."""
    names = list(result.point_runs())[:MOST_RUNS]
    rows = [
        (
            point["file"],
            f"{point['y']:.1f}",
            f"{point['x']:.1f}",
            point["found"],
            *(UNKNOWN if (rank := point["ranks"][name]) is None else rank for name in names),
        )
        for point in sorted(points, key=lambda point: point["found"])[:MOST_POINTS]
    ]
    columns = ("strip", "y", "x", "trainings that find it", *(f"rank in {name}" for name in names))
    return _table("Known points", columns, rows)


def _table(title: str, columns: Sequence[str], rows: Any) -> dict[str, Any]:
    return {"title": title, "columns": columns, "rows": list(rows)}


def _shown(estimate: Estimate) -> str:
    ends = f"{three_digits(estimate.low)} to {three_digits(estimate.high)}"
    return f"{three_digits(estimate.value)} ({ends})"


def _difference(estimate: Estimate) -> str:
    return f"{estimate.value:+.3f} ({estimate.low:+.3f} to {estimate.high:+.3f})"


def _names_of(settings: Sequence[ScoredTrial | Finalist]) -> list[str]:
    """The names of what is searched, each once."""
    return list(dict.fromkeys(name for each in settings for name in each.values))


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)

"""The files of a review: tables, pictures of what it changes, and a page."""

import base64
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from classifier.crops import crop_name, preview
from classifier.detection_table import DetectedPlace
from classifier.review_result import Changed, Review, count_rows, recall_rows
from common.files import atomic_write
from data.folder import StripFile
from data.image_files import encode_image
from evaluation.metrics import FALSE_ALARM_RATES
from reporting.charts import froc_chart
from reporting.tables import write_json, write_table
from reporting.templating import render

COLUMNS = ("file", "y", "x", "margin", "status", "review", "confidence", "score")
COLUMNS += ("reported_before", "reported")
VERDICTS = ("file", "kind", "verdict_before", "verdict", "detections_before", "detections")
COUNTS = ("", "detections", "hits", "false alarms", "NG strips", "OK strips")
SHOWN = 24  # pictures of each group on the page and in its folder
NOTE = "Target, Ref1, Ref2 and heatmap side by side, those whose rank changes most first"
GROUPS = (  # field of Review, its folder, its title on the page
    ("taken", "taken_away", "Taken away"),
    ("lost", "lost", "Lost: defects that are no longer reported"),
    ("won", "won", "Reported in addition"),
)
# a strip and some of its detections to their crops (4, size, size)
CutPlaces = Callable[[StripFile, list[DetectedPlace]], list[np.ndarray]]


def write_review(
    folder: Path,
    result: Review,
    kinds: Sequence[str],
    cut_places: CutPlaces,
    settings: dict[str, object],
) -> None:
    """Write `detections.csv`, `verdicts.csv`, `metrics.json`, pictures and `report.html`.

    Raises `UserError` when a file cannot be written.
    """
    write_table(folder / "detections.csv", COLUMNS, _detection_rows(result, kinds))
    write_table(folder / "verdicts.csv", VERDICTS, _verdict_rows(result))
    write_json(folder / "metrics.json", summarize(result))
    figures = []
    for name, place, title in GROUPS:
        changes = getattr(result, name)
        shown = _write_pictures(folder / place, result, changes[:SHOWN], cut_places)
        figures.append({"title": title, "count": len(changes), "note": NOTE, "figures": shown})
    _write_page(folder / "report.html", result, figures, settings)


def describe(result: Review) -> list[str]:
    """Lines about the weights and why, the limit, and what was taken away and lost."""
    lines = [
        f"{name}: weight {choice.weight:g}, {choice.reason}"
        for name, choice in result.choices.items()
    ]
    lines.append(f"new scores and verdicts: {result.used}, {result.limits.text}")
    lines.append(
        f"taken away: {len(result.taken)} detections; lost: {len(result.lost)} hits; "
        f"reported in addition: {len(result.won)}"
    )
    return lines


def summarize(result: Review) -> dict[str, object]:
    """The content of `metrics.json`."""
    limits = result.limits
    return {
        "score_by": result.used,
        "weight": result.weight,
        "choices": {
            name: {
                "weight": choice.weight,
                "reason": choice.reason,
                "tried": [
                    dict(zip(("weight", "recall", "gain", "lower_bound"), row))
                    for row in choice.rows
                ],
            }
            for name, choice in result.choices.items()
        },
        "target_false_alarms": limits.target,
        "limit_before": _finite(limits.before),
        "limit": _finite(limits.after),
        "recall": {name: metrics.compute() for name, metrics in result.froc.items()},
        "counts": {row[0]: dict(zip(COUNTS[1:], row[1:])) for row in count_rows(result)},
        "taken_away": len(result.taken),
        "lost": len(result.lost),
        "won": len(result.won),
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _detection_rows(result: Review, kinds: Sequence[str]) -> Iterator[tuple[object, ...]]:
    """Every detection, those of a strip by descending new score."""
    for number, one in enumerate(result.strips):
        scores = result.scores[number]
        for place in np.argsort(-scores, kind="stable").tolist():
            detection, probabilities = one.places[place], one.probabilities[place]
            yield (
                one.strip.relative.as_posix(),
                detection.y,
                detection.x,
                detection.score,
                result.statuses[number][place],
                kinds[int(probabilities.argmax())],
                f"{probabilities.max():.4f}",
                float(scores[place]),
                int(result.before[number][place]),
                int(result.after[number][place]),
            )


def _verdict_rows(result: Review) -> Iterator[tuple[object, ...]]:
    for one, before, after in zip(result.strips, result.before, result.after):
        verdicts = ("NG" if which.any() else "OK" for which in (before, after))
        counts = int(before.sum()), int(after.sum())
        yield (one.strip.relative.as_posix(), one.strip.kind or "", *verdicts, *counts)


def _write_pictures(
    folder: Path, result: Review, changes: list[Changed], cut_places: CutPlaces
) -> list[dict[str, str]]:
    """Write a PNG for each change; returns what the page shows of them."""
    figures: dict[int, dict[str, str]] = {}
    by_strip: dict[int, list[int]] = {}
    for rank, changed in enumerate(changes):
        by_strip.setdefault(changed.number, []).append(rank)
    for number, ranks in by_strip.items():
        one = result.strips[number]
        crops = cut_places(one.strip, [one.places[changes[rank].place] for rank in ranks])
        for rank, crop in zip(ranks, crops):
            figures[rank] = _write_picture(folder, result, changes[rank], rank, crop)
    return [figures[rank] for rank in sorted(figures)]


def _write_picture(
    folder: Path, result: Review, changed: Changed, rank: int, crop: np.ndarray
) -> dict[str, str]:
    one = result.strips[changed.number]
    place = one.places[changed.place]
    path = folder / f"{crop_name(rank, one.strip, place.y, place.x)}.png"
    folder.mkdir(exist_ok=True)
    png = encode_image(path, preview(crop))
    path.write_bytes(png)
    score = result.scores[changed.number][changed.place]
    caption = (
        f"{one.strip.relative.as_posix()} at y {place.y}, x {place.x}: "
        f"{changed.status or 'truth not known'}, margin {place.score:.2f}, new score {score:.2f}"
    )
    return {"caption": caption, "png": base64.b64encode(png).decode()}


def _write_page(
    path: Path, result: Review, figures: list[dict[str, object]], settings: dict[str, object]
) -> None:
    recalls = recall_rows(result.froc)
    tables = [{"title": "Before and after", "columns": COUNTS, "rows": count_rows(result)}]
    if recalls:
        columns = ("recall at false alarms per strip", *(f"{r:g}" for r in FALSE_ALARM_RATES))
        tables.append({"title": "Recall, with 95 %", "columns": columns, "rows": recalls})
    curves = {name: metrics.curve() for name, metrics in result.froc.items() if metrics.truths}
    page = render(
        "sections.html",
        title="Review of detections",
        lines=describe(result),
        tables=tables,
        chart=froc_chart(curves, FALSE_ALARM_RATES) if curves else None,
        chart_title="Recall against false alarms, before and after",
        figures=figures,
        settings=settings,
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")

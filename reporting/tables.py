"""The tables and JSON files of a scored folder: verdicts, detections and metrics."""

import csv
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from common.files import atomic_write
from evaluation.metrics import FALSE_ALARM_RATES, Recall
from evaluation.ranks import RankRecall
from evaluation.results import Evaluation, Figures, StripResult
from evaluation.thresholds import Threshold
from ops.inspected_contrast import FOUND
from ops.likelihood import POINT_SIGMA

SCORES = ("file", "kind", "score", "verdict", "detections", "inspected_contrast", "reason")
# `score` is the name of `margin` in version 1.0, for one more version: elsewhere a score is the
# maximum of a strip's heatmap.
DETECTIONS = (
    "file",
    "y",
    "x",
    "score",
    "peak",
    "area",
    "top",
    "left",
    "bottom",
    "right",
    "contrast_ref1",
    "contrast_ref2",
    "status",
    "margin",
)
# A candidate has no extent: where it is above the threshold, `detections.csv` has it.
CANDIDATES = ("file", "rank", "y", "x", "margin", "peak", "contrast_ref1", "contrast_ref2")
CANDIDATES += ("above_threshold", "status")
CANDIDATES_FILE = "candidates.csv"
CHANNELS_FILE = "channels.csv"
# everything that `write_results` may write
RESULT_FILES = (
    *("scores.csv", "detections.csv", CANDIDATES_FILE, CHANNELS_FILE),
    *("detections.json", "metrics.json"),
)
# characters with which a spreadsheet takes a text for a formula, which may start programs
FORMULA = ("=", "+", "-", "@", "\t", "\r")
NEEDS_TRUTHS = "needs defective strips with masks"
NEEDS_POINTS = f"{NEEDS_TRUTHS} or points"
MISSING = {"image": "needs good and defective strips", "pixel": NEEDS_TRUTHS, "point": NEEDS_POINTS}


def write_results(
    output_dir: Path, result: Evaluation, threshold: Threshold, drift: list[str]
) -> None:
    """Write the results of a scored folder into `output_dir`.

    The files are `scores.csv`, `detections.csv`, `detections.json`, `metrics.json` and, when the
    channels were measured, `channels.csv`. Raises `UserError` when a file cannot be written.
    """
    write_table(
        output_dir / "scores.csv",
        SCORES,
        (
            (
                scored.strip.relative.as_posix(),
                scored.strip.kind or "",
                f"{scored.score:.9g}",
                scored.verdict,
                len(scored.detections),
                "" if scored.inspected_contrast is None else f"{scored.inspected_contrast:.4g}",
                scored.reason,
            )
            for scored in result.results
        ),
    )
    write_table(
        output_dir / "detections.csv",
        (*DETECTIONS, *(["kind"] if result.tells_kinds else [])),
        (row.values() for scored in result.results for row in detection_rows(scored)),
    )
    if any(scored.statistics for scored in result.results):
        names = result.results[0].statistics.keys()
        rows = (
            (
                scored.strip.relative.as_posix(),
                *(f"{value:.6g}" for value in scored.statistics.values()),
            )
            for scored in result.results
        )
        write_table(output_dir / CHANNELS_FILE, ("file", *names), rows)
    if any(scored.candidates for scored in result.results):
        rows = (row for scored in result.results for row in candidate_rows(scored, threshold.value))
        write_table(output_dir / CANDIDATES_FILE, CANDIDATES, rows)
    write_detections(output_dir / "detections.json", result, threshold)
    write_json(output_dir / "metrics.json", summarize(result, threshold, drift))


def write_detections(path: Path, result: Evaluation, threshold: Threshold) -> None:
    """Write the threshold and, by strip, the verdict, the score and the detections as JSON.

    The file is written strip by strip, so that memory does not grow with the number of strips.
    Raises `UserError` when it cannot be written.
    """
    with _replaced(path) as file:
        file.write(f'{{"threshold": {json.dumps(vars(threshold))},\n"strips": {{')
        for number, scored in enumerate(result.results):
            detections = [
                {name: value for name, value in row.items() if name != "file"}
                for row in detection_rows(scored)
            ]
            content = {
                "verdict": scored.verdict,
                "reason": scored.reason,
                "score": scored.score,
                "inspected_contrast": scored.inspected_contrast,
                "detections": detections,
            }
            separator = "," if number else ""
            name = json.dumps(scored.strip.relative.as_posix())
            file.write(f"{separator}\n{name}: {json.dumps(content)}")
        file.write("\n}}\n")


def detection_rows(scored: StripResult) -> Iterator[dict[str, Any]]:
    """A strip's detections, strongest first, each as a dict with the keys of DETECTIONS.

    Where kinds are asked, `kind` is a last key.
    """
    for detection, status in zip(scored.detections, scored.statuses):
        measures = (detection.margin, detection.peak, detection.area, *detection.box)
        contrasts = (detection.contrast_ref1, detection.contrast_ref2)
        values = (
            scored.strip.relative.as_posix(),
            detection.y,
            detection.x,
            *measures,
            *contrasts,
            status,
            detection.margin,
        )
        kind = {"kind": detection.kind} if detection.kind else {}
        yield dict(zip(DETECTIONS, values)) | kind


def candidate_rows(scored: StripResult, threshold: float) -> Iterator[tuple[object, ...]]:
    """A strip's strongest detections, above the threshold and below: rows of CANDIDATES."""
    pairs = zip(scored.candidates, scored.candidate_statuses)
    for rank, (candidate, status) in enumerate(pairs, start=1):
        yield (
            scored.strip.relative.as_posix(),
            rank,
            candidate.y,
            candidate.x,
            candidate.margin,
            candidate.peak,
            candidate.contrast_ref1,
            candidate.contrast_ref2,
            int(candidate.peak > threshold),
            status,
        )


def summarize(result: Evaluation, threshold: Threshold, drift: list[str]) -> dict[str, Any]:
    """The content of `metrics.json`: the metrics, and everything that they were computed with."""
    verdicts = [scored.verdict for scored in result.results]
    kinds = result.kinds()
    return result.figures | {
        "strips": len(result.results),
        "verdicts": {verdict: verdicts.count(verdict) for verdict in ("OK", "NG")},
        "threshold": vars(threshold) | {"is_supported": threshold.is_supported},
        "at_threshold": result.at_threshold(),
        "inspected_contrast": result.inspected_contrast(),
        "point_recall": [row | {"recall": by_rate(row["recall"])} for row in result.point_recalls],
        "recall_at_k": [
            vars(entry) | {"recall": entry.recall} for entry in result.metrics.ranks.compute()
        ],
        "rivals": {name: result.figures_by_detector[name] for name in result.baselines},
        "drift": drift,
        "warnings": result.warnings,
        "problems": result.problems,
        **({"kinds": kinds} if kinds else {}),
    }


def by_rate(recalls: dict[float, Recall]) -> dict[str, Recall]:
    """Recalls with their rates as text, in the form of the names of metrics."""
    return {f"{rate:g}": recall for rate, recall in recalls.items()}


def describe_figures(figures: Figures) -> list[str]:
    """One line per metric; the line of an undefined metric says which strips it needs."""
    lines = []
    for name, value in figures.items():
        missing = f"not defined: {MISSING[name.split('_')[0]]}" if value is None else ""
        lines.append(f"{name.replace('_', ' '):26}{missing or f'{value:.4f}'}")
    return lines


def describe_ranks(recalls: list[RankRecall]) -> list[str]:
    """One line with the known points among the strongest detections of the folder, or none."""
    if not recalls:
        return []
    ranks = ", ".join(str(entry.k) for entry in recalls)
    found = ", ".join(str(entry.found) for entry in recalls)
    return [f"known points among the {ranks} strongest detections: {found} of {recalls[0].truths}"]


def describe_baselines(result: Evaluation) -> list[str]:
    """Lines with the recall of the predictor and its baselines at FALSE_ALARM_RATES.

    Empty without baselines, and when no strip has true points.
    """
    if not result.baselines or not result.metrics.points.truths:
        return []
    rates = ", ".join(f"{rate:g}" for rate in FALSE_ALARM_RATES)
    lines = [
        f"recall of {result.metrics.points.truths} true points at {rates} false alarms per strip:"
    ]
    width = max(map(len, result.metrics_by_detector)) + 2
    for name, metrics in result.figures_by_detector.items():
        values = [metrics[f"point_recall_at_{rate:g}"] for rate in FALSE_ALARM_RATES]
        lines.append(f"  {name:{width}}{'  '.join(f'{value:.3f}' for value in values)}")
    return lines


def describe_contrast(result: Evaluation) -> list[str]:
    """A line on the inspected contrasts of the strips; none where they are not known."""
    contrasts = result.inspected_contrast()
    if contrasts["worst"] is None:
        return []
    line = (
        f"inspected down to {contrasts['median']:.3g} grey levels (median), "
        f"{contrasts['worst']:.3g} on the worst strip: {100 * FOUND:g} % of points of "
        f"{POINT_SIGMA:g} px with that contrast are found"
    )
    blind = contrasts["blind"]
    return [f"{line}; NG for their contrast: {blind}" if blind else line]


def format_kinds(result: Evaluation) -> str:
    """The number of detections of each kind; empty where kinds are not asked."""
    counts = result.kinds().items()
    return ", ".join(f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in counts)


def write_table(path: Path, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV file. Raises `UserError` when it cannot be written.

    A text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    with _replaced(path) as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([_without_formula(cell) for cell in row] for row in rows)


def _without_formula(cell: object) -> object:
    if not isinstance(cell, str) or not cell.startswith(FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an indented JSON file. Raises `UserError` when it cannot be written."""
    with _replaced(path) as file:
        json.dump(content, file, indent=2)
        file.write("\n")


@contextmanager
def _replaced(path: Path) -> Iterator[TextIO]:
    """Open a text file that replaces `path` once it is complete.

    A file name that is not valid UTF-8 is written with its original bytes.
    """
    with (
        atomic_write(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        yield file

"""The tables and JSON files of a scored folder: verdicts, detections and metrics."""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from common.files import atomic_write
from evaluation.detections import Detection
from evaluation.metrics import Recall
from evaluation.results import Evaluation, StripResult
from evaluation.thresholds import Threshold

SCORES = ("file", "kind", "score", "verdict", "detections", "inspected_contrast", "reason")
PICTURE_SCORES = ("file", "group", "kind", "score", "verdict", "detections", "reason")
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
REFERENCE_CONTRASTS = ("contrast_ref1", "contrast_ref2")  # `contrast` for pictures without them
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
    channels were measured, `channels.csv`. Of pictures without references, scores have a column
    `group`, and contrasts are one column `contrast`: that to the surroundings. Raises `UserError`
    when a file cannot be written.
    """
    has_references = result.has_references
    columns = SCORES if has_references else PICTURE_SCORES
    rows = (score_row(scored) for scored in result.results)
    write_table(
        output_dir / "scores.csv", columns, ([row[name] for name in columns] for row in rows)
    )
    write_table(
        output_dir / "detections.csv",
        (*_columns(DETECTIONS, has_references), *(["kind"] if result.tells_kinds else [])),
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
        columns = _columns(CANDIDATES, has_references)
        write_table(output_dir / CANDIDATES_FILE, columns, rows)
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


def score_row(scored: StripResult) -> dict[str, object]:
    """A strip's line in `scores.csv`, with the keys of SCORES and PICTURE_SCORES."""
    contrast = scored.inspected_contrast
    return {
        "file": scored.strip.relative.as_posix(),
        "group": scored.strip.group,
        "kind": scored.strip.kind or "",
        "score": f"{scored.score:.9g}",
        "verdict": scored.verdict,
        "detections": len(scored.detections),
        "inspected_contrast": "" if contrast is None else f"{contrast:.4g}",
        "reason": scored.reason,
    }


def _columns(names: Sequence[str], has_references: bool) -> tuple[str, ...]:
    """The columns of a table; without references one `contrast` replaces the two to them."""
    if has_references:
        return tuple(names)
    place = names.index(REFERENCE_CONTRASTS[0])
    return (*names[:place], "contrast", *names[place + 2 :])


def contrasts_of(scored: StripResult, detection: Detection) -> tuple[float, ...]:
    """The values of the columns of contrasts."""
    if scored.strip.has_references:
        return detection.contrast_ref1, detection.contrast_ref2
    return (detection.contrast,)


def detection_rows(scored: StripResult) -> Iterator[dict[str, Any]]:
    """A strip's detections, strongest first, each as a dict with the keys of `detections.csv`.

    Where kinds are asked, `kind` is a last key.
    """
    columns = _columns(DETECTIONS, scored.strip.has_references)
    for detection, status in zip(scored.detections, scored.statuses):
        measures = (detection.margin, detection.peak, detection.area, *detection.box)
        contrasts = contrasts_of(scored, detection)
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
        yield dict(zip(columns, values)) | kind


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
            *contrasts_of(scored, candidate),
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
        **(_summarize_groups(result) if result.groups else {}),
    }


def _summarize_groups(result: Evaluation) -> dict[str, Any]:
    """The metrics of each group of pictures, its numbers of pictures, and the metrics' means."""
    counts = {name: Counter() for name in result.figures_by_group}
    for scored in result.results:
        counts[scored.strip.group].update([scored.verdict, scored.outcome])
    return {
        "groups": {
            name: figures
            | {
                "pictures": counts[name]["OK"] + counts[name]["NG"],
                "verdicts": {verdict: counts[name][verdict] for verdict in ("OK", "NG")},
                "overkill": counts[name]["overkill"],
                "escaped": counts[name]["escaped"],
            }
            for name, figures in result.figures_by_group.items()
        },
        "mean_over_groups": result.mean_over_groups,
    }


def by_rate(recalls: dict[float, Recall]) -> dict[str, Recall]:
    """Recalls with their rates as text, in the form of the names of metrics."""
    return {f"{rate:g}": recall for rate, recall in recalls.items()}


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

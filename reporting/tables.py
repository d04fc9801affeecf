"""What scoring a folder leaves for a line, for people and for programs: a verdict a strip, every
detection, and the figures.
"""

import csv
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from common.files import atomic_write
from evaluation.metrics import FALSE_ALARM_RATES, Recall
from evaluation.results import Evaluation, Figures, StripResult
from evaluation.thresholds import Threshold

SCORES = ("file", "kind", "score", "verdict", "detections")
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
)
CHANNELS_FILE = "channels.csv"
NEEDS_TRUTHS = "needs defective strips with masks"
MISSING = {"image": "needs good and defective strips", "pixel": NEEDS_TRUTHS, "point": NEEDS_TRUTHS}


def write_results(
    output_dir: Path, result: Evaluation, threshold: Threshold, drift: list[str]
) -> None:
    """`scores.csv`, `detections.csv`, `detections.json`, `metrics.json` and, where channels were
    measured, `channels.csv`.

    Raises `UserError` where the file system refuses.
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
            )
            for scored in result.results
        ),
    )
    write_table(
        output_dir / "detections.csv",
        DETECTIONS,
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
    write_detections(output_dir / "detections.json", result, threshold)
    write_json(output_dir / "metrics.json", summarize(result, threshold, drift))


def write_detections(path: Path, result: Evaluation, threshold: Threshold) -> None:
    """The threshold, and by strip the verdict, the score and the detections; strip by strip, so
    that it takes no memory.
    """
    with _replaced(path) as file:
        file.write(f'{{"threshold": {json.dumps(vars(threshold))},\n"strips": {{')
        for number, scored in enumerate(result.results):
            detections = [
                {name: value for name, value in row.items() if name != "file"}
                for row in detection_rows(scored)
            ]
            content = {"verdict": scored.verdict, "score": scored.score, "detections": detections}
            file.write(
                f"{',' if number else ''}\n{json.dumps(scored.strip.relative.as_posix())}: {json.dumps(content)}"
            )
        file.write("\n}}\n")


def detection_rows(scored: StripResult) -> Iterator[dict[str, Any]]:
    """A strip's detections by the names in DETECTIONS, strongest first."""
    for detection, status in zip(scored.detections, scored.statuses):
        measures = (detection.score, detection.peak, detection.area, *detection.box)
        contrasts = (detection.contrast_ref1, detection.contrast_ref2)
        values = (
            scored.strip.relative.as_posix(),
            detection.y,
            detection.x,
            *measures,
            *contrasts,
            status,
        )
        yield dict(zip(DETECTIONS, values))


def summarize(result: Evaluation, threshold: Threshold, drift: list[str]) -> dict[str, Any]:
    """The figures, and all that they rest on."""
    verdicts = [scored.verdict for scored in result.results]
    return result.figures | {
        "strips": len(result.results),
        "verdicts": {verdict: verdicts.count(verdict) for verdict in ("OK", "NG")},
        "threshold": vars(threshold) | {"is_supported": threshold.is_supported},
        "at_threshold": result.at_threshold(),
        "point_recall": [row | {"recall": by_rate(row["recall"])} for row in result.point_recalls],
        "rivals": {name: result.figures_by_detector[name] for name in result.baselines},
        "drift": drift,
        "problems": result.problems,
    }


def by_rate(recalls: dict[float, Recall]) -> dict[str, Recall]:
    """Under the names that the rates have elsewhere."""
    return {f"{rate:g}": recall for rate, recall in recalls.items()}


def describe_figures(figures: Figures) -> list[str]:
    """One line a figure; one that needs what was not there says so."""
    return [
        f"{name.replace('_', ' '):26}{f'{value:.4f}' if value is not None else 'not defined: ' + MISSING[name.split('_')[0]]}"
        for name, value in figures.items()
    ]


def describe_baselines(result: Evaluation) -> list[str]:
    """Recall at the rates of false alarms, of the predictor and of its baselines; nothing where no
    truth is known.
    """
    if not result.baselines or not result.board.points.truths:
        return []
    rates = ", ".join(f"{rate:g}" for rate in FALSE_ALARM_RATES)
    lines = [
        f"recall of {result.board.points.truths} true points at {rates} false alarms per strip:"
    ]
    width = max(map(len, result.boards)) + 2
    for name, figures in result.figures_by_detector.items():
        values = [figures[f"point_recall_at_{rate:g}"] for rate in FALSE_ALARM_RATES]
        lines.append(f"  {name:{width}}{'  '.join(f'{value:.3f}' for value in values)}")
    return lines


def write_table(path: Path, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    with _replaced(path) as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def write_json(path: Path, content: dict[str, Any]) -> None:
    with _replaced(path) as file:
        json.dump(content, file, indent=2)
        file.write("\n")


@contextmanager
def _replaced(path: Path) -> Iterator[TextIO]:
    """A text file that takes the place of `path` when it is whole; file names that are no text come
    out as they went in.
    """
    with (
        atomic_write(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        yield file

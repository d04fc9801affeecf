"""The HTML report of a classified folder, one self-contained file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from classifier.prediction_figures import bins_of
from classifier.predictions import SURE, ImagePrediction
from common.files import atomic_write
from common.numbers import three_digits
from reporting.case_figures import shown_file
from reporting.charts import reliability_chart
from reporting.templating import render

UNKNOWN_VALUE = "\N{EN DASH}"
MOST_ROWS = 2000  # images in the table: more of them make the page slow
MOST_SHOWN = 8  # pictures below each title
TILES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "image_auroc": "AUROC, good against defective",
    "iou": "IoU of defective images",
    "dice": "Dice of defective images",
    "good_masked": "good images with any mask",
}


def choose_shown(predictions: list[ImagePrediction]) -> dict[str, list[ImagePrediction]]:
    """The images whose pictures the report has, by title: mistakes, doubts, and all others."""
    mistakes = [one for one in predictions if one.is_right is False]
    mistakes.sort(key=lambda one: -one.confidence)
    doubts = [one for one in predictions if one.status != SURE and one.is_right is not False]
    doubts.sort(key=lambda one: one.confidence)
    others: list[ImagePrediction] = []
    settled = [one for one in predictions if one.status == SURE and one.is_right is not False]
    by_kind: dict[int, list[ImagePrediction]] = {}
    for one in settled:
        by_kind.setdefault(one.predicted, []).append(one)
    while len(others) < MOST_SHOWN and any(by_kind.values()):
        # one of each kind in turn, defects first
        for number in sorted(by_kind, reverse=True):
            others += [by_kind[number].pop(0)] if by_kind[number] else []
    is_labelled = any(one.is_right for one in predictions)
    titles = {
        "Mistakes, the most confident first": mistakes,
        "Unsure or unknown": doubts,
        "Right, of each kind" if is_labelled else "Of each kind": others,
    }
    return {title: shown[:MOST_SHOWN] for title, shown in titles.items() if shown}


def write_prediction_report(
    path: Path,
    predictions: list[ImagePrediction],
    kinds: Sequence[str],
    summary: dict[str, Any],
    figures: dict[Path, dict[str, object]],
    subject: dict[str, str],
    settings: dict[str, str],
    warnings: list[str],
) -> None:
    """Write the report. `summary` is the content of metrics.json.

    `figures` are the embedded pictures of the images of `choose_shown`, by their relative path.
    Panels that lie beside `path` are linked. Raises `UserError` when it cannot be written.
    """
    folder, bins = path.parent, bins_of(predictions)
    first = sorted(predictions, key=lambda one: (one.is_right is not False, one.status == SURE))
    page = render(
        "kinds.html",
        unit="image",
        unknown=UNKNOWN_VALUE,
        subject=subject,
        warnings=warnings,
        problems=summary["problems"],
        count=len(predictions),
        labelled=summary["labelled"],
        mistakes=sum(one.is_right is False for one in predictions),
        statuses=summary["statuses"],
        counts=summary["predicted"],
        tiles=[(name, summary[key]) for key, name in TILES.items() if summary[key] is not None],
        undefined=[name for key, name in TILES.items() if summary[key] is None],
        kinds=kinds,
        confusion=summary["confusion"],
        by_kind=summary["by_kind"],
        calibration=summary["calibration"],
        target_error=summary["target_error"],
        lowest_sure=summary["lowest_sure_confidence"],
        error_of_sure=summary["error_of_sure"],
        error_bound=summary["error_of_sure_bound"],
        reliability=reliability_chart(list(map(vars, bins)), "image") if bins else "",
        sections={
            title: [_case(one, kinds, figures[one.image.relative], folder) for one in shown]
            for title, shown in choose_shown(predictions).items()
        },
        rows=[_row(one, kinds, folder) for one in first[:MOST_ROWS]],
        settings=settings,
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _case(
    one: ImagePrediction, kinds: Sequence[str], figure: dict[str, object], folder: Path
) -> dict[str, object]:
    order = sorted(range(len(kinds)), key=lambda number: -one.probabilities[number])
    return figure | {
        "file": shown_file(one.image.relative, folder),
        "label": None if one.truth is None else kinds[one.truth],
        "status": one.status,
        "bars": [
            {
                "name": kinds[number],
                "share": float(one.probabilities[number]),
                "is_label": number == one.truth,
            }
            for number in order[:5]
        ],
    }


def _row(one: ImagePrediction, kinds: Sequence[str], folder: Path) -> dict[str, object]:
    outcome = {None: UNKNOWN_VALUE, True: "right", False: "mistake"}[one.is_right]
    numbers = (one.confidence, one.distance)
    return {
        "file": shown_file(one.image.relative, folder),
        "label": UNKNOWN_VALUE if one.truth is None else kinds[one.truth],
        "outcome": outcome,
        "status": one.status,
        "predicted": kinds[one.predicted],
        "numbers": [
            (value, UNKNOWN_VALUE if value is None else three_digits(value)) for value in numbers
        ],
        "pixels": UNKNOWN_VALUE if one.pixels is None else one.pixels,
        "iou": UNKNOWN_VALUE if one.iou is None else three_digits(one.iou),
    }

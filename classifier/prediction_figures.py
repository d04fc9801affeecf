"""The figures of a classified folder, and its table of predictions."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from classifier.calibration import (
    Calibration,
    ConfidenceBin,
    at_temperature,
    calibration_error,
    confidence_bins,
)
from classifier.metrics import (
    MaskMetrics,
    accuracy,
    balanced_accuracy,
    confusion_matrix,
    kind_figures,
)
from classifier.predictions import STATUSES, SURE, ImagePrediction, Limits
from data.folder import GOOD
from evaluation.metrics import image_figures
from evaluation.thresholds import bound_on_share

COLUMNS = ("file", "label", "predicted", "confidence", "status", "defect_probability")
COLUMNS += ("distance", "mask_pixels", "iou", "dice")


def bins_of(predictions: list[ImagePrediction]) -> list[ConfidenceBin]:
    """The confidences of labelled images beside the shares of them that are right."""
    known = [one for one in predictions if one.truth is not None]
    return confidence_bins(
        np.array([one.confidence for one in known]), np.array([one.is_right for one in known], bool)
    )


def summarize(
    predictions: list[ImagePrediction],
    kinds: Sequence[str],
    calibration: Calibration | None,
    limits: Limits,
    targets: dict[str, float | None],
    problems: list[str],
) -> dict[str, Any]:
    """The content of `metrics.json`; a figure is None where no image defines it.

    `targets` are `target_error` and `target_unknown`, as the flags have them.
    """
    known = [one for one in predictions if one.truth is not None]
    labels = np.array([one.truth for one in known], int)
    confusion = confusion_matrix(
        labels, np.array([one.predicted for one in known], int), len(kinds)
    )
    statuses = [one.status for one in predictions]
    sure = [one for one in known if one.status == SURE]
    errors = sum(not one.is_right for one in sure)
    masks = MaskMetrics(
        *(
            [value for one in predictions if (value := getattr(one, name)) is not None]
            for name in ("iou", "dice", "good_masked")
        )
    )
    temperature = calibration.temperature if calibration else 1.0
    return {
        "images": len(predictions),
        "labelled": len(known),
        "kinds": list(kinds),
        "accuracy": accuracy(confusion),
        "balanced_accuracy": balanced_accuracy(confusion),
        **_good_against_defective(known, kinds),
        **masks.figures(),
        "defective_with_mask": len(masks.ious),
        "by_kind": dict(zip(kinds, map(vars, kind_figures(confusion)))),
        "confusion": confusion.tolist(),
        "predicted": {
            kind: sum(one.predicted == number for one in predictions)
            for number, kind in enumerate(kinds)
        },
        "statuses": {status: statuses.count(status) for status in STATUSES},
        "calibration": {
            "temperature": calibration.temperature if calibration else None,
            "held_out_images": len(calibration.confidences) if calibration else 0,
            "expected_calibration_error": calibration_error(bins_of(predictions)),
            "expected_calibration_error_before": _error_before(known, temperature),
        },
        **targets,
        "lowest_sure_confidence": _finite(limits.lowest_sure),
        "highest_known_distance": _finite(limits.highest_known),
        "error_of_sure": errors / len(sure) if sure else None,
        "error_of_sure_bound": bound_on_share(errors, len(sure)) if sure else None,
        "problems": problems,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _good_against_defective(
    known: list[ImagePrediction], kinds: Sequence[str]
) -> dict[str, float | None]:
    if kinds[0] != GOOD:
        return image_figures([], [])
    return image_figures(
        [one.truth > 0 for one in known], [1 - float(one.probabilities[0]) for one in known]
    )


def _error_before(known: list[ImagePrediction], temperature: float) -> float | None:
    """The calibration error of the network's own confidences, without the temperature."""
    if not known:
        return None
    own = at_temperature(np.stack([one.probabilities for one in known]), 1 / temperature)
    is_right = np.array([one.is_right for one in known], bool)
    return calibration_error(confidence_bins(own.max(axis=1), is_right))


def prediction_rows(
    predictions: list[ImagePrediction], kinds: Sequence[str]
) -> Iterator[list[object]]:
    """The lines of `predictions.csv`: COLUMNS, and the probability of each kind."""
    for one in predictions:
        is_told = kinds[0] == GOOD
        yield [
            one.image.relative.as_posix(),
            one.image.kind,
            kinds[one.predicted],
            f"{one.confidence:.6g}",
            one.status,
            f"{1 - float(one.probabilities[0]):.6g}" if is_told else "",
            *("" if value is None else f"{value:.6g}" for value in (one.distance,)),
            "" if one.pixels is None else one.pixels,
            *("" if value is None else f"{value:.6g}" for value in (one.iou, one.dice)),
            *(f"{value:.6g}" for value in one.probabilities.tolist()),
        ]

"""Measurements on held-out strips that are kept with a model.

They are its threshold, the contrast that it needs, its baselines' sigmas, and the statistics of its
strips.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from common.errors import UserError
from common.pipeline import StageTimes
from common.progress import progress_bar
from data.folder import (
    StripFile,
    evenly_spaced,
    good_strips,
    sample_good_and_defective,
    unit_of,
)
from data.ignored_regions import IgnoredRegions
from data.image_files import load_image
from data.registered_copies import StripAligner
from evaluation.contrast_response import contrast_of, measure_response
from evaluation.detections import find_peaks
from evaluation.drift import alignment_statistics, channel_statistics, training_ranges
from evaluation.evaluate import evaluate
from evaluation.predictors import DetectorPredictor, LastAlignment, TorchPredictor
from evaluation.results import INSPECTED_CONTRAST, Measure, MetricSet
from evaluation.stream import BatchPredictor, Predictor, iter_predictions
from evaluation.thresholds import Calibration, calibrate, calibrate_scores
from ops.classical import METHODS, baseline_name, choose_sigma, classical_detector
from ops.inspected_contrast import ContrastResponse

MOST_STRIPS = 200  # strips whose channels are measured
RATES_TO_CHOOSE_BY = (0.1, 1.0)  # false alarms per strip, of the recalls that are added up
MOST_STRIPS_TO_CHOOSE_BY = 40  # strips to choose sigmas by: a dozen detectors score each


def calibrate_on(
    predictor: Predictor | BatchPredictor,
    good: list[StripFile],
    input_max: float,
    ignored: IgnoredRegions,
    load: Callable[[Any, float], tuple[np.ndarray, np.ndarray | None]] | None = None,
) -> Calibration:
    """Return the calibration from a predictor's strongest detections on good strips.

    Of a predictor with scores of its own (`ScoredHeatmap`), it is that of the scores, for a verdict
    by score. `load` reads a file, as in `evaluate`; None means strips, without painting. Raises
    `UserError` for a strip that cannot be used.
    """
    read = partial(load or _load_unpainted, input_max=input_max)
    predictions = iter_predictions(predictor, good, read, ignored, StageTimes())
    progress = progress_bar(predictions, "setting the threshold", len(good), unit=unit_of(good))
    heights, scores = [], []
    for prediction in progress:
        if isinstance(prediction, UserError):
            raise prediction
        if prediction.has_own_score:
            scores.append(prediction.score)
        else:
            heights.append(find_peaks(prediction.heatmap).heights)
    return calibrate_scores(scores) if scores else calibrate(heights)


def _load_unpainted(strip: StripFile, input_max: float) -> tuple[np.ndarray, None]:
    return load_image(strip.path, input_max, order=strip.order), None


def best_sigmas(
    strips: list[StripFile], input_max: float, device: torch.device
) -> dict[str, float]:
    """Return, for each classical method, the best Gaussian on validation strips, in pixels.

    The best one has the highest mean of the recalls at 0.1 and 1 false alarm per strip, then the
    highest pixel average precision. Without a true defect nothing can be chosen, and the result is
    empty.
    """
    sample = sample_good_and_defective(strips, MOST_STRIPS_TO_CHOOSE_BY)
    sigmas = {}
    for method, (_, candidates) in METHODS.items():
        last = LastAlignment()
        baselines = {
            sigma: DetectorPredictor(classical_detector(method, sigma), device, last)
            for sigma in candidates
        }
        if len(baselines) == 1 or not sample:
            continue
        first = next(iter(baselines.values()))
        evaluation = evaluate(
            first, sample, input_max, f"choosing a Gaussian for {method}", baselines=baselines
        )
        if evaluation.metrics.points.truths:
            sigmas[method] = _best(evaluation.baselines)
    return sigmas


def channel_measure(
    align: str, device: torch.device, response: ContrastResponse | None = None
) -> Measure:
    """Return the function that measures a strip's channels.

    It gives `channel_statistics` and, where references are aligned, `alignment_statistics`. With a
    `response` of the detector it gives INSPECTED_CONTRAST, too, of what counts.
    """
    if align == "none":
        return lambda image, ignored: channel_statistics(image)
    aligner = StripAligner(align, device)

    def measure_strip(image: np.ndarray, ignored: np.ndarray | None) -> dict[str, float]:
        aligned, measures = aligner(image)
        statistics = channel_statistics(image) | alignment_statistics(measures)
        if response:
            statistics[INSPECTED_CONTRAST] = contrast_of(aligned, response, device, ignored)
        return statistics

    return measure_strip


def channel_ranges(
    strips: list[StripFile], input_max: float, measure: Measure
) -> dict[str, list[float]]:
    """Return the range of each statistic, from at most MOST_STRIPS of the strips to train on."""
    progress = progress_bar(
        evenly_spaced(strips, MOST_STRIPS),
        desc="measuring the channels",
        unit="strip",
    )
    images = (load_image(strip.path, input_max, order=strip.order) for strip in progress)
    return training_ranges([measure(image, None) for image in images])


def make_baselines(sigmas: dict[str, float], device: torch.device) -> dict[str, Predictor]:
    """Return the classical methods by their names in tables.

    Each has its own Gaussian of `sigmas`, in pixels, or the default.
    """
    chosen = {method: choose_sigma(method, sigmas) for method in METHODS}
    return {
        baseline_name(method, sigma): DetectorPredictor(classical_detector(method, sigma), device)
        for method, sigma in chosen.items()
    }


def measure(
    predictor: TorchPredictor,
    train: list[StripFile],
    valid: list[StripFile],
    input_max: float,
    device: torch.device,
) -> dict[str, Any]:
    """Return all measurements that a checkpoint keeps.

    The calibration and the response are None where no good strip was held out.
    """
    good = good_strips(valid)
    return {
        "calibration": calibrate_on(predictor, good, input_max, IgnoredRegions()) if good else None,
        "channel_ranges": channel_ranges(
            train, input_max, channel_measure(predictor.align, device)
        ),
        "rival_sigmas": best_sigmas(valid, input_max, device),
        "contrast_response": measure_response(predictor, good, input_max, IgnoredRegions(), device),
    }


def _best(baselines: dict[float, MetricSet]) -> float:
    """The name of the best of the metrics; of equal ones the first."""
    recalls = {
        sigma: sum(each.points.recall(rate) for rate in RATES_TO_CHOOSE_BY)
        for sigma, each in baselines.items()
    }
    best = [sigma for sigma, recall in recalls.items() if recall == max(recalls.values())]
    if len(best) == 1:  # pixel metrics take most of the time
        return best[0]
    pixels = {sigma: baselines[sigma].pixels.compute() for sigma in best}
    # undefined with points alone
    return max(best, key=lambda sigma: pixels[sigma]["pixel_average_precision"] or 0.0)

"""What is measured on held-out strips and kept with a model: its threshold, its baselines, and what
its strips were like.
"""

from typing import Any

import torch
from tqdm import tqdm

from common.errors import UserError
from common.pipeline import StageTimes
from data.folder import GOOD, StripFile
from data.ignored_regions import IgnoredRegions
from data.image_files import load_image
from data.registered_copies import StripAligner
from evaluation.detections import find_peaks
from evaluation.drift import alignment_statistics, channel_statistics, training_ranges
from evaluation.evaluate import evaluate
from evaluation.predictors import DetectorPredictor, TorchPredictor
from evaluation.results import Evaluation, Measure
from evaluation.stream import BatchPredictor, Predictor, iter_predictions
from evaluation.thresholds import Calibration, calibrate
from ops.classical import METHODS, baseline_name, choose_sigma, classical_detector

MOST_STRIPS = 200  # whose channels are measured
MOST_STRIPS_TO_CHOOSE_BY = 40  # each is scored by a dozen detectors


def calibrate_on(
    predictor: Predictor | BatchPredictor,
    good: list[StripFile],
    input_max: float,
    ignored: IgnoredRegions,
) -> Calibration:
    """The strongest detections on good strips, which are read as they are.

    Raises `UserError` for a strip that cannot be used.
    """
    answers = iter_predictions(
        predictor,
        good,
        lambda strip: (load_image(strip.path, input_max), None),
        ignored,
        StageTimes(),
    )
    heights = []
    for answer in tqdm(
        answers, "setting the threshold", len(good), unit="strip", disable=None, leave=False
    ):
        if isinstance(answer, UserError):
            raise answer
        heights.append(find_peaks(answer.heatmap).heights)
    return calibrate(heights)


def good_strips(strips: list[StripFile]) -> list[StripFile]:
    """Those that are known to have no defect."""
    return [strip for strip in strips if strip.kind == GOOD]


def best_sigmas(
    strips: list[StripFile], input_max: float, device: torch.device
) -> dict[str, float]:
    """For each classical method the Gaussian, in pixels, with which it finds most on validation
    strips.

    Most is the mean of its recalls at 0.1 and 1 false alarm per strip and, where they are level,
    its pixel average precision. Without a known true defect there is nothing to choose by, and
    nothing is.
    """
    sample = _evenly_spaced(strips, MOST_STRIPS_TO_CHOOSE_BY)
    sigmas = {}
    for method, (_, candidates) in METHODS.items():
        baselines = {
            sigma: DetectorPredictor(classical_detector(method, sigma), device)
            for sigma in candidates
        }
        if len(baselines) == 1 or not sample:
            continue
        first = next(iter(baselines.values()))
        scored = evaluate(
            first, sample, input_max, f"choosing a Gaussian for {method}", baselines=baselines
        )
        if scored.board.points.truths:
            sigmas[method] = max(baselines, key=lambda sigma: _worth(scored, sigma))
    return sigmas


def channel_measure(align: str, device: torch.device) -> Measure:
    """What is measured of a strip's channels: `channel_statistics`, and where its references are
    aligned, how far they were off.
    """
    if align == "none":
        return channel_statistics
    aligner = StripAligner(align, device)
    return lambda image: channel_statistics(image) | alignment_statistics(aligner(image)[1])


def channel_ranges(
    strips: list[StripFile], input_max: float, measure: Measure
) -> dict[str, list[float]]:
    """What the channels of the strips to train on are like, from at most MOST_STRIPS of them."""
    reading = tqdm(
        _evenly_spaced(strips, MOST_STRIPS),
        desc="measuring the channels",
        unit="strip",
        disable=None,
        leave=False,
    )
    return training_ranges([measure(load_image(strip.path, input_max)) for strip in reading])


def make_baselines(sigmas: dict[str, float], device: torch.device) -> dict[str, Predictor]:
    """The classical methods by what a table calls them, each with its own Gaussian of `sigmas` or
    the default.
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
    """Everything of the kind that a checkpoint keeps; no calibration where no good strip was held
    out.
    """
    good = good_strips(valid)
    return {
        "calibration": calibrate_on(predictor, good, input_max, IgnoredRegions()) if good else None,
        "channel_ranges": channel_ranges(
            train, input_max, channel_measure(predictor.align, device)
        ),
        "rival_sigmas": best_sigmas(valid, input_max, device),
    }


def _evenly_spaced(strips: list[StripFile], most: int) -> list[StripFile]:
    """At most so many, spread over all."""
    return strips[:: -(-len(strips) // most)] if strips else []


def _worth(scored: Evaluation, sigma: float) -> tuple[float, float]:
    figures = scored.baselines[sigma].compute()
    return figures["point_recall_at_0.1"] + figures["point_recall_at_1"], figures[
        "pixel_average_precision"
    ]

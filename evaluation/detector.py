"""What scores strips: a predictor with what is known of it, and a threshold set on good strips."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from common.errors import UserError
from common.locations import location_of
from common.notes import warn
from data.folder import good_strips, list_strips, split_folder
from data.ignored_regions import IgnoredRegions
from data.image_files import STORED_ORDER
from data.truth_layout import split_of
from data.verify import verify_strips
from evaluation.calibration import best_sigmas, calibrate_on
from evaluation.contrast_response import measure_response
from evaluation.model_info import KEPT_WITH_MODEL, ModelInfo
from evaluation.predictors import DetectorPredictor
from evaluation.thresholds import Threshold
from ops.classical import baseline_name, choose_sigma, classical_detector
from ops.inspected_contrast import NoiseModel


class PlacedPredictor(Protocol):
    """A predictor that names its device, its alignment of the references, and its noise.

    `align` is one of registration.ALIGN_MODES, `most_points` how many points of a strip it can find
    at once (None: any number).
    """

    device: torch.device | str
    align: str
    noise: NoiseModel
    most_points: int | None

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(3, H, W) grey levels 0-255 to the heatmap (H, W), 0-1."""
        ...


@dataclass(frozen=True)
class Detector:
    """A predictor, and the facts that scoring needs.

    Strips must have the size `info.image_size` and be at least as large as a `patch`.
    `calibrated_on` is the printed origin of the threshold.
    """

    name: str
    predictor: PlacedPredictor
    info: ModelInfo
    device: torch.device
    is_classical: bool = False
    calibrated_on: str = KEPT_WITH_MODEL

    @property
    def patch(self) -> int:
        """Height and width of a tile in pixels; 1 for a classical detector: it takes any strip."""
        return 1 if self.is_classical else self.info.patch

    def threshold(self, target: float | None = None) -> Threshold:
        """As `ModelInfo.threshold`."""
        return self.info.threshold(target, self.calibrated_on)


def classical(
    method: str,
    folder: Path | None,
    img_format: str | None,
    input_max: float,
    device: torch.device,
    needs_threshold: bool,
    order: tuple[int, ...] = STORED_ORDER,
    ignores_missing: bool = False,
) -> Detector:
    """Make the classical detector of --method.

    Where `folder` is a `test/` with a `valid/` beside it, the strips of `valid/` choose its sigma
    and, if `needs_threshold`, set its threshold. `input_max` is the camera's largest value, `order`
    that of the strips' channels. With `ignores_missing`, missing features do not count.

    Raises `UserError` when those strips cannot be used.
    """
    place = Path(os.path.abspath(folder)) if folder else None
    beside = (
        split_folder(place.parent, "valid") if place and split_of(place.name) == "test" else None
    )
    valid = list_strips(beside, img_format, order=order) if beside else []
    verification = verify_strips(valid, input_max)
    if verification.problems:
        raise UserError(verification.problems[0])
    measured = {"rival_sigmas": best_sigmas(valid, input_max, device)}
    sigma = choose_sigma(method, measured["rival_sigmas"])
    classical_module = classical_detector(method, sigma)
    classical_module.ignores_missing = ignores_missing
    predictor = DetectorPredictor(classical_module, device)
    good = good_strips(valid)
    if good and needs_threshold:
        measured["calibration"] = calibrate_on(predictor, good, input_max, IgnoredRegions())
    measured["contrast_response"] = measure_response(
        predictor, good, input_max, IgnoredRegions(), device
    )
    info = ModelInfo(
        "strip",
        input_max,
        predictor.align,
        measured=measured,
        order=order,
        ignores_missing=ignores_missing,
    )
    source = f"set on {location_of(good[0].path.parent)}" if good else ""
    return Detector(baseline_name(method, sigma), predictor, info, device, True, source)


def calibrated(
    detector: Detector, folder: Path, img_format: str | None, ignored: IgnoredRegions
) -> Detector:
    """The detector with a threshold, and the contrast that it needs, from a folder's good strips.

    Prints a warning when these are the strips of the training.

    Raises `UserError` when the folder has no good strips, or one of them cannot be used.
    """
    trained_on = detector.info.training_dataset_path
    if trained_on and (
        location_of(folder) == trained_on or folder.resolve() == Path(trained_on).resolve()
    ):
        warn(f"{folder}: found the strips of the training, expected others")
    strips = list_strips(folder, img_format, use_masks=False, order=detector.info.order)
    good = good_strips(strips) or [strip for strip in strips if strip.kind is None]
    if not good:
        raise UserError(
            f"{folder}: found no good strips, expected a folder `good` or a folder of good strips"
        )
    verification = verify_strips(
        good, detector.info.input_max, detector.patch, detector.info.image_size
    )
    if verification.problems:
        raise UserError(f"--good_path: {verification.problems[0]}")
    calibration = calibrate_on(
        detector.predictor, verification.usable, detector.info.input_max, ignored
    )
    response = measure_response(
        detector.predictor, verification.usable, detector.info.input_max, ignored, detector.device
    )
    info = detector.info.with_measured(calibration=calibration, contrast_response=response)
    return replace(detector, info=info, calibrated_on=f"set on {location_of(folder)}")

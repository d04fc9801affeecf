"""Cut-outs without a reviewer: detections on good strips are nuisances, painted points defects."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from classifier.crops import Crop, CropSet, crop_name, cut, strip_planes
from classifier.cut_detections import CropSettings
from classifier.detection_table import DEFECT
from classifier.strip_detector import StripDetector
from common.errors import UserError
from common.progress import progress_bar
from data.folder import GOOD, StripFile, list_strips, require_good_only
from data.image_files import load_image
from data.pictures import hash_of_pixels
from data.recipes import paint_strip
from evaluation.detections import Peaks, find_peaks, logit_margin
from evaluation.matching import MATCH_RADIUS, defects_in_mask


def cut_good_strips(
    crops: CropSet,
    folder: Path,
    detector: StripDetector,
    recipe: str,
    rate: float,
    seed: int,
    settings: CropSettings,
) -> None:
    """Cut nuisances and painted defects out of the good strips in `folder`.

    Nuisances are the strongest detections of all strips together, `rate` a strip. Each strip is
    painted by `recipe` once, with its own random numbers, and scored again; a crop's middle is the
    detection of a painted point, or the point itself where there is none. `none` paints nothing.

    Raises `UserError` for a folder that holds other than good strips, and as `list_strips`.
    """
    require_good_only(folder)
    settings = replace(settings, input_max=detector.input_max, order=detector.order)
    strips = list_strips(folder, settings.img_format, use_masks=False, order=settings.order)
    peaks = [
        _peaks(detector, load_image(strip.path, settings.input_max, order=settings.order))
        for strip in progress_bar(strips, desc="scoring strips", unit="strip")
    ]
    floor = _threshold(peaks, rate * len(strips))
    aligner, number = settings.aligner(), 0
    for place, strip in enumerate(progress_bar(strips, desc="cutting crops", unit="strip")):
        image = load_image(strip.path, settings.input_max, order=settings.order)
        crops.strips.add(hash_of_pixels(image))
        planes = strip_planes(image, detector.predictor(image), aligner)
        strong = peaks[place].scores >= floor
        for point, score in zip(
            peaks[place].points[strong].tolist(), peaks[place].scores[strong].tolist()
        ):
            _add(crops, number, strip, point, score, GOOD, planes, None, settings.size)
            number += 1
        if recipe == "none":
            continue
        mask = np.zeros(image.shape[1:], np.float32)
        paint_strip(recipe, image, mask, np.random.default_rng((seed, place)))
        heatmap = detector.predictor(image)
        planes = strip_planes(image, heatmap, aligner)
        for point in _painted_places(mask > 0, image, heatmap):
            score = float(logit_margin(heatmap[tuple(point)]))
            _add(crops, number, strip, point, score, DEFECT, planes, mask > 0, settings.size)
            number += 1
    if not number:
        raise UserError(f"{folder}: found neither detections nor painted points, expected some")


def _peaks(detector: StripDetector, image: np.ndarray) -> Peaks:
    return find_peaks(detector.predictor(image))


def _threshold(peaks: list[Peaks], count: float) -> float:
    """The score of the detection of that rank among those of all strips."""
    scores = np.sort(np.concatenate([found.scores for found in peaks]))[::-1]
    return float(scores[min(len(scores), max(1, round(count))) - 1]) if len(scores) else np.inf


def _painted_places(
    mask: np.ndarray, image: np.ndarray, heatmap: np.ndarray
) -> list[tuple[int, int]]:
    """The place (y, x) of each painted defect: the strongest detection near it, or its centre."""
    truths, _ = defects_in_mask(mask, image)
    points = find_peaks(heatmap).points
    places = []
    for truth in truths:
        place = np.rint(truth.center).astype(int)
        if len(points):
            is_near = np.linalg.norm(points - np.array(truth.center), axis=1) <= MATCH_RADIUS
            if is_near.any():
                place = points[is_near.argmax()]  # the strongest comes first
        places.append(tuple(place.tolist()))
    return places


def _add(
    crops: CropSet,
    number: int,
    strip: StripFile,
    point: tuple[int, int],
    score: float,
    label: str,
    planes: np.ndarray,
    mask: np.ndarray | None,
    size: int,
) -> None:
    y, x = point
    marks = None if mask is None else cut(mask, y, x, size)
    crop = Crop(strip, y, x, score, label, cut(planes, y, x, size), marks)
    crops.add(crop, crop_name(number, strip, y, x))

"""What a classifier predicts for the images of a folder: kinds, masks, and how sure it is."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from classifier.calibration import Calibration
from classifier.defect_graph import ATTENTION, DISTANCE, MASK, PROBABILITIES
from classifier.folder_images import NO_KIND, FolderImage, ReadImage, read_image
from classifier.loaded_classifier import LoadedClassifier
from classifier.metrics import MASK_THRESHOLD, MaskMetrics
from common.errors import UserError
from common.pipeline import grouped
from common.progress import progress_bar
from evaluation.thresholds import pictures_needed

SURE, UNSURE, UNKNOWN = "sure", "unsure", "unknown"
STATUSES = (SURE, UNSURE, UNKNOWN)


@dataclass(frozen=True)
class Limits:
    """Images below the confidence `lowest_sure` are unsure, beyond `highest_known` unknown."""

    lowest_sure: float = 0.0
    highest_known: float = math.inf

    def status(self, confidence: float, distance: float | None) -> str:
        if distance is not None and distance > self.highest_known:
            return UNKNOWN
        return SURE if confidence >= self.lowest_sure else UNSURE


def choose_limits(
    classifier: LoadedClassifier, target_error: float | None, target_unknown: float
) -> tuple[Limits, list[str]]:
    """The limits that the targets need, and warnings where held-out images do not support them.

    Raises `UserError` for a target error of a classifier that is not calibrated.
    """
    calibration, warnings = classifier.calibration, []
    if calibration is None:
        if target_error is not None:
            raise UserError(
                f"--target_error {target_error:g}: found no held-out images to set it on, "
                "expected --data_root FOLDER of a data set with valid/"
            )
        return Limits(), warnings
    lowest = 0.0 if target_error is None else calibration.lowest_sure(target_error)
    if not math.isfinite(lowest):
        warnings.append(_describe_unsupported(calibration, target_error))
    return Limits(lowest, calibration.highest_known(target_unknown)), warnings


def _describe_unsupported(calibration: Calibration, target_error: float) -> str:
    """A line that says how many held-out images a target error takes that these do not support."""
    count, right = len(calibration.confidences), calibration.count_without_mistake()
    line = f"every image is unsure: {count} held-out images do not support an error of "
    line += f"{target_error:g}"
    if not 0 < target_error < 1:
        return line
    needed = pictures_needed(target_error)
    line += f", which takes {needed} without a mistake; the {right} most confident ones have none"
    return f"{line}: about {math.ceil(needed * count / right)} would do" if right else line


@dataclass(frozen=True)
class Maps:
    """Of an image of (height, width): its mask's probabilities, and where the network looked."""

    mask: np.ndarray
    attention: np.ndarray


@dataclass(frozen=True)
class ImagePrediction:
    """What is predicted for an image, and how that compares with its label and mask.

    `probabilities` (K,) are those of the kinds and `predicted` the number of the likeliest one.
    `truth` is the number of its label, None without one. `distance` is that to the nearest training
    image. `pixels` are those of the predicted mask. `iou`, `dice` and `good_masked` are as in
    `MaskMetrics`. All of them are None where there is none.
    """

    image: FolderImage
    probabilities: np.ndarray
    predicted: int
    truth: int | None
    status: str
    distance: float | None
    pixels: int | None
    iou: float | None
    dice: float | None
    good_masked: bool | None
    size: tuple[int, int]

    @property
    def confidence(self) -> float:
        return float(self.probabilities[self.predicted])

    @property
    def is_right(self) -> bool | None:
        """Whether the label is predicted; None without a label."""
        return None if self.truth is None else self.predicted == self.truth


OnImage = Callable[[ImagePrediction, ReadImage, Maps | None], None]


def predict_images(
    classifier: LoadedClassifier,
    images: list[FolderImage],
    limits: Limits,
    batch: int,
    on_image: OnImage,
    problems: list[str],
) -> list[ImagePrediction]:
    """Predict all images; `on_image` is called for each of them.

    A line about each image that cannot be used is added to `problems`.
    """
    predictions = []
    shown = progress_bar(total=len(images), desc="classifying images")
    with shown:
        for group in grouped(images, batch):
            read = list(_readable(classifier, group, problems))
            shown.update(len(group))
            if not read:
                continue
            outputs = classifier.predict(np.stack([one.fitted for _, one in read]))
            for number, (image, one) in enumerate(read):
                found = {name: values[number] for name, values in outputs.items()}
                maps = _maps(found, one, classifier)
                predictions.append(_predicted(classifier, image, one, found, maps, limits))
                on_image(predictions[-1], one, maps)
    return predictions


def _readable(
    classifier: LoadedClassifier, images: list[FolderImage], problems: list[str]
) -> Iterator[tuple[FolderImage, ReadImage]]:
    for image in images:
        try:
            yield (
                image,
                read_image(image, classifier.input_max, classifier.channels, classifier.image_size),
            )
        except UserError as error:
            problems.append(str(error))


def _maps(
    found: dict[str, np.ndarray], read: ReadImage, classifier: LoadedClassifier
) -> Maps | None:
    """The maps at the original image's size; None where the network has none."""
    if MASK not in found:
        return None
    height, width = classifier.image_size
    cells = np.kron(found[ATTENTION], np.ones((classifier.stride, classifier.stride), np.float32))
    size = read.original.shape[2], read.original.shape[1]
    mask, attention = (
        np.ascontiguousarray(plane[:height, :width])
        if size == (width, height)
        else cv2.resize(plane[:height, :width], size, interpolation=cv2.INTER_LINEAR)
        for plane in (found[MASK][0], cells)
    )
    return Maps(mask, attention)


def _predicted(
    classifier: LoadedClassifier,
    image: FolderImage,
    read: ReadImage,
    found: dict[str, np.ndarray],
    maps: Maps | None,
    limits: Limits,
) -> ImagePrediction:
    probabilities = found[PROBABILITIES]
    distance = float(found[DISTANCE]) if DISTANCE in found else None
    predicted, masks, pixels = int(probabilities.argmax()), MaskMetrics(), None
    if maps:
        mask = maps.mask > MASK_THRESHOLD
        pixels = int(mask.sum())
        if read.mask is not None:
            masks.update(mask, read.mask)
    return ImagePrediction(
        image,
        probabilities,
        predicted,
        None if image.kind == NO_KIND else classifier.kinds.index(image.kind),
        limits.status(float(probabilities[predicted]), distance),
        distance,
        pixels,
        *(values[0] if values else None for values in (masks.ious, masks.dices, masks.good_masked)),
        read.original.shape[1:],
    )

"""Scored strips for a review: their detections, their true defects, and what each review says."""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from classifier.crops import (
    CROP_CHANNELS,
    TABLE,
    CropFacts,
    crop_facts_of,
    cut,
    read_crop_facts,
    read_heatmap,
    strip_planes,
)
from classifier.cut_detections import CropSettings, require_place_inside
from classifier.defect_checkpoint import CROPS, DefectModel
from classifier.defect_data import list_labelled, read_labelled
from classifier.detection_table import DetectedPlace, read_detections
from classifier.review import Candidates, kind_probabilities, review_logits
from classifier.review_features import TreesReview, crop_features
from common.errors import UserError, prefix_errors
from common.progress import progress_bar
from data.folder import GOOD, StripFile, list_strips
from data.labelled_strip import read_strip
from data.pictures import hash_of_pixels
from evaluation.matching import defects_at, defects_in_mask

NETWORK, TREES, BOTH = "crop network", "trees", "both"  # names of the reviews


@dataclass(frozen=True)
class ScoredFolder:
    """Strips, and the folder that the detector's scoring of them wrote."""

    detections: Path
    strips: Path
    heatmaps: Path


@dataclass(frozen=True)
class ReviewedStrip:
    """A strip's detections by descending margin, and what the reviews say of them.

    `probabilities` (N, kinds) are the network's. `logits` are (N,), by the name of the review.
    """

    strip: StripFile
    places: list[DetectedPlace]
    candidates: Candidates
    probabilities: np.ndarray
    logits: dict[str, np.ndarray]


def require_review_model(model: DefectModel) -> None:
    """Raise `UserError` for a classifier that was not trained on crops of detections."""
    if model.channels != len(CROP_CHANNELS):
        raise UserError(
            f"{model.path}: found a classifier of {model.channels}-channel images, expected "
            f"one of crops with {len(CROP_CHANNELS)} channels: prepare_defect_data.py crops"
        )
    if GOOD not in model.kinds:
        raise UserError(
            f"{model.path}: found the kinds {', '.join(model.kinds)}, expected {GOOD} among them: "
            "a review tells nuisances from defects"
        )


def crop_facts(model: DefectModel) -> CropFacts:
    """How the crops that a model was trained on were made.

    Earlier checkpoints leave that to the set. Crops that `prepare_defect_data.py crops` did not
    make have the size of the network's input. Raises `UserError` where the set is no longer there.
    """
    root = Path(model.settings["data_root"])
    if CROPS in model.settings:
        found = crop_facts_of(model.settings[CROPS])
    elif root.is_dir():
        found = read_crop_facts(root)
    else:
        raise UserError(
            f"{model.path}: found a checkpoint that leaves the size of its crops to {root}, "
            "expected that folder, whose crops a review must cut alike"
        )
    return found or CropFacts(max(model.image_size), "full")


def review_folder(
    scored: ScoredFolder,
    settings: CropSettings,
    model: DefectModel,
    trees: TreesReview | None,
    learnt: frozenset[str] = frozenset(),
) -> list[ReviewedStrip]:
    """What the reviews say of every strip of a scored folder.

    A strip without detections is among them: its defects are missed. Raises `UserError` for
    detections of other strips, for a strip whose pixels have one of the hashes `learnt`, and as the
    readers.
    """
    return [
        review_strip(strip, places, planes, truth, settings, model, trees)
        for strip, places, planes, truth in _iter_strips(scored, settings, learnt)
    ]


def review_strip(
    strip: StripFile,
    places: list[DetectedPlace],
    planes: np.ndarray | None,
    truth: tuple,
    settings: CropSettings,
    model: DefectModel,
    trees: TreesReview | None,
) -> ReviewedStrip:
    """What the reviews say of one strip; `truth` is its true defects and their labels."""
    points = np.array([(place.y, place.x) for place in places], dtype=np.int64).reshape(-1, 2)
    margins = np.array([place.score for place in places])
    probabilities = np.empty((0, len(model.kinds)))
    logits = {NETWORK: np.empty(0)}
    if places:
        crops = np.stack([cut(planes, y, x, settings.size) for y, x in points.tolist()])
        probabilities = kind_probabilities(model, crops)
        logits[NETWORK] = review_logits(probabilities, model.kinds)
    if trees:
        logits[TREES] = (
            trees.logits(crop_features(crops, margins)) if places else logits[NETWORK].copy()
        )
        logits[BOTH] = logits[NETWORK] + logits[TREES]
    candidates = Candidates(points, margins, *truth)
    return ReviewedStrip(strip, places, candidates, probabilities, logits)


def cut_places(
    scored: ScoredFolder, settings: CropSettings, strip: StripFile, places: list[DetectedPlace]
) -> list[np.ndarray]:
    """The crops (4, size, size) of some detections of a strip, to be shown."""
    image, _ = read_strip(strip, settings.input_max)
    planes = _planes(scored, settings, strip, image)
    return [cut(planes, place.y, place.x, settings.size) for place in places]


def learn_trees(root: Path, model: DefectModel) -> TreesReview:
    """Boosted trees on the crops of `train/` of a set that `crops` has made.

    Raises `UserError` where the set has no such crops.
    """
    root = Path(os.path.abspath(root))  # as the set's pictures are listed
    scores = _scores_of(root)
    crops, margins, is_defect = [], [], []
    for picture in progress_bar(list_labelled(root, "train"), desc="reading crops", unit="crop"):
        name = picture.path.relative_to(root).as_posix()
        if name in scores:
            crops.append(read_labelled(picture, model.input_max, len(CROP_CHANNELS))[0])
            margins.append(scores[name])
            is_defect.append(picture.kind != GOOD)
    if not crops:
        raise UserError(f"{root}: found no crops of {TABLE} in train/, expected some to learn from")
    with prefix_errors(root):
        features = crop_features(np.stack(crops), np.array(margins))
        return TreesReview(features, np.array(is_defect))


def _scores_of(root: Path) -> dict[str, float]:
    """The detector's margin of each crop of a set, by the crop's path in it."""
    path = root / TABLE
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            return {row["crop"]: float(row["score"]) for row in csv.DictReader(file)}
    except (OSError, KeyError, ValueError, TypeError, csv.Error):
        raise UserError(
            f"{path}: found no readable table of crops, expected --crops with a set of "
            "prepare_defect_data.py crops"
        ) from None


def _iter_strips(
    scored: ScoredFolder, settings: CropSettings, learnt: frozenset[str]
) -> Iterator[tuple[StripFile, list[DetectedPlace], np.ndarray | None, tuple]]:
    strips = list_strips(scored.strips, settings.img_format, order=settings.order)
    by_strip: dict[Path, list[DetectedPlace]] = {strip.path: [] for strip in strips}
    for place in read_detections(scored.detections, strips, scored.strips):
        by_strip[place.strip.path].append(place)
    for strip in progress_bar(strips, desc="reviewing strips", unit="strip"):
        places = sorted(by_strip[strip.path], key=lambda place: -place.score)
        image, mask = read_strip(strip, settings.input_max)
        if learnt and hash_of_pixels(image) in learnt:
            raise UserError(
                f"{strip.path}: found a strip whose crops the classifier has learnt from, "
                "expected others: a weight that is chosen on them proves nothing"
            )
        for place in places:
            require_place_inside(place, image.shape[1:], scored.detections)
        planes = _planes(scored, settings, strip, image) if places else None
        truth = (None, None)
        if mask is not None:
            truth = defects_in_mask(mask, image)
        elif strip.points is not None:
            truth = defects_at(strip.points, image), None
        yield strip, places, planes, truth


def _planes(
    scored: ScoredFolder, settings: CropSettings, strip: StripFile, image: np.ndarray
) -> np.ndarray:
    heatmap = read_heatmap(scored.heatmaps, strip, image.shape[1:])
    return strip_planes(image, heatmap, settings.aligner())

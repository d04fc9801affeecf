"""True defects of a strip, and their matches with detections: one to one, the strongest first."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from evaluation.detections import Peaks, contrasts_at
from ops.tiling import calculate_kept_ranges

MATCH_RADIUS = 3.0  # pixels
# Pixels from the strip's edge, and from a seam, where stitching passes from one tile to the next.
BORDER, SEAM = 5, 3
# In the place of a true defect's index: a detection that finds none, and one that does not count.
FALSE_ALARM, IGNORED = -1, -2


@dataclass(frozen=True)
class TrueDefect:
    """A true defect: centre (y, x), area in pixels, contrast in grey levels, and region.

    The contrast is 0 if the defect has none against one reference. `counts` is False for a defect
    that is neither a hit when it is found nor a miss when it is not. `box`
    (top, left, bottom, right, the last two exclusive) is set if only a box around the defect is
    known: a detection anywhere in it finds the defect.
    """

    center: tuple[float, float]
    area: int | None = None
    contrast: float | None = None
    place: str = "interior"
    counts: bool = True
    box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class MatchResult:
    """The detections and true defects of one strip that count, strongest detection first.

    `scores` (N,) float64 rank the detections. `truth` (N,) is the index in `truths` of the defect
    that each has found, or FALSE_ALARM. Ignored detections are left out.
    """

    scores: np.ndarray
    truth: np.ndarray
    truths: tuple[TrueDefect, ...]


def defects_in_mask(
    mask: np.ndarray, image: np.ndarray, patch: int | None = None, has_references: bool = True
) -> tuple[list[TrueDefect], np.ndarray]:
    """Return the connected regions of a mask (H, W) bool as true defects, and their labels (H, W).

    A label is the index of the pixel's defect, -1 where there is none. A defect's contrast is that
    of Target to the reference from which it differs less, 0 if the two differ in sign, and that to
    the surroundings where the image (C, H, W) has no references.
    """
    count, labels, stats, centers = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count == 1:
        return [], labels - 1
    centers = centers[1:, ::-1]
    places = np.rint(centers).astype(np.int64)
    contrasts = agreed_contrast(contrasts_at(image, places, has_references))
    truths = [
        TrueDefect(
            tuple(center.tolist()), int(area), float(contrast), region_of(center, mask.shape, patch)
        )
        for center, area, contrast in zip(centers, stats[1:, cv2.CC_STAT_AREA], contrasts)
    ]
    return truths, labels - 1


def defects_at(
    points: Sequence[tuple[float, float]],
    image: np.ndarray,
    patch: int | None = None,
    has_references: bool = True,
) -> list[TrueDefect]:
    """Return points (y, x) that are known as coordinates as true defects, of unknown area.

    Contrast and region are those of `defects_in_mask`.
    """
    if not points:
        return []
    places = np.rint(points).astype(np.int64)
    contrasts = agreed_contrast(contrasts_at(image, places, has_references))
    return [
        TrueDefect(tuple(point), None, float(contrast), region_of(point, image.shape[1:], patch))
        for point, contrast in zip(points, contrasts)
    ]


def agreed_contrast(contrasts: np.ndarray) -> np.ndarray:
    """Of contrasts (N, 2), return the one with the smaller magnitude, (N,) and without sign.

    It is 0 where the contrasts differ in sign.
    """
    agree = contrasts[:, 0] * contrasts[:, 1] > 0
    return np.where(agree, np.abs(contrasts).min(axis=1), 0.0)


def region_of(center: tuple[float, float], image_size: tuple[int, int], patch: int | None) -> str:
    """Return `border`, `seam` or `interior`: where a point (y, x) lies in an image (height, width).

    Without a patch size there are no seams.
    """
    if any(min(at + 0.5, length - 0.5 - at) <= BORDER for at, length in zip(center, image_size)):
        return "border"
    if patch and any(
        abs(at - line) <= SEAM
        for at, length in zip(center, image_size)
        for line in _seams(length, patch)
    ):
        return "seam"
    return "interior"


@lru_cache
def _seams(length: int, patch: int) -> tuple[float, ...]:
    """Return the seams along an axis: half a pixel before the first pixel of each kept range."""
    return tuple(start - 0.5 for start, _ in calculate_kept_ranges(length, patch)[1:])


def match(
    points: np.ndarray,
    truths: list[TrueDefect],
    labels: np.ndarray | None = None,
    radius: float = MATCH_RADIUS,
) -> np.ndarray:
    """Return the number of the true defect that each detection of a strip has found: (N,).

    Detections are whole points (N, 2), strongest first. A detection may find a defect if it lies
    within `radius` pixels of the defect's centre, on its pixels (`labels`, from `defects_in_mask`)
    or in its box. In the order given, each takes the nearest free defect. A detection that may only
    find defects that are taken or do not count is IGNORED: neither a hit nor a false alarm. Every
    other one is a FALSE_ALARM.
    """
    if not (truths and len(points)):
        return np.full(len(points), FALSE_ALARM)
    return _assign(
        _distances(points, truths, labels, radius), np.array([truth.counts for truth in truths])
    )


def match_strip(
    peaks: Peaks,
    truths: list[TrueDefect],
    labels: np.ndarray | None = None,
    radius: float = MATCH_RADIUS,
) -> MatchResult:
    """Match all detections of a strip with its true defects, as `match`, for the metrics."""
    found = match(peaks.points, truths, labels, radius)
    # each defect's index among those that count
    counted = np.cumsum([truth.counts for truth in truths]) - 1
    renumbered = np.array(
        [number if number < 0 else counted[number] for number in found.tolist()], dtype=np.int64
    )
    is_counted = found != IGNORED
    return MatchResult(
        peaks.scores[is_counted],
        renumbered[is_counted],
        tuple(truth for truth in truths if truth.counts),
    )


def _distances(
    points: np.ndarray, truths: list[TrueDefect], labels: np.ndarray | None, radius: float
) -> np.ndarray:
    """Return pixels from each detection to each defect that it may find, else infinity: (N, M)."""
    centers = np.array([truth.center for truth in truths])
    distance = np.linalg.norm(points[:, None] - centers[None], axis=2)
    may_find = distance <= radius
    if labels is not None:
        may_find |= labels[points[:, 0], points[:, 1]][:, None] == np.arange(len(truths))
    for number, truth in enumerate(truths):
        if truth.box:
            may_find[:, number] |= ((points >= truth.box[:2]) & (points < truth.box[2:])).all(
                axis=1
            )
    return np.where(may_find, distance, np.inf)


def _assign(distances: np.ndarray, counts: np.ndarray) -> np.ndarray:
    found = np.full(len(distances), FALSE_ALARM)
    is_free = counts.copy()
    for number in np.flatnonzero(np.isfinite(distances).any(axis=1)):
        free = np.where(is_free, distances[number], np.inf)
        nearest = int(free.argmin())
        if np.isfinite(free[nearest]):
            found[number], is_free[nearest] = nearest, False
        else:
            found[number] = IGNORED
    return found

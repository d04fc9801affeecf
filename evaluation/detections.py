"""Detections in a heatmap: position, rank, size, and contrast to the references.

A detection is a local maximum of the heatmap: no pixel within NEIGHBOURHOOD rows and columns is
higher. A plateau is one detection. It is ranked by its margin: the logit ln(p / (1 - p)) of its
peak p, plus a millionth of the mean margin of the 3x3 pixels around it. So the order is that of the
peaks. Peaks that float32 cannot distinguish, as where a softmax saturates at 1, are ordered by the
pixels around them (as are any that differ by less than 2e-5 of a logit).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial import cKDTree

from ops.missing import MISSING_LIMIT

NEIGHBOURHOOD = 3  # pixels
# strongest local maxima that are kept: memory is bounded for any heatmap
MOST_PER_STRIP = 1000
LOGIT_RANGE = 18.0  # float32 resolves probabilities up to about 1 - 6e-8, a logit of 16.6
TIE_BREAK = 1e-6  # weight of the mean margin around a peak, in its score
POLARITIES = ("both", "bright", "dark")
KINDS = ("point", "missing feature")
# Half sizes in pixels: of the window whose contrast is measured, and of its surroundings.
INNER, OUTER = 1, 7
GUARD = 3  # half size in pixels of the area around a detection that is not surroundings

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Peaks:
    """Local maxima, strongest first.

    `points` (N, 2) are whole (y, x) in pixels, `heights` (N,) the heatmap's values 0-1, and
    `scores` (N,) the margins described above.
    """

    points: np.ndarray
    heights: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Detection:
    """A local maximum above the threshold, with its share of the pixels above the threshold.

    These are the pixels that are connected to it and closer to no other maximum. `area` is in
    pixels, `peak` 0-1. `box` is (top, left, bottom, right), the last two exclusive. Contrasts are
    Target minus reference in grey levels, or both that to the surroundings. `missing` is the
    probability 0-1 that the references have what Target lacks, None where it is not asked.
    """

    y: int
    x: int
    margin: float
    peak: float
    area: int
    box: Box
    contrast_ref1: float
    contrast_ref2: float
    missing: float | None = None

    @property
    def kind(self) -> str:
        """One of KINDS, or empty where it is not asked."""
        return "" if self.missing is None else KINDS[self.missing > MISSING_LIMIT]

    @property
    def contrast(self) -> float:
        """The contrast to the surroundings, of a detection on an image without references."""
        return self.contrast_ref1

    @property
    def is_bright(self) -> bool:
        """Whether Target is brighter than its references on average."""
        return self.contrast_ref1 + self.contrast_ref2 > 0


class PackedDetections(Sequence):
    """Detections in a hundred bytes each.

    All detections of thousands of strips are kept, and where a detector fails, a strip has
    hundreds.
    """

    def __init__(self, detections: Sequence[Detection] = ()):
        rows = [
            (
                detection.y,
                detection.x,
                detection.margin,
                detection.peak,
                detection.area,
                *detection.box,
                detection.contrast_ref1,
                detection.contrast_ref2,
                np.nan if detection.missing is None else detection.missing,
            )
            for detection in detections
        ]
        self._rows = np.array(rows, dtype=np.float64).reshape(len(rows), 12)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Detection:
        y, x, margin, peak, area, *box, contrast_ref1, contrast_ref2, missing = self._rows[
            number
        ].tolist()
        return Detection(
            int(y),
            int(x),
            margin,
            peak,
            int(area),
            tuple(map(int, box)),
            contrast_ref1,
            contrast_ref2,
            None if np.isnan(missing) else missing,
        )


def logit_margin(probability: np.ndarray) -> np.ndarray:
    """ln(p / (1 - p)), float64, of probabilities 0-1, clipped to -LOGIT_RANGE to LOGIT_RANGE."""
    probability = np.asarray(probability, dtype=np.float64)
    with np.errstate(divide="ignore"):  # the margins of 0 and 1 are infinite
        margin = np.log(probability) - np.log1p(-probability)
    return np.clip(margin, -LOGIT_RANGE, LOGIT_RANGE)


def find_peaks(heatmap: np.ndarray, floor: float = 0.0) -> Peaks:
    """Return at most MOST_PER_STRIP local maxima above `floor` of a heatmap (H, W) float32 0-1."""
    size = 2 * NEIGHBOURHOOD + 1
    highest = cv2.dilate(heatmap, np.ones((size, size), np.uint8))
    points = _one_per_plateau((heatmap == highest) & (heatmap > floor))
    heights = heatmap[points[:, 0], points[:, 1]]
    scores = logit_margin(heights) + TIE_BREAK * logit_margin(_windows(heatmap, points, 1)).mean(
        axis=(1, 2)
    )
    order = np.argsort(-scores, kind="stable")[:MOST_PER_STRIP]
    return Peaks(points[order], heights[order], scores[order])


def detect(
    heatmap: np.ndarray,
    image: np.ndarray,
    threshold: float,
    min_area: int = 1,
    polarity: str = "both",
    missing: np.ndarray | None = None,
    has_references: bool = True,
) -> list[Detection]:
    """Return the detections above `threshold`, strongest first.

    The heatmap is (H, W) float32 0-1, the image (3, H, W) in grey levels. Detections of fewer than
    `min_area` pixels, or of the other polarity (`bright`: Target brighter than the references), are
    left out. `missing` (H, W) is the probability of a missing feature, None where it is not asked.
    Without references the image is (C, H, W), and contrasts are those to the surroundings.
    """
    peaks = find_peaks(heatmap, threshold)
    if not len(peaks.points):
        return []
    contrasts = contrasts_at(image, peaks.points, has_references)
    found = []
    for number, (area, box) in enumerate(_extents(heatmap > threshold, peaks.points)):
        place = (int(peaks.points[number, 0]), int(peaks.points[number, 1]))
        measures = (float(peaks.scores[number]), float(peaks.heights[number]), area, box)
        is_missing = None if missing is None else float(missing[place])
        found.append(Detection(*place, *measures, *contrasts[number].tolist(), is_missing))
    return [entry for entry in _of_polarity(found, polarity) if entry.area >= min_area]


def strongest(
    heatmap: np.ndarray,
    image: np.ndarray,
    count: int,
    polarity: str = "both",
    has_references: bool = True,
) -> list[Detection]:
    """Return the `count` strongest local maxima of a heatmap, whatever the threshold.

    Arguments are those of `detect`. A maximum has no extent without a threshold: its area is 0.
    """
    peaks = find_peaks(heatmap)
    if polarity == "both":
        peaks = Peaks(peaks.points[:count], peaks.heights[:count], peaks.scores[:count])
    found = []
    all_contrasts = contrasts_at(image, peaks.points, has_references)
    for (y, x), score, height, contrasts in zip(
        peaks.points.tolist(), peaks.scores, peaks.heights, all_contrasts
    ):
        measures = (float(score), float(height), 0, (y, x, y + 1, x + 1))
        found.append(Detection(y, x, *measures, *contrasts.tolist()))
    return _of_polarity(found, polarity)[:count]


def _of_polarity(detections: list[Detection], polarity: str) -> list[Detection]:
    wanted = {"both": (True, False), "bright": (True,), "dark": (False,)}[polarity]
    return [detection for detection in detections if detection.is_bright in wanted]


def contrasts_at(image: np.ndarray, points: np.ndarray, has_references: bool = True) -> np.ndarray:
    """Return Target minus Ref1 and minus Ref2 at whole points (N, 2), in grey levels: (N, 2).

    It is the mean of the 3x3 pixels, minus the median of the surroundings, which is the difference
    that gain and illumination leave between the channels.

    Without references it is that of the image (C, H, W) itself, the mean of its channels: its
    contrast against the surroundings, twice.
    """
    window = np.arange(-OUTER, OUTER + 1)
    distance = np.maximum(np.abs(window)[:, None], np.abs(window)[None, :])
    columns = []
    differences = image[:1] - image[1:3] if has_references else [image.mean(axis=0)] * 2
    for difference in differences:
        around = _windows(difference, points, OUTER)
        inside = np.mean(around[:, distance <= INNER], axis=1)
        columns.append(inside - np.median(around[:, distance > GUARD], axis=1))
    return np.stack(columns, axis=1)


def _one_per_plateau(is_highest: np.ndarray) -> np.ndarray:
    """Reduce each plateau of local maxima (H, W) to its most central pixel: (N, 2).

    Local maxima within NEIGHBOURHOOD of each other have the same height, so they form a plateau.
    """
    ys, xs = np.nonzero(is_highest)
    if len(ys) == 0:
        return np.zeros((0, 2), dtype=np.int64)
    # Dilated by one pixel, two maxima touch if they are at most three pixels apart.
    reach = np.ones((3, 3), np.uint8)
    count, labels = cv2.connectedComponents(cv2.dilate(is_highest.astype(np.uint8), reach))
    label = labels[ys, xs]
    points = np.stack([ys, xs], axis=1)
    if count - 1 == len(points):
        return points
    members = np.bincount(label, minlength=count)
    centers = (
        np.stack([np.bincount(label, along, minlength=count) for along in (ys, xs)], axis=1)
        / np.maximum(members, 1)[:, None]
    )
    distance = np.square(points - centers[label]).sum(axis=1)
    order = np.lexsort((np.arange(len(points)), distance, label))
    _, first = np.unique(label[order], return_index=True)
    return points[np.sort(order[first])]


def _windows(plane: np.ndarray, points: np.ndarray, reach: int) -> np.ndarray:
    """Return the (2 * reach + 1)² pixels around each point, (N, size, size).

    Border pixels are repeated outwards.
    """
    along = np.arange(-reach, reach + 1)
    ys = np.clip(points[:, :1] + along, 0, plane.shape[0] - 1)
    xs = np.clip(points[:, 1:] + along, 0, plane.shape[1] - 1)
    return plane[ys[:, :, None], xs[:, None, :]]


def _extents(is_above: np.ndarray, points: np.ndarray) -> list[tuple[int, Box]]:
    """Return the area and the box of each point's pixels above the threshold.

    A point owns the pixels of its connected component that are closer to it than to other points.
    """
    _, labels = cv2.connectedComponents(is_above.astype(np.uint8))
    pixels = np.argwhere(is_above)
    pixel_labels, point_labels = labels[is_above], labels[points[:, 0], points[:, 1]]
    order = np.argsort(pixel_labels, kind="stable")
    pixels, pixel_labels = pixels[order], pixel_labels[order]
    # -1: unowned, such as a component whose maximum was suppressed by a higher neighbour
    owner = np.full(len(pixels), -1)
    for label in np.unique(point_labels):
        owners = np.flatnonzero(point_labels == label)
        part = slice(*np.searchsorted(pixel_labels, (label, label + 1)))
        owner[part] = owners[cKDTree(points[owners]).query(pixels[part])[1]]
    order = np.argsort(owner, kind="stable")
    pixels, owner = pixels[order], owner[order]
    starts = np.searchsorted(owner, np.arange(len(points) + 1))
    parts = (pixels[first:last] for first, last in zip(starts, starts[1:]))
    return [
        (len(part), (*part.min(axis=0).tolist(), *(part.max(axis=0) + 1).tolist()))
        for part in parts
    ]

"""A rival of the defect classifier without a network: measures of a picture, and boosted trees.

A picture is compared with its own surroundings at several scales. The measures say how strong the
strongest difference is, how large, how long and how sharp, and what the surface is like.
"""

import warnings

import cv2
import numpy as np
from scipy import ndimage

SEED = 25_200
SCALES = (
    1.0,
    2.0,
    4.0,
    8.0,
)  # pixels: sigma of the Gaussian below which a difference is looked for
SURROUNDINGS = 21  # pixels of the median's side: wider than most defects
STRENGTHS = (3.0, 5.0)  # robust standard deviations of a pixel that belongs to a difference
PERCENTILES = (0.1, 1, 10, 90, 99, 99.9)
TINY_SPREAD = 1e-3  # grey levels
ROUNDS, LEAVES, LEARNING_RATE, LEAST_IN_LEAF = 200, 15, 0.06, 10  # of the trees


def picture_measures(image: np.ndarray) -> np.ndarray:
    """Measures (F,) of a picture (C, H, W), grey levels 0-255."""
    return np.concatenate([_plane_measures(plane.astype(np.float32)) for plane in image])


class TreesClassifier:
    """Boosted trees in scikit-learn's form with histograms, on measures (N, F) and kinds (N,)."""

    def __init__(self, measures: np.ndarray, labels: np.ndarray):
        from sklearn.ensemble import HistGradientBoostingClassifier

        self._trees = HistGradientBoostingClassifier(
            learning_rate=LEARNING_RATE,
            max_leaf_nodes=LEAVES,
            max_iter=ROUNDS,
            min_samples_leaf=min(LEAST_IN_LEAF, max(1, len(labels) // 10)),
            l2_regularization=1.0,
            early_stopping=False,
            random_state=SEED,
        ).fit(measures, labels)

    def probabilities(self, measures: np.ndarray, kinds: int) -> np.ndarray:
        """Probabilities (N, kinds) of measures (N, F); 0 of a kind that was never learnt."""
        found = np.zeros((len(measures), kinds))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of joblib, about the number of cores
            found[:, self._trees.classes_] = self._trees.predict_proba(measures)
        return found


def _plane_measures(plane: np.ndarray) -> np.ndarray:
    levels = np.clip(np.rint(plane), 0, 255).astype(np.uint8)
    # the median leaves surface and shading; a rank filter of bytes is the fastest one
    rest = plane - cv2.medianBlur(levels, SURROUNDINGS)
    # each pixel against its row and its column: of a lattice or brushed metal only defects are left
    lattice = plane - np.median(plane, axis=0) - np.median(plane, axis=1)[:, None]
    columns: list[float] = [float(plane.mean()), float(plane.std())]
    for residual in (rest, lattice - np.median(lattice)):
        for scale in SCALES:
            smooth = cv2.GaussianBlur(residual, None, scale)
            spread = _robust_spread(smooth)
            columns += [spread, float(smooth.min()) / spread, float(smooth.max()) / spread]
        columns += np.percentile(residual, PERCENTILES).tolist()
        smooth = cv2.GaussianBlur(residual, None, 1.0)
        for sign in (-1, 1):
            for strength in STRENGTHS:
                columns += _largest(sign * smooth, strength * _robust_spread(smooth), plane)
    columns += _directions(plane)
    return np.array(columns, np.float32)


def _robust_spread(values: np.ndarray) -> float:
    """A standard deviation that a few strong pixels do not change."""
    middle = np.median(values)
    return float(1.4826 * np.median(abs(values - middle))) + TINY_SPREAD


def _largest(residual: np.ndarray, threshold: float, plane: np.ndarray) -> list[float]:
    """Of the largest connected difference: area, length, width, fill, strength, edge, texture."""
    marked, count = ndimage.label(residual > threshold)
    if not count:
        return [0.0] * 8
    areas = np.bincount(marked.ravel())[1:]
    inside = marked == int(areas.argmax()) + 1
    places = np.argwhere(inside)
    variances = np.linalg.eigvalsh(np.cov(places.T) + np.eye(2) / 12) if len(places) > 1 else [0, 0]
    width, length = np.sqrt(np.maximum(variances, 1 / 12)) * np.sqrt(12)
    steepness = np.hypot(*np.gradient(plane))
    rim = inside & ~ndimage.binary_erosion(inside)
    return [
        float(areas.max()),
        float(length),
        float(width),
        float(areas.max() / (length * width)),
        float(residual[inside].mean()),
        float(steepness[rim].mean()),
        float(plane[inside].std()),
        float(count),
    ]


def _directions(plane: np.ndarray) -> list[float]:
    """How rough the surface is down, across and along both diagonals."""
    steps = ((1, 0), (0, 1), (1, 1), (1, -1), (4, 0), (0, 4), (8, 0), (0, 8))
    return [float(abs(plane - np.roll(plane, step, (0, 1))).mean()) for step in steps]

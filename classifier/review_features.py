"""Some thirty hand-made measures of a crop, and boosted trees on them: a review without a network.

A defect is a few pixels in the middle of its crop, in Target and in neither reference. The measures
compare the middle with rings around it: of the differences, of the channels, and of the heatmap.
"""

import warnings

import numpy as np

from common.errors import UserError

CORE, INNER, RING, OUTER = 1.5, 3.5, 7.5, 12.0  # radii in pixels around the detection
LEAST_SPREAD = 0.5  # grey levels: of a ring that is flat
CHANNELS = ("Target", "Ref1", "Ref2", "heatmap")  # as classifier.crops.CROP_CHANNELS
LEAST_SIDE = 16  # pixels of a crop: a ring must be in it
TREES_SEED = 25_100
LEARNING_RATE, LEAVES, ROUNDS, LEAST_IN_LEAF = 0.06, 15, 150, 10  # of the trees


def crop_features(crops: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """Measures (N, F) of crops (N, 4, size, size), channels as CHANNELS, grey levels 0-255.

    The detection is at size // 2. `margins` (N,) are those of the detector, the first measure.
    Raises `UserError` for crops of other channels or below LEAST_SIDE pixels.
    """
    if crops.ndim != 4 or crops.shape[1] != len(CHANNELS) or min(crops.shape[2:]) < LEAST_SIDE:
        raise UserError(
            f"found crops of {crops.shape[1:]}, expected {len(CHANNELS)} channels "
            f"({', '.join(CHANNELS)}) of {LEAST_SIDE} pixels or more"
        )
    crops = crops.astype(np.float32)
    target, ref1, ref2, heatmap = (crops[:, channel] for channel in range(4))
    differences = target - ref1, target - ref2
    agree = np.sign(differences[0]) == np.sign(differences[1])
    common = np.where(agree, np.minimum(*np.abs(differences)), 0)
    rings = _rings(crops.shape[-1])
    columns = [margins]
    for plane in (*differences, ref1 - ref2, target):
        columns += _contrast(plane, rings)
    for plane in (ref1, ref2):
        columns += _contrast(plane, rings)[:1]
    for plane in (target, ref1, ref2):
        columns.append(_steepness(plane)[:, rings["inner"]].mean(axis=1))
    for plane in (common, heatmap):
        columns += _profile(plane, rings)
    columns += _shape(common, rings["inner"])
    return np.stack(columns, axis=1).astype(np.float32)


class TreesReview:
    """Boosted trees on `crop_features`: Friedman, "Greedy function approximation", 2001.

    In scikit-learn's form with histograms. Raises `UserError` without examples of both kinds.
    """

    def __init__(self, features: np.ndarray, is_defect: np.ndarray):
        # imported here because it takes seconds, which every command would need at its start
        from sklearn.ensemble import HistGradientBoostingClassifier

        if len(np.unique(is_defect)) < 2:
            raise UserError(
                f"found {int(np.sum(is_defect))} defects of {len(is_defect)} crops, "
                "expected defects and good ones to learn from"
            )
        self._trees = HistGradientBoostingClassifier(
            learning_rate=LEARNING_RATE,
            max_leaf_nodes=LEAVES,
            max_iter=ROUNDS,
            min_samples_leaf=LEAST_IN_LEAF,
            l2_regularization=1.0,
            early_stopping=False,
            random_state=TREES_SEED,
        ).fit(features, is_defect)

    def logits(self, features: np.ndarray) -> np.ndarray:
        """The logit (N,) of being a defect, of measures (N, F)."""
        if not len(features):
            return np.empty(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of joblib, about the number of cores
            return np.asarray(self._trees.decision_function(features), dtype=np.float64)


def _rings(size: int) -> dict[str, np.ndarray]:
    """Which pixels (size, size) bool lie in the core, in the inner disc and in each ring."""
    y, x = np.indices((size, size)) - size // 2
    distance = np.hypot(y, x)
    return {
        "core": distance <= CORE,
        "inner": distance <= INNER,
        "ring": (distance > INNER) & (distance <= RING),
        "outer": (distance > RING) & (distance <= OUTER),
    }


def _contrast(plane: np.ndarray, rings: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Core minus ring, the ring's spread, and their ratio, of planes (N, size, size)."""
    ring = plane[:, rings["ring"]]
    contrast = plane[:, rings["core"]].mean(axis=1) - ring.mean(axis=1)
    spread = ring.std(axis=1)
    return [contrast, spread, contrast / (spread + LEAST_SPREAD)]


def _profile(plane: np.ndarray, rings: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The centre, the means of core and inner disc, and mean and maximum of each ring."""
    middle = plane.shape[-1] // 2
    columns = [plane[:, middle, middle]]
    columns += [plane[:, rings[name]].mean(axis=1) for name in ("core", "inner")]
    for name in ("ring", "outer"):
        columns += [plane[:, rings[name]].mean(axis=1), plane[:, rings[name]].max(axis=1)]
    return columns


def _shape(plane: np.ndarray, inner: np.ndarray) -> list[np.ndarray]:
    """Distance from the middle, width and elongation of what a plane (N, size, size) shows."""
    y, x = (np.argwhere(inner) - plane.shape[-1] // 2).T
    weight = plane[:, inner] + 1e-3
    weight /= weight.sum(axis=1, keepdims=True)
    mean_y, mean_x = weight @ y, weight @ x
    var_y, var_x = weight @ (y**2) - mean_y**2, weight @ (x**2) - mean_x**2
    covariance = weight @ (y * x) - mean_y * mean_x
    split = np.sqrt((var_y - var_x) ** 2 + 4 * covariance**2)
    return [np.hypot(mean_y, mean_x), np.sqrt(var_y + var_x), split / (var_y + var_x + 1e-6)]


def _steepness(planes: np.ndarray) -> np.ndarray:
    """The length of the gradient (N, size, size), in grey levels per pixel."""
    return np.hypot(*np.gradient(planes, axis=(1, 2)))

"""Figures from a stream of heatmaps: pure numbers, no files. Memory does not grow with the number of strips."""

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

LOGIT_RANGE = 18.0  # float32 tells probabilities apart up to about 1 - 6e-8, a logit of 16.6
BINS = 65536  # 5.5e-4 of a logit each


class PixelFigures:
    """Pixel AUROC and average precision from two histograms, one of defect and one of background pixels.

    Bins are equally wide in the logit of the probability, so they are fine where probabilities crowd, close to 0 and to 1. Pixels
    of one bin count as ties, exactly as scikit-learn counts equal scores.
    """

    def __init__(self) -> None:
        self.counts = np.zeros((2, BINS), dtype=np.int64)  # background, defect

    def add(self, heatmap: np.ndarray, mask: np.ndarray) -> None:
        """Count one strip: heatmap (H, W) of probabilities 0-1, mask (H, W) bool. Raises `ValueError` for another value."""
        if not (heatmap.min() >= 0 and heatmap.max() <= 1):
            raise ValueError(f"found a heatmap from {heatmap.min():g} to {heatmap.max():g}, expected probabilities")
        probability = heatmap.astype(np.float64)
        with np.errstate(divide="ignore"):  # 0 and 1 are infinitely far out: the outermost bins
            logit = np.log(probability) - np.log1p(-probability)
        position = (logit / LOGIT_RANGE + 1) * (BINS / 2)
        bins = np.clip(position, 0, BINS - 1).astype(np.int64)
        for kind, pixels in enumerate((bins[~mask], bins[mask])):
            self.counts[kind] += np.bincount(pixels, minlength=BINS)

    def figures(self) -> dict[str, float | None]:
        """`pixel_auroc` and `pixel_average_precision`, 0-1; None while one of the two kinds of pixel is missing."""
        labels, scores = np.repeat((0, 1), BINS), np.tile(np.arange(BINS), 2)
        seen = self.counts.ravel() > 0
        return _auroc_and_average_precision("pixel", labels[seen], scores[seen], self.counts.ravel()[seen])


def image_figures(is_defective: list[bool], scores: list[float]) -> dict[str, float | None]:
    """`image_auroc` and `image_average_precision`, 0-1, of one score a strip; None while good or defective strips are missing."""
    return _auroc_and_average_precision("image", np.array(is_defective, dtype=int), np.array(scores), None)


def _auroc_and_average_precision(
    name: str, labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None
) -> dict[str, float | None]:
    if len(np.unique(labels)) < 2:
        return {f"{name}_auroc": None, f"{name}_average_precision": None}
    return {
        f"{name}_auroc": float(roc_auc_score(labels, scores, sample_weight=weights)),
        f"{name}_average_precision": float(average_precision_score(labels, scores, sample_weight=weights)),
    }

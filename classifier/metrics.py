"""How well kinds and masks are told: accuracy by kind, and overlap of masks by image."""

from dataclasses import dataclass, field

import numpy as np

MASK_THRESHOLD = 0.5  # of a pixel's probability, above which it belongs to the predicted mask


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, kinds: int) -> np.ndarray:
    """How often each kind (row) was taken for each kind (column): (K, K) int."""
    matrix = np.zeros((kinds, kinds), dtype=np.int64)
    np.add.at(matrix, (labels, predicted), 1)
    return matrix


def accuracy(confusion: np.ndarray) -> float | None:
    """The share of images whose kind is right, 0-1; None without images."""
    total = int(confusion.sum())
    return float(np.trace(confusion)) / total if total else None


def balanced_accuracy(confusion: np.ndarray) -> float | None:
    """The mean recall of those kinds that have images, 0-1; None without images."""
    counts = confusion.sum(axis=1)
    present = counts > 0
    return float((np.diag(confusion)[present] / counts[present]).mean()) if any(present) else None


@dataclass(frozen=True)
class KindFigures:
    """Precision, recall and F1 of one kind, 0-1, and its number of images.

    A figure is None where nothing defines it: precision where the kind was never predicted, recall
    without images, F1 without both.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    count: int


def kind_figures(confusion: np.ndarray) -> list[KindFigures]:
    """The figures of each kind, in the order of the matrix."""
    figures = []
    for number, right in enumerate(np.diag(confusion).tolist()):
        count, predicted = int(confusion[number].sum()), int(confusion[:, number].sum())
        figures.append(
            KindFigures(
                right / predicted if predicted else None,
                right / count if count else None,
                2 * right / (count + predicted) if count + predicted else None,
                count,
            )
        )
    return figures


@dataclass
class MaskMetrics:
    """Overlap of predicted with true masks of defective images, and empty masks of good ones.

    IoU and Dice are means over the defective images whose mask is known. A good image, whose mask
    is empty, has neither: it counts for the share of good images in which any pixel is predicted.
    """

    ious: list[float] = field(default_factory=list)
    dices: list[float] = field(default_factory=list)
    good_masked: list[bool] = field(default_factory=list)

    def update(self, predicted: np.ndarray, truth: np.ndarray) -> None:
        """Count an image by its masks (H, W) bool."""
        if not truth.any():
            self.good_masked.append(bool(predicted.any()))
            return
        overlap, total = int((predicted & truth).sum()), int(predicted.sum()) + int(truth.sum())
        self.ious.append(overlap / (total - overlap))
        self.dices.append(2 * overlap / total)

    def figures(self) -> dict[str, float | None]:
        """`iou`, `dice` and `good_masked`, 0-1; None where no image defines one."""
        return {
            "iou": _mean(self.ious),
            "dice": _mean(self.dices),
            "good_masked": _mean(self.good_masked),
        }


def _mean(values: list) -> float | None:
    return float(np.mean(values)) if values else None

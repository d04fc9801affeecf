"""What a training measures on its held-out images after each epoch."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from classifier.defect_samples import LabelledImages
from classifier.metrics import (
    MASK_THRESHOLD,
    MaskMetrics,
    accuracy,
    balanced_accuracy,
    confusion_matrix,
)
from common.distributed import ProcessGroup
from data.folder import GOOD
from data.image_files import to_unit_range
from evaluation.metrics import image_figures

BATCH = 32  # images that are measured at once
BALANCED_ACCURACY, ACCURACY, IOU, DICE = "balanced_accuracy", "accuracy", "iou", "dice"
GOOD_MASKED, KIND_LOSS, AUROC = "good_masked", "kind_loss", "image_auroc"


class HeldOutImages:
    """Held-out images, measured by kind and by mask."""

    def __init__(self, images: LabelledImages, kinds: list[str]):
        self.images, self.kinds = images, kinds
        self.labels = np.array([kinds.index(picture.kind) for picture in images.pictures], int)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def has_defect_masks(self) -> bool:
        """Whether the mask of any defective image is known."""
        return any(picture.mask is not None for picture in self.images.pictures)

    @torch.inference_mode()
    def measure(self, network: nn.Module, processes: ProcessGroup) -> dict[str, float | None]:
        """Figures by name; each process measures its share, and all of them return the same.

        Accuracies, AUROC of good against defective, IoU and Dice of defective images, the share of
        good ones with any mask, and the mean cross-entropy of the kind, which is not finite where
        the network is not.
        """
        network.eval()
        numbers, found = processes.share(list(range(len(self)))), []
        masks = MaskMetrics()
        for first in range(0, len(numbers), BATCH):
            found += self._measure(network, numbers[first : first + BATCH], processes, masks)
        gathered = processes.gather((found, masks))
        rows = sorted(row for share, _ in gathered for row in share)
        merged = MaskMetrics(
            *(
                [value for _, share in gathered for value in getattr(share, name)]
                for name in ("ious", "dices", "good_masked")
            )
        )
        _, labels, predicted, scores, losses = zip(*rows)
        confusion = confusion_matrix(np.array(labels), np.array(predicted), len(self.kinds))
        is_known = self.kinds[0] == GOOD and bool(np.isfinite(scores).all())
        figures = image_figures([label > 0 for label in labels], scores) if is_known else {}
        return {
            BALANCED_ACCURACY: balanced_accuracy(confusion),
            ACCURACY: accuracy(confusion),
            **merged.figures(),
            AUROC: figures.get(AUROC),
            KIND_LOSS: float(np.mean(losses)),
        }

    def _measure(
        self,
        network: nn.Module,
        numbers: list[int],
        processes: ProcessGroup,
        metrics: MaskMetrics,
    ) -> list[tuple[int, int, int, float, float]]:
        """Of each image: its number, kind, predicted kind, 1 - p(first kind), and loss."""
        images, masks = zip(*(self.images[number] for number in numbers))
        batch = torch.from_numpy(to_unit_range(np.stack(images))).to(processes.device)
        output = network(batch.to(memory_format=torch.channels_last))
        logits, labels = output.logits.float().cpu(), torch.from_numpy(self.labels[numbers])
        losses = functional.cross_entropy(logits, labels, reduction="none").tolist()
        scores = (1 - logits.softmax(dim=1)[:, 0]).tolist()
        if output.mask_logits is not None:
            shares = output.mask_logits.float().sigmoid().cpu().numpy()[:, 0]
            for share, mask in zip(shares, masks):
                if mask is not None:
                    metrics.update(share > MASK_THRESHOLD, mask)
        return list(zip(numbers, labels.tolist(), logits.argmax(dim=1).tolist(), scores, losses))

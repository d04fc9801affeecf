"""The defect classifier as a task of the training loop: losses, validation and pictures."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from classifier.backbone import BackboneOutput
from classifier.crops import CropFacts
from classifier.defect_checkpoint import COMMAND, CROPS, make_network
from classifier.defect_loss import DynamicWeightScheduler, MultiTaskLoss, balanced_weights
from classifier.defect_model import CLASSIFICATION, AttentionGuidedDefectClassifier, DefectOutput
from classifier.defect_samples import DefectSamples, LabelledImages
from classifier.defect_settings import BALANCED, DefectSettings
from classifier.held_out import (
    ACCURACY,
    AUROC,
    BALANCED_ACCURACY,
    BATCH,
    DICE,
    IOU,
    KIND_LOSS,
    HeldOutImages,
)
from classifier.run_files import BEST_IOU_SUFFIX
from classifier.tool import TOOL
from common.distributed import ProcessGroup
from data.folder import GOOD
from data.image_files import to_unit_range
from gaussian import MAX_GREY
from reporting.pictures import grey, heat
from training.selection import VALID
from training.task import Batch, Forward, Task, Validation

SAMPLES_SHOWN = 8
# features of a frozen backbone that are kept instead of computed again: at most so many bytes
MOST_KEPT = 2**30


@dataclass(frozen=True)
class DefectImages:
    """The images of a run: `kinds` in the order of the classes, and a hash of all pixels.

    `valid` is None where nothing is held out, and `crops` where they are no crops of strips.
    """

    kinds: list[str]
    train: LabelledImages
    valid: LabelledImages | None
    images_hash: str
    crops: CropFacts | None = None

    def describe(self) -> str:
        """A line with the numbers of images, kinds and masks."""
        pictures = self.train.pictures
        defective = [picture for picture in pictures if picture.kind != GOOD]
        masked = sum(picture.mask is not None for picture in defective)
        held_out = len(self.valid.pictures) if self.valid else 0
        return (
            f"{len(pictures)} images of {len(self.kinds)} kinds ({', '.join(self.kinds)}), "
            f"{masked} of {len(defective)} defective ones with a mask; {held_out} held out"
        )


class DefectTask(Task):
    """Trains kinds and masks together; `resumed` or `init` is where the weights begin.

    Each is the content of a checkpoint: that of the run itself, or of an earlier stage. Raises
    `UserError` for a backbone that cannot be made.
    """

    tool, command = TOOL, COMMAND.removeprefix("python ")
    headlines = (BALANCED_ACCURACY, ACCURACY, AUROC, IOU, DICE)
    held_out = "the images of valid/"

    def __init__(
        self,
        settings: DefectSettings,
        images: DefectImages,
        processes: ProcessGroup,
        resumed: dict[str, Any] | None = None,
        init: dict[str, Any] | None = None,
    ):
        self.settings, self.images, self.device = settings, images, processes.device
        self.samples = DefectSamples(images.train, images.kinds, settings.seed, settings.augment)
        self.validated = HeldOutImages(images.valid, images.kinds) if images.valid else None
        self.has_validation = self.validated is not None
        self.metric = VALID + BALANCED_ACCURACY if self.validated else None
        has_masks = settings.architecture != CLASSIFICATION
        if self.validated and has_masks and self.validated.has_defect_masks:
            self.more_bests = {BEST_IOU_SUFFIX: VALID + IOU}
        self.weight_decay = settings.weight_decay
        self.loss_function = self._make_loss().to(self.device)
        self._began, self._init = resumed or init, init
        self._is_alone = processes.count == 1 and not settings.compile
        self._kept: list[torch.Tensor] | None = None
        self.backbone_config: dict[str, Any] | None = None

    def _make_loss(self) -> MultiTaskLoss:
        settings = self.settings
        counts = np.bincount(self.samples.labels, minlength=len(self.images.kinds)).tolist()
        return MultiTaskLoss(
            settings.weighting,
            settings.alpha,
            settings.beta,
            settings.seg_loss,
            DynamicWeightScheduler(
                settings.weight_schedule, settings.epochs_before, settings.switch_epoch
            ),
            (settings.focal_alpha, settings.focal_gamma) if settings.focal_loss else None,
            balanced_weights(counts) if settings.class_weights == BALANCED else None,
        )

    def make_network(self) -> AttentionGuidedDefectClassifier:
        content = self.settings.plain() | {"kinds": self.images.kinds, "backbone_config": None}
        if self._began:
            content["backbone_config"] = self._began["backbone_config"]
            network = make_network(content)
        else:
            network = make_network(content, self.settings.pretrained)
        if self._init:
            network.load_state_dict(self._init["model_state_dict"])
        self.backbone_config = network.backbone.config
        return network

    def predict(self, forward: Forward, batch: Batch) -> DefectOutput:
        """The network's output; what it drops at random follows from the samples alone."""
        if self.settings.dropout:
            torch.manual_seed(int(batch["draw"][0]))
        if self._keeps_features(forward):
            numbers = batch["number"]
            token, grid, *skips = (tensor[numbers].to(self.device) for tensor in self._kept)
            return forward.classify(
                BackboneOutput(token, grid, tuple(skips)), self.images.train.size
            )
        return forward(batch["image"])

    def _keeps_features(self, network: nn.Module) -> bool:
        """Whether each image's features are known: a frozen backbone, and nothing random before.

        They are computed at the first call, and are not kept where they are too large.
        """
        settings = self.settings
        if not settings.freeze_backbone or settings.augment or not self._is_alone:
            return False
        if self._kept is None:
            self._kept = self._compute_features(network)
        return bool(self._kept)

    @torch.no_grad()
    def _compute_features(self, network: nn.Module) -> list[torch.Tensor]:
        """The features of all images by number, each a tensor; empty where they are too large."""
        parts: list[list[torch.Tensor]] = []
        for first in range(0, len(self.samples), BATCH):
            numbers = range(first, min(first + BATCH, len(self.samples)))
            images = np.stack([self.images.train[number][0] for number in numbers])
            batch = torch.from_numpy(to_unit_range(images)).to(self.device)
            token, grid, skips = network.backbone(batch.to(memory_format=torch.channels_last))
            parts.append([token, grid, *skips])
            size = sum(tensor.nbytes for tensor in parts[0]) * len(self.samples) / len(parts[0][0])
            if size > MOST_KEPT:
                return []
        return [torch.cat(tensors) for tensors in zip(*parts)]

    def loss(self, predicted: DefectOutput, batch: Batch, epoch: int) -> torch.Tensor:
        return self.loss_function(
            predicted, batch["label"], batch["mask"], batch["has_mask"], epoch
        )

    def scheduled(self, epoch: int) -> dict[str, float]:
        return dict(zip(("alpha", "beta"), self.loss_function.weights(epoch)))

    def validate(self, network: nn.Module, processes: ProcessGroup) -> Validation:
        if not self.validated:
            return Validation({})
        figures = self.validated.measure(network, processes)
        return Validation(figures, is_broken=not np.isfinite(figures[KIND_LOSS]))

    def describe(self) -> tuple[str, str, str]:
        settings = self.settings
        frozen = ", frozen" if settings.freeze_backbone else ""
        network = f"{settings.architecture} on {settings.backbone}{frozen}"
        return self.images.describe(), network, f"{settings.weighting} weights; "

    def facts(self) -> dict[str, Any]:
        return {
            "kinds": self.images.kinds,
            "backbone_config": self.backbone_config,
            "images_hash": self.images.images_hash,
            CROPS: self.images.crops.entry() if self.images.crops else None,
        }

    def samples_to_show(self) -> list[dict[str, np.ndarray]]:
        step = max(1, len(self.samples) // SAMPLES_SHOWN)
        samples = [self.samples[0, index] for index in range(0, len(self.samples), step)]
        return [
            {name: tensor.numpy() for name, tensor in sample.items()}
            for sample in samples[:SAMPLES_SHOWN]
        ]

    @torch.inference_mode()
    def draw(
        self, samples: list[dict[str, np.ndarray]], network: nn.Module | None
    ) -> np.ndarray | None:
        """Images above their masks, and above what the network sees; unknown masks are grey."""
        rows = [[grey(sample["image"][0] * MAX_GREY) for sample in samples]]
        rows.append(
            [
                grey(np.where(sample["has_mask"], sample["mask"][0], 0.5) * MAX_GREY)
                for sample in samples
            ]
        )
        if network is not None:
            images = torch.from_numpy(np.stack([sample["image"] for sample in samples]))
            masks = network.eval()(images.to(self.device)).mask_logits
            if masks is None:
                return None
            rows.append([heat(mask) for mask in masks[:, 0].float().sigmoid().cpu().numpy()])
        return cv2.vconcat([cv2.hconcat(row) for row in rows])

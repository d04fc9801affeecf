"""The strip detector as a task of the training loop: losses, validation and pictures."""

from typing import Any

import numpy as np
import torch
from torch import nn

from common.distributed import ProcessGroup
from data.image_files import STORED_ORDER
from data.recipes import make_recipe
from data.splits import Dataset
from dataloader import StripPatches, painted_samples
from evaluation.evaluate import evaluate
from evaluation.metrics import HEADLINES
from evaluation.model_info import STRIP_DETECTOR
from evaluation.predictors import TorchPredictor
from evaluation.stream import BROKEN_NETWORK
from gaussian import MAX_GREY
from loss import FocalLoss
from model import ARCHITECTURES, SegmentationNetworkONNX
from reporting.pictures import draw_samples
from training.distillation import TeacherLoss, describe_teacher, load_teacher
from training.schedules import gamma_at
from training.selection import VALID
from training.strip_settings import STRIPS_HASH, TrainingSettings
from training.task import Batch, Forward, Task, Validation


class StripTask(Task):
    """Trains the segmentation network on patches of good strips with a recipe's painted defects.

    Raises `UserError` for a teacher that is not a checkpoint.
    """

    tool, command = STRIP_DETECTOR, "trainer.py"
    headlines = HEADLINES

    def __init__(self, settings: TrainingSettings, dataset: Dataset, device: torch.device):
        self.settings, self.dataset, self.device = settings, dataset, device
        self.samples = training_patches(settings, dataset)
        self.metric = selection_metric(dataset, settings.use_mask)
        self.has_validation = bool(dataset.valid)
        self.focal_loss, self.teacher_loss = FocalLoss(settings.alpha), TeacherLoss(settings.alpha)
        self.teacher = load_teacher(settings.teacher, device) if settings.teacher else None

    def make_network(self) -> nn.Module:
        return ARCHITECTURES[self.settings.arch](base_channels=self.settings.base_channels)

    def predict(self, forward: Forward, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The logits (B, 2, h, w) of the network, and of its teacher (None without one)."""
        images = batch["three_channel_input"]
        logits = forward(images)
        if not self.teacher:
            return logits, None
        with torch.no_grad():
            return logits, self.teacher(images)

    def loss(
        self, predicted: tuple[torch.Tensor, torch.Tensor | None], batch: Batch, epoch: int
    ) -> torch.Tensor:
        (logits, teacher_logits), masks, gamma = predicted, batch["target_mask"], self._gamma(epoch)
        loss = self.focal_loss(logits.float(), masks, gamma)
        if teacher_logits is None:
            return loss
        return loss + self.teacher_loss(logits.float(), teacher_logits.float(), masks, gamma)

    def _gamma(self, epoch: int) -> float:
        settings = self.settings
        return gamma_at(
            epoch,
            settings.epochs,
            settings.gamma_start,
            settings.gamma_end,
            settings.gamma_schedule,
        )

    def scheduled(self, epoch: int) -> dict[str, float]:
        return {"gamma": self._gamma(epoch)}

    def validate(self, network: nn.Module, processes: ProcessGroup) -> Validation:
        settings, valid = self.settings, self.dataset.valid
        if not valid:
            return Validation({})
        predictor = TorchPredictor(
            network, settings.patch, self.device, settings.align, settings.weighting
        )
        result = evaluate(
            predictor,
            valid,
            settings.input_max,
            "validation",
            use_masks=settings.use_mask,
            processes=processes,
        )
        is_broken = any(BROKEN_NETWORK in problem for problem in result.problems)
        metrics, rate = result.metrics, settings.target_false_alarms
        figures = result.figures | metrics.ranks.figures()
        figures[f"point_recall_at_{rate:g}"] = metrics.points.recall(rate)
        return Validation(figures, is_broken, result.problems[0] if result.problems else None)

    def describe(self) -> tuple[str, str, str]:
        settings = self.settings
        network = f"{settings.arch} with {settings.base_channels} base channels"
        taught = f"{describe_teacher(self.teacher, settings.teacher)}; " if self.teacher else ""
        return self.dataset.describe(), network, taught

    def facts(self) -> dict[str, Any]:
        height, width = self.dataset.image_size
        return {STRIPS_HASH: self.dataset.strips_hash(), "img_height": height, "img_width": width}

    def samples_to_show(self) -> list[dict[str, np.ndarray]]:
        return painted_samples(self.samples)

    @torch.inference_mode()
    def draw(self, samples: list[dict[str, np.ndarray]], network: nn.Module | None) -> np.ndarray:
        if network is None:
            return draw_samples(samples)
        images = np.stack([sample["three_channel_input"] for sample in samples])
        heatmaps = (
            SegmentationNetworkONNX(network)
            .eval()(torch.from_numpy(images).to(self.device))[:, 0]
            .cpu()
            .numpy()
        )
        return draw_samples(samples, heatmaps)


def training_patches(settings: TrainingSettings, dataset: Dataset) -> StripPatches:
    """The training samples of a run: those of the aligned copies where the run has them."""
    return StripPatches(
        dataset.copies or [strip.path for strip in dataset.train],
        dataset.image_size,
        settings.patch,
        make_recipe(settings.recipe, settings.num_defects_range, settings.recipe_settings),
        settings.seed,
        MAX_GREY if dataset.copies else settings.input_max,
        settings.cache_size,
        # copies have Target first, and values that matching moved out of 0-255
        STORED_ORDER if dataset.copies else settings.channels,
        is_clipped=not dataset.copies,
    )


def selection_metric(dataset: Dataset, use_masks: bool) -> str | None:
    """The metric that selects the best checkpoint; None when nothing can be validated.

    It is the metric closest to the task that the validation strips allow: pixel average precision
    with masks, else image average precision with good and defective strips.
    """
    kinds = {strip.is_defective for strip in dataset.valid}
    if use_masks and any(strip.mask or strip.painted_with for strip in dataset.valid):
        return f"{VALID}pixel_average_precision"
    return f"{VALID}image_average_precision" if {True, False} <= kinds else None

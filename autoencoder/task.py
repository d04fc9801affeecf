"""The reference-free detector as a task of the training loop: losses, validation and pictures."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from autoencoder.epoch_picture import draw_column, draw_samples, write_epoch_picture
from autoencoder.health import collapse_warnings, measure_health
from autoencoder.losses import MaskLoss, PictureLoss, parse_loss
from autoencoder.model import TOOL, make_network
from autoencoder.perceptual import frozen_features
from autoencoder.pictures import Pictures
from autoencoder.samples import PictureCrops
from autoencoder.settings import AutoencoderSettings
from autoencoder.validation import (
    HELD_OUT_LOSS,
    PSEUDO,
    REAL,
    TRIVIAL,
    UNLABELLED,
    HeldOut,
)
from autoencoder.validation_warnings import warnings_of
from common.distributed import ProcessGroup
from common.notes import warn
from training.checkpoint import save_checkpoint
from training.run_folder import RunFolder
from training.selection import VALID, History
from training.task import Batch, Forward, Task, Validation

EPOCHS_SUFFIX, EPOCHS_PICTURE, LIBRARY_SUFFIX = "_epochs", "_epochs.png", "_library.pth"
# of a run's files, besides every run's
MORE_SUFFIXES = (EPOCHS_SUFFIX, EPOCHS_PICTURE, LIBRARY_SUFFIX)
SAMPLES_SHOWN = 8  # of the first epoch, in the picture of samples
CHOSEN_BY = {"loss": HELD_OUT_LOSS, "pseudo": PSEUDO, "real": REAL}


class AutoencoderTask(Task):
    """Trains a U-Net to reconstruct, to repair, or to segment painted damage of good pictures.

    Raises `UserError` for pictures that cannot be read, a --perceptual network that cannot be
    loaded, and a --real_path or --unlabelled_path without pictures that serve.
    """

    tool, command = TOOL, "-m autoencoder.trainer"
    headlines = (HELD_OUT_LOSS, PSEUDO, *TRIVIAL, REAL, UNLABELLED)
    has_validation = True
    held_out = "held-out pictures"

    def __init__(self, settings: AutoencoderSettings, pictures: Pictures, processes: ProcessGroup):
        self.settings, self.pictures, self.device = settings, pictures, processes.device
        defects = settings.defects()
        self.samples = PictureCrops(pictures.train, settings, defects, processes.count)
        self.validated = HeldOut(
            pictures.valid, pictures.train, settings, defects, pictures.channels
        )
        self.metric = VALID + CHOSEN_BY[settings.choose_by]
        self.lowest_is_best = settings.choose_by == "loss"
        self.weight_decay = settings.weight_decay
        self.is_segmented = settings.task == "segment"
        self.loss_function = self._make_loss()

    def _make_loss(self) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        settings = self.settings
        if self.is_segmented:
            return MaskLoss()
        weights = parse_loss(settings.loss)
        features = None
        if "perceptual" in weights and settings.perceptual:
            features = frozen_features(
                settings.perceptual,
                settings.perceptual_model,
                self.pictures.channel_count,
                self.device,
            )
        return PictureLoss(weights, settings.ssim_window, features)

    def make_network(self) -> nn.Module:
        return make_network(vars(self.settings) | {"channels": self.pictures.channel_count})()

    def predict(self, forward: Forward, batch: Batch) -> torch.Tensor:
        """The raw output of the network."""
        return forward(batch["input"])

    def loss(self, predicted: torch.Tensor, batch: Batch, epoch: int) -> torch.Tensor:
        return self.loss_function(predicted.float(), batch["target"])

    def is_validated(self, epoch: int) -> bool:
        return (epoch + 1) % self.settings.validate_every == 0 or (
            epoch + 1 == self.settings.epochs
        )

    def validate(self, network: nn.Module, processes: ProcessGroup) -> Validation:
        figures = self.validated.measure(network, self.loss_function, processes)
        if not np.isfinite(figures[HELD_OUT_LOSS]):
            return Validation({}, is_broken=True)
        health = measure_health(
            network, *self.validated.probe(self.device), self.loss_function, self.is_segmented
        )
        return Validation(figures | health)

    def after_epoch(self, history: History, network: nn.Module, folder: RunFolder) -> None:
        epoch = history[-1]["epoch"]
        for text in (
            *collapse_warnings(history, self.is_segmented, self.settings.epochs),
            *warnings_of(history, VALID),
        ):
            warn(text)
        place = folder.file(EPOCHS_SUFFIX)
        if self.settings.keep_epochs and epoch % self.settings.keep_epochs == 0:
            kept = self.settings.plain() | self.facts()
            save_checkpoint(
                place / f"epoch_{epoch:04}.pth",
                kept
                | {"tool": self.tool, "epoch": epoch, "history": history}
                | {"model_state_dict": dict(network.state_dict())},
            )
        if self.is_validated(epoch - 1):
            column = draw_column(network, self.validated, self.settings.task, self.device)
            picture = write_epoch_picture(place, folder.file(EPOCHS_PICTURE), epoch, column)
            folder.add_samples(picture, epoch, "epochs")

    def describe(self) -> tuple[str, str, str]:
        settings = self.settings
        network = (
            f"U-Net of depth {settings.depth} with {settings.base_channels} base channels and "
            f"--skips {settings.skips}"
        )
        loss = "" if self.is_segmented else f" by {settings.loss}"
        return self.pictures.describe(), network, f"task {settings.task}{loss}; "

    def facts(self) -> dict[str, Any]:
        return self.pictures.facts()

    def samples_to_show(self) -> list[dict[str, np.ndarray]]:
        step = max(1, len(self.samples) // SAMPLES_SHOWN)
        samples = [self.samples[0, index] for index in range(0, len(self.samples), step)]
        return [
            {name: tensor.numpy() for name, tensor in sample.items()}
            for sample in samples[:SAMPLES_SHOWN]
        ]

    def draw(
        self, samples: list[dict[str, np.ndarray]], network: nn.Module | None
    ) -> np.ndarray | None:
        """Inputs above targets; the network's output is in the epoch picture."""
        return draw_samples(samples) if network is None else None

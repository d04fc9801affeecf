"""The settings of a reference-free detector's training, and those that suit the device."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from autoencoder.pseudo_defects import PseudoDefects
from training.settings import LoopSettings

LEAST_CROPS = 1024  # in an epoch of the full preset, where there are fewer pictures
TASKS = ("segment", "repair", "reconstruct")
FLIPS = ("none", "horizontal", "vertical", "both")
CHOICES = ("loss", "pseudo", "real")  # what selects the best epoch
# of a GPU: the plan
FULL_PRESET = {
    "bs": 32,
    "lr": 1e-4,
    "lr_schedule": "steps",
    "epochs": 200,
    "input_size": 256,
    "base_channels": 32,
    "epoch_crops": None,
    "validate_every": 1,
}
# of the CPU: 1600 steps, about five minutes on two cores
SMALL_PRESET = {
    "bs": 8,
    "lr": 2e-3,
    "lr_schedule": "one_cycle",
    "epochs": 20,
    "input_size": 96,
    "base_channels": 16,
    "epoch_crops": 640,
    "validate_every": 2,
    "amp": False,
}
RUN_NAME = "Autoencoder_{task}_lr{lr}_ep{epochs}_bs{bs}_{input_size}"


@dataclass(frozen=True, kw_only=True)
class AutoencoderSettings(LoopSettings):
    """Every setting of a training; the fields are named like the flags."""

    training_dataset_path: Path
    img_format: str | None
    input_max: float
    cache_size: int
    task: str
    depth: int
    base_channels: int
    skips: str
    bottleneck: int | None
    loss: str
    ssim_window: int
    perceptual: str | None
    perceptual_model: Path | None
    weight_decay: float
    input_size: int
    input_sizes: tuple[int, ...] | None
    scale_range: tuple[float, float] | None
    zoom_range: tuple[float, float]
    flips: str
    coarse_dropout: int
    epoch_crops: int | None
    valid_share: float
    validate_every: int
    defect_kinds: str
    defect_size: tuple[float, float]
    defect_rotation: float
    defect_contrast: tuple[float, float]
    real_path: Path | None
    unlabelled_path: Path | None
    choose_by: str
    keep_epochs: int | None
    name: str | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sides of the crops in pixels, of which each batch has one."""
        return self.input_sizes or (self.input_size,)

    def defects(self) -> PseudoDefects:
        """What paints the pseudo-defects of training and validation."""
        return PseudoDefects(
            tuple(kind.strip() for kind in self.defect_kinds.split(",")),
            self.defect_size,
            self.defect_rotation,
            self.defect_contrast,
        )

    def run_name(self) -> str:
        """The name of the run's files."""
        return self.name or RUN_NAME.format(**self.plain())


def device_preset(gpu_id: int | None) -> dict[str, Any]:
    """The settings that suit the device of --gpu_id."""
    if gpu_id == -1 or not torch.cuda.is_available():
        return SMALL_PRESET
    return FULL_PRESET | {"amp": torch.cuda.is_bf16_supported(including_emulation=False)}

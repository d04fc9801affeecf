"""The settings of a defect classifier's training, and those that suit the device."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from training.settings import LoopSettings

NO_WEIGHTS, BALANCED = "none", "balanced"  # of --class_weights
# of one stage: weights that begin at random
PRESET = {"epochs": 45, "bs": 16, "lr": 1e-3, "lr_schedule": "one_cycle"}
# of two stages: first all but the backbone, then everything at a tenth of the learning rate
STAGE1 = {"epochs": 30, "bs": 32, "lr": 1e-3}
STAGE2 = {"epochs": 70, "bs": 16, "lr": 1e-4}
STAGE1_FOLDER, STAGE2_FOLDER = "stage1", "stage2"


@dataclass(frozen=True, kw_only=True)
class DefectSettings(LoopSettings):
    """Every setting of a training; the fields are named like the flags.

    `image_size` (height, width) in pixels and `channels` are those of the images that the network
    takes; None until the images are read. `epochs_before` are those of the stages before this one.
    `next_stage` has the settings by which a further stage differs from this one, None without one.
    """

    data_root: Path
    input_max: float
    cache_size: int
    image_size: tuple[int, ...] | None
    channels: int | None
    augment: bool
    backbone: str
    pretrained: str | None
    freeze_backbone: bool
    architecture: str
    guidance: str
    decoder_channels: tuple[int, ...]
    head_channels: tuple[int, ...]
    dropout: float
    weight_decay: float
    alpha: float
    beta: float
    use_dynamic_weights: bool
    weight_schedule: str
    switch_epoch: int
    use_uncertainty_weighting: bool
    focal_loss: bool
    focal_alpha: float
    focal_gamma: float
    class_weights: str
    seg_loss: str
    init: Path | None
    epochs_before: int = 0
    next_stage: dict[str, Any] | None = None

    @property
    def weighting(self) -> str:
        """How the two losses are weighted, one of defect_loss.WEIGHTINGS."""
        if self.use_dynamic_weights:
            return "dynamic"
        return "uncertainty" if self.use_uncertainty_weighting else "fixed"


def device_preset(gpu_id: int | None) -> dict[str, Any]:
    """The settings that suit the device of --gpu_id."""
    if gpu_id == -1 or not torch.cuda.is_available():
        return PRESET | {"amp": False}
    return PRESET | {"amp": torch.cuda.is_bf16_supported(including_emulation=False)}

"""Settings of a strip detector's training that depend on the device and on the number of strips."""

import math
from typing import Any

import torch

from ops.tiling import tile_positions
from training.strip_settings import TrainingSettings

FULL_PRESET = {"base_channels": 64, "epochs": 30}  # with a GPU
SMALL_PRESET = {"base_channels": 16, "epochs": 10, "amp": False}  # without one
# A network that takes fewer steps than this learns too little to find anything: with 70 steps, its
# recall is 0. The 60 demo strips take 680 in the small preset, which is near enough.
FEWEST_STEPS, NEAR_ENOUGH = 700, 0.95


def device_preset(gpu_id: int | None) -> dict[str, Any]:
    """The width, the epochs and the precision that suit the device of --gpu_id."""
    if gpu_id == -1 or not torch.cuda.is_available():
        return SMALL_PRESET
    return FULL_PRESET | {"amp": torch.cuda.is_bf16_supported(including_emulation=False)}


def epochs_for(
    settings: TrainingSettings, strips: int, image_size: tuple[int, int], processes: int
) -> int:
    """The epochs of `settings`, or more where the strips are so few that steps would be missing.

    The strips are those to train on, of `image_size` (height, width) in pixels.
    """
    steps = steps_per_epoch(settings, strips, image_size, processes)
    if settings.epochs * steps >= NEAR_ENOUGH * FEWEST_STEPS:
        return settings.epochs
    return math.ceil(FEWEST_STEPS / steps)


def steps_per_epoch(
    settings: TrainingSettings, strips: int, image_size: tuple[int, int], processes: int
) -> int:
    """The steps of an epoch: every tile of every strip once, as `TrainingLoader` counts them."""
    tiles = strips * len(tile_positions(image_size, settings.patch))
    batches = math.ceil(tiles / (settings.bs * processes))
    return math.ceil(batches / settings.accumulate)

"""Networks that are not trained, whose features the `perceptual` loss compares."""

from pathlib import Path

import torch
from torch import nn

from autoencoder.losses import Features
from autoencoder.model import load_model
from autoencoder.network import UNet
from common.errors import UserError

KINDS = ("own", "random", "lite0")
LITE0_STAGES = 5  # strides 2, 4, 8, 16, 16
RANDOM_SEED, RANDOM_DEPTH, RANDOM_CHANNELS = 24_100, 3, 16


def frozen_features(
    kind: str, checkpoint: Path | None, channels: int, device: torch.device
) -> Features:
    """The features of a network of KINDS, for pictures (B, channels, h, w), 0-1.

    `own` is the encoder of an earlier `checkpoint`, `random` an untrained one, and `lite0`
    EfficientNet-Lite0 with the weights of a package that has to be installed.

    Raises `UserError` for a checkpoint that cannot be loaded or has other channels, and where
    lite0 is not installed.
    """
    if kind == "lite0":
        from ops.efficientnet_lite0 import load_lite0  # only where it is asked for

        network = load_lite0().to(device)
        return lambda pictures: network.levels(pictures, LITE0_STAGES)
    if kind == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            return _frozen(UNet(channels, RANDOM_DEPTH, RANDOM_CHANNELS), device).encode
    if checkpoint is None:
        raise UserError("--perceptual own: found no --perceptual_model, expected a checkpoint")
    model = load_model(checkpoint)
    if model.channels != channels:
        raise UserError(
            f"--perceptual_model {checkpoint}: found a model of {model.channels} channels, "
            f"expected one of {channels}"
        )
    return _frozen(model.network, device).encode


def _frozen(network: nn.Module, device: torch.device) -> nn.Module:
    return network.eval().requires_grad_(False).to(device)

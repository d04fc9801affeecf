"""What a backbone is: images to a class token, a grid of features, and finer maps."""

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

RANDOM = "none"  # of --pretrained: weights drawn at random


class BackboneOutput(NamedTuple):
    """Features of images: `class_token` (B, dim), `grid` (B, dim, h, w), finer maps in `skips`.

    `skips` are (B, channels, H / stride, W / stride) as `Backbone.skips` says, of the padded
    images; the finest comes first.
    """

    class_token: torch.Tensor
    grid: torch.Tensor
    skips: tuple[torch.Tensor, ...] = ()


class Backbone(nn.Module):
    """Base of all backbones.

    `channels` are the images', `dim` the features'. A cell of the grid is `stride` pixels along
    each side. Images are padded to a multiple of `multiple`. `skips` has the stride and the
    channels of each finer map. `config` describes a network of `transformers` in plain values.
    """

    config: dict[str, Any] | None = None

    def __init__(
        self,
        channels: int,
        dim: int,
        stride: int,
        skips: tuple[tuple[int, int], ...] = (),
        multiple: int | None = None,
    ):
        super().__init__()
        self.channels, self.dim, self.stride, self.skips = channels, dim, stride, skips
        self.multiple = multiple or stride

    def forward(self, images: torch.Tensor) -> BackboneOutput:
        """Features of (B, channels, H, W), 0-1, of any size."""
        return self.features(self.pad(images))

    def features(self, images: torch.Tensor) -> BackboneOutput:
        """Features of images whose sides are multiples of `multiple`."""
        raise NotImplementedError

    def pad(self, images: torch.Tensor) -> torch.Tensor:
        """Images with the border repeated to the right and below, up to a multiple."""
        height, width = (int(size) for size in images.shape[2:])
        down, right = -height % self.multiple, -width % self.multiple
        if not (down or right):
            return images
        return functional.pad(images, (0, right, 0, down), mode="replicate")


def spread_first_layer(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """Weights (D, C, k, k) of a first layer for another number of channels.

    An image whose channels are all equal gets the same features as a grey one before.
    """
    mean = weight.mean(dim=1, keepdim=True) * (weight.shape[1] / channels)
    return mean.repeat(1, channels, 1, 1)

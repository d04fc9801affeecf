"""How far the pixels around each pixel are from the mean of good pictures' patches.

Libraries of earlier versions have it in place of patch_mixtures.py. Directions count as they told
painted damage from good patches: see metric.py.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from autoencoder.patch_mixtures import patches_around
from ops.filters import sizes
from training.checkpoint import is_stored

PATCH = 7  # pixels along each side
PATCH_TENSORS = ("patch_mean", "patch_matrix")


class PatchStatistics(nn.Module):
    """The distance of each pixel's patch from the mean of its cluster's patches, told in cells.

    `patch_mean` (K, P) and `patch_matrix` (K, P, P) map patches of P = C * PATCH**2 values of
    each of K clusters. The mean of the picture is subtracted: a picture that is sharper or noisier
    everywhere is none with a defect.
    """

    kinds = ("patches",)

    def __init__(self, mean: torch.Tensor, matrix: torch.Tensor, cell: int):
        super().__init__()
        self.cell = cell
        for name, tensor in zip(PATCH_TENSORS, (mean, matrix)):
            self.register_buffer(name, tensor.float().contiguous())

    def state(self) -> dict[str, torch.Tensor]:
        """The tensors that make the statistics again."""
        return {name: getattr(self, name) for name in PATCH_TENSORS}

    def forward(self, pictures: torch.Tensor, clusters: torch.Tensor | None = None) -> torch.Tensor:
        """(B, C, h, w), unit range, multiples of the cell, to (B, 1, h / cell, w / cell)."""
        count = int(self.patch_mean.shape[0])
        if count == 1 or clusters is None:
            mean, matrix = self.patch_mean[:1], self.patch_matrix[:1]
        else:
            mean, matrix = self.patch_mean[clusters], self.patch_matrix[clusters]
        height, width = sizes(pictures)
        white = (patches_around(pictures, 1, PATCH) - mean[:, None]) @ matrix
        distances = white.square().sum(dim=2).sqrt().reshape(-1, 1, height, width)
        cells = functional.avg_pool2d(distances, self.cell)
        return cells - cells.mean(dim=(2, 3), keepdim=True)


def fits(state: Any, clusters: int, channels: int) -> bool:
    """Whether what a file holds are statistics of so many clusters and channels."""
    size = channels * PATCH**2
    shapes = ((clusters, size), (clusters, size, size))
    return (
        isinstance(state, dict)
        and set(state) == set(PATCH_TENSORS)
        and all(
            is_stored(state[name]) and tuple(state[name].shape) == shape
            for name, shape in zip(PATCH_TENSORS, shapes)
        )
    )

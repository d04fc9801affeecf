"""How likely the pixels around each pixel are in good pictures, and in pictures with damage.

A library's features leave brightness and contrast out, so that uneven light changes nothing. These
maps keep them. The patches of a surface are a mixture of Gaussians (Zoran and Weiss, "From learning
models of natural image patches to whole image restoration", 2011): flat places, edges and every
contrast have Gaussians of their own.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ops.filters import sizes
from training.checkpoint import is_stored

PATCH = 5  # pixels along each side
STEP = 2  # pixels between patches, and the factor by which the coarse scale is smaller
FINE, COARSE, DAMAGED = MIXTURES = ("fine", "coarse", "damaged")
TENSORS = ("log_weight", "mean", "matrix")
OF_MIXTURES = ("likelihood", "coarse likelihood", "damage ratio")


class PatchMixture(nn.Module):
    """Mixtures of M Gaussians of vectors of P numbers, one for each of K clusters.

    `log_weight` (K, M) is the logarithm of a Gaussian's weight times its density at its mean, up to
    a constant, `mean` (K, M, P), and `matrix` (K, M, P, P) whitens what differs from the mean.
    """

    def __init__(self, log_weight: torch.Tensor, mean: torch.Tensor, matrix: torch.Tensor):
        super().__init__()
        for name, tensor in zip(TENSORS, (log_weight, mean, matrix)):
            self.register_buffer(name, tensor.float().contiguous())

    def forward(self, vectors: torch.Tensor, clusters: torch.Tensor | None) -> torch.Tensor:
        """Vectors (B, N, P) to the logarithms (B, N) of their densities.

        `clusters` (B,) int64 are those of the pictures; None: the first one for all.
        """
        tensors = (self.log_weight, self.mean, self.matrix)
        if len(self.log_weight) == 1 or clusters is None:
            log_weight, mean, matrix = (tensor[:1] for tensor in tensors)
        else:
            log_weight, mean, matrix = (tensor[clusters] for tensor in tensors)
        # one Gaussian after the other: all at once take M times the memory
        logs = [
            log_weight[:, number, None]
            - ((vectors - mean[:, number, None]) @ matrix[:, number]).square().sum(dim=2) / 2
            for number in range(int(log_weight.shape[1]))
        ]
        return torch.stack(logs).logsumexp(dim=0)


class PatchMixtures(nn.Module):
    """Maps of OF_MIXTURES, each pixel's patch by the mixtures of its picture's cluster, by cells.

    likelihood         minus the log-likelihood of the patch in good pictures
    coarse likelihood  the same at half the size
    damage ratio       the log-likelihood with damage less that in good pictures; only with a
                       mixture `damaged`

    `mixtures` are MIXTURES by name. The mean of each map is subtracted: a picture that is sharper
    or noisier everywhere is none with a defect.
    """

    def __init__(self, mixtures: dict[str, PatchMixture], cell: int):
        super().__init__()
        self.cell = cell
        self.mixtures = nn.ModuleDict(mixtures)
        self.kinds = OF_MIXTURES[: len(mixtures)]

    def state(self) -> dict[str, torch.Tensor]:
        """The tensors that make the mixtures again."""
        return dict(self.mixtures.state_dict())

    def forward(self, pictures: torch.Tensor, clusters: torch.Tensor | None = None) -> torch.Tensor:
        """(B, C, h, w), unit range, multiples of the cell, to (B, kinds, h / cell, w / cell)."""
        fine = patches_around(pictures, STEP)
        coarse = patches_around(functional.avg_pool2d(pictures, STEP), 1)
        unlikely = [
            -self.mixtures[name](vectors, clusters)
            for name, vectors in ((FINE, fine), (COARSE, coarse))
        ]
        if DAMAGED in self.mixtures:
            unlikely.append(unlikely[0] + self.mixtures[DAMAGED](fine, clusters))
        height, width = (side // STEP for side in sizes(pictures))
        maps = torch.stack(unlikely, dim=1).reshape(-1, len(unlikely), height, width)
        cells = functional.avg_pool2d(maps, self.cell // STEP)
        return cells - cells.mean(dim=(2, 3), keepdim=True)


def make_mixtures(state: dict[str, torch.Tensor], cell: int) -> PatchMixtures:
    """The mixtures of a `state` that `fits`."""
    names = [name for name in MIXTURES if f"{name}.{TENSORS[0]}" in state]
    return PatchMixtures(
        {name: PatchMixture(*(state[f"{name}.{tensor}"] for tensor in TENSORS)) for name in names},
        cell,
    ).eval()


def fits(state: Any, clusters: int, channels: int) -> bool:
    """Whether what a file holds are mixtures for so many clusters and channels."""
    if not isinstance(state, dict) or len(state) not in (2 * len(TENSORS), 3 * len(TENSORS)):
        return False
    return all(
        _fits([state.get(f"{name}.{tensor}") for tensor in TENSORS], clusters, channels)
        for name in MIXTURES[: len(state) // len(TENSORS)]
    )


def _fits(tensors: Sequence[Any], clusters: int, channels: int) -> bool:
    if not all(is_stored(tensor) for tensor in tensors) or tensors[0].dim() != 2:
        return False
    count, size = tensors[0].shape[1], channels * PATCH**2
    shapes = ((clusters, count), (clusters, count, size), (clusters, count, size, size))
    return count > 0 and tuple(tuple(tensor.shape) for tensor in tensors) == shapes


def patches_around(pictures: torch.Tensor, step: int, side: int = PATCH) -> torch.Tensor:
    """The patches (B, N, C * side**2) around each `step`-th pixel of pictures (B, C, h, w).

    Border pixels are repeated outwards. h and w are multiples of `step`.
    """
    height, width = sizes(pictures)
    padded = functional.pad(pictures, (side // 2,) * 4, mode="replicate")
    first = step // 2
    planes = [
        padded[:, :, row : row + height : step, column : column + width : step]
        for row in range(first, first + side)
        for column in range(first, first + side)
    ]
    return torch.cat(planes, dim=1).flatten(start_dim=2).transpose(1, 2)


def log_density_at_mean(matrix: torch.Tensor) -> torch.Tensor:
    """The logarithm (...) of a Gaussian's density at its mean, of the triangular matrix (..., P, P)
    that whitens it."""
    constant = matrix.shape[-1] / 2 * math.log(2 * math.pi)
    return matrix.diagonal(dim1=-2, dim2=-1).abs().log().sum(dim=-1) - constant

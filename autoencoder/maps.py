"""Maps of how unusual each pixel is, before any normalisation.

A source computes some of MAPS of pictures (N, C, h, w), unit range, as (N, kinds, h, w). Larger
values are more unusual; their scale is the source's own.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

from autoencoder.scales import TRAINED
from common.errors import UserError
from ops.filters import blur, gaussian_window

LIBRARY, PATCHES = "library", "patches"
OF_LIBRARY = (LIBRARY, PATCHES)
MAPS = ("pixel", "ssim", "feature_difference", "mask", *OF_LIBRARY)
# Distances of single cells are noisy: on real tiles and on textures the AUROC rises with the share.
LIBRARY_TOP_SHARE = 0.05
PATCHES_TOP_SHARE = 0.005  # with the patches, which mark small places
SEGMENT = "segment"  # the task whose output is the mask, not the picture
# SSIM as published (Wang et al. 2004): a Gaussian window, and constants for a range of 0 to 1
SSIM_SIGMA, SSIM_REACH = 1.5, 5  # pixels
SSIM_LUMINANCE, SSIM_CONTRAST = 0.01**2, 0.03**2
LEAST_LENGTH = 1e-6  # of a feature vector, so that a dead cell divides by no zero


class NetworkMaps(nn.Module):
    """The maps `kinds` of one network: of its output's difference from the picture, or its mask.

    pixel               mean absolute difference of the channels, 0 to 1
    ssim                1 - SSIM of the pixel's surroundings, mean of the channels, 0 to 2
    feature_difference  distance of the encoder's features of picture and output, each of length 1,
                        mean of the levels, 0 to 2
    mask                the logit of the mask that the network gives

    Raises `UserError` for a kind that a network of this task cannot give.
    """

    cell, window_mode = 1, "sliding"
    top_share = 0.001  # a network marks the defect itself, which is small

    def __init__(
        self,
        network: nn.Module,
        task: str,
        kinds: Sequence[str],
        input_size: int,
        long_side: float | None = None,
    ):
        super().__init__()
        require_maps(task, kinds)
        self.network, self.kinds, self.input_size = network, tuple(kinds), input_size
        self.windows = (input_size if long_side is None else TRAINED,)
        self.long_side = long_side
        self.gives_pictures = task != SEGMENT
        self.multiple = int(network.multiple)

    def forward(self, pictures: torch.Tensor, clusters: torch.Tensor | None = None) -> torch.Tensor:
        """(N, C, h, w), h and w multiples of `multiple`, to (N, kinds, h, w).

        A network has no use for `clusters`.
        """
        if not self.gives_pictures:
            return self.network(pictures)
        output = self.output(pictures)
        make: dict[str, Callable[[], torch.Tensor]] = {
            "pixel": lambda: (pictures - output).abs().mean(dim=1, keepdim=True),
            "ssim": lambda: 1 - ssim_map(pictures, output),
            "feature_difference": lambda: self._feature_difference(pictures, output),
        }
        return torch.cat([make[kind]() for kind in self.kinds], dim=1)

    def output(self, pictures: torch.Tensor, clusters: torch.Tensor | None = None) -> torch.Tensor:
        """The network's picture (N, C, h, w), 0-1, of a task that gives one."""
        return self.network(pictures).clamp(0, 1)

    def _feature_difference(self, pictures: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        size = tuple(int(length) for length in pictures.shape[2:])
        levels = []
        for ours, theirs in zip(self.network.encode(pictures), self.network.encode(output)):
            difference = _directions(ours) - _directions(theirs)
            distance = difference.square().sum(dim=1, keepdim=True).sqrt()
            levels.append(functional.interpolate(distance, size, mode="nearest"))
        return torch.cat(levels, dim=1).mean(dim=1, keepdim=True)


def library_top_share(kinds: Sequence[str]) -> float:
    """The top share that suits the maps `kinds` of a library."""
    return PATCHES_TOP_SHARE if PATCHES in kinds else LIBRARY_TOP_SHARE


def require_maps(task: str, kinds: Sequence[str]) -> None:
    """Raise `UserError` for kinds of --score that a network of this task cannot give."""
    known = maps_of(task)
    for kind in kinds:
        if kind not in known:
            raise UserError(
                f"--score {kind}: found a network of --task {task}, which gives "
                f"{' or '.join(known)}, expected one of those"
            )


def maps_of(task: str) -> tuple[str, ...]:
    """The kinds of maps that a network of a task can give."""
    return ("mask",) if task == SEGMENT else ("pixel", "ssim", "feature_difference")


def ssim_map(pictures: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """The structural similarity (N, 1, h, w), -1 to 1, of pictures (N, C, h, w), unit range.

    It is that of Wang et al., "Image quality assessment: from error visibility to structural
    similarity", 2004, at each pixel, mean of the channels. Border pixels are repeated outwards.
    """
    window = gaussian_window(SSIM_SIGMA, SSIM_REACH)
    mean, other_mean = blur(pictures, window), blur(others, window)
    variance = blur(pictures.square(), window) - mean.square()
    other_variance = blur(others.square(), window) - other_mean.square()
    covariance = blur(pictures * others, window) - mean * other_mean
    luminance = (2 * mean * other_mean + SSIM_LUMINANCE) / (
        mean.square() + other_mean.square() + SSIM_LUMINANCE
    )
    structure = (2 * covariance + SSIM_CONTRAST) / (
        variance.clamp(min=0) + other_variance.clamp(min=0) + SSIM_CONTRAST
    )
    return (luminance * structure).mean(dim=1, keepdim=True)


def _directions(features: torch.Tensor) -> torch.Tensor:
    """Feature vectors (N, D, h, w) scaled to length 1."""
    length = features.square().sum(dim=1, keepdim=True).sqrt().clamp(min=LEAST_LENGTH)
    return features / length

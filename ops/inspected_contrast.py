"""Down to which contrast a strip was inspected: what FOUND of the points in random places need.

These are torch functions. Strips are (B, 3, H, W), values 0-1, whose references are registered to
Target. Contrasts are in grey levels 0-255, those of the middle of a Gaussian of POINT_SIGMA pixels
in Target alone.

A point of contrast c in noise of n grey levels is found with the probability

    P = 1 / (1 + (half * n / c) ** steepness)

The noise n is computed at every pixel. The two numbers belong to a detector at a threshold:
evaluation/contrast_response.py measures them.
"""

import math
from typing import NamedTuple

import torch

from gaussian import MAX_GREY
from ops.differences import local_noise
from ops.filters import blur, gaussian_window
from ops.likelihood import matched_filter, noise_at_edges

FOUND = 0.9  # share of the points that are found at the contrast that is stated
LOGIT_OF_FOUND = math.log(FOUND / (1 - FOUND))
# each halves an interval of the logarithm; with so many the contrast is exact to a ten-thousandth
HALVINGS = 16


class NoiseModel(NamedTuple):
    """The noise in whose units a detector measures a difference.

    `kind` is one of NOISE_KINDS: `edges` is that of the likelihood ratio, `smoothed` that which a
    Gaussian leaves. `sigma`, in pixels, is that of the detector's Gaussian.
    """

    kind: str
    sigma: float


NOISE_KINDS = ("edges", "smoothed")


class ContrastResponse(NamedTuple):
    """How many points a detector finds at its threshold, against contrast over noise.

    Half of the points are found where the contrast is `half` times the noise. `steepness` is the
    slope of the logit of the share that is found, over the logarithm of the contrast.
    """

    half: float
    steepness: float
    noise: NoiseModel

    @property
    def needed(self) -> float:
        """The contrast, in units of the noise, at which FOUND of the points are found."""
        return self.half * math.exp(LOGIT_OF_FOUND / self.steepness)


def noise_map(strips: torch.Tensor, model: NoiseModel) -> torch.Tensor:
    """(B, 1, H, W): the noise of the differences between Target and references, grey levels."""
    differences = strips[:, :1] - strips[:, 1:3]
    if model.kind == "smoothed":
        return MAX_GREY * local_noise(blur(differences, gaussian_window(model.sigma)))
    filtered = matched_filter(differences, model.sigma)
    return MAX_GREY * noise_at_edges(strips, differences, filtered, model.sigma)


def contrast_map(noise: torch.Tensor, response: ContrastResponse) -> torch.Tensor:
    """(B, 1, H, W): the contrast at which a point at each pixel is found with probability FOUND."""
    return noise * response.needed


def inspected_contrast(noise: torch.Tensor, response: ContrastResponse) -> torch.Tensor:
    """(B,): the contrast at which FOUND of all points in random places of a strip are found.

    It is no mean of the map: where noise differs from place to place, the quiet places make up for
    a part of the noisy ones. The share that is found grows with the contrast, so halving an
    interval finds it.
    """
    level = response.steepness * torch.log(noise)
    lowest, highest = (
        bound + LOGIT_OF_FOUND
        for bound in (level.amin(dim=(1, 2, 3), keepdim=True), level.amax((1, 2, 3), keepdim=True))
    )
    for _ in range(HALVINGS):
        middle = (lowest + highest) / 2
        found = torch.sigmoid(middle - level).mean(dim=(1, 2, 3), keepdim=True)
        is_enough = found > FOUND
        lowest = torch.where(is_enough, lowest, middle)
        highest = torch.where(is_enough, middle, highest)
    # a power, as deploy/precision.py knows a network by the only exponential of a graph
    return response.half * (math.e ** (highest / response.steepness)).flatten()

"""How Target differs from both references at once, as only a defect should.

These are torch functions. Strips are (B, 3, H, W), values 0-1. Differences are (B, 2, H, W), each
-1 to 1: Target minus Ref1 and Target minus Ref2.
"""

import math

import torch
from torch.nn import functional

from ops.filters import avg_pool_blocks, blur, enlarge, gaussian_mean, gaussian_window, sizes

# pixels: noise is measured under a Gaussian of this sigma, which is like a window of 31 pixels
NOISE_WINDOW_SIGMA = 9.0
# Share of the range that is added to the noise: a difference of one grey level is no defect, even
# where there is no noise.
QUIET = 1 / 255
EDGE_WINDOW = 3  # pixels along each side of the window within which a reference's edge may lie
LEAST_POWER = 1e-12  # of noise: the square root has no finite slope at 0
# Pixels on both sides of a filter's middle: five sigmas of the smaller filter in use, three of the
# larger.
FILTER_REACH = 4


def consistent_difference(differences: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W): the smaller of the two differences where both have one sign, 0 elsewhere."""
    first, second = differences.split(1, dim=1)
    return functional.relu(torch.minimum(first, second)) - functional.relu(
        -torch.maximum(first, second)
    )


def agreed_difference(consistent: torch.Tensor, differences: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W): the consistent difference, reduced where the larger difference exceeds it.

    A defect differs from both references by about the same amount. A point that one reference
    shares to nine tenths leaves as large a consistent difference as a faint defect, but a
    difference ten times as large from the other reference.
    """
    larger = torch.maximum(*differences.abs().split(1, dim=1))
    return consistent * consistent.abs() / (larger + QUIET)


def point_likelihood(differences: torch.Tensor, noise: torch.Tensor, sigma: float) -> torch.Tensor:
    """(B, 1, H, W): the likelihood of a point of about `sigma` pixels, as log(1 + z²).

    z is the consistent difference, after each difference was smoothed by a Gaussian of `sigma`, in
    units of the noise that remains. Such a Gaussian is the best filter for such a point in white
    noise. For one difference, z² / 2 is the logarithm of the generalized likelihood ratio, how much
    likelier the point makes the pixels (Kay, "Fundamentals of Statistical Signal Processing II:
    Detection Theory", 1998). The logarithm here keeps obvious points from dominating. `noise` is
    (B, 1, H, W), from `local_noise`.
    """
    smooth = blur(differences, gaussian_window(sigma, FILTER_REACH))
    # share of white noise that the Gaussian leaves
    noise_gain = 1 / (2 * math.sqrt(math.pi) * sigma)
    return torch.log1p((consistent_difference(smooth) / (noise_gain * noise)) ** 2)


def envelope_excess(strips: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W): how far Target lies above (positive) or below both references' values.

    The values of the references are those in the window of EDGE_WINDOW pixels around a pixel.
    """
    target, references = strips[:, :1], strips[:, 1:3]
    larger = torch.maximum(*references.split(1, dim=1))
    smaller = torch.minimum(*references.split(1, dim=1))
    highest = functional.max_pool2d(larger, EDGE_WINDOW, stride=1, padding=EDGE_WINDOW // 2)
    lowest = -functional.max_pool2d(-smaller, EDGE_WINDOW, stride=1, padding=EDGE_WINDOW // 2)
    return functional.relu(target - highest) - functional.relu(lowest - target)


def local_noise(differences: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W): root mean square of the differences in a window of about 31 pixels, plus QUIET.

    Both differences count together, and edges of the pattern count as noise.
    """
    mean_square = gaussian_mean(
        avg_pool_blocks(differences * differences).mean(dim=1, keepdim=True), NOISE_WINDOW_SIGMA
    )
    return enlarge(mean_square, *sizes(differences)).clamp(min=LEAST_POWER).sqrt() + QUIET

"""How Target differs from both references at once: what a defect does and nothing else should.

Torch functions.

Strips are (B, 3, H, W), values 0-1; differences (B, 2, H, W): Target less Ref1 and Target less
Ref2, each -1 to 1.
"""

import math

import torch
from torch.nn import functional

from ops.filters import avg_pool_blocks, blur, enlarge, gaussian_mean, gaussian_window, sizes

NOISE_WINDOW_SIGMA = 9.0  # pixels: noise is measured under this Gaussian, as wide as a window of 31
# share of the range that is added to the noise: where there is none, a grey level is still no
# defect
QUIET = 1 / 255
EDGE_WINDOW = 3  # pixels along each side of a window in which a reference's edge may lie anywhere
LEAST_POWER = 1e-12  # of noise: a square root has no slope at 0
# pixels on both sides of a filter's middle: five sigmas of the smaller, three of the larger one in
# use
FILTER_REACH = 4


def consistent_difference(differences: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W): the smaller of the two differences where both have one sign, 0 elsewhere."""
    first, second = differences.split(1, dim=1)
    return functional.relu(torch.minimum(first, second)) - functional.relu(
        -torch.maximum(first, second)
    )


def agreed_difference(consistent: torch.Tensor, differences: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W): the consistent difference of two differences, the less of it the larger the
    other one is.

    A defect differs from both references by about the same. A point that one reference shares but
    for a tenth leaves as much of a consistent difference as a faint defect, and ten times that
    against the other.
    """
    larger = torch.maximum(*differences.abs().split(1, dim=1))
    return consistent * consistent.abs() / (larger + QUIET)


def point_likelihood(differences: torch.Tensor, noise: torch.Tensor, sigma: float) -> torch.Tensor:
    """(B, 1, H, W): how much speaks for a point of about `sigma` pixels, log(1 + z²) of the
    consistent difference z.

    Each difference is smoothed by a Gaussian of that size first, the best filter for such a point
    in white noise, and z is in units of the noise that it leaves. Of one difference, half of z² is
    the logarithm of how much likelier a point makes what is seen (the generalized likelihood ratio:
    Kay, "Fundamentals of Statistical Signal Processing II: Detection Theory", 1998); the logarithm
    here keeps what is plain to see from drowning all else. `noise` is (B, 1, H, W), as of
    `local_noise`.
    """
    smooth = blur(differences, gaussian_window(sigma, FILTER_REACH))
    left = 1 / (2 * math.sqrt(math.pi) * sigma)  # of white noise, by such a Gaussian
    return torch.log1p((consistent_difference(smooth) / (left * noise)) ** 2)


def envelope_excess(strips: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W): how far Target lies above (positive) or below all that both references have in
    the window around a pixel.
    """
    target, references = strips[:, :1], strips[:, 1:3]
    larger, smaller = (
        torch.maximum(*references.split(1, dim=1)),
        torch.minimum(*references.split(1, dim=1)),
    )
    highest = functional.max_pool2d(larger, EDGE_WINDOW, stride=1, padding=EDGE_WINDOW // 2)
    lowest = -functional.max_pool2d(-smaller, EDGE_WINDOW, stride=1, padding=EDGE_WINDOW // 2)
    return functional.relu(target - highest) - functional.relu(lowest - target)


def local_noise(differences: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W): the root mean square of both differences in a window of about 31 pixels, edges
    included, and QUIET.
    """
    mean_square = gaussian_mean(
        avg_pool_blocks(differences * differences).mean(dim=1, keepdim=True), NOISE_WINDOW_SIGMA
    )
    return enlarge(mean_square, *sizes(differences)).clamp(min=LEAST_POWER).sqrt() + QUIET

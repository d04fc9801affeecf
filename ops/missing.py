"""Which side has a point: Target, or both references ("a missing feature")?

Where Target differs from both references at a point, either Target has one, which is a defect, or
the references have one that Target lacks. Without points both show the same pattern, so the side
that is less like a pattern has the point. A pattern consists of areas and edges: around a pixel its
gradients point in at most one direction. Those of a point point in all. So the smaller eigenvalue
of the structure tensor, the covariance of the gradients in a small window, is near 0 for areas and
edges, and large for points (Förstner and Gülch 1987, "A fast operator for detection and precise
location of distinct points"; Shi and Tomasi 1994, "Good features to track"). The side where it is
larger has the point.

These are torch functions. Strips are (B, 3, H, W), values 0-1, whose references are registered to
Target and matched (registration.py).
"""

import math

import torch

from gaussian import MAX_GREY
from ops.filters import blur, convolve, gaussian_window, pad_along

MISSING_MODES = ("report", "separate", "ignore")  # what is done with missing features
CENTRAL_DIFFERENCE = (-0.5, 0.0, 0.5)  # reads no pixel beyond the next: points are small
TENSOR_SIGMA = 1.0  # pixels, of the window of the structure tensor
FLAT = 1.0  # squared grey levels per pixel, added: smaller eigenvalues are all alike
# Pixels: around a strong difference, within about three of them, everything belongs to it.
SHARED_SIGMA = 2.0
LEAST_SQUARE = 1e-12  # of a square root, which has no finite slope at 0
LEAST_WEIGHT = 1e-6  # squared grey levels of difference, where there is none
# The log odds are SLOPE * oddity + CONSTANT. The constant is there because Target has more noise
# than the mean of two references. Both were fitted to strips of their own, by
# `python -m benchmarks.missing --seed 13 --strips 12 --fit`.
SLOPE, CONSTANT = 4.1, 0.7
# Log odds above which a difference is taken for a missing feature: on the strips of the fit, 0.4 %
# of the points in Target alone are.
LIMIT = 3.0
FADE = 2.0  # log odds above the limit within which a heatmap fades to 0
MISSING_LIMIT = 1 / (1 + math.exp(-LIMIT))  # the same as a probability


def without_missing(heatmap: torch.Tensor, strips: torch.Tensor) -> torch.Tensor:
    """A heatmap (B, 1, H, W), 0-1, which is 0 on missing features of aligned strips.

    It fades out above LIMIT: with a step, a difference of rounding would decide on a detection.
    """
    return heatmap * ((LIMIT + FADE - missing_log_odds(strips)) / FADE).clamp(0, 1)


def missing_probability(strips: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W), 0-1: of what differs at a pixel, the probability that Target lacks it.

    It takes points and missing features to be equally frequent. Where nothing differs it says
    nothing.
    """
    return torch.sigmoid(missing_log_odds(strips))


def missing_log_odds(strips: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W): the log odds of `missing_probability`."""
    return SLOPE * oddity(strips) + CONSTANT


def oddity(strips: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W): how much less like a pattern the references are than Target, as a logarithm.

    It compares the smaller eigenvalues. Each pixel has the mean around it, weighted with the
    squared difference: so all of a point has one value, that of its middle.
    """
    strips = MAX_GREY * strips
    sides = torch.cat([strips[:, :1], strips[:, 1:3].mean(dim=1, keepdim=True)], dim=1)
    logarithm = torch.log(smaller_eigenvalue(sides) + FLAT)
    difference = blur(sides[:, :1] - sides[:, 1:], gaussian_window(TENSOR_SIGMA))
    weight = difference * difference + LEAST_WEIGHT
    weighted = weight * (logarithm[:, 1:] - logarithm[:, :1])
    shared = blur(torch.cat([weighted, weight], dim=1), gaussian_window(SHARED_SIGMA))
    return shared[:, :1] / shared[:, 1:]


def smaller_eigenvalue(images: torch.Tensor) -> torch.Tensor:
    """The smaller eigenvalue of the structure tensor at each pixel.

    Images and result are (B, C, H, W), in grey levels and squared grey levels per pixel.
    """
    along_y, along_x = (
        convolve(pad_along(images, axis, 1), CENTRAL_DIFFERENCE, axis) for axis in (2, 3)
    )
    products = torch.cat([along_y * along_y, along_x * along_x, along_y * along_x], dim=1)
    channels = int(images.shape[1])
    yy, xx, yx = blur(products, gaussian_window(TENSOR_SIGMA)).split(channels, dim=1)
    half_difference = (yy - xx) / 2
    root = (half_difference * half_difference + yx * yx).clamp(min=LEAST_SQUARE).sqrt()
    return ((yy + xx) / 2 - root).clamp(min=0)

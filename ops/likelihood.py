"""The likelihood ratio of "a point in Target alone" against a point that a reference explains.

These are torch functions. Differences are (B, 2, H, W), each -1 to 1: Target minus Ref1 and Target
minus Ref2, of references that are registered to Target and matched (registration.py).

The test is a generalized likelihood ratio: the strength of a point is unknown and takes the value
that fits best (Kay, "Fundamentals of Statistical Signal Processing II: Detection Theory", 1998).
All differences contain Target's noise. So the N differences of N references have the covariance
S = s² (I + 11ᵀ), where s is the noise of one channel, and the log likelihood ratio of a point with
the direction u among the differences d is (uᵀ S⁻¹ d)² / (2 uᵀ S⁻¹ u), with
S⁻¹ = (I - 11ᵀ / (N + 1)) / s². With two differences a and b in units of s this is

- (a + b)² / 12 for u = (1, 1): the point is in Target alone;
- (2b - a)² / 12 for u = (0, 1): Ref1 has it as well, or only Ref2 has one;
- (2a - b)² / 12 for u = (1, 0): Ref2 has it as well, or only Ref1 has one.
"""

import math
from collections.abc import Sequence

import torch
from torch.nn import functional

from ops.differences import local_noise
from ops.filters import convolve, gaussian_window, sizes

# Pixels along each side of the window within which a rival explains a point: parts are never
# registered perfectly.
RIVAL_WINDOW = 3
REACH = 4  # sigmas on both sides of a filter's middle


def likelihood_ratio(differences: torch.Tensor, sigma: float) -> torch.Tensor:
    """(B, 1, H, W), at least 0: how much likelier "in Target alone" is than its best rival.

    It is the difference of two log likelihood ratios: that of a point of `sigma` pixels in Target
    alone, and the largest of its rivals in the 3x3 pixels around. Where the differences have
    opposite signs it is 0, as a rival is always likelier there.
    """
    noise = local_noise(differences) / math.sqrt(2)  # of one channel: a difference has that of two
    first, second = (matched_filter(differences, sigma) / noise).split(1, dim=1)
    alone = (first + second) ** 2
    rival = torch.maximum((2 * first - second).abs(), (2 * second - first).abs())
    rival = functional.max_pool2d(rival, RIVAL_WINDOW, stride=1, padding=RIVAL_WINDOW // 2) ** 2
    return functional.relu(alone - rival) / 12


def matched_filter(planes: torch.Tensor, sigma: float) -> torch.Tensor:
    """Filter (B, C, H, W) with a Gaussian of `sigma` pixels, the best filter for such a point.

    The result is in units of the planes' noise: white noise keeps its variance, at the border too.
    Nothing lies beyond the edge. If border pixels were repeated instead, their noise would count
    several times, and the strongest false alarms would lie at the border.
    """
    reach = int(REACH * sigma + 0.5)
    window = gaussian_window(sigma, reach)
    height, width = sizes(planes)
    planes = convolve(planes, window, 2, padding=reach) * planes.new_tensor(
        [[gain] for gain in noise_gains(window, height)]
    )
    return convolve(planes, window, 3, padding=reach) * planes.new_tensor(
        noise_gains(window, width)
    )


def noise_gains(window: Sequence[float], length: int) -> list[float]:
    """Return the factors that give filtered white noise its variance back, for `length` pixels.

    Each is 1 / the root of the squared weights that lie inside.
    """
    reach = len(window) // 2
    gains = []
    for place in range(length):
        inside = window[max(0, reach - place) : reach + length - place]
        gains.append(1 / math.sqrt(sum(weight * weight for weight in inside)))
    return gains

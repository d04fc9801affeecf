"""The likelihood ratio of "a point in Target alone" against everything else that looks like it.

These are torch functions. Strips are (B, 3, H, W), values 0-1, whose references are registered to
Target and matched (registration.py). Differences are (B, 2, H, W), each -1 to 1: Target minus Ref1
and Target minus Ref2.

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
from functools import lru_cache

import torch
from torch.nn import functional

from ops.constants import constant
from ops.differences import LEAST_POWER, NOISE_WINDOW_SIGMA, QUIET
from ops.filters import (
    BLOCK,
    avg_pool_blocks,
    blur,
    convolve,
    cut,
    enlarge,
    gaussian_mean,
    gaussian_window,
    sizes,
    slope,
)

# Pixels along each side of the window within which a rival explains a point: parts are never
# registered perfectly.
RIVAL_WINDOW = 3
# A line is so many times as long as it is wide. With fewer, the longer defects of boards look like
# lines.
LINE_ASPECT = 12.0
# "Nothing" is a rival, too. Its log likelihood ratio is 0, but there is nothing nearly everywhere,
# so it leads the other rivals by this much. Rivals below it would only add their own noise.
NOTHING = 5.0
# Edges that moved are noise along the gradient, and neighbouring pixels of an edge move together:
# about so many of them under the filter of a point.
MOVED_TOGETHER = 4.0
# Mean magnitudes of a strip's differences, four sigmas of noise: larger ones count as this one.
LARGEST_NOISE = 5.0
MOST_NOISE = 3.0  # times the local noise: what differs by more is no edge that moved, but a defect
LEAST_STEEPNESS = 1e-10  # of a variance of squared gradients: edges of less than a grey level
LEAST_DETERMINANT = 1e-15  # of that and of a variance of grey levels
LEAST_SHARE = 0.25  # of the mean variance of noise, which dark pixels have at least
TINY = 1e-9  # squared share of the range
# By which power of 1 + L the odds of a network's probability are multiplied. Thresholds belong to a
# power, so a model keeps the name of its own.
WEIGHTINGS = {"none": 0, "likelihood": 2, "strong_likelihood": 4}
DEFAULT_WEIGHTING = "strong_likelihood"  # of new models
POINT_SIGMA = 1.0  # pixels, of the points of the weighting
CERTAIN = 3000.0  # odds of a weighted probability of 0.9997


def weighted_probability(margin: torch.Tensor, ratio: torch.Tensor, weighting: str) -> torch.Tensor:
    """(B, 1, H, W), 0-1: a network's defect probability, its odds multiplied by a power of 1 + L.

    `margin` is the network's logit of the background less that of the defect, `ratio` is L, the
    likelihood ratio of a point of POINT_SIGMA, both (B, 1, H, W). `weighting`, one of WEIGHTINGS
    but "none", says which power. Where L is 0 the network alone decides, as of a defect that has
    another shape than a point.

    Odds above CERTAIN grow by a root only, the fourth one with squares, the eighth one with fourth
    powers: float32 would round their probability to 1, and strong points would be equal.
    """
    # powers and roots by squares and square roots, which ONNX Runtime computes quickly
    squares = int(math.log2(WEIGHTINGS[weighting]))
    factor = 1 + ratio
    for _ in range(squares):
        factor = factor**2
    odds_against = torch.exp(margin) / factor
    root = odds_against
    for _ in range(squares + 1):
        root = root.sqrt()
    return 1 / (1 + torch.maximum(odds_against, CERTAIN ** (0.5 ** (squares + 1) - 1) * root))


def likelihood_ratio(strips: torch.Tensor, sigma: float) -> torch.Tensor:
    """(B, 1, H, W), at least 0: how much likelier "in Target alone" is than its best rival.

    It is the log likelihood ratio of a point of `sigma` pixels in Target alone, less that of the
    strongest rival in the 3x3 pixels around: a point that a reference explains, a line along or
    across the strip, or nothing at all.
    """
    differences = strips[:, :1] - strips[:, 1:3]
    filtered = matched_filter(differences, sigma)
    # of one channel: a difference has the noise of two
    noise = noise_at_edges(strips, differences, filtered, sigma) / math.sqrt(2)
    first, second = (filtered / noise).split(1, dim=1)
    both = differences[:, :1] + differences[:, 1:]
    # largest of pairs: ONNX Runtime takes several times as long to reduce a few channels
    point = torch.maximum((2 * first - second).abs(), (2 * second - first).abs())
    line = torch.maximum(*(line_filter(both, sigma, axis).abs() for axis in (2, 3)))
    rival = torch.maximum(point, line / noise)
    rival = functional.max_pool2d(rival, RIVAL_WINDOW, stride=1, padding=RIVAL_WINDOW // 2)
    alone, rival = (first + second) ** 2 / 12, rival**2 / 12
    return functional.relu(alone - rival.clamp(min=NOTHING))


def noise_at_edges(
    strips: torch.Tensor, differences: torch.Tensor, filtered: torch.Tensor, sigma: float
) -> torch.Tensor:
    """(B, 1, H, W): the noise of filtered differences, from grey levels and edges too.

    It begins with the power of the differences around a pixel, the mean of that before and after
    the filter, `matched_filter`. Noise that is not white leaves more or less of itself there:
    focus, interpolation and compression see to that. Lines of the pattern leave more, too, but
    they have a rival of their own.

    The variance of the noise of a sensor is p + q * grey level (photon transfer). q is the slope of
    the squared differences over the references' mean, for the whole strip. It tells how the local
    noise is distributed over bright and dark pixels.

    An edge that moved by e pixels leaves e times the gradient of the references. The variance of e
    is the slope of the squared differences over the squared gradient: 0 where the references lie
    where Target does. A point of `sigma` pixels has what its filter adds up of both.
    """
    level = (strips[:, 1:2] + strips[:, 2:3]) / 2
    squares, power = differences * differences, filtered * filtered
    power = clip_power(squares, differences) + clip_power(power, filtered)
    first, second = power.split(1, dim=1)
    planes = avg_pool_blocks(torch.cat([(first + second) / 4, level], dim=1))
    around = enlarge(gaussian_mean(planes, NOISE_WINDOW_SIGMA), *sizes(level))
    noise, around = around.split(1, dim=1)
    noise = noise.clamp(min=LEAST_POWER).sqrt() + QUIET
    down, across = slope(level, 2), slope(level, 3)
    steepness = down * down + across * across
    first, second = squares.split(1, dim=1)
    squares = torch.minimum((first + second) / 2, (MOST_NOISE * noise).square())
    base, growth, moved = fit_noise(squares, level, steepness)
    middle, least = level.mean(dim=(2, 3), keepdim=True), (LEAST_SHARE * base).clamp(min=TINY)
    here, around = (
        torch.maximum(base + growth * (plane - middle), least) for plane in (level, around)
    )
    variance = noise.square() * (here / around) + MOVED_TOGETHER * moved * steepness
    return blur(variance, [weight**2 for weight in gaussian_window(sigma)]).sqrt()


def clip_power(squares: torch.Tensor, planes: torch.Tensor) -> torch.Tensor:
    """The squares of planes (B, C, H, W), clipped: a point hardly adds to the noise around it."""
    mean = planes.abs().mean(dim=(1, 2, 3), keepdim=True)
    return torch.minimum(squares, (LARGEST_NOISE * mean).square())


def fit_noise(
    squares: torch.Tensor, level: torch.Tensor, steepness: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what noise consists of: least squares of squared differences, (B, 1, 1, 1) each.

    These are the mean without edges, and the slopes over the grey level and the squared gradient,
    neither below 0.
    """

    def mean(plane: torch.Tensor) -> torch.Tensor:
        return plane.mean(dim=(2, 3), keepdim=True)

    brighter, steeper = level - mean(level), steepness - mean(steepness)
    bb, bs, ss = mean(brighter.square()), mean(brighter * steeper), mean(steeper.square())
    of_level, of_edges = mean(brighter * squares), mean(steeper * squares)
    ss = ss.clamp(min=LEAST_STEEPNESS)
    growth = (ss * of_level - bs * of_edges) / (bb * ss - bs * bs).clamp(min=LEAST_DETERMINANT)
    growth = functional.relu(growth)
    moved = functional.relu((of_edges - growth * bs) / ss)
    return mean(squares) - moved * mean(steepness), growth, moved


def matched_filter(planes: torch.Tensor, sigma: float) -> torch.Tensor:
    """Filter (B, C, H, W) with a Gaussian of `sigma` pixels, the best filter for such a point.

    The result is in units of the planes' noise: white noise keeps its variance, at the border too.
    Nothing lies beyond the edge. If border pixels were repeated instead, their noise would count
    several times, and the strongest false alarms would lie at the border.
    """
    return filter_along(filter_along(planes, sigma, 2), sigma, 3)


def line_filter(planes: torch.Tensor, sigma: float, axis: int) -> torch.Tensor:
    """Filter (B, C, H, W) as `matched_filter`, for a line along axis 2 or 3, `sigma` pixels wide.

    It works on means of BLOCK pixels along the line, as so long a filter needs no more, and gives
    each of these pixels the same value.
    """
    height, width = sizes(planes)
    length = (height, width)[axis - 2]
    missing = -length % BLOCK
    planes = functional.pad(planes, (0, 0, 0, missing) if axis == 2 else (0, missing))
    blocks = functional.avg_pool2d(planes, (BLOCK, 1) if axis == 2 else (1, BLOCK))
    counts = [min(BLOCK, length - start) for start in range(0, length, BLOCK)]
    variances = [count / BLOCK**2 for count in counts]  # of means with zeros beyond the edge
    blocks = filter_along(blocks, sigma, 5 - axis)
    blocks = filter_along(blocks, LINE_ASPECT * sigma / BLOCK, axis, variances)
    return cut(repeat(blocks, axis), height, width)


def repeat(blocks: torch.Tensor, axis: int) -> torch.Tensor:
    """Repeat each value of (B, C, H, W) BLOCK times along axis 2 or 3."""
    channels, (height, width) = int(blocks.shape[1]), sizes(blocks)
    if axis == 2:
        repeated = blocks.unsqueeze(3).expand(-1, -1, -1, BLOCK, -1)
        return repeated.reshape(-1, channels, height * BLOCK, width)
    # a product, because ONNX Runtime takes three times as long to expand single values
    return blocks @ constant(block_places(width), blocks)


@lru_cache
def block_places(count: int) -> tuple[tuple[float, ...], ...]:
    """Return, for each of `count` blocks, 1 for each place that it covers and 0 for the others."""
    return tuple(
        tuple(float(place // BLOCK == block) for place in range(count * BLOCK))
        for block in range(count)
    )


def filter_along(
    planes: torch.Tensor, sigma: float, axis: int, variances: Sequence[float] | None = None
) -> torch.Tensor:
    """Filter (B, C, H, W) along axis 2 or 3 with a Gaussian of `sigma` pixels.

    The result of white noise of variance 1 has that variance. `variances` are those of the noise of
    each pixel along the axis, where they differ from 1.
    """
    window = gaussian_window(sigma)
    variances = variances or [1.0] * int(planes.shape[axis])
    gains = constant(noise_gains(tuple(window), tuple(variances)), planes)
    planes = convolve(planes, window, axis, padding=len(window) // 2)
    return planes * (gains[:, None] if axis == 2 else gains)


@lru_cache
def noise_gains(window: tuple[float, ...], variances: tuple[float, ...]) -> tuple[float, ...]:
    """Return the factors that give filtered white noise its variance back, for each pixel.

    Each is 1 / the root of the sum of squared weights times variances, of the pixels inside.
    """
    reach, gains = len(window) // 2, []
    for place in range(len(variances)):
        inside = window[max(0, reach - place) : reach + len(variances) - place]
        noise = variances[max(0, place - reach) : place + reach + 1]
        gains.append(1 / math.sqrt(sum(w * w * v for w, v in zip(inside, noise, strict=True))))
    return tuple(gains)

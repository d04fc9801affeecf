"""What a reference still differs by from Target over a whole strip: contrast, focus and columns.

References are (B, 2, H, W), values 0-1, registered to Target and matched in local gain and offset.

A reference that is a little sharper or softer than Target differs from it at every edge. Both are
the same pattern under Gaussians of different width, so Target is the reference after some time c of
the heat equation: exp(c ∇²) reference, where 2c is the difference of the Gaussians' variances. It
is fitted together with a gain, as one looks like the other. Noise would bias a plain least-squares
fit of either, because it is in the reference that explains and, for ∇², in both sides of the
equation. So the other reference, whose noise is independent, is the instrument (Wright 1928; see
Bowden and Turkington 1984, "Instrumental Variables"): the fit makes what remains uncorrelated with
the other reference and with its ∇².
"""

import torch

from ops.filters import avg_pool_blocks, enlarge, gaussian_mean, mean_square, pad_along, sizes
from ops.gain import MATCH_SIGMA

OUTLIER = 12.0  # mean magnitudes: a larger difference counts as this one (Huber 1981)
OUTLIER_OF_COLUMN = 4.0  # the same, where the mean of a column is taken
CERTAIN = 3.0  # standard errors: a fitted number that is smaller is 0
# Pixels of the second difference that is the instrument. Over one pixel it would weight frequencies
# at which the series does not hold, and overestimate the focus by half.
INSTRUMENT_STEP = 2
LARGEST_GAIN = 0.5  # of what is fitted: departure from a gain of 1, and square pixels
LARGEST_FOCUS = 0.4  # square pixels: one image is sharp, the other under a Gaussian of 0.9 px
LEAST_RATIO = 0.1  # of the contrasts at the pattern's frequencies
LEAST_EIGENVALUE = 0.1  # of the laplacian, per square pixel
LEAST_CURVATURE = 1e-9  # squared share of the range
LEAST_DETERMINANT = 1e-14  # of a pattern of less than a grey level
TINY = 1e-12  # squared share of the range


def match_focus(
    target: torch.Tensor, references: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the references with Target's contrast and sharpness, and the gain (B, 2, 1, 1)."""
    ground = enlarge(gaussian_mean(avg_pool_blocks(target), MATCH_SIGMA), *sizes(target))
    patterns = references - ground  # the ground of matched references is Target's
    curvature = laplacian(references)
    gain, focus = fit_gain_and_focus(
        target - references, patterns, curvature, laplacian(references, INSTRUMENT_STEP)
    )
    # a series of exp(focus * laplacian) to the second order
    sharper = curvature + focus / 2 * laplacian(curvature)
    return references + gain * patterns + (1 + gain) * focus * sharper, 1 + gain


def fit_gain_and_focus(
    differences: torch.Tensor,
    patterns: torch.Tensor,
    curvature: torch.Tensor,
    instrument: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what each reference lacks of Target's contrast, and how much sharper it is.

    Both are (B, 2, 1, 1), the first a share, the second in square pixels, and 0 as far as noise
    explains them. `differences` are Target minus the references; `patterns` are the references
    without their local mean, `curvature` is their laplacian, and `instrument` that over a larger
    step. All are (B, 2, H, W).
    """
    limit = OUTLIER * differences.abs().mean(dim=(2, 3), keepdim=True)
    differences = torch.minimum(torch.maximum(differences, -limit), limit)
    height, width = sizes(patterns)
    planes = torch.cat([patterns, instrument, curvature, differences], dim=1)
    planes = planes.reshape(-1, 8, height * width)
    # mean products of all planes: (B, plane, reference, plane, reference)
    products = (planes @ planes.transpose(1, 2) / (height * width)).reshape(-1, 4, 2, 4, 2)
    # (B, reference, instrument, plane); the instruments are the other reference's first two planes
    cross = torch.stack([products[:, :2, 1, :, 0], products[:, :2, 0, :, 1]], dim=1)
    powers = torch.stack([products[:, :2, 1, :2, 1], products[:, :2, 0, :2, 0]], dim=1)
    own = torch.stack([products[:, 3, 0, 3, 0], products[:, 3, 1, 3, 1]], dim=1)
    a, b, c, d = (cross[:, :, row, plane] for row in (0, 1) for plane in (0, 2))
    determinant = (a * d - b * c).clamp(min=LEAST_DETERMINANT)
    first, both, second = (powers[:, :, row, column] for row, column in ((0, 0), (0, 1), (1, 1)))
    fits = []
    # a row of the inverse matrix: weights of the instruments' products with the differences
    for one, two in ((d, -b), (-c, a)):
        one, two = one / determinant, two / determinant
        value = one * cross[:, :, 0, 3] + two * cross[:, :, 1, 3]
        variance = one * one * first + 2 * one * two * both + two * two * second
        value = shrink(value, variance * own / (height * width))[:, :, None, None]
        fits.append(value.clamp(-LARGEST_GAIN, LARGEST_GAIN))
    gain, slope = fits
    # The slope is that of exp(focus * k) - 1 over the laplacian's eigenvalues k, -k being the
    # pattern's squared frequencies. Their mean stands for all.
    mean = (d / c.clamp(max=-LEAST_CURVATURE))[:, :, None, None].clamp(max=-LEAST_EIGENVALUE)
    focus = torch.log((1 + slope / (1 + gain) * mean).clamp(min=LEAST_RATIO)) / mean
    # nothing is known of the focus if the other reference has a value that is not finite
    focus = torch.where(slope.abs() > 0, focus, 0.0)
    return gain, focus.clamp(-LARGEST_FOCUS, LARGEST_FOCUS)


def shrink(value: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """Return a fitted value less the share of its square that CERTAIN standard errors explain.

    It is 0 where they explain all, and where the value is not a number.
    """
    square, explained = value * value, CERTAIN * CERTAIN * variance
    return torch.where(square > explained, value * (1 - explained / square.clamp(min=TINY)), 0.0)


def column_offsets(differences: torch.Tensor) -> torch.Tensor:
    """Return what repeats along each column of differences (B, 2, H, W), as (B, 2, 1, W).

    It is the mean, less what noise adds to the spread of the columns' means. Few large differences
    do not count in full.
    """
    limit = OUTLIER_OF_COLUMN * differences.abs().mean(dim=(2, 3), keepdim=True)
    clipped = torch.minimum(torch.maximum(differences, -limit), limit)
    means = clipped.mean(dim=2, keepdim=True)
    spread = mean_square(means)
    noise = (mean_square(clipped) - spread) / sizes(differences)[0]
    return means * (torch.relu(spread - noise) / spread.clamp(min=TINY))


def laplacian(planes: torch.Tensor, step: int = 1) -> torch.Tensor:
    """Return the sum of the second differences over `step` pixels along y and x, (B, C, H, W)."""
    height, width = sizes(planes)
    down, across = pad_along(planes, 2, step), pad_along(planes, 3, step)
    return (
        down[:, :, :height]
        + down[:, :, 2 * step :]
        + across[..., :width]
        + across[..., 2 * step :]
        - 4 * planes
    )

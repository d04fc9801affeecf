"""Matching of the references' local gain and offset to Target's."""

import torch

from ops.filters import avg_pool_blocks, enlarge, gaussian_mean, sizes

GAINS = (0.25, 4.0)  # limits of a reference's gain
# Pixels: sigma of the Gaussian under which gain and offset are computed from means of blocks. With
# a sigma of 9, a defect of 12 pixels would lose a third of its contrast.
MATCH_SIGMA = 20.0
# Contrast (a share of the range) below which the gain tends to that of the whole strip.
STEADY = 8 / 255
TINY = 1e-7  # squared share of the range: less than the error of rounding to 8 bits


def gain_and_offset(
    target: torch.Tensor, references: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return planes gain and offset, (B, 2, H, W) each, for each pixel of the references.

    gain * reference + offset is nearest to Target in a window around the pixel, by least squares.
    The window is much larger than a defect, so that the match does not cancel a defect. The sums
    come from means of blocks. Where there is no contrast, the gain is that of the whole strip.
    After He, Sun and Tang 2010, "Guided image filtering".
    """
    # Without the mean, variances would be small differences of large squares: rounding errors.
    middle = target.mean(dim=(2, 3), keepdim=True)
    target, references = target - middle, references - middle
    means = [
        avg_pool_blocks(planes)
        for planes in (target, references, target * references, references * references)
    ]
    means = gaussian_mean(torch.cat(means, dim=1), MATCH_SIGMA)
    mean_target, mean_reference, mean_product, mean_of_squares = means.split([1, 2, 2, 2], dim=1)
    covariance = mean_product - mean_target * mean_reference
    variance = mean_of_squares - mean_reference * mean_reference
    overall = covariance.mean(dim=(2, 3), keepdim=True) / (
        variance.mean(dim=(2, 3), keepdim=True) + TINY
    )
    steady = STEADY * STEADY
    gain = ((covariance + steady * overall.clamp(*GAINS)) / (variance + steady)).clamp(*GAINS)
    offset = mean_target + middle - gain * (mean_reference + middle)
    return enlarge(torch.cat([gain, offset], dim=1), *sizes(target)).split(2, dim=1)

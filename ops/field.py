"""A local field of shifts, and shifts of single rows, beyond a smooth curve of shifts.

They follow what a curve cannot: parts that bend, and line cameras that vibrate. Both are least
squares on gradients (Lucas and Kanade 1981), linear in the shifts, of references that are nearly in
place. Only Target's gradients are used: their products are the same for both references and in
every round, and their noise is independent of that of the differences. A prior holds a shift at 0
as far as the pixels do not determine it.
"""

import math

import torch

from ops.constants import constant
from ops.filters import (
    avg_pool_blocks,
    enlarge,
    gaussian_mean,
    mean_square,
    sizes,
    slope,
)
from ops.focus import column_offsets, match_focus
from ops.gain import gain_and_offset
from ops.phase_correlation import covered
from ops.warp import LARGEST_SHIFT, Warper, shift_slightly, widen

# pixels: sigma of the Gaussian under which the shift of the pixel in its middle is determined
FIELD_SIGMA = 18.0
FIELD_BLOCK = 8  # pixels along each side of the blocks that have one shift each
FIELD_PRIOR = 0.15  # pixels: the field's expected departure from the curve
# The Gaussian blurs the field; each further round adds a part of what it took away.
FIELD_ROUNDS = 3
# Share of the strip's mean gradients that is added to each axis: a step along an axis with much
# smaller ones is damped.
FIELD_STIFFNESS = 1e-3
# Pixels from the edge over which the weights rise from 0 to 1. A defect's own slopes cancel, but
# not where an edge cuts it.
TAPER = 16
OUTLIER = 12.0  # mean magnitudes: a larger difference counts as this one (Huber 1981)
LONGEST_DEPARTURE = 1.0  # pixels in y and in x, of the field from the curve
LONGEST_ROW_SHIFT = 1.5  # pixels in x, beyond curve and field
LEAST_ROW_SPREAD = 1e-3  # pixels: prior of rows that do not vibrate
SIGMA_OF_MEAN = math.sqrt(math.pi / 2)  # sigma of normal noise, for a mean magnitude of 1
MEDIAN_OF_SQUARE = 0.455  # of normal noise with a variance of 1
TINY = 1e-9  # squared share of the range


def follow_lines(
    strips: torch.Tensor, unmoved: torch.Tensor, curve: torch.Tensor, far: torch.Tensor
) -> tuple[
    torch.Tensor, torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor], torch.Tensor
]:
    """Move the references of strips (B, 3, H, W) as their lines show, and match them to Target.

    To a curve of shifts (B, 2, 2, H, columns), a local field and the shifts of single rows are
    added. Gain and offset are matched before, contrast, focus and columns of the whole strip last
    (focus.py). Returns the references (B, 2, H, W), the curve, the gain (B, 2, H, W), the whole
    shifts along y, (B, 2, H, 1 or W), and x, (B, 2, H, W), and which references would differ more
    from Target than the `unmoved` ones (B, 2, H, W), which they were before the shifts `far`
    (B, 2, 2) by whole pixels: (B, 2, 1, 1). Those are neither moved nor matched, and their shifts
    are 0.
    """
    target, references = strips[:, :1], strips[:, 1:]
    warper = Warper(references, LARGEST_SHIFT, int(curve.shape[4]), is_reused=False)
    moved = warper.warp(curve)
    gain, offset = gain_and_offset(target, moved)
    left = target - (gain * moved + offset)
    shifts = LocalShifts(target, left * covered(far, sizes(target), 1))
    field_y, field_x = shifts.field()
    # What a whole row has in common is interpolated once, with the curve.
    common = field_x.mean(dim=3, keepdim=True)
    along_y, along_x = curve.unbind(dim=2)
    along_x = along_x + common + shifts.row_shifts(field_y, field_x)
    along_x = along_x.clamp(-LARGEST_SHIFT, LARGEST_SHIFT)
    field_x = field_x - common
    moved = gain * shift_slightly(warper.warp_along_x(along_x), field_y, field_x) + offset
    is_worse = mean_square(target - moved) > mean_square(target - unmoved)
    matched, contrast = match_focus(target, moved)
    matched = matched + column_offsets(target - matched)
    moved = torch.where(is_worse, unmoved, matched)
    width = sizes(target)[1]
    down = torch.where(is_worse, 0.0, widen(along_y, width) + field_y.mean(dim=3, keepdim=True))
    across = torch.where(is_worse, 0.0, widen(along_x, width) + field_x)
    gain = torch.where(is_worse, gain, gain * contrast)
    return moved, torch.where(is_worse[..., None], 0.0, curve), gain, (down, across), is_worse


class LocalShifts:
    """Shifts of the references that their differences from Target show.

    `target` is (B, 1, H, W), `differences` (B, 2, H, W) are Target minus each reference, of
    references that are registered by a curve and matched in gain. A positive shift says that the
    reference lies further down or to the right.
    """

    def __init__(self, target: torch.Tensor, differences: torch.Tensor):
        self.size = sizes(target)
        # the mean magnitude, because a mean of squares would be that of the few largest differences
        mean = differences.abs().mean(dim=(2, 3), keepdim=True)
        self.noise = (SIGMA_OF_MEAN * mean).square()  # variance, (B, 2, 1, 1)
        limit = OUTLIER * mean
        differences = torch.minimum(torch.maximum(differences, -limit), limit)
        weights_y, weights_x = (constant(edge_weights(length), target) for length in self.size)
        down, across = slope(target, 2), slope(target, 3)
        weighted_down, weighted_across = (
            plane * weights_y[:, None] * weights_x for plane in (down, across)
        )
        self.yy, self.yx = weighted_down * down, weighted_down * across
        self.xx = weighted_across * across
        self.slopes_y, self.slopes_x = weighted_down * differences, weighted_across * differences

    def field(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a shift for each pixel, along y and along x, (B, 2, H, W) each, in pixels.

        All sums are of means of blocks, so a round costs little.
        """
        planes = (self.yy, self.yx, self.xx, self.slopes_y, self.slopes_x)
        blocks = torch.cat([avg_pool_blocks(plane, FIELD_BLOCK) for plane in planes], dim=1)
        yy, yx, xx, slopes = blocks.split([1, 1, 1, 4], dim=1)
        mean_yy, mean_yx, mean_xx, left = gaussian_mean(blocks, FIELD_SIGMA, FIELD_BLOCK).split(
            [1, 1, 1, 4], dim=1
        )
        pixels = 4 * math.pi * FIELD_SIGMA**2  # independent ones under the Gaussian
        held = self.noise / (pixels * FIELD_PRIOR**2)
        held = held + FIELD_STIFFNESS * (mean_yy + mean_xx).mean(dim=(2, 3), keepdim=True)
        held = held.clamp(min=TINY)
        mean_yy, mean_xx = mean_yy + held, mean_xx + held
        determinant = mean_yy * mean_xx - mean_yx * mean_yx
        # the inverse of the sums' matrix
        solution = [plane / determinant for plane in (mean_xx, mean_yx, mean_yy)]
        field = torch.zeros_like(left)
        for number in range(FIELD_ROUNDS):
            if number:
                y, x = field.split(2, dim=1)
                explained = torch.cat([yy * y + yx * x, yx * y + xx * x], dim=1)
                left = gaussian_mean(slopes - explained, FIELD_SIGMA, FIELD_BLOCK)
                left = left - torch.cat([held, held], dim=1) * field
            y, x = left.split(2, dim=1)
            step = [solution[0] * y - solution[1] * x, solution[2] * x - solution[1] * y]
            field = field + torch.cat(step, dim=1)
            field = field.clamp(-LONGEST_DEPARTURE, LONGEST_DEPARTURE)
        field_y, field_x = field.split(2, dim=1)
        return enlarge(field_y, *self.size, FIELD_BLOCK), enlarge(field_x, *self.size, FIELD_BLOCK)

    def row_shifts(self, field_y: torch.Tensor, field_x: torch.Tensor) -> torch.Tensor:
        """Return a shift in x for each row, (B, 2, H, 1) in pixels, beyond the field's.

        The prior is the spread of all rows' shifts less what noise adds to it, so rows that do not
        vibrate stay.
        """
        explained = self.yx * field_y + self.xx * field_x
        information = self.xx.sum(dim=3, keepdim=True).clamp(min=TINY)
        shifts = (self.slopes_x - explained).sum(dim=3, keepdim=True) / information
        variance = self.noise / information
        spread = median_of_rows(shifts.square()) / MEDIAN_OF_SQUARE - median_of_rows(variance)
        prior = spread.clamp(min=LEAST_ROW_SPREAD**2)
        shifts = shifts * prior / (prior + variance)
        return shifts.clamp(-LONGEST_ROW_SHIFT, LONGEST_ROW_SHIFT)


def edge_weights(length: int) -> list[float]:
    """Return the weights of pixels along an axis, which fall to 0 at the edges."""
    places = (min(place, length - 1 - place) + 0.5 for place in range(length))
    return [min(1.0, place / TAPER) for place in places]


def median_of_rows(values: torch.Tensor) -> torch.Tensor:
    """Return the median (B, C, 1, 1) of values (B, C, H, 1), the upper one of an even number."""
    # the largest half, as ONNX has no median
    half = (int(values.shape[2]) + 1) // 2
    return values.topk(half, dim=2).values[:, :, -1:]

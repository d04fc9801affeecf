"""Registration of the references to Target, and matching of their local gain and offset.

It is a torch module, so the same code runs when training strips are copied with aligned references,
in PyTorch inference and in the ONNX graph.

The shift of a reference is a smooth curve over the rows of a strip: the speed of a line camera
drifts along the strip, and all pixels of a row are exposed at once. A wider image has one curve for
each column of a strip's width, because the rows of an area camera need not move as a whole. The
shift is estimated by least squares on the gradients of smaller images (Lucas and Kanade 1981, "An
iterative image registration technique"). Only Target's gradients are used (Baker and Matthews 2004,
"Lucas-Kanade 20 years on"). Their noise is independent of the noise of the difference, so noise
does not bias the estimate. A reference that lies further away than least squares reach is moved by
whole pixels first (phase_correlation.py).
"""

import math

import torch
from torch import nn
from torch.nn import functional

from ops.constants import constant
from ops.field import follow_lines
from ops.filters import (
    blur,
    convolve,
    cut,
    gaussian_window,
    gradients,
    halve,
    mean_square,
    sizes,
)
from ops.gain import gain_and_offset
from ops.phase_correlation import covered, find_far_shift, move_by_whole_pixels
from ops.warp import LARGEST_SHIFT, Warper, fill_outside, shift_images, widen

# --align: unchanged; registered; registered and matched; that, and what single lines do followed
ALIGN_MODES = ("none", "shift", "full", "fine")
# Measures of each reference, in pixels, pixels, pixels, a factor, and a share of the range.
MEASURES = ("shift_y", "shift_x", "wander", "gain", "remainder")

# Window that blurs the coarsest image: in it, lines 5 to 8 pixels apart alias and seem to move the
# other way.
ALIASED = (1, 2, 1)

COLUMN = 160  # pixels: a column's width; an image has round(width / COLUMN) of them, at least one
NEIGHBOURS = (0.5, 1.0, 0.5)  # weights of a column and of the columns to its left and right
# Rounds of least squares at a quarter of the size, for one shift of the whole strip.
GLOBAL_ROUNDS = 2
# Rounds for a shift of each row, at a quarter of the size; the Gaussian that weights the rows
# around it has this sigma, in pixels of the strip.
COARSE_ROUNDS, COARSE_SIGMA = 2, 30.0
FINE_ROUNDS, FINE_SIGMA = 3, 20.0  # the same at half the size
# In mode "fine", a local field takes up what one round leaves.
FINE_ROUNDS_BEFORE_FIELD = 1
# Share of a pattern's gradients that is added to each axis: a step along an axis with smaller
# gradients, as along straight lines, is damped.
STIFFNESS = 1e-3
ILLUMINATION_WINDOW = 9  # pixels of the smaller images; slower changes are illumination
LONGEST_STEP = 1.0  # pixels of the smaller image, in one round
# Limits of the gain in a round: a reference that is still far off seems to have less contrast, and
# with that gain the step would be too short.
GAINS_OF_A_ROUND = (0.7, 1.4)
# Correlation of two gradients below which they are noise, or nearly; noise alone is below 0.02.
LEAST_COHERENCE = 0.05

TINY = 1e-7  # squared share of the range: less than the error of rounding to 8 bits


class Alignment(nn.Module):
    """Align the references of strips (B, 3, H, W), values 0-1, to Target.

    All modes move the references onto Target by whole pixels, where they lie more than
    LARGEST_SHIFT away, and by a smooth curve of shifts. Mode "full" also matches their gain and
    offset. So does mode "fine", which then moves them by a local field of shifts and
    by shifts of single rows, and matches contrast, focus and offsets of columns. Target does not
    change. Returns the strips and measures (B, 2, len(MEASURES)). For each reference these are the
    mean of the shifts in y and x, the curve's largest departure from its mean, the gain (Target's
    contrast divided by the reference's), and the root mean square of the remaining difference.

    Matched references are clipped as Target is. Where a moved reference ends, it is halfway between
    Target and the other one; where both end, Target replaces them. If a
    reference has a value that is not finite, no value of it is finite afterwards. Raises
    `ValueError` for an unknown mode.
    """

    def __init__(self, mode: str = "full"):
        super().__init__()
        if mode not in ALIGN_MODES[1:]:
            raise ValueError(f"found mode {mode!r}, expected one of {', '.join(ALIGN_MODES[1:])}")
        self.mode = mode

    def forward(self, strips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Strips (B, 3, H, W), values 0-1, to aligned strips and measures (B, 2, MEASURES)."""
        device = strips.device.type
        is_autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        if is_autocast or strips.dtype in (torch.float16, torch.bfloat16):
            # half precision cannot resolve a hundredth of a pixel
            with torch.autocast(device, enabled=False):
                aligned, measures = self.align(strips.float())
            return aligned.to(strips.dtype), measures
        return self.align(strips)

    def align(self, strips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `forward`, for strips in float32."""
        target, references = strips[:, :1], strips[:, 1:]
        far, light = find_far_shift(strips, LARGEST_SHIFT)
        strips = move_by_whole_pixels(strips, far, light)
        if self.mode == "fine":
            curve = estimate_shift(strips, far, FINE_ROUNDS_BEFORE_FIELD)
            moved, curve, gain, (down, across), is_worse = follow_lines(
                strips, references, curve, far
            )
        else:
            moved, curve, left, is_worse = register(strips, references, far)
            gain, offset = gain_and_offset(target, moved)
            if self.mode == "full":
                matched = gain * moved + offset
                moved = torch.where(mean_square(target - matched) > left, moved, matched)
            down, across = widen(curve, sizes(target)[1]).unbind(dim=2)
        far = torch.where(is_worse[:, :, 0], 0.0, far)
        if self.mode != "shift":
            moved = moved.clamp(0, 1)  # a match may exceed the range, which Target cannot
        aligned = torch.cat([target, *fill_outside(target, moved, down, across, far)], dim=1)
        return aligned, self._measures(aligned, curve, far, gain)

    @staticmethod
    def _measures(
        aligned: torch.Tensor, curve: torch.Tensor, far: torch.Tensor, gain: torch.Tensor
    ) -> torch.Tensor:
        mean = curve.mean(dim=(3, 4))
        wander = (curve - mean[..., None, None]).square().sum(dim=2).amax(dim=(2, 3)).sqrt()
        remainder = mean_square(aligned[:, :1] - aligned[:, 1:]).sqrt()[:, :, 0, 0]
        down, across = (mean + far).unbind(dim=2)
        return torch.stack([down, across, wander, gain.mean(dim=(2, 3)), remainder], dim=2)


def register(
    strips: torch.Tensor, references: torch.Tensor, far: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Move the references of (B, 3, H, W) onto Target.

    `references` (B, 2, H, W) are those of the strips before they were moved by the shifts `far`
    (B, 2, 2) in whole pixels. Returns the references (B, 2, H, W), their further shift as of
    `estimate_shift`, the mean square of the remaining difference, and which references would differ
    more from Target than before, (B, 2, 1, 1) each. Those are as they were, and their shift is 0.
    """
    target = strips[:, :1]
    shift = estimate_shift(strips, far)
    moved = shift_images(strips[:, 1:], shift)
    before, after = mean_square(target - references), mean_square(target - moved)
    is_worse = after > before
    moved, left = torch.where(is_worse, references, moved), torch.where(is_worse, before, after)
    return moved, torch.where(is_worse[..., None], 0.0, shift), left, is_worse


def estimate_shift(
    strips: torch.Tensor, far: torch.Tensor, fine_rounds: int = FINE_ROUNDS
) -> torch.Tensor:
    """Return how far each row of the references has moved against Target: (B, 2, 2, H, columns).

    Shifts are (y, x) in pixels, positive down and to the right. Strips are (B, 3, H, W), values
    0-1. An image of a strip's width has one column; in a wider one the shifts are those in the
    middle of each column. A shift is 0 along an axis on which the pattern does not determine it.
    The references were moved before by the shifts `far` (B, 2, 2) in whole pixels. What they do not
    cover since then does not count.
    """
    height, width = sizes(strips)
    half = halve(strips)
    columns = max(1, round(width / COLUMN))
    coarse = PyramidLevel(blur(halve(half), ALIASED), far, 4, columns)
    fine = PyramidLevel(half, far, 2, columns)
    shift = strips.new_zeros(1, 1, 1, 1, 1)
    shift = coarse.refine(shift, coarse.references.images, GLOBAL_ROUNDS, None)
    shift = shift.expand(-1, -1, -1, coarse.height, columns)
    shift = coarse.refine(shift, coarse.references.warp(shift), COARSE_ROUNDS, COARSE_SIGMA / 4)
    shift, moved = fine.keep_if_better(resize_rows(2 * shift, fine.height))
    shift = fine.refine(shift, moved, fine_rounds, FINE_SIGMA / 2)
    return resize_rows(2 * fine.zero_undetermined(shift), height)


class PyramidLevel:
    """Target and references, `factor` times smaller, and the sums that least squares need.

    Slow changes, the illumination, are subtracted from the images. `far` are the shifts (B, 2, 2)
    in pixels of the strip by which the references were moved before.
    """

    def __init__(self, images: torch.Tensor, far: torch.Tensor, factor: int, columns: int):
        images = images - blur(images, [1] * ILLUMINATION_WINDOW)
        self.height, self.width = sizes(images)
        self.columns, self.limit = columns, LARGEST_SHIFT / factor
        # pixels that a shift may take from beyond the strip's edge do not count
        border = min(math.ceil(self.limit) + 1, self.width // 2)
        self.inner = constant(
            [0.0] * border + [1.0] * (self.width - 2 * border) + [0.0] * border, images
        )
        self.target, self.references = images[:, :1], Warper(images[:, 1:], self.limit, columns)
        self.covered = covered(far, (self.height, self.width), factor)
        self.inner_target = self.target * self.inner
        self.gradients = gradients(self.target) * self.inner  # (B, 1, 2, h, w)
        products = self.gradients * self.gradients.transpose(1, 2)  # yy, yx, xy, xx
        self.structure = column_sums(products.reshape(-1, 4, self.height, self.width), columns)

    def refine(
        self, shift: torch.Tensor, moved: torch.Tensor, rounds: int, sigma: float | None
    ) -> torch.Tensor:
        """Improve a shift (B, 2, 2, h, columns), in pixels of this level, by least squares.

        It takes `rounds` steps. Rows are weighted by a Gaussian of `sigma` rows. With None, all
        rows count equally, and the shift is (B, 2, 2, 1, 1). `moved` are the references after the
        given shift.
        """

        def pool_rows(sums: torch.Tensor) -> torch.Tensor:
            return (
                sums.sum(dim=2, keepdim=True).mean(dim=3, keepdim=True)
                if sigma is None
                else smooth(sums, sigma)
            )

        solution = self._solution(pool_rows(self.structure))
        for number in range(rounds):
            if number:
                moved = self.references.warp(shift)
            squares = moved * self.inner * moved
            sums = [
                column_sums(products, self.columns)
                for products in (self.inner_target * moved, squares)
            ]
            cross, power = pool_rows(torch.cat(sums, dim=1)).split(2, dim=1)
            gain = (cross / (power + TINY)).clamp(*GAINS_OF_A_ROUND)
            difference = (self.target - widen(gain, self.width) * moved) * self.covered
            slopes = self.gradients * difference[:, :, None]
            slopes = pool_rows(
                column_sums(slopes.reshape(-1, 4, self.height, self.width), self.columns)
            )
            slopes = slopes.reshape(-1, 2, 1, 2, *sizes(slopes))
            step = (solution * slopes).sum(dim=3).clamp(-LONGEST_STEP, LONGEST_STEP)
            shift = (shift + step).clamp(-self.limit, self.limit)
        return shift

    @staticmethod
    def _solution(structure: torch.Tensor) -> torch.Tensor:
        """Invert structure tensors: sums (B, 4, h, columns) to matrices (B, 1, 2, 2, h, columns).

        The sums are of products of gradients. The matrices turn slopes into steps.
        """
        yy, yx, _, xx = structure.split(1, dim=1)
        stiffness = STIFFNESS * (yy + xx) + TINY
        yy, xx = yy + stiffness, xx + stiffness
        solution = torch.cat([xx, -yx, -yx, yy], dim=1) / (yy * xx - yx * yx)
        return solution.reshape(-1, 1, 2, 2, *sizes(solution))

    def zero_undetermined(self, shift: torch.Tensor) -> torch.Tensor:
        """Return the shift, set to 0 along an axis on which the gradients are only noise."""
        coherence = correlation(self.gradients, gradients(self.references.warp(shift)) * self.inner)
        return torch.where(coherence[..., None, None] < LEAST_COHERENCE, 0.0, shift)

    def keep_if_better(self, shift: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the shift (B, 2, 2, h, columns) and the references that it moves.

        For a reference that correlates less with Target than before, the shift is 0.
        """
        stay, moved = self.references.images, self.references.warp(shift)
        before, after = correlation(
            self.inner_target, torch.cat([stay, moved], dim=1) * self.inner
        ).split(2, dim=1)
        is_worse = (after < before)[..., None, None]
        return torch.where(is_worse[..., None], 0.0, shift), torch.where(is_worse, stay, moved)


def column_sums(images: torch.Tensor, columns: int) -> torch.Tensor:
    """(B, C, H, W) to (B, C, H, columns): each row's sums over columns of equal width."""
    if columns == 1:
        return images.sum(dim=3, keepdim=True)
    images = functional.pad(images, (0, -int(images.shape[3]) % columns))
    return images.reshape(
        -1, *map(int, images.shape[1:3]), columns, int(images.shape[3]) // columns
    ).sum(dim=4)


def smooth(sums: torch.Tensor, sigma: float) -> torch.Tensor:
    """Weight (B, C, H, columns) by a Gaussian of `sigma` rows and by NEIGHBOURS.

    Values beyond the image count as 0.
    """
    reach = math.ceil(3 * sigma)
    sums = convolve(sums, gaussian_window(sigma, reach), 2, padding=reach)
    return sums if sums.shape[3] == 1 else convolve(sums, NEIGHBOURS, 3, padding=1)


def resize_rows(shift: torch.Tensor, height: int) -> torch.Tensor:
    """(B, 2, 2, h, columns) to `height` rows, twice as many or one less, linearly interpolated."""
    rows, columns = sizes(shift)
    larger = functional.interpolate(
        shift.reshape(-1, 4, rows, columns),
        scale_factor=(2.0, 1.0),
        mode="bilinear",
        align_corners=False,
    )
    return cut(larger, height, columns).reshape(-1, 2, 2, height, columns)


def correlation(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the correlation -1 to 1 of planes (..., H, W), without subtracting their means.

    It is 0 if one plane is 0 everywhere.
    """
    cross, first_power, second_power = (
        (a * b).mean(dim=(-2, -1)) for a, b in ((first, second), (first, first), (second, second))
    )
    return cross / (first_power * second_power).clamp(min=TINY * TINY).sqrt()

"""References registered to Target and matched in local gain and offset.

A torch module and nothing else: the same code runs when strips are loaded for training, in PyTorch
inference and in the ONNX graph.

The shift of a reference is a smooth curve over the rows of a strip: a line camera's speed drifts
along it, and all pixels of a row are taken at once. A wider image has such a curve for each of its
columns of a strip's width: rows of an area camera need not move as one. It is found by least
squares on the gradients of smaller images: Lucas and Kanade 1981, "An iterative image registration
technique", with the gradients of Target alone (Baker and Matthews 2004, "Lucas-Kanade 20 years
on"), whose noise is not that of the difference, so that noise moves no estimate.
"""

import math

import torch
from torch import nn
from torch.nn import functional

from ops.filters import (
    avg_pool_blocks,
    blur,
    convolve,
    cut,
    enlarge,
    gaussian_mean,
    gaussian_window,
    gradients,
    halve,
    sizes,
)
from ops.warp import LARGEST_SHIFT, Warper, fill_outside, shift_images, widen

ALIGN_MODES = ("none", "shift", "full")  # --align: as they are; registered; registered and matched
# of each reference: pixels, pixels, pixels, 1, share of the range
MEASURES = ("shift_y", "shift_x", "wander", "gain", "remainder")

GAINS = (0.25, 4.0)  # smallest and largest of a reference
# taken off the coarsest image: what it shows of lines 5 to 8 pixels apart moves the other way
ALIASED = (1, 2, 1)

COLUMN = 160  # pixels: an image has one column for each so many, rounded, and at least one
NEIGHBOURS = (0.5, 1.0, 0.5)  # how much the columns to the left and right count with one
# of least squares at a quarter of the size, one shift for the strip; then shifts for each row:
GLOBAL_ROUNDS = 2
# at a quarter of the size; pixels: the Gaussian by which the rows around it count with it
COARSE_ROUNDS, COARSE_SIGMA = 2, 30.0
FINE_ROUNDS, FINE_SIGMA = 3, 20.0  # at half the size
# of a pattern's gradients: what is asked of an axis with less, as along straight lines, is divided
# by this much
STIFFNESS = 1e-3
ILLUMINATION_WINDOW = 9  # pixels of the smaller images: what is slower is illumination
LONGEST_STEP = 1.0  # pixels of the smaller image: of a round
# what is still far off seems to have less contrast: with that gain, its step would be too short
GAINS_OF_A_ROUND = (0.7, 1.4)
# correlation of two gradients: below it they are noise (its own is below 0.02), or almost
LEAST_COHERENCE = 0.05

# Gain and offset are found from means of blocks. With a sigma of 9, a defect of 12 pixels would
# lose a third of its contrast.
MATCH_SIGMA = 20.0  # pixels: of the Gaussian that weights them
# contrast (a share of the range) below which the gain is rather that of the whole strip
STEADY = 8 / 255
TINY = 1e-7  # of squared shares of the range: less than rounding to 8 bits leaves


class Alignment(nn.Module):
    """Strips (B, 3, H, W), values 0-1, to strips whose references are moved onto Target and, in
    mode "full", matched to it.

    Target stays as it is. Returns the strips and (B, 2, len(MEASURES)), for each reference: the
    mean of its shift in y and x, how far the shift departs from that mean along the strip, its gain
    (Target's contrast divided by the reference's) and the root mean square of what is left of the
    difference. A reference is used where it is shifted to; beyond its edge the other reference
    stands in, and where both end, Target. A value that is not finite leaves none of the reference's
    finite.
    """

    def __init__(self, mode: str = "full"):
        super().__init__()
        if mode not in ALIGN_MODES[1:]:
            raise ValueError(f"found mode {mode!r}, expected one of {', '.join(ALIGN_MODES[1:])}")
        self.mode = mode

    def forward(self, strips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        device = strips.device.type
        is_autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        if is_autocast or strips.dtype in (torch.float16, torch.bfloat16):
            # half the digits cannot tell a hundredth of a pixel
            with torch.autocast(device, enabled=False):
                aligned, measures = self.align(strips.float())
            return aligned.to(strips.dtype), measures
        return self.align(strips)

    def align(self, strips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        target = strips[:, :1]
        moved, shift, left = register(strips)
        gain, offset = gain_and_offset(target, moved)
        if self.mode == "full":
            matched = gain * moved + offset
            moved = torch.where(mean_square(target - matched) > left, moved, matched)
        aligned = torch.cat([target, *fill_outside(target, moved, shift)], dim=1)
        return aligned, self._measures(aligned, shift, gain)

    @staticmethod
    def _measures(aligned: torch.Tensor, shift: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        mean = shift.mean(dim=(3, 4))
        wander = (shift - mean[..., None, None]).square().sum(dim=2).amax(dim=(2, 3)).sqrt()
        remainder = mean_square(aligned[:, :1] - aligned[:, 1:]).sqrt()[:, :, 0, 0]
        return torch.stack(
            [mean[:, :, 0], mean[:, :, 1], wander, gain.mean(dim=(2, 3)), remainder], dim=2
        )


def register(strips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The references of (B, 3, H, W) moved onto Target, by how much, and the mean square of what is
    left of the difference.

    One that would then differ more from Target stays, and its shift is 0. The mean squares are (B,
    2, 1, 1).
    """
    target, references = strips[:, :1], strips[:, 1:]
    shift = estimate_shift(strips)
    moved = shift_images(references, shift)
    before, after = mean_square(target - references), mean_square(target - moved)
    is_worse = after > before
    moved, left = torch.where(is_worse, references, moved), torch.where(is_worse, before, after)
    return moved, torch.where(is_worse[..., None], 0.0, shift), left


def estimate_shift(strips: torch.Tensor) -> torch.Tensor:
    """How far each row of the references has moved against Target: (B, 2, 2, H, columns), (y, x) in
    pixels, down and to the right.

    An image of a strip's width is one column; of a wider one these are the shifts in the middle of
    each. Strips are (B, 3, H, W), values 0-1. Along an axis along which it is not determined it is
    0.
    """
    height, width = sizes(strips)
    half = halve(strips)
    columns = max(1, round(width / COLUMN))
    coarse, fine = (
        PyramidLevel(blur(halve(half), ALIASED), 4, columns),
        PyramidLevel(half, 2, columns),
    )
    shift = strips.new_zeros(1, 1, 1, 1, 1)
    shift = coarse.refine(shift, coarse.references.images, GLOBAL_ROUNDS, None)
    shift = shift.expand(-1, -1, -1, coarse.height, columns)
    shift = coarse.refine(shift, coarse.references.warp(shift), COARSE_ROUNDS, COARSE_SIGMA / 4)
    shift, moved = fine.keep_if_better(resize_rows(2 * shift, fine.height))
    shift = fine.refine(shift, moved, FINE_ROUNDS, FINE_SIGMA / 2)
    return resize_rows(2 * fine.zero_undetermined(shift), height)


class PyramidLevel:
    """Target and references, `factor` times smaller, without what is slow in them, and what a round
    of least squares needs.
    """

    def __init__(self, images: torch.Tensor, factor: int, columns: int):
        images = images - blur(images, [1] * ILLUMINATION_WINDOW)
        self.height, self.width = sizes(images)
        self.columns, self.limit = columns, LARGEST_SHIFT / factor
        # what may come from beyond the strip's edge says nothing
        border = min(math.ceil(self.limit) + 1, self.width // 2)
        self.inner = images.new_tensor(
            [0.0] * border + [1.0] * (self.width - 2 * border) + [0.0] * border
        )
        self.target, self.references = images[:, :1], Warper(images[:, 1:], self.limit, columns)
        self.inner_target = self.target * self.inner
        self.gradients = gradients(self.target) * self.inner  # (B, 1, 2, h, w)
        products = self.gradients * self.gradients.transpose(1, 2)  # yy, yx, xy, xx
        self.structure = column_sums(products.reshape(-1, 4, self.height, self.width), columns)

    def refine(
        self, shift: torch.Tensor, moved: torch.Tensor, rounds: int, sigma: float | None
    ) -> torch.Tensor:
        """A better shift (B, 2, 2, h, columns) in smaller pixels, of which rows within `sigma`
        count together.

        None: all rows, and one shift (B, 2, 2, 1, 1). `moved` is what the references are with the
        shift that is given.
        """

        def together(sums: torch.Tensor) -> torch.Tensor:
            return (
                sums.sum(dim=2, keepdim=True).mean(dim=3, keepdim=True)
                if sigma is None
                else smooth(sums, sigma)
            )

        solution = self._solution(together(self.structure))
        for number in range(rounds):
            if number:
                moved = self.references.warp(shift)
            squares = moved * self.inner * moved
            sums = [
                column_sums(products, self.columns)
                for products in (self.inner_target * moved, squares)
            ]
            common, own = together(torch.cat(sums, dim=1)).split(2, dim=1)
            gain = (common / (own + TINY)).clamp(*GAINS_OF_A_ROUND)
            difference = self.target - widen(gain, self.width) * moved
            slopes = self.gradients * difference[:, :, None]
            slopes = together(
                column_sums(slopes.reshape(-1, 4, self.height, self.width), self.columns)
            )
            slopes = slopes.reshape(-1, 2, 1, 2, *sizes(slopes))
            step = (solution * slopes).sum(dim=3).clamp(-LONGEST_STEP, LONGEST_STEP)
            shift = (shift + step).clamp(-self.limit, self.limit)
        return shift

    @staticmethod
    def _solution(structure: torch.Tensor) -> torch.Tensor:
        """Sums (B, 4, h, columns) of products of gradients to matrices (B, 1, 2, 2, h, columns), by
        which slopes become steps.
        """
        yy, yx, _, xx = structure.split(1, dim=1)
        stiffness = STIFFNESS * (yy + xx) + TINY
        yy, xx = yy + stiffness, xx + stiffness
        solution = torch.cat([xx, -yx, -yx, yy], dim=1) / (yy * xx - yx * yx)
        return solution.reshape(-1, 1, 2, 2, *sizes(solution))

    def zero_undetermined(self, shift: torch.Tensor) -> torch.Tensor:
        """The shift, 0 along an axis along which there is only noise."""
        coherence = correlation(self.gradients, gradients(self.references.warp(shift)) * self.inner)
        return torch.where(coherence[..., None, None] < LEAST_COHERENCE, 0.0, shift)

    def keep_if_better(self, shift: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The shift (B, 2, 2, h, columns), 0 for a reference of which it leaves more of the
        difference; and these moved.
        """
        stay, moved = self.references.images, self.references.warp(shift)
        before, after = correlation(
            self.inner_target, torch.cat([stay, moved], dim=1) * self.inner
        ).split(2, dim=1)
        is_worse = (after < before)[..., None, None]
        return torch.where(is_worse[..., None], 0.0, shift), torch.where(is_worse, stay, moved)


def gain_and_offset(
    target: torch.Tensor, references: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two planes (B, 2, H, W) each: gain * reference + offset is nearest to Target in a window
    around every pixel.

    Least squares over a window that is much larger than a defect, from means of blocks, so that a
    defect is not evened out; where there is no contrast, the gain is that of the whole strip. After
    He, Sun and Tang 2010, "Guided image filtering".
    """
    # without it, variances are small differences of large squares, mostly rounding
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


def column_sums(images: torch.Tensor, columns: int) -> torch.Tensor:
    """(B, C, H, W) to (B, C, H, columns): each row's sums over columns of one width."""
    if columns == 1:
        return images.sum(dim=3, keepdim=True)
    images = functional.pad(images, (0, -int(images.shape[3]) % columns))
    return images.reshape(
        -1, *map(int, images.shape[1:3]), columns, int(images.shape[3]) // columns
    ).sum(dim=4)


def smooth(sums: torch.Tensor, sigma: float) -> torch.Tensor:
    """(B, C, H, columns) weighted by a Gaussian of `sigma` rows, and with NEIGHBOURS; beyond the
    image there is nothing.
    """
    reach = math.ceil(3 * sigma)
    sums = convolve(sums, gaussian_window(sigma, reach), 2, padding=reach)
    return sums if sums.shape[3] == 1 else convolve(sums, NEIGHBOURS, 3, padding=1)


def resize_rows(shift: torch.Tensor, height: int) -> torch.Tensor:
    """(B, 2, 2, h, columns) to `height` rows: twice as many, or one less."""
    rows, columns = sizes(shift)
    larger = functional.interpolate(
        shift.reshape(-1, 4, rows, columns),
        scale_factor=(2.0, 1.0),
        mode="bilinear",
        align_corners=False,
    )
    return cut(larger, height, columns).reshape(-1, 2, 2, height, columns)


def correlation(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Of planes (..., H, W), from -1 to 1, without taking means off; 0 where one of them is 0
    everywhere.
    """
    together, own, other = (
        (a * b).mean(dim=(-2, -1)) for a, b in ((first, second), (first, first), (second, second))
    )
    return together / (own * other + TINY * TINY).sqrt()


def mean_square(difference: torch.Tensor) -> torch.Tensor:
    return (difference * difference).mean(dim=(2, 3), keepdim=True)

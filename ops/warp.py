"""Warping of images by shifts of fractions of a pixel."""

import math

import torch

from ops.constants import constant
from ops.filters import (
    DERIVATIVE,
    convolve,
    cut,
    overlapping_column_blocks,
    overlapping_row_blocks,
    pad_along,
    sizes,
)

LARGEST_SHIFT = 3.0  # pixels in y and in x: the curve moves a reference no further
# Lobes of the Lanczos kernel. With fewer, a pattern with a period of four pixels would be displaced
# by up to 0.1 px.
LOBES = 3
OUTSIDE = 0.25  # pixels beyond the strip's edge up to which a reference still has values
# Pixels before the end of a reference that whole pixels moved: their interpolation takes in pixels
# that it does not cover.
SEAM = 2.0
# Weights of half a second derivative, accurate to the sixth order as DERIVATIVE is.
HALF_CURVATURE = (1 / 180, -3 / 40, 3 / 4, -49 / 36, 3 / 4, -3 / 40, 1 / 180)
# Rows that are moved in one product: the first number that divides the image's height, else the
# first.
MOVED_ROWS = (8, 4)


def shift_images(
    images: torch.Tensor, shift: torch.Tensor, limit: float = LARGEST_SHIFT
) -> torch.Tensor:
    """Move images (B, C, H, W) back by `shift`: each pixel is taken from where it was moved to.

    `shift` is (B, C, 2, H or 1, columns), (y, x) in pixels, at most `limit` in y or x.
    """
    return Warper(images, limit, int(shift.shape[4]), is_reused=False).warp(shift)


def shift_slightly(
    images: torch.Tensor, shift_y: torch.Tensor, shift_x: torch.Tensor
) -> torch.Tensor:
    """Move images (B, C, H, W) back by about a pixel at most, each pixel by a shift of its own.

    Shifts are (B, C, H, W) in pixels. It is the Taylor series to the second order, along y and then
    along x. Border pixels are repeated outwards.
    """
    reach = len(DERIVATIVE) // 2
    for axis, shift in ((2, shift_y), (3, shift_x)):
        padded = pad_along(images, axis, reach)
        first, second = (convolve(padded, window, axis) for window in (DERIVATIVE, HALF_CURVATURE))
        images = images + shift * (first + shift * second)
    return images


class Warper:
    """Moves images (B, C, H, W) back by shifts of at most `limit` pixels in y or x.

    Border pixels are repeated outwards. The interpolation is Lanczos (Duchon 1979, "Lanczos
    filtering in one and two dimensions"), along y and then along x. No pixel is looked up by an
    index that depends on the shift, so every opset and device computes it fast.

    In an image of one column, all pixels of a row move by the same shift. There the weights of a
    block of pixels form a matrix, which multiplies a frame: the block and all pixels that may move
    into it. `is_reused` says that `warp` is called several times: then the frames are cut once, in
    advance. Otherwise they are cut along x only after y, when there are half as many pixels. In a
    wider image, the result is a sum over all shifts by whole pixels, in many more steps.
    """

    def __init__(self, images: torch.Tensor, limit: float, columns: int, is_reused: bool = True):
        self.images, self.columns, self.is_reused = images, columns, is_reused
        self.channels, (self.height, self.width) = int(images.shape[1]), sizes(images)
        self.reach = math.ceil(limit) + LOBES - 1
        if columns == 1:
            self._cut_frames()

    def warp(self, shift: torch.Tensor) -> torch.Tensor:
        """Return the images moved back by a shift.

        The shift is (B, C, 2, H or 1, columns or 1), (y, x) in pixels.
        """
        return self._in_blocks(shift) if self.columns == 1 else self._tap_by_tap(shift)

    def warp_along_x(self, shift: torch.Tensor) -> torch.Tensor:
        """Return the images moved back along y as in the last `warp`, and by `shift` along x.

        The shift is (B, C, H, columns or 1) in pixels.
        """
        if self.columns > 1:
            weights = lanczos_weights(
                self.taps[:, None, None] - widen(shift, self.width)[:, :, None], dim=2
            )
            return self._sum_of_columns(weights.unbind(dim=2))
        shift = self._in_whole_blocks(shift[:, :, None])
        return self._blocks_along_x(lanczos_weights(self.places[1:] - shift, dim=5))

    def _cut_frames(self) -> None:
        reach = self.reach
        self.rows = next((rows for rows in MOVED_ROWS if self.height % rows == 0), MOVED_ROWS[0])
        self.frames = overlapping_row_blocks(
            overlapping_column_blocks(self.images, reach) if self.is_reused else self.images,
            self.rows,
            reach,
        )
        # Distances of a frame's pixels: along y from each pixel of the block; along x, where fewer
        # count, from its first pixel.
        taps = self.rows + 2 * reach
        places = [
            [[tap - reach - row * axis for tap in range(taps)] for row in range(self.rows)]
            for axis in (1.0, 0.0)
        ]
        self.places = constant(places, self.images)[:, None]
        # Places a pixel's weights along x, one place further on for each pixel of the block.
        spread = [
            [
                float(place - pixel == tap)
                for place in range(4 * reach)
                for pixel in range(2 * reach)
            ]
            for tap in range(taps)
        ]
        self.spread = constant(spread, self.images)

    def _in_blocks(self, shift: torch.Tensor) -> torch.Tensor:
        channels, rows = self.channels, self.rows
        (down, taps) = map(int, self.frames.shape[2:4])
        weights = lanczos_weights(self.places - self._in_whole_blocks(shift), dim=5)
        along_y, along_x = weights.split(1, dim=2)
        images = along_y.reshape(-1, channels, down, rows, taps) @ self.frames
        images = images.reshape(-1, channels, down * rows, int(self.frames.shape[4]))
        images = images if self.is_reused else overlapping_column_blocks(images, self.reach)
        across = int(images.shape[3]) // (4 * self.reach)
        self.moved_along_y = images.reshape(-1, channels, down * rows, across, 4 * self.reach)
        return self._blocks_along_x(along_x)

    def _in_whole_blocks(self, shift: torch.Tensor) -> torch.Tensor:
        """(B, C, axes, H or 1, 1) to (B, C, axes, blocks, rows, 1)."""
        down, axes = int(self.frames.shape[2]), int(shift.shape[2])
        if shift.shape[3] == 1:
            shift = shift.expand(-1, -1, -1, self.height, -1)
        if self.height % self.rows:
            known = [min(row, self.height - 1) for row in range(down * self.rows)]
            shift = shift.index_select(3, constant(known, shift, torch.int64))
        return shift.reshape(-1, self.channels, axes, down, self.rows, 1)

    def _blocks_along_x(self, weights: torch.Tensor) -> torch.Tensor:
        channels, reach = self.channels, self.reach
        (down, taps) = map(int, self.frames.shape[2:4])
        down, across = down * self.rows, int(self.moved_along_y.shape[3])
        weights = weights.reshape(-1, channels, down, taps) @ self.spread
        weights = weights.reshape(-1, channels, down, 4 * reach, 2 * reach)
        images = self.moved_along_y @ weights
        return cut(images.reshape(-1, channels, down, across * 2 * reach), self.height, self.width)

    def _tap_by_tap(self, shift: torch.Tensor) -> torch.Tensor:
        reach, images = self.reach, self.images
        shift = widen(shift, self.width)
        self.taps = torch.arange(-reach, reach + 1, dtype=shift.dtype, device=shift.device)
        weights = lanczos_weights(self.taps[:, None, None] - shift[:, :, :, None], dim=3)
        along_y, along_x = (weights[:, :, axis].unbind(dim=2) for axis in (0, 1))
        padded = pad_along(images, 2, reach)
        images = sum(
            weight * padded[:, :, tap : tap + self.height] for tap, weight in enumerate(along_y)
        )
        self.moved_along_y = pad_along(images, 3, reach)
        return self._sum_of_columns(along_x)

    def _sum_of_columns(self, along_x: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return sum(
            weight * self.moved_along_y[..., tap : tap + self.width]
            for tap, weight in enumerate(along_x)
        )


def lanczos_weights(distances: torch.Tensor, dim: int) -> torch.Tensor:
    """Return the weights of pixels at `distances` in pixels; along `dim`, their sum is 1.

    The kernel is Lanczos with three lobes, sin(3a) / 3a * sin(a) / a for a = pi / 3 * distance. It
    takes one sine instead of two, as sin(3a) is sin(a) * (3 - 4 * sin(a)^2). Factors that all
    weights share are left out.
    """
    # At the lower limit sin(a) / a is 1, at the upper one 0.
    angle = (math.pi / LOBES * distances).abs().clamp(1e-4, math.pi)
    sine = torch.sin(angle)
    square = sine * sine
    weights = square * (0.75 - square) / (angle * angle)
    return weights / weights.sum(dim=dim, keepdim=True)


def fill_outside(
    target: torch.Tensor,
    moved: torch.Tensor,
    down: torch.Tensor,
    across: torch.Tensor,
    far: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fill the moved references (B, 2, H, W) where their shift reaches beyond the strip.

    There a reference is halfway between Target and the other reference, and Target where both end.
    With one reference alone, nobody knows whether it or Target has a point: halfway, the likelihood
    ratio of both is equal (likelihood.py). The shifts along y and x are (B, 2, H, W or 1). They
    follow the shifts `far` (B, 2, 2) by whole pixels, which cut the references off at the strip's
    edges too. Returns the two references, each (B, 1, H, W).
    """
    far = far + SEAM * far.sign()
    # Pixels from the middle between the edge beyond which a reference was cut off and the edge
    # where it ends.
    rows, columns = (
        torch.arange(length, device=moved.device) - (length - 1) / 2 + along / 2
        for length, along in zip(sizes(moved), far.split(1, dim=2))
    )
    limits = [
        (length - 1) / 2 + OUTSIDE - along[..., None].abs() / 2
        for length, along in zip(sizes(moved), far.split(1, dim=2))
    ]
    # a row beyond the edge: a shift along x that takes all of its pixels beyond
    is_row_beyond = (rows[:, :, :, None] + down).abs() > limits[0]
    across = torch.where(is_row_beyond, 2.0 * sizes(moved)[1], across)
    ref1, ref2 = moved.split(1, dim=1)
    # split before the comparison: ONNX Runtime splits booleans only from 1.14 on
    is_beyond1, is_beyond2 = (
        distance > limit
        for distance, limit in zip(
            (columns[:, :, None] + across).abs().split(1, dim=1), limits[1].split(1, dim=1)
        )
    )
    halfway1, halfway2 = (target + ref2) / 2, (target + ref1) / 2
    filled1 = torch.where(is_beyond1, torch.where(is_beyond2, target, halfway1), ref1)
    filled2 = torch.where(is_beyond2, torch.where(is_beyond1, target, halfway2), ref2)
    return filled1, filled2


def widen(planes: torch.Tensor, width: int) -> torch.Tensor:
    """(..., columns) to (..., width), linearly between the middles of the columns.

    A single column is returned as it is, because it broadcasts to any width.
    """
    columns = int(planes.shape[-1])
    if columns == 1:
        return planes
    middles = torch.arange(columns, dtype=planes.dtype, device=planes.device)
    places = (torch.arange(width, dtype=planes.dtype, device=planes.device) + 0.5) * (
        columns / width
    ) - 0.5
    return planes @ (1 - (places.clamp(0, columns - 1) - middles[:, None]).abs()).clamp(min=0)

"""Images taken from where shifts by fractions of a pixel have moved them."""

import math

import torch
from torch.nn import functional

from ops.filters import cut, overlapping_column_blocks, overlapping_row_blocks, sizes

LARGEST_SHIFT = 3.0  # pixels in y and in x: as far as a reference is moved
# of the Lanczos kernel that shifts images: with less, a pattern of four pixels is misplaced by up
# to 0.1 px
LOBES = 3
OUTSIDE = 0.25  # pixels beyond the strip's edge up to which a reference is still known
# what is moved at once: the first of which an image's height is a multiple, else the first
MOVED_ROWS = (8, 4)


def shift_images(
    images: torch.Tensor, shift: torch.Tensor, limit: float = LARGEST_SHIFT
) -> torch.Tensor:
    """Images (B, C, H, W) taken from where `shift` (B, C, 2, H or 1, columns), at most `limit`
    pixels in y or x, moved them.
    """
    return Warper(images, limit, int(shift.shape[4]), often=False).warp(shift)


class Warper:
    """Images (B, C, H, W), to be taken from where shifts of at most `limit` pixels have moved them.

    The border's pixels go on.

    Lanczos interpolation (Duchon 1979, "Lanczos filtering in one and two dimensions"), along y and
    then along x. No pixel is looked up by where it was moved from, so any opset and device can do
    it fast. In an image of one column all pixels of a row are moved alike: there the weights of a
    block of pixels are a matrix, by which a frame, the block and what may be moved into it, is
    multiplied. Frames are cut once where the images are moved `often`; else along x only after y,
    which is then of half as many pixels. In a wider image it is a sum over all shifts by whole
    pixels, in many more steps.
    """

    def __init__(self, images: torch.Tensor, limit: float, columns: int, often: bool = True):
        self.images, self.columns, self.often = images, columns, often
        self.channels, (self.height, self.width) = int(images.shape[1]), sizes(images)
        self.reach = math.ceil(limit) + LOBES - 1
        if columns == 1:
            self._cut_frames()

    def warp(self, shift: torch.Tensor) -> torch.Tensor:
        """By a shift (B, C, 2, H or 1, columns or 1), (y, x) in pixels."""
        return self._in_blocks(shift) if self.columns == 1 else self._tap_by_tap(shift)

    def _cut_frames(self) -> None:
        reach = self.reach
        self.rows = next((rows for rows in MOVED_ROWS if self.height % rows == 0), MOVED_ROWS[0])
        self.frames = overlapping_row_blocks(
            overlapping_column_blocks(self.images, reach) if self.often else self.images,
            self.rows,
            reach,
        )
        # where the pixels of a frame lie: along y beside each of the block's, along x, where fewer
        # count, beside its first
        taps = self.rows + 2 * reach
        places = [
            [[tap - reach - row * axis for tap in range(taps)] for row in range(self.rows)]
            for axis in (1.0, 0.0)
        ]
        self.places = self.images.new_tensor(places)[:, None]
        # a pixel's weights along x, for each of the block's pixels one place further on
        spread = [
            [
                float(place - pixel == tap)
                for place in range(4 * reach)
                for pixel in range(2 * reach)
            ]
            for tap in range(taps)
        ]
        self.spread = self.images.new_tensor(spread)

    def _in_blocks(self, shift: torch.Tensor) -> torch.Tensor:
        channels, rows, reach, (down, taps) = (
            self.channels,
            self.rows,
            self.reach,
            map(int, self.frames.shape[2:4]),
        )
        if shift.shape[3] == 1:
            shift = shift.expand(-1, -1, -1, self.height, -1)
        if self.height % rows:
            known = [min(row, self.height - 1) for row in range(down * rows)]
            shift = shift.index_select(3, torch.tensor(known, device=shift.device))
        weights = lanczos_weights(
            self.places - shift.reshape(-1, channels, 2, down, rows, 1), dim=5
        )
        along_y, along_x = weights.split(1, dim=2)
        images = along_y.reshape(-1, channels, down, rows, taps) @ self.frames
        images = images.reshape(-1, channels, down * rows, int(self.frames.shape[4]))
        images = images if self.often else overlapping_column_blocks(images, reach)
        across = int(images.shape[3]) // (4 * reach)
        along_x = along_x.reshape(-1, channels, down * rows, taps) @ self.spread
        along_x = along_x.reshape(-1, channels, down * rows, 4 * reach, 2 * reach)
        images = images.reshape(-1, channels, down * rows, across, 4 * reach) @ along_x
        return cut(
            images.reshape(-1, channels, down * rows, across * 2 * reach), self.height, self.width
        )

    def _tap_by_tap(self, shift: torch.Tensor) -> torch.Tensor:
        reach, images = self.reach, self.images
        shift = widen(shift, self.width)
        places = torch.arange(-reach, reach + 1, dtype=shift.dtype, device=shift.device)
        weights = lanczos_weights(places[:, None, None] - shift[:, :, :, None], dim=3)
        along_y, along_x = (weights[:, :, axis].unbind(dim=2) for axis in (0, 1))
        padded = functional.pad(images, (0, 0, reach, reach), mode="replicate")
        images = sum(
            weight * padded[:, :, tap : tap + self.height] for tap, weight in enumerate(along_y)
        )
        padded = functional.pad(images, (reach, reach, 0, 0), mode="replicate")
        return sum(
            weight * padded[..., tap : tap + self.width] for tap, weight in enumerate(along_x)
        )


def lanczos_weights(distances: torch.Tensor, dim: int) -> torch.Tensor:
    """Weights of pixels that lie `distances` pixels away: along `dim`, their sum is 1.

    Lanczos with three lobes, sin(3a) / 3a * sin(a) / a for a = pi / 3 * distance, with one sine for
    two: sin(3a) is sin(a) * (3 - 4 * sin(a)^2). Factors that all weights have are left out.
    """
    # sin(a) / a is 1 at the least, and 0 at the most
    angle = (math.pi / LOBES * distances).abs().clamp(1e-4, math.pi)
    sine = torch.sin(angle)
    square = sine * sine
    weights = square * (0.75 - square) / (angle * angle)
    return weights / weights.sum(dim=dim, keepdim=True)


def fill_outside(
    target: torch.Tensor, moved: torch.Tensor, shift: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """References (B, 2, H, W) with the other one where a shift (B, 2, 2, H, columns) leaves the
    strip, Target where both do.

    One after the other, each (B, 1, H, W).
    """
    height, width = sizes(moved)
    down, across = widen(shift, width).unbind(dim=2)
    # from the middle
    rows, columns = (
        torch.arange(length, device=moved.device) - (length - 1) / 2 for length in (height, width)
    )
    limits = [(length - 1) / 2 + OUTSIDE for length in (height, width)]
    # a row beyond: all of its pixels
    across = torch.where((rows[:, None] + down).abs() > limits[0], 2.0 * width, across)
    is_beyond = (columns + across).abs() > limits[1]
    (ref1, ref2), (is_beyond1, is_beyond2) = moved.split(1, dim=1), is_beyond.split(1, dim=1)
    filled1 = torch.where(is_beyond1, torch.where(is_beyond2, target, ref2), ref1)
    filled2 = torch.where(is_beyond2, torch.where(is_beyond1, target, ref1), ref2)
    return filled1, filled2


def widen(planes: torch.Tensor, width: int) -> torch.Tensor:
    """(..., columns) to (..., width), linearly between the middles of columns; one column stays
    one, which stands for any width.
    """
    columns = int(planes.shape[-1])
    if columns == 1:
        return planes
    middles = torch.arange(columns, dtype=planes.dtype, device=planes.device)
    places = (torch.arange(width, dtype=planes.dtype, device=planes.device) + 0.5) * (
        columns / width
    ) - 0.5
    return planes @ (1 - (places.clamp(0, columns - 1) - middles[:, None]).abs()).clamp(min=0)

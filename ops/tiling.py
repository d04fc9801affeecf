"""Where windows lie on an image, and what of each one reaches the result.

This is the only module that decides it. `SlidingWindow` cuts and stitches windows of any size,
stride and padding, in PyTorch and in an ONNX graph alike. `Tiling` is its setting for strips: for
validation, PyTorch inference and the ONNX graph. The training set reads its patches at
`tile_positions`. `WholeImage` replaces the tiling where an image is processed in one piece.

Along an axis of length L with patches of size p there are n = 1 + ceil((L - p) / (p - p/8)) tiles,
at evenly spaced whole positions from 0 to L - p. So neighbours overlap by at least an eighth of a
patch. Of an overlap each tile keeps its half, because a network's predictions close to a patch
border are worse. Every pixel is written exactly once.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from common.errors import UserError

Padding = Literal["reflect", "constant", "none"]
Merge = Literal["mean", "max", "keep"]

# Patch height and width in pixels, by --image_type.
PATCH_SIZES = {
    "strip": 128,
    "square": 256,
    "mvtec": 256,
}


def calculate_positions(length: int, patch: int) -> list[int]:
    """Return the first pixel of every tile along an axis, ascending from 0 to `length - patch`.

    Raises `UserError` if the axis is shorter than one patch.
    """
    if length < patch:
        raise UserError(
            f"an image of {length} pixels along one axis is smaller than one patch: "
            f"expected at least {patch}"
        )
    if length == patch:
        return [0]
    stride = max(1, patch - _ceil_divide(patch, 8))
    gaps = _ceil_divide(length - patch, stride)
    return [gap * (length - patch) // gaps for gap in range(gaps + 1)]


def calculate_kept_ranges(length: int, patch: int) -> list[tuple[int, int]]:
    """Return the (start, stop) that every tile along an axis keeps, in pixels of the image.

    A tile keeps half of each overlap. The ranges follow one another without a gap from 0 to
    `length`. If an overlap is odd, the later tile gets the extra pixel.
    """
    return _kept_ranges(calculate_positions(length, patch), patch, length)


def tile_positions(image_size: tuple[int, int], patch: int) -> list[tuple[int, int]]:
    """Return the top left corner (y, x) of every tile of an image (height, width), row by row.

    Raises `UserError` if the image is smaller than one patch.
    """
    height, width = image_size
    return [
        (y, x)
        for y in calculate_positions(height, patch)
        for x in calculate_positions(width, patch)
    ]


class SlidingWindow(nn.Module):
    """Cut images into windows and put the windows' results together, also in an ONNX graph.

    `image_size`, `window` and `stride` are (height, width) in pixels. Windows begin at 0, at the
    stride, at twice the stride and so on. Without a stride they are spread evenly, so that
    neighbours overlap by at least an eighth of a window, as the tiles of a strip do.

    `padding` says what becomes of a last window that ends beyond the image: "reflect" mirrors the
    image beyond its bottom and right edge, "constant" fills with zeros, and "none" moves the window
    back to end at the edge. What lies beyond the image never reaches the result.

    `merge` says what becomes of a pixel in several windows: their "mean" or "max", or "keep": each
    window keeps its half of an overlap. Windows that agree give their value exactly.

    Each direction is one look-up per axis (`Gather` in ONNX). `split` reads the image's rows and
    columns as often as windows need them. `stitch` lays the windows side by side and reads the rows
    and columns of every window that holds a pixel.

    Attributes: `starts`, the first rows and the first columns of windows, and `grid`, the numbers
    of windows (down, across).

    Raises `UserError` for a stride below 1 or above the window, and for a window larger than the
    image where padding is "none".
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        window: tuple[int, int],
        stride: tuple[int, int] | None = None,
        padding: Padding = "reflect",
        merge: Merge = "mean",
    ):
        super().__init__()
        self.image_size, self.window = tuple(image_size), tuple(window)
        self.padding, self.merge = padding, merge
        steps = stride or (None, None)
        self.starts = tuple(
            _window_starts(*axis, padding) for axis in zip(self.image_size, self.window, steps)
        )
        self.grid = tuple(len(starts) for starts in self.starts)
        axes = zip(("rows", "columns"), self.starts, self.window, self.image_size)
        for name, starts, size, length in axes:
            split = _split_index(starts, size, length if padding == "reflect" else None)
            self.register_buffer(f"split_{name}", torch.tensor(split), persistent=False)
            if merge == "keep":
                stitch = _stitch_index(starts, size, length)
            else:
                stitch, counts = _holders_index(starts, size, length)
                shape = (-1, 1) if name == "rows" else (-1,)
                self.register_buffer(
                    f"holders_of_{name}", torch.tensor(counts).reshape(shape), persistent=False
                )
            self.register_buffer(f"stitch_{name}", torch.tensor(stitch), persistent=False)

    def split(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B * windows, C, height, width): image by image, windows row by row.

        Values may have any range. Raises `UserError` if the images do not have this size.
        """
        _check_size(images, self.image_size)
        (windows_y, windows_x), channels = self.grid, images.shape[1]
        height, width = self.window
        rows = self._filled(images).index_select(2, self.split_rows)
        cells = rows.index_select(3, self.split_columns).reshape(
            -1, channels, windows_y, height, windows_x, width
        )
        return cells.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, height, width)

    def stitch(self, windows: torch.Tensor) -> torch.Tensor:
        """(B * windows, C, height, width), in the order of `split`, to (B, C, H, W), merged."""
        (windows_y, windows_x), channels = self.grid, windows.shape[1]
        height, width = self.window
        cells = windows.reshape(-1, windows_y, windows_x, channels, height, width).permute(
            0, 3, 1, 4, 2, 5
        )
        sheet = cells.reshape(-1, channels, windows_y * height, windows_x * width)
        if self.merge == "keep":
            return sheet.index_select(2, self.stitch_rows).index_select(3, self.stitch_columns)
        return self._merged(self._merged(sheet, 2, "rows"), 3, "columns")

    def _filled(self, images: torch.Tensor) -> torch.Tensor:
        """The images with zeros beyond their bottom and right edge where windows end there."""
        if self.padding != "constant":
            return images
        bottom, right = (
            starts[-1] + size - length
            for starts, size, length in zip(self.starts, self.window, self.image_size)
        )
        return functional.pad(images, (0, right, 0, bottom)) if bottom or right else images

    def _merged(self, sheet: torch.Tensor, axis: int, name: str) -> torch.Tensor:
        """Merge (B, C, y, x) along one axis (2 or 3), whose buffers end in `name`."""
        length, counts = self.image_size[axis - 2], getattr(self, f"holders_of_{name}")
        held = sheet.index_select(axis, getattr(self, f"stitch_{name}"))
        held = held.unflatten(axis, (-1, length))  # (B, C, holders of a row, y, x), or of a column
        if self.merge == "max":
            return held.amax(axis)
        # the mean as an offset from the first: of equal values it is that value exactly
        first = held.narrow(axis, 0, 1)
        return first.squeeze(axis) + (held - first).sum(axis) / counts


class Tiling(SlidingWindow):
    """The tiles of strips: square, evenly spread, each with its half of every overlap."""

    def __init__(self, image_size: tuple[int, int], patch: int):
        super().__init__(image_size, (patch, patch), padding="none", merge="keep")
        self.patch = patch


class WholeImage(nn.Module):
    """The image in one piece, instead of tiles.

    It is mirrored beyond its bottom and right edges up to a multiple that the network can take. The
    network computes fewer pixels than in tiles, and none near a tile's border. But a network that
    was trained on patches has not seen such a large piece.
    """

    def __init__(self, image_size: tuple[int, int], multiple: int):
        super().__init__()
        self.image_size = tuple(image_size)
        self.padded_size = tuple(_ceil_divide(length, multiple) * multiple for length in image_size)

    def split(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B, C, padded height, padded width).

        Raises `UserError` if the images do not have this size.
        """
        _check_size(images, self.image_size)
        bottom, right = (
            padded - length for padded, length in zip(self.padded_size, self.image_size)
        )
        return functional.pad(images, (0, right, 0, bottom), mode="reflect")

    def stitch(self, images: torch.Tensor) -> torch.Tensor:
        """Remove the padding from planes of the padded size: to (B, C, H, W)."""
        return images[:, :, : self.image_size[0], : self.image_size[1]]


def _check_size(images: torch.Tensor, image_size: tuple[int, int]) -> None:
    if tuple(images.shape[2:]) != image_size:
        raise UserError(
            f"found images of {tuple(images.shape[2:])} (height, width), expected {image_size}"
        )


def _window_starts(length: int, window: int, stride: int | None, padding: Padding) -> list[int]:
    """The first pixel of every window along an axis, ascending; every pixel is in a window.

    Raises `UserError` as `SlidingWindow` does.
    """
    if stride is None and padding == "none":
        return calculate_positions(length, window)
    if window < 1 or (stride is not None and not 1 <= stride <= window):
        raise UserError(
            f"found windows of {window} pixels and a stride of {stride} along one axis, "
            "expected a window of at least 1 and a stride from 1 to the window"
        )
    if padding == "none" and window > length:
        raise UserError(
            f"found windows of {window} pixels along an axis of {length}, expected windows no "
            "larger than the image, or padding that is reflect or constant"
        )
    if window >= length:
        return [0]
    if stride is None:
        return calculate_positions(length, window)
    starts = [number * stride for number in range(1 + _ceil_divide(length - window, stride))]
    return [min(start, length - window) for start in starts] if padding == "none" else starts


def _kept_ranges(starts: Sequence[int], window: int, length: int) -> list[tuple[int, int]]:
    """As `calculate_kept_ranges`, for windows that begin at `starts`."""
    borders = [(before + window + after) // 2 for before, after in zip(starts, starts[1:])]
    return list(zip([0, *borders], [*borders, length]))


def _split_index(starts: Sequence[int], window: int, reflected: int | None) -> list[int]:
    """Return the pixel in the image for every pixel of the windows laid end to end along an axis.

    An image that is `reflected` pixels long is mirrored beyond its end, as often as needed.
    """
    pixels = [start + offset for start in starts for offset in range(window)]
    if reflected is None:
        return pixels
    period = max(1, 2 * (reflected - 1))
    return [min(pixel % period, -pixel % period) for pixel in pixels]


def _stitch_index(starts: Sequence[int], window: int, length: int) -> list[int]:
    """Return the pixel in the windows laid end to end for every pixel of the image along an axis.

    It is the one in the window that keeps the pixel.
    """
    kept = zip(starts, _kept_ranges(starts, window, length))
    return [
        number * window + pixel - start
        for number, (start, (first, stop)) in enumerate(kept)
        for pixel in range(first, stop)
    ]


def _holders_index(starts: Sequence[int], window: int, length: int) -> tuple[list[int], list[int]]:
    """As `_stitch_index`, for all windows that hold a pixel, and the number of them.

    The first list lays as many rows of `length` end to end as the most windows that hold one pixel.
    A pixel that fewer windows hold repeats its first.
    """
    holders = [
        [
            number * window + pixel - start
            for number, start in enumerate(starts)
            if 0 <= pixel - start < window
        ]
        for pixel in range(length)
    ]
    counts = [len(of_pixel) for of_pixel in holders]
    index = [
        of_pixel[turn if turn < len(of_pixel) else 0]
        for turn in range(max(counts))
        for of_pixel in holders
    ]
    return index, counts


def _ceil_divide(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)

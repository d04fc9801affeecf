"""Where tiles lie on an image, and which part of each one is kept.

This is the only module that decides it. The training set reads its patches at `tile_positions`.
`Tiling` cuts and stitches for validation, PyTorch inference and the ONNX graph alike. `WholeImage`
replaces it where an image is processed in one piece.

Along an axis of length L with patches of size p there are n = 1 + ceil((L - p) / (p - p/8)) tiles,
at evenly spaced whole positions from 0 to L - p. So neighbours overlap by at least an eighth of a
patch. Of an overlap each tile keeps its half, because a network's predictions close to a patch
border are worse. Every pixel is written exactly once.
"""

import torch
from torch import nn
from torch.nn import functional

from common.errors import UserError

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
    positions = calculate_positions(length, patch)
    borders = [(before + patch + after) // 2 for before, after in zip(positions, positions[1:])]
    return list(zip([0, *borders], [*borders, length]))


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


class Tiling(nn.Module):
    """Cut images into tiles and put the results of the tiles together, also in an ONNX graph.

    Each direction is one look-up per axis (`Gather` in ONNX), without arithmetic at run time.
    `split` reads the image's rows and columns as often as tiles need them. `stitch` lays the tiles
    side by side and reads the rows and columns that are kept.
    """

    def __init__(self, image_size: tuple[int, int], patch: int):
        super().__init__()
        self.image_size = tuple(image_size)
        self.patch = patch
        self.grid = tuple(len(calculate_positions(length, patch)) for length in image_size)
        for name, length in zip(("rows", "columns"), image_size):
            self.register_buffer(
                f"split_{name}", torch.tensor(_split_index(length, patch)), persistent=False
            )
            self.register_buffer(
                f"stitch_{name}", torch.tensor(_stitch_index(length, patch)), persistent=False
            )

    def split(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B * tiles, C, patch, patch): image by image, tiles row by row.

        Values may have any range. Raises `UserError` if the images do not have this tiling's size.
        """
        _check_size(images, self.image_size)
        (tiles_y, tiles_x), channels, patch = self.grid, images.shape[1], self.patch
        rows = images.index_select(2, self.split_rows)
        cells = rows.index_select(3, self.split_columns).reshape(
            -1, channels, tiles_y, patch, tiles_x, patch
        )
        return cells.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, patch, patch)

    def stitch(self, tiles: torch.Tensor) -> torch.Tensor:
        """(B * tiles, C, patch, patch), in the order of `split`, to (B, C, H, W).

        Every pixel comes from the tile that keeps it.
        """
        (tiles_y, tiles_x), channels, patch = self.grid, tiles.shape[1], self.patch
        cells = tiles.reshape(-1, tiles_y, tiles_x, channels, patch, patch).permute(
            0, 3, 1, 4, 2, 5
        )
        sheet = cells.reshape(-1, channels, tiles_y * patch, tiles_x * patch)
        return sheet.index_select(2, self.stitch_rows).index_select(3, self.stitch_columns)


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


def _split_index(length: int, patch: int) -> list[int]:
    """Return the pixel in the image for every pixel of the tiles laid end to end along an axis."""
    return [
        position + offset
        for position in calculate_positions(length, patch)
        for offset in range(patch)
    ]


def _stitch_index(length: int, patch: int) -> list[int]:
    """Return the pixel in the tiles laid end to end for every pixel of the image along an axis."""
    kept = zip(calculate_positions(length, patch), calculate_kept_ranges(length, patch))
    return [
        tile * patch + pixel - position
        for tile, (position, (start, stop)) in enumerate(kept)
        for pixel in range(start, stop)
    ]


def _ceil_divide(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)

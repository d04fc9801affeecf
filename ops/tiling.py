"""Where tiles lie on an image and which part of each one is kept.

The only place that knows: the training set reads its patches at `tile_positions`, and `Tiling` cuts
and stitches for validation, PyTorch inference and the ONNX graph alike. `WholeImage` stands in for
it where an image is looked at in one piece.

Along one axis of length L with patches of size p there are n = 1 + ceil((L - p) / (p - p/8)) tiles
at evenly spaced whole positions from 0 to L - p, so neighbours overlap by at least an eighth of a
patch. Where two overlap, each keeps its half: what a network says close to a patch border is worth
less, and every pixel is written exactly once.
"""

import torch
from torch import nn
from torch.nn import functional

from common.errors import UserError

PATCH_SIZES = {
    "strip": 128,
    "square": 256,
    "mvtec": 256,
}  # --image_type: patch height and width in pixels


def calculate_positions(length: int, patch: int) -> list[int]:
    """First pixel of every tile along one axis, ascending; the first is 0 and the last is `length -
    patch`.

    Raises `UserError` when the axis is shorter than one patch.
    """
    if length < patch:
        raise UserError(
            f"an image of {length} pixels along one axis is smaller than one patch: expected at least {patch}"
        )
    if length == patch:
        return [0]
    stride = max(1, patch - _ceil_divide(patch, 8))
    gaps = _ceil_divide(length - patch, stride)
    return [gap * (length - patch) // gaps for gap in range(gaps + 1)]


def calculate_kept_ranges(length: int, patch: int) -> list[tuple[int, int]]:
    """What every tile along one axis keeps, as (start, stop) in pixels of the image: half of each
    overlap.

    The ranges follow one another without a gap from 0 to `length`. An odd pixel goes to the later
    tile.
    """
    positions = calculate_positions(length, patch)
    borders = [(before + patch + after) // 2 for before, after in zip(positions, positions[1:])]
    return list(zip([0, *borders], [*borders, length]))


def tile_positions(image_size: tuple[int, int], patch: int) -> list[tuple[int, int]]:
    """Top left corner (y, x) of every tile of an image of `image_size` (height, width), row by row."""
    height, width = image_size
    return [
        (y, x)
        for y in calculate_positions(height, patch)
        for x in calculate_positions(width, patch)
    ]


class Tiling(nn.Module):
    """Cuts images into tiles and puts per-tile results back together, on any device and inside an
    ONNX graph.

    Both directions are one look-up per axis (`Gather` in ONNX), with no arithmetic left at run
    time: `split` reads the image's rows and columns as often as tiles need them, `stitch` reads
    from the tiles laid side by side those that are kept.
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

        Any value range.

        Raises `UserError` when the images are not of this tiling's size.
        """
        _check_size(images, self.image_size)
        (tiles_y, tiles_x), channels, patch = self.grid, images.shape[1], self.patch
        rows = images.index_select(2, self.split_rows)
        cells = rows.index_select(3, self.split_columns).reshape(
            -1, channels, tiles_y, patch, tiles_x, patch
        )
        return cells.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, patch, patch)

    def stitch(self, tiles: torch.Tensor) -> torch.Tensor:
        """(B * tiles, C, patch, patch), in the order of `split`, to (B, C, H, W): every pixel from
        the tile that keeps it.
        """
        (tiles_y, tiles_x), channels, patch = self.grid, tiles.shape[1], self.patch
        cells = tiles.reshape(-1, tiles_y, tiles_x, channels, patch, patch).permute(
            0, 3, 1, 4, 2, 5
        )
        sheet = cells.reshape(-1, channels, tiles_y * patch, tiles_x * patch)
        return sheet.index_select(2, self.stitch_rows).index_select(3, self.stitch_columns)


class WholeImage(nn.Module):
    """No tiles: the image in one piece, mirrored beyond its bottom and right edges up to a multiple
    that the network can take.

    Fewer pixels are looked at than in tiles, and none of them near a tile's border; but a network
    that was trained on patches has not seen so large a piece.
    """

    def __init__(self, image_size: tuple[int, int], multiple: int):
        super().__init__()
        self.image_size = tuple(image_size)
        self.padded_size = tuple(_ceil_divide(length, multiple) * multiple for length in image_size)

    def split(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B, C, padded height, padded width).

        Raises `UserError` when the images are not of this size.
        """
        _check_size(images, self.image_size)
        bottom, right = (
            padded - length for padded, length in zip(self.padded_size, self.image_size)
        )
        return functional.pad(images, (0, right, 0, bottom), mode="reflect")

    def stitch(self, images: torch.Tensor) -> torch.Tensor:
        """What `split` gave, or anything of its size, without the padding."""
        return images[:, :, : self.image_size[0], : self.image_size[1]]


def _check_size(images: torch.Tensor, image_size: tuple[int, int]) -> None:
    if tuple(images.shape[2:]) != image_size:
        raise UserError(
            f"found images of {tuple(images.shape[2:])} (height, width), expected {image_size}"
        )


def _split_index(length: int, patch: int) -> list[int]:
    """For every pixel of the tiles laid end to end along one axis: its pixel in the image."""
    return [
        position + offset
        for position in calculate_positions(length, patch)
        for offset in range(patch)
    ]


def _stitch_index(length: int, patch: int) -> list[int]:
    """For every pixel of the image along one axis: its pixel in the tiles laid end to end."""
    kept = zip(calculate_positions(length, patch), calculate_kept_ranges(length, patch))
    return [
        tile * patch + pixel - position
        for tile, (position, (start, stop)) in enumerate(kept)
        for pixel in range(start, stop)
    ]


def _ceil_divide(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)

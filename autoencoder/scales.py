"""One scale of a picture: windows of one size, or the whole picture at that size's scale."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import nn

from common.errors import UserError
from ops.resize import LinearResize
from ops.tiling import Padding, SlidingWindow

WINDOW_MODES = ("sliding", "pyramid")
WHOLE = 0  # as a window: each picture's shorter side
TRAINED = -1  # as a window: the side that shows a picture at the scale of the training
# Pixels of a picture's windows that a network computes at once. 2**20 are 16 windows of 256 x 256,
# of which a plane of 16 channels takes 64 MB. More are no faster on a CPU.
MOST_PIXELS = 2**20
# Pixels of a window, or of the size that a whole picture is resized to; a square of twice the
# picture's longer side may have more. 16 channels of 2**26 pixels take 4 GB.
MOST_COMPUTED = 2**26


# pictures (N, C, h, w), unit range, and their clusters (N,), to planes of cells
Compute = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Source(Protocol):
    """What gives maps (N, kinds, h / cell, w / cell) of pictures (N, C, h, w); see maps.py.

    `input_size` is the side of the pictures that it was trained on, in pixels. Height and width
    must be multiples of `multiple`. A map has one value for each cell of `cell` x `cell` pixels.
    `windows`, `window_mode` and `top_share` are those that suit it. One that `gives_pictures` has a
    method `output` with the signature of a `Compute`.
    """

    kinds: tuple[str, ...]
    input_size: int
    multiple: int
    cell: int
    windows: tuple[int, ...]
    window_mode: str
    top_share: float
    gives_pictures: bool

    def __call__(self, pictures: torch.Tensor, clusters: torch.Tensor) -> torch.Tensor: ...


class WindowMaps(nn.Module):
    """Maps of pictures of `image_size`, from square windows that slide over them.

    Each window, `window` pixels high and wide, is resized to the input size of `source`. `stride`
    is in pixels. Maps of a pixel that lies in several windows are averaged.

    Raises `UserError` as `SlidingWindow`, and for a window far larger than the picture.
    """

    def __init__(
        self,
        source: Source,
        image_size: tuple[int, int],
        window: int,
        stride: int,
        padding: Padding = "reflect",
    ):
        super().__init__()
        _require_computable((window, window), image_size)
        size = (round_up(source.input_size, source.multiple),) * 2
        self.windows = SlidingWindow(image_size, (window, window), (stride, stride), padding)
        self.shrink = LinearResize((window, window), size)
        self.enlarge = LinearResize(cells(size, source.cell), (window, window))
        self.at_once = max(1, MOST_PIXELS // max(size[0] * size[1], window * window))

    def forward(
        self, compute: Compute, images: torch.Tensor, clusters: torch.Tensor
    ) -> torch.Tensor:
        """(B, C, H, W) unit range and the pictures' clusters (B,) to (B, planes, H, W).

        `compute` is the source, or another function of its inputs.
        """
        channels, window = int(images.shape[1]), self.windows.window
        count = self.windows.grid[0] * self.windows.grid[1]
        # the windows of a picture in parts: all at once, the memory would grow with the picture
        split = self.windows.split(images).reshape(-1, count, channels, *window)
        parts = []
        for first in range(0, count, self.at_once):
            few = min(self.at_once, count - first)
            part = split if few == count else split[:, first : first + few]
            repeated = clusters[:, None].expand(-1, few).reshape(-1)
            maps = compute(self.shrink(part.reshape(-1, channels, *window)), repeated)
            planes = int(maps.shape[1])
            parts.append(self.enlarge(maps).reshape(-1, few, planes, *window))
        whole = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return self.windows.stitch(whole.reshape(-1, int(whole.shape[2]), *window))


class PyramidMaps(nn.Module):
    """Maps of whole pictures of `image_size` at the scale at which a window becomes the input.

    The network computes the whole picture at once: no pixel twice, and none near a window's border.

    Raises `UserError` for a window so small that the picture would be enlarged far beyond its size.
    """

    def __init__(self, source: Source, image_size: tuple[int, int], window: int):
        super().__init__()
        factor = source.input_size / window
        size = tuple(round_up(round(length * factor), source.multiple) for length in image_size)
        _require_computable(size, image_size)
        self.shrink = LinearResize(image_size, size)
        self.enlarge = LinearResize(cells(size, source.cell), image_size)

    def forward(
        self, compute: Compute, images: torch.Tensor, clusters: torch.Tensor
    ) -> torch.Tensor:
        """As `WindowMaps.forward`."""
        return self.enlarge(compute(self.shrink(images), clusters))


def _require_computable(size: tuple[int, int], image_size: tuple[int, int]) -> None:
    """Raise `UserError` for a size (height, width) with too many pixels for such a picture."""
    most = max(MOST_COMPUTED, 4 * max(image_size) ** 2)
    if size[0] * size[1] > most:
        raise UserError(
            f"found {size[0]} x {size[1]} pixels to compute for a picture of {image_size[0]} x "
            f"{image_size[1]}, expected a window that asks for at most {most / 1e6:.0f} million"
        )


def side_of(window: int, source: Source, image_size: tuple[int, int]) -> int:
    """The side in pixels of a window of pictures of `image_size`, which may be WHOLE or TRAINED."""
    if window == WHOLE:
        return min(image_size)
    if window != TRAINED:
        return window
    return max(1, round(source.input_size * max(image_size) / source.long_side))


def round_up(length: int, multiple: int) -> int:
    """The least multiple from `length` on, at least one."""
    return max(1, -(-length // multiple)) * multiple


def cells(size: tuple[int, int], cell: int) -> tuple[int, int]:
    """How many cells a size (height, width) has, which is a multiple of them."""
    return size[0] // cell, size[1] // cell

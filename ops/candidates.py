"""Where a network looks in mode "points": at the strongest candidates of a strip, in patches.

A candidate is a local maximum of the likelihood ratio (likelihood.py). The strip is divided into
cells of CELL x CELL pixels. A cell is as strong as its strongest candidate. The `count` strongest
cells are cut out as patches, which the network sees instead of the strip, and their results are put
back. Everywhere else the heatmap is 0.

The heatmap is a continuous function of the likelihood ratio, so that a difference of rounding never
replaces one candidate by another:

- A cell counts in full only where it is clearly stronger than the strongest cell that is left out;
  one as strong as that counts nothing.
- Next to a maximum, values below SHOULDER of it count nothing, and more the closer they are to it.
  So two pixels that are nearly equal, in two cells, both count.
- Patches lie at multiples of CELL pixels, so the network sees a pixel at the same place of its
  grid, whichever cells are chosen.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from common.errors import UserError
from ops.constants import constant
from ops.filters import cut

CANDIDATES = 32  # cells of a strip that the network looks at
CANDIDATES_PER_POINT = 4  # at most: a point may lie where four cells meet
CELL = 8  # pixels along each side
CONTEXT = 8  # pixels around a cell that its patch has at least
DECIDED = 4  # pixels around a cell for which its patch decides too: points lie across borders
APART = 2  # pixels along each axis within which there is one candidate only
SHOULDER = 0.8
# A cell fades in while its strength grows from that of the strongest one left out, plus 1, by this
# share.
FADE = 0.5


class Places(NamedTuple):
    """The chosen cells of strips, (B, count) each: weight 0-1, and rows and columns in cells.

    `top` and `left` are where the cell's patch begins, `row` and `column` where the cell lies.
    """

    weight: torch.Tensor
    top: torch.Tensor
    left: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor


class Candidates(nn.Module):
    """Chooses cells of strips of `image_size` (height, width), cuts them out, puts results back.

    Patches have `side` pixels along each side, a multiple of `multiple`. They are cut with `reach`
    pixels more around them, for filters. Beyond the strip's edges its border pixels are repeated,
    but as much as is missing to whole cells at the bottom and the right is mirrored. Raises
    `UserError` for strips that are smaller than a patch.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        multiple: int = CELL,
        reach: int = 0,
        count: int = CANDIDATES,
    ):
        super().__init__()
        self.image_size, self.reach = tuple(image_size), reach
        self.side = -(-(CELL + 2 * CONTEXT) // multiple) * multiple
        if min(self.image_size) < self.side:
            raise UserError(
                f"found images of {self.image_size} (height, width), expected at least "
                f"{self.side} pixels along each axis: a patch around a candidate"
            )
        self.grid = tuple(-(-length // CELL) for length in image_size)
        self.count = min(count, self.grid[0] * self.grid[1] - 1)
        # tables, as opset 11 limits no whole numbers
        tables = {
            "tops": _start_index(self.grid[0], self.side // CELL),
            "lefts": _start_index(self.grid[1], self.side // CELL),
            "rows": _shown_index(self.image_size[0], reach),
            "columns": _shown_index(self.image_size[1], reach),
        }
        for name, table in tables.items():
            self.register_buffer(name, torch.tensor(table), persistent=False)

    def choose(self, ratio: torch.Tensor) -> Places:
        """The strongest cells of likelihood ratios (B, 1, H, W), at least 0."""
        window = 2 * APART + 1
        near = functional.max_pool2d(ratio, (window, 1), stride=1, padding=(APART, 0))
        near = functional.max_pool2d(near, (1, window), stride=1, padding=(0, APART))
        strength = (ratio - SHOULDER * near) / (1 - SHOULDER)
        down, across = self.grid
        height, width = self.image_size
        if (height, width) != (down * CELL, across * CELL):
            strength = functional.pad(strength, (0, across * CELL - width, 0, down * CELL - height))
        strength = functional.relu(functional.max_pool2d(strength, CELL)).flatten(1)
        strength, cell = strength.topk(self.count + 1, dim=1)
        chosen, left_out = strength[:, :-1], strength[:, -1:]
        weight = ((chosen - left_out) / (FADE * (1 + left_out))).clamp(0, 1)
        row = torch.div(cell[:, :-1], across, rounding_mode="floor")
        column = cell[:, :-1] - row * across
        return Places(weight, self.tops[row], self.lefts[column], row, column)

    def cut(self, planes: torch.Tensor, places: Places) -> torch.Tensor:
        """Planes (B, C, H, W) to patches (B * count, C, size, size), size = side + 2 * reach."""
        channels, size = int(planes.shape[1]), self.side + 2 * self.reach
        height, width = self.image_size
        within = constant(range(size), planes, torch.int64)
        rows, columns = (
            table[CELL * start[:, :, None] + within]
            for table, start in ((self.rows, places.top), (self.columns, places.left))
        )
        strip = torch.arange(planes.shape[0], device=planes.device)[:, None, None]
        rows = (rows + height * strip) * width
        pixels = (rows[:, :, :, None] + columns[:, :, None]).flatten()
        flat = planes.transpose(0, 1).reshape(channels, -1)
        return flat.index_select(1, pixels).reshape(channels, -1, size, size).transpose(0, 1)

    def inside(self, patches: torch.Tensor) -> torch.Tensor:
        """Patches (N, C, size, size) without the `reach` pixels around them: (N, C, side, side)."""
        reach, side = self.reach, self.side
        return patches[..., reach : reach + side, reach : reach + side] if reach else patches

    def put_back(self, patches: torch.Tensor, places: Places) -> torch.Tensor:
        """Values (B * count, 1, side, side) to planes (B, 1, H, W), 0 where no patch decides.

        Where several do, it is their mean. The sums are products of matrices, as ONNX Runtime's
        scatter works on single elements.
        """
        count, side, (down, across) = self.count, self.side, self.grid
        cells = side // CELL
        decides = [
            _is_decided(place - start, side, patches)
            for place, start in ((places.row, places.top), (places.column, places.left))
        ]
        weights = places.weight[:, :, None, None] * (
            decides[0][:, :, :, None] * decides[1][:, :, None]
        )
        values = weights * patches.reshape(-1, count, side, side)
        planes = torch.stack([values, weights], dim=1)
        # along x, pixel by pixel: (B, 2, count, side, across * CELL)
        within = constant(range(side), patches, torch.int64)[:, None]
        columns = constant(range(across * CELL), patches, torch.int64)
        is_column = (CELL * places.left)[:, :, None, None] + within == columns
        planes = planes @ is_column[:, None].to(patches.dtype)
        # along y, rows of cells at once: (B, 2, down, CELL * across * CELL)
        rows = places.top[:, :, None] + constant(range(cells), patches, torch.int64)
        is_row = rows.reshape(-1, 1, count * cells) == constant(
            [[row] for row in range(down)], patches, torch.int64
        )
        planes = planes.reshape(-1, 2, count * cells, CELL * across * CELL)
        planes = is_row[:, None].to(patches.dtype) @ planes
        values, weights = planes.reshape(-1, 2, down * CELL, across * CELL).split(1, dim=1)
        return cut(values / weights.clamp(min=1), *self.image_size)


def _is_decided(offset: torch.Tensor, side: int, like: torch.Tensor) -> torch.Tensor:
    """1 for the pixels of a patch along an axis that it decides, else 0: (B, count, side).

    `offset` (B, count) says how many cells lie before the chosen one in its patch.
    """
    place = constant(range(side), like, torch.int64) - CELL * offset[:, :, None]
    return ((place >= -DECIDED) & (place < CELL + DECIDED)).to(like.dtype)


def _start_index(cells: int, side: int) -> list[int]:
    """Where the patch of each cell along an axis begins, in cells; it lies inside the strip."""
    return [min(max(cell - CONTEXT // CELL, 0), cells - side) for cell in range(cells)]


def _shown_index(length: int, reach: int) -> list[int]:
    """The pixel of an axis that each pixel shows, from `reach` before it to `reach` beyond it."""
    whole = -(-length // CELL) * CELL
    inside = [min(max(place, 0), whole - 1) for place in range(-reach, whole + reach)]
    return [place if place < length else 2 * (length - 1) - place for place in inside]

"""A bank of oriented and isotropic filters at several scales: features without any training.

Each filter's response is rectified, pooled over cells by mean and maximum, averaged over a cell's
neighbours and told as a logarithm. The logarithm matters most: on real surfaces the responses are
spread over decades, and without it the strongest structure of a picture, which is usually its
pattern, is all that a distance sees. After Leung and Malik, "Representing and recognizing the
visual appearance of materials", 2001.
"""

import math

import torch
from torch import nn
from torch.nn import functional

from ops.filters import avg_pool_blocks, enlarge, sizes

SIGMA, REACH = 1.2, 4  # pixels of a scale: the filters' width and how far they reach
ELONGATION = 1.7  # times the width: the length of an oriented filter
ORIENTATIONS, SCALES = 4, 3
LEAST_RESPONSE = 0.02  # in local standard deviations; smaller responses are noise
LEAST_VARIANCE = 4e-4  # of the unit range; a standard deviation of 5 grey levels of 255
BLOCK = 4  # pixels along each side of a block, on the grid of which local means are computed
NEIGHBOURS = 3  # cells along each side that are averaged, as PatchCore does


class FilterBank(nn.Module):
    """(B, 1 or 3, h, w), normalized locally, to (B, D, h / cell, w / cell).

    Colour pictures have the responses of their mean channel, and beside them the mean of two
    differences of channels.
    """

    def __init__(self, channels: int, cell: int):
        super().__init__()
        self.channels, self.cell = channels, cell
        self.register_buffer("kernels", make_kernels(), persistent=False)

    @property
    def width(self) -> int:
        """D, the number of features."""
        signed, unsigned = ORIENTATIONS + 2, ORIENTATIONS
        return 2 * SCALES * (2 * signed + unsigned) + (4 if self.channels == 3 else 0)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Height and width must be multiples of the cell and of 2 ** (SCALES - 1)."""
        height, width = sizes(pictures)
        size = (height // self.cell, width // self.cell)
        plane, pooled = pictures.mean(dim=1, keepdim=True), []
        for scale in range(SCALES):
            responses = self._responses(plane)
            block = max(1, self.cell >> scale)
            for pool in (functional.avg_pool2d, functional.max_pool2d):
                pooled.append(to_cells(pool(responses, block), size))
            if scale + 1 < SCALES:
                plane = functional.avg_pool2d(plane, 2)
        logs = average_neighbours(torch.cat(pooled, dim=1)).clamp(min=LEAST_RESPONSE / 100)
        logs = (logs + LEAST_RESPONSE).log()
        if self.channels == 1:
            return logs
        return torch.cat([logs, self._colours(pictures, size)], dim=1)

    def _responses(self, plane: torch.Tensor) -> torch.Tensor:
        """Both signs of even filters, and the magnitude of odd ones: (B, responses, h, w)."""
        padded = functional.pad(plane, (REACH,) * 4, mode="replicate")
        responses = functional.conv2d(padded, self.kernels)
        even, odd = responses[:, : ORIENTATIONS + 2], responses[:, ORIENTATIONS + 2 :]
        return torch.cat([even.relu(), (-even).relu(), odd.abs()], dim=1)

    def _colours(self, pictures: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Mean and mean magnitude of red minus green and of yellow minus blue."""
        red, green, blue = pictures[:, :1], pictures[:, 1:2], pictures[:, 2:]
        differences = torch.cat([red - green, (red + green) / 2 - blue], dim=1)
        cells = functional.avg_pool2d(torch.cat([differences, differences.abs()], dim=1), self.cell)
        return average_neighbours(to_cells(cells, size))


def normalize_locally(pictures: torch.Tensor, share: float) -> torch.Tensor:
    """Subtract the local mean of each channel, divide by the local standard deviation of all.

    The window is a square of `share` of the shorter side; only its part in the picture counts. So
    neither exposure nor uneven light changes the features. A window of twice the side holds all of
    a square picture wherever its middle lies; a small one turns the noise of an even background
    into structure.
    """
    difference = pictures - _local_mean(pictures, share)
    variance = _local_mean(difference.square().mean(dim=1, keepdim=True), share)
    return difference / variance.clamp(min=LEAST_VARIANCE).sqrt()


def _local_mean(images: torch.Tensor, share: float) -> torch.Tensor:
    """Means (B, C, H, W) of the window around each pixel, interpolated between blocks."""
    height, width = sizes(images)
    window = int(min(height, width) * share / BLOCK) // 2 * 2 + 1
    return enlarge(box_mean(avg_pool_blocks(images, BLOCK), window), height, width, BLOCK)


def box_mean(images: torch.Tensor, window: int) -> torch.Tensor:
    """The mean (B, C, H, W) of a square window of odd side around each pixel, inside the image."""
    for kernel in ((window, 1), (1, window)):
        images = functional.avg_pool2d(
            images, kernel, 1, (kernel[0] // 2, kernel[1] // 2), count_include_pad=False
        )
    return images


def average_neighbours(planes: torch.Tensor) -> torch.Tensor:
    """Average each cell with its neighbours, after Roth et al., "PatchCore", 2022."""
    side = NEIGHBOURS
    return functional.avg_pool2d(planes, side, 1, side // 2, count_include_pad=False)


def to_cells(planes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Planes (B, C, h, w) on a grid of cells: means where they are finer, else interpolated."""
    height, width = sizes(planes)
    if (height, width) == size:
        return planes
    if height > size[0]:
        return functional.avg_pool2d(planes, (height // size[0], width // size[1]))
    return functional.interpolate(planes, size, mode="bilinear", align_corners=False)


def make_kernels() -> torch.Tensor:
    """The filters (2 * ORIENTATIONS + 2, 1, side, side), each with magnitudes that sum to 1.

    Oriented second derivatives of a Gaussian and two isotropic ones, then oriented first
    derivatives.
    """
    steps = torch.arange(-REACH, REACH + 1, dtype=torch.float64)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    even, odd = [], []
    for step in range(ORIENTATIONS):
        angle = math.pi * step / ORIENTATIONS
        across = x * math.cos(angle) + y * math.sin(angle)
        along = y * math.cos(angle) - x * math.sin(angle)
        gaussian = (-(across.square() + along.square() / ELONGATION**2) / (2 * SIGMA**2)).exp()
        even.append((1 - across.square() / SIGMA**2) * gaussian)
        odd.append(across * gaussian)
    squares = y.square() + x.square()
    for sigma in (SIGMA, 2 * SIGMA):
        even.append((1 - squares / (2 * sigma**2)) * (-squares / (2 * sigma**2)).exp())
    kernels = torch.stack([kernel - kernel.mean() for kernel in even + odd])
    kernels = kernels / kernels.abs().sum(dim=(1, 2), keepdim=True)
    return kernels[:, None].float()

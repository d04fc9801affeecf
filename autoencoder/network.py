"""The U-Net of the reference-free detector, for pictures of one or three channels."""

import torch
from torch import nn

from model import DecoderStage, convolution, double_convolution

DEPTHS = (2, 6)  # fewest and most halvings of the size
# which levels of the encoder hand their features to the decoder, besides the deepest
SKIPS = ("none", "shallow", "deep", "all")
WIDEST = 8  # times base_channels: the width of the fourth level and below


class UNet(nn.Module):
    """U-Net with a choice of skip connections: (B, channels, h, w), 0-1, to (B, outputs, h, w).

    The encoder has `depth` + 1 levels, each half as large as the one above; height and width are
    multiples of `multiple`. `skips` says which levels hand their features on: `none`, `shallow`
    (the first one only), `deep` (all but the first) or `all`. Without skips a defect has to pass
    the deepest level, of `bottleneck` channels (None: as the widths go on), to reach the output.
    The output is raw: a picture without clamping, or logits. After Ronneberger et al., "U-Net",
    2015 (arXiv:1505.04597).
    """

    def __init__(
        self,
        channels: int = 1,
        depth: int = 4,
        base_channels: int = 16,
        skips: str = "all",
        bottleneck: int | None = None,
        outputs: int = 1,
    ):
        super().__init__()
        self.channels, self.depth, self.outputs = channels, depth, outputs
        widths = [base_channels * min(2**level, WIDEST) for level in range(depth + 1)]
        widths[-1] = bottleneck or widths[-1]
        self.has_skip = [
            skips == "all" or (skips == "shallow" and level == 0) or (skips == "deep" and level > 0)
            for level in range(depth)
        ]
        self.encoder = nn.ModuleList(
            double_convolution(before, width, convolution)
            for before, width in zip([channels, *widths], widths)
        )
        self.pool = nn.MaxPool2d(2)
        self.decoder = nn.ModuleList(  # the deepest stage first
            DecoderStage(
                widths[level + 1],
                widths[level] if self.has_skip[level] else 0,
                widths[level],
                convolution,
            )
            for level in reversed(range(depth))
        )
        self.head = nn.Conv2d(widths[0], outputs, kernel_size=3, padding=1)

    @property
    def multiple(self) -> int:
        """The number of which height and width are multiples."""
        return 2**self.depth

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures (B, channels, h, w), 0-1, to the raw output (B, outputs, h, w)."""
        levels = self.encode(pictures)
        decoded = levels.pop()
        for stage, has_skip in zip(self.decoder, reversed(self.has_skip)):
            skip = levels.pop()
            decoded = stage(decoded, skip if has_skip else None)
        return self.head(decoded)

    def encode(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        """Pictures (B, channels, h, w), 0-1, to each level's features, the deepest last.

        Level l has (B, c_l, h / 2^l, w / 2^l).
        """
        levels = [self.encoder[0](pictures)]
        for block in self.encoder[1:]:
            levels.append(block(self.pool(levels[-1])))
        return levels

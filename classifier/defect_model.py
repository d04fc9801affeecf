"""The network of the defect classifier: where and what at once.

A backbone gives a class token and a grid of features. A decoder makes a mask of them, the mask
weights the features of the grid, and what it points at joins the class token before the head:
segmentation guides classification, and its mask shows where the network looked.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from classifier.backbone import Backbone, BackboneOutput

GUIDED, DUAL, CLASSIFICATION, SEGMENTATION = (
    "attention_guided",
    "dual_branch",
    "classification",
    "segmentation",
)
ARCHITECTURES = (GUIDED, DUAL, CLASSIFICATION, SEGMENTATION)
STOPPED, CONCATENATED = "stopped", "concatenated"
GUIDANCES = ("mean", STOPPED, CONCATENATED)
DECODER_CHANNELS, HEAD_CHANNELS = (32, 16, 8), (128,)
# Share of defective pixels that an untrained mask begins with: a mask of one half everywhere would
# weight nothing, and its first gradients would only make it empty.
FIRST_SHARE = 0.1
LEAST_SUM = 1e-6  # of a mask's weights, which divide the weighted mean


class DefectOutput(NamedTuple):
    """What the network says of images (B, C, H, W).

    `logits` (B, K) are those of the kinds, `mask_logits` (B, 1, H, W) those of a pixel to be
    defective, and `attention` (B, h, w) is where the classification looked: the share of each cell
    of the backbone's grid that the mask covers, 0-1. The last two are None where the architecture
    has none. `log_variances` (2,) are those of `MultiTaskLoss`, where it trains them. `embedding`
    (B, D) is what the head tells the kinds by, None for the mask alone.
    """

    logits: torch.Tensor
    mask_logits: torch.Tensor | None
    attention: torch.Tensor | None
    log_variances: torch.Tensor | None = None
    embedding: torch.Tensor | None = None


class AttentionGuidedDefectClassifier(nn.Module):
    """Kinds of defects and their masks, from images of any size.

    `architecture` is one of ARCHITECTURES:
    - attention_guided: the mask weights the grid's features, which join the class token.
    - dual_branch: classification and segmentation are branches of their own; attention weights
      what each says of the image before the head.
    - classification: the class token alone, without a mask.
    - segmentation: the mask alone. Its highest logit tells kind 0, the defect-free one, from all
      others, which it cannot tell apart.

    `guidance` is one of GUIDANCES, of attention_guided: `mean` is the mask-weighted mean of the
    features, divided by the mask's own sum, so that a defect of one cell counts as much as a large
    one; `stopped` the same without a gradient of the class into the mask (Bozic, Tabernik and
    Skocaj, "Mixed supervision for surface-defect detection", 2021); `concatenated` has the mask as
    a further channel of the features instead.

    `decoder_channels` has the width of each stage of the decoder, `head_channels` that of each
    hidden layer of the head. With `has_log_variances`, the weights of the two losses belong to the
    network, so that they are trained and stored with it. `embedding_dim` is the D of its embedding,
    None for the mask alone.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        dropout: float = 0.0,
        decoder_channels: tuple[int, ...] = DECODER_CHANNELS,
        head_channels: tuple[int, ...] = HEAD_CHANNELS,
        architecture: str = GUIDED,
        guidance: str = STOPPED,
        has_log_variances: bool = False,
    ):
        super().__init__()
        self.backbone, self.num_classes = backbone, num_classes
        self.architecture, self.guidance = architecture, guidance
        self.is_frozen = False
        dim = backbone.dim
        if architecture != CLASSIFICATION:
            self.decoder = MaskDecoder(backbone, decoder_channels)
        if architecture == GUIDED:
            extra = guidance == CONCATENATED
            self.enhancer = _layer(dim + extra, dim)
        if architecture == DUAL:
            self.branch = _layer(decoder_channels[0], dim)
            self.fusion = nn.Linear(2 * dim, 2)
        self.embedding_dim = None
        if architecture != SEGMENTATION:
            self.embedding_dim = 2 * dim if architecture == GUIDED else dim
            widths = (self.embedding_dim, *head_channels)
            layers = [_layer(*pair, dropout) for pair in zip(widths, widths[1:])]
            self.head = nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))
        if has_log_variances:
            self.log_variances = nn.Parameter(torch.zeros(2))

    def freeze_backbone(self) -> "AttentionGuidedDefectClassifier":
        """Freeze the backbone: no gradient, and evaluation mode in a training, too."""
        self.backbone.requires_grad_(False).eval()
        self.is_frozen = True
        return self

    def train(self, mode: bool = True) -> "AttentionGuidedDefectClassifier":
        """As of any module, but a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.is_frozen:
            self.backbone.eval()
        return self

    def forward(self, images: torch.Tensor) -> DefectOutput:
        """Images (B, C, H, W), 0-1, to their kinds and masks."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen):
            features = self.backbone(images)
        height, width = (int(size) for size in images.shape[2:])
        return self.classify(features, (height, width))

    def classify(self, features: BackboneOutput, size: tuple[int, int]) -> DefectOutput:
        """As `forward`, from the backbone's features of images of `size` (height, width)."""
        mask_logits = attention = None
        token, grid = features.class_token, features.grid
        if self.architecture != CLASSIFICATION:
            coarse, mask_logits = self.decoder(features, size)
            attention = self.on_grid(mask_logits, grid.shape[2:])
        if self.architecture == GUIDED:
            token = torch.cat([token, self._guided(grid, attention)], dim=1)
        elif self.architecture == DUAL:
            branch = self.branch(coarse.mean(dim=(2, 3)))
            shares = self.fusion(torch.cat([token, branch], dim=1)).softmax(dim=1)
            token = shares[:, :1] * token + shares[:, 1:] * branch
        is_mask_alone = self.architecture == SEGMENTATION
        logits = self._logits_of(mask_logits) if is_mask_alone else self.head(token)
        return DefectOutput(
            logits,
            mask_logits,
            None if attention is None else attention[:, 0],
            getattr(self, "log_variances", None),
            None if is_mask_alone else token,
        )

    def on_grid(self, mask_logits: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """The share of each cell (B, 1, *shape) that the mask covers; nothing beyond the image."""
        stride = self.backbone.stride
        missing = [
            int(cells) * stride - int(size) for cells, size in zip(shape, mask_logits.shape[2:])
        ]
        mask = functional.pad(mask_logits.sigmoid(), (0, missing[1], 0, missing[0]))
        return functional.avg_pool2d(mask, stride)

    def _guided(self, grid: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
        """The features (B, dim) of what the mask points at."""
        if self.guidance == CONCATENATED:
            return self.enhancer(torch.cat([grid, attention], dim=1).mean(dim=(2, 3)))
        weights = attention.detach() if self.guidance == STOPPED else attention
        total = weights.sum(dim=(2, 3)).clamp(min=LEAST_SUM)
        return self.enhancer((grid * weights).sum(dim=(2, 3)) / total)

    def _logits_of(self, mask_logits: torch.Tensor) -> torch.Tensor:
        """Logits of the kinds (B, K) from the mask alone."""
        highest = mask_logits.amax(dim=(2, 3))
        defects = highest - math.log(max(1, self.num_classes - 1))
        return torch.cat([-highest, defects.expand(-1, self.num_classes - 1)], dim=1)


class MaskDecoder(nn.Module):
    """Enlarges the grid stage by stage, adds the backbone's finer maps, and ends in a mask.

    Each stage doubles the resolution while its cells have two pixels or more along a side.
    """

    def __init__(self, backbone: Backbone, channels: tuple[int, ...]):
        super().__init__()
        widths, scales, stride = (backbone.dim, *channels), [], float(backbone.stride)
        finer = {skip: (number, width) for number, (skip, width) in enumerate(backbone.skips)}
        self.stages, self.skips = nn.ModuleList(), nn.ModuleDict()
        self.sources: list[int | None] = []
        for number, pair in enumerate(zip(widths, widths[1:])):
            scales.append(2 if stride >= 2 else 1)
            stride /= scales[-1]
            source, width = finer.pop(stride, (None, 0))
            self.sources.append(source)
            if source is not None:
                self.skips[str(number)] = nn.Conv2d(width, pair[0], 1)
            self.stages.append(_convolution(*pair))
        self.scales, self.multiple = scales, backbone.multiple
        self.last = nn.Conv2d(widths[-1], 1, 1)
        nn.init.constant_(self.last.bias, math.log(FIRST_SHARE / (1 - FIRST_SHARE)))

    def forward(
        self, features: BackboneOutput, size: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The first stage's features (B, D, h, w), and the mask's logits (B, 1, *size)."""
        planes, coarse = features.grid, None
        for number, stage in enumerate(self.stages):
            if self.scales[number] > 1:
                planes = _enlarge(planes, tuple(2 * int(side) for side in planes.shape[2:]))
            source = self.sources[number]
            if source is not None:
                planes = planes + self.skips[str(number)](features.skips[source])
            planes = stage(planes)
            coarse = planes if coarse is None else coarse
        padded = tuple(side + -side % self.multiple for side in size)
        logits = self.last(planes)
        if tuple(int(side) for side in logits.shape[2:]) != padded:
            logits = _enlarge(logits, padded)
        return coarse, logits[:, :, : size[0], : size[1]]


def _enlarge(planes: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    return functional.interpolate(planes, size=size, mode="bilinear", align_corners=False)


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _layer(inputs: int, outputs: int, dropout: float = 0.0) -> nn.Sequential:
    """A fully connected layer; layer norm, because a batch may be a single image."""
    return nn.Sequential(
        nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.ReLU(), nn.Dropout(dropout)
    )

"""The segmentation network, and the two modules that wrap it for export.

SegmentationNetwork                 (B, 3, h, w), 0-1  ->  logits (B, 2, h, w)
  SegmentationNetworkONNX           a patch: softmax, (B, 3, h, w) = [defect probability, 0, 0]
    SegmentationNetworkONNXFullImage  a strip: references aligned, cut into tiles that go through
                                    one copy of the network, stitched

PyTorch inference runs the last module, and deploy/export_module.py exports the same one, so PyTorch
and the ONNX file cannot disagree about tiles.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from ops.candidates import CANDIDATES, CANDIDATES_PER_POINT, Candidates
from ops.detector import AligningDetector
from ops.differences import (
    FILTER_REACH,
    agreed_difference,
    consistent_difference,
    envelope_excess,
    local_noise,
    point_likelihood,
)
from ops.likelihood import POINT_SIGMA, likelihood_ratio, weighted_probability
from ops.tiling import Tiling, WholeImage

# (in_channels, out_channels) to layers that keep height and width
Convolution = Callable[[int, int], nn.Sequential]
# Scales a difference of 32 grey levels to 1, the whole range of a channel: small ones matter.
DIFFERENCE_SCALE = 8.0
# A strip is cut into tiles as in training, taken in one piece, or looked at where points may lie.
EXPORT_MODES = ("tiles", "whole", "points")
EVIDENCE_SIGMAS = (0.8, 1.4)  # pixels, of the filters for points from one to four pixels across
# input planes that the difference network computes from the three channels
DIFFERENCE_FEATURES = 5 + len(EVIDENCE_SIGMAS)


def convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    """3x3 convolution => batch norm => ReLU, same height and width."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def separable_convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    """3x3 convolution of each channel => 1x1 convolution across channels => batch norm => ReLU.

    It has about a ninth of the multiplications of `convolution`. After Howard et al., "MobileNets",
    2017 (arXiv:1704.04861), but without the batch norm and ReLU in between, which lower the
    detection rate of a small network considerably.
    """
    return nn.Sequential(
        nn.Conv2d(
            in_channels, in_channels, kernel_size=3, padding=1, groups=in_channels, bias=False
        ),
        nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def double_convolution(
    in_channels: int, out_channels: int, convolution: Convolution
) -> nn.Sequential:
    """Two of the given convolutions, one after the other."""
    return nn.Sequential(
        convolution(in_channels, out_channels), convolution(out_channels, out_channels)
    )


class DecoderStage(nn.Module):
    """Upsample x2 => convolution => concatenate the encoder's features => double convolution.

    The upsampling is bilinear; the encoder's features have the upsampled size.
    """

    def __init__(
        self, in_channels: int, skip_channels: int, out_channels: int, convolution: Convolution
    ):
        super().__init__()
        self.up = convolution(in_channels, out_channels)
        self.merge = double_convolution(out_channels + skip_channels, out_channels, convolution)

    def forward(self, features: torch.Tensor, skip: torch.Tensor | None) -> torch.Tensor:
        """(B, in_channels, h, w) and (B, skip_channels, 2h, 2w) to (B, out_channels, 2h, 2w).

        `skip` is None where there are no features to concatenate: skip_channels is 0.
        """
        # align_corners=False: with True the sampling points, and so the result, would depend on the
        # patch size.
        larger = functional.interpolate(
            features, scale_factor=2, mode="bilinear", align_corners=False
        )
        raised = self.up(larger)
        return self.merge(raised if skip is None else torch.cat([raised, skip], dim=1))


class SegmentationNetwork(nn.Module):
    """UNet of six levels: (B, in_channels, h, w), values 0-1, to logits (B, out_channels, h, w).

    Channel 1 of the logits is the defect, channel 0 the background. Height and width are multiples
    of `multiple`, here 32. After Ronneberger et al., "U-Net", 2015 (arXiv:1505.04597), with padded
    convolutions, batch norm and bilinear upsampling.
    """

    encoder_widths = (1, 2, 4, 8, 8, 8)  # times base_channels
    decoder_widths = (8, 4, 2, 1, 1)
    # the convolution of every level but the first, which has the full resolution
    lower_convolution: Convolution = staticmethod(convolution)
    head_features = 0  # so many of the last input planes go to the head, besides the decoder's
    feature_reach = 0  # pixels around a pixel that its input planes depend on, besides the noise

    def __init__(self, in_channels: int = 3, out_channels: int = 2, base_channels: int = 64):
        super().__init__()
        self.base_channels = base_channels
        encoder = [base_channels * width for width in self.encoder_widths]
        decoder = [base_channels * width for width in self.decoder_widths]
        levels = [convolution, *[self.lower_convolution] * (len(encoder) - 1)]
        self.encoder = nn.ModuleList(
            map(double_convolution, [in_channels, *encoder[:-1]], encoder, levels)
        )
        self.pool = nn.MaxPool2d(2)
        self.decoder = nn.ModuleList(
            map(
                DecoderStage, [encoder[-1], *decoder[:-1]], encoder[-2::-1], decoder, levels[-2::-1]
            )
        )
        self.head = nn.Conv2d(
            decoder[-1] + self.head_features, out_channels, kernel_size=3, padding=1
        )

    @property
    def multiple(self) -> int:
        """The number of which height and width are multiples: each level halves the size."""
        return 2 ** (len(self.encoder_widths) - 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, h, w), values 0-1, to logits (B, out_channels, h, w)."""
        return self.segment(self.features(images))

    def features(self, images: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """Return the first layer's input planes, (B, planes, h, w): here the images themselves.

        Patches that are too small to measure the noise around a pixel come with it, as
        `local_noise` of the strip, (B, 1, h, w).
        """
        return images

    def segment(self, features: torch.Tensor) -> torch.Tensor:
        """Input planes (B, planes, h, w) to logits (B, out_channels, h, w)."""
        levels = [self.encoder[0](features)]
        for block in self.encoder[1:]:
            levels.append(block(self.pool(levels[-1])))
        decoded = levels.pop()
        for stage in self.decoder:
            decoded = stage(decoded, levels.pop())
        if self.head_features:
            # without the cast, `cat` would turn bfloat16 into float32
            head_planes = features[:, -self.head_features :].to(decoded.dtype)
            decoded = torch.cat([decoded, head_planes], dim=1)
        return self.head(decoded)


class MobileSegmentationNetwork(SegmentationNetwork):
    """The same UNet, depthwise-separable below the first level, for lines without a GPU.

    Inputs and outputs are the same. The first level keeps full convolutions: at full resolution a
    separable one saves little time on a CPU, and this level compares the three channels pixel by
    pixel.
    """

    lower_convolution: Convolution = staticmethod(separable_convolution)


class DifferenceSegmentationNetwork(SegmentationNetwork):
    """A UNet of four levels whose input planes are differences of Target from its references.

    Inputs and outputs are the same; height and width are multiples of 8. What a filter can compute,
    the network need not learn. The input planes are:

    - Target
    - the consistent difference from both references
    - the consistent difference in units of the noise around the pixel
    - how far Target lies outside all values that the references have within a pixel; an edge that
      is displaced a little hardly shows there
    - the difference on which both references agree
    - the likelihood of a point in noise, for each of EVIDENCE_SIGMAS; the head reads these again

    The network never sees how Target differs from one reference alone. A network that does takes
    strong points for defects although one reference shares them. A defect of three pixels needs no
    more than four levels: at the fourth, a pixel sees 68 pixels of the strip.
    """

    encoder_widths = (1, 2, 4, 8)
    decoder_widths = (4, 2, 1)
    head_features = len(EVIDENCE_SIGMAS)
    feature_reach = FILTER_REACH

    def __init__(self, out_channels: int = 2, base_channels: int = 64):
        super().__init__(DIFFERENCE_FEATURES, out_channels, base_channels)

    def features(self, images: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """Return DIFFERENCE_FEATURES planes of three channels (B, 3, h, w), values 0-1."""
        differences = images[:, :1] - images[:, 1:3]
        consistent = consistent_difference(differences)
        noise = local_noise(differences) if noise is None else noise
        strong = DIFFERENCE_SCALE * torch.cat(
            [envelope_excess(images), agreed_difference(consistent, differences)], dim=1
        )
        filtered = [point_likelihood(differences, noise, sigma) for sigma in EVIDENCE_SIGMAS]
        return torch.cat(
            [images[:, :1], DIFFERENCE_SCALE * consistent, consistent / noise, strong, *filtered],
            dim=1,
        )


ARCHITECTURES = {
    "unet": SegmentationNetwork,
    "mobile": MobileSegmentationNetwork,
    "difference": DifferenceSegmentationNetwork,
}


class SegmentationNetworkONNX(nn.Module):
    """One patch: (B, 3, h, w), values 0-1, to (B, 3, h, w) = [defect probability 0-1, 0, 0]."""

    def __init__(self, network: SegmentationNetwork):
        super().__init__()
        self.network = network

    def margin(self, patches: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w) to (B, 1, h, w): the logit of the background less that of the defect."""
        return margin_of(self.network(patches))

    def defect_probability(self, patches: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w) to (B, 1, h, w): the second of the softmax's two channels."""
        return probability_of(self.margin(patches))

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w), values 0-1, to (B, 3, h, w) = [defect probability 0-1, 0, 0]."""
        return with_two_zero_channels(self.defect_probability(patches))


class SegmentationNetworkONNXFullImage(AligningDetector):
    """Whole strip: (B, 3, H, W), values 0-1, to (B, 3, H, W) = [defect probability 0-1, 0, 0].

    First, the references are aligned as `align` says. In mode "tiles", all tiles of all strips then
    go through one copy of the network as one batch. In mode "whole", each strip goes through it in
    one piece. In mode "points", only patches around the strongest `candidates` of each strip do, as
    one batch. `image_size` is (height, width). `weighting`, one of WEIGHTINGS, says by what the
    odds of the network's probability are multiplied.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        image_size: tuple[int, int],
        patch: int,
        align: str = "none",
        mode: str = "tiles",
        weighting: str = "none",
        candidates: int = CANDIDATES,
    ):
        super().__init__(align)
        self.mode, self.weighting = mode, weighting
        self.patch_network = SegmentationNetworkONNX(network)
        if mode == "points":
            self.tiling = Candidates(
                image_size, network.multiple, network.feature_reach, candidates
            )
            self.most_points = max(1, candidates // CANDIDATES_PER_POINT)
        elif mode == "whole":
            self.tiling = WholeImage(image_size, network.multiple)
        else:
            self.tiling = Tiling(image_size, patch)

    def heatmap(self, strips: torch.Tensor) -> torch.Tensor:
        """Aligned strips (B, 3, H, W), values 0-1, to heatmaps (B, 1, H, W), 0-1."""
        if self.mode == "points":
            return self.heatmap_at_candidates(strips)
        tiles = self.tiling.split(strips)
        if self.weighting == "none":
            return self.tiling.stitch(self.patch_network.defect_probability(tiles))
        ratio = likelihood_ratio(strips, POINT_SIGMA)
        margin = self.tiling.stitch(self.patch_network.margin(tiles))
        return weighted_probability(margin, ratio, self.weighting)

    def heatmap_at_candidates(self, strips: torch.Tensor) -> torch.Tensor:
        """Aligned strips (B, 3, H, W), values 0-1, to heatmaps (B, 1, H, W), 0-1.

        The ratio is dense. The network's input planes are computed for the patches only, which
        makes no difference but for the noise, which is that of the strip.
        """
        noise = local_noise(strips[:, :1] - strips[:, 1:3])
        ratio = likelihood_ratio(strips, POINT_SIGMA)
        places = self.tiling.choose(ratio)
        # in turns: a tensor of all planes would be a copy of them
        patches, noise, ratio = (
            self.tiling.cut(planes, places) for planes in (strips, noise, ratio)
        )
        network, inside = self.patch_network.network, self.tiling.inside
        margin = margin_of(network.segment(inside(network.features(patches, noise))))
        if self.weighting == "none":
            heatmap = self.tiling.put_back(probability_of(margin), places)
        else:
            weighted = weighted_probability(margin, inside(ratio), self.weighting)
            heatmap = self.tiling.put_back(weighted, places)
        # maxima of a ratio that is not a number may be numbers in ONNX Runtime
        mean = strips.mean(dim=(1, 2, 3), keepdim=True)
        return heatmap + (mean - mean)

    def forward(self, strips: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W), values 0-1, to (B, 3, H, W) = [defect probability 0-1, 0, 0]."""
        return with_two_zero_channels(self.detect_with_alignment(strips)[0])


def margin_of(logits: torch.Tensor) -> torch.Tensor:
    """(B, 2, h, w) to (B, 1, h, w): the logit of the background less that of the defect."""
    background, defect = logits.split(1, dim=1)
    return background - defect


def probability_of(margin: torch.Tensor) -> torch.Tensor:
    """The defect probability of a margin, of any shape.

    The formula is explicit because ONNX Runtime's Softmax across planes takes ten times as long,
    and its Sigmoid loses digits close to 1.
    """
    return 1 / (1 + torch.exp(margin))


def with_two_zero_channels(heatmap: torch.Tensor) -> torch.Tensor:
    """(B, 1, h, w) to (B, 3, h, w): the output format that the production line reads."""
    return functional.pad(heatmap, (0, 0, 0, 0, 0, 2))

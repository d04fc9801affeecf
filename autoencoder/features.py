"""Features of pictures: one vector for each cell of pixels, from one or several sources.

encoder  levels of the encoder of a checkpoint of this tool
bank     the filters of filter_bank.py, without any training
random   levels of an encoder that was never trained
lite0    levels of EfficientNet-Lite0 with ImageNet weights, where these are installed
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from autoencoder.filter_bank import (
    SCALES,
    FilterBank,
    average_neighbours,
    normalize_locally,
    to_cells,
)
from autoencoder.model import load_model
from autoencoder.network import UNet
from common.errors import UserError
from ops.efficientnet_lite0 import STAGES, load_lite0
from ops.filters import sizes

FEATURES = ("encoder", "bank", "random", "lite0")
CELLS = (4, 8)  # pixels along each side of a cell
# Levels of an encoder of depth 4 whose cells are 4, 8 and 16 pixels; fewer where it has fewer.
USUAL_LAYERS = (2, 3, 4)
# Stages of EfficientNet-Lite0, two of stride 16 and one of 32: on real surfaces the deep ones find
# what the early ones, which see little more than edges, do not.
LITE0_LAYERS, LITE0_MULTIPLE = (3, 4, 5), 32
# mean and spread of a usual photograph, which lite0 sees of a locally normalized picture
PHOTO_MEAN, PHOTO_SPREAD = 0.45, 0.2
# The windows in which the contrast of pictures is normalized, as shares of the shorter side, of
# each kind of features that has them; 0 leaves pictures as they are.
# Twice the side is best on average; a smaller window follows uneven light.
CONTRAST = {"bank": (2.0,), "lite0": (2.0,)}
MOST_CONTRAST = 4.0
RANDOM_SEED, RANDOM_DEPTH, RANDOM_CHANNELS = 24_200, 4, 16


class FeatureExtractor(nn.Module):
    """Maps pictures (B, C, h, w), unit range, to features (B, width, h / cell, w / cell).

    Height and width must be multiples of `multiple`. Subclasses define `forward`.
    """

    def __init__(
        self, name: str, cell: int, width: int, multiple: int, contrast: Sequence[float] = ()
    ):
        super().__init__()
        self.name, self.cell, self.width = name, cell, width
        self.multiple, self.contrast = max(cell, multiple), tuple(contrast)

    @property
    def blocks(self) -> list[int]:
        """The widths of the parts that are normalized each by itself."""
        return [self.width]

    def describe(self) -> str:
        """A few words for a line of output."""
        text = f"{self.name}: {self.width} features a cell of {self.cell} x {self.cell} pixels"
        return text + (f", {self.contrast_text()}" if self.contrast_text() else "")

    def identity(self) -> str:
        """A hash of all that the features depend on: equal for equal features."""
        digest = hashlib.sha256(self.describe().encode())
        for name, tensor in sorted({**self.state_dict(), **dict(self.named_buffers())}.items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def contrast_text(self) -> str:
        """The windows of contrast in words; empty for features without any."""
        if not self.contrast:
            return ""
        return f"contrast over {' and '.join(f'{share:g}' for share in self.contrast)} sides"

    def _grid(self, pictures: torch.Tensor) -> tuple[int, int]:
        height, width = sizes(pictures)
        return height // self.cell, width // self.cell


class LevelFeatures(FeatureExtractor):
    """Levels of a UNet's encoder."""

    def __init__(self, name: str, network: UNet, layers: Sequence[int], cell: int):
        layers = sorted(set(layers))
        with torch.no_grad():
            side = network.multiple
            levels = network.eval().encode(torch.zeros(1, network.channels, side, side))
        widths = [int(levels[layer].shape[1]) for layer in layers]
        title = f"{name} levels {' '.join(map(str, layers))}"
        super().__init__(title, cell, sum(widths), network.multiple)
        self.layers, self.widths = layers, widths
        # an exported file has no use for the decoder, nor has the identity
        network.decoder, network.head = nn.ModuleList(), nn.Identity()
        self.network = network

    @property
    def blocks(self) -> list[int]:
        """The widths of the levels."""
        return self.widths

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) unit range to (B, width, h / cell, w / cell)."""
        levels, grid = self.network.encode(pictures), self._grid(pictures)
        return torch.cat([_smooth_cells(levels[layer], grid) for layer in self.layers], dim=1)


class BankFeatures(FeatureExtractor):
    """The filter bank, once for each window of contrast."""

    def __init__(self, channels: int, cell: int, contrast: Sequence[float] = CONTRAST["bank"]):
        bank = FilterBank(channels, cell)
        width = bank.width * len(contrast)
        super().__init__("bank", cell, width, 2 ** (SCALES - 1), contrast)
        self.bank = bank

    @property
    def blocks(self) -> list[int]:
        """The widths of the windows' features."""
        return [self.bank.width] * len(self.contrast)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) unit range to (B, width, h / cell, w / cell)."""
        planes = [self.bank(normalize_contrast(pictures, share)) for share in self.contrast]
        return torch.cat(planes, dim=1)


class Lite0Features(FeatureExtractor):
    """Stages of EfficientNet-Lite0, once for each window of contrast.

    Raises `UserError` where its weights are not installed.
    """

    def __init__(
        self,
        cell: int,
        layers: Sequence[int] = LITE0_LAYERS,
        contrast: Sequence[float] = CONTRAST["lite0"],
    ):
        network = load_lite0()
        widths = [network.stage_width(layer) for layer in layers] * len(contrast)
        title = f"lite0 stages {' '.join(map(str, layers))}"
        super().__init__(title, cell, sum(widths), LITE0_MULTIPLE, contrast)
        self.layers, self.widths = tuple(layers), widths
        self.network = network.without_later_stages(max(layers) + 1)

    @property
    def blocks(self) -> list[int]:
        """The widths of the stages, for each window of contrast."""
        return self.widths

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) unit range to (B, width, h / cell, w / cell)."""
        grid, planes = self._grid(pictures), []
        for share in self.contrast:
            normal = normalize_contrast(pictures, share) * PHOTO_SPREAD + PHOTO_MEAN
            levels = self.network.levels(normal, max(self.layers) + 1)
            planes += [_smooth_cells(levels[layer], grid) for layer in self.layers]
        return torch.cat(planes, dim=1)


class JoinedFeatures(FeatureExtractor):
    """Several extractors side by side."""

    def __init__(self, parts: Sequence[FeatureExtractor]):
        super().__init__(
            " + ".join(part.name for part in parts),
            parts[0].cell,
            sum(part.width for part in parts),
            max(part.multiple for part in parts),
        )
        self.parts = nn.ModuleList(parts)

    def contrast_text(self) -> str:
        """The windows of contrast of each part that has some."""
        texts = [(part.name, part.contrast_text()) for part in self.parts]
        return ", ".join(f"{name} {text}" for name, text in texts if text)

    @property
    def blocks(self) -> list[int]:
        """The widths of all parts of all extractors."""
        return [width for part in self.parts for width in part.blocks]

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) unit range to (B, width, h / cell, w / cell)."""
        return torch.cat([part(pictures) for part in self.parts], dim=1)


def make_features(
    kinds: Sequence[str],
    channels: int,
    cell: int = 8,
    checkpoint: Path | None = None,
    layers: Sequence[int] | None = None,
    contrast: Mapping[str, Sequence[float]] = CONTRAST,
    stages: Sequence[int] = LITE0_LAYERS,
) -> FeatureExtractor:
    """The extractor of `kinds` of FEATURES, in evaluation mode, without gradients.

    `checkpoint` and its `layers` (0 is the first level) are for `encoder`; `contrast` has the
    windows of contrast of `bank` and `lite0`. `stages` are those of `lite0`.

    Raises `UserError` for `encoder` without a checkpoint, a checkpoint of other channels or without
    such a layer, and where lite0 is not installed.
    """
    parts = [
        _make(kind, channels, cell, checkpoint, layers, contrast, stages)
        for kind in dict.fromkeys(kinds)
    ]
    features = parts[0] if len(parts) == 1 else JoinedFeatures(parts)
    return features.eval().requires_grad_(False)


def are_stages(stages: object) -> bool:
    """Whether what a file holds are stages of EfficientNet-Lite0."""
    return (
        isinstance(stages, list)
        and bool(stages)
        and all(isinstance(stage, int) and 0 <= stage < len(STAGES) for stage in stages)
    )


def normalize_contrast(pictures: torch.Tensor, share: float) -> torch.Tensor:
    """Pictures of about zero mean and unit spread, as `normalize_locally`; 0 is no window at all.

    Without a window all pictures (B, C, h, w) are moved and scaled alike, as a usual photograph
    needs it.
    """
    if share == 0:
        return (pictures - PHOTO_MEAN) / PHOTO_SPREAD
    return normalize_locally(pictures, share)


def picture_vectors(features: torch.Tensor) -> torch.Tensor:
    """Mean and maximum of features (B, D, h, w) over each picture: (B, 2 D)."""
    return torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1)


def _make(
    kind: str,
    channels: int,
    cell: int,
    checkpoint: Path | None,
    layers: Sequence[int] | None,
    contrast: Mapping[str, Sequence[float]],
    stages: Sequence[int],
) -> FeatureExtractor:
    if kind == "bank":
        return BankFeatures(channels, cell, contrast[kind])
    if kind == "lite0":
        return Lite0Features(cell, stages, contrast[kind])
    if kind == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            network = UNet(channels, RANDOM_DEPTH, RANDOM_CHANNELS)
        return LevelFeatures(kind, network, USUAL_LAYERS, cell)
    if checkpoint is None:
        raise UserError(
            "--features encoder: found no --model_path, expected a checkpoint of "
            "python -m autoencoder.trainer"
        )
    model = load_model(checkpoint)
    if model.channels != channels:
        raise UserError(
            f"{checkpoint}: found a model of {model.channels} channels, "
            f"expected one of {channels}, as the pictures have"
        )
    depth = model.network.depth
    layers = layers or [layer for layer in USUAL_LAYERS if layer <= depth]
    if max(layers) > depth:
        raise UserError(
            f"--layers {' '.join(map(str, layers))}: found a network of levels 0 to {depth}, "
            "expected some of those"
        )
    return LevelFeatures(kind, model.network, layers, cell)


def _smooth_cells(level: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """A level on the grid of cells, each averaged with its neighbours on the coarser grid."""
    if sizes(level)[0] > grid[0]:
        return average_neighbours(to_cells(level, grid))
    return to_cells(average_neighbours(level), grid)

"""Features of pictures: one vector for each cell of pixels, from one or several sources.

encoder  levels of the encoder of a checkpoint of this tool
bank     the filters of filter_bank.py, without any training
random   levels of an encoder that was never trained
lite0    levels of EfficientNet-Lite0 with ImageNet weights, where these are installed
"""

import hashlib
from collections.abc import Sequence
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
from ops.efficientnet_lite0 import load_lite0
from ops.filters import sizes

FEATURES = ("encoder", "bank", "random", "lite0")
CELLS = (4, 8)  # pixels along each side of a cell
# Levels of an encoder of depth 4 whose cells are 4, 8 and 16 pixels; fewer where it has fewer.
USUAL_LAYERS = (2, 3, 4)
# Stages of EfficientNet-Lite0, of strides 16 and 32: on real surfaces the deep ones find what the
# early ones, which see little more than edges, do not.
LITE0_LAYERS, LITE0_MULTIPLE = (4, 5), 32
# what lite0 sees of a locally normalized picture: mean and spread of a usual photograph
LITE0_MEAN, LITE0_SPREAD = 0.45, 0.2
RANDOM_SEED, RANDOM_DEPTH, RANDOM_CHANNELS = 24_200, 4, 16


class FeatureExtractor(nn.Module):
    """Maps pictures (B, C, h, w), unit range, to features (B, width, h / cell, w / cell).

    Height and width must be multiples of `multiple`. Subclasses define `forward`.
    """

    def __init__(self, name: str, cell: int, width: int, multiple: int):
        super().__init__()
        self.name, self.cell, self.width = name, cell, width
        self.multiple = max(cell, multiple)

    @property
    def blocks(self) -> list[int]:
        """The widths of the parts that are normalized each by itself."""
        return [self.width]

    def describe(self) -> str:
        """A few words for a line of output."""
        return f"{self.name}: {self.width} features a cell of {self.cell} x {self.cell} pixels"

    def identity(self) -> str:
        """A hash of all that the features depend on: equal for equal features."""
        digest = hashlib.sha256(self.describe().encode())
        for name, tensor in sorted({**self.state_dict(), **dict(self.named_buffers())}.items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

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
    """The filter bank."""

    def __init__(self, channels: int, cell: int):
        bank = FilterBank(channels, cell)
        super().__init__("bank", cell, bank.width, 2 ** (SCALES - 1))
        self.bank = bank

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) unit range to (B, width, h / cell, w / cell)."""
        return self.bank(normalize_locally(pictures))


class Lite0Features(FeatureExtractor):
    """Stages of EfficientNet-Lite0. Raises `UserError` where its weights are not installed."""

    def __init__(self, cell: int, layers: Sequence[int] = LITE0_LAYERS):
        network = load_lite0()
        widths = [network.stage_width(layer) for layer in layers]
        title = f"lite0 stages {' '.join(map(str, layers))}"
        super().__init__(title, cell, sum(widths), LITE0_MULTIPLE)
        self.layers, self.widths = tuple(layers), widths
        self.network = network.without_later_stages(max(layers) + 1)

    @property
    def blocks(self) -> list[int]:
        """The widths of the stages."""
        return self.widths

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) unit range to (B, width, h / cell, w / cell)."""
        normal = normalize_locally(pictures) * LITE0_SPREAD + LITE0_MEAN
        levels = self.network.levels(normal, max(self.layers) + 1)
        grid = self._grid(pictures)
        return torch.cat([_smooth_cells(levels[layer], grid) for layer in self.layers], dim=1)


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
) -> FeatureExtractor:
    """The extractor of `kinds` of FEATURES, in evaluation mode, without gradients.

    `checkpoint` and its `layers` (0 is the first level) are for `encoder`.

    Raises `UserError` for `encoder` without a checkpoint, a checkpoint of other channels or without
    such a layer, and where lite0 is not installed.
    """
    parts = [_make(kind, channels, cell, checkpoint, layers) for kind in dict.fromkeys(kinds)]
    features = parts[0] if len(parts) == 1 else JoinedFeatures(parts)
    return features.eval().requires_grad_(False)


def picture_vectors(features: torch.Tensor) -> torch.Tensor:
    """Mean and maximum of features (B, D, h, w) over each picture: (B, 2 D)."""
    return torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1)


def _make(
    kind: str,
    channels: int,
    cell: int,
    checkpoint: Path | None,
    layers: Sequence[int] | None,
) -> FeatureExtractor:
    if kind == "bank":
        return BankFeatures(channels, cell)
    if kind == "lite0":
        return Lite0Features(cell)
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

"""From pictures to heatmaps, scores and clusters: the module that inference and export share.

Each source (maps.py) computes its maps at each scale (scales.py). A plane is one map at one scale.
Over held-out good pictures every plane has a mean and a spread, which give its z-score. The planes
are merged and smoothed. A picture is as unusual as its most unusual pixels: the mean of the `top
share` of them. The values of the held-out good pictures give the last z-score, in which heatmap and
score are told. So one threshold fits both: a picture is NG where the mean of its most unusual
pixels exceeds it.

Both are told as sigmoid(asinh(z)), 0 to 1: 0.5 is the usual good picture's value. Its logit,
asinh(z), never saturates.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from autoencoder.scales import TRAINED, WHOLE, PyramidMaps, Source, WindowMaps, side_of
from common.errors import prefix_errors
from ops.filters import blur, gaussian_window
from ops.tiling import Padding

# The mean is the default: where a network and a library agree, there is a defect. On textures their
# mean ranks pictures better than either and than their maximum.
MERGES = ("mean", "max")
NAMED_WINDOWS = {WHOLE: "whole", TRAINED: "trained"}
PER_SOURCE = (
    "windows",
    "window_mode",
    "top_share",
)  # settings that each source may have of its own
# The least spread of a plane, in its own unit, and of pictures, in spreads of a plane. A map that
# is equal on all good pictures would divide by zero.
LEAST_SPREAD, LEAST_PICTURE_SPREAD = 1e-4, 0.05
# pictures (B, C, H, W) unit range to their clusters (B,), whole numbers from 0 on
Router = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class ScoreSettings:
    """How maps become a score; the fields are named like the flags.

    `windows` are sides in pixels, each of its own scale; none, and no `window_mode`, mean those of
    each source. `stride_share` is the stride as a share of the window, above 0. `smoothing` is the
    sigma of a Gaussian in pixels, `top_share` the share of a picture's pixels that its score is the
    mean of (None: that of the first source).
    """

    windows: tuple[int, ...] = ()
    stride_share: float = 0.5
    window_mode: str | None = None
    padding: Padding = "reflect"
    merge: str = MERGES[0]
    smoothing: float = 4.0
    top_share: float | None = None


@dataclass(frozen=True)
class PlaneStatistics:
    """Mean and spread of each plane over held-out good pictures, for each cluster: (K, planes)."""

    mean: torch.Tensor
    spread: torch.Tensor

    @classmethod
    def neutral(cls, clusters: int, planes: int) -> "PlaneStatistics":
        """Statistics that change nothing."""
        return cls(torch.zeros(clusters, planes), torch.ones(clusters, planes))


@dataclass(frozen=True)
class PictureStatistics:
    """Mean and spread, over held-out good pictures, of the mean of the top share: (K,)."""

    mean: torch.Tensor
    spread: torch.Tensor

    @classmethod
    def neutral(cls, clusters: int) -> "PictureStatistics":
        """Statistics that change nothing."""
        return cls(torch.zeros(clusters), torch.ones(clusters))


class PictureScorer(nn.Module):
    """Maps pictures (B, C, H, W) of one `image_size`, unit range, to heatmap, score and cluster.

    Several `sources` that give the same kind of map are an ensemble: the z-scores of their maps are
    averaged, before the kinds and scales are merged. `router` gives each picture's cluster (None:
    all are of cluster 0), and `clusters` is their number.

    Raises `UserError` for windows that do not fit the pictures.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        sources: Sequence[Source],
        settings: ScoreSettings,
        router: Router | None = None,
        clusters: int = 1,
    ):
        super().__init__()
        self.image_size, self.settings, self.router = tuple(image_size), settings, router
        self.sources = nn.ModuleList(sources)
        # the source of each scale; sources stay apart, so that no weight is exported twice
        places = [
            (number, window)
            for number, source in enumerate(sources)
            for window in windows_of(source, settings)
        ]
        self.source_of_scale = [number for number, _ in places]
        self.scales = nn.ModuleList(
            _scale(sources[number], self.image_size, window, settings) for number, window in places
        )
        names = plane_names(sources, settings)
        self.members = [
            [place for place, name in enumerate(names) if name == kind]
            for kind in dict.fromkeys(names)
        ]
        self.top_share = settings.top_share or sources[0].top_share
        self.top_count = top_count(self.image_size, self.top_share)
        self.smoothing = gaussian_window(settings.smoothing) if settings.smoothing else None
        self.set_statistics(
            PlaneStatistics.neutral(clusters, len(names)), PictureStatistics.neutral(clusters)
        )

    def set_statistics(self, planes: PlaneStatistics, pictures: PictureStatistics) -> None:
        """Take means and spreads of held-out good pictures; spreads are at least the least ones."""
        tensors = {
            "plane_mean": planes.mean,
            "plane_spread": planes.spread.clamp(min=LEAST_SPREAD),
            "picture_mean": pictures.mean,
            "picture_spread": pictures.spread.clamp(min=LEAST_PICTURE_SPREAD),
        }
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.to(torch.float32), persistent=False)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The heatmaps (B, 1, H, W), 0-1, the scores (B,), 0-1, and the clusters (B,) int64."""
        clusters = self.clusters_of(images)
        plane = self.merged(self.planes(images, clusters), clusters)
        return (
            self.scores(plane, clusters[:, None, None, None]),
            self.scores(self.top_mean(plane), clusters),
            clusters,
        )

    def scores(self, values: torch.Tensor, clusters: torch.Tensor) -> torch.Tensor:
        """Merged z-scores told in those of good pictures, 0-1; `clusters` broadcast to values."""
        return to_unit((values - self.picture_mean[clusters]) / self.picture_spread[clusters])

    def clusters_of(self, images: torch.Tensor) -> torch.Tensor:
        """The clusters (B,) int64 of pictures (B, C, H, W)."""
        if self.router is None:
            return torch.zeros(images.shape[0], dtype=torch.int64, device=images.device)
        return self.router(images)

    def planes(self, images: torch.Tensor, clusters: torch.Tensor) -> torch.Tensor:
        """Every map at every scale, before normalisation: (B, planes, H, W)."""
        maps = [
            scale(self.sources[number], images, clusters)
            for number, scale in zip(self.source_of_scale, self.scales)
        ]
        return maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)

    def output(self, images: torch.Tensor, clusters: torch.Tensor) -> torch.Tensor | None:
        """What the first network that gives pictures makes of them, (B, C, H, W) unit range.

        It is that of the last window. None where no network gives pictures.
        """
        for number, scale in reversed(list(zip(self.source_of_scale, self.scales))):
            if self.sources[number].gives_pictures:
                return scale(self.sources[number].output, images, clusters)
        return None

    def merged(self, planes: torch.Tensor, clusters: torch.Tensor) -> torch.Tensor:
        """The z-scores of planes (B, planes, H, W), merged and smoothed: (B, 1, H, W)."""
        mean, spread = (values[clusters] for values in (self.plane_mean, self.plane_spread))
        z = (planes - mean[:, :, None, None]) / spread[:, :, None, None]
        if len(self.members) < z.shape[1]:
            z = torch.stack([z[:, places].mean(dim=1) for places in self.members], dim=1)
        if len(self.members) > 1:
            is_max = self.settings.merge == "max"
            z = z.amax(dim=1, keepdim=True) if is_max else z.mean(dim=1, keepdim=True)
        return z if self.smoothing is None else blur(z, self.smoothing)

    def top_mean(self, plane: torch.Tensor) -> torch.Tensor:
        """The means (B,) of the largest `top_count` values of planes (B, 1, H, W)."""
        return plane.flatten(start_dim=1).topk(self.top_count, dim=1).values.mean(dim=1)


def _scale(
    source: Source, image_size: tuple[int, int], window: int, settings: ScoreSettings
) -> nn.Module:
    window = side_of(window, source, image_size)
    is_pyramid = (settings.window_mode or source.window_mode) == "pyramid"
    named = f"--windows {window}" + ("" if is_pyramid else f" and --padding {settings.padding}")
    with prefix_errors(named):
        if is_pyramid:
            return PyramidMaps(source, image_size, window)
        stride = max(1, int(window * settings.stride_share))
        return WindowMaps(source, image_size, window, stride, settings.padding)


def windows_of(source: Source, settings: ScoreSettings) -> tuple[int, ...]:
    """The sides in pixels of the windows of a source, or WHOLE or TRAINED."""
    return settings.windows or source.windows


def plane_names(sources: Sequence[Source], settings: ScoreSettings) -> list[str]:
    """A name for each plane, in their order; members of an ensemble share one."""
    return [
        f"{kind} {NAMED_WINDOWS.get(window, window)}"
        for source in sources
        for window in windows_of(source, settings)
        for kind in source.kinds
    ]


def top_count(image_size: tuple[int, int], share: float) -> int:
    """How many pixels the top share of a picture (height, width) is: at least one."""
    return max(1, math.ceil(share * image_size[0] * image_size[1] - 1e-6))


def to_unit(z: torch.Tensor) -> torch.Tensor:
    """sigmoid(asinh(z)), exact in both tails.

    With r = sqrt(z * z + 1), exp(asinh(z)) is z + r, and the sigmoid of -asinh(|z|) is
    1 / (1 + |z| + r).
    """
    size = z.abs()
    tail = 1 / (1 + size + (size * size + 1).sqrt())
    return torch.where(z > 0, 1 - tail, tail)

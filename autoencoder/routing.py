"""Which cluster a picture belongs to: modules that run in PyTorch and in an ONNX graph.

library    the cluster of the nearest of all pictures that were learned from
clusters   the cluster with the nearest centre
histogram  the cluster with the nearest representative picture; where that is a texture, whose
           pictures have no fixed layout, the texture with the nearest histogram of grey levels or
           colours
none       one library for all

"Nearest" is by the words of whole pictures, as picture_words.py has them.
"""

from typing import Any

import numpy as np
import torch
from torch import nn

from autoencoder.features import FeatureExtractor
from autoencoder.picture_words import TENSORS, PictureWords
from common.errors import UserError
from ops.resize import LinearResize
from training.checkpoint import is_stored

ROUTINGS = ("library", "clusters", "histogram", "none")
BINS = 16  # of each channel's histogram
LAYOUT_SIDE = 8  # cells along each side of the pictures that are compared in `is_texture`
# The pictures of an object agree in more than this share of their variance, those of a texture in
# less: their mean is flat.
LAYOUT_SHARE = 0.5
FAR = 1e6  # a distance that no histogram has


class Router(nn.Module):
    """Maps pictures (B, C, h, w), unit range, at the library's scale, to clusters (B,) int64.

    `state` has the tensors of the words, `vectors` (N, W), the words of pictures, and `labels`
    (N,), their clusters.
    """

    def __init__(self, features: FeatureExtractor, state: dict[str, torch.Tensor]):
        super().__init__()
        self.features = features
        self.words = PictureWords(*(state[name] for name in TENSORS))
        self.names = tuple(name for name in state if name not in TENSORS)
        for name in self.names:
            self.register_buffer(name, state[name].contiguous(), persistent=False)

    def state(self) -> dict[str, torch.Tensor]:
        """The tensors that make the router again."""
        return self.words.state() | {name: getattr(self, name) for name in self.names}

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """The clusters (B,) int64 of pictures (B, C, h, w)."""
        return self.labels[self.vector_distances(pictures).argmin(dim=1)]

    def vector_distances(self, pictures: torch.Tensor) -> torch.Tensor:
        """The squared distances (B, N) to the vectors, up to a number for each picture."""
        return self.distances_of(self.words(self.features(pictures)))

    def distances_of(self, vectors: torch.Tensor) -> torch.Tensor:
        """As `vector_distances`, of the words of pictures (B, W)."""
        return self.vectors.square().sum(dim=1) - 2 * (vectors @ self.vectors.T)


class HistogramRouter(Router):
    """The diary's two stages: `vectors` are representative pictures, one of each cluster.

    `is_texture` (K,) says which clusters are textures, `histograms` (K, C * BINS) has their means.
    """

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """The clusters (B,) int64 of pictures (B, C, h, w)."""
        nearest = self.labels[self.vector_distances(pictures).argmin(dim=1)]
        difference = (histograms(pictures)[:, None] - self.histograms).abs().sum(dim=2)
        texture = (difference + (~self.is_texture).float() * FAR).argmin(dim=1)
        return torch.where(self.is_texture[nearest], texture, nearest)


class SizedRouter(nn.Module):
    """A router for pictures (B, C, H, W) of one size, which it brings to the library's scale."""

    def __init__(self, router: Router, image_size: tuple[int, int], input_size: int):
        super().__init__()
        self.router = router
        new_size = scaled_size(image_size, min(image_size), input_size, router.features.multiple)
        self.resize = LinearResize(image_size, new_size)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """The clusters (B,) int64."""
        return self.router(self.resize(pictures))


def scaled_size(
    image_size: tuple[int, int], window: int, input_size: int, multiple: int
) -> tuple[int, int]:
    """The size of a picture in which `window` pixels become `input_size`, in multiples."""
    return tuple(
        max(1, -(-round(length * input_size / window) // multiple)) * multiple
        for length in image_size
    )


def library_router(
    features: FeatureExtractor, words: PictureWords, vectors: torch.Tensor, labels: torch.Tensor
) -> Router:
    """The router `library`, of the words (N, W) of the pictures that were learned from."""
    return Router(features, words.state() | {"vectors": vectors, "labels": labels.to(torch.int64)})


def centre_router(
    features: FeatureExtractor, words: PictureWords, vectors: torch.Tensor, labels: torch.Tensor
) -> Router:
    """The router `clusters`: the mean of the words (N, W) of each cluster's pictures."""
    count = int(labels.max()) + 1
    centres = torch.stack([vectors[labels == cluster].mean(dim=0) for cluster in range(count)])
    return Router(features, words.state() | {"vectors": centres, "labels": torch.arange(count)})


def histogram_router(
    features: FeatureExtractor,
    words: PictureWords,
    vectors: torch.Tensor,
    labels: torch.Tensor,
    histogram: torch.Tensor,
    layouts: torch.Tensor,
) -> HistogramRouter:
    """The router `histogram`, of pictures' words (N, W), `histograms` and `layouts_of`.

    A cluster's representative picture is the one nearest to the mean of the cluster.
    """
    count = int(labels.max()) + 1
    representatives, means, textures = [], [], []
    for cluster in range(count):
        member = labels == cluster
        own = vectors[member]
        representatives.append(own[(own - own.mean(dim=0)).square().sum(dim=1).argmin()])
        means.append(histogram[member].mean(dim=0))
        textures.append(is_texture(layouts[member]))
    return HistogramRouter(
        features,
        words.state()
        | {
            "vectors": torch.stack(representatives),
            "labels": torch.arange(count),
            "histograms": torch.stack(means),
            "is_texture": torch.tensor(textures),
        },
    )


def make_router(routing: str, features: FeatureExtractor, state: dict[str, Any]) -> Router | None:
    """The router that a library's file describes; None for `none`.

    Raises `UserError` for values that cannot be one.
    """
    if routing == "none":
        return None
    names = {*TENSORS, "vectors", "labels"}
    names |= {"histograms", "is_texture"} if routing == "histogram" else set()
    if routing not in ROUTINGS or set(state) != names or not all(map(is_stored, state.values())):
        raise UserError("found an unusable router, expected one of ROUTINGS with its tensors")
    return (HistogramRouter if routing == "histogram" else Router)(features, state).eval()


def histograms(pictures: torch.Tensor) -> torch.Tensor:
    """Histograms (B, C * BINS) of pictures (B, C, h, w), unit range: shares of the pixels.

    A value counts for the two nearest bins, so that a small shift changes little.
    """
    values = pictures.clamp(0, 1) * (BINS - 1)
    shares = [(1 - (values - place).abs()).relu().mean(dim=(2, 3)) for place in range(BINS)]
    return torch.stack(shares, dim=2).flatten(start_dim=1)


def layouts_of(pictures: torch.Tensor) -> torch.Tensor:
    """Coarse pictures (B, C * LAYOUT_SIDE ** 2) without their mean and at a common contrast."""
    coarse = nn.functional.adaptive_avg_pool2d(pictures, LAYOUT_SIDE).flatten(start_dim=1)
    coarse = coarse - coarse.mean(dim=1, keepdim=True)
    return coarse / coarse.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-3)


def is_texture(layouts: torch.Tensor) -> bool:
    """Whether pictures, as `layouts_of` gives them (N, D), have no layout in common."""
    variance = layouts.square().mean()
    common = layouts.mean(dim=0).square().mean() - variance / len(layouts)  # of chance
    return bool(common <= LAYOUT_SHARE * variance * (1 - 1 / len(layouts)) + 1e-12)


def routed_right(found: np.ndarray, labels: np.ndarray) -> float:
    """The share of pictures whose found cluster (N,) is their own one, `labels` (N,)."""
    return float((np.asarray(found) == np.asarray(labels)).mean())

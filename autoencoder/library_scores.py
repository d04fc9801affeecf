"""Scores of pictures by a library, and what held-out ones score."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from autoencoder.library import Statistics
from autoencoder.library_maps import LibraryMaps
from autoencoder.routing import Router, scaled_size
from common.progress import progress_bar
from data.image_files import to_unit_range
from data.pictures import PictureFile, read_picture
from ops.resize import LinearResize

TOP_SHARE = 0.01  # of a picture's cells, whose mean distance is its score here


@torch.inference_mode()
def measure(
    valid: Sequence[PictureFile],
    maps: LibraryMaps,
    router: Router | None,
    count: int,
    windows: Sequence[int],
    input_max: float,
) -> tuple[np.ndarray, tuple[Statistics, ...]]:
    """The clusters (N,) of held-out pictures, and what those of each cluster score."""
    routed, scores = [], []
    for file in progress_bar(valid, desc="measuring held-out pictures", unit="picture"):
        cluster, score = score_picture(read_unit(file, input_max), maps, router, windows)
        routed.append(cluster)
        scores.append(score)
    statistics = []
    for cluster in range(count):
        own = np.array([score for place, score in zip(routed, scores) if place == cluster])
        mean, spread = (float(own.mean()), float(own.std())) if len(own) else (0.0, 0.0)
        statistics.append(Statistics(len(own), mean, spread))
    return np.array(routed), tuple(statistics)


@torch.inference_mode()
def score_picture(
    picture: torch.Tensor, maps: LibraryMaps, router: Router | None, windows: Sequence[int]
) -> tuple[int, float]:
    """The cluster of a picture (1, C, H, W) and its largest score over the windows' scales."""
    cluster = torch.zeros(1, dtype=torch.int64)
    if router is not None:
        (whole,) = scales_of(picture, (), maps.input_size, maps.multiple)
        cluster = router(whole)
    scores = [
        picture_score(maps(scale, cluster))
        for scale in scales_of(picture, windows, maps.input_size, maps.multiple)
    ]
    return int(cluster), max(scores)


def picture_score(distances: torch.Tensor) -> float:
    """The mean of the largest TOP_SHARE of distances, at least of one."""
    values = distances.flatten()
    return float(values.topk(max(1, round(TOP_SHARE * len(values)))).values.mean())


def read_unit(picture: PictureFile, input_max: float) -> torch.Tensor:
    """A picture (1, C, H, W) in the unit range."""
    return torch.from_numpy(to_unit_range(read_picture(picture, input_max)[0]))[None]


def scales_of(
    picture: torch.Tensor, windows: Sequence[int], input_size: int, multiple: int
) -> Iterator[torch.Tensor]:
    """A picture (1, C, H, W) at the scale of each window; no windows mean the shorter side.

    Windows larger than the picture are its shorter side, each scale once.
    """
    size = (int(picture.shape[2]), int(picture.shape[3]))
    for window in fitting_windows(size, windows):
        new_size = scaled_size(size, window, input_size, multiple)
        yield LinearResize(size, new_size)(picture)


def fitting_windows(size: tuple[int, int], windows: Sequence[int]) -> list[int]:
    """Those of `windows` that fit into a picture (height, width), else its shorter side."""
    return [window for window in windows if window <= min(size)] or [min(size)]

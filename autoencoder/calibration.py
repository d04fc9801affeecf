"""What held-out good pictures say of a scorer: its statistics, and its thresholds.

They are pictures that neither trained a network nor lie in a library: on those, a network is at its
best, and a library's distances are 0.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from autoencoder.scales import Source
from autoencoder.scorer import (
    PictureScorer,
    PictureStatistics,
    PlaneStatistics,
    Router,
    ScoreSettings,
)
from common.device import full_precision
from evaluation.thresholds import (
    Calibration,
    Threshold,
    calibrate_scores,
    joint_threshold,
    threshold_for,
)

# A cluster with fewer held-out good pictures takes the statistics of all of them: two have a spread
# by chance alone.
FEWEST_PICTURES = 3
CPU = torch.device("cpu")
MOST_SIZES = 8  # of pictures, whose scorers are kept


class Scorers:
    """The scorer of each size of pictures; all of them share sources, settings and statistics.

    `make_router` gives the router of a size of pictures (None: one cluster), and `names` are the
    clusters' names.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        settings: ScoreSettings,
        make_router: Callable[[tuple[int, int]], Router] | None = None,
        names: Sequence[str] = ("",),
        device: torch.device = CPU,
    ):
        self.sources = [source.to(device).eval() for source in sources]
        self.settings, self.device, self.names = settings, device, tuple(names)
        self.make_router = make_router
        self.statistics: tuple[PlaneStatistics, PictureStatistics] | None = None
        self._by_size: dict[tuple[int, int], PictureScorer] = {}

    def of(self, image_size: tuple[int, int]) -> PictureScorer:
        """The scorer of pictures of a size (height, width)."""
        scorer = self._by_size.pop(image_size, None)
        if scorer is None:
            router = self.make_router(image_size) if self.make_router else None
            scorer = PictureScorer(image_size, self.sources, self.settings, router, len(self.names))
            if self.statistics:
                scorer.set_statistics(*self.statistics)
            scorer = scorer.to(self.device).eval()
        self._by_size[image_size] = scorer  # the last used stands last
        if len(self._by_size) > MOST_SIZES:
            del self._by_size[next(iter(self._by_size))]
        return scorer

    def set_statistics(self, planes: PlaneStatistics, pictures: PictureStatistics) -> None:
        """Take statistics for pictures of all sizes."""
        self.statistics = (planes, pictures)
        self._by_size.clear()


@dataclass(frozen=True)
class GoodScores:
    """The scores of held-out good pictures, 0-1, by cluster, and those of all.

    `origin` is the printed origin of thresholds that are set on them. A cluster with fewer than
    FEWEST_PICTURES has no scores of its own.
    """

    names: tuple[str, ...]
    of_clusters: tuple[Calibration | None, ...]
    of_all: Calibration
    origin: str

    def threshold(self, target: float) -> Threshold:
        """The threshold for a `target` share of good pictures, of all clusters together."""
        return threshold_for(self.of_all, target, self.origin)

    def joint_threshold(self, target: float) -> Threshold:
        """What the thresholds of all clusters prove together; one cluster's is its own."""
        own = [threshold_for(scores, target, self.origin) for scores in self.of_clusters if scores]
        whole = self.threshold(target)
        if len(self.names) == 1 or not own:
            return whole
        listed = ", ".join(
            f"{name} {each.value:.4g}" for name, each in zip(self.names, self.thresholds(target))
        )
        origin = f"{self.origin}; each cluster has its own: {listed}"
        return joint_threshold(own, whole.value, origin)

    def thresholds(self, target: float) -> list[Threshold]:
        """The threshold of each cluster: its own, or that of all where it has none."""
        whole = self.threshold(target)
        return [
            threshold_for(scores, target, self.origin)
            if scores
            else replace(whole, origin=f"{self.origin}, of all clusters")
            for scores in self.of_clusters
        ]

    @property
    def poor_clusters(self) -> list[str]:
        """The names of clusters without scores of their own."""
        return [name for name, scores in zip(self.names, self.of_clusters) if scores is None]


@torch.inference_mode()
def calibrate_scorers(
    scorers: Scorers, read: Callable[[], Iterable[np.ndarray]], origin: str
) -> GoodScores:
    """Set the statistics of `scorers` from held-out good pictures, and return their scores.

    `read` yields the pictures, (C, H, W) unit range, and is called twice: to keep the maps of all
    pictures would take gigabytes. `origin` is the printed origin of the thresholds. Raises
    `ValueError` without pictures.
    """
    with full_precision():
        clusters, planes = _measure_planes(scorers, read())
        count = len(scorers.names)
        scorers.set_statistics(planes, PictureStatistics.neutral(count))
        tops = []
        for image in read():
            scorer, top = _top_mean(scorers, image)
            tops.append(top)
    tops = torch.cat(tops)
    parts = by_cluster(tops.double(), clusters, count)
    pictures = PictureStatistics(
        torch.stack([part.mean() for part in parts]).float(),
        torch.stack([part.std() if len(part) > 1 else part.sum() * 0 for part in parts]).float(),
    )
    scorers.set_statistics(planes, pictures)
    scorer.set_statistics(planes, pictures)  # scores in the arithmetic of a scorer, of any size
    scorer.to(scorers.device)
    scores = scorer.scores(tops.to(scorers.device), clusters.to(scorers.device)).cpu()
    return good_scores(scorers.names, scores.tolist(), clusters.tolist(), origin)


def good_scores(
    names: Sequence[str], scores: Sequence[float], clusters: Sequence[int], origin: str
) -> GoodScores:
    """What is kept of held-out good pictures with these scores, 0-1, and clusters.

    Raises `ValueError` without pictures.
    """
    of_clusters = [
        [score for score, own in zip(scores, clusters) if own == cluster]
        for cluster in range(len(names))
    ]
    return GoodScores(
        tuple(names),
        tuple(
            calibrate_scores(own) if _has_own(len(own), len(names)) else None for own in of_clusters
        ),
        calibrate_scores(scores),
        origin,
    )


def _measure_planes(
    scorers: Scorers, images: Iterable[np.ndarray]
) -> tuple[torch.Tensor, PlaneStatistics]:
    """The clusters (N,) of the pictures, and the statistics of planes; all pictures weigh alike."""
    clusters, means, squares = [], [], []
    for image in images:
        scorer, batch = _batch(scorers, image)
        cluster = scorer.clusters_of(batch)
        planes = scorer.planes(batch, cluster)[0].double().flatten(start_dim=1)
        clusters.append(cluster.cpu())
        means.append(planes.mean(dim=1).cpu())
        squares.append(planes.square().mean(dim=1).cpu())
    if not clusters:
        raise ValueError("found no good pictures, expected at least one")
    clusters = torch.cat(clusters)
    mean, square = (
        torch.stack([part.mean(dim=0) for part in by_cluster(values, clusters, len(scorers.names))])
        for values in (torch.stack(means), torch.stack(squares))
    )
    spread = (square - mean.square()).clamp(min=0).sqrt()
    return clusters, PlaneStatistics(mean.float(), spread.float())


def _top_mean(scorers: Scorers, image: np.ndarray) -> tuple[PictureScorer, torch.Tensor]:
    """The scorer of a picture, and the mean (1,) of its top share, before the last z-score."""
    scorer, batch = _batch(scorers, image)
    clusters = scorer.clusters_of(batch)
    top = scorer.top_mean(scorer.merged(scorer.planes(batch, clusters), clusters))
    return scorer, top.cpu()


def _batch(scorers: Scorers, image: np.ndarray) -> tuple[PictureScorer, torch.Tensor]:
    """The scorer of a picture (C, H, W), and the picture as a batch on the scorers' device."""
    batch = torch.from_numpy(np.ascontiguousarray(image))[None].to(scorers.device)
    return scorers.of(tuple(image.shape[1:])), batch


def _has_own(pictures: int, clusters: int) -> bool:
    """Whether a cluster of so many pictures has statistics of its own; a single cluster has."""
    return clusters == 1 or pictures >= FEWEST_PICTURES


def by_cluster(values: torch.Tensor, clusters: torch.Tensor, count: int) -> list[torch.Tensor]:
    """The values of each cluster's pictures, those of all pictures where it has too few."""
    own = [values[clusters == cluster] for cluster in range(count)]
    return [part if _has_own(len(part), count) else values for part in own]

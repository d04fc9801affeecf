"""Learning the statistics of raw patches from good pictures, and from painted damage."""

from collections.abc import Sequence

import numpy as np
import torch

from autoencoder.library_scores import read_unit, scales_of
from autoencoder.metric import fit_metric, paint, whitening_of
from autoencoder.patch_statistics import PATCH, PatchStatistics, patches_of
from autoencoder.picture_facts import Source
from autoencoder.pseudo_defects import PseudoDefects
from common.progress import progress_bar
from data.pictures import PictureFile

MOST_PATCHES = 300_000  # that the Gaussians are fitted to, of all pictures
PATCHES_PER_PICTURE = 400
FEWEST_DAMAGED = 200  # patches, to learn a metric from; of fewer, all directions count alike
SHRINKAGE = 0.005  # of the covariance towards a multiple of the identity


def learn_patches(
    train: Sequence[PictureFile],
    labels: torch.Tensor,
    source: Source,
    is_painted: bool,
    seed: int,
) -> PatchStatistics:
    """The statistics of pictures with these cluster `labels` (N,)."""
    generator, patches = np.random.default_rng((seed, 25)), []
    for file in progress_bar(train, desc="learning patches", unit="picture"):
        picture = read_unit(file, source.input_max)
        (whole,) = scales_of(picture, (), source.input_size, source.features.multiple)
        patches.append(draw_patches(whole, len(train), generator, is_painted))
    clusters = int(labels.max()) + 1
    return fit_statistics(patches, labels.tolist(), clusters, source.features.cell)


def draw_patches(
    picture: torch.Tensor, pictures: int, generator: np.random.Generator, is_painted: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches (N, P) of a picture (1, C, h, w), unit range, and damaged ones (M, P) of it painted.

    Both are at random places, the damaged ones around damaged pixels. `pictures` is the number of
    pictures to draw from. Without `is_painted` there are no damaged patches.
    """
    count = max(1, min(PATCHES_PER_PICTURE, MOST_PATCHES // pictures))
    good = _draw(patches_of(picture), count, generator)
    if not is_painted:
        return good, good[:0]
    painted, mask = paint(picture, PseudoDefects(), None, generator)
    border = PATCH // 2
    inner = mask[border : mask.shape[0] - border, border : mask.shape[1] - border]
    return good, _draw(patches_of(painted)[:, :, inner][..., None], count, generator)


def fit_statistics(
    patches: Sequence[tuple[torch.Tensor, torch.Tensor]],
    labels: Sequence[int],
    clusters: int,
    cell: int,
) -> PatchStatistics:
    """The statistics of `draw_patches` of pictures with these cluster `labels`."""
    fitted = [
        _fit(*zip(*(own for own, label in zip(patches, labels) if label == cluster)))
        for cluster in range(clusters)
    ]
    return PatchStatistics(*(torch.stack(part) for part in zip(*fitted)), cell).eval()


def _draw(planes: torch.Tensor, count: int, generator: np.random.Generator) -> torch.Tensor:
    """At most `count` vectors (N, P) of planes (1, P, h, w)."""
    vectors = planes[0].flatten(start_dim=1).T
    return vectors[torch.from_numpy(generator.permutation(len(vectors))[:count])]


def _fit(
    good: Sequence[torch.Tensor], damaged: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (P,) and matrix (P, P) of good and damaged patches (N, P)."""
    vectors, others = torch.cat(list(good)), torch.cat(list(damaged))
    mean = vectors.mean(dim=0)
    if len(others) < FEWEST_DAMAGED:
        return mean, whitening_of(vectors - mean, SHRINKAGE).float()
    return mean, fit_metric(vectors - mean, others - mean, len(mean), SHRINKAGE)

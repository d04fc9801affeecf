"""A metric of features that was learned from painted damage.

Whitened features count every direction alike. But good patches differ from the nearest good ones in
some directions more than in others, and damage in others again. Both are measured: `good` and
`damaged` residuals are the differences of patches, from good and from painted pictures, from the
nearest that a library remembers of other pictures.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.nn import functional

from autoencoder.features import FeatureExtractor
from autoencoder.library_scores import read_unit, scales_of
from autoencoder.memory import Whitening
from autoencoder.picture_facts import Source
from autoencoder.pseudo_defects import PseudoDefects
from data.folder import evenly_spaced
from data.pictures import PictureFile
from gaussian import MAX_GREY
from ops.filters import sizes

METRICS = ("painted", "whitened", "plain")
PAINTED, WHITENED, PLAIN = METRICS
DIMENSIONS = 48  # of vectors by the metric `painted`
FEWEST_DAMAGED = 50  # cells, to learn a metric from
PICTURES = 10  # of each cluster that are painted
VERSIONS = 4  # of each, painted anew
DAMAGES = 3  # in a painted picture
SHRINKAGE = 0.1  # of the covariance of good residuals
DAMAGED_SHARE = 0.3  # of a cell's pixels, from which on it counts as damaged
SURROUNDINGS = 0.2  # share of the whole cells of painted pictures that count as good


def learn_metric(
    train: Sequence[PictureFile],
    labels: torch.Tensor,
    source: Source,
    memories: tuple[torch.Tensor, ...],
    seed: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Matrix and memory of each cluster, told in the metric that painted damage teaches.

    `labels` (N,) are the pictures' clusters, `memories` the mean, matrix, memory and places of each
    cluster. One in which no damage is found, as with a single picture, keeps its strongest
    directions.
    """
    generator = np.random.default_rng((seed, 26))
    features, matrices, memory = source.features, [], []
    for cluster, (mean, matrix, vectors, places) in enumerate(zip(*memories)):
        pictures = []
        for number in evenly_spaced(torch.where(labels == cluster)[0].tolist(), PICTURES):
            picture = read_unit(train[number], source.input_max)
            pictures += [(number, *scales_of(picture, (), source.input_size, features.multiple))]
        good, damaged = measure_residuals(
            pictures, features, Whitening(mean, matrix), vectors, places[:, 0], generator
        )
        most = min(DIMENSIONS, matrix.shape[1])
        metric = torch.eye(matrix.shape[1])[:, :most]
        if len(damaged) >= FEWEST_DAMAGED:
            metric = fit_metric(good, damaged, most)
        matrices.append(matrix @ metric)
        memory.append(vectors @ metric)
    return torch.stack(matrices), torch.stack(memory)


def fit_metric(good: torch.Tensor, damaged: torch.Tensor, most: int) -> torch.Tensor:
    """The matrix (d, most) of residuals (N, d) and (M, d): its products' lengths tell both apart.

    In directions in which both kinds have no covariance, and good ones have variance 1, damaged
    ones have variance v. Each direction is scaled by the root of v - 1, and left out for v < 1;
    the `most` largest are kept. KISSME (Koestinger et al., 2012) has 1 - 1 / v in its place, which
    hardly tells a strong direction from a very strong one.
    """
    whiten = _whitening_of(good, SHRINKAGE)
    covariance = damaged.double().T @ damaged.double() / len(damaged)
    variances, directions = torch.linalg.eigh(whiten.T @ covariance @ whiten)
    matrix = whiten @ (directions * (variances - 1).clamp(min=0).sqrt())
    matrix = matrix.flip(1)[:, :most]
    length = (good.double() @ matrix).square().sum(dim=1).mean().sqrt().clamp(min=1e-6)
    return (matrix / length).float()


def _whitening_of(vectors: torch.Tensor, shrinkage: float) -> torch.Tensor:
    """The matrix (d, d), float64, that gives vectors (N, d) unit second moments."""
    moments = vectors.double().T @ vectors.double() / len(vectors)
    size = len(moments)
    level = (moments.trace() / size).clamp(min=1e-12)
    return torch.linalg.cholesky(
        torch.linalg.inv(moments + shrinkage * level * torch.eye(size).double())
    )


def residuals(vectors: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
    """The differences (N, d) of vectors (N, d) from the nearest of a memory (M, d)."""
    return vectors - memory[torch.cdist(vectors, memory).argmin(dim=1)]


@torch.inference_mode()
def measure_residuals(
    pictures: list[tuple[int, torch.Tensor]],
    features: FeatureExtractor,
    whitening: Whitening,
    memory: torch.Tensor,
    owners: torch.Tensor,
    generator: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Good and damaged residuals (N, d) of numbered pictures (1, C, h, w), unit range.

    `owners` (M,) has the number of the picture that each vector of the memory is from: none is
    compared with its own.
    """
    parts: tuple[list[torch.Tensor], ...] = ([], [])
    defects = PseudoDefects()
    donors = [levels_of(picture) for _, picture in pictures]
    for number, picture in pictures:
        others = memory[owners != number]
        if not len(others):
            continue
        for painted, share in _versions(picture, defects, donors, features.cell, generator):
            vectors = whitening(features(painted)[0].flatten(start_dim=1).T)
            found = residuals(vectors, others)
            is_whole = share == 0
            if painted is not picture:
                is_whole &= torch.from_numpy(generator.random(len(share)) < SURROUNDINGS)
            parts[0].append(found[is_whole])
            parts[1].append(found[share > DAMAGED_SHARE])
    empty = memory.new_zeros(0, memory.shape[1])
    return torch.cat([*parts[0], empty]), torch.cat([*parts[1], empty])


def _versions(
    picture: torch.Tensor,
    defects: PseudoDefects,
    donors: list[np.ndarray],
    cell: int,
    generator: np.random.Generator,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """A picture as it is and painted, with the damaged share (cells,) of each cell."""
    height, width = (side // cell for side in sizes(picture))
    yield picture, torch.zeros(height * width)
    for _ in range(VERSIONS):
        painted, mask = paint(picture, defects, donors, generator)
        yield painted, functional.avg_pool2d(mask[None, None].float(), cell).flatten()


def paint(
    picture: torch.Tensor,
    defects: PseudoDefects,
    donors: list[np.ndarray] | None,
    generator: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A picture (1, C, h, w), unit range, with DAMAGES painted, and their mask (h, w) bool."""
    image, mask = levels_of(picture), np.zeros(picture.shape[2:], bool)
    for _ in range(DAMAGES):
        image, changed = defects.paint(image, generator, donors)
        mask |= changed
    return torch.from_numpy(image)[None] / MAX_GREY, torch.from_numpy(mask)


def levels_of(picture: torch.Tensor) -> np.ndarray:
    """A picture (1, C, h, w), unit range, as (C, h, w) grey levels."""
    return picture[0].numpy() * np.float32(MAX_GREY)

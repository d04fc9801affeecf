"""Learning the mixtures of raw patches from good pictures, and from painted damage."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from autoencoder.library_scores import read_unit, scales_of
from autoencoder.metric import paint
from autoencoder.patch_mixtures import (
    COARSE,
    DAMAGED,
    FINE,
    STEP,
    PatchMixture,
    PatchMixtures,
    log_density_at_mean,
    patches_around,
)
from autoencoder.picture_facts import Source
from autoencoder.pseudo_defects import PseudoDefects
from common.progress import progress_bar
from data.pictures import PictureFile

PATCHES_PER_PICTURE = 400
MOST_PATCHES = 30_000  # that the mixtures of a cluster are fitted to
GAUSSIANS = {FINE: 24, COARSE: 16, DAMAGED: 6}
PATCHES_PER_GAUSSIAN = 50  # at least; of fewer patches there are fewer Gaussians
ROUNDS = 10  # of expectation and maximization
LEAST_SHARE = 0.005  # of the mean variance, which every direction of a Gaussian has at least
LEAST_VARIANCE = 1e-6  # the same of even pictures: a quarter of a grey level

Patches = dict[str, torch.Tensor]  # (N, P) of each of MIXTURES


def learn_patches(
    train: Sequence[PictureFile],
    labels: torch.Tensor,
    source: Source,
    is_painted: bool,
    seed: int,
) -> PatchMixtures:
    """The mixtures of pictures with these cluster `labels` (N,)."""
    generator, drawn = np.random.default_rng((seed, 25)), []
    of_cluster = torch.bincount(labels).tolist()
    for file, label in zip(
        progress_bar(train, desc="drawing patches", unit="picture"), labels.tolist()
    ):
        picture = read_unit(file, source.input_max)
        (whole,) = scales_of(picture, (), source.input_size, source.features.multiple)
        count = max(1, min(PATCHES_PER_PICTURE, MOST_PATCHES // of_cluster[label]))
        drawn.append(draw_patches(whole, count, generator, is_painted))
    return fit_mixtures(drawn, labels.tolist(), source.features.cell, seed)


def draw_patches(
    picture: torch.Tensor, count: int, generator: np.random.Generator, is_painted: bool = True
) -> Patches:
    """At most `count` patches of each kind at random places of a picture (1, C, h, w), unit range.

    Those of DAMAGED lie around damaged pixels, after damage is painted into the picture; there are
    none without `is_painted`.
    """
    fine = patches_around(picture, 1)[0]
    coarse = patches_around(functional.avg_pool2d(picture, STEP), 1)[0]
    damaged = fine[:0]
    if is_painted:
        painted, mask = paint(picture, PseudoDefects(), None, generator)
        damaged = patches_around(painted, 1)[0][mask.flatten()]
    pools = {FINE: fine, COARSE: coarse, DAMAGED: damaged}
    return {name: _draw(pool, count, generator) for name, pool in pools.items()}


def fit_mixtures(
    drawn: Sequence[Patches], labels: Sequence[int], cell: int, seed: int
) -> PatchMixtures:
    """The mixtures of the patches of pictures with these cluster `labels`.

    Where a cluster has too few damaged patches there is no mixture of them.
    """
    mixtures = {}
    for name, most in progress_bar(GAUSSIANS.items(), desc="learning patches", unit="mixture"):
        parts = [
            torch.cat([own[name] for own, label in zip(drawn, labels) if label == cluster])
            for cluster in range(max(labels) + 1)
        ]
        if name == DAMAGED and min(map(len, parts)) < PATCHES_PER_GAUSSIAN:
            continue
        fitted = [_fit(part, most, seed) for part in parts]
        largest = max(len(log_weight) for log_weight, _, _ in fitted)
        padded = [_repeat(tensors, largest) for tensors in fitted]
        mixtures[name] = PatchMixture(*(torch.stack(tensors) for tensors in zip(*padded)))
    return PatchMixtures(mixtures, cell).eval()


def _draw(patches: torch.Tensor, count: int, generator: np.random.Generator) -> torch.Tensor:
    return patches[torch.from_numpy(generator.permutation(len(patches))[:count])]


def _fit(patches: torch.Tensor, most: int, seed: int) -> tuple[torch.Tensor, ...]:
    """The tensors of a mixture of at most so many Gaussians of patches (N, P)."""
    from sklearn.exceptions import ConvergenceWarning  # a second that commands need not wait for
    from sklearn.mixture import GaussianMixture

    count = max(1, min(most, len(patches) // PATCHES_PER_GAUSSIAN))
    least = LEAST_SHARE * float(patches.var(dim=0, correction=0).mean()) + LEAST_VARIANCE
    mixture = GaussianMixture(count, reg_covar=least, max_iter=ROUNDS, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of ROUNDS, and of equal patches
        mixture.fit(patches.numpy())
    matrix = torch.from_numpy(mixture.precisions_cholesky_).double()
    log_weight = torch.from_numpy(mixture.weights_).double().log() + log_density_at_mean(matrix)
    return log_weight, torch.from_numpy(mixture.means_), matrix


def _repeat(tensors: tuple[torch.Tensor, ...], count: int) -> tuple[torch.Tensor, ...]:
    """The same mixture with so many Gaussians: repeated ones share their weight."""
    log_weight, mean, matrix = tensors
    numbers = torch.arange(count) % len(log_weight)
    times = torch.bincount(numbers)[numbers]
    return log_weight[numbers] - times.log(), mean[numbers], matrix[numbers]

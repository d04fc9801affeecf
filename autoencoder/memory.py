"""The choice of what a library remembers: whitening of features, and vectors that cover them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

SELECTIONS = ("coverage", "random")
LEAST_SPREAD = 1e-6  # of a block of features that is constant
SHRINKAGE = 0.1


@dataclass(frozen=True)
class Whitening:
    """An affine map of vectors (..., D) to (..., d): (v - mean) @ matrix."""

    mean: torch.Tensor
    matrix: torch.Tensor

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        """(..., D) to (..., d)."""
        return (vectors - self.mean) @ self.matrix


def fit_whitening(
    vectors: torch.Tensor,
    blocks: Sequence[int],
    shrinkage: float = SHRINKAGE,
    most: int | None = None,
) -> Whitening:
    """The map that gives vectors (N, D) zero mean and, for shrinkage 0, unit covariance.

    Every block of features first gets a total variance of 1, so that none dominates. Then the
    covariance is shrunk towards a multiple of the identity (Ledoit and Wolf, 2004): shrinkage 1
    leaves the distances within the scaled blocks as they are. The `most` directions of the largest
    variance are kept (None: all). The result is scaled so that the mean squared length of the
    vectors is 1.
    """
    mean = vectors.mean(dim=0)
    centred = (vectors - mean).double()
    scales = torch.cat(
        [
            part.square()
            .sum(dim=1)
            .mean()
            .sqrt()
            .clamp(min=LEAST_SPREAD)
            .reciprocal()
            .expand(width)
            for part, width in zip(centred.split(list(blocks), dim=1), blocks)
        ]
    )
    scaled = centred * scales
    covariance = scaled.T @ scaled / len(scaled)
    size = len(covariance)
    level = covariance.trace() / size
    # by their own variances: of the shrunk covariance all are alike for shrinkage 1
    variances, directions = torch.linalg.eigh(covariance)
    variances, directions = variances.flip(0)[:most], directions.flip(1)[:, :most]
    variances = (1 - shrinkage) * variances + shrinkage * level
    matrix = scales[:, None] * directions / variances.clamp(min=1e-6 * level + 1e-12).sqrt()
    length = (centred @ matrix).square().sum(dim=1).mean().sqrt().clamp(min=LEAST_SPREAD)
    return Whitening(mean, (matrix / length).float())


def choose(
    vectors: torch.Tensor, count: int, selection: str, generator: np.random.Generator
) -> torch.Tensor:
    """The numbers (count,) of vectors (N, d) to remember, by one of SELECTIONS.

    Where N is smaller, vectors are named again, which changes no distance to the nearest.
    """
    if selection == "random":
        order = torch.from_numpy(generator.permutation(len(vectors)))
    else:
        order = _cover(vectors, min(count, len(vectors)), int(generator.integers(len(vectors))))
    return order.repeat(-(-count // len(order)))[:count]


def _cover(vectors: torch.Tensor, count: int, first: int) -> torch.Tensor:
    """Greedy coverage: each vector is the one farthest from all before (Gonzalez, 1985)."""
    squares = vectors.square().sum(dim=1)
    nearest = torch.full_like(squares, torch.inf)
    chosen = [first]
    for _ in range(count - 1):
        last = chosen[-1]
        squared = squares - 2 * (vectors @ vectors[last]) + squares[last]
        nearest = torch.minimum(nearest, squared)
        nearest[last] = -1  # never again, even where copies leave nothing to cover
        chosen.append(int(nearest.argmax()))
    return torch.tensor(chosen)

"""What a library learns from each good picture, in one pass over the files."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from autoencoder.features import FeatureExtractor, picture_vectors
from autoencoder.library_scores import fitting_windows, read_unit, scales_of
from autoencoder.picture_words import PictureWords, fit_words
from autoencoder.routing import histograms, layouts_of
from common.progress import progress_bar
from data.pictures import PictureFile
from ops.filters import sizes

POOL = 5  # times the memory: how many vectors the memory is chosen from
LEAST_POOL = 20_000
WORD_PICTURES, WORD_CELLS = 200, 60  # how many words are drawn from, of each so many cells


@dataclass(frozen=True)
class Source:
    """How pictures become features; the fields are those of `LibrarySettings`."""

    features: FeatureExtractor
    input_size: int
    windows: tuple[int, ...]
    input_max: float


@dataclass(frozen=True)
class PictureFacts:
    """What one pass over the pictures keeps of each: tensors of N rows, and a pool of patches.

    `vectors` (N, W) are the words of pictures, W = 0 without words. `patches` are features (P, D);
    `places` (P, 3) say the picture, row and column of each.
    """

    vectors: torch.Tensor
    histograms: torch.Tensor
    layouts: torch.Tensor
    patches: torch.Tensor
    places: torch.Tensor


@torch.inference_mode()
def learn_words(
    train: Sequence[PictureFile], source: Source, generator: np.random.Generator
) -> PictureWords:
    """The words by which pictures are clustered and routed, from at most WORD_PICTURES of them."""
    cells = []
    for number in generator.permutation(len(train))[:WORD_PICTURES]:
        picture = read_unit(train[number], source.input_max)
        (whole,) = scales_of(picture, (), source.input_size, source.features.multiple)
        own = source.features(whole)[0].flatten(start_dim=1).T
        cells.append(own[torch.from_numpy(generator.permutation(len(own))[:WORD_CELLS])])
    return fit_words(torch.cat(cells), source.features.blocks, generator)


@torch.inference_mode()
def learn_facts(
    train: Sequence[PictureFile],
    source: Source,
    words: PictureWords | None,
    level: str,
    memory: int,
    generator: np.random.Generator,
) -> PictureFacts:
    """Facts on all pictures; `memory` vectors are to be chosen from the pool of a `level`."""
    features, facts = source.features, []
    most = max(1, max(LEAST_POOL, POOL * memory) // len(train))
    for number, file in enumerate(progress_bar(train, desc="learning", unit="picture")):
        picture = read_unit(file, source.input_max)
        (whole,) = scales_of(picture, (), source.input_size, features.multiple)
        planes = features(whole)
        vector = words(planes) if words else torch.zeros(1, 0)
        if level == "image":
            patches, places = picture_vectors(planes), torch.tensor([[number, 0, 0]])
        else:
            every = [planes]
            if source.windows:
                scales = scales_of(picture, source.windows, source.input_size, features.multiple)
                every = [features(scale) for scale in scales]
            windows = fitting_windows(sizes(picture), source.windows)
            patches, cells = _sample(every, windows, most, generator)
            places = torch.cat([torch.full((len(cells), 1), number), cells], dim=1)
        facts.append((vector, histograms(whole), layouts_of(whole), patches, places))
    return PictureFacts(*(torch.cat(rows) for rows in zip(*facts)))


def _sample(
    every: Sequence[torch.Tensor], windows: Sequence[int], most: int, generator: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random vectors (P, D) of one picture's features at several scales, and their places (P, 2).

    Rows and columns are those of the first scale's cells.
    """
    patches, places = [], []
    for planes, window in zip(every, windows):
        width = sizes(planes)[1]
        cells = planes[0].flatten(start_dim=1).T
        kept = torch.from_numpy(generator.permutation(len(cells))[: -(-most // len(every))])
        patches.append(cells[kept])
        place = torch.stack([kept // width, kept % width], dim=1)
        places.append(((place + 0.5) * window / windows[0]).to(torch.int64))
    return torch.cat(patches), torch.cat(places)

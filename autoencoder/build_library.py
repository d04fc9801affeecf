"""Building a library from good pictures: clusters, whitening, memory, routing, statistics."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoencoder.clusters import cluster_pictures, require_enough
from autoencoder.features import FeatureExtractor, make_features, picture_vectors
from autoencoder.library import Library
from autoencoder.library_maps import LibraryMaps
from autoencoder.library_scores import (
    fitting_windows,
    measure,
    read_unit,
    scales_of,
)
from autoencoder.memory import SHRINKAGE, Whitening, choose, fit_whitening
from autoencoder.model import Model, load_model
from autoencoder.pictures import HELD_OUT_SEED
from autoencoder.routing import (
    Router,
    centre_router,
    histogram_router,
    histograms,
    layouts_of,
    library_router,
)
from common.errors import UserError
from common.progress import progress_bar
from data.image_files import Channels
from data.pictures import PictureFile, picture_hash, split_good
from ops.filters import sizes

CELL, MEMORY, INPUT_SIZE, DIMENSIONS = 8, 4000, 192, 128
POOL = 5  # times the memory: how many vectors the memory is chosen from
LEAST_POOL = 20_000
# of the space in which pictures are clustered and routed; full whitening would make few pictures
# equally far from each other
PICTURE_DIMENSIONS, PICTURE_SHRINKAGE = 32, 0.5


@dataclass(frozen=True)
class LibrarySettings:
    """How a library is built; the fields are named like the flags."""

    features: tuple[str, ...] = ("bank",)
    model_path: Path | None = None
    layers: tuple[int, ...] | None = None
    cell: int = CELL
    level: str = "patch"
    memory: int = MEMORY
    selection: str = "coverage"
    neighbours: int = 1
    shrinkage: float = SHRINKAGE
    dimensions: int = DIMENSIONS
    clusters: int | str = "folders"
    routing: str = "library"
    valid_share: float = 0.1
    seed: int = 42
    input_size: int | None = None
    windows: tuple[int, ...] = ()
    input_max: float = 255.0


@dataclass(frozen=True)
class PictureFacts:
    """What one pass over the pictures keeps of each: tensors of N rows, and a pool of patches.

    `patches` are features (P, D); `places` (P, 3) say the picture, row and column of each.
    """

    vectors: torch.Tensor
    histograms: torch.Tensor
    layouts: torch.Tensor
    patches: torch.Tensor
    places: torch.Tensor


@dataclass(frozen=True)
class Built:
    """A library, and the clusters of its pictures and of the held-out ones as routed."""

    library: Library
    clusters: np.ndarray
    routed: np.ndarray


def split_pictures(
    pictures: Sequence[PictureFile], settings: LibrarySettings, model: Model | None
) -> tuple[list[PictureFile], list[PictureFile]]:
    """Pictures to learn from and held-out ones, which no copy is on the other side of.

    What an encoder's training held out stays held out. Raises `UserError` as `split_good`.
    """
    held_out = {model.hashes[name] for name in model.valid} if model else set()
    valid = [picture for picture in pictures if picture_hash(picture.path) in held_out]
    if not valid:
        return split_good(pictures, settings.valid_share, HELD_OUT_SEED)
    train = [picture for picture in pictures if picture_hash(picture.path) not in held_out]
    if not train:
        raise UserError(
            f"{settings.model_path}: found a model that held out every one of the "
            f"{len(pictures)} pictures, expected others to learn from"
        )
    return train, valid


def build_library(pictures: Sequence[PictureFile], settings: LibrarySettings, root: Path) -> Built:
    """Build a library from good pictures below `root`, and measure it on held-out ones.

    Raises `UserError` for features that cannot be made, for fewer pictures than clusters and as
    `split_good`.
    """
    is_encoder = "encoder" in settings.features
    model = load_model(settings.model_path) if is_encoder and settings.model_path else None
    channels = 1 if pictures[0].channels is Channels.GREY else 3
    features = make_features(
        settings.features, channels, settings.cell, settings.model_path, settings.layers
    )
    input_size = settings.input_size or (model.input_size if model else INPUT_SIZE)
    train, valid = split_pictures(pictures, settings, model)
    hashes = {
        picture.relative.as_posix(): picture_hash(picture.path) for picture in [*train, *valid]
    }
    if settings.routing != "none":
        different = {hashes[picture.relative.as_posix()] for picture in train}
        require_enough(settings.clusters, len(different))
    generator = np.random.default_rng((settings.seed, 24))
    facts = _learn(train, features, input_size, settings, generator)
    whitening = fit_whitening(
        facts.vectors, features.blocks * 2, PICTURE_SHRINKAGE, PICTURE_DIMENSIONS
    )
    clusters, names = _clusters(train, whitening(facts.vectors), settings)
    labels = torch.from_numpy(clusters)
    mean, matrix, memory, places = _memories(
        facts, labels, len(names), features.blocks, settings, generator
    )
    maps = LibraryMaps(
        features, mean, matrix, memory, settings.level, settings.neighbours, input_size
    ).eval()
    router = _router(features, whitening, facts, labels, settings)
    routed, statistics = measure(
        valid, maps, router, len(names), settings.windows, settings.input_max
    )
    library = Library(
        maps,
        router,
        tuple(names),
        places,
        statistics,
        channels,
        settings.input_max,
        settings.windows,
        root.resolve(),
        tuple(picture.relative.as_posix() for picture in train),
        tuple(picture.relative.as_posix() for picture in valid),
        hashes,
        tuple(settings.features),
        settings.model_path.resolve() if is_encoder and settings.model_path else None,
        settings.layers,
        settings.routing if router else "none",
        settings=_plain(settings),
    )
    return Built(library, clusters, routed)


@torch.inference_mode()
def _learn(
    train: Sequence[PictureFile],
    features: FeatureExtractor,
    input_size: int,
    settings: LibrarySettings,
    generator: np.random.Generator,
) -> PictureFacts:
    facts: list[tuple[torch.Tensor, ...]] = []
    most = max(1, max(LEAST_POOL, POOL * settings.memory) // len(train))
    for number, file in enumerate(progress_bar(train, desc="learning", unit="picture")):
        picture = read_unit(file, settings.input_max)
        (whole,) = scales_of(picture, (), input_size, features.multiple)
        planes = features(whole)
        vector = picture_vectors(planes)
        if settings.level == "image":
            patches, places = vector, torch.tensor([[number, 0, 0]])
        else:
            every = [planes]
            if settings.windows:
                scales = scales_of(picture, settings.windows, input_size, features.multiple)
                every = [features(scale) for scale in scales]
            windows = fitting_windows(sizes(picture), settings.windows)
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


def _clusters(
    train: Sequence[PictureFile], vectors: torch.Tensor, settings: LibrarySettings
) -> tuple[np.ndarray, list[str]]:
    """The cluster (N,) of each picture, and the names of clusters."""
    if settings.routing == "none":
        return np.zeros(len(train), dtype=np.int64), [""]
    if settings.clusters == "folders":
        names = sorted({picture.group for picture in train})
        return np.array([names.index(picture.group) for picture in train]), names
    clusters = cluster_pictures(vectors.numpy(), settings.clusters, settings.seed)
    count = int(clusters.max()) + 1
    return clusters, [f"cluster {number + 1}" for number in range(count)] if count > 1 else [""]


def _memories(
    facts: PictureFacts,
    labels: torch.Tensor,
    count: int,
    blocks: list[int],
    settings: LibrarySettings,
    generator: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean, matrix, memory and places of each cluster; the memory is shared out evenly."""
    is_image = settings.level == "image"
    owners = labels[facts.places[:, 0]]
    blocks = blocks * 2 if is_image else blocks
    largest = int(torch.bincount(owners, minlength=count).max())
    size = min(max(1, settings.memory // count), largest)
    parts: list[list[torch.Tensor]] = [[], [], [], []]
    for cluster in range(count):
        own = facts.patches[owners == cluster]
        whitening = fit_whitening(own, blocks, settings.shrinkage, settings.dimensions)
        white = whitening(own)
        chosen = choose(white, size, settings.selection, generator)
        places = facts.places[owners == cluster][chosen].to(torch.int32)
        for part, tensor in zip(parts, (whitening.mean, whitening.matrix, white[chosen], places)):
            part.append(tensor)
    return tuple(torch.stack(part) for part in parts)


def _router(
    features: FeatureExtractor,
    whitening: Whitening,
    facts: PictureFacts,
    labels: torch.Tensor,
    settings: LibrarySettings,
) -> Router | None:
    if int(labels.max()) == 0:
        return None
    common = (features, whitening, facts.vectors, labels)
    if settings.routing == "clusters":
        return centre_router(*common).eval()
    if settings.routing == "histogram":
        return histogram_router(*common, facts.histograms, facts.layouts).eval()
    return library_router(*common).eval()


def _plain(settings: LibrarySettings) -> dict[str, Any]:
    """Settings as plain values for a file."""
    plain = {}
    for name, value in asdict(settings).items():
        plain[name] = str(value) if isinstance(value, Path) else value
        if isinstance(value, tuple):
            plain[name] = list(value)
    return plain

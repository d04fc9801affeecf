"""Building a library from good pictures: clusters, whitening, memory, routing, statistics."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoencoder.choose_maps import choose_maps, painted_aurocs
from autoencoder.clusters import CLUSTER, cluster_pictures, require_enough
from autoencoder.features import CONTRAST, FeatureExtractor, make_features
from autoencoder.learn_patches import learn_patches
from autoencoder.library import Library
from autoencoder.library_maps import LibraryMaps
from autoencoder.library_scores import measure
from autoencoder.maps import PATCHES
from autoencoder.memory import SHRINKAGE, choose, fit_whitening
from autoencoder.metric import PAINTED, PLAIN, WHITENED, learn_metric
from autoencoder.model import Model, load_model
from autoencoder.picture_facts import PictureFacts, Source, learn_facts, learn_words
from autoencoder.picture_words import PictureWords
from autoencoder.pictures import HELD_OUT_SEED
from autoencoder.routing import (
    Router,
    centre_router,
    histogram_router,
    library_router,
)
from common.errors import UserError
from data.image_files import Channels
from data.pictures import PictureFile, picture_hash, split_good

CELL, MEMORY, INPUT_SIZE, DIMENSIONS = 8, 4000, 192, 128
FLATTEN = 0.75  # all of it has an AUROC of pictures as high or higher, and loses pixels


@dataclass(frozen=True)
class LibrarySettings:
    """How a library is built; the fields are named like the flags.

    No `contrast_windows` and no `metric` mean those that suit the features.
    """

    features: tuple[str, ...] = ("bank",)
    model_path: Path | None = None
    layers: tuple[int, ...] | None = None
    contrast_windows: tuple[float, ...] = ()
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
    metric: str | None = None
    flatten: float = FLATTEN
    patches: bool = True


@dataclass(frozen=True)
class Built:
    """A library, and the clusters of its pictures and of the held-out ones as routed.

    `aurocs` are those of maps on painted damage, where the choice of its maps was made.
    """

    library: Library
    clusters: np.ndarray
    routed: np.ndarray
    aurocs: dict[tuple[str, ...], float] = field(default_factory=dict)


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
    is_asked = settings.metric is not None
    settings = replace(settings, metric=settings.metric or usual_metric(settings.features))
    is_encoder = "encoder" in settings.features
    model = load_model(settings.model_path) if is_encoder and settings.model_path else None
    channels = 1 if pictures[0].channels is Channels.GREY else 3
    contrast = _contrast(settings)
    features = make_features(
        settings.features, channels, settings.cell, settings.model_path, settings.layers, contrast
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
    source = Source(features, input_size, settings.windows, settings.input_max)
    words = learn_words(train, source, generator) if _has_router(train, settings) else None
    facts = learn_facts(train, source, words, settings.level, settings.memory, generator)
    clusters, names = _clusters(train, facts.vectors, settings)
    labels = torch.from_numpy(clusters)
    mean, matrix, memory, places = _memories(
        facts, labels, len(names), features.blocks, settings, generator
    )
    memories = (mean, matrix, memory, places)
    if settings.metric == PAINTED and settings.level == "patch":
        matrix, memory = learn_metric(train, labels, source, memories, settings.seed)
    patches = None
    if settings.patches:
        is_painted = settings.metric != WHITENED
        patches = learn_patches(train, labels, source, is_painted, settings.seed)
    common = (settings.level, settings.neighbours, input_size, settings.flatten)
    maps = LibraryMaps(features, mean, matrix, memory, *common).eval()
    router = _router(features, words, facts, labels, settings)
    aurocs = {}
    if patches is not None and settings.level == "patch":
        aurocs = painted_aurocs(valid, maps, patches, router, settings.input_max, settings.seed)
    score = choose_maps(aurocs)
    if settings.metric == PLAIN and not is_asked and PATCHES in score:
        # where patches count, painted damage is like the defects, and so are its directions
        settings = replace(settings, metric=PAINTED)
        matrix, memory = learn_metric(train, labels, source, memories, settings.seed)
        maps = LibraryMaps(features, mean, matrix, memory, *common).eval()
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
        contrast,
        settings.routing if router else "none",
        settings=_plain(settings),
        patches=patches,
        score=score,
    )
    return Built(library, clusters, routed, aurocs)


def usual_metric(features: Sequence[str]) -> str:
    """The metric of METRICS that suits kinds of features, as long as patches do not count.

    Those of ImageNet have learned which directions count; whitening would raise the others.
    """
    return PLAIN if "lite0" in features else PAINTED


def _contrast(settings: LibrarySettings) -> dict[str, tuple[float, ...]]:
    """The windows of contrast of each kind of features that has them."""
    if not settings.contrast_windows:
        return CONTRAST
    return dict.fromkeys(CONTRAST, settings.contrast_windows)


def _has_router(train: Sequence[PictureFile], settings: LibrarySettings) -> bool:
    """Whether pictures may belong to several clusters."""
    if settings.routing == "none" or settings.clusters == 1:
        return False
    return settings.clusters != "folders" or len({picture.group for picture in train}) > 1


def _clusters(
    train: Sequence[PictureFile], vectors: torch.Tensor, settings: LibrarySettings
) -> tuple[np.ndarray, list[str]]:
    """The cluster (N,) of each picture, and the names of clusters."""
    if settings.routing == "none" or settings.clusters == 1:
        return np.zeros(len(train), dtype=np.int64), [""]
    if settings.clusters == "folders":
        names = sorted({picture.group for picture in train})
        return np.array([names.index(picture.group) for picture in train]), names
    clusters = cluster_pictures(vectors.numpy(), settings.clusters, settings.seed)
    count = int(clusters.max()) + 1
    return clusters, [f"{CLUSTER}{number + 1}" for number in range(count)] if count > 1 else [""]


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
    shrinkage = 1.0 if settings.metric == PLAIN else settings.shrinkage
    parts: list[list[torch.Tensor]] = [[], [], [], []]
    for cluster in range(count):
        own = facts.patches[owners == cluster]
        whitening = fit_whitening(own, blocks, shrinkage, settings.dimensions)
        white = whitening(own)
        chosen = choose(white, size, settings.selection, generator)
        places = facts.places[owners == cluster][chosen].to(torch.int32)
        for part, tensor in zip(parts, (whitening.mean, whitening.matrix, white[chosen], places)):
            part.append(tensor)
    return tuple(torch.stack(part) for part in parts)


def _router(
    features: FeatureExtractor,
    words: PictureWords | None,
    facts: PictureFacts,
    labels: torch.Tensor,
    settings: LibrarySettings,
) -> Router | None:
    if words is None or int(labels.max()) == 0:
        return None
    common = (features, words, facts.vectors, labels)
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

"""A library of features of good pictures: how far a picture's features are from the nearest.

The module scores, in PyTorch and in an ONNX graph. The file keeps it together with the facts on the
pictures that it was built from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoencoder.features import CELLS, FEATURES, FeatureExtractor, make_features, picture_vectors
from autoencoder.filter_bank import average_neighbours
from autoencoder.model import TOOL
from autoencoder.routing import Router, make_router
from common.errors import UserError, prefix_errors, shown
from ops.filters import sizes
from training.checkpoint import is_stored, read_checkpoint, save_checkpoint

KIND, VERSION = "feature library", 1
LEVELS = ("patch", "image")
COMMAND = "python -m autoencoder.feature_library"
MOST_PRODUCTS = 2**23  # squared distances that are held at once: 32 MB
TENSORS = ("mean", "matrix", "memory")
KEYS = {
    "features": list,
    "cell": int,
    "channels": int,
    "layers": (list, type(None)),
    "checkpoint": (str, type(None)),
    "identity": str,
    "level": str,
    "neighbours": int,
    "input_size": int,
    "windows": list,
    "input_max": (int, float),
    "names": list,
    "places": torch.Tensor,
    "routing": str,
    "router": dict,
    "statistics": list,
    "training_dataset_path": str,
    "train_pictures": list,
    "valid_pictures": list,
    "picture_hashes": dict,
    **dict.fromkeys(TENSORS, torch.Tensor),
}


class LibraryMaps(nn.Module):
    """The distance of each cell of pictures to the nearest vectors of their cluster's library.

    `mean` (K, D) and `matrix` (K, D, d) whiten features, and `memory` (K, M, d) has what each of K
    clusters remembers. The distance is the mean of those to the `neighbours` nearest vectors. At
    the level `image` a picture has one vector, and all its cells have one distance.
    """

    kinds = ("library",)

    def __init__(
        self,
        features: FeatureExtractor,
        mean: torch.Tensor,
        matrix: torch.Tensor,
        memory: torch.Tensor,
        level: str = LEVELS[0],
        neighbours: int = 1,
        input_size: int = 192,
    ):
        super().__init__()
        self.features, self.level, self.input_size = features, level, input_size
        self.cell, self.multiple = features.cell, features.multiple
        self.neighbours = min(neighbours, int(memory.shape[1]))
        for name, tensor in zip(TENSORS, (mean, matrix, memory)):
            self.register_buffer(name, tensor.float().contiguous())
        # -2 m and |m|^2: the products of a query with them are squared distances but for |q|^2
        self.register_buffer("products", (-2 * self.memory).transpose(1, 2), persistent=False)
        self.register_buffer("squares", self.memory.square().sum(dim=2)[:, None], persistent=False)

    @property
    def clusters(self) -> int:
        """K."""
        return int(self.memory.shape[0])

    def forward(self, pictures: torch.Tensor, clusters: torch.Tensor | None = None) -> torch.Tensor:
        """(B, C, h, w) unit range, multiples of `multiple`, to distances (B, 1, h/cell, w/cell).

        `clusters` (B,) int64 says whose library each picture is compared with; None means the
        first one's. A cell's distance is averaged with its neighbours'.
        """
        return average_neighbours(self.distances(self.features(pictures), clusters))

    def distances(
        self, features: torch.Tensor, clusters: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Features (B, D, h, w) to distances (B, 1, h, w)."""
        height, width = sizes(features)
        if self.level == "image":
            vectors = picture_vectors(features)[:, None]
            distances = self._nearest(vectors, clusters)[0]
            return distances[:, :, None, None].expand(-1, 1, height, width)
        vectors = features.flatten(start_dim=2).transpose(1, 2)
        return self._nearest(vectors, clusters)[0].reshape(-1, 1, height, width)

    def nearest(self, features: torch.Tensor, clusters: torch.Tensor | None = None) -> torch.Tensor:
        """The numbers (B, h, w) of the nearest remembered vectors, for the place they are from."""
        height, width = sizes(features)
        vectors = features.flatten(start_dim=2).transpose(1, 2)
        if self.level == "image":
            vectors = picture_vectors(features)[:, None]
            return self._nearest(vectors, clusters)[1][..., :1].expand(-1, height, width)
        return self._nearest(vectors, clusters)[1][..., 0].reshape(-1, height, width)

    def _nearest(
        self, vectors: torch.Tensor, clusters: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances (B, P) of vectors (B, P, D), and the nearest numbers (B, P, neighbours)."""
        if self.clusters == 1 or clusters is None:
            mean, matrix, products, squares, flat = (
                tensor[0]
                for tensor in (self.mean, self.matrix, self.products, self.squares, self.memory)
            )
            first = 0
        else:
            mean = self.mean[clusters][:, None]
            matrix, products, squares = (
                tensor[clusters] for tensor in (self.matrix, self.products, self.squares)
            )
            flat = self.memory.flatten(end_dim=1)
            first = clusters[:, None, None] * int(self.memory.shape[1])
        queries = (vectors - mean) @ matrix
        distances, numbers = [], []
        count, remembered = int(queries.shape[1]), int(self.memory.shape[1])
        at_once = max(1, MOST_PRODUCTS // remembered)
        for start in range(0, count, at_once):
            part = queries[:, start : min(start + at_once, count)]
            squared = part @ products + squares
            if self.neighbours == 1:
                found = squared.argmin(dim=2, keepdim=True)
            else:
                found = squared.topk(self.neighbours, dim=2, largest=False).indices
            # Computed again from differences: where a picture is in the library, the products
            # leave nothing but rounding errors, which differ between machines.
            chosen = flat[found + first]
            squared = (part[:, :, None] - chosen).square().sum(dim=3)
            distances.append(squared.sqrt().mean(dim=2))
            numbers.append(found)
        if len(distances) == 1:
            return distances[0], numbers[0]
        return torch.cat(distances, dim=1), torch.cat(numbers, dim=1)


@dataclass(frozen=True)
class Statistics:
    """Scores of a cluster's held-out pictures: their number, mean and spread."""

    count: int
    mean: float
    spread: float


@dataclass(frozen=True)
class Library:
    """A library and the facts that belong to it.

    `names` has a name for each cluster, `statistics` what its held-out pictures score. `router`
    gives pictures their clusters; None where there is one library for all. `windows` are the sides
    in pixels that were shrunk or enlarged to `input_size`; none mean each picture's shorter side.
    `places` (K, M, 3) has the picture of `train`, row and column of cells of each vector, at the
    scale of the first window. `train`, `valid` and `hashes` are as a model's.
    """

    maps: LibraryMaps
    router: Router | None
    names: tuple[str, ...]
    places: torch.Tensor
    statistics: tuple[Statistics, ...]
    channels: int
    input_max: float
    windows: tuple[int, ...]
    training_dataset_path: Path
    train: tuple[str, ...]
    valid: tuple[str, ...]
    hashes: dict[str, str]
    kinds: tuple[str, ...]
    checkpoint: Path | None = None
    layers: tuple[int, ...] | None = None
    routing: str = "none"
    path: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def input_size(self) -> int:
        """Side of the pictures that the library was built from, in pixels."""
        return self.maps.input_size


def save_library(library: Library, path: Path) -> None:
    """Write a library: plain tensors, numbers, strings, lists and dicts.

    Raises `UserError` when the file system refuses.
    """
    maps = library.maps
    save_checkpoint(
        path,
        {
            "tool": TOOL,
            "kind": KIND,
            "version": VERSION,
            "features": list(library.kinds),
            "cell": maps.cell,
            "channels": library.channels,
            "layers": list(library.layers) if library.layers is not None else None,
            "checkpoint": str(library.checkpoint) if library.checkpoint else None,
            "identity": maps.features.identity(),
            "level": maps.level,
            "neighbours": maps.neighbours,
            "input_size": maps.input_size,
            "windows": list(library.windows),
            "input_max": library.input_max,
            **{name: getattr(maps, name) for name in TENSORS},
            "places": library.places,
            "names": list(library.names),
            "routing": library.routing,
            "router": library.router.state() if library.router else {},
            "statistics": [vars(entry) for entry in library.statistics],
            "training_dataset_path": str(library.training_dataset_path),
            "train_pictures": list(library.train),
            "valid_pictures": list(library.valid),
            "picture_hashes": library.hashes,
            "settings": library.settings,
        },
    )


def load_library(path: Path, checkpoint: Path | None = None) -> Library:
    """Load a library that `save_library` wrote.

    `checkpoint` is that of its encoder's features; None means the path that the file names.

    Raises `UserError`, naming the file, when it is missing or is no library, and when its features
    are others than those of the checkpoint or of the installed package.
    """
    with prefix_errors(path):
        content = _read(path)
        place = checkpoint or (Path(content["checkpoint"]) if content["checkpoint"] else None)
        features = make_features(
            content["features"], content["channels"], content["cell"], place, content["layers"]
        )
        if features.identity() != content["identity"]:
            source = f" of {place}" if "encoder" in content["features"] else ""
            raise UserError(
                f"found a library of other features than those{source}, expected the ones that it "
                f"was built from: build it again with {COMMAND}"
            )
        maps = LibraryMaps(
            features,
            *(content[name] for name in TENSORS),
            content["level"],
            content["neighbours"],
            content["input_size"],
        )
        router = make_router(content["routing"], features, content["router"])
    return Library(
        maps.eval(),
        router,
        tuple(content["names"]),
        content["places"],
        tuple(Statistics(**entry) for entry in content["statistics"]),
        content["channels"],
        content["input_max"],
        tuple(content["windows"]),
        Path(content["training_dataset_path"]),
        tuple(content["train_pictures"]),
        tuple(content["valid_pictures"]),
        content["picture_hashes"],
        tuple(content["features"]),
        place,
        tuple(content["layers"]) if content["layers"] is not None else None,
        content["routing"],
        path,
        content.get("settings", {}),
    )


def require_same_checkpoint(library: Library, checkpoints: Sequence[Path]) -> None:
    """Raise `UserError` for a library of an encoder that is none of the models that score with it.

    A library of other features fits every model.
    """
    if "encoder" not in library.kinds or not checkpoints:
        return
    for checkpoint in checkpoints:
        features = make_features(
            library.kinds,
            library.channels,
            library.maps.cell,
            checkpoint,
            library.layers,
        )
        if features.identity() == library.maps.features.identity():
            return
    raise UserError(
        f"{library.path}: found a library of the encoder of {library.checkpoint}, "
        f"expected one of {' or '.join(map(str, checkpoints))}"
    )


def _read(path: Path) -> dict[str, Any]:
    content = read_checkpoint(path, TOOL)
    if content.get("kind") != KIND:
        found = shown(content["kind"]) if "kind" in content else "a checkpoint of a network"
        raise UserError(f"found {found}, expected a feature library of {COMMAND}")
    for name, types in KEYS.items():
        if name not in content or not isinstance(content[name], types):
            raise UserError(f"found no usable {name}, expected a library of {COMMAND}")
    if (
        not set(content["features"]) <= set(FEATURES)
        or not content["features"]
        or content["cell"] not in CELLS
        or content["channels"] not in (1, 3)
        or content["level"] not in LEVELS
        or not all(is_stored(content[name]) for name in TENSORS)
        or not _fit_together(content)
    ):
        raise UserError(f"found unusable values, expected a library of {COMMAND}")
    return content


def _fit_together(content: dict[str, Any]) -> bool:
    mean, matrix, memory = (content[name] for name in TENSORS)
    return (
        (mean.dim(), matrix.dim(), memory.dim()) == (2, 3, 3)
        and len(mean) == len(matrix) == len(memory) == len(content["names"]) >= 1
        and mean.shape[1] == matrix.shape[1]
        and matrix.shape[2] == memory.shape[2]
        and memory.shape[1] >= 1
        and content["neighbours"] >= 1
        and content["input_size"] >= 1
    )

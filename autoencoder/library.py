"""The file of a feature library: what it remembers, and the facts on the pictures it is from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from autoencoder.features import (
    CELLS,
    CONTRAST,
    FEATURES,
    LITE0_LAYERS,
    MOST_CONTRAST,
    are_stages,
    make_features,
)
from autoencoder.library_maps import LEVELS, TENSORS, LibraryMaps
from autoencoder.maps import LIBRARY, OF_LIBRARY
from autoencoder.model import TOOL
from autoencoder.patch_mixtures import PatchMixtures, make_mixtures
from autoencoder.patch_mixtures import fits as fits_mixtures
from autoencoder.patch_statistics import PATCH_TENSORS, PatchStatistics
from autoencoder.patch_statistics import fits as fits_statistics
from autoencoder.routing import Router, make_router
from common.errors import UserError, prefix_errors, shown
from training.checkpoint import is_stored, read_checkpoint, save_checkpoint

KIND, VERSION = "feature library", 2
COMMAND = "python -m autoencoder.feature_library"
EARLIER_STAGES = (4, 5)  # of lite0 in files that do not name them
KEYS = {
    "features": list,
    "cell": int,
    "channels": int,
    "layers": (list, type(None)),
    "contrast": dict,
    "checkpoint": (str, type(None)),
    "identity": str,
    "level": str,
    "neighbours": int,
    "flattened": (int, float),
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
    contrast: dict[str, tuple[float, ...]] = field(default_factory=lambda: dict(CONTRAST))
    routing: str = "none"
    path: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    # of pixels; None where there are none, PatchStatistics in earlier files
    patches: PatchMixtures | PatchStatistics | None = None
    score: tuple[str, ...] = (LIBRARY,)  # the maps that suit its pictures, of OF_LIBRARY
    stages: tuple[int, ...] = LITE0_LAYERS  # of lite0

    def clusters(self) -> dict[str, int]:
        """The cluster of each picture of `train` that the library remembers a vector of."""
        return {
            self.train[number]: cluster
            for cluster, places in enumerate(self.places)
            for number in places[:, 0].unique().tolist()
        }

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
            "contrast": {kind: list(windows) for kind, windows in library.contrast.items()},
            "stages": list(library.stages),
            "checkpoint": str(library.checkpoint) if library.checkpoint else None,
            "identity": maps.features.identity(),
            "level": maps.level,
            "neighbours": maps.neighbours,
            "flattened": maps.flattened,
            "input_size": maps.input_size,
            "windows": list(library.windows),
            "input_max": library.input_max,
            **{name: getattr(maps, name) for name in TENSORS},
            "patches": library.patches.state() if library.patches else {},
            "score": list(library.score),
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
            content["features"],
            content["channels"],
            content["cell"],
            place,
            content["layers"],
            content["contrast"],
            content["stages"],
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
            content["flattened"],
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
        {kind: tuple(windows) for kind, windows in content["contrast"].items()},
        content["routing"],
        path,
        content.get("settings", {}),
        _patches_of(content),
        _score_of(content),
        tuple(content["stages"]),
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
            library.contrast,
            library.stages,
        )
        if features.identity() == library.maps.features.identity():
            return
    raise UserError(
        f"{library.path}: found a library of the encoder of {library.checkpoint}, "
        f"expected one of {' or '.join(map(str, checkpoints))}"
    )


def require_same_clusters(first: Library, library: Library) -> None:
    """Raise `UserError` unless a library has the clusters of the first: one router serves both.

    Of pictures that only one of them knows, nothing is said.
    """
    ours, theirs = first.clusters(), library.clusters()
    if first.names != library.names or any(
        ours.get(name, cluster) != cluster for name, cluster in theirs.items()
    ):
        raise UserError(
            f"{library.path}: found other clusters than in {first.path}, expected the same ones, "
            f"such as class folders: {COMMAND} --clusters folders"
        )


def _read(path: Path) -> dict[str, Any]:
    content = read_checkpoint(path, TOOL, COMMAND)
    if content.get("kind") != KIND:
        found = shown(content["kind"]) if "kind" in content else "a checkpoint of a network"
        raise UserError(f"found {found}, expected a feature library of {COMMAND}")
    if content.get("version") != VERSION:
        raise UserError(
            f"found a library of version {shown(content.get('version'))}, expected {VERSION}: "
            f"build it again with {COMMAND}"
        )
    content.setdefault("flattened", 0.0)  # which earlier files do not name
    for name, types in KEYS.items():
        if name not in content or not isinstance(content[name], types):
            raise UserError(f"found no usable {name}, expected a library of {COMMAND}")
    if (
        not set(content["features"]) <= set(FEATURES)
        or not content["features"]
        or content["cell"] not in CELLS
        or content["channels"] not in (1, 3)
        or not _is_contrast(content["contrast"])
        or not are_stages(content.setdefault("stages", list(EARLIER_STAGES)))
        or content["level"] not in LEVELS
        or not 0 <= content["flattened"] <= 1
        or not all(is_stored(content[name]) for name in TENSORS)
        or not _fit_together(content)
    ):
        raise UserError(f"found unusable values, expected a library of {COMMAND}")
    return content


def _patches_of(content: dict[str, Any]) -> PatchMixtures | PatchStatistics | None:
    """The mixtures of patches, or their statistics in an earlier file; None without any."""
    state, facts = content.get("patches"), (len(content["names"]), content["channels"])
    if not state:
        return None
    if fits_mixtures(state, *facts):
        return make_mixtures(state, content["cell"])
    if fits_statistics(state, *facts):
        return PatchStatistics(*(state[name] for name in PATCH_TENSORS), content["cell"]).eval()
    raise UserError(f"found unusable patches, expected a library of {COMMAND}")


def _score_of(content: dict[str, Any]) -> tuple[str, ...]:
    """The maps that suit the pictures; those of an earlier file, which does not name them."""
    score = content.get("score", [LIBRARY])
    if score == [LIBRARY] or (score == list(OF_LIBRARY) and content.get("patches")):
        return tuple(score)
    raise UserError(f"found unusable maps to score by, expected a library of {COMMAND}")


def _is_contrast(contrast: dict[str, Any]) -> bool:
    return set(contrast) == set(CONTRAST) and all(
        isinstance(windows, list)
        and windows
        and all(
            isinstance(share, (int, float)) and 0 <= share <= MOST_CONTRAST for share in windows
        )
        for windows in contrast.values()
    )


def _fit_together(content: dict[str, Any]) -> bool:
    mean, matrix, memory = (content[name] for name in TENSORS)
    places = content["places"]
    return (
        (mean.dim(), matrix.dim(), memory.dim()) == (2, 3, 3)
        and len(mean) == len(matrix) == len(memory) == len(content["names"]) >= 1
        and mean.shape[1] == matrix.shape[1]
        and matrix.shape[2] == memory.shape[2]
        and memory.shape[1] >= 1
        and places.shape == (*memory.shape[:2], 3)
        and int(places[..., 0].min()) >= 0
        and int(places[..., 0].max()) < len(content["train_pictures"])
        and content["neighbours"] >= 1
        and content["input_size"] >= 1
    )

"""What the flags of scoring ask for, loaded: models and library, ready to score pictures."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
from torch import nn

from arguments import CHECKPOINT_FOLDER, newest, require_different
from autoencoder.calibration import GoodScores, Scorers, calibrate_scorers
from autoencoder.held_out import HeldOut, find_held_out
from autoencoder.library import (
    Library,
    load_library,
    require_same_checkpoint,
    require_same_clusters,
)
from autoencoder.maps import (
    LIBRARY,
    OF_LIBRARY,
    PATCHES,
    NetworkMaps,
    library_top_share,
    maps_of,
)
from autoencoder.model import TOOL, Model, load_model
from autoencoder.routing import SizedRouter
from autoencoder.scales import WHOLE, Source
from autoencoder.scorer import PER_SOURCE, ScoreSettings, plane_names
from common.errors import UserError, describe_failure, is_failure, prefix_errors
from common.settings import from_values
from data.image_files import Channels
from data.picture_channels import CHANNELS
from training.checkpoint import BEST_SUFFIX


class LibrarySource(nn.Module):
    """A library as a `Source` of the maps `kinds` of OF_LIBRARY.

    library  the distance of each cell's features to the nearest that the library remembers
    patches  how unusual each cell's pixels are, several maps, where the library has patches

    Raises `UserError` for patches of a library without them.
    """

    window_mode, gives_pictures, long_side = "pyramid", False, None

    def __init__(self, library: Library, kinds: Sequence[str] = (LIBRARY,)):
        super().__init__()
        if PATCHES in kinds and library.patches is None:
            raise UserError(
                f"--score {PATCHES}: found {library.path}, a library without patches, "
                "expected one built with --patches True"
            )
        self.maps, self.top_share = library.maps, library_top_share(kinds)
        self.patches = library.patches if PATCHES in kinds else None
        self.has_distances = LIBRARY in kinds
        self.kinds = (
            *((LIBRARY,) if self.has_distances else ()),
            *(self.patches.kinds if self.patches else ()),
        )
        self.input_size, self.multiple = library.maps.input_size, library.maps.multiple
        self.cell = library.maps.cell
        self.windows = library.windows or (WHOLE,)

    def forward(self, pictures: torch.Tensor, clusters: torch.Tensor) -> torch.Tensor:
        """(N, C, h, w) and clusters (N,) to (N, kinds, h / cell, w / cell)."""
        parts = [self.maps(pictures, clusters)] if self.has_distances else []
        if self.patches is not None:
            parts.append(self.patches(pictures, clusters))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


@dataclass(frozen=True)
class Loaded:
    """Models and libraries that score the same kind of pictures, and the scorers that they make.

    `channels` are those of the pictures, and `input_max` is the camera's largest value.
    """

    models: tuple[Model, ...]
    libraries: tuple[Library, ...]
    scorers: Scorers
    channels: Channels
    input_max: float

    @property
    def learned(self) -> list[Model | Library]:
        """The models and the libraries."""
        return [*self.models, *self.libraries]

    @property
    def files(self) -> list[Path]:
        """The files that were loaded."""
        return [entry.path for entry in self.learned]

    @property
    def name(self) -> str:
        """The files, as the printed name of what scores."""
        return ", ".join(map(str, self.files))

    def settings_shown(self) -> dict[str, object]:
        """The settings that the report shows, as texts by name."""
        scorers = self.scorers
        values = vars(scorers.settings).items()
        return {
            "device": str(scorers.device),
            "top_share": f"{scorers.settings.top_share or scorers.sources[0].top_share:g}",
            "maps": ", ".join(dict.fromkeys(plane_names(scorers.sources, scorers.settings))),
            **{name: str(value) for name, value in values if name not in PER_SOURCE},
        }


def load_scorers(arguments: argparse.Namespace, device: torch.device) -> Loaded:
    """Load the models and the libraries.

    `arguments` has the flags of score_flags.py. Without --models, libraries score alone. The first
    library routes the pictures.

    Raises `UserError` when a file cannot be used, and when the models and libraries do not fit each
    other or --score.
    """
    require_different("--library", [path.resolve() for path in arguments.library or ()])
    libraries = tuple(load_library(path) for path in arguments.library or ())
    models = () if libraries and not arguments.models else load_models(arguments.models)
    require_same_pictures([*models, *libraries])
    require_same_classes(models)
    for library in libraries:
        require_same_checkpoint(library, [model.path for model in models])
        require_same_clusters(libraries[0], library)
    sources = make_sources(models, libraries, arguments.score)
    settings = from_values(ScoreSettings, vars(arguments) | {"windows": arguments.windows or ()})
    main = libraries[0] if libraries else None
    router = main.router if main else None
    scorers = Scorers(
        sources,
        settings,
        (lambda size: SizedRouter(router, size, main.input_size)) if router else None,
        main.names if main else ("",),
        device,
    )
    first = models[0] if models else main
    return Loaded(models, libraries, scorers, CHANNELS[first.channels], first.input_max)


def calibrate(loaded: Loaded, arguments: argparse.Namespace) -> tuple[HeldOut, GoodScores]:
    """Set the statistics of the scorers on held-out good pictures, and return their scores.

    Raises `UserError` as `find_held_out`, and for windows that do not fit the pictures or the
    memory.
    """
    held_out = find_held_out(
        loaded.learned,
        arguments.good_path,
        arguments.img_format,
        loaded.channels,
        loaded.input_max,
    )
    try:
        return held_out, calibrate_scorers(loaded.scorers, held_out.read, held_out.origin)
    except (MemoryError, RuntimeError) as error:
        if not arguments.windows or not is_failure(error):
            raise
        windows = " ".join(map(str, arguments.windows))
        raise UserError(f"--windows {windows}: {describe_failure(error)}") from None


def load_models(paths: list[Path] | None) -> tuple[Model, ...]:
    """Load the checkpoints of --models; of a folder its newest best one.

    Raises `UserError` for one that cannot be used or is named twice.
    """
    files = [newest(path, f"*{BEST_SUFFIX}") for path in paths or [CHECKPOINT_FOLDER / TOOL]]
    require_different("--models", [path.resolve() for path in files])
    return tuple(map(load_model, files))


def require_same_pictures(learned: Sequence[Model | Library]) -> None:
    """Raise `UserError` for a model or a library of other pictures than the first one's."""
    first = learned[0]
    for entry in learned[1:]:
        for name, meaning in (("channels", "channels"), ("input_max", "values up to")):
            expected, found = getattr(first, name), getattr(entry, name)
            if found != expected:
                raise UserError(
                    f"{entry.path}: found pictures of {meaning} {found:g}, expected {expected:g}, "
                    f"as those of {first.path}"
                )


def require_same_classes(models: Sequence[Model]) -> None:
    """Raise `UserError` for models of one data set that have no class folder in common.

    They are those of --per_class: to each other's pictures, every picture is unusual.
    """
    for one, other in combinations(models, 2):
        if one.training_dataset_path.resolve() != other.training_dataset_path.resolve():
            continue
        ours, theirs = class_folders(one), class_folders(other)
        if not ours & theirs:
            raise UserError(
                f"--models: found {one.path} of {', '.join(sorted(ours))} and {other.path} of "
                f"{', '.join(sorted(theirs))}, expected models of the same classes: score each "
                "class by itself"
            )


def class_folders(model: Model) -> set[str]:
    """The first folder of each picture that a model learned from; "" for a picture without one."""
    return {name.rpartition("/")[0].split("/")[0] for name in model.train}


def trained_long_side(model: Model) -> float | None:
    """The mean of the longer sides in pixels that pictures were taken to; None for their own."""
    scale_range = model.settings.get("scale_range")
    return sum(scale_range) / 2 if scale_range else None


def make_sources(
    models: Sequence[Model], libraries: Sequence[Library], kinds: Sequence[str] | None
) -> list[Source]:
    """The sources of the maps of --score; by default those that suit the models and the libraries.

    The patches are those of the first library: others of the same pictures have the same.

    Raises `UserError` for maps that none of them can give.
    """
    asked = tuple(dict.fromkeys(kinds or ()))
    of_library = tuple(kind for kind in asked if kind in OF_LIBRARY)
    if of_library and not libraries:
        raise UserError(f"--score {of_library[0]}: found no --library, expected one")
    of_networks = tuple(kind for kind in asked if kind not in OF_LIBRARY)
    if of_networks and not models:
        raise UserError(f"--score {of_networks[0]}: found no --models, expected a checkpoint")
    sources = []
    for model in models if of_networks or not asked else ():
        own = of_networks or maps_of(model.task)[:1]
        with prefix_errors(model.path):
            sources.append(
                NetworkMaps(
                    model.network, model.task, own, model.input_size, trained_long_side(model)
                )
            )
    for number, library in enumerate(libraries if of_library or not asked else ()):
        own = of_library or library.score
        own = own if number == 0 else tuple(kind for kind in own if kind != PATCHES)
        if own:
            sources.append(LibrarySource(library, own))
    return sources

"""Build a library of features of good pictures, which scores pictures by the nearest of them.

    # filters, no training at all
    python -m autoencoder.feature_library --training_dataset_path dataset/textures
    # the encoder of a trained model and the filters
    python -m autoencoder.feature_library --training_dataset_path dataset/textures \\
        --features encoder bank --model_path checkpoints/autoencoder/RUN_best.pth
    # a mixed folder without labels: as many clusters as the pictures show
    python -m autoencoder.feature_library --training_dataset_path mixed --clusters auto

The held-out pictures, --valid_share of them, are never in the library: its statistics and every
threshold come from those, because a picture's distance to itself is 0.
"""

if __name__ == "__main__":
    from common.errors import install_exception_hook

    install_exception_hook()  # before the imports that take seconds

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from arguments import (
    CHECKPOINT_FOLDER,
    LARGEST_SEED,
    add_img_format,
    add_true_or_false,
    camera_range,
    from_0_to_1,
    require_different,
    share,
    whole_number,
)
from autoencoder.build_library import (
    CELL,
    DIMENSIONS,
    FLATTEN,
    INPUT_SIZE,
    MEMORY,
    Built,
    LibrarySettings,
    build_library,
)
from autoencoder.clusters import MOST_CLUSTERS, cross_table, format_cross_table, purity
from autoencoder.features import CELLS, FEATURES, MOST_CONTRAST
from autoencoder.library import save_library
from autoencoder.library_maps import LEVELS
from autoencoder.memory import SELECTIONS, SHRINKAGE
from autoencoder.metric import METRICS
from autoencoder.model import LARGEST_INPUT, TOOL
from autoencoder.routing import ROUTINGS
from common.command_parser import command_parser, group_flags
from common.errors import UserError, run_command
from common.notes import warn
from data.image_files import DEFAULT_INPUT_MAX
from data.pictures import PictureFile, describe_groups, list_good_pictures, verify_pictures
from data.value_range import scale_warning

OUTPUT = CHECKPOINT_FOLDER / TOOL / "library.pth"
FEWEST_HELD_OUT = 5  # of a cluster; fewer say little about its scores
FLAG_GROUPS = {
    "pictures": "training_dataset_path img_format input_max valid_share",
    "features": "features model_path layers contrast_windows cell input_size windows",
    "library": "level memory selection neighbours shrinkage dimensions metric flatten patches seed",
    "mixed folders": "clusters routing",
    "output": "output_path overwrite",
}


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; None means that of the process."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add(
        "--training_dataset_path",
        type=Path,
        required=True,
        help="ROOT of a data set like MVTec AD's, of one kind of object or several, "
        "or a folder of good pictures",
    )
    add_img_format(parser, default=None)
    add(
        "--input_max",
        type=camera_range,
        default=DEFAULT_INPUT_MAX,
        help="largest pixel value of the camera",
    )
    add(
        "--valid_share",
        type=share,
        default=0.1,
        help="share of the pictures that is held out; those that the training of --model_path "
        "held out stay held out",
    )
    add(
        "--features",
        nargs="+",
        choices=FEATURES,
        default=["bank"],
        help="encoder: of --model_path; bank: oriented filters; random: an untrained encoder; "
        "lite0: EfficientNet-Lite0 with ImageNet weights, where they are installed; "
        "several are joined",
    )
    add("--model_path", type=Path, help="checkpoint whose encoder gives the features")
    add(
        "--layers",
        nargs="+",
        type=whole_number(0, 6),
        help="levels of the encoder, 0 is the finest; default: 2 3 4, as far as it has them",
    )
    add(
        "--contrast_windows",
        nargs="+",
        type=_contrast_window,
        default=[],
        metavar="SHARE",
        help="windows in which bank and lite0 normalize contrast, as shares of the shorter side; "
        "2 holds all of a square picture, 0.25 follows uneven light, 0 normalizes "
        "nothing; several give features each; default: 2",
    )
    add("--cell", type=int, choices=CELLS, default=CELL, help="pixels along each side of a cell")
    add(
        "--input_size",
        type=whole_number(32, LARGEST_INPUT),
        help=f"pixels that a window becomes; default: that of the model, else {INPUT_SIZE}",
    )
    add(
        "--windows",
        nargs="+",
        type=whole_number(16, LARGEST_INPUT),
        default=[],
        help="sides of windows in pixels, one for each scale; default: each picture's shorter side",
    )
    add(
        "--level",
        choices=LEVELS,
        default=LEVELS[0],
        help="patch: a vector for each cell; image: one for each picture",
    )
    add("--memory", type=whole_number(1), default=MEMORY, help="vectors that are remembered")
    add(
        "--selection",
        choices=SELECTIONS,
        default=SELECTIONS[0],
        help="coverage: each vector the farthest from those before; random",
    )
    add(
        "--neighbours",
        type=whole_number(1, 100),
        default=1,
        help="nearest vectors whose mean distance counts",
    )
    add(
        "--shrinkage",
        type=from_0_to_1,
        default=SHRINKAGE,
        help="of the covariance that whitens features: 0 whitens fully, 1 not at all",
    )
    add(
        "--dimensions",
        type=whole_number(1),
        default=DIMENSIONS,
        help="of a whitened vector, those of the largest variance",
    )
    add(
        "--metric",
        choices=METRICS,
        help="painted: directions count as they tell painted damage from good patches; whitened: "
        "all alike; plain: as the features have them; default: painted, plain with lite0 where "
        "patches do not count",
    )
    add(
        "--flatten",
        type=from_0_to_1,
        default=FLATTEN,
        help="share, of what whole rows and columns of the map of distances have more than the "
        "rest, that is subtracted: good pictures that are lit unevenly differ in it; 0: none",
    )
    add_true_or_false(
        parser,
        "--patches",
        help="learn mixtures of raw patches, too, which see brightness and contrast: the maps "
        "`patches` of --score, taken where with them more painted damage is found",
    )
    add("--seed", type=whole_number(0, LARGEST_SEED), default=42, help="of everything random")
    add(
        "--clusters",
        type=_clusters,
        default="folders",
        metavar="{folders,auto,K}",
        help="folders: a library for each class folder; auto: for each of up to "
        f"{MOST_CLUSTERS} clusters, as the silhouette says; K: for each of K",
    )
    add(
        "--routing",
        choices=ROUTINGS,
        default=ROUTINGS[0],
        help="how a picture finds its library; library: that of the nearest picture; clusters: "
        "the nearest centre; histogram: the nearest representative picture, among textures the "
        "nearest histogram; none: one library for all",
    )
    add("--output_path", type=Path, default=OUTPUT, help="file of the library")
    add("--overwrite", action="store_true", help="replace a library of that name")
    group_flags(parser, FLAG_GROUPS)
    return parser.parse_args(arguments)


def build(arguments: argparse.Namespace) -> None:
    """Build a library, print what it is like and write it. Raises `UserError`."""
    _require_effect(arguments)
    _require_free(arguments)
    root = arguments.training_dataset_path
    pictures = list_good_pictures(root, arguments.img_format)
    verification = verify_pictures(pictures, arguments.input_max)
    if verification.problems:
        listed = "\n  ".join(verification.problems)
        raise UserError(f"files that cannot be used: {len(verification.problems)}\n  {listed}")
    if text := describe_groups(pictures):
        print(text)
    if text := scale_warning(verification.values, arguments.input_max):
        warn(text)
    built = build_library(pictures, _settings(arguments), root)
    _report(built, pictures)
    save_library(built.library, arguments.output_path)


def main(arguments: list[str] | None = None) -> int:
    """Run the command, print the next one, and return the exit code."""
    parsed = parse_args(arguments)

    def build_and_print() -> None:
        build(parsed)
        print(
            f"the library is {parsed.output_path}; next: python -m autoencoder.inference "
            f"--library {shlex.quote(str(parsed.output_path))} --test_path ..."
        )

    return run_command(build_and_print)


def _contrast_window(text: str) -> float:
    value = float(text)
    if not 0 <= value <= MOST_CONTRAST:
        raise argparse.ArgumentTypeError(
            f"found {text}, expected a number from 0 to {MOST_CONTRAST:g}"
        )
    return value


def _clusters(text: str) -> int | str:
    if text in ("folders", "auto"):
        return text
    return whole_number(1)(text)


_contrast_window.__name__ = "share"
_clusters.__name__ = "number of clusters"


def _require_free(arguments: argparse.Namespace) -> None:
    """Raise `UserError` for an output that exists or lies among the pictures."""
    path, root = arguments.output_path, arguments.training_dataset_path
    if path.is_dir() or (path.exists() and not arguments.overwrite):
        raise UserError(
            f"--output_path {path}: found a {'folder' if path.is_dir() else 'file'}, expected a "
            "new name, or --overwrite to replace a library"
        )
    if root.is_dir() and root.resolve() in path.resolve().parents:
        raise UserError(
            f"--output_path {path}: found a path in --training_dataset_path, expected one "
            "outside it"
        )


def _require_effect(arguments: argparse.Namespace) -> None:
    """Raise `UserError` for flags that would change nothing beside the others."""
    features = arguments.features
    for flag in ("model_path", "layers"):
        if getattr(arguments, flag) and "encoder" not in features:
            raise UserError(
                f"--{flag}: found --features {' '.join(features)}, expected encoder among them"
            )
    require_different("--features", features)
    if arguments.routing == "none" and arguments.clusters not in ("folders", 1):
        raise UserError(
            f"--routing none: found --clusters {arguments.clusters}, expected another --routing: "
            "without one there is one library for all pictures"
        )


def _settings(arguments: argparse.Namespace) -> LibrarySettings:
    values = {
        name: value
        for name, value in vars(arguments).items()
        if name in LibrarySettings.__annotations__
    }
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return LibrarySettings(**(values | lists))


def _report(built: Built, pictures: Sequence[PictureFile]) -> None:
    library = built.library
    maps = library.maps
    print(maps.features.describe())
    print(
        f"library: {maps.memory.shape[1]} vectors of {maps.memory.shape[2]} numbers "
        f"for each of {maps.clusters}, from {len(library.train)} pictures; "
        f"{len(library.valid)} held out"
    )
    groups = {picture.relative.as_posix(): picture.group for picture in pictures}
    own = [groups[name] for name in library.train]
    names = library.names
    if set(own) != {""}:
        table = cross_table(built.clusters, own)
        print(f"clusters and class folders: purity {purity(built.clusters, own):.3f}")
        print(format_cross_table(names, table))
        largest = {cluster: counts.most_common(1)[0][0] for cluster, counts in table.items()}
        right = [
            largest.get(cluster) == groups[name]
            for cluster, name in zip(built.routed.tolist(), library.valid)
        ]
        if library.router:
            print(
                f"routing {library.routing}: {sum(right)} of {len(right)} held-out pictures to a "
                "library of their class"
            )
    for name, entry in zip(names, library.statistics):
        label = f"{name}: " if name else ""
        print(
            f"  {label}scores of {entry.count} held-out pictures: mean {entry.mean:.3f}, "
            f"spread {entry.spread:.3f}"
        )
    if built.aurocs:
        without, both = built.aurocs.values()
        print(
            f"AUROC of damage painted into held-out pictures: {without:.3f} by the features, "
            f"{both:.3f} with raw patches, too; default: --score {' '.join(library.score)}"
        )
    if any(entry.count < FEWEST_HELD_OUT for entry in library.statistics):
        warn(
            f"a library has fewer than {FEWEST_HELD_OUT} held-out pictures: its statistics are "
            "poor; a larger --valid_share or more pictures help"
        )


if __name__ == "__main__":
    sys.exit(main())

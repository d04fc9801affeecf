"""The data sets of benchmarks/autoencoder.py, and which rows each of them has."""

import argparse
from pathlib import Path

import prepare_dataset
from benchmarks.command_line import as_words, digest
from common.errors import UserError
from data.pictures import list_test_pictures

TARGET, TEXTURES, FEW = "target", "textures", "three"
# rows on one class alone: those that are trained on it differ from those that know others, too
ALONE = {
    "mean picture, classes given",
    "PCA of patches, classes given",
    "library and patches",
    "library, bank",
    "segment",
    "segment, library and patches",
}
# classes that have all rows with --quick, and the rows of all classes then
THREE = ("gear", "gravel", "target")
MAIN = ALONE | {
    "library and patches, not flat",
    "patches",
    "segment, z-scores by routing",
    "routing none",
    "routing to as many clusters as classes",
}
TINY_DATA = ("--train", 6, "--good", 2, "--defective", 5, "--size", 64)


def rows_of(name: str, is_quick: bool) -> set[str] | None:
    """The names of the rows that a data set has; None for all."""
    if name == TARGET:
        return ALONE
    return MAIN if is_quick and name == TEXTURES else None


def data_sets(arguments: argparse.Namespace) -> dict[str, Path]:
    """The data sets' folders by name; makes the textures where they are missing."""
    found = {}
    if not arguments.no_textures:
        textures = arguments.output.absolute() / f"textures_seed{arguments.data_seed}"
        if not textures.exists():
            flags = [*(TINY_DATA if arguments.tiny else ()), "--seed", arguments.data_seed]
            words = as_words("textures", "--output", textures, *flags)
            prepare_dataset.prepare(prepare_dataset.parse_args(words))
        found = {TARGET: textures / "target"}
        if arguments.quick:
            found[FEW] = _link_classes(textures)
        found[TEXTURES] = textures
    for folder in [*([arguments.mvtec] if arguments.mvtec else []), *arguments.folders]:
        if not list_test_pictures(folder):
            raise UserError(f"{folder}: found no test pictures, expected MVTec AD's layout")
        found[f"{folder.name} ({digest(folder.absolute())})"] = folder.absolute()
    return found


def _link_classes(root: Path) -> Path:
    """A data set of the classes THREE of the textures in `root`, beside those."""
    folder = root.with_name(f"{root.name}_{FEW}")
    folder.mkdir(exist_ok=True)
    for group in THREE:
        if not (folder / group).exists():
            (folder / group).symlink_to(root / group)
    return folder

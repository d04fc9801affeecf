"""Which files belong to a data set, and which belong together.

ROOT/train/good/...                           good strips to train on
ROOT/valid/KIND/NAME.EXT, ROOT/test/KIND/...  KIND is `good` or the name of a kind of defect
ROOT/ground_truth_valid/KIND/NAME_mask.EXT    masks of valid/
ROOT/ground_truth/KIND/NAME_mask.EXT          masks of test/
"""

import os
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError

# --img_format: file suffixes
IMAGE_SUFFIXES = {"tiff": (".tif", ".tiff"), "png_jpg": (".png", ".jpg", ".jpeg")}
GOOD = "good"
MASK_FOLDERS = {"valid": "ground_truth_valid", "test": "ground_truth"}


@dataclass(frozen=True)
class StripFile:
    """One strip: its path, its path below the scored folder, its kind (None: unknown) and its mask
    (None: no mask).

    `painted_with` is the seed of the defects that are painted into it whenever it is read (None: it
    is read as it is), by the recipe `painted_by`.
    """

    path: Path
    relative: Path
    kind: str | None
    mask: Path | None
    painted_with: tuple[int, ...] | None = None
    painted_by: str = "classic"

    @property
    def is_defective(self) -> bool | None:
        return None if self.kind is None else self.kind != GOOD


def list_images(folder: Path, img_format: str | None = None) -> list[Path]:
    """All images in a folder and its sub-folders, sorted; without `img_format` of the one format
    that is there.

    Raises `UserError` for a missing or empty folder and when both formats are there and none was
    asked for.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder}: found {'a file' if folder.exists() else 'no such path'}, expected a folder of images"
        )
    formats = [img_format] if img_format else list(IMAGE_SUFFIXES)
    found = {name: sorted(list_files(folder, IMAGE_SUFFIXES[name])) for name in formats}
    found = {name: paths for name, paths in found.items() if paths}
    if not found:
        suffixes = ", ".join(suffix for name in formats for suffix in IMAGE_SUFFIXES[name])
        raise UserError(f"{folder}: found no images, expected files ending in {suffixes}")
    if len(found) > 1:
        raise UserError(
            f"{folder}: found images of several formats, expected one: choose with --img_format {{{','.join(found)}}}"
        )
    return next(iter(found.values()))


def list_strips(
    folder: Path, img_format: str | None = None, use_masks: bool = True
) -> list[StripFile]:
    """All strips in a folder to be scored, with their kind and mask where the layout above tells
    them.

    `folder` may be the whole of `test/` or `valid/`, one kind in it, or any other folder. Raises
    `UserError` like `list_images`.
    """
    # links are not followed: the path as given tells the layout
    folder = Path(os.path.abspath(folder))
    split = _split_of(folder)
    masks = _masks_of(split) if use_masks else {}
    strips = []
    for path in list_images(folder, img_format):
        in_split = path.relative_to(split)
        strips.append(
            StripFile(
                path, path.relative_to(folder), _kind(in_split), masks.get(in_split.with_suffix(""))
            )
        )
    return strips


def masks_without_strip(folder: Path, strips: list[StripFile]) -> list[Path]:
    """Masks for the strips of a folder, as of `list_strips`, that belong to none of them."""
    folder = Path(os.path.abspath(folder))
    split = _split_of(folder)
    used = {strip.mask for strip in strips}
    return [
        path
        for name, path in _masks_of(split).items()
        if path not in used and folder in (split, *(split / name).parents)
    ]


def split_beside(training_path: Path, split: str) -> Path | None:
    """`valid/` or `test/` of the data set whose `train/good` is `training_path`; None where there
    is none.
    """
    path = Path(os.path.abspath(training_path))
    if path.parts[-2:] != ("train", GOOD):
        return None
    folder = path.parent.parent / split
    return folder if folder.is_dir() else None


def mask_path(root: Path, split: str, kind: str, name: str, suffix: str = ".png") -> Path:
    """Where the mask of the strip `name` (without suffix) of a kind of defect lies."""
    return root / MASK_FOLDERS[split] / kind / f"{name}_mask{suffix}"


def list_files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files in a folder and its sub-folders whose suffixes, in lower case, are among these.

    Nothing else lists a folder of images. Linked folders are walked, too, each once.

    A link that leads nowhere is listed: it is an error, not nothing.
    """
    found, seen = [], set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        identity = os.path.realpath(parent)
        if identity in seen:
            folders.clear()
            continue
        seen.add(identity)
        found += [Path(parent) / file for file in files if Path(file).suffix.lower() in suffixes]
    return found


def _split_of(folder: Path) -> Path:
    """The folder that the kinds lie in: `folder` itself, unless it is one kind of a `test/` or
    `valid/`.
    """
    return (
        folder.parent
        if folder.parent.name in MASK_FOLDERS and folder.name not in MASK_FOLDERS
        else folder
    )


def _masks_of(split: Path) -> dict[Path, Path]:
    root = split.parent / MASK_FOLDERS.get(split.name, "ground_truth")
    return _masks_by_name(root) if root.is_dir() else {}


def _kind(path_in_split: Path) -> str | None:
    return path_in_split.parts[0] if len(path_in_split.parts) > 1 else None


def _masks_by_name(mask_root: Path) -> dict[Path, Path]:
    """KIND/NAME to mask file, whatever the masks' format."""
    suffixes = tuple(suffix for group in IMAGE_SUFFIXES.values() for suffix in group)
    masks = [path for path in list_files(mask_root, suffixes) if path.stem.endswith("_mask")]
    return {
        path.relative_to(mask_root).with_name(path.stem.removesuffix("_mask")): path
        for path in masks
    }

"""The layout of a data set on disk: strips, their kinds and their masks.

ROOT/train/good/...                           good strips to train on
ROOT/valid/KIND/NAME.EXT, ROOT/test/KIND/...  KIND is `good` or the name of a kind of defect
ROOT/ground_truth_valid/KIND/NAME_mask.EXT    masks of valid/
ROOT/ground_truth/KIND/NAME_mask.EXT          masks of test/
"""

import os
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError

# the choices of --img_format, each with its file suffixes in lower case
IMAGE_SUFFIXES = {"tiff": (".tif", ".tiff"), "png_jpg": (".png", ".jpg", ".jpeg")}
GOOD = "good"
MASK_FOLDERS = {"valid": "ground_truth_valid", "test": "ground_truth"}


@dataclass(frozen=True)
class StripFile:
    """One strip on disk.

    `relative` is its path below the scored folder, `kind` the kind of defect or GOOD (None:
    unknown), and `mask` the path of its ground truth mask (None: no mask).

    Where `painted_with` is given, synthetic defects are painted into the strip whenever it is read:
    `painted_with` is their seed and `painted_by` their recipe. None means that the strip is read
    unchanged.
    """

    path: Path
    relative: Path
    kind: str | None
    mask: Path | None
    painted_with: tuple[int, ...] | None = None
    painted_by: str = "classic"

    @property
    def is_defective(self) -> bool | None:
        """Whether the strip has a defect; None where its kind is unknown."""
        return None if self.kind is None else self.kind != GOOD


def list_images(folder: Path, img_format: str | None = None) -> list[Path]:
    """All images in a folder and its sub-folders, sorted.

    `img_format` is one of IMAGE_SUFFIXES; None means the one format that the folder holds.

    Raises `UserError` for a missing folder, for a folder without images, and where `img_format` is
    None and the folder holds both formats.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder}: found {'a file' if folder.exists() else 'no such path'}, "
            "expected a folder of images"
        )
    formats = [img_format] if img_format else list(IMAGE_SUFFIXES)
    found = {name: sorted(list_files(folder, IMAGE_SUFFIXES[name])) for name in formats}
    found = {name: paths for name, paths in found.items() if paths}
    if not found:
        suffixes = ", ".join(suffix for name in formats for suffix in IMAGE_SUFFIXES[name])
        raise UserError(f"{folder}: found no images, expected files ending in {suffixes}")
    if len(found) > 1:
        raise UserError(
            f"{folder}: found images of several formats, expected one: "
            f"choose with --img_format {{{','.join(found)}}}"
        )
    return next(iter(found.values()))


def list_strips(
    folder: Path, img_format: str | None = None, use_masks: bool = True
) -> list[StripFile]:
    """All strips in a folder, with their kind and mask where the layout gives them.

    `folder` may be the whole of `test/` or `valid/`, one kind in it, or any other folder.

    Raises `UserError` as `list_images`.
    """
    # not Path.resolve, which follows links: the path as given shows the layout
    folder = Path(os.path.abspath(folder))
    split = _find_split(folder)
    masks = _find_masks(split) if use_masks else {}
    strips = []
    for path in list_images(folder, img_format):
        in_split = path.relative_to(split)
        strips.append(
            StripFile(
                path,
                path.relative_to(folder),
                _find_kind(in_split),
                masks.get(in_split.with_suffix("")),
            )
        )
    return strips


def masks_without_strip(folder: Path, strips: list[StripFile]) -> list[Path]:
    """The masks that lie where those of `folder` belong but match none of `strips`.

    `strips` is what `list_strips(folder)` returns.
    """
    folder = Path(os.path.abspath(folder))
    split = _find_split(folder)
    used = {strip.mask for strip in strips}
    return [
        path
        for name, path in _find_masks(split).items()
        if path not in used and folder in (split, *(split / name).parents)
    ]


def split_beside(training_path: Path, split: str) -> Path | None:
    """The folder `split` (`valid` or `test`) of the data set whose `train/good` is `training_path`.

    Returns None where there is no such folder, or where `training_path` is not a `train/good`.
    """
    path = Path(os.path.abspath(training_path))
    if path.parts[-2:] != ("train", GOOD):
        return None
    folder = path.parent.parent / split
    return folder if folder.is_dir() else None


def mask_path(root: Path, split: str, kind: str, name: str, suffix: str = ".png") -> Path:
    """The path of the mask of strip `name` (without suffix), which has a defect of `kind`."""
    return root / MASK_FOLDERS[split] / kind / f"{name}_mask{suffix}"


def list_files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files in a folder and its sub-folders that end in one of `suffixes`, in any order.

    `suffixes` are in lower case; the case of a file's suffix does not matter. Linked folders are
    walked as well, each folder once. Broken links are listed too, so that reading them reports an
    error. Every listing of a folder of images goes through this function.
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


def _find_split(folder: Path) -> Path:
    """The folder of the kinds: the parent of one kind in `test/` or `valid/`, else `folder`."""
    return (
        folder.parent
        if folder.parent.name in MASK_FOLDERS and folder.name not in MASK_FOLDERS
        else folder
    )


def _find_masks(split: Path) -> dict[Path, Path]:
    """KIND/NAME to the mask file of a strip in `split`; empty where there is no mask folder."""
    root = split.parent / MASK_FOLDERS.get(split.name, "ground_truth")
    return _index_masks(root) if root.is_dir() else {}


def _find_kind(path_in_split: Path) -> str | None:
    """The first folder of a strip's path in its split; None for a strip that lies in no folder."""
    return path_in_split.parts[0] if len(path_in_split.parts) > 1 else None


def _index_masks(mask_root: Path) -> dict[Path, Path]:
    """KIND/NAME to mask file, for masks of every format in `mask_root`."""
    suffixes = tuple(suffix for group in IMAGE_SUFFIXES.values() for suffix in group)
    masks = [path for path in list_files(mask_root, suffixes) if path.stem.endswith("_mask")]
    return {
        path.relative_to(mask_root).with_name(path.stem.removesuffix("_mask")): path
        for path in masks
    }

"""Listing the images of a folder and its sub-folders: every one that counts, and no other file."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from common.errors import UserError
from common.notes import note_once
from data.truth_layout import image_key, is_mask_file

# the choices of --img_format, each with its file suffixes in lower case
IMAGE_SUFFIXES = {"tiff": (".tif", ".tiff"), "png_jpg": (".png", ".jpg", ".jpeg", ".bmp")}
ALL_SUFFIXES = tuple(suffix for group in IMAGE_SUFFIXES.values() for suffix in group)
# Folders that other programs leave among images: archives, network drives, recycle bins. Names that
# begin with a dot are left out as well.
OTHER_PROGRAMS = ("__macosx", "@eadir", "@recycle", "@tmp", "#recycle", "#snapshot")
OTHER_PROGRAMS += ("$recycle.bin", "system volume information", "lost+found")
SHOWN_NAMES = 3  # of those that are left out


def list_images(folder: Path, img_format: str | None = None) -> list[Path]:
    """All images in a folder and its sub-folders, sorted.

    `img_format` is one of IMAGE_SUFFIXES; None means the one format that the folder holds.

    Raises `UserError` for a missing folder, for a folder without images, and where `img_format` is
    None and the folder holds both formats.
    """
    require_folder(folder)
    return _of_one_format(folder, img_format, without_masks(folder, list_files(folder)))


def require_folder(folder: Path) -> None:
    """Raise `UserError` for what is no folder."""
    if not folder.is_dir():
        raise UserError(
            f"{folder}: found {'a file' if folder.exists() else 'no such path'}, "
            "expected a folder of images"
        )


def list_files(folder: Path, suffixes: tuple[str, ...] = ALL_SUFFIXES) -> list[Path]:
    """All of `walk_files`."""
    return list(walk_files(folder, suffixes))


def walk_files(folder: Path, suffixes: tuple[str, ...] = ALL_SUFFIXES) -> Iterator[Path]:
    """The files in a folder and its sub-folders that end in one of `suffixes`, in any order.

    `suffixes` are in lower case; the case of a file's suffix does not matter. Linked folders are
    walked as well, each folder once. Broken links are listed too, so that reading them reports an
    error. What other programs have left, and all names that begin with a dot, are left out, which a
    note says. Every listing of a folder of images goes through this function.

    Raises `UserError` for a folder that may not be read.
    """
    seen, left_out = set(), []
    for parent, folders, files in os.walk(folder, onerror=refuse_folder, followlinks=True):
        identity = os.path.realpath(parent)
        if identity in seen:
            folders.clear()
            continue
        seen.add(identity)
        images = [name for name in files if Path(name).suffix.lower() in suffixes]
        left_out += [Path(parent) / name for name in (*folders, *images) if _is_left_out(name)]
        folders[:] = [name for name in folders if not _is_left_out(name)]
        yield from (Path(parent) / name for name in images if not _is_left_out(name))
    if left_out:
        names = ", ".join(str(path.relative_to(folder)) for path in sorted(left_out)[:SHOWN_NAMES])
        more = f" and {len(left_out) - SHOWN_NAMES} more" if len(left_out) > SHOWN_NAMES else ""
        note_once(f"{folder}: left out what other programs keep there: {names}{more}")


def _is_left_out(name: str) -> bool:
    return name.startswith(".") or name.casefold() in OTHER_PROGRAMS


def refuse_folder(error: OSError) -> None:
    raise UserError(
        f"{error.filename}: found a folder that cannot be read ({error.strerror}), "
        "expected one whose strips all count"
    )


def _of_one_format(folder: Path, img_format: str | None, files: list[Path]) -> list[Path]:
    """Those files that have `img_format`, sorted; None means the one format that they have.

    Raises `UserError` where there are none, or of two formats.
    """
    found = {
        name: [path for path in files if path.suffix.lower() in suffixes]
        for name, suffixes in IMAGE_SUFFIXES.items()
    }
    held = [name for name, paths in found.items() if paths]
    return sorted(found[choose_format(folder, img_format, held)])


def choose_format(folder: Path | str, img_format: str | None, held: Iterable[str]) -> str:
    """The format of a folder's images, of all that it holds: `img_format`, else the only one.

    Raises `UserError` where there is none, or several.
    """
    formats = [img_format] if img_format else list(IMAGE_SUFFIXES)
    found = [name for name in formats if name in held]
    if not found:
        suffixes = ", ".join(suffix for name in formats for suffix in IMAGE_SUFFIXES[name])
        raise UserError(f"{folder}: found no images, expected files ending in {suffixes}")
    if len(found) > 1:
        raise UserError(
            f"{folder}: found images of several formats, expected one: "
            f"choose with --img_format {{{','.join(found)}}}"
        )
    return found[0]


def without_masks(folder: Path, files: Iterable[Path]) -> list[Path]:
    """The images of a folder that are no masks of others."""
    relative = {path: path.relative_to(folder) for path in files}
    names = {image_key(path) for path in relative.values()}
    return [path for path, inside in relative.items() if not is_mask_file(inside, names)]


def sub_folders(folder: Path) -> dict[str, Path]:
    """The folders in a folder by name, sorted; empty where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError:
        return {}
    return {name: folder / name for name in names if not _is_left_out(name)}

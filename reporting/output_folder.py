"""The folder that a scoring writes: the names of its files, and those that an earlier run left.

A list of the files lies beside them. So the next scoring into the folder removes what is of the
earlier one, interrupted or not, and nothing else.
"""

import errno
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from common.errors import UserError
from common.files import atomic_write, fitting_name, read_notes, refused_by_system
from data.folder import StripFile

try:
    import fcntl
except ImportError:  # Windows has no fcntl; there the folder is not locked
    fcntl = None

LIST = ".results.json"
# endings of a strip's files
HEATMAP_ENDING, PANELS_ENDING, CONTRAST_ENDING = ENDINGS = (
    "_heatmap.tiff",
    "_panels.png",
    "_contrast.tiff",
)
PARTIAL = re.compile(r"(.+)\.\d+\.partial")  # of common.files.atomic_write


def strip_file(folder: Path, relative: Path, ending: str) -> Path:
    """Return the path of a strip's file: below `folder`, and of a name that file systems take.

    `relative` is the strip's path in the scored folder. `ending` is one of ENDINGS.
    """
    stem = relative.name[: len(relative.name) - len(relative.suffix)]
    return folder / relative.parent / fitting_name(stem, ending)


@contextmanager
def results_in(folder: Path, strips: Iterable[StripFile], tables: Iterable[str]) -> Iterator[None]:
    """Have the folder for one scoring alone, during the block, without results of an earlier one.

    `tables` are the names of the files beside those of the strips. Raises `UserError` when another
    scoring is at work in the folder, or the file system refuses.
    """
    with _locked(folder):
        with refused_by_system(folder):
            _prepare(folder, strips, tables)
        yield


def _prepare(folder: Path, strips: Iterable[StripFile], tables: Iterable[str]) -> None:
    """Remove the files of an earlier scoring, and write the list of those of this one."""
    known = read_notes(folder / LIST)
    earlier = known if isinstance(known, list) else []
    planned = [
        *tables,
        *(
            strip_file(Path(), strip.relative, ending).as_posix()
            for strip in strips
            for ending in ENDINGS
        ),
    ]
    _remove(folder, [name for name in earlier if isinstance(name, str)])
    with atomic_write(folder / LIST) as temporary:
        temporary.write_text(json.dumps(planned))


def _remove(folder: Path, names: list[str]) -> None:
    """Remove files of an earlier run, their unfinished ones, and folders that are empty then."""
    root = os.path.realpath(folder)
    by_parent: dict[Path, set[str]] = {}
    for name in names:
        parts = PurePosixPath(name).parts
        if parts and ".." not in parts and not PurePosixPath(name).is_absolute():
            by_parent.setdefault(folder.joinpath(*parts[:-1]), set()).add(parts[-1])
    for parent, files in by_parent.items():
        with suppress(OSError):
            # a link may have taken the place of a folder
            if os.path.commonpath([root, os.path.realpath(parent)]) == root:
                _remove_files(parent, files)
                if parent != folder:
                    parent.rmdir()


def _remove_files(parent: Path, names: set[str]) -> None:
    with os.scandir(parent) as entries:
        present = [entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)]
    for name in present:
        partial = PARTIAL.fullmatch(name)
        if name in names or (partial and _is_partial_of(name, partial[1], names)):
            (parent / name).unlink()


def _is_partial_of(name: str, stem: str, names: set[str]) -> bool:
    """Whether `name` is the temporary name of one of `names`, which may have been shortened."""
    return stem in names or any(
        name == fitting_name(own, name[len(stem) :]) for own in names if "~" in stem
    )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder itself: there is no file of a lock that could be a link, or be left."""
    if not fcntl:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # some file systems know no locks
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise UserError(
                    f"{folder}: found another scoring at work there, expected one at a time: "
                    "wait for it, or give another --output_dir"
                ) from None
        yield
    finally:
        os.close(descriptor)

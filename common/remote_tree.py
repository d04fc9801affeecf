"""A listing of object storage as a folder on this machine, whose files are empty until fetched.

So everything that walks folders works on objects, too. A tree never changes: its name is made of
what was listed, and processes that list the same share it.
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from common.errors import UserError
from common.files import LONGEST_NAME, refused_by_system
from common.locations import TREES, StoredObject, cache_folder, location_of, place_in_tree
from common.notes import note_once

INDEX = "index.json"  # of a tree: its objects' sizes and etags
UNUSED_DAYS = 30  # after which a tree is removed
NANOSECONDS = 10**9


def make_tree(objects: Iterable[StoredObject]) -> Path:
    """The tree of objects; `place_in_tree` says where each is.

    A file's modification time is the object's, and changes with the etag, too. Raises `UserError`
    where the system refuses.
    """
    listed = sorted(entry for entry in objects if _is_path(entry.location))
    facts = {entry.location: [entry.size, entry.etag] for entry in listed}
    content = json.dumps(facts).encode()
    tree = cache_folder() / TREES / hashlib.sha256(content).hexdigest()[:16]
    with refused_by_system(tree):
        if (tree / INDEX).is_file():
            os.utime(tree / INDEX)
            return tree
        tree.parent.mkdir(parents=True, exist_ok=True)
        _remove_unused(tree.parent)
        temporary = Path(tempfile.mkdtemp(prefix="new-", dir=tree.parent))
        try:
            for entry in listed:
                _write_empty(place_in_tree(temporary, entry.location), entry)
            (temporary / INDEX).write_bytes(content)
            with contextlib.suppress(FileExistsError):  # another process was quicker
                _rename(temporary, tree)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return tree


def is_in_tree(path: Path) -> bool:
    """Whether a path lies in a tree; it may not be there."""
    return str(path).startswith(f"{cache_folder() / TREES}{os.sep}")


def listed_at(path: Path) -> StoredObject:
    """The object that a path in a tree stands for.

    Raises `UserError` where there is none.
    """
    trees, url = cache_folder() / TREES, location_of(path)
    facts = _read_index(trees / path.relative_to(trees).parts[0]).get(url)
    if not facts:
        raise UserError(f"{url}: found no such object, expected one")
    return StoredObject(url, *facts)


@functools.lru_cache(maxsize=16)
def _read_index(tree: Path) -> dict[str, list]:
    return json.loads((tree / INDEX).read_bytes())


def _is_path(url: str) -> bool:
    """Whether a path of this machine can stand for a URL; others are left out, with a note."""
    names = url.partition("://")[2].split("/")
    is_usual = all(
        name not in ("", ".", "..")
        and "\0" not in name
        and "\\" not in name
        and len(name.encode()) <= LONGEST_NAME
        for name in names
    )
    if not is_usual:
        note_once(f"{url.rpartition('/')[0]}: left out objects whose names are none for files")
    return is_usual


def _write_empty(path: Path, entry: StoredObject) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        note_once(f"{entry.location}: left out an object whose name is that of a folder, too")
        return
    mark = hashlib.sha256(f"{entry.etag} {entry.size}".encode()).digest()
    changed = int(entry.modified) * NANOSECONDS + int.from_bytes(mark[:8]) % NANOSECONDS
    os.utime(path, ns=(changed, changed))


def _rename(temporary: Path, tree: Path) -> None:
    """Raises `FileExistsError` where the tree is there already."""
    try:
        temporary.rename(tree)
    except OSError:
        if tree.is_dir():
            raise FileExistsError(str(tree)) from None
        raise


def _remove_unused(trees: Path) -> None:
    oldest = time.time() - UNUSED_DAYS * 24 * 3600
    for tree in trees.iterdir():
        with contextlib.suppress(OSError):
            used = (tree / INDEX if (tree / INDEX).exists() else tree).stat().st_mtime
            if used < oldest:
                shutil.rmtree(tree, ignore_errors=True)

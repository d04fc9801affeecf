"""Atomic writes: under a temporary name first, then renamed.

So a file or folder that has its final name is complete.
"""

import glob
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from common.errors import UserError

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
RESERVED_ENDINGS = ("_best", "_not_finite", ".pth")  # of the names of a run's checkpoints
RUN_NAME_RULE = (
    "up to 100 letters, digits, dots, hyphens and underscores, a letter or digit first, "
    f"and none of {', '.join(RESERVED_ENDINGS)} last"
)
LONGEST_NAME = 255  # bytes of a file's name, in every usual file system


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; the file written there replaces `path` at the end.

    After an error it is removed. Makes the folder. Raises `UserError` if the file system refuses.
    """
    temporary = path.with_name(fitting_name(path.name, f".{os.getpid()}.partial"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise _explain(error, path, temporary) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def is_run_name(name: str) -> bool:
    """Return whether all files of a run may begin with `name`, on every file system."""
    return bool(RUN_NAME.fullmatch(name)) and not name.endswith(RESERVED_ENDINGS)


def fitting_name(name: str, ending: str) -> str:
    """Return `name` with an ending, shortened where file systems would not take so long a name.

    A part of the name's SHA-256 then tells shortened names apart.
    """
    encoded, room = os.fsencode(name), LONGEST_NAME - len(os.fsencode(ending))
    if len(encoded) <= room:
        return name + ending
    mark = f"~{hashlib.sha256(encoded).hexdigest()[:12]}"
    return encoded[: room - len(mark)].decode("utf-8", "ignore") + mark + ending


def remove_partial_files(folder: Path, pattern: str) -> None:
    """Remove temporary files that killed processes of this machine left in a folder.

    The names of the files that they would have become match the glob `pattern`.
    """
    for path in folder.glob(f"{pattern}.*.partial"):
        number = path.name.split(".")[-2]
        if number.isdecimal() and not _is_alive(int(number)):
            with suppress(OSError):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it belongs to somebody else
        return True
    return True


def require_regular(path: Path) -> None:
    """Raise `UserError`, without the path, unless `path` is a regular file or a link to one.

    To open a FIFO would wait for ever, and a device such as /dev/zero has no end. Raises `OSError`
    when there is no such file.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
        found = kinds.get(stat.S_IFMT(mode), "a device")
        raise UserError(f"found {found}, expected a regular file")


def read_notes(path: Path, most: int = 2**28) -> Any:
    """Return the content of a JSON file that the suite keeps for itself.

    None stands for a file that is missing, damaged, not regular, or larger than `most` bytes: what
    it would save is done anew.
    """
    with suppress(OSError, ValueError, RecursionError, UserError):
        require_regular(path)
        if path.stat().st_size <= most:
            return json.loads(path.read_bytes())
    return None


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`, which becomes `path` at the end.

    After an error it is removed. Raises `UserError` if `path` exists and is not an empty folder, or
    if the file system refuses.
    """
    path = path.absolute()  # "." has no name to put a suffix on
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(
            f"{path}: found {'a folder that is not empty' if path.is_dir() else 'a file'}, "
            "expected a new folder"
        )
    remove_partial_files(path.parent, glob.escape(path.name))
    temporary = path.with_name(fitting_name(path.name, f".{os.getpid()}.partial"))
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise _explain(error, path, temporary) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def refused_by_system(path: Path) -> Iterator[None]:
    """Turn an error of the file system while the block writes `path` into a `UserError`."""
    try:
        yield
    except (OSError, UnicodeError) as error:
        raise _cannot_be_written(path, error) from None


def _explain(error: OSError, path: Path, temporary: Path) -> UserError:
    """Return the `UserError` that names the right file.

    That is `path`, unless another file could not be read while `path` was being written.
    """
    written_places = {
        place
        for written in (path.absolute(), temporary.absolute())
        for place in (written, *written.parents)
    }
    culprit = Path(error.filename).absolute() if error.filename else temporary.absolute()
    if culprit not in written_places and temporary.absolute() not in culprit.parents:
        return UserError(f"{error.filename}: cannot be read ({error.strerror})")
    return _cannot_be_written(path, error)


def _cannot_be_written(path: Path, error: OSError | UnicodeError) -> UserError:
    return UserError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})")


def file_hash(*paths: Path) -> str:
    """Return the SHA-256 of the files' contents, one after the other, in hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()

"""A folder of objects that were fetched once, shared by processes and bounded in size.

A file's name comes from the object's URL, etag and size, so it never goes stale. It is written
under a temporary name and renamed: a file that has its name is whole. The access time says when it
was last used, and the least recently used files are removed first.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from common.errors import UserError, shown
from common.files import atomic_write, remove_partial_files
from common.locations import cache_folder

try:
    import fcntl
except ImportError:  # Windows has no fcntl; there two processes may fetch one object
    fcntl = None

SIZE_VARIABLE = "REMOTE_CACHE_GB"  # read by child processes, too
DEFAULT_GB = 50.0
GB = 10**9  # bytes
KEPT_SHARE = 0.9  # of the bound, once it was passed: so that not every object makes room
# A file used that recently stays: who asked for it may not have opened it yet.
GRACE_SECONDS = 10.0
SUFFIX_LENGTH = 16  # characters; longer ones are no suffixes of files that anything here reads


def set_size_limit(gigabytes: float | None) -> None:
    """Have this process and its children keep at most so much; None changes nothing."""
    if gigabytes is not None:
        os.environ[SIZE_VARIABLE] = repr(gigabytes)


def size_limit() -> int:
    """The most bytes that the cache keeps.

    Raises `UserError` for a value of REMOTE_CACHE_GB that is no number above 0.
    """
    text = os.environ.get(SIZE_VARIABLE, str(DEFAULT_GB))
    with suppress(ValueError):
        if 0 < float(text) <= 1e9:
            return int(float(text) * GB)
    raise UserError(f"{SIZE_VARIABLE}: found {shown(text)}, expected a number above 0")


def cached(url: str, etag: str, size: int, download: Callable[[Path], None]) -> Path:
    """The local copy of an object, which `download(path)` makes where there is none.

    However many threads and processes ask, the object is downloaded once. `download` raises where
    the copy would not be whole.
    """
    key = hashlib.sha256(f"{url}\0{etag}\0{size}".encode()).hexdigest()
    suffix = PurePosixPath(url).suffix[:SUFFIX_LENGTH]
    path = cache_folder() / "blocks" / key[:2] / f"{key}{suffix}"
    if _use(path, size):
        return path
    with _locked(f"block-{key[:3]}"):
        if _use(path, size):
            return path
        _make_room(size)
        with atomic_write(path) as temporary:
            download(temporary)
            found = temporary.stat().st_size
            if found != size:
                raise UserError(f"{url}: found {found} bytes, expected {size} as listed")
    return path


def _use(path: Path, size: int) -> bool:
    """Whether a whole copy is there; its access time becomes now."""
    try:
        found = path.stat()
        if found.st_size != size:  # the machine lost power before the pixels were on the disk
            return False
        os.utime(path, ns=(time.time_ns(), found.st_mtime_ns))
    except OSError:
        return False
    return True


@contextmanager
def _locked(name: str) -> Iterator[None]:
    """Keep other threads and processes out of the block that has the same name.

    The lock of a process that was killed is free.
    """
    if not fcntl:
        yield
        return
    path = cache_folder() / "locks" / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        # a process that was forked meanwhile has the descriptor, too: closing would not be enough
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _make_room(size: int) -> None:
    """Count `size` bytes that will be written, and remove files where that passes the bound.

    The count is a file beside the blocks. What a killed process has counted and not written is
    found out when the files are counted themselves.
    """
    limit, total = size_limit(), cache_folder() / "total"
    with _locked("total"):
        used = _read_number(total)
        if used is None or used + size > limit:
            used = _remove_oldest(max(0, int(limit * KEPT_SHARE) - size), limit - size)
        with suppress(OSError):
            total.write_text(str(used + size))


def _read_number(path: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(path.read_text())
    return None


def _remove_oldest(most: int, bound: int) -> int:
    """Remove the least recently used files until `most` bytes are left, where `bound` is passed.

    Returns how many bytes are left.
    """
    files, now = [], time.time()
    for folder in (cache_folder() / "blocks").glob("*"):
        remove_partial_files(folder, "*")
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                with suppress(OSError):
                    found = entry.stat()
                    files.append((found.st_atime, found.st_size, entry.path))
    left = sum(size for _, size, _ in files)
    if left <= bound:
        return left
    for used, size, path in sorted(files):
        if left <= most or used > now - GRACE_SECONDS:
            break
        with suppress(OSError):
            os.unlink(path)
            left -= size
    return left

"""Files of this machine and objects in object storage, by path or by URL.

A location is a local path or a URL such as s3://bucket/strips/a.tiff. What is read is fetched whole
into a cache on the local disk, once for all processes. Everything that knows object storage lies
behind these functions; a local path needs none of its packages.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import atomic_write, refused_by_system
from common.locations import StoredObject, is_remote, to_url
from common.object_cache import cached
from common.object_store import ObjectChanged, attempt
from common.remote_tree import is_in_tree, listed_at

# what file systems call the mark of an object's content, the surest first
ETAG_NAMES = ("ETag", "etag", "md5Hash")
TIME_NAMES = ("LastModified", "last_modified", "mtime", "updated", "created")


def join(location: str | Path, *names: str) -> str:
    """The location of a name below another one."""
    if not is_remote(location):
        return str(Path(location, *names))
    return "/".join([to_url(location), *(name.strip("/") for name in names)])


def list_folders(url: str) -> list[str]:
    """The names of the folders directly below a URL, sorted.

    Raises `UserError`, naming the URL, where storage refuses.
    """
    try:
        found = attempt(url, lambda system: system.ls(url, detail=True), "list")
    except FileNotFoundError:
        return []
    folders = (info["name"] for info in found if info.get("type") == "directory")
    return sorted({name.rstrip("/").rpartition("/")[2] for name in folders})


def list_objects(location: str | Path) -> list[StoredObject]:
    """All files below a folder or URL, or the one file that it is, sorted; empty for none.

    Raises `UserError`, naming the URL, where storage refuses.
    """
    if not is_remote(location):
        return sorted(_list_files(Path(location)))
    url = to_url(location)
    scheme = url.split(":", 1)[0]
    try:
        found = attempt(url, lambda system: system.find(url, detail=True), "list")
    except FileNotFoundError:
        return []
    return sorted(_files(scheme, found.values()))


def iterate_objects(url: str) -> Iterator[StoredObject]:
    """The files below a URL one by one, in any order.

    S3 gives them in answers of a thousand, and no more of them is in memory. Of other storage it is
    a folder directly below the URL.

    Raises `UserError`, naming the URL, where storage refuses.
    """
    url = to_url(url)
    scheme = url.split(":", 1)[0]
    with suppress(FileNotFoundError):
        for infos in _s3_answers(url) if scheme == "s3" else _by_folder(url, scheme):
            yield from _files(scheme, infos)


def _files(scheme: str, infos: Iterable[dict[str, Any]]) -> Iterator[StoredObject]:
    """The files among what fsspec lists: neither folders nor the objects that mark them."""
    for info in infos:
        if info.get("type") == "file" and not info["name"].endswith("/"):
            yield _stored(scheme, info)


def _s3_answers(url: str) -> Iterator[list[dict[str, Any]]]:
    bucket, _, key = url.split("://", 1)[1].partition("/")
    asked = {"Bucket": bucket, "Prefix": f"{key}/" if key else ""}
    while True:
        answer = attempt(url, partial(_ask_s3, asked=asked), "list")
        yield [
            {"type": "file", "name": f"{bucket}/{entry['Key']}", "size": entry["Size"], **entry}
            for entry in answer.get("Contents", ())
        ]
        if not answer.get("IsTruncated"):
            return
        asked["ContinuationToken"] = answer["NextContinuationToken"]


def _ask_s3(system: Any, asked: dict[str, str]) -> dict[str, Any]:
    from fsspec.asyn import sync

    return sync(system.loop, system._call_s3, "list_objects_v2", **asked)


def _by_folder(url: str, scheme: str) -> Iterator[list[dict[str, Any]]]:
    entries = attempt(url, lambda system: system.ls(url, detail=True), "list")
    yield entries
    for folder in (info["name"] for info in entries if info.get("type") == "directory"):
        below = f"{scheme}://{folder.strip('/')}"
        found = attempt(below, lambda system: system.find(below, detail=True), "list")  # noqa: B023
        yield list(found.values())


def find_object(location: str | Path) -> StoredObject:
    """One file or object.

    Raises `UserError` where there is none.
    """
    if not is_remote(location):
        path = Path(location)
        found = _list_files(path) if path.is_file() else []
    else:
        url = to_url(location)
        try:
            info = attempt(url, lambda system: system.info(url))
        except FileNotFoundError:
            info = {}
        found = [_stored(url.split(":", 1)[0], info)] if info.get("type") == "file" else []
    if not found:
        raise UserError(f"{location}: found no such object, expected one")
    return found[0]


def fetch(location: str | Path | StoredObject) -> Path:
    """A local file with the content of a location: a local path itself, or the cached copy.

    A path in a tree of common/remote_tree.py stands for an object. Of it, and of a `StoredObject`,
    the copy is that of the object as listed, and no request asks for its etag. The copy may be
    removed once it was not used for a while: open it at once.

    Raises `UserError`, naming the URL, where there is no such object, where it is another one than
    was listed, and where it cannot be read.
    """
    if isinstance(location, StoredObject):
        stored = location
    elif is_remote(location):
        stored = find_object(location)
    elif is_in_tree(Path(location)):
        stored = listed_at(Path(location))
    else:
        return Path(location)
    if not is_remote(stored.location):
        return Path(stored.location)

    def download(path: Path) -> None:
        try:
            attempt(stored.location, lambda system: _download(system, stored, path))
        except FileNotFoundError:
            raise UserError(f"{stored.location}: found no such object, expected one") from None

    return cached(stored.location, stored.etag, stored.size, download)


def put(path: Path, location: str | Path) -> None:
    """Copy a local file to a location, where it replaces what is there; it is never seen half.

    Raises `UserError`, naming the location, where it cannot be written.
    """
    if not is_remote(location):
        _copy(path, Path(location))
        return
    url = to_url(location)
    try:
        attempt(url, lambda system: system.put_file(str(path), url), "write")
    except FileNotFoundError:
        raise UserError(f"{url}: found no such bucket, expected one") from None


def remove(location: str | Path) -> None:
    """Remove a file or object, where it is there.

    Raises `UserError`, naming the location, where that is refused.
    """
    if not is_remote(location):
        with refused_by_system(Path(location)):
            Path(location).unlink(missing_ok=True)
        return
    url = to_url(location)
    with suppress(FileNotFoundError):
        attempt(url, lambda system: system.rm_file(url), "write")


def _copy(path: Path, target: Path) -> None:
    with atomic_write(target) as temporary:
        shutil.copyfile(path, temporary)


def _list_files(path: Path) -> list[StoredObject]:
    files = [path] if path.is_file() else []
    if not files:
        walked = os.walk(path)
        files = [Path(parent, name) for parent, _, names in walked for name in names]
    found = []
    for file in files:
        status = file.stat()
        changed = status.st_mtime_ns
        found.append(StoredObject(str(file), status.st_size, str(changed), changed / 1e9))
    return found


def _stored(scheme: str, info: dict[str, Any]) -> StoredObject:
    """What a file system says of an object."""
    changed = next((info[name] for name in TIME_NAMES if info.get(name)), "")
    marks = (str(info[name]) for name in ETAG_NAMES if info.get(name))
    etag = next(marks, str(_seconds(changed)))
    url = f"{scheme}://{info['name'].lstrip('/')}"
    return StoredObject(url, int(info["size"]), etag.strip('"'), _seconds(changed))


def _seconds(time: object) -> float:
    """A time as a file system gives it, in seconds since 1970; 0 for one of another form."""
    if isinstance(time, str):
        try:
            time = datetime.fromisoformat(time)
        except ValueError:
            return 0.0
    if isinstance(time, datetime):
        return time.timestamp()
    return float(time) if isinstance(time, int | float) else 0.0


def _download(system: Any, stored: StoredObject, path: Path) -> None:
    """Write the content of an object as it was listed to a file.

    Raises `ObjectChanged` where it is another one now.
    """
    if hasattr(system, "call_s3"):
        _download_from_s3(system, stored, path)
        return
    system.get_file(stored.location, str(path))
    now = _stored(stored.location.split(":", 1)[0], system.info(stored.location))
    if now != stored:
        raise ObjectChanged(f"etag {now.etag} instead of {stored.etag}")


def _download_from_s3(system: Any, stored: StoredObject, path: Path) -> None:
    """One request, which S3 refuses where the etag is another one now."""
    from fsspec.asyn import sync

    bucket, key, _ = system.split_path(stored.location)

    async def get() -> None:
        answer = await system._call_s3(
            "get_object", Bucket=bucket, Key=key, IfMatch=f'"{stored.etag}"'
        )
        async with answer["Body"] as body:
            with path.open("wb") as file:
                while part := await body.read(2**20):
                    file.write(part)
        if answer["ETag"].strip('"') != stored.etag:  # not every server knows IfMatch
            raise ObjectChanged(f"etag {answer['ETag']} instead of {stored.etag}")
        if path.stat().st_size != answer["ContentLength"]:
            raise ConnectionError("the connection ended in the middle of the object")

    sync(system.loop, get)

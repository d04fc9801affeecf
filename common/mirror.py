"""A local folder copied to object storage so that a reader can tell whole from half.

The manifest goes last: it names every object with its size and SHA-256. While objects are being
replaced there is none.
"""

import json
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from common.errors import UserError, prefix_errors
from common.files import file_hash
from common.storage import fetch, find_object, join, list_objects, put, remove

MANIFEST = "manifest.json"
FORMAT = 1
THREADS = 8  # at once: each mostly waits for an answer
PARTIAL = re.compile(r".+\.\d+\.partial")  # of common.files.atomic_write


def mirror(folder: Path, url: str, manifest: str = MANIFEST, names: Iterable[str] = ()) -> None:
    """Copy the files of a folder to a URL, and remove what an earlier copy had besides.

    `names` are the files to copy, as paths in the folder; none: all. Objects that are there already
    are not written again. Raises `UserError`, naming what could not be read or written; then there
    is no manifest.
    """
    chosen = sorted(names) or sorted(_names_in(folder, manifest))
    facts = {name: describe(folder / name) for name in chosen}
    earlier = read_manifest(url, manifest) or {}
    if facts == earlier:
        return
    place = join(url, manifest)
    remove(place)
    new = [name for name in chosen if facts[name] != earlier.get(name)]
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda name: put(folder / name, join(url, name)), new))
        list(pool.map(lambda name: remove(join(url, name)), sorted(earlier.keys() - facts.keys())))
    with TemporaryDirectory() as temporary:
        path = Path(temporary) / MANIFEST
        path.write_text(json.dumps({"format": FORMAT, "objects": facts}, indent=1))
        put(path, place)


def pull(url: str, folder: Path, manifest: str = MANIFEST) -> list[Path]:
    """Copy what a manifest names into a folder, and return the files' paths.

    Raises `UserError` where there is no manifest, and where an object is not the one that it names:
    then nothing is copied.
    """
    facts = read_manifest(url, manifest)
    if facts is None:
        raise UserError(
            f"{join(url, manifest)}: found no such object, expected the manifest of a whole copy"
        )
    copies = {}
    for name, (size, digest) in facts.items():
        place = join(url, name)
        copies[name] = fetch(find_object(place))
        with prefix_errors(place):
            if [copies[name].stat().st_size, file_hash(copies[name])] != [size, digest]:
                raise UserError(
                    f"found another object than {manifest} names, expected one whole copy: "
                    "two commands may have written there at once"
                )
    for name, copy in copies.items():
        put(copy, folder / name)
    return [folder / name for name in copies]


def describe(path: Path) -> list[Any]:
    """The size and the SHA-256 of a file. Raises `UserError` for one that cannot be read."""
    with prefix_errors(path):
        return [path.stat().st_size, file_hash(path)]


def read_manifest(url: str, manifest: str = MANIFEST) -> dict[str, list] | None:
    """The objects of a whole copy with size and SHA-256; None where there is no manifest.

    Raises `UserError` for one that this suite did not write.
    """
    place = join(url, manifest)
    if not list_objects(place):
        return None
    try:
        content = json.loads(fetch(place).read_bytes())
        objects = content["objects"]
        is_known = content["format"] == FORMAT and all(
            _is_inside(name) and isinstance(size, int) and isinstance(digest, str)
            for name, (size, digest) in objects.items()
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_known = False
    if not is_known:
        raise UserError(f"{place}: found a file of something else, expected a manifest")
    return objects


def _is_inside(name: str) -> bool:
    """Whether a name leads nowhere but below the folder, on any system."""
    return not set(name.split("/")) & {"", ".", ".."} and not set(name) & set("\\:\0")


def _names_in(folder: Path, manifest: str) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    names = (path.relative_to(folder).as_posix() for path in paths)
    return [name for name in names if name != manifest and not PARTIAL.fullmatch(name)]

"""Paths and URLs as names: no file is opened and nothing is asked of storage.

A remote folder is shown to the rest of the suite as a local one, a tree in the cache folder whose
files are empty until they are fetched. What is printed or kept names the URL instead.
"""

import os
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")  # a drive of Windows has one letter
FOLDER_VARIABLE = "REMOTE_CACHE"  # read by child processes, too
# below the cache folder: a folder for each listing, and what is copied to storage once complete
TREES, WRITTEN = "trees", "written"


@dataclass(frozen=True, order=True)
class StoredObject:
    """One file or object.

    `location` is its path or URL, `size` in bytes, `etag` a mark that changes with its content, and
    `modified` the time of its last change, in seconds since 1970 (0: not known).
    """

    location: str
    size: int
    etag: str
    modified: float = field(default=0.0, compare=False)


def is_remote(location: str | Path) -> bool:
    """Return whether a location is a URL; a `Path` of a URL, which has lost a slash, is one."""
    return bool(URL.match(str(location)))


def to_url(location: str | Path) -> str:
    """The URL of a remote location, without a slash at its end."""
    text = URL.sub(lambda found: f"{found[1].lower()}://", str(location), count=1)
    return text.rstrip("/") if text.split("://", 1)[1].strip("/") else text


def path_or_url(text: str) -> Path | str:
    """The type of a flag: a `Path`, or a URL as text, of which a `Path` would drop a slash."""
    return to_url(text) if is_remote(text) else Path(text)


def cache_folder() -> Path:
    """The folder of all that was fetched: REMOTE_CACHE, or one in the user's own cache."""
    if named := os.environ.get(FOLDER_VARIABLE):
        return Path(os.path.abspath(named))
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.path.isabs(home):  # no home folder
        home = tempfile.gettempdir()
    return Path(home) / "background-removal-net"


def place_in_tree(tree: Path, url: str) -> Path:
    """The path of a URL in a tree."""
    scheme, _, rest = url.partition("://")
    return tree.joinpath(scheme, *rest.split("/"))


def written_place(url: str) -> Path:
    """The local folder that holds what a command writes for a URL."""
    scheme, _, rest = url.partition("://")
    # a name such as .. must not lead elsewhere
    names = [quote(name, safe=" #,+@=()") if name.strip(".") else "_" for name in rest.split("/")]
    return cache_folder().joinpath(WRITTEN, scheme, *names)


def location_of(path: Path | str) -> str:
    """What a path is called where it is printed or kept: the URL it stands for, or itself."""
    return with_urls(str(path))


def with_urls(text: str) -> str:
    """A text in which paths in trees are replaced by the URLs that they stand for."""
    if f"{os.sep}{TREES}{os.sep}" not in text:
        return text
    root = re.escape(str(cache_folder() / TREES))
    return re.sub(rf"{root}[/\\][0-9a-f]+[/\\]([a-z0-9]+)[/\\]", r"\1://", text)

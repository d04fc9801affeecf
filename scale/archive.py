"""The folder of an archive, at a path or a URL: its strips now, and each when it is read."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from common.errors import UserError, failures_as_user_errors, prefix_errors
from common.storage import StoredObject, fetch, is_remote, iterate_objects, join
from data.listing import require_folder, walk_files
from scale.listed import ListedStrip

if TYPE_CHECKING:
    from scale.strip_listing import StripListing


@dataclass(frozen=True)
class Archive:
    """A folder of strips. `location` is its path or URL."""

    location: Path | str

    def place(self, path: str) -> str:
        """The path or URL of a strip, which errors name."""
        return join(self.location, path)

    def list_strips(self, img_format: str | None) -> "StripListing":
        """The strips in the folder and its sub-folders, sorted; masks are none.

        `img_format` is one of IMAGE_SUFFIXES; None means the one format that the folder holds.
        Raises `UserError` for a folder without strips, and where storage refuses.
        """
        from scale.strip_listing import StripListing  # it has pyarrow, which workers do without

        files = self._objects() if is_remote(self.location) else self._files()
        return StripListing(files, str(self.location), img_format)

    def _objects(self) -> Iterator[ListedStrip]:
        start = len(join(self.location)) + 1
        for entry in iterate_objects(str(self.location)):
            path = PurePosixPath(entry.location[start:])
            if not any(part.startswith(".") for part in path.parts):
                yield ListedStrip(path.as_posix(), entry.size, entry.etag)

    def _files(self) -> Iterator[ListedStrip]:
        folder = Path(self.location)
        require_folder(folder)
        for path in walk_files(folder):
            name = path.relative_to(folder).as_posix()
            try:
                yield ListedStrip(name, path.stat().st_size, local_etag(path))
            except OSError:  # a link to nothing: who reads it says so
                yield ListedStrip(name, 0, "")

    def stored(self, strip: ListedStrip) -> StoredObject | Path:
        """What a strip is read from: the object as it was listed, or its path."""
        place = self.place(strip.path)
        if is_remote(self.location):
            return StoredObject(place, strip.size, strip.etag)
        return Path(place)

    def open(self, strip: ListedStrip) -> Path:
        """A local file with a strip as it was listed.

        Raises `UserError`, naming its path or URL, for another content or none.
        """
        stored = self.stored(strip)
        if isinstance(stored, StoredObject):
            return fetch(stored)
        with prefix_errors(stored), failures_as_user_errors():
            if local_etag(stored) != strip.etag:
                raise UserError("found another content than when the archive was listed")
        return stored


def local_etag(path: Path) -> str:
    """What changes with a local file. Raises `OSError` where there is none."""
    status = path.stat()
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"

"""The folder of an archive, at a path or a URL: its strips now, and each when it is read."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from common.errors import UserError, failures_as_user_errors, prefix_errors
from common.storage import StoredObject, fetch, is_remote, join, list_objects
from data.listing import IMAGE_SUFFIXES, list_images, without_masks
from scale.listed import ListedStrip


@dataclass(frozen=True)
class Archive:
    """A folder of strips. `location` is its path or URL."""

    location: Path | str

    def place(self, path: str) -> str:
        """The path or URL of a strip, which errors name."""
        return join(self.location, path)

    def list_strips(self, img_format: str | None) -> list[ListedStrip]:
        """The strips in the folder and its sub-folders, sorted; masks are none.

        `img_format` is one of IMAGE_SUFFIXES; None means the one format that the folder holds.
        Raises `UserError` for a folder without strips, and where storage refuses.
        """
        if is_remote(self.location):
            return self._list_objects(img_format)
        folder = Path(self.location)
        listed = []
        for path in list_images(folder, img_format):
            name = path.relative_to(folder).as_posix()
            try:
                listed.append(ListedStrip(name, path.stat().st_size, local_etag(path)))
            except OSError:  # a link to nothing: who reads it says so
                listed.append(ListedStrip(name, 0, ""))
        return listed

    def _list_objects(self, img_format: str | None) -> list[ListedStrip]:
        start = len(join(self.location)) + 1
        found = {
            Path(entry.location[start:]): entry
            for entry in list_objects(self.location)
            if not any(part.startswith(".") for part in PurePosixPath(entry.location[start:]).parts)
        }
        formats = [img_format] if img_format else list(IMAGE_SUFFIXES)
        images = {
            name: [path for path in found if path.suffix.lower() in IMAGE_SUFFIXES[name]]
            for name in formats
        }
        held = [name for name, paths in images.items() if paths]
        if len(held) != 1:
            what = f"images of {' and '.join(held)}, expected one: choose with --img_format"
            raise UserError(f"{self.location}: found {what if held else 'no images'}")
        strips = sorted(without_masks(Path(), images[held[0]]))
        return [ListedStrip(it.as_posix(), found[it].size, found[it].etag) for it in strips]

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

"""The strips of an archive while they are listed: their names in Arrow's columns, then in order.

An object of Python for each strip would take ten times the memory. What storage answers is taken
in part by part, so that never more than a part of it exists as objects.

Only what has pyarrow imports this module.
"""

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

import pyarrow as pa
from pyarrow import compute

from common.errors import UserError
from common.pipeline import grouped
from data.listing import IMAGE_SUFFIXES, choose_format
from data.truth_layout import image_key, is_in_mask_folder, masked_key
from scale.listed import ListedStrip

# 64-bit offsets: all names of an archive together may have more than 2 GB
COLUMNS = pa.schema(
    [("path", pa.large_string()), ("size", pa.int64()), ("etag", pa.large_string())]
)
PART = 2000  # files that exist as objects at once
FORMATS = {suffix: name for name, suffixes in IMAGE_SUFFIXES.items() for suffix in suffixes}


class StripListing:
    """The images of an archive that are no masks, of one format.

    `files` may come in any order, and are all files of the archive or only its images; `place` is
    the archive's path or URL. `img_format` is one of IMAGE_SUFFIXES; None means the one format that
    the images have. Raises `UserError` where there are none, or of two formats, and for a name that
    is not valid UTF-8.
    """

    def __init__(self, files: Iterable[ListedStrip], place: str, img_format: str | None):
        parts: dict[str, list[pa.Table]] = {}
        masked: set[str] = set()  # the images that files are masks of, by their names
        for part in grouped(files, PART):
            for name, images in _by_format(part, masked).items():
                parts.setdefault(name, []).append(_table(images))
        tables = {name: pa.concat_tables(parts.pop(name)) for name in list(parts)}
        if masked:
            tables = _without_masks(tables, masked)
        held = [name for name, table in tables.items() if len(table)]
        chosen = choose_format(place, img_format, held)
        tables = {chosen: tables[chosen]}
        self._table = _in_one_piece(tables)
        self._order = _in_order(self._table["path"])

    def __len__(self) -> int:
        return len(self._table)

    def parts(self, size: int) -> Iterator[list[ListedStrip]]:
        """The strips, sorted as paths are, `size` at once."""
        for first in range(0, len(self), size):
            columns = self._table.take(self._order.slice(first, size)).to_pydict()
            yield [ListedStrip(*values) for values in zip(*columns.values())]


def _by_format(files: list[ListedStrip], masked: set[str]) -> dict[str, list[ListedStrip]]:
    """The images among files by their format. `masked` gets the image that a file may belong to."""
    images: dict[str, list[ListedStrip]] = {}
    for file in files:
        path = PurePosixPath(file.path)
        name = FORMATS.get(path.suffix.lower())
        if name is None or is_in_mask_folder(path):
            continue
        if key := masked_key(path):
            masked.add(key)
        images.setdefault(name, []).append(file)
    return images


def _table(strips: list[ListedStrip]) -> pa.Table:
    try:
        columns = {name: [getattr(strip, name) for strip in strips] for name in COLUMNS.names}
        return pa.table(columns, COLUMNS)
    except UnicodeEncodeError as error:
        raise UserError(
            f"found a file name that is not valid UTF-8 ({error.object!a}), "
            "expected names that a table can hold"
        ) from None


def _without_masks(tables: dict[str, pa.Table], masked: set[str]) -> dict[str, pa.Table]:
    """Tables without the masks of images that are there, whatever the format of either."""
    present = {
        key
        for table in tables.values()
        for paths in _path_parts(table)
        for path in paths
        if (key := image_key(path)) in masked
    }

    def is_kept(path: PurePosixPath) -> bool:
        return (masked_key(path) or "") not in present

    return {
        name: table.filter(
            pa.chunked_array(
                [pa.array(map(is_kept, paths), pa.bool_()) for paths in _path_parts(table)],
                pa.bool_(),
            )
        )
        for name, table in tables.items()
    }


def _path_parts(table: pa.Table) -> Iterator[list[PurePosixPath]]:
    for chunk in table["path"].chunks:
        yield [PurePosixPath(path) for path in chunk.to_pylist()]


def _in_one_piece(tables: dict[str, pa.Table]) -> pa.Table:
    """The only table, which is taken away, in arrays of which any strips can be taken.

    One column after the other: never is more than one of them there twice.
    """
    columns = {}
    _, rest = tables.popitem()
    for name in COLUMNS.names:
        columns[name] = rest[name].combine_chunks()
        rest = rest.drop_columns(name)
        pa.default_memory_pool().release_unused()
    return pa.table(columns, COLUMNS)


def _in_order(paths: pa.ChunkedArray) -> pa.Array:
    """The numbers of paths, sorted as tuples of their parts: a folder's name ends first."""
    return compute.sort_indices(compute.replace_substring(paths, "/", "\0"))

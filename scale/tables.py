"""The Parquet files of a job: the listing, and the tables of a shard.

Only what has pyarrow imports this module.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from common.errors import UserError
from scale.listed import ListedStrip, Shard, shard_name
from scale.output_folder import Done, OutputFolder
from scale.strip_scorer import Row, ScoredStrips

LISTED = pa.schema(
    [("path", pa.string()), ("size", pa.int64()), ("etag", pa.string()), ("shard", pa.string())]
)
STRIPS = pa.schema(
    [
        ("path", pa.string()),
        ("verdict", pa.string()),
        ("reason", pa.string()),
        ("score", pa.float64()),
        ("threshold", pa.float64()),
        ("detections", pa.int32()),
        ("inspected_contrast", pa.float64()),
        ("seconds", pa.float64()),
        ("model", pa.string()),
    ]
)
DETECTIONS = pa.schema(
    [
        ("path", pa.string()),
        *((name, pa.int32()) for name in ("rank", "y", "x")),
        *((name, pa.float64()) for name in ("margin", "peak")),
        *((name, pa.int32()) for name in ("area", "top", "left", "bottom", "right")),
        *((name, pa.float64()) for name in ("contrast_ref1", "contrast_ref2")),
        ("kind", pa.string()),
    ]
)
ERRORS = pa.schema([("path", pa.string()), ("problem", pa.string())])


class Listing:
    """The strips of an archive, frozen; each row group of the file is a shard.

    Raises `UserError` for a file that is no listing.
    """

    def __init__(self, path: Path):
        try:
            self._file = parquet.ParquetFile(path)
            if not self._file.schema_arrow.equals(LISTED):
                raise UserError(f"{path}: found other columns, expected those of a listing")
            self.shards = [self._shard(number) for number in range(self._file.num_row_groups)]
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path}: found no listing that can be read ({error})") from None

    def _shard(self, number: int) -> Shard:
        names = self._file.read_row_group(number, ["shard"])["shard"]
        return Shard(names[0].as_py(), number, len(names))

    @property
    def count(self) -> int:
        """How many strips there are."""
        return sum(shard.count for shard in self.shards)

    def strips(self, shard: Shard) -> list[ListedStrip]:
        """The strips of a shard."""
        columns = self._file.read_row_group(shard.number, ["path", "size", "etag"]).to_pydict()
        return [ListedStrip(*values) for values in zip(*columns.values())]


def write_listing(path: Path, strips: Iterable[Sequence[ListedStrip]]) -> None:
    """Write the listing of an archive, given its strips shard by shard."""
    with parquet.ParquetWriter(path, LISTED, compression="zstd") as writer:
        for part in strips:
            columns = {
                "path": [strip.path for strip in part],
                "size": [strip.size for strip in part],
                "etag": [strip.etag for strip in part],
                "shard": [shard_name(part)] * len(part),
            }
            writer.write_table(pa.table(columns, LISTED), row_group_size=max(1, len(part)))


class ShardWriter:
    """Writes the tables of a shard, and then its marker.

    `model` is the model's SHA-256, `statistics` are the names of the strips' statistics.
    """

    def __init__(self, output: OutputFolder, model: str, statistics: Sequence[str]):
        self.output, self.model = output, model
        self.schemas = {
            "strips": pa.schema([*STRIPS, *((name, pa.float64()) for name in statistics)]),
            "detections": DETECTIONS,
            "errors": ERRORS,
        }

    def write(self, shard: Shard, scored: ScoredStrips) -> Done:
        """Write a shard's tables and mark it as done. Raises `UserError` where that is refused."""
        strips = [row | {"model": self.model} for row in scored.strips]
        rows = {"strips": strips, "detections": scored.detections, "errors": scored.errors}
        for name, schema in self.schemas.items():
            table = pa.Table.from_pylist(rows[name], schema)
            self.output.write(f"{name}/{shard.name}.parquet", _writer_of(table))
        done = Done(len(scored.strips), len(scored.errors))
        self.output.mark_done(shard.name, done)
        return done


def _writer_of(table: pa.Table):
    return lambda path: parquet.write_table(table, path, compression="zstd")


def read_rows(output: OutputFolder, name: str) -> Iterator[Row]:
    """The rows of a table of all shards that are done, in order of the shards' names."""
    for shard in sorted(output.done()):
        yield from parquet.read_table(output.fetch(f"{name}/{shard}.parquet")).to_pylist()

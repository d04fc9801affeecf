"""Strips of an archive as they were listed, and the part of them that is scored at once."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SHARD_NAME = 16  # hexadecimal digits of a SHA-256
SAMPLED_BYTES = 8  # of a SHA-256
MEASURE_EVERY = 20  # strips, one of which is measured in full


@dataclass(frozen=True)
class ListedStrip:
    """A strip when the archive was listed.

    `path` is below the archive's folder, `size` in bytes, and `etag` changes with the content.
    """

    path: str
    size: int
    etag: str


@dataclass(frozen=True)
class Shard:
    """Strips whose results are written together.

    `name` is a hash of their paths, sizes and etags. `number` is its place in the listing, `count`
    how many strips it has.
    """

    name: str
    number: int
    count: int


@dataclass(frozen=True)
class Chunk:
    """Strips of a shard that one worker scores at once; `first` is the place of the first one."""

    shard: Shard
    first: int
    strips: tuple[ListedStrip, ...]

    def singles(self) -> "list[Chunk]":
        """A chunk for each of the strips."""
        return [
            Chunk(self.shard, self.first + number, (strip,))
            for number, strip in enumerate(self.strips)
        ]


def shard_name(strips: Sequence[ListedStrip]) -> str:
    """The name of a shard of these strips."""
    digest = hashlib.sha256()
    for strip in strips:
        line = f"{strip.path}\0{strip.size}\0{strip.etag}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:SHARD_NAME]


def is_sampled(path: str, every: int) -> bool:
    """Whether a strip is in the sample that has one strip in `every`.

    Only its path below the archive's folder says so, and not who scores it, beside which others.
    The first bytes of the path's SHA-256, as a number with the highest byte first, are then a
    multiple of `every`.
    """
    digest = hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:SAMPLED_BYTES], "big") % every == 0


def cut(shard: Shard, strips: Sequence[ListedStrip], size: int) -> Iterator[Chunk]:
    """The chunks of a shard, of `size` strips each but for the last."""
    for first in range(0, len(strips), size):
        yield Chunk(shard, first, tuple(strips[first : first + size]))

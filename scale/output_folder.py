"""The folder of a job: tables named by shard, a marker for each shard that is done, a lease.

OUTPUT/job.json                    the model and the settings, which all shards have
OUTPUT/listing.parquet             the strips of the archive when the job began
OUTPUT/strips/SHARD.parquet        verdict, score and statistics of each strip
OUTPUT/detections/SHARD.parquet    the detections of the strips
OUTPUT/errors/SHARD.parquet        the strips that cannot be used
OUTPUT/_done/SHARD.STRIPS.ERRORS   written last; a shard without it is scored again
OUTPUT/lease.json                  which job is at work here
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from common.files import atomic_write, read_notes, refused_by_system, remove_partial_files

DONE, LEASE, JOB, LISTING = "_done", "lease.json", "job.json", "listing.parquet"
TABLES = ("strips", "detections", "errors")


class Done(NamedTuple):
    """How many strips of a shard were scored, and how many could not be used."""

    strips: int
    errors: int


class OutputFolder:
    """The files of a job; each is whole as soon as it has its name."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def make(self) -> None:
        """Make the folder. Raises `UserError` where the system refuses."""
        with refused_by_system(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)

    def remove_leftovers(self) -> None:
        """Remove the unfinished files of jobs that were killed."""
        for name in ("", DONE, *TABLES):
            remove_partial_files(self.folder / name, "*")

    def write(self, name: str, write: Callable[[Path], object]) -> None:
        """Have `write` write a file. Raises `UserError` where the system refuses."""
        with atomic_write(self.folder / name) as temporary:
            write(temporary)

    def write_notes(self, name: str, content: Any) -> None:
        """Write a JSON file."""
        self.write(name, lambda path: path.write_text(json.dumps(content, indent=2) + "\n"))

    def read_notes(self, name: str) -> Any:
        """The content of a JSON file; None where there is none that can be read."""
        return read_notes(self.folder / name)

    def fetch(self, name: str) -> Path | None:
        """A local file with the content of a file; None where there is none."""
        path = self.folder / name
        return path if path.is_file() else None

    def mark_done(self, shard: str, done: Done) -> None:
        """Mark a shard as done, all of whose tables are written."""
        self.write(f"{DONE}/{shard}.{done.strips}.{done.errors}", lambda path: path.touch())

    def done(self) -> dict[str, Done]:
        """The shards that are done, by name."""
        folder = self.folder / DONE
        with refused_by_system(folder):
            names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        parts = [name.split(".") for name in names]
        return {
            part[0]: Done(int(part[1]), int(part[2]))
            for part in parts
            if len(part) == 3 and part[1].isdecimal() and part[2].isdecimal()
        }

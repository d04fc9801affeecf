"""The folder of a job: tables named by shard, a marker for each shard that is done, a lease.

OUTPUT/job.json                    the model and the settings, which all shards have
OUTPUT/model.json                  how the model reads the strips, for who shows them
OUTPUT/listing.parquet             the strips of the archive when the job began
OUTPUT/strips/SHARD.parquet        verdict, score and statistics of each strip
OUTPUT/detections/SHARD.parquet    the detections of the strips
OUTPUT/errors/SHARD.parquet        the strips that cannot be used
OUTPUT/_done/SHARD.STRIPS.ERRORS   written last; a shard without it is scored again
OUTPUT/lease.json                  which job is at work here
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from common.files import atomic_write, read_notes, refused_by_system, remove_partial_files
from common.storage import fetch, is_remote, join, list_objects, put

DONE, LEASE, JOB, LISTING = "_done", "lease.json", "job.json", "listing.parquet"
MODEL = "model.json"
TABLES = ("strips", "detections", "errors")


class Done(NamedTuple):
    """How many strips of a shard were scored, and how many could not be used."""

    strips: int
    errors: int


class OutputFolder:
    """The files of a job, at a path or a URL; each is whole as soon as it has its name.

    All methods raise `UserError` where the system or the storage refuses.
    """

    def __init__(self, location: Path | str):
        self.location = location

    def __str__(self) -> str:
        return str(self.location)

    def make(self) -> None:
        """Make the folder; storage needs none."""
        if not is_remote(self.location):
            with refused_by_system(Path(self.location)):
                Path(self.location).mkdir(parents=True, exist_ok=True)

    def remove_leftovers(self) -> None:
        """Remove the unfinished files of jobs that were killed; storage shows none."""
        if not is_remote(self.location):
            for name in ("", DONE, *TABLES):
                remove_partial_files(Path(self.location, name), "*")

    def write(self, name: str, write: Callable[[Path], object]) -> None:
        """Have `write` write a file."""
        if not is_remote(self.location):
            with atomic_write(Path(self.location, name)) as temporary:
                write(temporary)
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "file")
            write(path)
            put(path, join(self.location, name))

    def write_notes(self, name: str, content: Any) -> None:
        """Write a JSON file."""
        self.write(name, lambda path: path.write_text(json.dumps(content, indent=2) + "\n"))

    def read_notes(self, name: str) -> Any:
        """The content of a JSON file; None where there is none that can be read."""
        path = self.fetch(name)
        return None if path is None else read_notes(path)

    def fetch(self, name: str) -> Path | None:
        """A local file with the content of a file; None where there is none."""
        found = list_objects(join(self.location, name))
        return fetch(found[0]) if found else None

    def mark_done(self, shard: str, done: Done) -> None:
        """Mark a shard as done, all of whose tables are written."""
        self.write(f"{DONE}/{shard}.{done.strips}.{done.errors}", lambda path: path.touch())

    def done(self) -> dict[str, Done]:
        """The shards that are done, by name."""
        found = list_objects(join(self.location, DONE))
        parts = [entry.location.replace("\\", "/").rpartition("/")[2].split(".") for entry in found]
        return {
            part[0]: Done(int(part[1]), int(part[2]))
            for part in parts
            if len(part) == 3 and part[1].isdecimal() and part[2].isdecimal()
        }

"""A run whose folder lies in object storage: pulled to resume, copied as it trains and at its end.

It is written into a local folder as every run is. Each copy has a manifest of its own, which goes
last. While a run trains, two copies of it take turns, so that one of them is always whole:

RUN_manifest.json, RUN.pth, ...  the run as it ended
RUN_copies/0/, RUN_copies/1/     the same of a run that has not ended, with a manifest.json in each
"""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path

from common.errors import UserError, defer_signals
from common.files import is_run_name
from common.locations import StoredObject, written_place
from common.mirror import MANIFEST, THREADS, mirror, pull
from common.notes import warn
from common.storage import fetch, join, list_objects, remove
from training.checkpoint import load_checkpoint
from training.resume import AUTO
from training.run_folder import ALIGNED_SUFFIX, RunFolder, only_training_in

MANIFEST_SUFFIX, COPIES_SUFFIX = "_manifest.json", "_copies"
TURNS = ("0", "1")


def with_local_run(arguments: argparse.Namespace) -> tuple[argparse.Namespace, str | None]:
    """The arguments with local paths for --checkpoint_path and --resume, and the URL of the run.

    The URL is None where both are local. Raises `UserError` for a URL that names no folder.
    """
    values, url = dict(vars(arguments)), None
    resume = values["resume"]
    if isinstance(resume, str):
        url, _, name = resume.rpartition("/") if resume.endswith(".pth") else (resume, "", "")
        values["resume"] = written_place(url) / name
    if isinstance(values["checkpoint_path"], str):
        url = values["checkpoint_path"]
        values["checkpoint_path"] = written_place(url)
    return argparse.Namespace(**values), url


def pull_run(resume: Path | str | bool, checkpoint_path: Path | str, pattern: str) -> None:
    """Copy the run to resume into its local folder, where --resume means one in object storage.

    It is the run of the checkpoint named, else the newest whose name matches the glob `pattern`,
    else the newest. Raises `UserError` where there is no whole run; for `--resume auto` the run
    then begins.
    """
    place = checkpoint_path if resume in (True, AUTO) else resume
    if not isinstance(place, str):
        return
    url, _, file = place.rpartition("/") if place.endswith(".pth") else (place, "", "")
    runs: dict[str, StoredObject] = {}  # the newest manifest of each
    for entry in list_objects(url):
        name = _run_of(entry.location, url)
        if name and (name not in runs or entry.modified > runs[name].modified):
            runs[name] = entry
    fitting = [name for name in runs if fnmatchcase(name, pattern)]
    chosen = [name for name in runs if f"{name}.pth" == file] if file else fitting or runs
    if not chosen and resume == AUTO:
        return
    if not chosen:
        raise UserError(
            f"{place}: found no manifest of a run (RUN{MANIFEST_SUFFIX}), "
            "expected a run that was copied there whole"
        )
    name = max(chosen, key=lambda name: runs[name].modified)
    copy, _, manifest = runs[name].location.rpartition("/")
    folder = written_place(url)
    with only_training_in(folder):
        run = RunFolder(folder, name)
        if ahead := _find_ahead(run, copy, url):
            if resume != AUTO:
                raise UserError(ahead)
            print(f"going on from {run.last}, which is further on than its copy")
            return
        pulled = pull(copy, folder, manifest)
        for path in set(_files_of(run)).difference(pulled):
            path.unlink()  # of another state of the run
    print(f"copied the run {name} from {url}")


def begin_run(run: RunFolder, url: str, overwrite: bool) -> None:
    """Make room at a URL for a run that begins there.

    Raises `UserError` when a run of its name is there already and may not be overwritten.
    """
    ended = join(url, f"{run.name}{MANIFEST_SUFFIX}")
    copies = [join(_copies_of(run, url), turn, MANIFEST) for turn in TURNS]
    whole = [place for place in (ended, *copies) if list_objects(place)]
    if whole and not overwrite:
        raise UserError(
            f"{whole[0]}: found a run of that name, expected --resume {url} to go on, "
            "--overwrite to lose it and begin again, or another --checkpoint_path"
        )
    remove(ended)
    remove_copies(run, url)


class RunCopies:
    """Copies a run that trains: whenever it is called, but at most every so many `minutes`.

    The older of two copies is replaced. What fails is a warning: the run itself is on this machine.
    """

    def __init__(self, run: RunFolder, url: str, minutes: float):
        self.run, self.url, self.seconds = run, url, minutes * 60
        self._copied = time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._copied < self.seconds:
            return
        self.run.flush_events()  # the file must not grow while it is copied
        try:
            places = [join(_copies_of(self.run, self.url), turn) for turn in TURNS]
            mirror(self.run.folder, min(places, key=_copied_at), MANIFEST, _names_of(self.run))
        except UserError as error:
            warn(f"{error}; the training goes on, and its files are in {self.run.folder}")
        self._copied = time.monotonic()


def copy_run(run: RunFolder, url: str) -> None:
    """Copy the files of a run that ends to the URL of its folder, and remove its earlier copies.

    Raises `UserError`, which says where the files are, when they cannot be written there.
    """
    names = _names_of(run)
    if not names:
        return
    try:
        with defer_signals():
            mirror(run.folder, url, f"{run.name}{MANIFEST_SUFFIX}", names)
            remove_copies(run, url)
    except UserError as error:
        raise UserError(f"{error}; all files of the run are in {run.folder}") from None
    print(f"copied the run {run.name} to {url}")


def remove_copies(run: RunFolder, url: str) -> None:
    """Remove the copies of a run that trained. Raises `UserError` where storage refuses."""
    found = [entry.location for entry in list_objects(_copies_of(run, url))]
    for location in (each for each in found if each.endswith(f"/{MANIFEST}")):
        remove(location)  # first: what is left is no whole copy
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(remove, found))


def _copies_of(run: RunFolder, url: str) -> str:
    return join(url, f"{run.name}{COPIES_SUFFIX}")


def _copied_at(place: str) -> float:
    """When a copy became whole; 0 where it is not."""
    return max((entry.modified for entry in list_objects(join(place, MANIFEST))), default=0.0)


def _names_of(run: RunFolder) -> list[str]:
    return [file.relative_to(run.folder).as_posix() for file in _files_of(run)]


def _files_of(run: RunFolder) -> list[Path]:
    """All files of a run but for the aligned strips, which any machine makes anew."""
    files = []
    for path in (run.file(suffix) for suffix in run.suffixes if suffix != ALIGNED_SUFFIX):
        files += [path] if path.is_file() else path.rglob("*")
    return [file for file in files if file.is_file()]


def _find_ahead(run: RunFolder, copy: str, url: str) -> str | None:
    """A line where the local files of a run are further on than a copy; None where they are not."""
    if not run.last.is_file():
        return None
    place = join(copy, run.last.name)
    here, there = (load_checkpoint(path) for path in (run.last, fetch(place)))
    if (here["epoch"], here.get("step", 0)) <= (there["epoch"], there.get("step", 0)):
        return None
    return (
        f"{place}: found {there['epoch']} epochs done, and {here['epoch']} in {run.last}, "
        f"expected --resume {run.last} --checkpoint_path {url} to go on from there"
    )


def _run_of(location: str, url: str) -> str | None:
    """The run whose manifest an object is; None for any other object."""
    path = location.removeprefix(f"{url}/")
    ends = [MANIFEST_SUFFIX, *(f"{COPIES_SUFFIX}/{turn}/{MANIFEST}" for turn in TURNS)]
    for end in ends:
        name = path.removesuffix(end)
        if name != path and is_run_name(name):
            return name
    return None

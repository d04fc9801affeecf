"""A run whose folder lies in object storage: it is pulled to resume, and copied when it ends.

It is written into a local folder as every run is. Each run has a manifest of its own, which goes
last.
"""

import argparse
from fnmatch import fnmatchcase
from pathlib import Path

from common.errors import UserError, defer_signals
from common.files import is_run_name
from common.locations import written_place
from common.mirror import mirror, pull
from common.storage import fetch, join, list_objects
from training.checkpoint import load_checkpoint
from training.resume import AUTO
from training.run_folder import ALIGNED_SUFFIX, RunFolder, only_training_in

MANIFEST_SUFFIX = "_manifest.json"


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
    is_file = place.endswith(".pth")
    url, _, file = place.rpartition("/") if is_file else (place, "", "")
    runs = {
        name: entry
        for entry in list_objects(url)
        if (name := _run_of(entry.location, url)) is not None
    }
    fitting = [name for name in runs if fnmatchcase(name, pattern)]
    chosen = [name for name in runs if f"{name}.pth" == file] if is_file else fitting or runs
    if not chosen and resume == AUTO:
        return
    if not chosen:
        raise UserError(
            f"{place}: found no manifest of a run (RUN{MANIFEST_SUFFIX}), "
            "expected a run that was copied there whole"
        )
    name = max(chosen, key=lambda name: runs[name].modified)
    folder = written_place(url)
    with only_training_in(folder):
        run = RunFolder(folder, name)
        _require_not_behind(run, url)
        pulled = pull(url, folder, f"{name}{MANIFEST_SUFFIX}")
        for path in set(_files_of(run)).difference(pulled):
            path.unlink()  # of another state of the run
    print(f"copied the run {name} from {url}")


def copy_run(run: RunFolder, url: str) -> None:
    """Copy the run's files to the URL of its folder.

    Raises `UserError`, which says where the files are, when they cannot be written there.
    """
    names = [file.relative_to(run.folder).as_posix() for file in _files_of(run)]
    if not names:
        return
    try:
        with defer_signals():
            mirror(run.folder, url, f"{run.name}{MANIFEST_SUFFIX}", names)
    except UserError as error:
        raise UserError(f"{error}; all files of the run are in {run.folder}") from None
    print(f"copied the run {run.name} to {url}")


def _files_of(run: RunFolder) -> list[Path]:
    """All files of a run but for the aligned strips, which any machine makes anew."""
    files = []
    for path in (run.file(suffix) for suffix in run.suffixes if suffix != ALIGNED_SUFFIX):
        files += [path] if path.is_file() else path.rglob("*")
    return [file for file in files if file.is_file()]


def _require_not_behind(run: RunFolder, url: str) -> None:
    """Raise `UserError` where the local files of a run are further on than those at the URL."""
    if not run.last.is_file():
        return
    place = join(url, run.last.name)
    here, there = (load_checkpoint(path) for path in (run.last, fetch(place)))
    if (here["epoch"], here.get("step", 0)) > (there["epoch"], there.get("step", 0)):
        raise UserError(
            f"{place}: found {there['epoch']} epochs done, and {here['epoch']} in {run.last}, "
            f"expected --resume {run.last} --checkpoint_path {url} to go on from there"
        )


def _run_of(location: str, url: str) -> str | None:
    """The run whose manifest an object is; None for any other object."""
    name = location.removeprefix(f"{url}/").removesuffix(MANIFEST_SUFFIX)
    is_manifest = location == f"{url}/{name}{MANIFEST_SUFFIX}"
    return name if is_manifest and is_run_name(name) else None

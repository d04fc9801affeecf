"""The files of a run, and the lock on their folder.

{run}.pth               last checkpoint, within or at the end of an epoch; --resume continues here
{run}_best.pth          best checkpoint
{run}_arguments.json    every setting of the run
{run}_environment.json  each start: time, command, device, versions
{run}_metrics.jsonl     one line per epoch
{run}_events/           the same for TensorBoard, with the loss of every few steps, and samples
                        with their heatmaps
{run}_mlflow.json       with --mlflow: which run it is there
{run}_aligned/          training strips with aligned references, until the run is finished
{run}_not_finite.pth    only after numbers that are not finite: the batch of that step
{run}_samples.png, {run}_curves.png, {run}_test/
"""

import errno
import glob
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from common.distributed import ProcessGroup
from common.errors import UserError
from common.files import atomic_write, read_notes, refused_by_system, remove_partial_files
from common.notes import warn
from data.image_files import encode_image
from reporting.pictures import save_curves, save_png
from training.checkpoint import BEST_SUFFIX
from training.selection import History

try:
    import fcntl
except ImportError:  # Windows has no fcntl; there the folder is not locked
    fcntl = None

LOCK = ".training.lock"
SETTINGS_SUFFIX = "_arguments.json"
TEST_SUFFIX, NOT_FINITE_SUFFIX, ALIGNED_SUFFIX = "_test", "_not_finite.pth", "_aligned"
EVENTS_SUFFIX, HISTORY_SUFFIX, TRACKED_SUFFIX = "_events", "_metrics.jsonl", "_mlflow.json"
SUFFIXES = (  # of everything that a run writes
    ".pth",
    BEST_SUFFIX,
    SETTINGS_SUFFIX,
    "_environment.json",
    HISTORY_SUFFIX,
    EVENTS_SUFFIX,
    "_samples.png",
)
SUFFIXES += ("_curves.png", TEST_SUFFIX, NOT_FINITE_SUFFIX, ALIGNED_SUFFIX, TRACKED_SUFFIX)
# seconds between two drawings of the curves: one drawing takes a second, longer than a small epoch
CURVES_EVERY = 30.0
# packages whose versions may change a run's numbers
NOTED_PACKAGES = ("torch", "numpy", "opencv-python-headless", "tifffile", "imagecodecs")


class RunFolder:
    """The files of the run `name` in `folder`, that of --checkpoint_path.

    `more_suffixes` are those of files and folders that a tool writes besides SUFFIXES. Methods
    raise `UserError` when the file system refuses.
    """

    def __init__(self, folder: Path, name: str, more_suffixes: tuple[str, ...] = ()):
        self.folder, self.name = folder, name
        self.suffixes = SUFFIXES + more_suffixes
        self.last, self.best = self.file(".pth"), self.file(BEST_SUFFIX)
        self._events_folder = self.file(EVENTS_SUFFIX)
        self._events: SummaryWriter | None = None
        self._drawn = time.monotonic()

    @property
    def title(self) -> str:
        """What the run is called where its folder is not seen."""
        return self.name

    def file(self, suffix: str) -> Path:
        """The path of one of the run's files."""
        return self.folder / f"{self.name}{suffix}"

    def prepare(self, resumed: Path | None, overwrite: bool) -> None:
        """Clear the run's files for a new start; a run that is resumed keeps its own.

        The best checkpoints of a run that continues under a new name are copied. Raises `UserError`
        when another run of this name exists and may not be overwritten.
        """
        remove_partial_files(self.folder, f"{glob.escape(self.name)}*")
        if resumed and self.last.resolve() == resumed.resolve():
            return
        if not overwrite:
            self._refuse_to_replace(resumed)
        bests = self.bests_beside(resumed) if resumed else {}
        kept = [path.resolve() for path in (resumed, *bests.values()) if path]
        for path in map(self.file, self.suffixes):
            if path.exists() and path.resolve() not in kept:
                with refused_by_system(path):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path, best_so_far in bests.items():
            if best_so_far.is_file() and best_so_far.resolve() != path.resolve():
                with atomic_write(path) as temporary:
                    shutil.copyfile(best_so_far, temporary)

    def bests_beside(self, last: Path) -> dict[Path, Path]:
        """This run's best checkpoints, each with that of the run whose last one is `last`."""
        return {self.best: best_beside(last)}

    def remove_aligned(self) -> None:
        """Remove the aligned copies of a finished run; a longer run makes them again."""
        shutil.rmtree(self.file(ALIGNED_SUFFIX), ignore_errors=True)

    def _refuse_to_replace(self, resumed: Path | None) -> None:
        if self.last.exists():
            raise UserError(
                f"{self.last}: found a run of that name, expected --resume to go on, "
                "--overwrite to lose it and begin again, or another --checkpoint_path"
            )
        # the disk was full, or the run was killed, before it wrote a last checkpoint
        if self.best.exists() and not resumed:
            raise UserError(
                f"{self.best}: found a best checkpoint without a last one, "
                "expected --overwrite to begin again"
            )

    def write_start(self, settings: dict[str, Any], started: dict[str, Any]) -> None:
        """Write the settings, and append `started` to the record of starts."""
        environment = self.file("_environment.json")
        starts = read_notes(environment)  # a damaged record must not stop the run
        starts = starts if isinstance(starts, list) else []
        for path, content in (
            (self.file(SETTINGS_SUFFIX), settings),
            (environment, [*starts, started]),
        ):
            with atomic_write(path) as temporary:
                temporary.write_text(json.dumps(content, indent=2) + "\n")

    def write_samples(self, picture: np.ndarray | None) -> None:
        """Write a picture of `Task.draw`, if there is one."""
        if picture is not None:
            save_png(self.file("_samples.png"), picture)

    def write_history(self, history: History) -> None:
        """Write the whole history, so that a resumed run's file shows no interruption."""
        with atomic_write(self.file(HISTORY_SUFFIX)) as temporary:
            temporary.write_text("".join(json.dumps(entry) + "\n" for entry in history))

    def read_history(self) -> History:
        """The history as it was last written; empty before."""
        try:
            lines = self.file(HISTORY_SUFFIX).read_text().splitlines()
        except OSError:
            return []
        return [json.loads(line) for line in lines]

    def draw_curves(self, history: History, headlines: tuple[str, ...], now: bool = False) -> None:
        """Draw the curves when `now` is set or CURVES_EVERY seconds have passed.

        The time counts from the last drawing, or from the start. An empty history is not drawn.
        """
        if not history or (time.monotonic() - self._drawn < CURVES_EVERY and not now):
            return
        save_curves(self.file("_curves.png"), history, headlines)
        self._drawn = time.monotonic()

    @contextmanager
    def events(self, step: int) -> Iterator[None]:
        """Keep the TensorBoard events open during the block.

        Events after `step`, left by a run that was killed later, no longer count.
        """
        # the writer's thread also passes its error on to the caller, so it need not print it
        threading.excepthook = _print_except_file_errors
        with refused_by_system(self._events_folder):
            self._events = SummaryWriter(self._events_folder, purge_step=step + 1)
        try:
            yield
        finally:
            with refused_by_system(self._events_folder):
                self._events.close()

    def add_scalars(self, values: dict[str, float | None], step: int) -> None:
        """Add values to the open events; None stands for an undefined value and is left out."""
        with refused_by_system(self._events_folder):
            for name, value in values.items():
                if value is not None:
                    self._events.add_scalar(name, value, step)

    def flush_events(self) -> None:
        """Write all open events; their file then stays as it is until more are added."""
        with refused_by_system(self._events_folder):
            self._events.flush()

    def add_samples(self, picture: np.ndarray | None, step: int, name: str = "samples") -> None:
        """Add a picture (H, W, 3) uint8, BGR, to the open events."""
        if picture is None:
            return
        height, width, colours = picture.shape
        # not by `add_image`: its PNG takes a quarter of a second, more than a small run's epoch
        encoded = encode_image(Path(f"{name}.jpg"), picture)
        image = Summary.Image(
            height=height, width=width, colorspace=colours, encoded_image_string=encoded
        )
        with refused_by_system(self._events_folder):
            summary = Summary(value=[Summary.Value(tag=name, image=image)])
            self._events.file_writer.add_summary(summary, step)
            self._events.flush()


def require_outside(flag: str, folder: Path, inputs: Path, counted_as: str) -> None:
    """Raise `UserError` for a folder of runs inside the folder that is trained on.

    `counted_as` is what the pictures that a training writes would count as there.
    """
    if folder.resolve().is_relative_to(inputs.resolve()):
        raise UserError(
            f"{flag} {folder}: found a folder inside {inputs}, expected one outside: "
            f"pictures that a training writes would count as {counted_as}"
        )


def best_beside(last: Path) -> Path:
    """The path of the best checkpoint of the run whose last (or best) checkpoint is `last`."""
    return last.with_name(f"{last.stem.removesuffix(Path(BEST_SUFFIX).stem)}{BEST_SUFFIX}")


def settings_beside(last: Path) -> Path:
    """The path of the settings of the run whose last checkpoint is `last`."""
    return last.with_name(f"{last.stem}{SETTINGS_SUFFIX}")


def _print_except_file_errors(failure: threading.ExceptHookArgs) -> None:
    """A thread's exception hook that does not print an `OSError`."""
    if not issubclass(failure.exc_type, OSError):
        threading.__excepthook__(failure)


@contextmanager
def only_training_in(folder: Path) -> Iterator[None]:
    """Lock the folder against other trainings during the block; create it if needed.

    The system releases the lock however the process ends. Raises `UserError` when another process
    holds the lock or the folder cannot be written.
    """
    with refused_by_system(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = _open_lock(folder / LOCK)
    with lock as file:
        try:
            if fcntl:
                # this lock belongs to the process: its workers do not inherit it
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                warn(
                    f"{folder} cannot be locked ({error.strerror}): "
                    "do not train there twice at once"
                )
            else:
                file.seek(0)
                raise UserError(
                    f"{folder}: found another training at work there "
                    f"(process {file.read().strip()}), expected one at a time: "
                    "wait for it, or give another --checkpoint_path"
                ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _open_lock(path: Path) -> TextIO:
    """Open a file to lock it, and make it if needed. A link is not followed, and is an error."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"{path}: found something else than a file, expected a lock or nothing")
    return os.fdopen(descriptor, "r+", errors="replace")


def describe_start(processes: ProcessGroup, resumed: Path | None) -> dict[str, Any]:
    """The record of a start: time, command, device and versions, as plain values."""
    device = processes.device
    return {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "resumed_from": str(resumed) if resumed else None,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in NOTED_PACKAGES},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cuda": torch.version.cuda,
        "processes": processes.count,
        "threads": torch.get_num_threads(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # installed under another name
        return None


def _git_commit() -> str | None:
    """The commit of this code, -dirty appended for changed files; None without a repository."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None

"""What a run leaves, file by file, and who may write there.

{run}.pth               last checkpoint, in the middle of an epoch or at the end of one: where --resume goes on
{run}_best.pth          best checkpoint
{run}_arguments.json    every setting of the run
{run}_environment.json  for each start: when, how, where, with which versions
{run}_metrics.jsonl     a line for each epoch
{run}_events/           the same for TensorBoard, with the loss of every few steps and sample images with heatmaps
{run}_aligned/          the strips to train on with their references aligned, until the run is finished
{run}_samples.png, {run}_curves.png, {run}_test/
"""

import errno
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from common.distributed import ProcessGroup
from common.errors import UserError
from common.files import atomic_write, refused_by_system
from reporting.pictures import save_curves, save_png
from training.checkpoint import BEST_SUFFIX
from training.selection import History

try:
    import fcntl
except ImportError:  # Windows: there nobody is refused
    fcntl = None

LOCK = ".training.lock"
TEST_SUFFIX, NOT_FINITE_SUFFIX, ALIGNED_SUFFIX = "_test", "_not_finite.pth", "_aligned"
SUFFIXES = (
    ".pth",
    BEST_SUFFIX,
    "_arguments.json",
    "_environment.json",
    "_metrics.jsonl",
    "_events",
    "_samples.png",
)
SUFFIXES += ("_curves.png", TEST_SUFFIX, NOT_FINITE_SUFFIX, ALIGNED_SUFFIX)
CURVES_EVERY = 30.0  # seconds: drawing takes one, a small epoch less
# what a run's numbers may depend on
NOTED_PACKAGES = ("torch", "numpy", "opencv-python-headless", "tifffile", "imagecodecs")


class RunFolder:
    """The files of one run in the folder of --checkpoint_path.

    Methods raise `UserError` where the file system refuses.
    """

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = folder, name
        self.last, self.best = self.file(".pth"), self.file(BEST_SUFFIX)
        self._events_folder = self.file("_events")
        self._events: SummaryWriter | None = None
        self._drawn = time.monotonic()

    def file(self, suffix: str) -> Path:
        return self.folder / f"{self.name}{suffix}"

    def prepare(self, resumed: Path | None, overwrite: bool) -> None:
        """Make sure that nothing of this name is lost that is still wanted.

        Raises `UserError` when a run of this name is there, unless it is the one that is resumed or
        may be overwritten. The best checkpoint of a run that goes on under a new name comes along.
        """
        if resumed and self.last.resolve() == resumed.resolve():
            return
        if not overwrite:
            self._refuse_to_replace(resumed)
        best_so_far = best_beside(resumed) if resumed else None
        kept = [path.resolve() for path in (resumed, best_so_far) if path]
        for path in map(self.file, SUFFIXES):
            if path.exists() and path.resolve() not in kept:
                with refused_by_system(path):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        if best_so_far and best_so_far.is_file() and best_so_far.resolve() != self.best.resolve():
            with atomic_write(self.best) as temporary:
                shutil.copyfile(best_so_far, temporary)

    def remove_aligned(self) -> None:
        """The run is finished; one that is made longer makes them again."""
        shutil.rmtree(self.file(ALIGNED_SUFFIX), ignore_errors=True)

    def _refuse_to_replace(self, resumed: Path | None) -> None:
        if self.last.exists():
            raise UserError(
                f"{self.last}: found a run of that name, expected --resume to go on, --overwrite to lose it and begin again, "
                "or another --checkpoint_path"
            )
        # the disk was full, or it was killed, before there was a last one
        if self.best.exists() and not resumed:
            raise UserError(
                f"{self.best}: found a best checkpoint without a last one, expected --overwrite to begin again"
            )

    def write_start(self, settings: dict[str, Any], started: dict[str, Any]) -> None:
        """The settings, and one more start."""
        environment = self.file("_environment.json")
        starts = []
        with suppress(OSError, ValueError):  # a damaged note is no reason not to go on
            starts = json.loads(environment.read_text())
        starts = starts if isinstance(starts, list) else []
        for path, content in (
            (self.file("_arguments.json"), settings),
            (environment, [*starts, started]),
        ):
            with atomic_write(path) as temporary:
                temporary.write_text(json.dumps(content, indent=2) + "\n")

    def write_samples(self, picture: np.ndarray | None) -> None:
        """A picture as of `Task.draw`."""
        if picture is not None:
            save_png(self.file("_samples.png"), picture)

    def write_history(self, history: History) -> None:
        """The whole history: after a resumed run it must be as if there had been no interruption."""
        with atomic_write(self.file("_metrics.jsonl")) as temporary:
            temporary.write_text("".join(json.dumps(entry) + "\n" for entry in history))

    def draw_curves(self, history: History, headlines: tuple[str, ...], now: bool = False) -> None:
        """If there is something to draw, and the last picture (or the start) is CURVES_EVERY ago,
        or it is to be `now`.
        """
        if not history or (time.monotonic() - self._drawn < CURVES_EVERY and not now):
            return
        save_curves(self.file("_curves.png"), history, headlines)
        self._drawn = time.monotonic()

    @contextmanager
    def events(self, step: int) -> Iterator[None]:
        """Opens the TensorBoard events for the block; those after `step`, of a run that was killed
        later, no longer count.
        """
        # of the thread that writes: it hands its error on as well
        threading.excepthook = _silent_about_files
        with refused_by_system(self._events_folder):
            self._events = SummaryWriter(self._events_folder, purge_step=step + 1)
        try:
            yield
        finally:
            with refused_by_system(self._events_folder):
                self._events.close()

    def add_scalars(self, values: dict[str, float | None], step: int) -> None:
        with refused_by_system(self._events_folder):
            for name, value in values.items():
                if value is not None:
                    self._events.add_scalar(name, value, step)

    def add_samples(self, picture: np.ndarray | None, step: int) -> None:
        if picture is None:
            return
        picture = np.ascontiguousarray(picture[:, :, ::-1])  # TensorBoard wants red first
        with refused_by_system(self._events_folder):
            self._events.add_image("samples", picture, step, dataformats="HWC")
            self._events.flush()


def best_beside(last: Path) -> Path:
    """The best checkpoint of the run whose last checkpoint (or best) is `last`."""
    return last.with_name(f"{last.stem.removesuffix(Path(BEST_SUFFIX).stem)}{BEST_SUFFIX}")


def _silent_about_files(failure: threading.ExceptHookArgs) -> None:
    if not issubclass(failure.exc_type, OSError):
        threading.__excepthook__(failure)


@contextmanager
def only_training_in(folder: Path) -> Iterator[None]:
    """Holds the folder against another training.

    The system takes the lock back however the process ends.

    Raises `UserError` when another process holds it or it cannot be written.
    """
    with refused_by_system(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("a+")
    with lock as file:
        try:
            if fcntl:
                # the process's own: its workers do not inherit it
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                print(
                    f"warning: {folder} cannot be locked ({error.strerror}): do not train there twice at once",
                    file=sys.stderr,
                )
            else:
                file.seek(0)
                raise UserError(
                    f"{folder}: found another training at work there (process {file.read().strip()}), expected one at a time: "
                    "wait for it, or give another --checkpoint_path"
                ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def describe_start(processes: ProcessGroup, resumed: Path | None) -> dict[str, Any]:
    """When, how, where and with which versions a run was started."""
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
    except importlib.metadata.PackageNotFoundError:  # there by another name
        return None


def _git_commit() -> str | None:
    """The commit of this code, with -dirty after it when files were changed since; None outside a
    repository.
    """
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

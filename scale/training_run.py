"""One training of a search: trainer.py in a process of its own, in a folder of its own."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from common.files import atomic_write, refused_by_system
from scale.space import command_words
from training.checkpoint import load_checkpoint
from training.run_folder import ALIGNED_SUFFIX, RunFolder

POLL = 0.5  # seconds between two looks at a training
LONGEST_END = 120.0  # seconds that a training may take to save and end
LOG = "log.txt"
WATCHED = "scale.watched_training"
# flags that a checkpoint does not keep
NOT_KEPT = ("gpu_id", "mlflow")


@dataclass(frozen=True)
class TrainingRun:
    """A training that may begin, or go on from its own last checkpoint.

    `flags` are those of trainer.py, and `amounts` those of its recipe that differ from the usual
    ones.
    """

    name: str
    folder: Path
    strips: Path
    flags: dict[str, Any]
    amounts: dict[str, Any]

    @property
    def files(self) -> RunFolder:
        """The files that trainer.py writes."""
        return RunFolder(self.folder, self.name)

    def run(self, observe: Callable[[list[dict[str, Any]], int], bool]) -> int | None:
        """Train to the end, and return the exit code; None where `observe` has ended it.

        `observe` is called again and again with the history so far and the training's process id,
        and says whether to go on. Whatever ends this process ends the training.
        """
        with refused_by_system(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            log = (self.folder / LOG).open("ab")
        with log:
            process = subprocess.Popen(
                [sys.executable, "-m", WATCHED, str(os.getpid()), *self._words()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            try:
                while process.poll() is None:
                    if not observe(self.history(), process.pid):
                        return None
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(POLL)
                observe(self.history(), process.pid)
                return process.returncode
            finally:
                _end(process)

    def _words(self) -> list[str]:
        last = self.files.last
        if last.is_file():
            again = {name: self.flags[name] for name in NOT_KEPT if name in self.flags}
            return ["--resume", str(last), *command_words(again)]
        words = command_words(self.flags)
        words += ["--training_dataset_path", str(self.strips), "--checkpoint_path"]
        words += [str(self.folder), "--name", self.name, "--overwrite"]
        if self.amounts:
            path = self.folder / "recipe_settings.yaml"
            with atomic_write(path) as temporary:
                temporary.write_text(yaml.safe_dump(self.amounts))
            words += ["--recipe_settings", str(path)]
        return words

    def history(self) -> list[dict[str, Any]]:
        """The metrics of the finished epochs."""
        return self.files.read_history()

    def value(self, metric: str) -> float:
        """The metric after the epoch whose weights are the best checkpoint's."""
        epoch = load_checkpoint(self.files.best)["epoch"]
        return self.history()[epoch - 1][metric]

    def problem(self) -> str:
        """Why the training has failed: the last line of its output that says it."""
        try:
            lines = (self.folder / LOG).read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        lines = [line for line in lines if line.strip()]
        errors = [line for line in lines if "error: " in line]
        return (errors or lines or ["it printed nothing"])[-1].rpartition("error: ")[2]

    def tidy(self) -> None:
        """Remove what a training that does not go on leaves: the copies of its strips."""
        shutil.rmtree(self.files.file(ALIGNED_SUFFIX), ignore_errors=True)


def _end(process: subprocess.Popen) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    deadline = time.monotonic() + LONGEST_END
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    if process.poll() is None:
        process.kill()
    process.wait()

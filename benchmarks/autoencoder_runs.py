"""The trainings and libraries of benchmarks/autoencoder.py: finished ones are kept."""

import hashlib
import shutil
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from autoencoder import feature_library, trainer
from autoencoder.build_library import LibrarySettings
from benchmarks.autoencoder_rows import (
    GROUPS,
    LIBRARIES,
    MODEL,
    TRAININGS,
    VECTORS,
    VECTORS_A_CLASS,
    Row,
)
from benchmarks.command_line import as_words, digest
from benchmarks.trainings import is_finished
from training.checkpoint import BEST_SUFFIX

RUN = "run"  # --name of every training
PER_CLASS = "--per_class"


class Runs:
    """Trainings and libraries of one data set in `root`, kept in `folder`.

    `groups` are the data set's classes, `more` further flags of every training. `is_tiny` makes
    libraries as small as a test needs.
    """

    def __init__(
        self,
        root: Path,
        folder: Path,
        groups: Sequence[str],
        more: Sequence[object] = (),
        is_tiny: bool = False,
    ):
        self.root, self.folder, self.groups = root, folder, groups
        self.more, self.is_tiny = tuple(more), is_tiny

    def flags_of(self, row: Row) -> list[object]:
        """All flags that a row depends on: other flags, other results."""
        return [
            (*TRAININGS[row.model], *self.more) if row.model else None,
            LIBRARIES.get(row.library),
            LIBRARIES.get(row.clusters),
            self.is_tiny,
        ]

    def models(self, name: str, seed: int) -> dict[str, Path]:
        """The best checkpoint of a training by class; of one for all classes by the class "".

        Trains where the run is not finished, and goes on with one that was interrupted.
        """
        flags = [*TRAININGS[name], *self.more]
        run = self.folder / "runs" / f"{_plain(name)}_seed{seed}_{digest(flags)}"
        folders = {"": run}
        if PER_CLASS in flags:
            folders = {group: run / group for group in self.groups}
        if not all(is_finished(folder) for folder in folders.values()):
            self._train(run, [*flags, "--seed", seed], PER_CLASS in flags)
        return {group: folder / f"{RUN}{BEST_SUFFIX}" for group, folder in folders.items()}

    def library(self, name: str, seed: int, model: Path | None) -> Path:
        """The file of a library; built where it is missing."""
        count = max(1, len(self.groups))
        replaced = {MODEL: model, GROUPS: count, VECTORS: VECTORS_A_CLASS * count}
        flags = [replaced.get(flag, flag) for flag in LIBRARIES[name]]
        flags += ["--memory", 40, "--cell", 4] if self.is_tiny else []
        flags += ["--input_size", 32] if self.is_tiny else []
        of_model = _version(model) if MODEL in LIBRARIES[name] else ""
        # other defaults, other libraries
        parts = [*map(str, flags), of_model, str(LibrarySettings())]
        key = f"{_plain(name)}_seed{seed}_{digest(parts)}"
        path = self.folder / "libraries" / f"{key}.pth"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            words = ["--training_dataset_path", self.root, "--output_path", path, "--seed", seed]
            with path.with_suffix(".log").open("w") as log, redirect_stdout(log):
                feature_library.build(feature_library.parse_args(as_words(*words, *flags)))
        return path

    def _train(self, run: Path, flags: list[object], is_per_class: bool) -> None:
        words = ["--training_dataset_path", self.root, "--checkpoint_path", run, "--name", RUN]
        if is_per_class or (run / f"{RUN}.pth").exists():
            words.append("--resume")
        elif run.exists():  # interrupted before its first checkpoint
            shutil.rmtree(run)
        run.mkdir(parents=True, exist_ok=True)
        with (run / "log.txt").open("a") as log, redirect_stdout(log):
            trainer.train(trainer.parse_args(as_words(*words, *flags)))


def _version(model: Path) -> str:
    return hashlib.sha256(model.read_bytes()).hexdigest()


def _plain(name: str) -> str:
    """A name as part of a file's."""
    return name.replace(", ", "_").replace(" ", "-")

"""A run in MLflow: its settings, the figures of each epoch, and its files once it has ended.

The run's own files are what counts: once a training has begun, nothing of MLflow ends it.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from common.errors import UserError
from common.files import atomic_write, read_notes, refused_by_system
from common.mlflow_store import Store, connect, failures_of_mlflow, find_run
from common.notes import warn
from reporting.output_folder import HEATMAP_ENDING
from training.run_folder import TEST_SUFFIX, TRACKED_SUFFIX, RunFolder

NO_FIGURES = ("epoch", "settled")  # entries of a history
METRICS, TEST = "metrics.json", "test_"  # of the test strips: the file, and in front of its figures
# what MLflow takes: in one request, and characters of a parameter
MOST_PARAMETERS, MOST_FIGURES, LONGEST_PARAMETER = 100, 1000, 6000


class TrackedRun:
    """A run that MLflow gets as it trains, from the begin of the block to its end.

    `settings` are those of the run and `started` the record of this start, as plain values. A run
    that MLflow has already goes on there. The first failure is a warning; what could not be sent is
    sent later.
    """

    def __init__(self, uri: str, run: RunFolder, settings: dict[str, Any], started: dict[str, Any]):
        self.uri, self.run, self.started = uri, run, started
        self.parameters = {
            name: text[:LONGEST_PARAMETER] for name, text in _flattened(settings).items()
        }
        self._store: Store | None = None
        self._id: str | None = None  # MLflow's, once it has the settings
        self._sent = 0  # epochs
        self._has_warned = False

    def __enter__(self) -> "TrackedRun":
        self.send()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        is_stopped = isinstance(error, KeyboardInterrupt)
        status = "FINISHED" if error is None else "KILLED" if is_stopped else "FAILED"
        is_sent = self.send() and self._attempt(lambda: self._end(status))
        if not is_sent and error is None:
            warn(
                f"--mlflow {self.uri}: not all of the run is there; "
                f"--resume {self.run.last} --mlflow {self.uri} sends the rest"
            )

    def send(self) -> bool:
        """Send the figures of all epochs that MLflow lacks, and return whether that succeeded."""
        return self._attempt(self._send)

    def _attempt(self, action: Callable[[], None]) -> bool:
        try:
            with failures_of_mlflow():
                action()
        except UserError as error:
            if not self._has_warned:
                warn(f"--mlflow {self.uri}: {error}; the training goes on")
            self._has_warned = True
            return False
        return True

    def _send(self) -> None:
        if self._id is None:
            self._store = self._store or connect(self.uri)
            self._begin(self._store)
        new = self.run.read_history()[self._sent :]
        figures = [
            (name, value, entry["epoch"])
            for entry in new
            for name, value in entry.items()
            if name not in NO_FIGURES
        ]
        self._log(figures)
        self._sent += len(new)

    def _begin(self, store: Store) -> None:
        """Go on with the run in MLflow, or make it, with its settings."""
        client, note = store.client, self.run.file(TRACKED_SUFFIX)
        found = find_run(client, note)
        if found is None:
            found = client.create_run(store.experiment, run_name=self.run.title)
            with refused_by_system(note), atomic_write(note) as temporary:
                temporary.write_text(json.dumps({"run_id": found.info.run_id}) + "\n")
        number, known = found.info.run_id, found.data.params
        from mlflow.entities import Param

        new = [Param(*pair) for pair in self.parameters.items() if pair[0] not in known]
        for part in _parts(new, MOST_PARAMETERS):
            client.log_batch(number, params=part)
        # MLflow keeps a parameter as it was first
        tags = {
            f"resumed.{name}": text
            for name, text in self.parameters.items()
            if known.get(name, text) != text
        }
        tags |= {
            "checkpoint": str(self.run.best.absolute()),
            "device": self.started["device"],
            "mlflow.source.name": self.started["command"],
            "mlflow.source.git.commit": self.started["git_commit"],
        }
        for name, text in tags.items():
            if text is not None:
                client.set_tag(number, name, text)
        client.update_run(number, status="RUNNING")
        sent = client.get_metric_history(number, "loss")
        self._sent = max((figure.step for figure in sent), default=0)
        self._id = number

    def _log(self, figures: list[tuple[str, Any, int]]) -> None:
        """Send those of some names, values and steps that are numbers."""
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        usable = [
            Metric(name, float(value), now, step)
            for name, value, step in figures
            if type(value) in (int, float) and math.isfinite(value)
        ]
        for part in _parts(usable, MOST_FIGURES):
            self._store.client.log_batch(self._id, metrics=part)

    def _end(self, status: str) -> None:
        """Send the end of the run; of a finished one also its files, and figures of test strips."""
        client = self._store.client
        if status == "FINISHED":
            tested = read_notes(self.run.file(TEST_SUFFIX) / METRICS) or {}
            self._log([(f"{TEST}{name}", value, self._sent) for name, value in tested.items()])
            for path, folder in self._files():
                client.log_artifact(self._id, str(path), folder)
        client.set_terminated(self._id, status)

    def _files(self) -> Iterator[tuple[Path, str | None]]:
        """The files that MLflow gets, each with the folder for it; None: the run's own.

        Checkpoints are too large for what they tell: MLflow gets the exported file instead.
        """
        for suffix in self.run.suffixes:
            path = self.run.file(suffix)
            if path.is_file() and not suffix.endswith((".pth", TRACKED_SUFFIX)):
                yield path, None
        for file in sorted(self.run.file(TEST_SUFFIX).rglob("*")):
            if file.is_file() and not file.name.endswith(HEATMAP_ENDING):
                yield file, file.parent.relative_to(self.run.folder).as_posix()


def write_tracked_start(
    run: RunFolder,
    settings: dict[str, Any],
    started: dict[str, Any],
    uri: str | None,
    resources: ExitStack,
) -> list[Callable[[], object]]:
    """Write a run's start, which the MLflow at a URI gets too: until `resources` close.

    Returns what is to be done after each checkpoint: nothing without a URI.
    """
    run.write_start(settings, started)
    if uri is None:
        return []
    return [resources.enter_context(TrackedRun(uri, run, settings, started)).send]


def _flattened(settings: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Settings as texts, those in a dict by the names of both, such as recipe_settings.contrast."""
    texts = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            texts |= _flattened(value, f"{prefix}{name}.")
        else:
            texts[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value)
    return texts


def _parts(items: list[Any], most: int) -> Iterator[list[Any]]:
    """The items in lists of at most so many."""
    for start in range(0, len(items), most):
        yield items[start : start + most]

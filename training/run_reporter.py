"""What a user watches during a training: progress, lines, curves, sample pictures, TensorBoard."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from tqdm import tqdm

from common.distributed import ProcessGroup
from common.progress import progress_bar
from training.run_folder import RunFolder
from training.selection import VALID, History, readable
from training.settings import LoopSettings
from training.task import Task


class RunReporter:
    """Reports a run of a task; only the main process prints and writes."""

    def __init__(
        self, task: Task, settings: LoopSettings, processes: ProcessGroup, folder: RunFolder
    ):
        self.task, self.settings, self.folder = task, settings, folder
        self.is_main, self._hides_progress = processes.is_main, processes.hides_progress
        self._shown = task.samples_to_show() if processes.is_main else []
        self._progress: tqdm | None = None
        self._scheduled = ""

    @contextmanager
    def open(self, history: History, steps_done: int, steps: int) -> Iterator[None]:
        """Show the progress of `steps` steps and keep the TensorBoard events open for the block."""
        with progress_bar(
            total=steps,
            initial=steps_done,
            unit="step",
            disable=self._hides_progress,
            leave=True,
        ) as self._progress:
            if not self.is_main:
                yield
                return
            self.folder.write_samples(self.task.draw(self._shown, None))
            self.folder.write_history(history)
            with self.folder.events(steps_done):
                yield

    def begin_epoch(self, epoch: int, learning_rate: float) -> None:
        """Name the epoch, counted from 0, beside the progress bar."""
        values = [f"{name} {value:.2f}" for name, value in self.task.scheduled(epoch).items()]
        self._scheduled = ", ".join([*values, f"lr {learning_rate:.2g}"])
        self._progress.set_postfix_str(self._scheduled, refresh=False)
        self._progress.set_description(f"epoch {epoch + 1}/{self.settings.epochs}")

    def advance(self) -> None:
        """Count one more step."""
        self._progress.update()

    def show_loss(self, loss: float, steps_done: int) -> None:
        """Show the mean loss of the current epoch so far."""
        self._progress.set_postfix_str(f"loss {loss:.2e}, {self._scheduled}", refresh=False)
        if self.is_main:
            self.folder.add_scalars({"loss_so_far": loss}, steps_done)

    def finish_epoch(
        self, history: History, network: nn.Module, steps_done: int, is_last: bool
    ) -> None:
        """Print the last epoch of the history, and write it with curves and sample pictures."""
        if not self.is_main:
            return
        entry = history[-1]
        tqdm.write(self._describe_epoch(entry))
        self.folder.write_history(history)
        self.draw_curves(history, now=is_last)
        scalars = {name: entry[name] for name in entry if name not in ("epoch", "settled")}
        self.folder.add_scalars(scalars, steps_done)
        self.folder.add_samples(self.task.draw(self._shown, network), steps_done)
        self.task.after_epoch(history, network, self.folder)

    def draw_curves(self, history: History, now: bool) -> None:
        """As `RunFolder.draw_curves`, with the task's headlines."""
        self.folder.draw_curves(history, self.task.headlines, now)

    def _describe_epoch(self, entry: dict[str, Any]) -> str:
        values = [f"{name} {entry[name]:.2f}" for name in self.task.scheduled(entry["epoch"] - 1)]
        measured = {name: entry.get(f"{VALID}{name}") for name in self.task.headlines}
        metrics = [
            f"{readable(name)} {value:.4f}" for name, value in measured.items() if value is not None
        ]
        return ", ".join([f"epoch {entry['epoch']:3}: loss {entry['loss']:.3e}", *values, *metrics])

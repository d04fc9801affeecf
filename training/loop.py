"""The training loop of one run: steps, epochs, checkpoints, and continuation after a stop.

A run draws nothing from hidden random state: the samples and their order follow from
(seed, epoch, index). A checkpoint therefore needs only the epoch and the step, and a resumed run
continues as if it had never stopped.
"""

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common.distributed import ProcessGroup
from common.errors import DeferredSignal, Stopped, defer_signals
from dataloader import TrainingLoader
from training.checkpoint import save_checkpoint
from training.guards import is_finite
from training.run_folder import NOT_FINITE_SUFFIX, RunFolder
from training.run_reporter import RunReporter
from training.running_loss import RunningLoss
from training.schedules import learning_rate_at
from training.selection import VALID, History, Selection
from training.settings import LoopSettings
from training.task import Batch, Task

# steps between two readings of the loss; in between it stays on the device, so no step waits for it
STEPS_PER_READING = 20


class Training:
    """A run: a task's network, its optimizer, its history and its files.

    `resumed` is the content of the checkpoint to continue from; None starts a new run. Each of
    `after_save` is called in the main process once the last checkpoint and the run's other files
    are written.
    """

    def __init__(
        self,
        task: Task,
        settings: LoopSettings,
        processes: ProcessGroup,
        folder: RunFolder,
        resumed: dict[str, Any] | None = None,
        after_save: Sequence[Callable[[], object]] = (),
    ):
        self.after_save = after_save
        self.task, self.settings, self.processes, self.folder = task, settings, processes, folder
        self.device = processes.device
        self.loader = TrainingLoader(
            task.samples,
            processes,
            settings.bs,
            settings.accumulate,
            settings.seed,
            settings.num_workers,
        )
        torch.manual_seed(settings.seed)
        network = task.make_network()
        if settings.sync_batch_norm:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        # channels last is faster, on the CPU too
        self.network = network.to(self.device, memory_format=torch.channels_last)
        trained = [tensor for tensor in network.parameters() if tensor.requires_grad]
        self.optimizer = torch.optim.Adam(
            trained, lr=settings.lr, weight_decay=task.weight_decay, fused=True
        )
        self.history: History = []
        self.step = 0  # steps done in the current epoch
        self.running_loss = RunningLoss(processes)
        if resumed:
            self.network.load_state_dict(resumed["model_state_dict"])
            hyperparameters = self.optimizer.state_dict()["param_groups"]
            # Adam's own settings are the code's, not the file's
            self.optimizer.load_state_dict(
                resumed["optimizer_state_dict"] | {"param_groups": hyperparameters}
            )
            self.history, self.step = resumed["history"], resumed["step"]
            self.running_loss = RunningLoss(processes, resumed["loss_sum"], resumed["loss_count"])
        self.ddp = self._wrap_for_processes() if processes.count > 1 else None
        self.forward = self.ddp or self.network
        if settings.compile:
            self.forward = torch.compile(self.forward)
        self.last_save = time.monotonic()

    def _wrap_for_processes(self) -> DistributedDataParallel:
        # From its second step on, DDP sums gradients in other groups, which is faster but rounds
        # differently. With the search for unused weights it keeps its groups, so the first steps of
        # a resumed run round like those of an uninterrupted one.
        same_every_step = self.device.type == "cpu" or self.settings.deterministic
        return DistributedDataParallel(
            self.network, gradient_as_bucket_view=True, find_unused_parameters=same_every_step
        )

    @property
    def epoch(self) -> int:
        """The number of finished epochs."""
        return len(self.history)

    @property
    def steps_done(self) -> int:
        """The number of steps done in the whole run."""
        return self.epoch * len(self.loader) + self.step

    @property
    def selection(self) -> Selection:
        """The rule by which this run keeps its best epoch and ends."""
        settings, task = self.settings, self.task
        return Selection(
            task.metric,
            settings.epochs,
            settings.lr_schedule,
            settings.patience,
            task.lowest_is_best,
            task.held_out,
        )

    @property
    def best_epoch(self) -> int:
        """`Selection.best_epoch` of the history so far."""
        return self.selection.best_epoch(self.history)

    def _bests(self) -> dict[Path, Selection]:
        """The best checkpoints of this run, each with the rule that selects it."""
        more = {
            self.folder.file(suffix): replace(self.selection, metric=metric, lowest_is_best=False)
            for suffix, metric in self.task.more_bests.items()
        }
        return {self.folder.best: self.selection, **more}

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are done, or patience has run out."""
        return self.selection.is_finished(self.history)

    def describe(self) -> str:
        """Two lines on the data, the network, the batch and the selection of the best epoch."""
        settings, count = self.settings, self.processes.count
        batch = settings.bs * settings.accumulate * count
        parts = (
            f" ({settings.accumulate} batches of {settings.bs} in each of {count} processes)"
            if batch != settings.bs
            else ""
        )
        data, network, more = self.task.describe()
        return (
            f"{data}; {len(self.task.samples)} patches per epoch\n"
            f"network: {network}, on {self.device}; {more}{batch} patches per step{parts}; "
            f"{self.selection.describe()}"
        )

    def run(self) -> None:
        """Train to the end.

        On Ctrl-C and SIGTERM it finishes the current step, saves it and raises `Stopped`. Raises
        `UserError` when the loss is no longer finite, or a file can no longer be read or written.
        """
        reporter = RunReporter(self.task, self.settings, self.processes, self.folder)
        if self.processes.is_main:
            print(self.describe())
        steps = self.settings.epochs * len(self.loader)
        try:
            with reporter.open(self.history, self.steps_done, steps):
                while not self.is_finished:
                    self._train_epoch(reporter)
                    self.finish_epoch(self._validate())
                    with defer_signals():
                        reporter.finish_epoch(
                            self.history, self.network, self.steps_done, self.is_finished
                        )
                    self._tell_saved()
            if self.epoch < self.settings.epochs and self.processes.is_main:
                print(
                    f"stopped after {self.epoch} epochs: "
                    f"no epoch after {self.best_epoch} was better"
                )
        except Stopped:
            with defer_signals():
                if self.steps_done and self.processes.is_main:
                    self._save(self.folder.last)
                    print(
                        f"to go on: python {self.task.command} "
                        f"--resume {shlex.quote(str(self.folder.last))}",
                        file=sys.stderr,
                    )
                    reporter.draw_curves(self.history, now=True)
            raise
        finally:
            self.loader.close()

    def _train_epoch(self, reporter: RunReporter) -> None:
        """Train on the remaining steps of the current epoch.

        Raises `Stopped` only between two steps, in all processes between the same two.
        """
        is_alone = self.processes.count == 1
        reporter.begin_epoch(self.epoch, self._learning_rate())
        self.network.train()
        with (
            nullcontext(DeferredSignal()) if is_alone else self._defer_signals_in_all() as deferred
        ):
            for batches in self.loader.steps(self.epoch, self.step):
                with defer_signals():
                    self.take_step(batches)
                reporter.advance()
                if self.step % STEPS_PER_READING == 0:
                    self._read_loss()
                    reporter.show_loss(self.running_loss.mean, self.steps_done)
                number = self.processes.max_over_ranks(deferred.number)
                if number:
                    self._read_loss()
                    raise Stopped(number)
                if self._is_time_to_save():
                    self._save(self.folder.last)
                    self._tell_saved()
            self._read_loss()
            self._require_finite_network()

    @contextmanager
    def _defer_signals_in_all(self) -> Iterator[DeferredSignal]:
        """Defer signals until all processes know of them.

        When a process stops elsewhere in the meantime, the others stop in the middle of a step.
        """
        with defer_signals() as deferred:
            try:
                yield deferred
            except RuntimeError:
                if not deferred.number:
                    raise
                if self.processes.is_main:
                    # exits here, since `Stopped` would save an incomplete step
                    sys.exit(128 + deferred.number)
                raise Stopped(deferred.number) from None

    def _is_time_to_save(self) -> bool:
        """Whether a save is due; with several processes only after reading all their losses."""
        is_read = self.processes.count == 1 or self.step % STEPS_PER_READING == 0
        return (
            self.processes.is_main
            and is_read
            and time.monotonic() - self.last_save >= self.settings.save_every * 60
        )

    def _learning_rate(self) -> float:
        """The learning rate of the current step."""
        progress = self.epoch + min(self.step, len(self.loader) - 1) / len(self.loader)
        return learning_rate_at(
            progress, self.settings.epochs, self.settings.lr, self.settings.lr_schedule
        )

    def take_step(self, batches: list[Batch]) -> None:
        """Take one step along the gradient of the mean loss over all samples of `batches`.

        Nothing here waits for the device.
        """
        samples = sum(map(_length, batches))
        loss = torch.zeros((), device=self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self.optimizer.zero_grad(set_to_none=True)
        for number, batch in enumerate(batches, start=1):
            batch = {name: self._to_device(tensor) for name, tensor in batch.items()}
            is_last = number == len(batches)
            with nullcontext() if is_last or not self.ddp else self.ddp.no_sync():
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.amp):
                    predicted = self.task.predict(self.forward, batch)
                share = self.task.loss(predicted, batch, self.epoch) * (_length(batch) / samples)
                share.backward()
            loss += share.detach()
        self.optimizer.step()
        self.running_loss.add(loss, samples, self.step)
        self.step += 1

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        layout = torch.channels_last if tensor.ndim == 4 else torch.preserve_format
        return tensor.to(self.device, non_blocking=True, memory_format=layout)

    def _read_loss(self) -> None:
        """Combine the losses of all processes, each of which must call this.

        Raises `UserError` when a loss was not finite.
        """
        bad_step = self.running_loss.read()
        if bad_step is not None:
            self._abort_non_finite(bad_step, "the loss")

    def _require_finite_network(self) -> None:
        """Raise `UserError` when the last step left weights that are not finite.

        The loss of the next step would not be finite either.
        """
        if self.step and not is_finite(self.network):
            self._abort_non_finite(self.step - 1, "the network")

    def _abort_non_finite(self, step: int, what: str) -> None:
        """Save the batch of the step after which `what` is not finite, and abort all processes.

        Raises `UserError`.
        """
        path = self.folder.file(NOT_FINITE_SUFFIX)
        if self.processes.is_main:
            save_checkpoint(
                path, self._samples_of_step(step) | {"epoch": self.epoch + 1, "step": step + 1}
            )
        self.processes.abort(
            f"{what} is not finite since step {step + 1} of epoch {self.epoch + 1}, "
            f"whose batch is in {path}: expected a lower --lr"
            f"{' or no --amp' if self.settings.amp else ''}; no checkpoint was written after it"
        )

    def _samples_of_step(self, step: int) -> dict[str, Any]:
        """The samples of all processes in a step of the current epoch, and their origins."""
        indices = self.loader.indices_of_step(self.epoch, step)
        samples = [self.task.samples[self.epoch, index] for index in indices]
        batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
        return batch | {"patches": [self.task.samples.origin(index) for index in indices]}

    def _validate(self) -> dict[str, float | None]:
        """The metrics of the current epoch, named as in the history.

        It has none where the task skips the epoch. All processes must call this.
        """
        if not self.task.is_validated(self.epoch):
            return {}
        if self.task.has_validation:
            # all processes validate with the batch norm statistics that are saved
            self.processes.broadcast_from_main(list(self.network.buffers()))
        validation = self.task.validate(self.network, self.processes)
        if validation.is_broken:
            self._abort_non_finite(self.step - 1, "the network's answer")
        if validation.problem:  # every strip passed the checks before the first epoch
            self.processes.abort(f"validation: {validation.problem}")
        return {f"{VALID}{name}": value for name, value in validation.figures.items()}

    def finish_epoch(self, metrics: dict[str, float | None]) -> None:
        """Add the current epoch with its validation metrics to the history, and save it.

        It is also saved as each best checkpoint whose best epoch so far it is.
        """
        scheduled, lr = self.task.scheduled(self.epoch), self._learning_rate()
        with defer_signals():
            entry = {"epoch": self.epoch + 1, "loss": self.running_loss.mean, **scheduled, "lr": lr}
            self.history.append(
                entry | {"settled": self.selection.is_eligible(self.epoch + 1)} | metrics
            )
            self.step = 0
            self.running_loss.restart()
            if not self.processes.is_main:
                return
            # the best ones first, since the last checkpoint marks this epoch as done
            for path, selection in self._bests().items():
                if selection.best_epoch(self.history) == self.epoch or not path.exists():
                    self._save(path)
            self._save(self.folder.last)

    def _save(self, path: Path) -> None:
        """Write a checkpoint; only the main process may call this.

        Raises `UserError`, and writes nothing, when the network is no longer finite.
        """
        with defer_signals():
            if self.processes.count == 1:
                self._read_loss()
            self._require_finite_network()
            save_checkpoint(path, self.checkpoint())
        self.last_save = time.monotonic()

    def _tell_saved(self) -> None:
        if self.processes.is_main:
            for call in self.after_save:
                call()

    def checkpoint(self) -> dict[str, Any]:
        """The content of a checkpoint: all that inference and a resumed run need.

        It consists of tensors, numbers, strings, lists and dicts.
        """
        return self.settings.plain() | {
            "tool": self.task.tool,
            "network": type(self.network).__name__,
            "model_state_dict": dict(self.network.state_dict()),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "loss_sum": self.running_loss.sum,
            "loss_count": self.running_loss.count,
            "processes": self.processes.count,
            "history": self.history,
            **self.task.facts(),
        }


def _length(batch: Batch) -> int:
    """The number of samples in a batch."""
    return len(next(iter(batch.values())))

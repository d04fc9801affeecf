"""One run: what is learnt step by step, what is kept of it, and where it goes on after an interruption.

Nothing in a run is drawn from hidden random state: the order of the patches and every painted defect follow from (seed, epoch,
index), so a checkpoint needs only the epoch and the step to continue as if it had never stopped.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from common.distributed import Processes
from common.errors import HeldSignal, Stopped, hold_signals
from data.recipes import RECIPES
from data.splits import Dataset
from dataloader import Batch, StripPatches, TrainingLoader, painted_samples
from evaluation.evaluate import evaluate
from evaluation.metrics import HEADLINES
from evaluation.predictors import TorchPredictor
from evaluation.stream import BROKEN_NETWORK
from gaussian import GREY_LEVELS
from loss import FocalLoss
from model import ARCHITECTURES, SegmentationNetworkONNX
from ops.tiling import PATCH_SIZES
from training.checkpoint import save_checkpoint
from training.distillation import TeacherLoss, describe_teacher, load_teacher
from training.run_folder import NOT_FINITE_SUFFIX, History, RunFolder
from training.schedules import gamma_at, is_settled, learning_rate_at

STEPS_PER_READING = 20  # the loss stays on the device in between
VALID = "valid_"  # prefix of the validation figures in a run's history
NOT_SETTINGS = ("resume", "overwrite", "given")  # how a run is started, not what it is


class Training:
    """A network, what moves it, its history, and the files that it leaves.

    `resumed` is the content of the checkpoint that the run goes on from, None at its beginning.
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        dataset: Dataset,
        processes: Processes,
        folder: RunFolder,
        resumed: dict[str, Any] | None = None,
    ):
        self.arguments, self.dataset, self.processes, self.folder = arguments, dataset, processes, folder
        self.device = processes.device
        self.patches = training_patches(arguments, dataset)
        self.loader = TrainingLoader(arguments, self.patches, processes)
        torch.manual_seed(arguments.seed)
        network = ARCHITECTURES[arguments.arch](base_channels=arguments.base_channels)
        if arguments.sync_batch_norm:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        self.network = network.to(self.device, memory_format=torch.channels_last)  # faster, on the CPU too
        self.optimizer = torch.optim.Adam(network.parameters(), lr=arguments.lr, fused=True)
        self.focal_loss, self.teacher_loss = FocalLoss(arguments.alpha), TeacherLoss(arguments.alpha)
        self.teacher = load_teacher(arguments.teacher, self.device) if arguments.teacher else None
        self.metric = selection_metric(dataset, arguments.use_mask)
        self.history: History = []
        self.step = 0  # steps done of the present epoch
        self.read_sum, self.read_count = 0.0, 0  # loss of the present epoch, of all processes, when last read: sum and patches
        if resumed:
            self.network.load_state_dict(resumed["model_state_dict"])
            self.optimizer.load_state_dict(resumed["optimizer_state_dict"])
            self.history, self.step = resumed["history"], resumed["step"]
            self.read_sum, self.read_count = resumed["loss_sum"], resumed["loss_count"]
        own_sum, own_count = (self.read_sum, self.read_count) if processes.is_first else (0.0, 0)
        self.loss_sum = torch.tensor(own_sum, device=self.device)  # the same of this process alone, up to now
        self.loss_count = own_count
        self.first_bad_step = torch.tensor(-1, device=self.device)  # of the present epoch: the first without a finite loss
        self.exchange = self._exchange() if processes.count > 1 else None
        self.forward = self.exchange or self.network
        if arguments.compile:
            self.forward = torch.compile(self.forward)
        self.last_save = time.monotonic()

    def _exchange(self) -> DistributedDataParallel:
        # DDP adds gradients up in other groups from its second step on, which is faster, unless it looks for unused weights.
        # Then the first steps of a resumed run round as those of an uninterrupted one.
        same_every_step = self.device.type == "cpu" or self.arguments.deterministic
        return DistributedDataParallel(self.network, gradient_as_bucket_view=True, find_unused_parameters=same_every_step)

    @property
    def epoch(self) -> int:
        """Epochs finished."""
        return len(self.history)

    @property
    def steps_done(self) -> int:
        """Of the whole run."""
        return self.epoch * len(self.loader) + self.step

    @property
    def best_epoch(self) -> int:
        """The epoch, counted from 1, with the highest figure so far, of those that are settled as soon as one is.

        Where there is no figure, the last one.
        """
        measured = [entry for entry in self.history if self.metric and entry.get(self.metric) is not None]
        best = max(measured, key=lambda entry: (_may_be_best(entry), entry[self.metric]), default=None)
        return best["epoch"] if best else self.epoch

    def _is_settled(self, epoch: int) -> bool:
        return is_settled(epoch, self.arguments.epochs, self.arguments.lr_schedule)

    @property
    def is_finished(self) -> bool:
        """After all epochs, or when patience has run out; it does not begin to before an epoch is settled."""
        if self.epoch >= self.arguments.epochs:
            return True
        patience, best_epoch = self.arguments.patience, self.best_epoch
        if patience is None or not self.history or not _may_be_best(self.history[best_epoch - 1]):
            return False
        return self.epoch - best_epoch >= patience

    def describe(self) -> str:
        settings, count = self.arguments, self.processes.count
        batch = settings.bs * settings.accumulate * count
        parts = f" ({settings.accumulate} batches of {settings.bs} in each of {count} processes)" if batch != settings.bs else ""
        taught = f"{describe_teacher(self.teacher, settings.teacher)}; " if self.teacher else ""
        return (
            f"{self.dataset.describe()}; {len(self.patches)} patches per epoch\n"
            f"network: {settings.arch} with {settings.base_channels} base channels, on {self.device}; {taught}"
            f"{batch} patches per step{parts}; {self._describe_choice()}"
        )

    def _describe_choice(self) -> str:
        if self.metric is None:
            return "the last epoch is the best"
        among = "" if self._is_settled(1) else ", of the last quarter of the epochs"
        return f"best checkpoint by {readable(self.metric)} on the validation strips{among}"

    def run(self) -> None:
        """Train to the end. On Ctrl-C and SIGTERM the present step is finished and saved before `Stopped` goes on.

        Raises `UserError` when the loss is no longer finite or a file can no longer be read or written.
        """
        self.samples = painted_samples(self.patches) if self.processes.is_first else []
        if self.processes.is_first:
            print(self.describe())
        try:
            with self._progress() as progress, self._files():
                while not self.is_finished:
                    self._train_epoch(progress)
                    self._finish_epoch(self._validate())
                    with hold_signals():
                        self._report()
            if self.epoch < self.arguments.epochs and self.processes.is_first:
                print(f"stopped after {self.epoch} epochs: none since epoch {self.best_epoch} was better")
        except Stopped:
            with hold_signals():
                if self.steps_done and self.processes.is_first:
                    self._save(self.folder.last)
                    print(f"to go on: python trainer.py --resume {shlex.quote(str(self.folder.last))}", file=sys.stderr)
                    self.folder.draw_curves(self.history, now=True)
            raise
        finally:
            self.loader.close()

    def _progress(self) -> tqdm:
        total = self.arguments.epochs * len(self.loader)
        return tqdm(total=total, initial=self.steps_done, unit="step", disable=self.processes.hides_progress)

    @contextmanager
    def _files(self) -> Iterator[None]:
        if not self.processes.is_first:
            yield
            return
        self.folder.write_samples(self.samples)
        self.folder.write_history(self.history)
        with self.folder.events(self.steps_done):
            yield

    def _train_epoch(self, progress: tqdm) -> None:
        """What is left of the present epoch. Raises `Stopped` between two steps only, in all processes between the same two."""
        settings, is_alone = self.arguments, self.processes.count == 1
        gamma, lr = self._schedules()
        progress.set_description(f"epoch {self.epoch + 1}/{settings.epochs}, gamma {gamma:.2f}, lr {lr:.2g}")
        self.network.train()
        with nullcontext(HeldSignal()) if is_alone else self._holding_signals_together() as held:
            for batches in self.loader.steps(self.epoch, self.step):
                with hold_signals():
                    self._step(batches)
                progress.update()
                if self.step % STEPS_PER_READING == 0:
                    self._read()
                    self._show_loss(progress)
                number = self.processes.largest(held.number)
                if number:
                    self._read()
                    raise Stopped(number)
                if self._is_time_to_save():
                    self._save(self.folder.last)
            self._read()
            self._require_finite_network()

    @contextmanager
    def _holding_signals_together(self) -> Iterator[HeldSignal]:
        """Signals wait until all processes know of them. If one was stopped elsewhere meanwhile, the others stop in mid-step."""
        with hold_signals() as held:
            try:
                yield held
            except RuntimeError:
                if not held.number:
                    raise
                if self.processes.is_first:
                    sys.exit(128 + held.number)  # without saving half a step
                raise Stopped(held.number) from None

    def _is_time_to_save(self) -> bool:
        """In several processes only where the losses of all were just read."""
        is_read = self.processes.count == 1 or self.step % STEPS_PER_READING == 0
        return self.processes.is_first and is_read and time.monotonic() - self.last_save >= self.arguments.save_every * 60

    def _show_loss(self, progress: tqdm) -> None:
        progress.set_postfix(loss=f"{self.mean_loss:.2e}", refresh=False)
        if self.processes.is_first:
            self.folder.add_scalars({"loss_so_far": self.mean_loss}, self.steps_done)

    def _schedules(self) -> tuple[float, float]:
        """Gamma of the present epoch and learning rate of the present step."""
        settings = self.arguments
        progress = self.epoch + min(self.step, len(self.loader) - 1) / len(self.loader)
        gamma = gamma_at(self.epoch, settings.epochs, settings.gamma_start, settings.gamma_end, settings.gamma_schedule)
        return gamma, learning_rate_at(progress, settings.epochs, settings.lr, settings.lr_schedule)

    def _step(self, batches: list[Batch]) -> None:
        """One step along the gradient of the mean loss over all patches of `batches`. Nothing in it waits for the device."""
        gamma, lr = self._schedules()
        patches = sum(len(batch["target_mask"]) for batch in batches)
        loss = torch.zeros((), device=self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        for number, batch in enumerate(batches, start=1):
            images = batch["three_channel_input"].to(self.device, non_blocking=True, memory_format=torch.channels_last)
            masks = batch["target_mask"].to(self.device, non_blocking=True)
            is_last = number == len(batches)
            with nullcontext() if is_last or not self.exchange else self.exchange.no_sync():
                share = self._loss(images, masks, gamma) * (len(masks) / patches)
                share.backward()
            loss += share.detach()
        self.optimizer.step()
        self.loss_sum += loss * patches
        self.loss_count += patches
        is_first_bad = ~torch.isfinite(loss) & (self.first_bad_step < 0)
        self.first_bad_step = torch.where(is_first_bad, self.step, self.first_bad_step)
        self.step += 1

    def _loss(self, images: torch.Tensor, masks: torch.Tensor, gamma: float) -> torch.Tensor:
        """Of images (B, 3, h, w), values 0-1, and masks (B, 1, h, w), float {0, 1}, on the device: a scalar."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.arguments.amp):
            logits = self.forward(images)
            if self.teacher:
                with torch.no_grad():
                    teacher_logits = self.teacher(images)
        loss = self.focal_loss(logits.float(), masks, gamma)
        if not self.teacher:
            return loss
        return loss + self.teacher_loss(logits.float(), teacher_logits.float(), masks, gamma)

    def _read(self) -> None:
        """Bring the losses that the devices have kept together. All processes must call it.

        Raises `UserError` when one of them was not finite.
        """
        sums, counts, bad_steps = zip(*self.processes.gather((self.loss_sum.item(), self.loss_count, self.first_bad_step.item())))
        self.read_sum, self.read_count = sum(sums), sum(counts)
        bad_steps = [step for step in bad_steps if step >= 0]
        if bad_steps:
            self._give_up(min(bad_steps), "the loss")

    def _require_finite_network(self) -> None:
        """Raises `UserError` when the last step left weights that are not finite: then the loss would be the next not to be."""
        tensors = self.network.state_dict().values()
        if self.step and not torch.stack([tensor.isfinite().all() for tensor in tensors]).all():
            self._give_up(self.step - 1, "the network")

    @property
    def mean_loss(self) -> float:
        """Of the present epoch so far, when last read."""
        return self.read_sum / max(1, self.read_count)

    def _give_up(self, step: int, what: str) -> None:
        """Keep the batch of the step with which `what` stopped being finite, and end all processes with a `UserError`."""
        path = self.folder.file(NOT_FINITE_SUFFIX)
        if self.processes.is_first:
            save_checkpoint(path, self._patches_of_step(step) | {"epoch": self.epoch + 1, "step": step + 1})
        self.processes.refuse(
            f"{what} is not finite since step {step + 1} of epoch {self.epoch + 1}, whose batch is in {path}: expected a lower --lr"
            f"{' or none of --amp' if self.arguments.amp else ''}; no checkpoint was written after it"
        )

    def _patches_of_step(self, step: int) -> dict[str, Any]:
        """The patches that all processes had in a step of the present epoch, and where they are from."""
        indices = self.loader.patches_of_step(self.epoch, step)
        samples = [self.patches[self.epoch, index] for index in indices]
        places = [self.patches.place(index) for index in indices]
        batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
        return batch | {"patches": [{"file": str(path), "y": y, "x": x} for path, (y, x) in places]}

    def _validate(self) -> dict[str, float | None]:
        if not self.dataset.valid:
            return {}
        settings = self.arguments
        self.processes.take_from_first(list(self.network.buffers()))  # batch norm statistics: those that are saved
        predictor = TorchPredictor(self.network, self.patches.patch, self.device, self.arguments.align)
        result = evaluate(
            predictor, self.dataset.valid, settings.input_max, "validation", use_masks=settings.use_mask, processes=self.processes
        )
        if any(BROKEN_NETWORK in problem for problem in result.problems):
            self._give_up(self.step - 1, "the network's answer")
        if result.problems:  # every strip was fine before the first epoch
            self.processes.refuse(f"validation: {result.problems[0]}")
        return {f"{VALID}{name}": value for name, value in result.figures.items()}

    def _finish_epoch(self, figures: dict[str, float | None]) -> None:
        gamma, lr = self._schedules()
        with hold_signals():
            entry = {"epoch": self.epoch + 1, "loss": self.mean_loss, "gamma": gamma, "lr": lr}
            self.history.append(entry | {"settled": self._is_settled(self.epoch + 1)} | figures)
            self.step, self.loss_count, self.read_sum, self.read_count = 0, 0, 0.0, 0
            self.loss_sum.zero_()
            if not self.processes.is_first:
                return
            if self.best_epoch == self.epoch or not self.folder.best.exists():
                self._save(self.folder.best)  # before the last one, which says that this epoch is done
            self._save(self.folder.last)

    def _save(self, path: Path) -> None:
        """Only in the first process. Raises `UserError`, and writes nothing, when the network is no longer finite."""
        with hold_signals():
            if self.processes.count == 1:
                self._read()
            self._require_finite_network()
            save_checkpoint(path, self._checkpoint())
        self.last_save = time.monotonic()

    def _checkpoint(self) -> dict[str, Any]:
        return settings_of(self.arguments) | {
            "network": type(self.network).__name__,
            "model_state_dict": dict(self.network.state_dict()),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "loss_sum": self.read_sum,
            "loss_count": self.read_count,
            "processes": self.processes.count,
            "strips_sha256": self.dataset.strips_hash(),
            "img_height": self.dataset.image_size[0],
            "img_width": self.dataset.image_size[1],
            "history": self.history,
        }

    def _report(self) -> None:
        """What one looks at while it trains."""
        if not self.processes.is_first:
            return
        entry = self.history[-1]
        tqdm.write(describe_epoch(entry))
        self.folder.write_history(self.history)
        self.folder.draw_curves(self.history, now=self.is_finished)
        self.folder.add_scalars({name: value for name, value in entry.items() if name not in ("epoch", "settled")}, self.steps_done)
        self.folder.add_samples(self.samples, self._heatmaps(), self.steps_done)

    @torch.inference_mode()
    def _heatmaps(self) -> np.ndarray:
        """What the network says of the sample patches: (N, h, w), probabilities 0-1."""
        images = np.stack([sample["three_channel_input"] for sample in self.samples])
        return SegmentationNetworkONNX(self.network).eval()(torch.from_numpy(images).to(self.device))[:, 0].cpu().numpy()


def _may_be_best(entry: dict[str, Any]) -> bool:
    """As it was when the epoch ended: a run that is resumed with other --epochs keeps the best one that it has saved."""
    return entry.get("settled", True)  # not there in a run begun when any epoch could be


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every flag that says what a run is, as plain values, paths absolute."""
    flags = {name: value for name, value in vars(arguments).items() if name not in NOT_SETTINGS}
    return {name: str(value.absolute()) if isinstance(value, Path) else value for name, value in flags.items()}


def selection_metric(dataset: Dataset, use_masks: bool) -> str | None:
    """The figure that the best checkpoint has most of: as close to the job as the validation strips allow."""
    kinds = {strip.is_defective for strip in dataset.valid}
    if use_masks and any(strip.mask or strip.painted_with for strip in dataset.valid):
        return f"{VALID}pixel_average_precision"
    return f"{VALID}image_average_precision" if {True, False} <= kinds else None


def describe_epoch(entry: dict[str, float | None]) -> str:
    measured = {name: entry.get(f"{VALID}{name}") for name in HEADLINES}
    figures = [f"{readable(name)} {value:.4f}" for name, value in measured.items() if value is not None]
    return ", ".join([f"epoch {entry['epoch']:3}: loss {entry['loss']:.3e}", f"gamma {entry['gamma']:.2f}", *figures])


def readable(name: str) -> str:
    return name.removeprefix(VALID).replace("_", " ")


def training_patches(arguments: argparse.Namespace, dataset: Dataset) -> StripPatches:
    return StripPatches(
        dataset.copies or [strip.path for strip in dataset.train],
        dataset.image_size,
        PATCH_SIZES[arguments.image_type],
        RECIPES[arguments.recipe](tuple(arguments.num_defects_range)),
        arguments.seed,
        GREY_LEVELS if dataset.copies else arguments.input_max,
        arguments.cache_size,
    )

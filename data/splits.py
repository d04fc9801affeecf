"""The strips of a run, all checked before it begins, and the batches that they are trained on in."""

import argparse
import hashlib
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from common.distributed import Processes
from common.errors import UserError
from data.folder import StripFile, list_strips, split_beside
from data.held_out import set_aside
from data.recipes import RECIPES
from data.verify import GoodFiles, inspect_strips
from dataloader import EpochBatches, StripPatches
from gaussian import GREY_LEVELS
from ops.tiling import PATCH_SIZES

SAMPLES_SHOWN = 6
CHECKED = ".checked_strips.json"  # beside the checkpoints: what the last check found, so that the next start is fast
WORKERS_ON_GPU = 4
GRACE = 30  # seconds for which a loader process outlives SIGTERM: its training may still need batches to come to an end

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Dataset:
    """The strips of a run, all usable and of one size (height, width); no `valid` or `test` where there are none."""

    image_size: tuple[int, int]
    train: list[StripFile]
    valid: list[StripFile]
    test: list[StripFile]
    is_valid_set_aside: bool = False  # from the good strips, for want of a valid/
    copies: list[Path] | None = None  # of the strips to train on, with their references aligned

    def strips_hash(self) -> str:
        """SHA-256 over size and names of the strips to train and validate on: whether a run goes on with the same ones."""
        names = [strip.relative.as_posix() for strip in (*self.train, *self.valid)]
        return hashlib.sha256("\n".join([str(self.image_size), *names]).encode(errors="surrogateescape")).hexdigest()

    def describe(self) -> str:
        aside = "set aside from them, each as it is and painted, for want of a valid/" if self.is_valid_set_aside else "to validate"
        validation = len(self.valid) // 2 if self.is_valid_set_aside else len(self.valid)
        return (
            f"strips: {len(self.train)} good ones to train on, {validation} {aside}, {len(self.test)} to test, "
            f"of {self.image_size} (height, width)"
        )


def find_dataset(arguments: argparse.Namespace) -> Dataset:
    """The strips to train, validate and test on, every one inspected. Raises a `UserError` that names all bad files."""
    started = time.perf_counter()
    patch = PATCH_SIZES[arguments.image_type]
    groups, size, problems = {}, None, []
    good_files = GoodFiles(arguments.checkpoint_path / CHECKED)
    try:
        for split in ("train", "valid", "test"):
            folder = arguments.training_dataset_path if split == "train" else split_beside(arguments.training_dataset_path, split)
            groups[split] = []
            if folder is None:
                continue
            strips = list_strips(folder, arguments.img_format, use_masks=arguments.use_mask and split != "train")
            inspection = inspect_strips(strips, arguments.input_max, patch, size, good_files)
            size = size or inspection.image_size
            groups[split] = inspection.usable
            problems += inspection.problems
    finally:
        good_files.save()
    if problems:
        listed = "\n  ".join(problems)
        raise UserError(f"files that cannot be used: {len(problems)}\n  {listed}")
    count = sum(map(len, groups.values()))
    seconds = time.perf_counter() - started
    unchanged = len(good_files.unchanged)
    print(f"checked {count} strips and their masks in {seconds:.1f} s; {unchanged} files unchanged since the last check")
    if groups["valid"]:
        return Dataset(size, **groups)
    groups["train"], groups["valid"] = set_aside(groups["train"], arguments.recipe)
    return Dataset(size, **groups, is_valid_set_aside=bool(groups["valid"]))


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


def painted_samples(patches: StripPatches) -> list[dict[str, np.ndarray]]:
    """The first few painted samples of the first epoch, spread over the strips."""
    step = max(1, len(patches) // (4 * SAMPLES_SHOWN))
    samples = (patches[index] for index in range(0, len(patches), step))
    painted = [sample for sample in samples if sample["target_mask"].any()][:SAMPLES_SHOWN]
    return [{name: tensor.numpy() for name, tensor in sample.items()} for sample in painted or [patches[0]]]


class TrainingLoader:
    """This process's batches of an epoch, from any of its steps on: made by worker processes, pinned for a GPU."""

    def __init__(self, arguments: argparse.Namespace, patches: StripPatches, processes: Processes):
        on_gpu = processes.device.type == "cuda"
        workers = (WORKERS_ON_GPU if on_gpu else 0) if arguments.num_workers is None else arguments.num_workers
        self.batches = EpochBatches(len(patches), arguments.bs, arguments.seed, processes.rank, processes.count)
        self.accumulate = arguments.accumulate
        self.loader = DataLoader(
            patches,
            batch_sampler=self.batches,
            num_workers=workers,
            pin_memory=on_gpu,
            persistent_workers=workers > 0,
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,  # they share the decoded strips
            worker_init_fn=_outlive_signals,
        )

    def __len__(self) -> int:
        """Steps in an epoch."""
        return -(-len(self.batches) // self.accumulate)

    def close(self) -> None:
        """End the worker processes, which otherwise go on until the end of this one."""
        if self.loader._iterator is not None:  # torch has no public name for it
            self.loader._iterator._shutdown_workers()

    def patches_of_step(self, epoch: int, step: int) -> list[int]:
        """The indices of the patches that all processes together have in one step."""
        batches = range(step * self.accumulate, min((step + 1) * self.accumulate, len(self.batches)))
        return [index for batch in batches for index in self.batches.of_all_processes(epoch, batch)]

    def steps(self, epoch: int, first: int) -> Iterator[list[Batch]]:
        """For each step of an epoch from `first` on, the batches whose gradients are added up in it.

        Raises `UserError` when a strip can no longer be read.
        """
        self.batches.epoch, self.batches.first = epoch, first * self.accumulate
        group = []
        for batch in _quiet(self.loader):
            group.append(batch)
            if len(group) == self.accumulate:
                yield group
                group = []
        if group:
            yield group


def _outlive_signals(worker: int) -> None:
    """Ctrl-C and SIGTERM may reach a whole process group at once: the workers leave the answer to the training."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))


def _quiet(loader: DataLoader) -> Iterator[Batch]:
    """The loader's batches. A `UserError` from a worker process comes with that process's traceback: here without it."""
    try:
        yield from loader
    except UserError as error:
        raise UserError(str(error).strip().splitlines()[-1].removeprefix("common.errors.UserError: ")) from None

"""Patches of strips to training samples by a recipe, and the batches that a process trains on."""

import math
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from common.distributed import ProcessGroup
from common.errors import UserError, prefix_errors
from data.image_files import DEFAULT_INPUT_MAX, to_grey_levels, to_unit_range
from data.recipes import Synthesis
from data.strip_cache import OpenStrips
from ops.tiling import tile_positions

SAMPLES_SHOWN = 6
WORKERS_ON_GPU = 4
# seconds for which a loader process outlives SIGTERM: its training may still need batches to come
# to an end
GRACE = 30
Batch = dict[str, torch.Tensor]


class StripPatches(Dataset):
    """Training samples: every tile of every strip once per epoch, as a recipe makes them of it.

    A sample is asked for by (epoch, index), or by an index alone for epoch 0, and depends on
    nothing but (seed, epoch, index): it is the same from any worker, and another one in every
    epoch. It is `{"three_channel_input": (3, h, w) float32 0-1, "target_mask": (1, h, w) float32
    {0, 1}}`. Strips must have been inspected; they are not checked again.
    """

    def __init__(
        self,
        paths: list[Path],
        image_size: tuple[int, int],
        patch: int,
        synthesis: Synthesis,
        seed: int = 0,
        input_max: float = DEFAULT_INPUT_MAX,
        cache_size: int = 0,
    ):
        self.paths = paths
        self.strips = OpenStrips(paths, cache_size)
        self.patch = patch
        self.positions = tile_positions(image_size, patch)
        self.synthesis = synthesis
        self.seed = seed
        self.input_max = input_max

    def __len__(self) -> int:
        return len(self.paths) * len(self.positions)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, torch.Tensor]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        image = self._crop(index)
        mask = np.zeros((1, self.patch, self.patch), dtype=np.float32)
        self.synthesis(image, mask[0], np.random.default_rng((self.seed, epoch, index)))
        return {
            "three_channel_input": torch.from_numpy(to_unit_range(image)),
            "target_mask": torch.from_numpy(mask),
        }

    def origin(self, index: int) -> dict[str, Any]:
        """The strip that a patch is cut from, and where in it, y and x, the patch begins."""
        strip, (y, x) = self._locate(index)
        return {"file": str(self.paths[strip]), "y": y, "x": x}

    def _locate(self, index: int) -> tuple[int, tuple[int, int]]:
        strip, tile = divmod(index, len(self.positions))
        return strip, self.positions[tile]

    def _crop(self, index: int) -> np.ndarray:
        """The patch as a new array of grey levels (3, h, w): cropped first, so that only its own
        pixels are ever read.
        """
        strip, (y, x) = self._locate(index)
        with prefix_errors(self.paths[strip]):
            channels = self.strips[strip]
        return to_grey_levels(channels[:, y : y + self.patch, x : x + self.patch], self.input_max)


class EpochBatches(Sampler):
    """The batches of an epoch: all indices of a data set in an order drawn from (seed, epoch), each
    as (epoch, index).

    With `processes` each takes its part of every batch, of `batch_size` indices; `rank` says which.
    All parts are equally long: where the last batch cannot be divided, its first indices come
    twice. Iteration begins with batch `first`, where a resumed epoch goes on. The index carries the
    epoch because workers that outlive an epoch never hear of an attribute set on the data set.
    """

    def __init__(self, length: int, batch_size: int, seed: int, rank: int = 0, processes: int = 1):
        self.length, self.batch_size, self.seed, self.rank, self.processes = (
            length,
            batch_size,
            seed,
            rank,
            processes,
        )
        self.epoch = 0
        self.first = 0

    def __len__(self) -> int:
        return math.ceil(self.length / (self.batch_size * self.processes))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = self._order(self.epoch)
        for number in range(self.first, len(self)):
            together = order[self._places(number)]
            share = math.ceil(len(together) / self.processes)
            even = np.resize(together, share * self.processes)
            yield [
                (self.epoch, index)
                for index in even[self.rank * share : (self.rank + 1) * share].tolist()
            ]

    def of_all_processes(self, epoch: int, number: int) -> list[int]:
        """The indices of one batch, of all processes together."""
        return self._order(epoch)[self._places(number)].tolist()

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(self.length)

    def _places(self, number: int) -> slice:
        size = self.batch_size * self.processes
        return slice(number * size, (number + 1) * size)


def painted_samples(patches: StripPatches) -> list[dict[str, np.ndarray]]:
    """The first few painted samples of the first epoch, spread over the strips."""
    step = max(1, len(patches) // (4 * SAMPLES_SHOWN))
    samples = (patches[index] for index in range(0, len(patches), step))
    painted = [sample for sample in samples if sample["target_mask"].any()][:SAMPLES_SHOWN]
    return [
        {name: tensor.numpy() for name, tensor in sample.items()}
        for sample in painted or [patches[0]]
    ]


class TrainingLoader:
    """This process's batches of an epoch, from any of its steps on: made by worker processes,
    pinned for a GPU.

    `samples` are asked for by (epoch, index); `accumulate` batches are one step. `num_workers`
    None: some on a GPU, none on the CPU.
    """

    def __init__(
        self,
        samples: Dataset,
        processes: ProcessGroup,
        batch_size: int,
        accumulate: int,
        seed: int,
        num_workers: int | None = None,
    ):
        on_gpu = processes.device.type == "cuda"
        workers = (WORKERS_ON_GPU if on_gpu else 0) if num_workers is None else num_workers
        self.batches = EpochBatches(len(samples), batch_size, seed, processes.rank, processes.count)
        self.accumulate = accumulate
        self.loader = DataLoader(
            _ErrorsAsValues(samples),
            collate_fn=_collate,
            batch_sampler=self.batches,
            num_workers=workers,
            pin_memory=on_gpu,
            persistent_workers=workers > 0,
            # they share the decoded strips
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
            worker_init_fn=_outlive_signals,
        )

    def __len__(self) -> int:
        """Steps in an epoch."""
        return -(-len(self.batches) // self.accumulate)

    def close(self) -> None:
        """End the worker processes, which otherwise go on until the end of this one."""
        if self.loader._iterator is not None:  # torch has no public name for it
            self.loader._iterator._shutdown_workers()

    def indices_of_step(self, epoch: int, step: int) -> list[int]:
        """The indices of the samples that all processes together have in one step."""
        batches = range(
            step * self.accumulate, min((step + 1) * self.accumulate, len(self.batches))
        )
        return [index for batch in batches for index in self.batches.of_all_processes(epoch, batch)]

    def steps(self, epoch: int, first: int) -> Iterator[list[Batch]]:
        """For each step of an epoch from `first` on, the batches whose gradients are added up in
        it.

        Raises `UserError` when a strip can no longer be read.
        """
        self.batches.epoch, self.batches.first = epoch, first * self.accumulate
        group = []
        for batch in self.loader:
            if isinstance(batch, UserError):
                raise batch
            group.append(batch)
            if len(group) == self.accumulate:
                yield group
                group = []
        if group:
            yield group


def _outlive_signals(worker: int) -> None:
    """Ctrl-C and SIGTERM may reach a whole process group at once: the workers leave the answer to
    the training.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))


class _ErrorsAsValues(Dataset):
    """Samples, or the `UserError` that came up: raised in a worker process it would come with that
    process's traceback.
    """

    def __init__(self, samples: Dataset):
        self.samples = samples

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor] | UserError:
        try:
            return self.samples[key]
        except UserError as error:
            return error


def _collate(samples: list[dict[str, torch.Tensor] | UserError]) -> Batch | UserError:
    """A batch, or the first error among its samples."""
    return next(
        (sample for sample in samples if isinstance(sample, UserError)), None
    ) or default_collate(samples)

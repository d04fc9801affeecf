"""Training samples that a recipe makes of patches, and the batches of one process."""

import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from common.distributed import ProcessGroup
from common.errors import UserError, prefix_errors
from common.fetch_ahead import fetch_together
from common.notes import warn
from data.image_files import DEFAULT_INPUT_MAX, STORED_ORDER, to_grey_levels, to_unit_range
from data.recipes import Synthesis
from data.strip_cache import OpenStrips, has_shared_memory
from ops.tiling import tile_positions

SAMPLES_SHOWN = 6  # painted samples that a run shows
# loader processes, unless `num_workers` is given: four cannot feed the fastest GPUs
WORKERS_ON_GPU = min(8, os.cpu_count() or 1)
# Seconds for which a loader process survives SIGTERM: the training may need more batches before it
# stops.
GRACE = 30
Batch = dict[str, torch.Tensor]


class StripPatches(Dataset):
    """Training samples: every tile of every strip once per epoch, changed by a recipe.

    A sample's key is (epoch, index), or an index alone for epoch 0. The sample depends on nothing
    but (seed, epoch, index): every worker makes the same one, and every epoch another one. It is
    `{"three_channel_input": (3, h, w) float32 0-1, "target_mask": (1, h, w) float32 {0, 1}}`. The
    strips must have been verified; they are not checked again. `order` is that of `open_channels`;
    where strips are clipped, values outside of 0 to `input_max` become 0 or 255. Raises `UserError`
    if a strip cannot be read.
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
        order: Sequence[int] = STORED_ORDER,
        is_clipped: bool = True,
    ):
        self.paths = paths
        self.strips = OpenStrips(paths, cache_size, order)
        self.patch = patch
        self.image_size = tuple(image_size)
        self.positions = tile_positions(image_size, patch)
        self.synthesis = synthesis
        self.seed = seed
        self.input_max = input_max
        self.is_clipped = is_clipped

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

    def prefetch(self, keys: Sequence[tuple[int, int]]) -> None:
        """Fetch the strips of samples from object storage at once, where they lie there."""
        numbers = {self._locate(index)[0] for _, index in keys}
        fetch_together(self.paths[number] for number in sorted(numbers))

    def origin(self, index: int) -> dict[str, Any]:
        """Return the strip that a patch is cut from, and the pixel (y, x) where it begins."""
        strip, (y, x) = self._locate(index)
        return {"file": str(self.paths[strip]), "y": y, "x": x}

    def _locate(self, index: int) -> tuple[int, tuple[int, int]]:
        strip, tile = divmod(index, len(self.positions))
        return strip, self.positions[tile]

    def _crop(self, index: int) -> np.ndarray:
        """Return the patch as a new array of grey levels (3, h, w).

        It is cropped before it is converted, so that only its own pixels are read.
        """
        strip, (y, x) = self._locate(index)
        with prefix_errors(self.paths[strip]):
            channels = self.strips[strip]
            if channels.shape[1:] != self.image_size:
                raise UserError(
                    f"found {channels.shape[1:]} (height, width), "
                    f"expected {self.image_size} as when the training began"
                )
            crop = channels[:, y : y + self.patch, x : x + self.patch]
        return to_grey_levels(crop, self.input_max, self.is_clipped)


class EpochBatches(Sampler):
    """The batches of an epoch, each a list of (epoch, index), in an order drawn from (seed, epoch).

    With several `processes`, each takes its part of every batch, `batch_size` indices; `rank` says
    which part. All parts have the same length: if the last batch cannot be divided evenly, its
    first indices come twice. Iteration begins with batch `first`, where a resumed epoch continues.
    The index carries the epoch because workers that live longer than an epoch do not see an
    attribute set on the data set.
    """

    def __init__(self, length: int, batch_size: int, seed: int, rank: int = 0, processes: int = 1):
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.processes = processes
        self.epoch = 0
        self.first = 0
        self._placed = (-1, np.empty(0, int))  # an epoch, and the place of each index in its order

    def __len__(self) -> int:
        return math.ceil(self.length / (self.batch_size * self.processes))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = self._order(self.epoch)
        for number in range(self.first, len(self)):
            indices = order[self._batch_slice(number)]
            share = math.ceil(len(indices) / self.processes)
            padded = np.resize(indices, share * self.processes)
            yield [
                (self.epoch, index)
                for index in padded[self.rank * share : (self.rank + 1) * share].tolist()
            ]

    def of_all_processes(self, epoch: int, number: int) -> list[int]:
        """Return the indices of one batch over all processes."""
        return self._order(epoch)[self._batch_slice(number)].tolist()

    def batch_of(self, epoch: int, index: int) -> int:
        """Return the number of the batch that an epoch has an index in."""
        if epoch != self._placed[0]:
            self._placed = epoch, np.argsort(self._order(epoch))
        return int(self._placed[1][index]) // (self.batch_size * self.processes)

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(self.length)

    def _batch_slice(self, number: int) -> slice:
        size = self.batch_size * self.processes
        return slice(number * size, (number + 1) * size)


def painted_samples(patches: StripPatches) -> list[dict[str, np.ndarray]]:
    """Return the first SAMPLES_SHOWN painted samples of epoch 0, spread over the strips.

    Each is a sample of `StripPatches` as NumPy arrays. Without a painted one, it is the first
    sample.
    """
    step = max(1, len(patches) // (4 * SAMPLES_SHOWN))
    samples = (patches[index] for index in range(0, len(patches), step))
    painted = [sample for sample in samples if sample["target_mask"].any()][:SAMPLES_SHOWN]
    return [
        {name: tensor.numpy() for name, tensor in sample.items()}
        for sample in painted or [patches[0]]
    ]


class TrainingLoader:
    """This process's batches of an epoch, from any step on.

    Worker processes make them, and pin them for a GPU. `samples` take keys (epoch, index);
    `accumulate` batches make one step. `num_workers` None means WORKERS_ON_GPU on a GPU and none on
    the CPU.
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
        if workers and not has_shared_memory():
            warn("/dev/shm cannot be written, so samples are made without --num_workers")
            workers = 0
        self.batches = EpochBatches(len(samples), batch_size, seed, processes.rank, processes.count)
        self.accumulate = accumulate
        self.loader = DataLoader(
            _ErrorsAsValues(samples),
            collate_fn=_collate,
            batch_sampler=self.batches,
            num_workers=workers,
            pin_memory=on_gpu,
            persistent_workers=workers > 0,
            # forked workers share the decoded strips
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
            worker_init_fn=_outlive_signals,
        )

    def __len__(self) -> int:
        """Steps in an epoch."""
        return -(-len(self.batches) // self.accumulate)

    def close(self) -> None:
        """End the worker processes, which otherwise run until this process ends."""
        if self.loader._iterator is not None:  # torch has no public way to end the workers
            self.loader._iterator._shutdown_workers()

    def indices_of_step(self, epoch: int, step: int) -> list[int]:
        """Return the indices of the samples that all processes together use in one step."""
        batches = range(
            step * self.accumulate, min((step + 1) * self.accumulate, len(self.batches))
        )
        return [index for batch in batches for index in self.batches.of_all_processes(epoch, batch)]

    def steps(self, epoch: int, first: int) -> Iterator[list[Batch]]:
        """Yield the batches of each step of an epoch from `first` on; their gradients are summed.

        Raises `UserError` if a strip can no longer be read.
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
    """Ignore Ctrl-C, and survive SIGTERM for GRACE seconds: the training decides when workers end.

    Both signals may reach a whole process group at once.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))


class _ErrorsAsValues(Dataset):
    """Samples, or the `UserError` that a sample raised.

    An error raised in a worker process would arrive with that process's traceback in its text.
    """

    def __init__(self, samples: Dataset):
        self.samples = samples

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor] | UserError:
        try:
            return self.samples[key]
        except UserError as error:
            return error

    def __getitems__(
        self, keys: list[tuple[int, int]]
    ) -> list[dict[str, torch.Tensor] | UserError]:
        """Return the samples of a batch; torch calls this where there is such a method."""
        if isinstance(self.samples, StripPatches):
            self.samples.prefetch(keys)
        return [self[key] for key in keys]


def _collate(samples: list[dict[str, torch.Tensor] | UserError]) -> Batch | UserError:
    """Return a batch, or the first error among its samples."""
    return next(
        (sample for sample in samples if isinstance(sample, UserError)), None
    ) or default_collate(samples)

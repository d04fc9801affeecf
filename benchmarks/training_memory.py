"""Memory of a training with many loader processes, for each way to keep decoded strips.

    python -m benchmarks.training_memory        # a minute on two cores; needs Linux

The table shows the peak of each process's proportional share (PSS), which counts shared pages once.
"""

import multiprocessing
import tempfile
import time
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from benchmarks.command_line import make_parser
from benchmarks.tables import print_header, print_row
from benchmarks.training import OurLoop, make_arguments, make_dataset
from data.demo_strips import STRIP_SIZE
from data.image_files import open_channels

WORKERS_SHOWN = 8
SAMPLING = 0.02  # seconds between two measurements


class CachedInEachProcess:
    """A cache of decoded strips in each process that decodes them, as a plain loader keeps it."""

    def __init__(self, paths: list[Path]):
        self.open = lru_cache(len(paths))(lambda number: open_channels(paths[number]))

    def __getitem__(self, number: int) -> np.ndarray:
        return self.open(number)


def train_and_load(kind: str, strips: int, workers: int, ready: multiprocessing.Event) -> None:
    """Train some steps and then load samples until every worker has read every strip.

    Runs in a separate process, whose memory is measured from outside. Sets `ready` once the
    workers start.
    """
    # there are more workers than cores on purpose
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder), strips, "zlib")
        kept = 0 if kind == "each worker" else strips
        arguments = make_arguments(
            Path(folder), "--base_channels", 16, "--num_workers", workers, "--cache_size", kept
        )
        loop = OurLoop(arguments, dataset, torch.device("cpu"))
        if kind == "each worker":
            loop.patches.strips = CachedInEachProcess(loop.patches.paths)
        batches = loop.batches()
        ready.set()
        for _ in range(2):
            loop.step(next(batches))
        for _ in range(3 * len(loop.training.loader)):
            next(batches)
        loop.close()


def compare_memory(strips: int) -> None:
    """Measure the memory with each cache of decoded strips and print a row for each."""
    decoded = strips * 3 * STRIP_SIZE[0] * STRIP_SIZE[1] * 4 / 1e6
    title = f"{strips} compressed strips, {decoded:,.0f} MB decoded"
    print_header(title, "workers", "main process, MB", "workers together, MB")
    for kind, workers in (
        ("memory shared by all", 0),
        ("memory shared by all", WORKERS_SHOWN),
        ("each worker", WORKERS_SHOWN),
    ):
        context = multiprocessing.get_context("spawn")
        ready = context.Event()
        process = context.Process(target=train_and_load, args=(kind, strips, workers, ready))
        process.start()
        ready.wait()
        peak_main, peak_workers = 0, 0
        while process.is_alive():
            peak_main = max(peak_main, proportional_memory(process.pid))
            peak_workers = max(peak_workers, sum(map(proportional_memory, children(process.pid))))
            time.sleep(SAMPLING)
        memory = f"{peak_main / 1e6:,.0f}", f"{peak_workers / 1e6:,.0f}"
        print_row(f"kept in {kind}", workers, *memory)


def proportional_memory(pid: int) -> int:
    """The proportional set size (PSS) of a process in bytes; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def children(pid: int) -> list[int]:
    """The ids of a process's children; none once it has ended."""
    try:
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except OSError:
        return []


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--strips", type=int, default=60)
    compare_memory(parser.parse_args().strips)


if __name__ == "__main__":
    main()

"""Speed of this trainer beside a plain training loop.

    # two CPU cores: 3 minutes; with a GPU, whose rows come first, 3 minutes more
    python -m benchmarks.training

The table shows patches per second and the time of each phase of a step. The plain loop is written
in the straightforward way: float32, channels first, the mask turned into classes on the CPU in
every step, and the loss read back with .item(). Both train the same network on the same strips.
They take turns in each round, and the table shows medians.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
import torch
from torch.nn import functional
from torch.utils.data import DataLoader

from benchmarks.command_line import FIRST_RECIPE, FULL_PRECISION, make_parser
from benchmarks.tables import print_header, print_row
from common.distributed import ProcessGroup
from common.settings import from_values
from data.demo_strips import STRIP_SIZE, make_strip
from data.folder import StripFile
from data.splits import Dataset
from dataloader import WORKERS_ON_GPU
from model import SegmentationNetwork
from trainer import parse_args
from training.guards import choose_algorithms
from training.loop import Training
from training.run_folder import RunFolder
from training.strip_settings import TrainingSettings
from training.strip_task import StripTask, training_patches

ALPHA, GAMMA = 0.75, 2.0  # of the plain loop's focal loss
WARM_UPS = 3  # steps of each loop that are not timed
PHASES = ("data", "forward", "backward", "step")
# of this trainer: name in the table, flags of trainer.py
VARIANTS = {"this trainer": (), "this trainer, --amp": ("--amp",)}


@dataclass(frozen=True)
class Speed:
    """What was measured of a loop: milliseconds of each phase, and bytes of a GPU's memory."""

    name: str
    patches_per_second: float
    phases: dict[str, float]
    peak_memory: int | None


class OurLoop:
    """The trainer's own step and loader."""

    def __init__(self, arguments: argparse.Namespace, dataset: Dataset, device: torch.device):
        settings = from_values(TrainingSettings, vars(arguments))
        choose_algorithms(settings)
        task = StripTask(settings, dataset, device)
        folder = RunFolder(settings.checkpoint_path, "benchmark")
        self.training = Training(task, settings, ProcessGroup(device), folder)
        self.network, self.optimizer = self.training.network, self.training.optimizer
        self.patches = task.samples

    def batches(self) -> Iterator:
        """The batches of each optimizer step, epoch after epoch without end."""
        epoch = 0
        while True:
            yield from self.training.loader.steps(epoch, 0)
            epoch += 1

    def step(self, batches: list[dict[str, torch.Tensor]]) -> None:
        """Take one optimizer step."""
        self.training.take_step(batches)

    def close(self) -> None:
        """Stop the loader's workers."""
        self.training.loader.close()


class PlainLoop:
    """The straightforward loop. It shares the samples with ours, but no training code."""

    def __init__(self, arguments: argparse.Namespace, dataset: Dataset, device: torch.device):
        self.device = device
        self.patches = training_patches(from_values(TrainingSettings, vars(arguments)), dataset)
        self.loader = DataLoader(
            self.patches, arguments.bs, shuffle=True, num_workers=arguments.num_workers
        )
        self.network = SegmentationNetwork(base_channels=arguments.base_channels).to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=arguments.lr)
        self.network.train()

    def batches(self) -> Iterator:
        """The loader's batches, epoch after epoch without end."""
        while True:
            yield from self.loader

    def step(self, batch: dict[str, torch.Tensor]) -> float:
        """Take one optimizer step; returns the loss."""
        images = batch["three_channel_input"].to(self.device)
        classes = (
            functional.one_hot(batch["target_mask"].cpu().long().squeeze(1), 2)
            .permute(0, 3, 1, 2)
            .float()
        )
        classes = classes.to(self.device)
        probability = torch.softmax(self.network(images), dim=1).clamp(1e-6, 1)
        weights = torch.tensor([1 - ALPHA, ALPHA]).reshape(1, 2, 1, 1).to(self.device)
        loss = (
            -(weights * classes * (1 - probability) ** GAMMA * torch.log(probability))
            .sum(dim=1)
            .mean()
        )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def close(self) -> None:
        """Nothing to stop: the loader's workers end with it."""


class Stopwatch:
    """Adds up the time of each phase of a step.

    On a GPU it waits for the end of each phase, which makes the whole step slower.
    """

    def __init__(self, loop: OurLoop | PlainLoop, device: torch.device):
        self.seconds: dict[str, float] = defaultdict(float)
        self.loop, self.device = loop, device

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of a block to a phase."""
        synchronize(self.device)
        started = time.perf_counter()
        yield
        synchronize(self.device)
        self.seconds[name] += time.perf_counter() - started

    def around(self, name: str, function: Callable) -> Callable:
        """`function`, with the time of each call added to a phase."""

        def timed(*arguments, **options):
            with self.phase(name):
                return function(*arguments, **options)

        return timed

    def run(self, batches: Iterator, steps: int) -> dict[str, float]:
        """Milliseconds a step of each phase and of `rest`, which is above all the loss.

        Replaces `torch.Tensor.backward` and methods of the loop during the call.
        """
        originals = self.loop.network.forward, self.loop.optimizer.step, torch.Tensor.backward
        self.loop.network.forward = self.around("forward", originals[0])
        self.loop.optimizer.step = self.around("step", originals[1])
        torch.Tensor.backward = self.around("backward", originals[2])
        started = time.perf_counter()
        for _ in range(steps):
            with self.phase("data"):
                batch = next(batches)
            self.loop.step(batch)
        synchronize(self.device)
        whole = time.perf_counter() - started
        self.loop.network.forward, self.loop.optimizer.step, torch.Tensor.backward = originals
        phases = {name: self.seconds[name] for name in PHASES}
        return {
            name: seconds / steps * 1000
            for name, seconds in (phases | {"rest": whole - sum(phases.values())}).items()
        }


def synchronize(device: torch.device) -> None:
    """Wait for the work of a GPU; does nothing on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def patches_per_second(
    loop: OurLoop | PlainLoop, batches: Iterator, steps: int, device: torch.device, batch_size: int
) -> float:
    """The speed of a loop over so many steps."""
    synchronize(device)
    started = time.perf_counter()
    for _ in range(steps):
        loop.step(next(batches))
    synchronize(device)
    return steps * batch_size / (time.perf_counter() - started)


def make_dataset(
    folder: Path,
    count: int,
    compression: str | None = None,
    size: tuple[int, int] = STRIP_SIZE,
) -> Dataset:
    """`count` demo strips as TIFF files in a folder, all of them for training.

    `size` is their (height, width) in pixels.
    """
    strips = []
    for number in range(count):
        path = folder / f"{number}.tiff"
        image = make_strip(np.random.default_rng(number), size)
        tifffile.imwrite(
            path, image, photometric="minisblack", planarconfig="separate", compression=compression
        )
        strips.append(StripFile(path, Path(path.name), None, None))
    return Dataset(size, strips, [], [])


def make_arguments(folder: Path, *flags: object) -> argparse.Namespace:
    """The arguments of trainer.py with a folder for strips and run, and further flags."""
    own = ("--training_dataset_path", folder, "--checkpoint_path", folder)
    return parse_args(list(map(str, (*FIRST_RECIPE, *FULL_PRECISION, *own, *flags))))


def compare_speed(
    dataset: Dataset,
    device: torch.device,
    base_channels: int,
    batch_size: int,
    steps: int,
    rounds: int,
    variants: dict[str, tuple[str, ...]] = VARIANTS,
) -> Iterator[Speed]:
    """Time the plain loop and variants of ours in turn; the plain loop is the first result.

    `variants` maps names to flags of trainer.py.
    """
    folder = dataset.train[0].path.parent
    workers = WORKERS_ON_GPU if device.type == "cuda" else 0
    flags = ("--base_channels", base_channels, "--bs", batch_size, "--num_workers", workers)
    loops: dict[str, OurLoop | PlainLoop] = {
        "plain loop": PlainLoop(make_arguments(folder, *flags), dataset, device)
    }
    for name, more in variants.items():
        loops[name] = OurLoop(make_arguments(folder, *flags, *more), dataset, device)
    sources = {name: loop.batches() for name, loop in loops.items()}
    speeds: dict[str, list[float]] = defaultdict(list)
    for name, loop in loops.items():
        patches_per_second(loop, sources[name], WARM_UPS, device, batch_size)
    for _ in range(rounds):
        for name, loop in loops.items():
            speeds[name].append(patches_per_second(loop, sources[name], steps, device, batch_size))
    for name, loop in loops.items():
        reset_peak_memory(device)
        phases = Stopwatch(loop, device).run(sources[name], steps)
        yield Speed(name, statistics.median(speeds[name]), phases, peak_memory(device))
        loop.close()


def reset_peak_memory(device: torch.device) -> None:
    """Begin to measure the peak of a GPU's memory anew."""
    if device.type == "cuda":
        torch.cuda.init()  # the figures of a process that has not used the GPU cannot be reset
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int | None:
    """The peak of torch's memory on a GPU in bytes; None for the CPU.

    It holds what every loop keeps between its steps.
    """
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def print_speeds(
    speeds: list[Speed], device: torch.device, base_channels: int, batch_size: int
) -> None:
    """Print a row for each loop; the plain loop is the first."""
    where = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    for speed in speeds:
        times = (f"{milliseconds:,.1f}" for milliseconds in speed.phases.values())
        ratio = speed.patches_per_second / speeds[0].patches_per_second
        shown = f"{speed.patches_per_second:,.1f}", f"{ratio:.2f}"
        print_row(where, base_channels, batch_size, speed.name, *shown, *times)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--strips", type=int, default=20)
    parser.add_argument("--steps", type=int, default=10, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--base_channels", type=int, default=16, help="on the CPU; on a GPU 64")
    arguments = parser.parse_args()
    phases = (f"{phase}, ms" for phase in (*PHASES, "rest"))
    print_header("device", "base channels", "batch", "", "patches/s", "times plain", *phases)
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder), arguments.strips)
        runs = [(torch.device("cpu"), arguments.base_channels, 16, arguments.steps)]
        if torch.cuda.is_available():
            gpu, steps = torch.device("cuda", 0), 5 * arguments.steps
            runs = [(gpu, 64, 16, steps), (gpu, 64, 64, steps), *runs]
        for device, base_channels, batch_size, steps in runs:
            setting = device, base_channels, batch_size
            speeds = list(compare_speed(dataset, *setting, steps, arguments.rounds))
            print_speeds(speeds, *setting)


if __name__ == "__main__":
    main()

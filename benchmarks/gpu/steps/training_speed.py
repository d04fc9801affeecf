"""This trainer beside the plain loop, and the loader beside both."""

import time
from collections.abc import Iterator

import torch

from benchmarks.gpu.figures import Figure, at_least
from benchmarks.gpu.materials import repeated_dataset
from benchmarks.gpu.setup import Setup
from benchmarks.training import Speed, compare_speed, make_arguments
from common.distributed import ProcessGroup
from common.settings import from_values
from data.splits import Dataset
from dataloader import WORKERS_ON_GPU, TrainingLoader
from training.strip_settings import TrainingSettings
from training.strip_task import training_patches

TIMES_PLAIN = 3  # wanted of this trainer with --amp, and of the plain loop's speed
BEST = "this trainer, --amp"


def run(setup: Setup) -> Iterator[Figure]:
    """Yield the speed of each loop at two batch sizes, and that of the loader alone."""
    base_channels, sizes = setup.choose((64, (16, 64)), (2, (2,)))
    # 1152 patches, a multiple of both batches: no loop meets a smaller one
    dataset = repeated_dataset(setup, setup.choose(64, 2))
    fastest = 0.0
    for batch_size in sizes:
        steps, rounds = setup.choose((12, 3), (1, 1))
        speeds = list(
            compare_speed(dataset, setup.device, base_channels, batch_size, steps, rounds)
        )
        fastest = max(fastest, *(without_data(speed, batch_size) for speed in speeds))
        yield from figures_of(setup, speeds, batch_size)
    for workers in setup.choose((0, 2, 4, 8, 16), (0, 1)):
        speed = loader_speed(setup, dataset, workers)
        name = f"loader alone, robust recipe, {workers} workers"
        # the default must not be the limit of the fastest loop
        is_binding = workers == WORKERS_ON_GPU and not setup.is_dry
        yield at_least(name, speed, fastest, "patches/s", is_binding)


def without_data(speed: Speed, batch_size: int) -> float:
    """Patches per second of a loop that never waits for its loader."""
    step = sum(speed.phases.values()) - speed.phases["data"]
    return 1000 * batch_size / step


def figures_of(setup: Setup, speeds: list[Speed], batch_size: int) -> Iterator[Figure]:
    """The figures of all loops at one batch size; the plain loop is the first of them."""
    for speed in speeds:
        name = f"batch {batch_size}, {speed.name}"
        yield Figure(name, speed.patches_per_second, "patches/s")
        times = ", ".join(f"{phase} {value:.2f}" for phase, value in speed.phases.items())
        yield Figure(f"{name}: a step's phases", times, "ms")
        if speed.peak_memory is not None:
            shown = f"{name}: peak memory, weights of the other loops included"
            yield Figure(shown, speed.peak_memory / 2**30, "GiB")
        if speed.name == BEST:
            ratio = speed.patches_per_second / speeds[0].patches_per_second
            name = f"{name}: times the plain loop"
            yield at_least(name, ratio, TIMES_PLAIN, "", is_binding=not setup.is_dry)


def loader_speed(setup: Setup, dataset: Dataset, workers: int) -> float:
    """Patches per second that the loader delivers to the GPU, with no training."""
    arguments = make_arguments(setup.folder, "--recipe", "robust", "--bs", 16)
    samples = training_patches(from_values(TrainingSettings, vars(arguments)), dataset)
    loader = TrainingLoader(samples, ProcessGroup(setup.device), 16, 1, 42, workers)
    epochs, count = setup.choose(2, 1), 0
    for _ in loader.steps(0, 0):  # starts the workers
        pass
    started = time.perf_counter()
    for epoch in range(1, 1 + epochs):
        for (batch,) in loader.steps(epoch, 0):
            images = batch["three_channel_input"].to(setup.device, non_blocking=True)
            count += len(images)
    torch.empty(1, device=setup.device).item()  # waits for the copies
    loader.close()
    return count / (time.perf_counter() - started)

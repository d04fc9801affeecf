"""`--compile`: strips through a compiled network, and training with it beside training without."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from unittest import mock

import torch

from benchmarks.gpu.figures import Figure, attempt
from benchmarks.gpu.materials import (
    PATCH,
    make_batch,
    make_network,
    milliseconds,
    repeated_dataset,
)
from benchmarks.gpu.setup import Setup
from benchmarks.training import (
    OurLoop,
    make_arguments,
    patches_per_second,
    peak_memory,
    reset_peak_memory,
    synchronize,
)
from data.splits import Dataset
from dataloader import WORKERS_ON_GPU
from model import SegmentationNetworkONNXFullImage

WARM_UPS = 2  # untimed steps after the first one, which compiles


def run(setup: Setup) -> Iterator[Figure]:
    """Yield the times of compiled strips and the speeds of compiled trainings, in turn.

    Each compiles for up to a minute: what is most worth knowing comes first.
    """
    dataset = repeated_dataset(setup, setup.choose(64, 2))
    many, few = setup.choose((64, 16), (4, 2))
    parts = {
        "a training, --amp": partial(training, setup, dataset, many, "--amp"),
        "strips, bfloat16": partial(strip, setup, "bfloat16", setup.choose(8, 1)),
        "a training, --amp, small batch": partial(training, setup, dataset, few, "--amp"),
        "a strip, bfloat16": partial(strip, setup, "bfloat16", 1),
        "a training": partial(training, setup, dataset, many),
        "strips, float32": partial(strip, setup, "float32", 8),
    }
    for name in list(parts)[: setup.choose(None, 2)]:
        torch.compiler.reset()  # what was compiled before counts against a limit
        yield from attempt(f"compiling {name}", parts[name])


def compiler(setup: Setup) -> AbstractContextManager:
    """A block in which a training of a dry run compiles nothing, which would take half a minute."""
    return setup.choose(nullcontext(), mock.patch("torch.compile", lambda forward: forward))


def training(setup: Setup, dataset: Dataset, batch_size: int, *precision: str) -> Iterator[Figure]:
    """The speed of a training without and with --compile, and the time of the first step."""
    flags = ["--base_channels", setup.choose(64, 2), "--bs", batch_size]
    flags += ["--num_workers", setup.choose(WORKERS_ON_GPU, 0), *precision]
    speeds = []
    for more in ([], ["--compile"]):
        name = " ".join([f"batch {batch_size}, this trainer", *precision, *more])
        reset_peak_memory(setup.device)
        with compiler(setup):
            loop = OurLoop(make_arguments(setup.folder, *flags, *more), dataset, setup.device)
        batches = loop.batches()
        started = time.perf_counter()
        loop.step(next(batches))
        synchronize(setup.device)
        yield Figure(f"{name}: first step", time.perf_counter() - started, "s")
        work = loop, batches
        for steps in (setup.choose(WARM_UPS, 1), setup.choose(36, 1)):
            speed = patches_per_second(*work, steps, setup.device, batch_size)
        speeds.append(speed)
        yield Figure(name, speed, "patches/s")
        memory = peak_memory(setup.device)
        if memory is not None:
            yield Figure(f"{name}: peak memory", memory / 2**30, "GiB")
        loop.close()
    without, compiled = speeds
    yield Figure(f"{name}: times the one without", compiled / without)


def strip(setup: Setup, kind: str, batch: int) -> Iterator[Figure]:
    """The time of a strip through a compiled network, and that of the first call."""
    name = f"{kind}, torch.compile, batch {batch}"
    network = make_network("unet", setup.choose(64, 2))
    detector = SegmentationNetworkONNXFullImage(network, setup.strip_size, PATCH).eval()
    backend = setup.choose("inductor", "eager")  # a dry run needs no C++ compiler
    compiled = torch.compile(detector.to(setup.device), backend=backend, dynamic=False)
    strips = make_batch(setup, batch).to(setup.device)
    is_half = kind == "bfloat16"
    # No generator yields in here: when it goes on, inference mode has forgotten about autocast.
    with (
        torch.inference_mode(),
        torch.autocast(setup.device.type, torch.bfloat16, enabled=is_half),
    ):
        started = time.perf_counter()
        compiled(strips)
        synchronize(setup.device)
        first = time.perf_counter() - started
        duration = milliseconds(partial(compiled, strips), setup.device, setup.is_dry) / batch
    yield Figure(f"{name}: first call", first, "s")
    yield Figure(name, duration, "ms a strip")

"""`--compile`: training beside the plain loop, and a strip through a compiled network."""

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.gpu.figures import Figure, Setup, attempt
from benchmarks.gpu.materials import (
    PATCH,
    make_batch,
    make_network,
    milliseconds,
    repeated_dataset,
)
from benchmarks.gpu.steps.training_speed import figures_of
from benchmarks.training import compare_speed
from model import SegmentationNetworkONNXFullImage

NAME = "this trainer, --compile"


def run(setup: Setup) -> Iterator[Figure]:
    """Yield the speed of compiled trainings, then the time of compiled strips."""
    for flags, batch_size in setup.choose(((("--amp",), 64), ((), 64), (("--amp",), 16)), ()):
        name = " ".join([NAME, *flags])
        yield from attempt(
            f"batch {batch_size}, {name}",
            partial(training, setup, {name: ("--compile", *flags)}, batch_size),
        )
    for kind, batch in setup.choose(
        (("bfloat16", 1), ("bfloat16", 8), ("bfloat16", 32), ("float32", 8)), (("bfloat16", 1),)
    ):
        name = f"{kind}, torch.compile, batch {batch}"
        yield from attempt(name, partial(strip, setup, kind, batch, name))


def training(
    setup: Setup, variants: dict[str, tuple[str, ...]], batch_size: int
) -> Iterator[Figure]:
    """The speed of a compiled training beside the plain loop."""
    dataset = repeated_dataset(setup, 64)
    yield from figures_of(
        setup,
        list(compare_speed(dataset, setup.device, 64, batch_size, 36, 3, variants)),
        batch_size,
    )


def strip(setup: Setup, kind: str, batch: int, name: str) -> Iterator[Figure]:
    """The time of a strip through a compiled network."""
    network = make_network("unet", setup.choose(64, 2))
    detector = SegmentationNetworkONNXFullImage(network, setup.strip_size, PATCH).eval()
    # a dry run compiles nothing: that would take half a minute and a C++ compiler
    backend = setup.choose("inductor", "eager")
    compiled = torch.compile(detector.to(setup.device), backend=backend, dynamic=False)
    strips = make_batch(setup, batch).to(setup.device)
    is_half = kind == "bfloat16"
    with (
        torch.inference_mode(),
        torch.autocast(setup.device.type, torch.bfloat16, enabled=is_half),
    ):
        time = milliseconds(partial(compiled, strips), setup.device, setup.is_dry) / batch
    yield Figure(name, time, "ms a strip")

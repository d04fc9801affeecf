"""`--compile`: training beside the plain loop, and a strip through a compiled network."""

from collections.abc import Iterator

import torch

from benchmarks.gpu.figures import Figure, Setup
from benchmarks.gpu.materials import PATCH, make_batch, make_network, milliseconds
from benchmarks.gpu.steps.training_speed import figures_of
from benchmarks.training import compare_speed, make_dataset
from model import SegmentationNetworkONNXFullImage

VARIANTS = {"this trainer, --amp --compile": ("--amp", "--compile")}


def run(setup: Setup) -> Iterator[Figure]:
    """Yield the time of a compiled strip, then the speed of a compiled training."""
    network = make_network("unet", setup.choose(64, 2))
    detector = SegmentationNetworkONNXFullImage(network, setup.strip_size, PATCH).eval()
    # a dry run compiles nothing: that would take half a minute and a C++ compiler
    compiled = torch.compile(detector.to(setup.device), backend=setup.choose("inductor", "eager"))
    for batch in setup.choose((1, 8), (1,)):
        strips = make_batch(setup, batch).to(setup.device)
        with torch.inference_mode(), torch.autocast(setup.device.type, torch.bfloat16):
            time = (
                milliseconds(lambda strips=strips: compiled(strips), setup.device, setup.is_dry)
                / batch
            )
        yield Figure(f"bfloat16, torch.compile, batch {batch}", time, "ms a strip")
    if setup.is_dry:
        return
    dataset = make_dataset(setup.folder, 20)
    speeds = list(compare_speed(dataset, setup.device, 64, 64, 30, 3, VARIANTS))
    yield from figures_of(setup, speeds, 64)

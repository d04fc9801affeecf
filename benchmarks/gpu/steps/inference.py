"""Milliseconds a strip in PyTorch: the arithmetic's own limit, types, CUDA graphs."""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.figures import Figure, Setup, attempt
from benchmarks.gpu.materials import PATCH, make_batch, make_network, milliseconds
from common.device import full_precision
from deploy.precision import in_half_precision
from model import SegmentationNetworkONNXFullImage
from ops.classical import classical_detector

PRODUCT_SIDE = 8192  # rows and columns of the matrices whose product shows the card's speed


@dataclass(frozen=True)
class Kind:
    """A way to compute a network: its name, the module, and what surrounds each call."""

    name: str
    module: nn.Module
    context: Callable[[], AbstractContextManager]


def run(setup: Setup) -> Iterator[Figure]:
    """Yield the time of a strip at each batch, for two networks and a classical method."""
    speed = matrix_speed(setup)
    yield Figure("product of float16 matrices", speed / 1e12, "TFLOP/s")
    width, size = setup.choose(64, 2), setup.strip_size
    for architecture, align, mode in (("unet", "none", "tiles"), ("difference", "fine", "whole")):
        network = make_network(architecture, width)
        detector = SegmentationNetworkONNXFullImage(network, size, PATCH, align, mode).eval()
        name = f"{architecture}, {width} channels, {mode}, align {align}"
        operations = count_operations(detector, make_batch(setup, 1))
        yield Figure(f"{name}: arithmetic", operations / 1e9, "GFLOP a strip")
        yield Figure(f"{name}: limit in float16", 1000 * operations / speed, "ms a strip")
        for kind in kinds_of(setup, detector):
            yield from attempt(f"{name}: {kind.name}", partial(times_of, setup, name, kind))
    registered = classical_detector("registered", 1.0).eval().to(setup.device)
    yield from times_of(setup, "registered difference", Kind("float32", registered, nullcontext))


def kinds_of(setup: Setup, detector: SegmentationNetworkONNXFullImage) -> Iterator[Kind]:
    """The detector on the device, in each type."""
    moved = copy.deepcopy(detector).to(setup.device, memory_format=torch.channels_last)
    half = in_half_precision(detector).to(setup.device, memory_format=torch.channels_last)
    yield Kind("float32 as scored (no TF32, no search for algorithms)", moved, full_precision)
    yield Kind("float32", moved, nullcontext)
    yield Kind("bfloat16", moved, lambda: torch.autocast(setup.device.type, torch.bfloat16))
    yield Kind("float16", half.eval(), nullcontext)


@torch.inference_mode()
def times_of(setup: Setup, name: str, kind: Kind) -> Iterator[Figure]:
    """The time of a strip at each batch, called, and replayed as a CUDA graph."""
    torch.backends.cudnn.benchmark = True
    for batch in setup.choose((1, 8, 32), (1,)):
        strips = make_batch(setup, batch).to(setup.device)
        call = partial(kind.module, strips)
        with kind.context():
            time = milliseconds(call, setup.device, setup.is_dry) / batch
            yield Figure(f"{name}: {kind.name}, batch {batch}", time, "ms a strip")
            replayed = f"{name}: {kind.name}, batch {batch}, CUDA graph"
            yield from attempt(replayed, partial(replay, setup, call, batch, replayed))


def replay(
    setup: Setup, call: Callable[[], torch.Tensor], batch: int, name: str
) -> Iterator[Figure]:
    """The time of a strip when a call is replayed as a CUDA graph."""
    time = milliseconds(record(call, setup.device), setup.device, setup.is_dry) / batch
    yield Figure(name, time, "ms a strip")


def record(call: Callable[[], torch.Tensor], device: torch.device) -> Callable[[], object]:
    """The function that replays a call recorded as a CUDA graph; on the CPU, the call itself."""
    if device.type != "cuda":
        return call
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # cuDNN chooses its algorithms before the recording
            call()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def count_operations(detector: nn.Module, strips: torch.Tensor) -> int:
    """Floating point operations of a call: two for each product that is added."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        detector(strips)
    return counter.get_total_flops()


def matrix_speed(setup: Setup) -> float:
    """Floating point operations per second of a product of float16 matrices."""
    side = setup.choose(PRODUCT_SIDE, 64)
    matrix = torch.randn(side, side, device=setup.device, dtype=torch.float16)
    return 2 * side**3 / (milliseconds(lambda: matrix @ matrix, setup.device, setup.is_dry) / 1000)

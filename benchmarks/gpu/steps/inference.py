"""Milliseconds a strip in PyTorch: the arithmetic's own limit, types, CUDA graphs."""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.figures import Figure, attempt
from benchmarks.gpu.materials import DIFFERENT, PATCH, make_batch, make_network, milliseconds
from benchmarks.gpu.setup import Setup
from benchmarks.training import make_dataset
from common.device import full_precision
from data.image_files import DEFAULT_INPUT_MAX, load_image
from deploy.precision import in_half_precision
from evaluation.evaluate import evaluate
from evaluation.predictors import TorchPredictor
from model import SegmentationNetwork, SegmentationNetworkONNXFullImage
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
    yield from attempt(
        "a validation", partial(validation_times, setup, make_network("difference", width))
    )
    registered = classical_detector("registered", 1.0).eval().to(setup.device)
    yield from times_of(setup, "registered difference", Kind("float32", registered, nullcontext))


def validation_times(setup: Setup, network: SegmentationNetwork) -> Iterator[Figure]:
    """Where the time of a strip goes in a validation, as after each epoch of a training."""
    strips = make_dataset(setup.folder, setup.choose(DIFFERENT, 1)).train
    predictor = TorchPredictor(network, PATCH, setup.device, "fine", "likelihood")
    evaluate(predictor, strips)  # makes the constants
    activities = [ProfilerActivity.CPU, *setup.choose([ProfilerActivity.CUDA], [])]
    with profile(activities=activities) as profiler:
        predictor(load_image(strips[0].path, DEFAULT_INPUT_MAX))
    for order in setup.choose(("self_cpu_time_total", "self_cuda_time_total"), ()):
        print(profiler.key_averages().table(order, row_limit=20, max_name_column_width=60))
    result = evaluate(predictor, strips)
    times = {"the whole": result.times.elapsed} | result.times.seconds
    for stage, seconds in times.items():
        yield Figure(f"a validation: {stage}", 1000 * seconds / len(strips), "ms a strip")


def kinds_of(setup: Setup, detector: SegmentationNetworkONNXFullImage) -> Iterator[Kind]:
    """The detector on the device, in each type."""
    moved = copy.deepcopy(detector).to(setup.device, memory_format=torch.channels_last)
    half = in_half_precision(detector).to(setup.device, memory_format=torch.channels_last)
    yield Kind("float32 as scored (no TF32, no search for algorithms)", moved, full_precision)
    yield Kind("float32", moved, nullcontext)
    yield Kind("bfloat16", moved, lambda: torch.autocast(setup.device.type, torch.bfloat16))
    yield Kind("float16", half.eval(), nullcontext)


def times_of(setup: Setup, name: str, kind: Kind) -> Iterator[Figure]:
    """The time of a strip at each batch, called, and replayed as a CUDA graph."""
    for batch, is_replayed in product(setup.choose((1, 8, 32), (1,)), (False, True)):
        full_name = f"{name}: {kind.name}, batch {batch}{', CUDA graph' if is_replayed else ''}"
        yield from attempt(full_name, partial(time_of, setup, full_name, kind, batch, is_replayed))


def time_of(setup: Setup, name: str, kind: Kind, batch: int, is_replayed: bool) -> Iterator[Figure]:
    """The time of a strip in a batch."""
    torch.backends.cudnn.benchmark = True
    strips = make_batch(setup, batch).to(setup.device)
    # No generator yields in here: when it goes on, inference mode has forgotten about autocast.
    with torch.inference_mode(), kind.context():
        call = partial(kind.module, strips)
        call = record(call, setup.device) if is_replayed else call
        time = milliseconds(call, setup.device, setup.is_dry) / batch
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

"""ONNX Runtime on CUDA: placement, parity and time of exported files, from Python and from C++."""

import multiprocessing
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from benchmarks.cpp import export_model
from benchmarks.gpu.figures import Figure, at_least, at_most, attempt
from benchmarks.gpu.materials import (
    PATCH,
    make_batch,
    make_network,
    milliseconds,
    require_success,
    run_python,
    train_network,
)
from benchmarks.gpu.setup import Setup
from benchmarks.gpu.steps.parity import LARGEST_OF_FLOAT16
from deploy.onnx_export import write_graph
from deploy.parity import PARITY_TOLERANCE
from deploy.precision import in_half_precision
from deploy.session import PROVIDERS, SessionSettings, make_call, nodes_by_provider, place_session
from model import SegmentationNetworkONNXFullImage
from ops.likelihood import DEFAULT_WEIGHTING
from tests.cpp import SOURCES

OPSETS = 18, 17  # of a GPU, and of a dry run: its exporter is ten times as fast
MOST_MILLISECONDS, LEAST_PER_SECOND = 2.0, 1000.0  # a strip at batch 1, strips at the best batch
CPU = torch.device("cpu")  # each call ends with the heatmap in host memory: nothing to wait for
# of a GPU: (mode, precision) of the files, the most valuable first
FILES = (("whole", "fp16"), ("points", "fp16"), ("tiles", "fp16"), ("whole", "fp32"))
FILES += (("points", "fp32"), ("tiles", "fp32"))
SMALL_FILES = (("whole", "fp16"), ("whole", "fp32"))  # of a dry run
CHANNELS_LAST, BY_TIMING = "channels last", "algorithms chosen by timing"
# how a session may be placed besides the usual way, and at which batch that is timed
OTHER_WAYS = ((CHANNELS_LAST, 1), (CHANNELS_LAST, 8), (BY_TIMING, 1))
SETTINGS = {CHANNELS_LAST: {"channels_last": True}, BY_TIMING: {"algorithm_search": "EXHAUSTIVE"}}
MOST_NAMED = 6  # operations that are not computed by the GPU, named with their counts
Times = dict[tuple[str, int], list[float]]  # of a precision and a batch, in ms a strip


def run(setup: Setup) -> Iterator[Figure]:
    """Yield, for each mode and precision, where nodes run, the difference, and the times.

    A part that fails leaves the others. The files are written by processes of their own, all at the
    same time, as an exporter uses one core.
    """
    if PROVIDERS[device_of(setup)] not in onnxruntime.get_available_providers():
        found = ", ".join(onnxruntime.get_available_providers())
        yield Figure("ONNX Runtime", f"not run: it has only {found}")
        return
    kinds = setup.choose(FILES, SMALL_FILES)
    started, times = time.monotonic(), defaultdict(list)
    with ProcessPoolExecutor(
        setup.choose(len(kinds) + 1, 1), mp_context=multiprocessing.get_context("fork")
    ) as pool:
        # the processes are forked here, before this one touches the GPU or has threads
        plain_file = pool.submit(write_plain_file, setup)
        yield from attempt("a training for the files", partial(save_network, setup))
        files = {kind: pool.submit(write_file, setup, *kind) for kind in kinds}
        for kind in kinds:
            name = "_".join(kind)
            yield from attempt(name, partial(wait_for, files[kind], f"{name}: written", started))
            if file_of(setup, *kind).exists():
                yield from attempt(name, partial(placement, setup, *kind))
                yield from attempt(name, partial(difference, setup, *kind))
                yield from speeds(setup, *kind, times)
                for way, batch in OTHER_WAYS if "fp16" in kind else ():
                    yield from attempt(name, partial(other_way, setup, *kind, batch, way))
            if kind == kinds[0]:
                yield from judge(setup, times)
                yield from attempt("C++ library", partial(from_cpp, setup, plain_file))
    yield from judge(setup, times)


def device_of(setup: Setup) -> str:
    """The name of the device in deploy/session.py."""
    return setup.choose("cuda", "cpu")


def save_network(setup: Setup) -> Iterator[Figure]:
    """Write the network of all files, trained for a while; untrained where that fails."""
    path, width = setup.folder / "network.pt", setup.choose(64, 2)
    torch.save(make_network("difference", width), path)
    started = time.monotonic()
    torch.save(train_network(setup, "difference", width), path)
    yield Figure("a training for the files", time.monotonic() - started, "s")


def write_file(setup: Setup, mode: str, precision: str) -> None:
    """Write the file of a mode and a precision."""
    torch.set_num_threads(1)
    detector = make_detector(setup, mode)
    exported = in_half_precision(detector) if precision == "fp16" else detector
    images, path = torch.zeros(2, 3, *setup.strip_size), file_of(setup, mode, precision)
    # under another name first: what has the file's name is whole
    write_graph(exported.eval(), images, setup.choose(*OPSETS), path.with_suffix(".part"))
    path.with_suffix(".part").rename(path)


def write_plain_file(setup: Setup) -> Path:
    """Write a file with its metadata, which the C++ library asks for."""
    torch.set_num_threads(1)
    size, width = setup.strip_size, setup.choose(16, 2)
    return export_model(setup.folder, width, setup.choose(*OPSETS), size)


def wait_for(file: Future, name: str, started: float) -> Iterator[Figure]:
    """Wait until a file is written."""
    file.result()
    yield Figure(name, time.monotonic() - started, "s after the start")


def make_detector(setup: Setup, mode: str) -> SegmentationNetworkONNXFullImage:
    """What the file of a mode computes: the default of training, around the saved network."""
    network = torch.load(setup.folder / "network.pt", weights_only=False)
    return SegmentationNetworkONNXFullImage(
        network, setup.strip_size, PATCH, "fine", mode, DEFAULT_WEIGHTING
    ).eval()


def file_of(setup: Setup, mode: str, precision: str) -> Path:
    """Where the file of a mode and a precision is."""
    return setup.folder / f"{mode}_{precision}.onnx"


def limit_of(precision: str) -> float:
    """The largest difference between two heatmaps of a precision that counts as rounding."""
    return LARGEST_OF_FLOAT16 if precision == "fp16" else PARITY_TOLERANCE


def placement(setup: Setup, mode: str, precision: str) -> Iterator[Figure]:
    """Where the nodes of a file run, and which are not on the GPU."""
    path = file_of(setup, mode, precision)
    session = place_session(path, SessionSettings(device_of(setup), batch=3)).session
    nodes = nodes_by_provider(session)
    counts = ", ".join(f"{name} {count.total()}" for name, count in nodes.items())
    yield Figure(f"{path.stem}: nodes", counts)
    others = [count for name, count in nodes.items() if name != PROVIDERS["cuda"]]
    named = sum(others, Counter()).most_common(MOST_NAMED)
    shown = ", ".join(f"{operation} {count}" for operation, count in named) or "none"
    yield Figure(f"{path.stem}: nodes elsewhere than on a GPU, the most frequent", shown)


def difference(setup: Setup, mode: str, precision: str) -> Iterator[Figure]:
    """The largest difference of a file's heatmaps to PyTorch's."""
    path, strips = file_of(setup, mode, precision), make_batch(setup, 3)
    placed = place_session(path, SessionSettings(device_of(setup), batch=3))
    found = make_call(placed, 3)(strips.numpy())
    with torch.inference_mode():
        expected = make_detector(setup, mode)(strips)[:, 0].numpy()
    name = f"{path.stem}: difference to PyTorch in float32 on the CPU"
    is_binding = precision != "fp16" or not setup.is_dry
    largest = float(np.abs(found - expected).max())
    yield at_most(name, largest, limit_of(precision), "", is_binding)


def speeds(setup: Setup, mode: str, precision: str, times: Times) -> Iterator[Figure]:
    """The times of a file at each batch, which are added to `times`.

    A CUDA graph must find what a call without one finds.
    """
    batches = setup.choose((1, 8, 32) if precision == "fp16" else (1, 8), (1,))
    for batch in batches:
        heatmaps: list[np.ndarray] = []
        for cuda_graph in (False, True):
            name = f"{mode}_{precision}: batch {batch}{', CUDA graph' if cuda_graph else ''}"
            settings = SessionSettings(
                device_of(setup), batch, cuda_graph=cuda_graph and not setup.is_dry
            )
            path = file_of(setup, mode, precision)
            for figure in attempt(name, partial(speed, setup, path, settings, name, heatmaps)):
                yield figure
                if figure.unit == "ms a strip":
                    times[precision, batch].append(figure.value)
        if len(heatmaps) == 2:
            limit = limit_of(precision)
            largest = float(np.abs(heatmaps[0] - heatmaps[1]).max())
            yield at_most(f"{name}, difference to a call without", largest, limit)


def speed(
    setup: Setup, path: Path, settings: SessionSettings, name: str, heatmaps: list[np.ndarray]
) -> Iterator[Figure]:
    """The time of a strip in a call with a full batch, from host memory and back.

    What a later call than the first finds is added to `heatmaps`.
    """
    strips = make_batch(setup, settings.batch).numpy()
    started = time.monotonic()
    call = make_call(place_session(path, settings), settings.batch)
    call(np.zeros_like(strips))  # chooses algorithms, and records a graph
    yield Figure(f"{name}, opening and first call", time.monotonic() - started, "s")
    heatmaps.append(call(strips))
    duration = milliseconds(partial(call, strips), CPU, setup.is_dry) / settings.batch
    yield Figure(name, duration, "ms a strip")


def other_way(setup: Setup, mode: str, precision: str, batch: int, way: str) -> Iterator[Figure]:
    """The time of a strip in a session placed in one of OTHER_WAYS, and what it finds otherwise."""
    path, found = file_of(setup, mode, precision), []
    cuda_graph = batch == 1 and not setup.is_dry
    usual = SessionSettings(device_of(setup), batch, cuda_graph=cuda_graph)
    name = f"{path.stem}: batch {batch}{', CUDA graph' if cuda_graph else ''}, {way}"
    yield from speed(setup, path, replace(usual, **SETTINGS[way]), name, found)
    expected = make_call(place_session(path, usual), batch)(make_batch(setup, batch).numpy())
    limit = limit_of(precision)
    largest = float(np.abs(found[0] - expected).max())
    yield at_most(f"{name}, difference to the usual way", largest, limit)


def judge(setup: Setup, times: Times) -> Iterator[Figure]:
    """The best times of float16 so far beside what is wanted of them."""
    halves = {batch: min(times[name, batch]) for name, batch in times if name == "fp16"}
    is_binding = not setup.is_dry
    alone, best = halves.get(1, np.nan), min(halves.values(), default=np.nan)
    yield at_most("fp16 so far, batch 1", alone, MOST_MILLISECONDS, "ms a strip", is_binding)
    yield at_least("fp16 so far, best batch", 1000 / best, LEAST_PER_SECOND, "strips/s", is_binding)


def from_cpp(setup: Setup, plain_file: Future) -> Iterator[Figure]:
    """Whether the C++ library finds the heatmaps of Python's runtime on the device, and its time.

    It takes the library that deploy/cpp/build.sh has built before, as a machine without a package
    registry has no headers to build it with, and the runtime of this Python's wheel.
    """
    library = SOURCES / "build" / "checks" / "libstrip_detector.so"
    if not library.exists():
        yield Figure("C++ library", "not run: bash deploy/cpp/build.sh checks has not been run")
        return
    model = plain_file.result()
    links = setup.folder / "runtime"
    links.mkdir()
    for path in (Path(onnxruntime.__file__).parent / "capi").glob("*.so*"):
        (links / path.name).symlink_to(path)
        if path.name.startswith("libonnxruntime.so."):
            (links / "libonnxruntime.so.1").symlink_to(path)
    strips = make_batch(setup, 1).numpy()
    np.save(setup.folder / "strips.npy", strips)
    device = device_of(setup)
    words = ["-m", "benchmarks.gpu.cpp_call", model, setup.folder, device]
    others = os.environ.get("LD_LIBRARY_PATH", "")  # a driver's folder, on some machines
    environment = os.environ | {"LD_LIBRARY_PATH": f"{links}:{others}".strip(":")}
    done = require_success(run_python(setup, *words, env=environment))
    duration, version = done.stdout.split()[-2:]
    yield Figure("C++ library: ONNX Runtime", version)
    yield Figure("C++ library, batch 1, whole, fp32", float(duration), "ms a strip")
    call = make_call(place_session(model, SessionSettings(device)), 1)
    expected = call(strips)
    largest = float(np.abs(np.load(setup.folder / "heatmaps.npy") - expected).max())
    yield at_most("C++ library beside Python", largest, PARITY_TOLERANCE)
    alone = milliseconds(partial(call, strips), CPU, setup.is_dry)
    yield Figure("Python, the same file", alone, "ms a strip")

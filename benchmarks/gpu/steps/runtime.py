"""ONNX Runtime on CUDA: placement, parity and time of exported files, from Python and from C++."""

import multiprocessing
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from benchmarks.cpp import export_model
from benchmarks.gpu.figures import Figure, Setup, at_least, at_most, attempt
from benchmarks.gpu.materials import (
    PATCH,
    make_batch,
    milliseconds,
    require_success,
    run_python,
    train_network,
)
from benchmarks.gpu.steps.parity import LARGEST_OF_FLOAT16
from data.demo_strips import STRIP_SIZE
from deploy.onnx_export import write_graph
from deploy.parity import PARITY_TOLERANCE
from deploy.precision import in_half_precision
from deploy.session import PROVIDERS, SessionSettings, make_call, nodes_by_provider, place_session
from model import EXPORT_MODES, SegmentationNetwork, SegmentationNetworkONNXFullImage
from tests.cpp import SOURCES

OPSETS = 18, 17  # of a GPU, and of a dry run: its exporter is ten times as fast
MOST_MILLISECONDS, LEAST_PER_SECOND = 2.0, 1000.0  # a strip at batch 1, strips at the best batch
CPU = torch.device("cpu")  # each call ends with the heatmap in host memory: nothing to wait for


def run(setup: Setup) -> Iterator[Figure]:
    """Yield, for each mode and precision, where nodes run, the difference, and the times."""
    if PROVIDERS[device_of(setup)] not in onnxruntime.get_available_providers():
        found = ", ".join(onnxruntime.get_available_providers())
        yield Figure("ONNX Runtime", f"not run: it has only {found}")
        return
    network = train_network(setup, "difference", setup.choose(64, 2))
    kinds = list(product(setup.choose(EXPORT_MODES, ("whole",)), ("fp32", "fp16")))
    yield from attempt("writing the files", partial(write_files, setup, network, kinds))
    times: dict[tuple[str, int], list[float]] = defaultdict(list)  # of a precision and a batch
    for mode, precision in kinds:
        name, path = f"{mode}_{precision}", file_of(setup, mode, precision)
        detector = make_detector(network, setup, mode)
        yield from attempt(name, partial(file_figures, setup, detector, path, precision))
        for batch, cuda_graph in product(setup.choose((1, 8, 32), (1,)), (False, True)):
            timed = f"{name}: batch {batch}{', CUDA graph' if cuda_graph else ''}"
            settings = SessionSettings(
                device_of(setup), batch, cuda_graph=cuda_graph and not setup.is_dry
            )
            for figure in attempt(timed, partial(time_figures, setup, path, settings, timed)):
                yield figure
                if isinstance(figure.value, float):
                    times[precision, batch].append(figure.value)
    yield from judge(setup, times)
    yield from attempt("C++ library", partial(from_cpp, setup))


def device_of(setup: Setup) -> str:
    """The name of the device in deploy/session.py."""
    return setup.choose("cuda", "cpu")


def write_files(
    setup: Setup, network: SegmentationNetwork, kinds: list[tuple[str, str]]
) -> Iterator[Figure]:
    """Write a file for each (mode, precision) at the same time: the exporter uses one core."""
    started = time.monotonic()
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(len(kinds), mp_context=context) as pool:
        for done in [pool.submit(write_file, setup, network, *kind) for kind in kinds]:
            done.result()
    yield Figure("writing the files", time.monotonic() - started, "s")


def write_file(setup: Setup, network: SegmentationNetwork, mode: str, precision: str) -> None:
    """Write the file of a mode and a precision."""
    torch.set_num_threads(1)
    detector = make_detector(network, setup, mode)
    exported = in_half_precision(detector) if precision == "fp16" else detector
    size, path = setup.strip_size, file_of(setup, mode, precision)
    write_graph(exported.eval(), torch.zeros(2, 3, *size), setup.choose(*OPSETS), path)


def make_detector(
    network: SegmentationNetwork, setup: Setup, mode: str
) -> SegmentationNetworkONNXFullImage:
    """What the file of a mode computes: the default of training, around a network."""
    return SegmentationNetworkONNXFullImage(
        network, setup.strip_size, PATCH, "fine", mode, "likelihood"
    ).eval()


def file_of(setup: Setup, mode: str, precision: str) -> Path:
    """Where the file of a mode and a precision is."""
    return setup.folder / f"{mode}_{precision}.onnx"


def file_figures(
    setup: Setup, detector: SegmentationNetworkONNXFullImage, path: Path, precision: str
) -> Iterator[Figure]:
    """Yield where the nodes of a detector's file run, and the difference to PyTorch."""
    placed = place_session(path, SessionSettings(device_of(setup), batch=3))
    nodes = {name: count.total() for name, count in nodes_by_provider(placed.session).items()}
    yield Figure(f"{path.stem}: nodes", ", ".join(f"{name} {n}" for name, n in nodes.items()))
    strips = make_batch(setup, 3)
    with torch.inference_mode():
        expected = detector(strips)[:, 0].numpy()
    difference = float(np.abs(make_call(placed, 3)(strips.numpy()) - expected).max())
    name = f"{path.stem}: difference to PyTorch in float32 on the CPU"
    limit, is_binding = PARITY_TOLERANCE, True
    if precision == "fp16":
        limit, is_binding = LARGEST_OF_FLOAT16, not setup.is_dry
    yield at_most(name, difference, limit, "", is_binding)


def time_figures(
    setup: Setup, path: Path, settings: SessionSettings, name: str
) -> Iterator[Figure]:
    """The time of a strip in a call with a full batch, from host memory and back."""
    strips = make_batch(setup, settings.batch).numpy()
    call = make_call(place_session(path, settings), settings.batch)
    duration = milliseconds(partial(call, strips), CPU, setup.is_dry) / settings.batch
    yield Figure(name, duration, "ms a strip")


def judge(setup: Setup, times: dict[tuple[str, int], list[float]]) -> Iterator[Figure]:
    """The best times of float16 beside what is wanted of them."""
    halves = {batch: min(times[name, batch]) for name, batch in times if name == "fp16"}
    is_binding = not setup.is_dry
    alone, best = halves.get(1, np.nan), min(halves.values(), default=np.nan)
    yield at_most("fp16, batch 1", alone, MOST_MILLISECONDS, "ms a strip", is_binding)
    yield at_least("fp16, best batch", 1000 / best, LEAST_PER_SECOND, "strips/s", is_binding)


def from_cpp(setup: Setup) -> Iterator[Figure]:
    """Whether the C++ library finds the heatmaps of Python's runtime on the device, and its time.

    It takes the library that deploy/cpp/build.sh has built before, as a machine without a package
    registry has no headers to build it with, and the runtime of this Python's wheel.
    """
    library = SOURCES / "build" / "checks" / "libstrip_detector.so"
    if not library.exists():
        yield Figure("C++", "not run: bash deploy/cpp/build.sh checks has not been run")
        return
    model = export_model(setup.folder, setup.choose(16, 2), setup.choose(*OPSETS))
    links = setup.folder / "runtime"
    links.mkdir()
    for path in (Path(onnxruntime.__file__).parent / "capi").glob("*.so*"):
        (links / path.name).symlink_to(path)
        if path.name.startswith("libonnxruntime.so."):
            (links / "libonnxruntime.so.1").symlink_to(path)
    strips = make_batch(setup, 1).numpy()
    strips = np.pad(
        strips, [(0, 0), (0, 0), *((0, f - s) for f, s in zip(STRIP_SIZE, setup.strip_size))]
    )
    np.save(setup.folder / "strips.npy", strips)
    device = device_of(setup)
    words = ["-m", "benchmarks.gpu.cpp_call", model, setup.folder, device]
    done = require_success(run_python(*words, env=os.environ | {"LD_LIBRARY_PATH": str(links)}))
    duration, version = done.stdout.split()[-2:]
    call = make_call(place_session(model, SessionSettings(device)), 1)
    expected = call(strips)
    difference = float(np.abs(np.load(setup.folder / "heatmaps.npy") - expected).max())
    yield Figure("C++ library: ONNX Runtime", version)
    yield at_most("C++ library beside Python", difference, PARITY_TOLERANCE)
    yield Figure("C++ library, batch 1, whole, fp32", float(duration), "ms a strip")
    yield Figure(
        "Python, the same file",
        milliseconds(partial(call, strips), CPU, setup.is_dry),
        "ms a strip",
    )

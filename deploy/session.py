"""ONNX Runtime sessions: placing a graph on a device, proving the placement, and calling it."""

import ctypes
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import onnxruntime
import torch  # before any session is created: it loads the CUDA libraries of its wheels

from common.errors import UserError, one_line
from common.files import file_hash, refused_by_system
from common.storage import fetch
from deploy.nvidia import tensorrt_version, visible_gpus
from deploy.onnx_file import read_file

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
LIBRARIES = {"cuda": "onnxruntime_providers_cuda", "tensorrt": "onnxruntime_providers_tensorrt"}
DEVICES = ("auto", *PROVIDERS)
# operations that the device must compute; the others may stay on the CPU
COSTLY = frozenset({"Conv", "ConvInteger", "ConvTranspose", "Gemm", "MatMul", "QLinearConv"})
LARGEST_BATCH, MOST_THREADS = 1024, 256  # that a command takes
BATCH = "batch"  # the exporter's name of the input's first dimension
# ONNX Runtime's log severities; WARNINGS is its default
ERRORS_ONLY, FATAL_ONLY, WARNINGS = 3, 4, 2
ELEMENT_TYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}
# maps strips (n, C, H, W), as the file takes them, to heatmaps (n, H, W); n is at most the batch
Call = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class SessionSettings:
    """How a session is placed and called.

    `device` is one of DEVICES. `batch` is the number of strips per call (None: any number).
    `threads` are those of the CPU (None: one per core). `cuda_graph` replays a recorded CUDA graph.
    `algorithm_search` is how cuDNN chooses algorithms, HEURISTIC by its rules and EXHAUSTIVE by
    timing them. The latter is ONNX Runtime's default; with it a strip takes three times as long
    (`whole`, 64 channels, float16: docs/how-to/gpu.md). With `channels_last`, CUDA computes
    convolutions on pixels that hold their channels side by side, as its tensor cores take them.
    """

    device: str = "auto"
    batch: int | None = 1
    threads: int | None = None
    cuda_graph: bool = False
    algorithm_search: str = "HEURISTIC"
    channels_last: bool = False


ANY_DEVICE = SessionSettings()


@dataclass
class Severity:
    """The log severity of the process between the openings of sessions; ONNX Runtime has one."""

    after_opening: int


severity = Severity(WARNINGS)


@dataclass(frozen=True)
class PlacedSession:
    """A session, the device of PROVIDERS that computes its graph, and why that one was chosen."""

    session: onnxruntime.InferenceSession
    device: str
    why: str


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Open a model on the CPU.

    Raises `UserError`, without the path, when the file is missing or not a model.
    """
    return place_session(path, SessionSettings("cpu")).session


def place_session(path: Path, settings: SessionSettings) -> PlacedSession:
    """Open a model on the requested device; `auto` is CUDA if it computes the graph, else the CPU.

    Raises `UserError`, without the path, when the file is missing or not a model, as
    `onnx_file.read_file`, or when the device does not compute it.
    """
    if not path.is_file():
        raise UserError(
            "found no such file, expected an ONNX file written by export_onnx_fullimage.py"
        )
    path = fetch(path)
    read_file(path)
    if settings.cuda_graph and settings.device != "cuda":
        raise UserError(f"--cuda_graph: found --device {settings.device}, expected --device cuda")
    if settings.device != "auto":
        return PlacedSession(
            _open_proved(path, settings.device, settings), settings.device, "as asked"
        )
    gpus = visible_gpus()
    if not gpus:
        return PlacedSession(_open_proved(path, "cpu", settings), "cpu", "found no GPU")
    try:
        return PlacedSession(_open_proved(path, "cuda", settings), "cuda", f"found {gpus[0]}")
    except UserError as error:
        return PlacedSession(
            _open_proved(path, "cpu", settings), "cpu", f"{gpus[0]} cannot be used: {error}"
        )


def make_call(placed: PlacedSession, batch: int) -> Call:
    """The function that calls a session with strips.

    `make_call` and the function raise `UserError`, without the path, when ONNX Runtime fails, as it
    does without memory for `batch`.
    """
    with refused_by_runtime(batch):
        call = (
            FreeCall(placed.session)
            if placed.device == "cpu"
            else BoundCall(placed.session, batch, "cuda")
        )

    def checked(strips: np.ndarray) -> np.ndarray:
        with refused_by_runtime(batch):
            return call(strips)

    return checked


class FreeCall:
    """Calls a session with any number of strips; each call allocates its memory."""

    def __init__(self, session: onnxruntime.InferenceSession):
        self.session = session
        self.input = session.get_inputs()[0].name
        self.output = session.get_outputs()[0].name

    def __call__(self, strips: np.ndarray) -> np.ndarray:
        answer = self.session.run([self.output], {self.input: strips})[0]
        expected = (len(strips), 3, *strips.shape[2:])
        found = getattr(answer, "shape", None)
        if found != expected:
            raise UserError(f"found an answer of {found}, expected {expected} as the file declares")
        return answer[:, 0]


class BoundCall:
    """Calls a session with a fixed batch, in memory that is allocated once on a device.

    A call may pass fewer strips; the outputs of the unused rows are dropped.
    """

    def __init__(self, session: onnxruntime.InferenceSession, batch: int, device: str):
        source, target = session.get_inputs()[0], session.get_outputs()[0]
        self.session, self.binding = session, session.io_binding()
        self.strips = np.zeros((batch, *source.shape[1:]), ELEMENT_TYPES[source.type])
        self.input, self.output = (
            onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                (batch, *node.shape[1:]), ELEMENT_TYPES[node.type], device, 0
            )
            for node in (source, target)
        )
        self.binding.bind_ortvalue_input(source.name, self.input)
        self.binding.bind_ortvalue_output(target.name, self.output)

    def __call__(self, strips: np.ndarray) -> np.ndarray:
        self.strips[: len(strips)] = strips
        self.input.update_inplace(self.strips)
        self.session.run_with_iobinding(self.binding)
        # copied, since on the CPU this is the memory that the next call overwrites
        return self.output.numpy()[: len(strips), 0].copy()


def create_session(
    model: Path | bytes, device: str, settings: SessionSettings, engines: Path | None = None
) -> onnxruntime.InferenceSession:
    """Create a session that may use a device of PROVIDERS and the CPU, without a fallback.

    TensorRT stores its engines in the folder `engines` (None: nowhere). Raises whatever ONNX
    Runtime raises. When the libraries of a device are missing, ONNX Runtime drops it silently from
    the session's providers; `require_placed` finds that.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.intra_op_num_threads = settings.threads or 0
    if device != "cpu" and settings.batch:
        options.add_free_dimension_override_by_name(BATCH, settings.batch)
    providers = [*_accelerators(device, settings, engines), PROVIDERS["cpu"]]
    with silent_runtime():
        if device != "cpu" and not torch.version.cuda:
            onnxruntime.preload_dlls()
        session = onnxruntime.InferenceSession(
            model, options, providers=providers, enable_fallback=0
        )
        if device != "cpu":
            # In its first call, cuDNN logs an error for each algorithm that it tries in vain.
            # Errors of calls are raised all the same.
            severity.after_opening = FATAL_ONLY
        return session


def nodes_by_provider(session: onnxruntime.InferenceSession) -> dict[str, Counter[str]]:
    """The number of nodes of each operation that each execution provider computes."""
    nodes: dict[str, Counter[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        nodes.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
    return nodes


def require_placed(session: onnxruntime.InferenceSession, device: str) -> None:
    """Raise `UserError` unless the device computes the graph.

    It must compute at least one node, and every node of the COSTLY operations.
    """
    provider = PROVIDERS[device]
    if provider not in session.get_providers():
        raise UserError(
            f"found that its libraries do not load ({missing_library(device)}), expected them"
        )
    nodes = nodes_by_provider(session)
    elsewhere = sum(
        (operations for name, operations in nodes.items() if name != provider), Counter()
    )
    costly = sum(count for operation, count in elsewhere.items() if operation in COSTLY)
    if costly or not nodes.get(provider):
        total = elsewhere.total() + sum(nodes.get(provider, {}).values())
        raise UserError(
            f"found {elsewhere.total()} of the graph's {total} nodes elsewhere, "
            f"{costly} costly ones, expected none of those"
        )


def missing_library(device: str) -> str:
    """The system's message on why the library of a device's provider cannot be loaded."""
    suffix = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
    name = f"{'' if sys.platform == 'win32' else 'lib'}{LIBRARIES[device]}{suffix}"
    try:
        ctypes.CDLL(str(Path(onnxruntime.__file__).parent / "capi" / name))
    except OSError as error:
        return one_line(error)
    return "its library loads, but finds no device"


@contextmanager
def silent_runtime() -> Iterator[None]:
    """Suppress ONNX Runtime's long log lines about missing libraries; one error reports them."""
    onnxruntime.set_default_logger_severity(FATAL_ONLY)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        onnxruntime.set_default_logger_severity(severity.after_opening)


@contextmanager
def refused_by_runtime(batch: int) -> Iterator[None]:
    """Turn an error of ONNX Runtime in a call with `batch` images into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    # ONNX Runtime raises another class for every status, without a common base
    except Exception as error:
        text = f"found that ONNX Runtime cannot compute it ({one_line(error)})"
        raise UserError(f"{text}, expected a device with memory for --batch {batch}") from None


def _open_proved(
    path: Path, device: str, settings: SessionSettings
) -> onnxruntime.InferenceSession:
    """Open a model on a device of PROVIDERS and prove that the device computes it.

    Raises `UserError`, without the path, when the device is not available, does not compute the
    graph, or the file is not a model.
    """
    if PROVIDERS[device] not in onnxruntime.get_available_providers():
        known = ", ".join(onnxruntime.get_available_providers())
        raise UserError(
            f"--device {device}: found ONNX Runtime with {known}, "
            f"expected {PROVIDERS[device]}: see --doctor"
        )
    if device == "tensorrt" and not tensorrt_version():
        raise UserError(
            "--device tensorrt: found no TensorRT 10 that can be loaded, "
            "expected its libraries: see --doctor"
        )
    engines = _make_engine_folder(path, settings.batch) if device == "tensorrt" else None
    try:
        session = create_session(path, device, settings, engines)
    # ONNX Runtime raises another class for every status, without a common base
    except Exception as error:
        if device != "cpu":
            # fails with the message below if the file is not a model, which no device can compute
            _open_proved(path, "cpu", settings)
            raise UserError(
                f"--device {device}: found that it cannot compute the model ({one_line(error)}): "
                "see --doctor"
            ) from None
        raise UserError(
            f"found no model that ONNX Runtime can load ({one_line(error)}), "
            "expected a whole ONNX file"
        ) from None
    try:
        require_placed(session, device)
    except UserError as error:
        raise UserError(f"--device {device}: {error}: see --doctor") from None
    return session


def _accelerators(
    device: str, settings: SessionSettings, engines: Path | None
) -> list[tuple[str, dict[str, object]]]:
    """The providers before the CPU's, with their options.

    Behind TensorRT there is CUDA, for the operations that TensorRT does not support.
    """
    if device == "cpu":
        return []
    options = {
        "use_tf32": 0,
        "cudnn_conv_algo_search": settings.algorithm_search,
        "prefer_nhwc": int(settings.channels_last),
        "enable_cuda_graph": int(settings.cuda_graph),
    }
    cuda = (PROVIDERS["cuda"], options)
    if device == "cuda":
        return [cuda]
    folder = str(engines)
    caches = {
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": folder,
    }
    return [(PROVIDERS["tensorrt"], caches if engines else {}), cuda]


def engine_folder(path: Path, batch: int | None) -> Path:
    """The folder of TensorRT's engines for a model, beside the model's file.

    The name contains everything that an engine depends on. ONNX Runtime distinguishes neither
    weights nor sizes: it would take an engine of another model of the same network.
    """
    versions = f"ort{onnxruntime.__version__}_trt{tensorrt_version()}"
    return (
        path.with_name(f"{path.stem}_tensorrt") / f"{file_hash(path)[:16]}_batch{batch}_{versions}"
    )


def _make_engine_folder(path: Path, batch: int | None) -> Path:
    folder = engine_folder(path, batch)
    with refused_by_system(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder

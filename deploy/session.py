"""ONNX Runtime sessions: which device computes a graph, which is proved and not assumed, and how
the graph is called there.
"""

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
import torch  # before any session: it loads the CUDA libraries that it brings

from common.errors import UserError, one_line
from common.files import file_hash, refused_by_system
from deploy.nvidia import tensorrt_version, visible_gpus

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
LIBRARIES = {"cuda": "onnxruntime_providers_cuda", "tensorrt": "onnxruntime_providers_tensorrt"}
DEVICES = ("auto", *PROVIDERS)
# the rest may stay on the CPU
COSTLY = frozenset({"Conv", "ConvInteger", "ConvTranspose", "Gemm", "MatMul", "QLinearConv"})
BATCH = "batch"  # what the exporter calls the input's first dimension
# of ONNX Runtime's log severities; the last is its default
ERRORS_ONLY, NOTHING, WARNINGS = 3, 4, 2
ELEMENTS = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}
# strips as the file takes them to heatmaps (n, H, W), n no more than the batch
Call = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class SessionSettings:
    """`device` is one of DEVICES, `batch` the strips of a call (None: any number), `threads` of the
    CPU (None: one per core).
    """

    device: str = "auto"
    batch: int | None = 1
    threads: int | None = None
    cuda_graph: bool = False


ANY_DEVICE = SessionSettings()


@dataclass(frozen=True)
class PlacedSession:
    """A session, the device of PROVIDERS that computes its graph, and why it is that one."""

    session: onnxruntime.InferenceSession
    device: str
    why: str


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """A session on the CPU.

    Raises `UserError`, without the path, for a file that is missing or not a model.
    """
    return place_session(path, SessionSettings("cpu")).session


def place_session(path: Path, settings: SessionSettings) -> PlacedSession:
    """A session on the device that was asked for; `auto` is CUDA where it computes the graph, else
    the CPU.

    Raises `UserError`, without the path, for a file that is missing or not a model, and for a
    device that does not compute it.
    """
    if not path.is_file():
        raise UserError(
            "found no such file, expected an ONNX file written by export_onnx_fullimage.py"
        )
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
    """How to call a session with strips.

    It and its calls raise `UserError`, without the path, when ONNX Runtime cannot do it.
    """
    with _refused_by_runtime(batch):
        call = (
            FreeCall(placed.session)
            if placed.device == "cpu"
            else BoundCall(placed.session, batch, "cuda")
        )

    def checked(strips: np.ndarray) -> np.ndarray:
        with _refused_by_runtime(batch):
            return call(strips)

    return checked


class FreeCall:
    """Calls with as many strips as there are, each with memory of its own."""

    def __init__(self, session: onnxruntime.InferenceSession):
        self.session, self.input, self.output = (
            session,
            session.get_inputs()[0].name,
            session.get_outputs()[0].name,
        )

    def __call__(self, strips: np.ndarray) -> np.ndarray:
        return self.session.run([self.output], {self.input: strips})[0][:, 0]


class BoundCall:
    """Calls of always `batch` strips, in always the same memory of a device; what lies there beyond
    the strips is not answered.
    """

    def __init__(self, session: onnxruntime.InferenceSession, batch: int, device: str):
        source, target = session.get_inputs()[0], session.get_outputs()[0]
        self.session, self.binding = session, session.io_binding()
        self.strips = np.zeros((batch, *source.shape[1:]), ELEMENTS[source.type])
        self.input, self.output = (
            onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                (batch, *node.shape[1:]), ELEMENTS[node.type], device, 0
            )
            for node in (source, target)
        )
        self.binding.bind_ortvalue_input(source.name, self.input)
        self.binding.bind_ortvalue_output(target.name, self.output)

    def __call__(self, strips: np.ndarray) -> np.ndarray:
        self.strips[: len(strips)] = strips
        self.input.update_inplace(self.strips)
        self.session.run_with_iobinding(self.binding)
        # where the device is the CPU this is the memory of the next call
        return self.output.numpy()[: len(strips), 0].copy()


def create_session(
    model: Path | bytes, device: str, settings: SessionSettings, engines: Path | None = None
) -> onnxruntime.InferenceSession:
    """A session that may use a device of PROVIDERS, beside the CPU, and never changes to another
    one by itself.

    TensorRT's engines are kept in the folder `engines` (None: nowhere).

    Raises whatever ONNX Runtime does; a device whose libraries are missing is silently not among
    its providers.
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
        return onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=0)


def nodes_by_provider(session: onnxruntime.InferenceSession) -> dict[str, Counter[str]]:
    """How many nodes of each operation each execution provider computes."""
    nodes: dict[str, Counter[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        nodes.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
    return nodes


def require_placed(session: onnxruntime.InferenceSession, device: str) -> None:
    """Raise `UserError` unless the device computes the graph: has nodes of it, and every one of
    COSTLY.
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
            f"found {elsewhere.total()} of the graph's {total} nodes elsewhere, {costly} costly ones, expected none of those"
        )


def missing_library(device: str) -> str:
    """Why the library of a device's execution provider cannot be loaded, in the system's words."""
    suffix = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
    name = f"{'' if sys.platform == 'win32' else 'lib'}{LIBRARIES[device]}{suffix}"
    try:
        ctypes.CDLL(str(Path(onnxruntime.__file__).parent / "capi" / name))
    except OSError as error:
        return one_line(error)
    return "its library loads, but finds no device"


@contextmanager
def silent_runtime() -> Iterator[None]:
    """Keeps the long red lines about missing libraries off the screen: what is wrong comes out as
    one error.
    """
    onnxruntime.set_default_logger_severity(NOTHING)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        onnxruntime.set_default_logger_severity(WARNINGS)


@contextmanager
def _refused_by_runtime(batch: int) -> Iterator[None]:
    try:
        yield
    # ONNX Runtime has a class of its own for every status, without a common parent
    except Exception as error:
        text = f"found that ONNX Runtime cannot compute it ({one_line(error)})"
        raise UserError(f"{text}, expected a device with memory for --batch {batch}") from None


def _open_proved(
    path: Path, device: str, settings: SessionSettings
) -> onnxruntime.InferenceSession:
    if PROVIDERS[device] not in onnxruntime.get_available_providers():
        known = ", ".join(onnxruntime.get_available_providers())
        raise UserError(
            f"--device {device}: found ONNX Runtime with {known}, expected {PROVIDERS[device]}: see --doctor"
        )
    if device == "tensorrt" and not tensorrt_version():
        raise UserError(
            "--device tensorrt: found no TensorRT 10 that can be loaded, expected its libraries: see --doctor"
        )
    engines = _make_engine_folder(path, settings.batch) if device == "tensorrt" else None
    try:
        session = create_session(path, device, settings, engines)
    # ONNX Runtime has a class of its own for every status, without a common parent
    except Exception as error:
        if device != "cpu":
            _open_proved(path, "cpu", settings)  # a file that is no model is not the device's fault
            raise UserError(
                f"--device {device}: found that it cannot compute the model ({one_line(error)}): see --doctor"
            ) from None
        raise UserError(
            f"found no model that ONNX Runtime can load ({one_line(error)}), expected a whole ONNX file"
        ) from None
    try:
        require_placed(session, device)
    except UserError as error:
        raise UserError(f"--device {device}: {error}: see --doctor") from None
    return session


def _accelerators(
    device: str, settings: SessionSettings, engines: Path | None
) -> list[tuple[str, dict[str, object]]]:
    """The providers before the CPU's, with their options; CUDA computes what TensorRT does not
    know.
    """
    if device == "cpu":
        return []
    cuda = (PROVIDERS["cuda"], {"use_tf32": 0, "enable_cuda_graph": int(settings.cuda_graph)})
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
    """Where TensorRT's engines of a model lie: beside it, in a folder of its own for everything
    that an engine depends on.

    ONNX Runtime tells neither weights nor sizes apart: it would take an engine of another model of
    the same network.
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

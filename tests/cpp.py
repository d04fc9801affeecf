"""The C++ detector for tests and benchmarks: built once, called through its C interface, and models
that it is tried on.
"""

import ctypes
import os
import subprocess
from pathlib import Path

import numpy as np
import onnx
from filelock import FileLock
from onnx import TensorProto, helper, numpy_helper

SOURCES = Path(__file__).resolve().parent.parent / "deploy" / "cpp"
FLOAT32, UINT8 = 0, 1  # of strip_detector_c.h
ON_CPU, ON_CUDA = 1, 2


def build(preset: str) -> Path:
    """Build a preset of CMakePresets.json; its folder. Another process that builds is waited for.

    Raises `RuntimeError` with all that the build printed.
    """
    (SOURCES / "build").mkdir(exist_ok=True)
    with FileLock(SOURCES / "build" / "one_at_a_time.lock"):
        done = subprocess.run(
            ["bash", SOURCES / "build.sh", preset], capture_output=True, text=True, timeout=1800
        )
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return SOURCES / "build" / preset


class Facts(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("channels", "height", "width", "pixel_type")),
        *((name, ctypes.c_float) for name in ("largest_value", "threshold")),
        *((name, ctypes.c_int32) for name in ("device", "has_alignment")),
    )


class FoundDetection(ctypes.Structure):
    _fields_ = (
        ("y", ctypes.c_int32),
        ("x", ctypes.c_int32),
        ("peak", ctypes.c_float),
        ("margin", ctypes.c_double),
    )


class FoundAlignment(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_float) for name in ("shift_y", "shift_x", "wander", "gain", "remainder")
    )


class Library:
    """strip_detector_c.h as Python sees it.

    `functions` are its own, for what is not meant to work.
    """

    def __init__(self, folder: Path):
        self.functions = functions = ctypes.CDLL(str(folder / "libstrip_detector.so"))
        pointer = ctypes.c_void_p
        size = ctypes.c_size_t
        integer = ctypes.c_int
        text = ctypes.c_char_p
        signatures = {
            "strip_last_error": (text, []),
            "strip_runtime_version": (text, []),
            "strip_detector_new": (pointer, [text, integer, integer, ctypes.c_float]),
            "strip_detector_delete": (None, [pointer]),
            "strip_detector_facts": (integer, [pointer, pointer]),
            "strip_detector_entry": (text, [pointer, text]),
            "strip_results_new": (pointer, []),
            "strip_results_delete": (None, [pointer]),
            "strip_detector_detect": (
                integer,
                [pointer, pointer, integer, size, integer, integer, integer, pointer],
            ),
            "strip_results_heatmap": (ctypes.POINTER(ctypes.c_float), [pointer, size]),
            "strip_results_count": (integer, [pointer, size]),
            "strip_results_detection": (integer, [pointer, size, size, pointer]),
            "strip_results_alignment": (integer, [pointer, size, size, pointer]),
        }
        for name, (result, arguments) in signatures.items():
            getattr(functions, name).restype, getattr(functions, name).argtypes = result, arguments

    def error(self) -> str:
        """Why the last call failed."""
        return self.functions.strip_last_error().decode()


class CppDetector:
    """A detector of the library. Raises `RuntimeError` with its words for what it refuses."""

    def __init__(
        self,
        library: Library,
        model: Path | str,
        threads: int = 1,
        threshold: float = np.nan,
        device: int = ON_CPU,
    ):
        self.library, self.functions = library, library.functions
        self.detector = self.functions.strip_detector_new(
            os.fsencode(model), device, threads, threshold
        )
        if not self.detector:
            raise RuntimeError(library.error())
        self.results, self.facts = self.functions.strip_results_new(), Facts()
        self.functions.strip_detector_facts(self.detector, ctypes.byref(self.facts))

    def __del__(self):
        if getattr(self, "detector", None):
            self.functions.strip_detector_delete(self.detector)
            self.functions.strip_results_delete(self.results)

    def __call__(self, strips: np.ndarray) -> tuple[np.ndarray, list[list[tuple]]]:
        """Strips (B, C, H, W) to heatmaps (B, H, W), and for each its detections (y, x, peak,
        margin).
        """
        kind = {"float32": FLOAT32, "uint8": UINT8}[strips.dtype.name]
        assert strips.flags.c_contiguous
        count, *size = strips.shape
        if self.functions.strip_detector_detect(
            self.detector, strips.ctypes.data, kind, count, *size, self.results
        ):
            raise RuntimeError(self.library.error())
        shape = (self.facts.height, self.facts.width)
        heatmaps = [
            np.ctypeslib.as_array(self.functions.strip_results_heatmap(self.results, strip), shape)
            for strip in range(count)
        ]
        return np.stack(heatmaps), [self._detections(strip) for strip in range(count)]

    def _detections(self, strip: int) -> list[tuple]:
        found, detections = FoundDetection(), []
        for number in range(self.functions.strip_results_count(self.results, strip)):
            assert (
                self.functions.strip_results_detection(
                    self.results, strip, number, ctypes.byref(found)
                )
                == 0
            )
            detections.append((found.y, found.x, found.peak, found.margin))
        return detections

    def alignment(self, strip: int) -> np.ndarray:
        """(2, MEASURES) of a strip of the last call."""
        found = [FoundAlignment(), FoundAlignment()]
        for reference, one in enumerate(found):
            if self.functions.strip_results_alignment(
                self.results, strip, reference, ctypes.byref(one)
            ):
                raise RuntimeError(self.library.error())
        return np.array(
            [[getattr(one, name) for name, _ in FoundAlignment._fields_] for one in found]
        )


def write_plain_model(
    path: Path, size: tuple[int, int], gain: float = 1, **entries: str | None
) -> Path:
    """A model whose heatmap is Target as it comes in, times `gain`. `entries` are its metadata.

    Beside the usual ones, or in their place; None takes one away.
    """
    height, width = size
    shape = ["batch", 3, height, width]
    numbers = {"zero": 0, "one": 1, "axis": 1}
    nodes = [
        helper.make_node("Slice", ["input", "zero", "one", "axis"], ["target"]),
        helper.make_node("Mul", ["target", "gain"], ["heatmap"]),
        helper.make_node("Mul", ["target", "nothing"], ["zeros"]),
        helper.make_node("Concat", ["heatmap", "zeros", "zeros"], ["output"], axis=1),
    ]
    constants = [
        numpy_helper.from_array(np.array([value], np.int64), name)
        for name, value in numbers.items()
    ]
    factors = {"nothing": 0, "gain": gain}
    constants += [
        numpy_helper.from_array(np.array([value], np.float32), name)
        for name, value in factors.items()
    ]
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
        for name in ("input", "output")
    ]
    graph = helper.make_graph(nodes, "plain", *ends, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    usual = {
        "schema_version": "2",
        "input": "unit",
        "channels": "Target Ref1 Ref2",
        "input_max": "255.0",
        "outputs": "output",
    }
    usual |= {"image_size": f"{height} {width}", "threshold": "0.5"}
    helper.set_model_props(
        model, {name: text for name, text in (usual | entries).items() if text is not None}
    )
    onnx.save(model, path)
    return path

"""--doctor: which devices of this machine ONNX Runtime computes on, and how to fix the others."""

import os
import sys
from dataclasses import dataclass
from importlib.metadata import distributions

import numpy as np
import onnx
import onnxruntime
import torch

from common.errors import UserError, one_line
from deploy.metadata import format_table
from deploy.nvidia import Driver, cuda_version, cudnn_version, find_driver, tensorrt_version
from deploy.session import (
    PROVIDERS,
    SessionSettings,
    create_session,
    missing_library,
    require_placed,
)

GPU_WHEEL = "onnxruntime-gpu"
# shown when the driver's second library, NVML, is missing; CUDA itself needs only the first one
NO_NVML = (
    "unknown version (NVML does not answer; "
    "in a container it needs NVIDIA_DRIVER_CAPABILITIES=compute,utility)"
)
PROBE_TOLERANCE = 1e-4  # largest error of the probe's output, whose values go up to 162
TO_DO = {
    "cpu": "install ONNX Runtime anew",
    "cuda": f"install CUDA {onnxruntime.cuda_version or '13'} and cuDNN 9, "
    "which a torch built for that CUDA brings along",
    "tensorrt": "install the TensorRT that this ONNX Runtime was built for "
    "(onnxruntime.ai lists it), or leave it: cuda needs none",
}


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis: its subject, what was found, and what to do (empty: nothing)."""

    about: str
    found: str
    to_do: str = ""


def diagnose() -> int:
    """Print all findings and what to do about them.

    Returns the exit code: 0 when every device that this machine can offer works, else 1.
    """
    findings = examine()
    print(format_table({finding.about: finding.found for finding in findings}))
    wrong = [finding for finding in findings if finding.to_do]
    for finding in wrong:
        print(f"error: {finding.about}: {finding.found}; {finding.to_do}", file=sys.stderr)
    print(
        f"wrong: {len(wrong)} of {len(findings)}" if wrong else "what this machine can offer works"
    )
    return 1 if wrong else 0


def examine() -> list[Finding]:
    """All findings on this machine, in the order in which problems should be fixed."""
    driver, wheels = find_driver(), runtime_wheels()
    has_gpu = bool(driver and driver.gpus)
    # first, since the probes load libraries from wheels, whose versions the others then find
    devices = [_check_device(device, has_gpu) for device in PROVIDERS]
    return [
        _check_driver(driver),
        _check_wheels(wheels, has_gpu),
        _check_torch(has_gpu),
        *_find_libraries(),
        *devices,
    ]


def runtime_wheels() -> list[str]:
    """The name and version of every installed wheel of ONNX Runtime.

    There may be only one: the wheels overwrite each other's files.
    """
    installed = {(wheel.metadata["Name"] or "", wheel.version) for wheel in distributions()}
    return [
        f"{name} {version}"
        for name, version in sorted(installed)
        if name == "onnxruntime" or name.startswith("onnxruntime-")
    ]


def probe_device(device: str) -> str:
    """Compute a convolution on a device of PROVIDERS.

    Returns what is wrong, or an empty text when the output is right.
    """
    strip = np.arange(25, dtype=np.float32).reshape(1, 1, 5, 5)
    weights = np.ones((1, 1, 3, 3), np.float32)
    try:
        session = create_session(_convolution(weights), device, SessionSettings())
        require_placed(session, device)
        output = session.run(None, {"input": strip})[0]
    except UserError as error:
        return str(error)
    # ONNX Runtime raises another class for every status, without a common base
    except Exception as error:
        return (
            f"{one_line(error)} ({missing_library(device)})" if device != "cpu" else one_line(error)
        )
    expected = np.lib.stride_tricks.sliding_window_view(strip, weights.shape).sum(axis=(4, 5, 6, 7))
    error = float(np.abs(output - expected).max())
    return "" if error < PROBE_TOLERANCE else f"its output is off by {error:.2g}"


def _check_driver(driver: Driver | None) -> Finding:
    if driver is None:
        return Finding("NVIDIA driver", "none: everything is computed on the CPU")
    text = (
        f"{driver.version or NO_NVML}, for CUDA up to {driver.newest_cuda or 'unknown'}, "
        f"GPUs: {_describe_gpus(driver)}"
    )
    if driver.error:
        return Finding(
            "NVIDIA driver",
            f"{text} (error {driver.error})",
            "restart, or install the driver anew: nvidia-smi must list the GPU",
        )
    major = (onnxruntime.cuda_version or "0").split(".")[0]
    is_known = driver.gpus and driver.newest_cuda
    if is_known and int(driver.newest_cuda.split(".")[0]) < int(major):
        return Finding(
            "NVIDIA driver",
            text,
            f"install a driver for CUDA {major}, which ONNX Runtime is built for",
        )
    return Finding("NVIDIA driver", text)


def _describe_gpus(driver: Driver) -> str:
    """The GPUs that this process may use, with their memory, and the number of hidden ones."""
    descriptions = [
        gpu.name if gpu.memory is None else f"{gpu.name} ({gpu.memory / 2**30:.1f} GiB)"
        for gpu in driver.gpus
    ]
    text = ", ".join(descriptions) or "none"
    if driver.hidden and not driver.error:
        text += f", and {driver.hidden} hidden from this process"
        if "CUDA_VISIBLE_DEVICES" in os.environ:
            text += f" (CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']})"
    return text


def _check_wheels(wheels: list[str], has_gpu: bool) -> Finding:
    build = (
        f"built for CUDA {onnxruntime.cuda_version}"
        if onnxruntime.cuda_version
        else "built without CUDA"
    )
    providers = ", ".join(
        name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()
    )
    text = f"{' and '.join(wheels) or onnxruntime.__version__}, {build}, providers: {providers}"
    wheel = (
        GPU_WHEEL
        if has_gpu or f"{GPU_WHEEL} {onnxruntime.__version__}" in wheels
        else "onnxruntime"
    )
    if len(wheels) > 1:
        names = " ".join(name.split()[0] for name in wheels)
        return Finding(
            "ONNX Runtime",
            text,
            f"only one may be installed: pip uninstall -y {names} && pip install {wheel}",
        )
    if has_gpu and not onnxruntime.cuda_version:
        return Finding(
            "ONNX Runtime",
            text,
            f"it cannot use the GPU: pip uninstall -y onnxruntime && pip install {GPU_WHEEL}",
        )
    return Finding("ONNX Runtime", text)


def _check_torch(has_gpu: bool) -> Finding:
    build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    text = f"{torch.__version__}, {build}"
    if has_gpu and not torch.cuda.is_available():
        return Finding(
            "PyTorch",
            text,
            "it cannot use the GPU: install torch for a CUDA that the driver serves "
            "(pytorch.org says how)",
        )
    return Finding("PyTorch", text)


def _find_libraries() -> list[Finding]:
    if not onnxruntime.cuda_version:
        return []
    cuda = cuda_version(int(onnxruntime.cuda_version.split(".")[0]))
    found = {"CUDA runtime": cuda, "cuDNN": cudnn_version(), "TensorRT": tensorrt_version()}
    return [Finding(name, version or "none") for name, version in found.items()]


def _check_device(device: str, has_gpu: bool) -> Finding:
    name = f"--device {device}"
    if device != "cpu" and not has_gpu:
        return Finding(name, "not offered: there is no GPU")
    if PROVIDERS[device] not in onnxruntime.get_available_providers():
        return Finding(name, "not offered by this ONNX Runtime")
    if device == "tensorrt" and not tensorrt_version():
        return Finding(name, "not offered: TensorRT 10 is not installed, and need not be")
    reason = probe_device(device)
    if not reason:
        return Finding(name, "works: computed a convolution")
    return Finding(name, f"does not work: {reason}", TO_DO[device])


def _convolution(weights: np.ndarray) -> bytes:
    """A serialized model: one convolution with 3x3 weights of a 5x5 image."""
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1, n, n])
        for name, n in (("input", 5), ("output", 3))
    ]
    node = onnx.helper.make_node("Conv", ["input", "weights"], ["output"])
    graph = onnx.helper.make_graph(
        [node], "tiny", values[:1], values[1:], [onnx.numpy_helper.from_array(weights, "weights")]
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()

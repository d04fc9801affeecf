"""Queries of the NVIDIA driver and libraries of this machine.

They do not use torch, which may be built without CUDA.
"""

import ctypes
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pynvml

CUDA = ("libcuda.so.1", "nvcuda.dll")  # the driver's library on Linux and on Windows
NO_DEVICE = 100  # CUDA's error without a GPU, or when CUDA_VISIBLE_DEVICES hides them all
UUID_LENGTH = 16  # bytes


@dataclass(frozen=True)
class Gpu:
    """A GPU's name, or its UUID if NVML does not know it, and its memory in bytes, if known."""

    name: str
    memory: int | None


@dataclass(frozen=True)
class Driver:
    """What NVML and CUDA report about the driver and the GPUs.

    `newest_cuda` is the newest CUDA that the driver serves. It and `version` are None when NVML
    does not respond. `gpus` are those that this process may use, `hidden` is the number of further
    ones in the machine. `error` is CUDA's error number (0: none).
    """

    version: str | None
    newest_cuda: str | None
    gpus: list[Gpu]
    hidden: int
    error: int


def find_driver() -> Driver | None:
    """The NVIDIA driver and its GPUs; None when no driver is installed."""
    cuda = load(CUDA)
    if cuda is None:
        return None
    error = cuda.cuInit(0)
    uuids = [] if error else _usable_gpus(cuda)
    _query(pynvml.nvmlInit)  # when this fails, every further query returns None
    version = _query(pynvml.nvmlSystemGetDriverVersion)
    newest_cuda = _query(pynvml.nvmlSystemGetCudaDriverVersion_v2)
    gpus = [_describe(uuid) for uuid in uuids]
    hidden = max(0, (_query(pynvml.nvmlDeviceGetCount) or 0) - len(gpus))
    _query(pynvml.nvmlShutdown)
    return Driver(
        version,
        dotted(newest_cuda) if newest_cuda else None,
        gpus,
        hidden,
        0 if error == NO_DEVICE else error,
    )


def visible_gpus() -> list[str]:
    """The names of the GPUs that this process may use."""
    driver = find_driver()
    return [gpu.name for gpu in driver.gpus] if driver else []


def load(names: tuple[str, ...]) -> ctypes.CDLL | None:
    """Load a library under the first of its names that the system finds; None: under none."""
    for name in names:
        with suppress(OSError):
            return ctypes.CDLL(name)
    return None


def dotted(version: int) -> str:
    """CUDA's number of a version in dotted form: 13020 is 13.2."""
    return f"{version // 1000}.{version % 1000 // 10}"


def cuda_version(major: int) -> str | None:
    """The version of the loadable CUDA runtime of one major version; None when there is none."""
    library, version = load((f"libcudart.so.{major}", f"cudart64_{major}.dll")), ctypes.c_int()
    if library is None or library.cudaRuntimeGetVersion(ctypes.byref(version)):
        return None
    return dotted(version.value)


def cudnn_version() -> str | None:
    """The version of the loadable cuDNN 9; None when there is none."""
    library = load(("libcudnn.so.9", "cudnn64_9.dll"))
    if library is None:
        return None
    library.cudnnGetVersion.restype = ctypes.c_size_t
    version = library.cudnnGetVersion()
    return f"{version // 10000}.{version % 10000 // 100}.{version % 100}"


def tensorrt_version() -> str | None:
    """The version of the loadable TensorRT 10; None when there is none."""
    library = load(("libnvinfer.so.10", "nvinfer_10.dll"))
    if library is None:
        return None
    version = library.getInferLibVersion()
    return f"{version // 10000}.{version % 10000 // 100}.{version % 100}"


def _usable_gpus(cuda: ctypes.CDLL) -> list[str]:
    """The UUIDs of the GPUs that this process may use.

    CUDA answers this, since NVML cannot: NVML also lists the GPUs that CUDA_VISIBLE_DEVICES hides,
    in another order than CUDA's, even when CUDA does not start.
    """
    count, device = ctypes.c_int(), ctypes.c_int()
    uuid = ctypes.create_string_buffer(UUID_LENGTH)
    # the newer function tells parts of a GPU (MIG) apart; drivers before 470 lack it
    newer = hasattr(cuda, "cuDeviceGetUuid_v2")
    read_uuid = cuda.cuDeviceGetUuid_v2 if newer else cuda.cuDeviceGetUuid
    cuda.cuDeviceGetCount(ctypes.byref(count))
    uuids = []
    for number in range(count.value):
        cuda.cuDeviceGet(ctypes.byref(device), number)
        read_uuid(uuid, device)
        uuids.append(str(UUID(bytes=uuid.raw)))
    return uuids


def _describe(uuid: str) -> Gpu:
    """What NVML knows about a GPU, or a part of one (MIG)."""
    for kind in ("GPU", "MIG"):
        handle = _query(pynvml.nvmlDeviceGetHandleByUUID, f"{kind}-{uuid}")
        if handle is not None:
            name = _query(pynvml.nvmlDeviceGetName, handle)
            memory = _query(pynvml.nvmlDeviceGetMemoryInfo, handle)
            return Gpu(name or f"GPU {uuid}", memory.total if memory else None)
    return Gpu(f"GPU {uuid}", None)


def _query(function: Callable[..., Any], *arguments: object) -> Any:
    """What a function of NVML returns; None when it fails."""
    try:
        return function(*arguments)
    except pynvml.NVMLError:
        return None

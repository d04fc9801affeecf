"""What the NVIDIA driver and libraries of this machine say of themselves, asked directly: torch may be built without CUDA."""

import ctypes
from contextlib import suppress
from dataclasses import dataclass

DRIVER = ("libcuda.so.1", "nvcuda.dll")
MANAGEMENT = ("libnvidia-ml.so.1", "nvml.dll")
NO_DEVICE = 100  # what the driver says where there is no GPU, and where CUDA_VISIBLE_DEVICES hides all
NAME_LENGTH = 256  # bytes that are enough for a name or a version


@dataclass(frozen=True)
class Driver:
    """Its version, the newest CUDA that it serves, the GPUs that this process may use, and its error number (0: none)."""

    version: str
    newest_cuda: str
    gpus: list[str]
    error: int


def find_driver() -> Driver | None:
    """None where no driver is installed."""
    driver = load(DRIVER)
    if driver is None:
        return None
    error, cuda = driver.cuInit(0), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(cuda))
    gpus = [] if error else _gpu_names(driver)
    return Driver(_driver_version(), dotted(cuda.value), gpus, 0 if error == NO_DEVICE else error)


def visible_gpus() -> list[str]:
    """The names of the GPUs that this process may use."""
    driver = find_driver()
    return driver.gpus if driver else []


def load(names: tuple[str, ...]) -> ctypes.CDLL | None:
    """The first of a library's names that the system can load; None when there is none."""
    for name in names:
        with suppress(OSError):
            return ctypes.CDLL(name)
    return None


def dotted(version: int) -> str:
    """CUDA's number of a version, 13020, as people write it: 13.2."""
    return f"{version // 1000}.{version % 1000 // 10}"


def cuda_version(major: int) -> str | None:
    """The version of the CUDA runtime that can be loaded, of one major version; None when there is none."""
    library, version = load((f"libcudart.so.{major}", f"cudart64_{major}.dll")), ctypes.c_int()
    if library is None or library.cudaRuntimeGetVersion(ctypes.byref(version)):
        return None
    return dotted(version.value)


def cudnn_version() -> str | None:
    """The version of cuDNN 9 that can be loaded; None when there is none."""
    library = load(("libcudnn.so.9", "cudnn64_9.dll"))
    if library is None:
        return None
    library.cudnnGetVersion.restype = ctypes.c_size_t
    version = library.cudnnGetVersion()
    return f"{version // 10000}.{version % 10000 // 100}.{version % 100}"


def tensorrt_version() -> str | None:
    """The version of TensorRT 10 that can be loaded; None when there is none."""
    library = load(("libnvinfer.so.10", "nvinfer_10.dll"))
    if library is None:
        return None
    version = library.getInferLibVersion()
    return f"{version // 10000}.{version % 10000 // 100}.{version % 100}"


def _gpu_names(driver: ctypes.CDLL) -> list[str]:
    count, device, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(NAME_LENGTH)
    driver.cuDeviceGetCount(ctypes.byref(count))
    names = []
    for number in range(count.value):
        driver.cuDeviceGet(ctypes.byref(device), number)
        driver.cuDeviceGetName(name, NAME_LENGTH, device)
        names.append(name.value.decode(errors="replace"))
    return names


def _driver_version() -> str:
    library, version = load(MANAGEMENT), ctypes.create_string_buffer(NAME_LENGTH)
    if library is None or library.nvmlInit_v2():
        return "unknown version"
    library.nvmlSystemGetDriverVersion(version, NAME_LENGTH)
    library.nvmlShutdown()
    return version.value.decode(errors="replace")

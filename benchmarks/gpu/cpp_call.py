"""Call the C++ library with the strips of a file, in a process that has no other ONNX Runtime.

    LD_LIBRARY_PATH=FOLDER python -m benchmarks.gpu.cpp_call MODEL.onnx FOLDER {cpu,cuda}

Reads strips.npy (B, 3, H, W) float32 in FOLDER and writes heatmaps.npy (B, H, W). Prints the
milliseconds of a call and ONNX Runtime's version.
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch  # loads the CUDA libraries of its wheels, which ONNX Runtime needs

from benchmarks.gpu.materials import milliseconds
from tests.cpp import ON_CPU, ON_CUDA, SOURCES, CppDetector, Library

THRESHOLD = 0.9  # the file of random weights has none


def main() -> None:
    model, folder, device = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    library = Library(SOURCES / "build" / "checks")
    number = {"cpu": ON_CPU, "cuda": ON_CUDA}[device]
    detector = CppDetector(library, model, threshold=THRESHOLD, device=number)
    strips = np.load(folder / "strips.npy")
    np.save(folder / "heatmaps.npy", detector(strips)[0])
    time = milliseconds(partial(detector, strips), torch.device("cpu"))
    print(time, library.functions.strip_runtime_version().decode())


if __name__ == "__main__":
    main()

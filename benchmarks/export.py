"""Size, speed, memory, parity and recall of every kind of exported file.

    # speed only, with random weights: ten minutes on two cores
    python -m benchmarks.export
    # and the recall of networks that quality.py and distillation.py have trained
    python -m benchmarks.export --quality output/quality

The first row is the straightforward way to export tiles: one copy of a 64-channel network for each
of the 18 tiles. The other columns mean:

- load and batch: medians; all files take turns, and each timed call follows an untimed one.
- memory: the peak of a separate process after three calls, less what ONNX Runtime needs once it is
  imported. It needs Linux.
- difference: to PyTorch's heatmap with the same weights, in float32 whatever the file's precision.
- recall: of the file itself on the quality suite, at 0.1 false alarms per strip. A network that is
  not trained has none.

All is measured on the CPU, and the times on a GPU as well where there is one. The last line is the
whole table as one JSON object.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn
from tqdm import tqdm

from benchmarks.command_line import make_parser
from benchmarks.quality_scores import format_estimates, pool, score_strip
from benchmarks.suite.levels import LEVELS, STRIP_COUNT
from benchmarks.suite.strips import make_suite_strip
from benchmarks.tables import print_header, print_row
from data.demo_strips import STRIP_SIZE, make_strip
from data.image_files import to_unit_range
from deploy.onnx_export import quiet_exporters, write_graph
from deploy.precision import in_half_precision, quantize
from deploy.precision_gate import generated_strips
from deploy.session import SessionSettings, open_session, place_session
from model import (
    ARCHITECTURES,
    EXPORT_MODES,
    SegmentationNetwork,
    SegmentationNetworkONNX,
    SegmentationNetworkONNXFullImage,
)
from ops.classical import METHODS, classical_detector
from ops.tiling import calculate_kept_ranges, tile_positions
from training.checkpoint import build_network, load_checkpoint

PATCH, OPSET = 128, 18  # pixels; of the exported graphs
BATCHES = (1, 8)  # strips per call
ROUNDS_OF_MANY = 3  # rounds with all of BATCHES; the other rounds call with one strip
CALIBRATION_STRIPS = 16  # for the ranges of int8
# sigma in pixels, as benchmarks/quality.py chooses it
GAUSSIANS = {
    "double": 0.0,
    "smoothed": 0.5,
    "envelope": 0.5,
    "registered": 0.75,
    "likelihood": 1.0,
}
# a program that prints by how many kB three calls raise the peak of its memory
MEMORY = """
import re, sys
import numpy as np, onnxruntime
def kilobytes():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
before = kilobytes()
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
for _ in range(3):
    session.run(None, {"input": np.zeros((1, 3, 976, 176), np.float32)})
print(kilobytes() - before)
"""


@dataclass(frozen=True)
class Row:
    """An exported file, of an architecture or of a classical method."""

    name: str
    architecture: str = "unet"
    base_channels: int = 64
    run: str | None = None  # of benchmarks/quality.py, whose weights the file has; None: random
    mode: str = "tiles"
    precision: str = "fp32"
    align: str = "none"
    unrolled: bool = False
    weighting: str = "none"


ROWS = (
    Row("unet, 64 channels, unrolled", unrolled=True),
    Row("unet, 64 channels, tiles"),
    Row("unet, 64 channels, whole", mode="whole"),
    Row("unet, 64 channels, tiles, int8", precision="int8"),
    Row("unet, 64 channels, whole, int8", mode="whole", precision="int8"),
    Row("unet, 64 channels, tiles, fp16", precision="fp16"),
    Row("unet, 16 channels, robust recipe, tiles", base_channels=16, run="robust"),
    Row("unet, 16 channels, robust recipe, whole", base_channels=16, run="robust", mode="whole"),
    Row("mobile, 16 channels, whole", "mobile", 16, mode="whole"),
    Row("difference, 16 channels, registered, tiles", "difference", 16, "aligned", align="full"),
    Row(
        "difference, 16 channels, registered, whole",
        "difference",
        16,
        "aligned",
        "whole",
        align="full",
    ),
    Row(
        "difference, 16 channels, registered, whole, int8",
        "difference",
        16,
        "aligned",
        "whole",
        "int8",
        "full",
    ),
    Row("the same network without its aligner, whole", "difference", 16, "aligned", "whole"),
    Row(
        "difference, 8 channels, registered, whole",
        "difference",
        8,
        "difference8",
        "whole",
        align="full",
    ),
    Row(
        "difference, 8 channels, taught, registered, whole",
        "difference",
        8,
        "difference8_taught",
        "whole",
        align="full",
    ),
    Row(
        "difference, 8 channels, taught, registered, whole, int8",
        "difference",
        8,
        "difference8_taught",
        "whole",
        "int8",
        "full",
    ),
    *(
        Row(
            f"difference, 16 channels, `train.sh`'s flags, {mode}",
            "difference",
            16,
            "strongly_weighted",
            mode,
            align="fine",
            weighting="strong_likelihood",
        )
        for mode in EXPORT_MODES
    ),
    *(Row(f"{method}, no network", method) for method in METHODS),
)
REFERENCE = ROWS[0].name  # the row that "times as fast" refers to


class Unrolled(nn.Module):
    """The straightforward way to export tiles: one call of the network for each tile, written out.

    It shares no code with our export of tiles.
    """

    def __init__(self, network: SegmentationNetwork):
        super().__init__()
        self.patch_network = SegmentationNetworkONNX(network)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Strips (B, 3, H, W), 0-1, to the network's outputs (B, 3, H, W)."""
        rows, columns = (calculate_kept_ranges(length, PATCH) for length in STRIP_SIZE)
        positions = tile_positions(STRIP_SIZE, PATCH)
        stitched_rows = []
        for row, (top, bottom) in enumerate(rows):
            kept = []
            for column, (left, right) in enumerate(columns):
                y, x = positions[row * len(columns) + column]
                tile = self.patch_network(images[:, :, y : y + PATCH, x : x + PATCH])
                kept.append(tile[:, :, top - y : bottom - y, left - x : right - x])
            stitched_rows.append(torch.cat(kept, dim=3))
        return torch.cat(stitched_rows, dim=2)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--quality", type=Path, help="folder of benchmarks/quality.py: RUN_seed42/*_best.pth"
    )
    parser.add_argument(
        "--strips", type=int, default=STRIP_COUNT, help="of each level of the suite, for the recall"
    )
    parser.add_argument("--rounds", type=int, default=9, help="timed calls with one strip")
    parser.add_argument("--rows", default="", help="only rows whose name contains this text")
    arguments = parser.parse_args()
    strips = to_unit_range(
        np.stack([make_strip(np.random.default_rng(number)) for number in range(max(BATCHES))])
    )
    wanted = [
        row
        for row in ROWS
        if arguments.rows in row.name and (row.precision != "fp16" or torch.cuda.is_available())
    ]
    with tempfile.TemporaryDirectory() as folder:
        table, paths = {}, {}
        for row in tqdm(wanted, desc="exporting", disable=None):
            best = find_checkpoint(row, arguments.quality)
            detector = make_detector(row, best)
            paths[row.name] = Path(folder) / f"{len(paths)}.onnx"
            write(row, detector, paths[row.name])
            table[row.name] = measure_file(paths[row.name], detector, strips[:1])
            if best or row.architecture in METHODS:
                table[row.name] |= measure_recall(paths[row.name], arguments.strips)
        for provider in ("CPU", "CUDA") if torch.cuda.is_available() else ("CPU",):
            measure_times(paths, table, strips, arguments.rounds, provider)
    print_table(table)
    print(json.dumps(table))


def find_checkpoint(row: Row, quality: Path | None) -> Path | None:
    """The best checkpoint of a row's run in a folder of benchmarks/quality.py, or None."""
    found = (
        sorted((quality / f"{row.run}_seed42").glob("*_best.pth")) if quality and row.run else []
    )
    return found[0] if found else None


def make_detector(row: Row, best: Path | None) -> nn.Module:
    """The module of a row, with the weights of a checkpoint or random ones."""
    if row.architecture in METHODS:
        return classical_detector(row.architecture, GAUSSIANS[row.architecture]).eval()
    if best:
        network = build_network(load_checkpoint(best), best)
    else:
        torch.manual_seed(0)
        network = ARCHITECTURES[row.architecture](base_channels=row.base_channels)
        with torch.no_grad():
            # move the batch norm statistics away from their initial values
            network(torch.rand(4, 3, PATCH, PATCH))
    if row.unrolled:
        return Unrolled(network).eval()
    return SegmentationNetworkONNXFullImage(
        network.eval(), STRIP_SIZE, PATCH, row.align, row.mode, row.weighting
    ).eval()


def write(row: Row, detector: nn.Module, path: Path) -> None:
    """Export a detector in the precision of its row."""
    exported = in_half_precision(detector) if row.precision == "fp16" else detector
    with quiet_exporters():
        write_graph(exported.eval(), torch.zeros(2, 3, *STRIP_SIZE), OPSET, path)
    if row.precision == "int8":
        strips = (
            to_unit_range(image)[None]
            for image, _ in islice(generated_strips(STRIP_SIZE), CALIBRATION_STRIPS)
        )
        quantize(path, path, strips)


def measure_file(path: Path, detector: nn.Module, strip: np.ndarray) -> dict[str, Any]:
    """Size and memory in MB, nodes, and the largest difference to the detector's heatmap."""
    heatmap = open_session(path).run(["output"], {"input": strip})[0][:, :1]
    with torch.inference_mode():
        expected = detector(torch.from_numpy(strip))[:, :1].numpy()
    memory = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True
    )
    return {
        "file_mb": path.stat().st_size / 1e6,
        "nodes": sum(node.op_type != "Constant" for node in onnx.load(path).graph.node),
        "memory_mb": int(memory.stdout) / 1024,
        "difference": float(np.abs(heatmap - expected).max()),
    }


def measure_recall(path: Path, count: int) -> dict[str, Any]:
    """Recall at 0.1 false alarms per strip, with the ends of its interval.

    Scores the first shots of `count` strips of each level of the quality suite.
    """
    session = place_session(path, SessionSettings()).session

    def predictor(image: np.ndarray) -> np.ndarray:
        return session.run(["output"], {"input": to_unit_range(image)[None]})[0][0, 0]

    jobs = [(level, number) for level in LEVELS for number in range(count)]
    images = [
        score_strip(predictor, make_suite_strip(*job, 0))
        for job in tqdm(jobs, desc="recall", disable=None, leave=False)
    ]
    return {"recall": list(pool(images).table()[0]["recall"][0.1])}


def measure_times(
    paths: dict[str, Path], table: dict[str, dict], strips: np.ndarray, rounds: int, provider: str
) -> None:
    """Add load time, latencies and strips per second to the rows of the table.

    Every round visits all files. Only one of them is open at a time, as some take gigabytes.
    """
    settings = SessionSettings(provider.lower(), batch=None)
    suffix = "" if provider == "CPU" else "_cuda"
    times = {name: defaultdict(list) for name in paths}
    for number in tqdm(
        range(max(rounds, ROUNDS_OF_MANY)), desc=f"timing on {provider}", disable=None
    ):
        for name, path in paths.items():
            started = time.perf_counter()
            session = place_session(path, settings).session
            times[name]["load_ms"].append(time.perf_counter() - started)
            for batch in BATCHES if number < ROUNDS_OF_MANY else BATCHES[:1]:
                feed = {"input": strips[:batch]}
                # An untimed call allocates the memory and fills the processor's caches, as in
                # steady operation.
                session.run(["output"], feed)
                started = time.perf_counter()
                session.run(["output"], feed)
                times[name][f"batch{batch}_ms"].append(time.perf_counter() - started)
    for name, measured in times.items():
        milliseconds = {
            what + suffix: 1000 * statistics.median(seconds) for what, seconds in measured.items()
        }
        fastest = max(1000 * batch / milliseconds[f"batch{batch}_ms{suffix}"] for batch in BATCHES)
        table[name] |= milliseconds | {"strips_per_second" + suffix: fastest}


def print_table(table: dict[str, dict[str, Any]]) -> None:
    """Print the measurements on the CPU, and below them a line for each file timed on CUDA."""
    print_header(
        *("one 976x176 strip, CPU", "file, MB", "nodes", "load, ms", "batch 1, ms", "batch 8, ms"),
        *("strips/s", "times as fast", "memory, MB", "difference", "recall at 0.1"),
    )
    slowest = table.get(REFERENCE, {}).get("batch1_ms")
    for name, row in table.items():
        speed = f"{slowest / row['batch1_ms']:.1f}" if slowest else "-"
        recall = format_estimates([tuple(row["recall"])]) if "recall" in row else "-"
        cells = [
            f"{row['file_mb']:.1f}",
            row["nodes"],
            f"{row['load_ms']:,.0f}",
            f"{row['batch1_ms']:,.0f}",
        ]
        cells += [
            f"{row['batch8_ms']:,.0f}",
            f"{row['strips_per_second']:.1f}",
            speed,
            f"{row['memory_mb']:,.0f}",
        ]
        print_row(name, *cells, f"{row['difference']:.1e}", recall)
    for name, row in table.items():
        if "batch1_ms_cuda" in row:
            alone = f"{row['batch1_ms_cuda']:.2f} ms alone"
            throughput = f"{row['strips_per_second_cuda']:,.0f} strips/s at best"
            print(f"on CUDA, {name}: {alone}, {throughput}")


if __name__ == "__main__":
    main()

"""Every kind of exported file beside each other: size, nodes, load time, latency, strips per
second, memory, parity, recall.

    python -m benchmarks.export                              # times alone, with random weights: ten minutes on two cores
    python -m benchmarks.export --quality output/quality     # and what networks there find, of quality.py and distillation.py

The first row is the straightforward way to export tiles: a copy of a 64-channel network for each of
the 18. Loads and calls of all files are measured in turn, a call after one that does not count; the
table shows medians. Memory is the most that a process of its own has needed after three calls,
above what it has with ONNX Runtime imported (Linux). The difference is that to PyTorch's heatmap of
the same weights, in float32 where a file has fewer bits. Recall is that of the quality suite at 0.1
false alarms per strip, by the file itself; a network that nobody trained has none. On the CPU;
where there is a GPU, there, too. The last line is the whole table as one JSON object.
"""

import argparse
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

from benchmarks.quality_scores import pool, score_strip, with_interval
from benchmarks.suite import LEVELS, STRIP_COUNT, make_suite_strip
from data.demo_strips import STRIP_SIZE, make_strip
from data.image_files import to_unit_range
from deploy.onnx_export import quiet_exporters, write_graph
from deploy.precision import in_half_precision, quantize
from deploy.precision_gate import generated_strips
from deploy.session import SessionSettings, open_session, place_session
from model import (
    ARCHITECTURES,
    SegmentationNetwork,
    SegmentationNetworkONNX,
    SegmentationNetworkONNXFullImage,
)
from ops.classical import METHODS, classical_detector
from ops.tiling import calculate_kept_ranges, tile_positions
from training.checkpoint import build_network, load_checkpoint

PATCH, OPSET = 128, 18
BATCHES = (1, 8)
ROUNDS_OF_MANY = 3  # with all of BATCHES; the other rounds are of one strip
CALIBRATION_STRIPS = 16
# pixels, as benchmarks/quality.py chooses them
GAUSSIANS = {"double": 0.0, "smoothed": 0.5, "envelope": 0.5, "registered": 0.75}
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
    """A file: of an architecture or a classical method, with the weights of a run of
    benchmarks/quality.py, if any.
    """

    name: str
    architecture: str = "unet"
    base_channels: int = 64
    run: str | None = None
    mode: str = "tiles"
    precision: str = "fp32"
    align: str = "none"
    unrolled: bool = False


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
    *(Row(f"{method}, no network", method) for method in METHODS),
)
REFERENCE = ROWS[0].name  # that others are so many times as fast as


class Unrolled(nn.Module):
    """One call of the network per tile, written out: the straightforward way to export tiles, kept
    apart from ours on purpose.
    """

    def __init__(self, network: SegmentationNetwork):
        super().__init__()
        self.patch_network = SegmentationNetworkONNX(network)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quality", type=Path, help="folder of benchmarks/quality.py: RUN_seed42/*_best.pth"
    )
    parser.add_argument(
        "--strips", type=int, default=STRIP_COUNT, help="of each level of the suite, for the recall"
    )
    parser.add_argument("--rounds", type=int, default=9, help="timed calls with one strip")
    parser.add_argument("--rows", default="", help="only rows whose name has this in it")
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
            best = trained(row, arguments.quality)
            detector = detector_of(row, best)
            paths[row.name] = Path(folder) / f"{len(paths)}.onnx"
            write(row, detector, paths[row.name])
            table[row.name] = facts_of(paths[row.name], detector, strips[:1])
            if best or row.architecture in METHODS:
                table[row.name] |= recall_of(paths[row.name], arguments.strips)
        for provider in ("CPU", "CUDA") if torch.cuda.is_available() else ("CPU",):
            measure_times(paths, table, strips, arguments.rounds, provider)
    print_table(table)
    print(json.dumps(table))


def trained(row: Row, quality: Path | None) -> Path | None:
    """The best checkpoint of a row's run, None where there is none."""
    found = (
        sorted((quality / f"{row.run}_seed42").glob("*_best.pth")) if quality and row.run else []
    )
    return found[0] if found else None


def detector_of(row: Row, best: Path | None) -> nn.Module:
    """What a row exports, with trained weights or random ones."""
    if row.architecture in METHODS:
        return classical_detector(row.architecture, GAUSSIANS[row.architecture]).eval()
    if best:
        network = build_network(load_checkpoint(best), best)
    else:
        torch.manual_seed(0)
        network = ARCHITECTURES[row.architecture](base_channels=row.base_channels)
        with torch.no_grad():
            # batch norm statistics that are not the initial ones
            network(torch.rand(4, 3, PATCH, PATCH))
    if row.unrolled:
        return Unrolled(network).eval()
    return SegmentationNetworkONNXFullImage(
        network.eval(), STRIP_SIZE, PATCH, row.align, row.mode
    ).eval()


def write(row: Row, detector: nn.Module, path: Path) -> None:
    exported = in_half_precision(detector) if row.precision == "fp16" else detector
    with quiet_exporters():
        write_graph(exported.eval(), torch.zeros(2, 3, *STRIP_SIZE), OPSET, path)
    if row.precision == "int8":
        strips = (
            to_unit_range(image)[None]
            for image, _ in islice(generated_strips(STRIP_SIZE), CALIBRATION_STRIPS)
        )
        quantize(path, path, strips)


def facts_of(path: Path, detector: nn.Module, strip: np.ndarray) -> dict[str, Any]:
    answer = open_session(path).run(["output"], {"input": strip})[0][:, :1]
    with torch.inference_mode():
        expected = detector(torch.from_numpy(strip))[:, :1].numpy()
    memory = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True
    )
    return {
        "file_mb": path.stat().st_size / 1e6,
        "nodes": sum(node.op_type != "Constant" for node in onnx.load(path).graph.node),
        "memory_mb": int(memory.stdout) / 1024,
        "difference": float(np.abs(answer - expected).max()),
    }


def recall_of(path: Path, count: int) -> dict[str, Any]:
    """Recall at 0.1 false alarms per strip on the first shots of the quality suite, with its
    interval.
    """
    session = place_session(path, SessionSettings()).session

    def predictor(image: np.ndarray) -> np.ndarray:
        return session.run(["output"], {"input": to_unit_range(image)[None]})[0][0, 0]

    jobs = [(level, number) for level in LEVELS for number in range(count)]
    scored = [
        score_strip(predictor, make_suite_strip(*job, 0))
        for job in tqdm(jobs, desc="recall", disable=None, leave=False)
    ]
    return {"recall": list(pool(scored).table()[0]["recall"][0.1])}


def measure_times(
    paths: dict[str, Path], table: dict[str, dict], strips: np.ndarray, rounds: int, provider: str
) -> None:
    """Adds load time and latencies: every round visits all files, and only one is open at a time,
    as some take gigabytes.
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
                # finds its memory, and has it in the processor's caches, as on a line
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
    titles = "| one 976x176 strip, CPU | file, MB | nodes | load, ms | batch 1, ms | batch 8, ms | strips/s | times as fast "
    titles += "| memory, MB | difference | recall at 0.1 |"
    print(titles)
    print("|" + " --- |" * (titles.count("|") - 1))
    slowest = table.get(REFERENCE, {}).get("batch1_ms")
    for name, row in table.items():
        speed = f"{slowest / row['batch1_ms']:.1f}" if slowest else "-"
        recall = with_interval([tuple(row["recall"])]) if "recall" in row else "-"
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
        print(f"| {name} | {' | '.join(map(str, cells))} | {row['difference']:.1e} | {recall} |")
    for name, row in table.items():
        if "batch1_ms_cuda" in row:
            times = f"{row['batch1_ms_cuda']:.2f} ms alone, {row['strips_per_second_cuda']:,.0f} strips/s at best"
            print(f"on CUDA, {name}: {times}")


if __name__ == "__main__":
    main()

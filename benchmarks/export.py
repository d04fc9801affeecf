"""The exported graph beside one with a copy of the network for each tile, and beside PyTorch: size, nodes, load time, latency.

    python benchmarks/export.py                       # 64 base channels: some minutes on two cores
    python benchmarks/export.py --base_channels 16

All three have the same weights and give the same heatmap of one 976x176 strip (the largest difference is shown). Loads, and then
calls of open sessions, are measured in turn; the table shows medians. On the CPU; --cuda adds rows where there is a GPU.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dataloader import to_unit_range
from demo_strips import STRIP_SIZE, make_strip
from model import SegmentationNetwork, SegmentationNetworkONNX, SegmentationNetworkONNXFullImage
from onnx_graph import quiet_exporters, write_graph
from tiling import calculate_kept_ranges, tile_positions

PATCH = 128
OPSET = 18
WARM_UPS = 2  # a session's first calls also find their memory
BATCH, UNROLLED, EAGER = "one copy, tiles as a batch", "18 unrolled copies", "PyTorch eager"


class Unrolled(nn.Module):
    """One call of the network per tile, written out: the straightforward way to export tiles, kept apart from ours on purpose."""

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


def export_unrolled(model: Unrolled, path: Path) -> None:
    with quiet_exporters(), torch.no_grad():
        batch = ({0: torch.export.Dim("batch")},)
        options = {"input_names": ["input"], "output_names": ["output"], "external_data": False, "verbose": False}
        torch.onnx.export(model, (torch.zeros(2, 3, *STRIP_SIZE),), path, opset_version=OPSET, dynamic_shapes=batch, **options)


def random_network(base_channels: int) -> SegmentationNetwork:
    torch.manual_seed(0)
    network = SegmentationNetwork(base_channels=base_channels)
    network.train()
    with torch.no_grad():
        network(torch.rand(4, 3, PATCH, PATCH))  # batch norm statistics that are not the initial ones
    return network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base_channels", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cuda", action="store_true")
    arguments = parser.parse_args()
    network = random_network(arguments.base_channels)
    eager = SegmentationNetworkONNXFullImage(network, STRIP_SIZE, PATCH).eval()
    strip = to_unit_range(make_strip(np.random.default_rng(0)))[None]
    with tempfile.TemporaryDirectory() as folder:
        files = {BATCH: Path(folder) / "batch.onnx", UNROLLED: Path(folder) / "unrolled.onnx"}
        write_graph(eager, torch.zeros(2, 3, *STRIP_SIZE), OPSET, files[BATCH])
        export_unrolled(Unrolled(network).eval(), files[UNROLLED])
        provider_rows = {"CPU": "CPUExecutionProvider"} | (
            {"CUDA": ("CUDAExecutionProvider", {"use_tf32": 0})} if arguments.cuda else {}
        )
        print("| one 976x176 strip | device | file | nodes | load | latency | difference |\n|" + " --- |" * 7)
        for device, provider in provider_rows.items():
            fastest = eager.to(device.lower(), memory_format=torch.channels_last)  # as our predictor does it
            print_rows(device, provider, files, fastest, strip, arguments.rounds)


@torch.inference_mode()
def print_rows(
    device: str, provider: str | tuple, files: dict[str, Path], eager: nn.Module, strip: np.ndarray, rounds: int
) -> None:
    openers = {name: partial(onnxruntime.InferenceSession, path, providers=[provider]) for name, path in files.items()}
    loads = interleaved(openers, rounds)
    runs = {name: partial(opener().run, None, {"input": strip}) for name, opener in openers.items()}
    runs[EAGER] = partial(run_eagerly, eager, torch.from_numpy(strip).to(device.lower()))
    latencies = interleaved(runs, rounds)
    answers = {name: np.asarray(run()).reshape(strip.shape) for name, run in runs.items()}
    for name, latency in latencies.items():
        difference = f"{np.abs(answers[name] - answers[EAGER]).max():.1e}"
        facts = describe_file(files[name], loads[name]) if name in files else "- | - | -"
        print(f"| {name} | {device} | {facts} | {milliseconds(latency)} | {difference} |")


def interleaved(actions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each action, all of them in turn in every round, after WARM_UPS rounds that do not count."""
    seconds = defaultdict(list)
    for _ in range(WARM_UPS + rounds):
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values[WARM_UPS:]) for name, values in seconds.items()}


def run_eagerly(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return model(images).cpu()


def describe_file(path: Path, load: float) -> str:
    nodes = sum(node.op_type != "Constant" for node in onnx.load(path).graph.node)
    return f"{path.stat().st_size / 1e6:.1f} MB | {nodes} | {milliseconds(load)}"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


if __name__ == "__main__":
    main()

"""The networks of --arch beside each other, as exported files on the CPU: weights, file size,
latency of one 976x176 strip.

    python -m benchmarks.networks        # a minute on two cores

Latencies are those of open ONNX Runtime sessions, measured in turn; the table shows medians. The
weights are random.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

from data.demo_strips import STRIP_SIZE, make_strip
from data.image_files import to_unit_range
from deploy.onnx_export import write_graph
from deploy.precision_gate import interleaved
from deploy.session import open_session
from export_onnx_fullimage import DEFAULT_OPSET
from model import ARCHITECTURES, SegmentationNetworkONNXFullImage
from ops.tiling import PATCH_SIZES


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base_channels", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    strip = to_unit_range(make_strip(np.random.default_rng(0)))[None]
    rows, sessions = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for base_channels in arguments.base_channels:
            for name, architecture in ARCHITECTURES.items():
                network = architecture(base_channels=base_channels)
                path = Path(folder) / f"{name}{base_channels}.onnx"
                full_image = SegmentationNetworkONNXFullImage(
                    network, STRIP_SIZE, PATCH_SIZES["strip"]
                ).eval()
                write_graph(full_image, torch.zeros(2, 3, *STRIP_SIZE), DEFAULT_OPSET, path)
                weights = sum(parameter.numel() for parameter in network.parameters())
                rows[name, base_channels] = f"{weights / 1e6:.2f} | {path.stat().st_size / 1e6:.1f}"
                sessions[name, base_channels] = open_session(path)
    calls = {key: partial(session.run, None, {"input": strip}) for key, session in sessions.items()}
    seconds = interleaved(calls, arguments.rounds, "calling")
    print(
        "| --arch | base channels | weights, millions | file, MB | one strip, ms |\n| --- | --- | --- | --- | --- |"
    )
    for (name, base_channels), row in rows.items():
        print(f"| {name} | {base_channels} | {row} | {seconds[name, base_channels] * 1000:,.0f} |")


if __name__ == "__main__":
    main()

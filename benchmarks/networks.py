"""Weights, file size and latency of the networks of --arch, exported for the CPU.

    python -m benchmarks.networks        # a minute on two cores

The latency is that of one 976x176 strip in an open ONNX Runtime session. All sessions are called in
turn, and the table shows medians. The weights are random.
"""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.command_line import make_parser
from benchmarks.tables import print_header, print_row
from data.demo_strips import STRIP_SIZE, make_strip
from data.image_files import to_unit_range
from deploy.export_flags import DEFAULT_OPSET
from deploy.onnx_export import write_graph
from deploy.precision_gate import interleaved
from deploy.session import open_session
from model import ARCHITECTURES, SegmentationNetworkONNXFullImage
from ops.tiling import PATCH_SIZES


def main() -> None:
    parser = make_parser(__doc__)
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
    print_header("--arch", "base channels", "weights, millions", "file, MB", "one strip, ms")
    for (name, base_channels), row in rows.items():
        print_row(name, base_channels, row, f"{seconds[name, base_channels] * 1000:,.0f}")


if __name__ == "__main__":
    main()

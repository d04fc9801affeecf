"""Time of aligning a 976x176 strip on the CPU beside that of the networks.

    python -m benchmarks.registration        # two minutes, most of them for exporting

Both run in ONNX Runtime and in PyTorch. The benchmark calls all of them in turn on --threads
threads, and the table shows medians. The networks take the strip as tiles, as in production; their
weights are random.
"""

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from benchmarks.command_line import make_parser
from benchmarks.tables import print_header, print_row
from data.demo_strips import STRIP_SIZE, make_strip
from data.image_files import to_unit_range
from deploy.export_flags import DEFAULT_OPSET
from deploy.onnx_export import write_graph
from model import ARCHITECTURES, SegmentationNetworkONNXFullImage
from ops.registration import ALIGN_MODES, Alignment
from ops.tiling import PATCH_SIZES

NETWORKS = ("unet", "difference")
WARM_UPS = 2  # calls of each model that are not timed: the first ones also allocate their memory


class AlignedStrips(nn.Module):
    """An alignment whose only output is the strip: like an exported network, it has one output."""

    def __init__(self, mode: str):
        super().__init__()
        self.alignment = Alignment(mode)

    def forward(self, strips: torch.Tensor) -> torch.Tensor:
        """Strips (B, 3, H, W) with their references aligned, of the same shape."""
        return self.alignment(strips)[0]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--base_channels", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    strip = to_unit_range(make_strip(np.random.default_rng(0)))[None]
    models = make_models(arguments.base_channels)
    with tempfile.TemporaryDirectory() as folder:
        sessions, graphs = {}, {}
        for name, model in models.items():
            path = Path(folder) / "model.onnx"
            write_graph(model, torch.zeros(2, 3, *STRIP_SIZE), DEFAULT_OPSET, path)
            nodes = sum(node.op_type != "Constant" for node in onnx.load(path).graph.node)
            started = time.perf_counter()
            sessions[name] = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
            graphs[name] = f"{nodes:,} | {(time.perf_counter() - started) * 1000:.0f}"
    onnx_calls = {
        name: partial(session.run, None, {"input": strip}) for name, session in sessions.items()
    }
    torch_calls = {name: partial(model, torch.from_numpy(strip)) for name, model in models.items()}
    with torch.inference_mode():
        milliseconds = measure(
            {("onnx", name): call for name, call in onnx_calls.items()} | torch_calls,
            arguments.rounds,
        )
    print_header(
        "",
        *("ONNX Runtime, ms", "share of the unet's"),
        *("PyTorch, ms", "share of the unet's"),
        *("nodes", "loading the session, ms"),
    )
    for name, graph in graphs.items():
        times = [
            f"{milliseconds[key]:.0f} | {milliseconds[key] / milliseconds[unet]:.0%}"
            for key, unet in ((("onnx", name), ("onnx", "`unet`")), (name, "`unet`"))
        ]
        print_row(name, *times, graph)


def make_models(base_channels: int) -> dict[str, nn.Module]:
    """The alignments and the networks, by their names in the table."""
    networks = {f"`{name}`": ARCHITECTURES[name](base_channels=base_channels) for name in NETWORKS}
    models = {f"alignment, `{mode}`": AlignedStrips(mode) for mode in ALIGN_MODES[1:]}
    models |= {
        name: SegmentationNetworkONNXFullImage(network, STRIP_SIZE, PATCH_SIZES["strip"])
        for name, network in networks.items()
    }
    return {name: model.eval() for name, model in models.items()}


def measure(calls: dict[object, Callable[[], object]], rounds: int) -> dict[object, float]:
    """Median milliseconds of each call, after WARM_UPS calls that are not timed."""
    milliseconds = defaultdict(list)
    for number in range(WARM_UPS + rounds):
        for key, call in calls.items():
            started = time.perf_counter()
            call()
            if number >= WARM_UPS:
                milliseconds[key].append((time.perf_counter() - started) * 1000)
    return {key: statistics.median(times) for key, times in milliseconds.items()}


if __name__ == "__main__":
    main()

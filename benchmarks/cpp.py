"""Latency and throughput of the C++ detector beside ONNX Runtime called bare and from Python.

    python -m benchmarks.cpp                        # some minutes on two cores
    python -m benchmarks.cpp --model FILE.onnx

Without --model the benchmark exports the 16-channel network on the whole strip, with random
weights, which take as long as trained ones. The programs take turns, a few calls each, in an order
that changes from round to round.

The overhead of our code is the median over the rounds of our median less that of the bare call,
with its bootstrap interval of 95 %. The time of the network itself varies by more than that, so the
last line shows the same two calls for a model that computes nothing. Several callers share one
session, and each of its calls uses one thread.
"""

import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from tqdm import tqdm

import export_onnx_fullimage as exporter
from benchmarks.command_line import make_parser
from benchmarks.tables import print_header, print_row
from data.demo_strips import STRIP_SIZE
from deploy.export_flags import DEFAULT_OPSET
from model import SegmentationNetwork
from tests.cpp import build, write_plain_model
from training.checkpoint import save_checkpoint

BASE_CHANNELS = 16  # of the network that is exported without --model
CALLS = 5  # calls in each turn
CALLERS = (1, 2, 4, 8)  # threads that call one session at once
REPLICATES = 2000  # resamplings of the bootstrap
TurnTimes = tuple[list[float], float]  # milliseconds of each call, and of the whole turn
Turn = Callable[[], TurnTimes]


class CppProgram:
    """The program deploy/cpp/checks/latency, which waits for a line on stdin before each turn."""

    def __init__(self, folder: Path, model: Path, threads: int):
        command = [folder / "checks" / "latency", model, str(threads)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def turn(self, request: str) -> TurnTimes:
        """Send one line, e.g. `bare 5`, and read the times; latency.cpp lists the requests."""
        print(request, file=self.process.stdin, flush=True)
        times = [float(word) for word in self.process.stdout.readline().split()]
        return (times[:-1], times[-1]) if request.startswith("callers") else (times, sum(times))

    def close(self) -> None:
        """Close the program's stdin and wait for its end."""
        self.process.stdin.close()
        self.process.wait()


class PythonProgram:
    """ONNX Runtime called from Python, from one thread for each caller."""

    def __init__(self, model: Path, threads: int):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        source = self.session.get_inputs()[0]
        values = np.random.default_rng(0).random((1, *source.shape[1:]), dtype=np.float32)
        self.feed = {
            source.name: values
            if source.type == "tensor(float)"
            else (255 * values).astype(np.uint8)
        }

    def turn(self, callers: int, calls: int) -> TurnTimes:
        """`calls` calls from each of `callers` threads at once."""
        started = time.perf_counter()
        with ThreadPoolExecutor(callers) as pool:
            times = list(pool.map(lambda _: [self._call() for _ in range(calls)], range(callers)))
        return list(chain.from_iterable(times)), 1000 * (time.perf_counter() - started)

    def _call(self) -> float:
        """Milliseconds of one call."""
        started = time.perf_counter()
        self.session.run(["output"], self.feed)
        return 1000 * (time.perf_counter() - started)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--model", type=Path, help="ONNX file for the CPU; its input may be values 0-1 or bytes"
    )
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    folder = build("checks")
    with tempfile.TemporaryDirectory() as temporary:
        model = arguments.model or export_model(Path(temporary))
        measure(folder, model, arguments.rounds)


def export_model(
    folder: Path,
    base_channels: int = BASE_CHANNELS,
    opset: int = DEFAULT_OPSET,
    size: tuple[int, int] = STRIP_SIZE,
) -> Path:
    """Export a network with random weights into `folder`; returns the path of the ONNX file.

    `size` is the strips' (height, width) in pixels.
    """
    torch.manual_seed(0)
    weights = SegmentationNetwork(base_channels=base_channels).state_dict()
    facts = {
        "img_height": size[0],
        "img_width": size[1],
        "image_type": "strip",
        "epoch": 0,
        "seed": 0,
    }
    save_checkpoint(folder / "random_best.pth", {"model_state_dict": weights} | facts)
    paths = ["--checkpoint_path", str(folder / "random_best.pth"), "--output_path", str(folder)]
    flags = ["--mode", "whole", "--opset_version", str(opset)]
    return exporter.export(exporter.parse_args([*paths, *flags]))


def measure(folder: Path, model: Path, rounds: int) -> None:
    """Time the programs built in `folder` with a model, and print the table and the overhead."""
    cpp, python = CppProgram(folder, model, 0), PythonProgram(model, 0)
    turns: dict[str, Turn] = {
        "bare call from C++": lambda: cpp.turn(f"bare {CALLS}"),
        "strip_detector": lambda: cpp.turn(f"ours {CALLS}"),
        "Python's ONNX Runtime": lambda: python.turn(1, CALLS),
    }
    single = take_turns(turns, rounds, "single calls")
    cpp.close()
    cpp, python = CppProgram(folder, model, 1), PythonProgram(model, 1)
    turns = {}
    for callers in CALLERS:
        turns[f"strip_detector, {callers} callers"] = lambda callers=callers: cpp.turn(
            f"callers {callers} {CALLS}"
        )
        turns[f"Python's ONNX Runtime, {callers} callers"] = lambda callers=callers: python.turn(
            callers, CALLS
        )
    several = take_turns(turns, max(rounds // 4, 3), "several callers")
    cpp.close()
    print_header("one strip a call, CPU", "p50, ms", "p99, ms", "strips/s")
    for name, taken in (single | several).items():
        times = np.concatenate([times for times, _ in taken])
        strips_per_second = 1000 * len(times) / sum(elapsed for _, elapsed in taken)
        median, high = f"{np.median(times):.2f}", f"{np.percentile(times, 99):.2f}"
        print_row(name, median, high, f"{strips_per_second:.1f}")
    print(describe_overhead(single["strip_detector"], single["bare call from C++"]))
    print(measure_trivial_model(folder, rounds))


def measure_trivial_model(folder: Path, rounds: int) -> str:
    """Time a model that computes nothing, so that the time of our own code can be seen.

    That code checks the input and the heatmap and searches for detections, of which there are none.
    """
    with tempfile.TemporaryDirectory() as temporary:
        model = write_plain_model(Path(temporary) / "plain.onnx", STRIP_SIZE, gain=0.4)
        cpp = CppProgram(folder, model, 1)
        turns: dict[str, Turn] = {
            name: lambda name=name: cpp.turn(f"{name} {CALLS}") for name in ("bare", "ours")
        }
        taken = take_turns(turns, rounds, "a model that computes nothing")
        cpp.close()
    bare, ours = (np.median([times for times, _ in taken[name]]) for name in ("bare", "ours"))
    return f"of a model that computes nothing, a bare call takes {bare:.2f} ms, ours {ours:.2f} ms"


def take_turns(turns: dict[str, Turn], rounds: int, label: str) -> dict[str, list[TurnTimes]]:
    """The times of each program's turns, in an order drawn anew in each of `rounds` rounds.

    The first turn of each program is a warm-up and is not returned.
    """
    taken, generator = defaultdict(list), np.random.default_rng(0)
    for number in tqdm(range(rounds + 1), desc=label, disable=None):
        for name in generator.permutation(list(turns)):
            result = turns[name]()
            if number:
                taken[name].append(result)
    return {name: taken[name] for name in turns}


def describe_overhead(ours: list[TurnTimes], bare: list[TurnTimes]) -> str:
    """One line with the share that our code adds to a bare call, and its interval of 95 %."""
    our_medians, bare_medians = (
        np.array([np.median(times) for times, _ in taken]) for taken in (ours, bare)
    )
    shares = 100 * (our_medians - bare_medians) / np.median(bare_medians)
    draws = np.random.default_rng(0).choice(shares, (REPLICATES, len(shares)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    share = f"{np.median(shares):.2f} %"
    return f"strip_detector adds {share} to the bare call ({low:.2f} to {high:.2f} %)"


if __name__ == "__main__":
    main()

"""The C++ detector beside Python's ONNX Runtime and the bare call from C++: latencies, strips per
second, what our code adds.

    python -m benchmarks.cpp                        # some minutes on two cores
    python -m benchmarks.cpp --model FILE.onnx

Without --model: the 16-channel network on the whole strip, with random weights, which take as long
as trained ones. All take turns, a few calls each, in an order that changes from round to round.
What our code adds is the median over the rounds of our median less the bare one, with its bootstrap
interval of 95 %; and, as that is lost in what the network's own time varies by, the same with a
model that computes nothing. Several callers share one session whose calls have one thread each.
"""

import argparse
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
from data.demo_strips import STRIP_SIZE
from model import SegmentationNetwork
from tests.cpp import build, write_plain_model
from training.checkpoint import save_checkpoint

BASE_CHANNELS = 16
CALLS = 5  # of each turn
CALLERS = (1, 2, 4, 8)
REPLICATES = 2000  # of the bootstrap
# milliseconds of each call, and of all of them together
Turn = Callable[[], tuple[list[float], float]]


class CppProgram:
    """deploy/cpp/checks/latency, which waits for its turns."""

    def __init__(self, folder: Path, model: Path, threads: int):
        command = [folder / "checks" / "latency", model, str(threads)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def turn(self, told: str) -> tuple[list[float], float]:
        print(told, file=self.process.stdin, flush=True)
        times = [float(word) for word in self.process.stdout.readline().split()]
        return (times[:-1], times[-1]) if told.startswith("callers") else (times, sum(times))

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


class PythonProgram:
    """ONNX Runtime as Python calls it, in threads where there are several callers."""

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

    def turn(self, callers: int, calls: int) -> tuple[list[float], float]:
        started = time.perf_counter()
        with ThreadPoolExecutor(callers) as pool:
            of_each = list(pool.map(lambda _: [self._call() for _ in range(calls)], range(callers)))
        return list(chain.from_iterable(of_each)), 1000 * (time.perf_counter() - started)

    def _call(self) -> float:
        started = time.perf_counter()
        self.session.run(["output"], self.feed)
        return 1000 * (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, help="an ONNX file for the CPU; its values may be 0-1 or bytes"
    )
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    folder = build("checks")
    with tempfile.TemporaryDirectory() as place:
        model = arguments.model or export_model(Path(place))
        measure(folder, model, arguments.rounds)


def export_model(folder: Path) -> Path:
    torch.manual_seed(0)
    weights = SegmentationNetwork(base_channels=BASE_CHANNELS).state_dict()
    facts = {
        "img_height": STRIP_SIZE[0],
        "img_width": STRIP_SIZE[1],
        "image_type": "strip",
        "epoch": 0,
        "seed": 0,
    }
    save_checkpoint(folder / "random_best.pth", {"model_state_dict": weights} | facts)
    words = [
        "--checkpoint_path",
        folder / "random_best.pth",
        "--output_path",
        folder,
        "--mode",
        "whole",
    ]
    return exporter.export(exporter.parse_args([str(word) for word in words]))


def measure(folder: Path, model: Path, rounds: int) -> None:
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
    print("| one strip a call, CPU | p50, ms | p99, ms | strips/s |\n| --- | --- | --- | --- |")
    for name, taken in (single | several).items():
        times = np.concatenate([times for times, _ in taken])
        strips_per_second = 1000 * len(times) / sum(elapsed for _, elapsed in taken)
        print(
            f"| {name} | {np.median(times):.2f} | {np.percentile(times, 99):.2f} | {strips_per_second:.1f} |"
        )
    print(overhead(single["strip_detector"], single["bare call from C++"]))
    print(own_time(folder, rounds))


def own_time(folder: Path, rounds: int) -> str:
    """What our code takes by itself: checks of the input and the heatmap, and the search for
    detections where there are none.
    """
    with tempfile.TemporaryDirectory() as place:
        cpp = CppProgram(
            folder, write_plain_model(Path(place) / "plain.onnx", STRIP_SIZE, gain=0.4), 1
        )
        turns: dict[str, Turn] = {
            name: lambda name=name: cpp.turn(f"{name} {CALLS}") for name in ("bare", "ours")
        }
        taken = take_turns(turns, rounds, "a model that computes nothing")
        cpp.close()
    bare, ours = (np.median([times for times, _ in taken[name]]) for name in ("bare", "ours"))
    return f"of a model that computes nothing, a bare call takes {bare:.2f} ms, ours {ours:.2f} ms"


def take_turns(
    turns: dict[str, Turn], rounds: int, label: str
) -> dict[str, list[tuple[list[float], float]]]:
    """What each turn of each took, after one that does not count."""
    taken, generator = defaultdict(list), np.random.default_rng(0)
    for number in tqdm(range(rounds + 1), desc=label, disable=None):
        for name in generator.permutation(list(turns)):
            result = turns[name]()
            if number:
                taken[name].append(result)
    return {name: taken[name] for name in turns}


def overhead(ours: list[tuple[list[float], float]], bare: list[tuple[list[float], float]]) -> str:
    """What our code adds to a bare call, in words."""
    mine, theirs = (np.array([np.median(times) for times, _ in taken]) for taken in (ours, bare))
    shares = 100 * (mine - theirs) / np.median(theirs)
    draws = np.random.default_rng(0).choice(shares, (REPLICATES, len(shares)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return f"strip_detector adds {np.median(shares):.2f} % to the bare call ({low:.2f} to {high:.2f} %)"


if __name__ == "__main__":
    main()

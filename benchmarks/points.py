"""Mode "points" beside the other modes: what it finds, how long it takes, and where the time goes.

    # times, with random weights: five minutes on two cores
    python -m benchmarks.points
    # what a trained network finds in it, with several numbers of candidates
    python -m benchmarks.points --checkpoint RUN_best.pth --recall --groups suite hard
    # the same on other strips, to choose the number on
    python -m benchmarks.points --checkpoint RUN_best.pth --recall --seed 77001 --numbers 3 8

Times are the least of --rounds, in ONNX Runtime on the CPU. All files take turns, and each timed
call follows an untimed one, so that what else runs disturbs all alike. With one thread it is the
time of the processor, which other work disturbs least.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from tqdm import tqdm

from benchmarks.command_line import make_parser
from benchmarks.export import PATCH, REFERENCE, Row, make_detector
from benchmarks.quality_scores import ImageScores, pool, score_heatmap
from benchmarks.suite.levels import GROUPS, STRIP_COUNT, SUITE_SEED
from benchmarks.suite.strips import make_suite_strip
from benchmarks.tables import print_header, print_row
from data.demo_strips import STRIP_SIZE, make_strip
from data.image_files import to_unit_range
from deploy.onnx_export import quiet_exporters, write_graph
from model import EXPORT_MODES, SegmentationNetwork, SegmentationNetworkONNXFullImage
from ops.registration import Alignment
from training.checkpoint import build_network, load_checkpoint

OPSET = 17  # 18 copies of a network take a tenth of the memory that they take in opset 18
COUNTS = (16, 24, 32, 48, 64)  # of candidates
FLAGS = {"architecture": "difference", "align": "fine", "weighting": "strong_likelihood"}
ROWS = (
    Row(REFERENCE, unrolled=True),
    *(
        Row(f"`train.sh`'s flags, {mode}", **FLAGS, base_channels=16, mode=mode)
        for mode in EXPORT_MODES
    ),
    Row("the same, 32 channels, points", **FLAGS, base_channels=32, mode="points"),
    Row("likelihood, no network", "likelihood"),
    Row("registered, no network", "registered"),
)
# The parts of a file with candidates, in the order in which they are computed.
PARTS = (
    "registration",
    "likelihood ratio and choice",
    "patches and their input planes",
    "network",
    "putting back",
)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, help="of the flags of train.sh")
    parser.add_argument("--recall", action="store_true", help="the recall instead of the times")
    parser.add_argument("--rounds", type=int, default=9, help="timed calls of each file")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows", default="", help="only files whose name contains this text")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--seed", type=int, default=SUITE_SEED, help="of the strips")
    parser.add_argument(
        "--numbers", type=int, nargs=2, default=[0, STRIP_COUNT], help="first strip, and the end"
    )
    arguments = parser.parse_args()
    if arguments.recall:
        print_recalls(arguments)
    else:
        print_times(arguments)


def print_times(arguments: argparse.Namespace) -> None:
    """Print the time of each file, and of the parts of the one with candidates."""
    strip = to_unit_range(make_strip(np.random.default_rng(0)))[None]
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for row in tqdm(ROWS, desc="exporting", disable=None):
            if arguments.rows in row.name:
                is_trained = row.architecture == "difference" and row.base_channels == 16
                detector = make_detector(row, arguments.checkpoint if is_trained else None)
                paths[row.name] = Path(folder) / f"{len(paths)}.onnx"
                with quiet_exporters():
                    write_graph(detector, torch.zeros(2, 3, *STRIP_SIZE), OPSET, paths[row.name])
        times = measure_times(paths, arguments, strip)
        print_header(
            "one 976x176 strip, ms", *(f"{n} threads" for n in arguments.threads), "times as fast"
        )
        for name in paths:
            cells = [times[name, threads] for threads in arguments.threads]
            ratio = (
                f"{times[REFERENCE, arguments.threads[-1]] / cells[-1]:.1f}"
                if REFERENCE in paths
                else "-"
            )
            print_row(name, *(f"{1000 * cell:.1f}" for cell in cells), ratio)
        for name, path in paths.items():
            if name.endswith("points"):
                print()
                parts = [
                    measure_parts(path, threads, strip, arguments.rounds)
                    for threads in arguments.threads
                ]
                print_header(f"{name}: ms of", *(f"{n} threads" for n in arguments.threads))
                for part in PARTS:
                    print_row(part, *(f"{1000 * each[part]:.1f}" for each in parts))


def open_with(
    path: Path, threads: int, profile: Path | None = None
) -> onnxruntime.InferenceSession:
    """A session on the CPU with a number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def measure_times(
    paths: dict[str, Path], arguments: argparse.Namespace, strip: np.ndarray
) -> dict[tuple[str, int], float]:
    """The least seconds of a call, by file and threads."""
    sessions = {
        (name, threads): open_with(path, threads)
        for name, path in paths.items()
        for threads in arguments.threads
    }
    seconds = defaultdict(list)
    for _ in tqdm(range(arguments.rounds), desc="timing", disable=None):
        for key, session in sessions.items():
            seconds[key].append(time_call(session, strip, key[1]))
    return {key: min(values) for key, values in seconds.items()}


def time_call(session: onnxruntime.InferenceSession, strip: np.ndarray, threads: int) -> float:
    """Seconds of a call that follows an untimed one."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    session.run(["output"], {"input": strip})
    started = clock()
    session.run(["output"], {"input": strip})
    return clock() - started


def measure_parts(path: Path, threads: int, strip: np.ndarray, rounds: int) -> dict[str, float]:
    """The seconds of each of PARTS: the sums of the least times of its nodes."""
    session = open_with(path, threads, path.with_suffix(""))
    for _ in range(2 * rounds):
        session.run(["output"], {"input": strip})
    nodes = defaultdict(list)
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            nodes[name, event["args"]["op_name"]].append(event["dur"] / 1e6)
    parts = dict.fromkeys(PARTS, 0.0)
    for node, part in parts_of(nodes):
        parts[part] += min(nodes[node])
    return parts


def parts_of(nodes: Iterable[tuple[str, str]]) -> Iterable[tuple[tuple[str, str], str]]:
    """Each node, given by name and operation in the order of the calls, with its part of PARTS.

    The older exporter writes a module's name into those of its nodes. The others follow one another
    in the order of PARTS, and the choice ends the second part.
    """
    reached = 1
    for name, operation in nodes:
        if name.startswith("/encoder"):
            reached = 3
        yield (name, operation), PARTS[0 if name.startswith("/alignment") else reached]
        if operation == "TopK" and not name.startswith("/alignment"):
            reached = 2
        if name.startswith("/head"):
            reached = 4


def print_recalls(arguments: argparse.Namespace) -> None:
    """Print the recall in tiles, and with each of COUNTS candidates."""
    content = load_checkpoint(arguments.checkpoint)
    network = build_network(content, arguments.checkpoint).eval()
    alignment = Alignment(content["align"]).eval()
    detectors = {"tiles": make_heatmap(network, content, mode="tiles")} | {
        f"points, {count} candidates": make_heatmap(
            network, content, mode="points", candidates=count
        )
        for count in COUNTS
    }
    for group in arguments.groups:
        scores: dict[str, list[ImageScores]] = defaultdict(list)
        jobs = [(level, number) for level in GROUPS[group] for number in range(*arguments.numbers)]
        for job in tqdm(jobs, desc=group, disable=None):
            strip = make_suite_strip(*job, 0, arguments.seed)
            with torch.inference_mode():
                aligned, _ = alignment(torch.from_numpy(to_unit_range(strip.image))[None])
                for name, detector in detectors.items():
                    heatmap = detector.heatmap(aligned)[0, 0].numpy()
                    scores[name].append(score_heatmap(heatmap, strip))
        print_header(f"{group}, {len(jobs)} strips", "recall at 0.1", "recall at 1")
        for name, images in scores.items():
            found = pool(images).compute()
            print_row(name, *(f"{found[f'point_recall_at_{rate}']:.3f}" for rate in ("0.1", "1")))


def make_heatmap(
    network: SegmentationNetwork, content: dict, **options
) -> SegmentationNetworkONNXFullImage:
    """The network's detector for strips that are aligned already."""
    return SegmentationNetworkONNXFullImage(
        network, STRIP_SIZE, PATCH, weighting=content["weighting"], **options
    ).eval()


if __name__ == "__main__":
    main()

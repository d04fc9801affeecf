"""Memory and time of scoring many strips, and the error of the pixel metrics' histograms.

    # 100, 1,000 and 10,000 strips of 976x176: 15 minutes on two cores
    python -m benchmarks.scoring
    python -m benchmarks.scoring --strips 100 500      # two minutes

Every strip is read from a TIFF file and passes through the evaluation of the inference commands:
plain double detection, with many detections above a low threshold, all metrics, verdicts, tables
and the report. Only heatmaps and pictures of single strips are not written. Half of the strips have
defects and masks. Each number of strips is scored in a separate process; memory is the peak of that
process. The second table compares the pixel metrics, which histograms approximate, with
scikit-learn's exact ones.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.command_line import make_parser
from benchmarks.tables import print_header, print_row
from data.demo_strips import make_strip
from data.folder import StripFile, list_strips
from data.labelled_strip import read_strip
from data.write_images import write_strip
from evaluation.calibration import make_baselines
from evaluation.detector import Detector
from evaluation.evaluate import evaluate
from evaluation.metrics import PixelMetrics
from evaluation.model_info import ModelInfo
from evaluation.predictors import DetectorPredictor
from evaluation.results import Rules
from evaluation.thresholds import Threshold
from ops.classical import classical_detector
from prepare_dataset import write_painted_strip
from reporting.score_folder import write_everything

FILES = 20  # different strips; each is scored several times under different names
THRESHOLD = Threshold(0.08, "of the benchmark")  # low: each strip has many detections above it


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--strips", type=int, nargs="+", default=[100, 1000, 10000])
    # given to the process that scores one number of strips: the folder of strips
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(score(arguments.one, arguments.strips[0])))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_strips(Path(folder))
        print_header("strips", "peak memory, MB", "ms a strip", "report, MB")
        for count in arguments.strips:
            command = [sys.executable, "-m", "benchmarks.scoring", "--one", folder]
            done = subprocess.run(
                [*command, "--strips", str(count)], check=True, stdout=subprocess.PIPE
            )
            memory, milliseconds, report = json.loads(done.stdout)
            print_row(f"{count:,}", f"{memory:,.0f}", f"{milliseconds:.0f}", f"{report:.1f}")
        print_errors(Path(folder))


def make_strips(root: Path) -> None:
    """Write FILES strips into `root`/test, every other one with defects and a mask."""
    for number in range(FILES):
        generator = np.random.default_rng(number)
        image = make_strip(generator)
        if number % 2:
            write_painted_strip(root, "test", f"strip_{number}.tiff", image, generator)
        else:
            write_strip(root / "test" / "good" / f"strip_{number}.tiff", image)


def score(root: Path, count: int) -> tuple[float, float, float]:
    """Score `count` strips: peak memory in MB, milliseconds a strip, size of the report in MB."""
    device = torch.device("cpu")
    detector = Detector(
        "double detection",
        DetectorPredictor(classical_detector("double", 0.0), device),
        ModelInfo("strip", 255, "none"),
        device,
        is_classical=True,
    )
    strips = [
        with_number(strip, number)
        for number, strip in zip(range(count), cycle(list_strips(root / "test")))
    ]
    started = time.perf_counter()
    result = evaluate(detector.predictor, strips, rules=Rules(THRESHOLD, patch=128), baselines={})
    write_everything(root / f"out{count}", detector, root / "test", result, THRESHOLD, {})
    seconds = time.perf_counter() - started
    report = (root / f"out{count}" / "report.html").stat().st_size
    return (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        1000 * seconds / count,
        report / 1e6,
    )


def with_number(strip: StripFile, number: int) -> StripFile:
    """The same file under a name that begins with a number, so that no name occurs twice."""
    relative = strip.relative.with_name(f"{number:05}_{strip.relative.name}")
    return StripFile(strip.path, relative, strip.kind, strip.mask)


def print_errors(root: Path) -> None:
    """Print scikit-learn's pixel metrics, and how far those of the histograms are off."""
    detectors = make_baselines({}, torch.device("cpu"))
    strips = [read_strip(strip, 255) for strip in list_strips(root / "test")]
    labels = np.concatenate([mask.ravel() for _, mask in strips])
    print()
    print_header("heatmap", "pixel AUROC", "off by", "pixel average precision", "off by")
    for name, detector in detectors.items():
        heatmaps = [np.minimum(detector(image), 1) for image, _ in strips]
        pixels = PixelMetrics()
        for heatmap, (_, mask) in zip(heatmaps, strips):
            pixels.update(heatmap, mask)
        scores = np.concatenate([heatmap.ravel() for heatmap in heatmaps])
        metrics, cells = pixels.compute(), []
        for metric, exact in (
            ("pixel_auroc", roc_auc_score(labels, scores)),
            ("pixel_average_precision", average_precision_score(labels, scores)),
        ):
            cells += [f"{exact:.6f}", f"{abs(metrics[metric] - exact):.1e}"]
        print_row(name, *cells)


if __name__ == "__main__":
    main()

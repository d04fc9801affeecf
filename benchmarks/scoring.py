"""Memory and time of scoring many strips, and how far the pixel figures' histograms are from the
exact figures.

    python -m benchmarks.scoring                       # 100, 1,000 and 10,000 strips of 976x176: 15 minutes on two cores
    python -m benchmarks.scoring --strips 100 500      # two minutes

Every strip is read from a TIFF file and goes through the evaluation of the inference commands:
plain double detection, with many detections above a low threshold, all figures, verdicts, tables
and the report. Only heatmaps and pictures of single strips are not written. Half of the strips have
defects and masks. Each number of strips has a process of its own; memory is its peak.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from data.demo_strips import make_strip
from data.folder import StripFile, list_strips
from data.labelled_strip import read_strip
from evaluation.calibration import make_baselines
from evaluation.evaluate import evaluate
from evaluation.metrics import PixelMetrics
from evaluation.model_info import ModelInfo
from evaluation.predictors import DetectorPredictor
from evaluation.results import Rules
from evaluation.thresholds import Threshold
from ops.classical import classical_detector
from prepare_dataset import write_painted_strip, write_strip
from reporting.score_folder import Detector, write_everything

FILES = 20  # different strips; each is scored again and again under another name
THRESHOLD = Threshold(0.08, "of the benchmark")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--strips", type=int, nargs="+", default=[100, 1000, 10000])
    # the folder of strips, in the process of one number
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(score(arguments.one, arguments.strips[0])))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_strips(Path(folder))
        print("| strips | peak memory, MB | ms a strip | report, MB |\n| --- | --- | --- | --- |")
        for count in arguments.strips:
            words = [
                sys.executable,
                "-m",
                "benchmarks.scoring",
                "--one",
                folder,
                "--strips",
                str(count),
            ]
            memory, milliseconds, report = json.loads(
                subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout
            )
            print(f"| {count:,} | {memory:,.0f} | {milliseconds:.0f} | {report:.1f} |", flush=True)
        print_errors(Path(folder))


def make_strips(root: Path) -> None:
    for number in range(FILES):
        generator = np.random.default_rng(number)
        image = make_strip(generator)
        if number % 2:
            write_painted_strip(root, "test", f"strip_{number}.tiff", image, generator)
        else:
            write_strip(root / "test" / "good" / f"strip_{number}.tiff", image)


def score(root: Path, count: int) -> tuple[float, float, float]:
    """Peak memory in MB, milliseconds a strip, and size of the report in MB."""
    device = torch.device("cpu")
    detector = Detector(
        "double detection",
        DetectorPredictor(classical_detector("double", 0.0), device),
        ModelInfo("strip", 255, "none"),
        device,
        is_classical=True,
    )
    strips = [
        renamed(strip, number)
        for number, strip in zip(range(count), endless(list_strips(root / "test")))
    ]
    started = time.perf_counter()
    result = evaluate(detector.predictor, strips, rules=Rules(THRESHOLD, patch=128), baselines={})
    write_everything(root / f"out{count}", detector, result, THRESHOLD, {})
    seconds = time.perf_counter() - started
    report = (root / f"out{count}" / "report.html").stat().st_size
    return (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        1000 * seconds / count,
        report / 1e6,
    )


def endless(strips: list[StripFile]):
    while True:
        yield from strips


def renamed(strip: StripFile, number: int) -> StripFile:
    relative = strip.relative.with_name(f"{number:05}_{strip.relative.name}")
    return StripFile(strip.path, relative, strip.kind, strip.mask)


def print_errors(root: Path) -> None:
    """The histograms' figures beside scikit-learn's of all pixels."""
    detectors = make_baselines({}, torch.device("cpu"))
    strips = [read_strip(strip, 255) for strip in list_strips(root / "test")]
    labels = np.concatenate([mask.ravel() for _, mask in strips])
    print(
        "\n| heatmap | pixel AUROC | off by | pixel average precision | off by |\n| --- | --- | --- | --- | --- |"
    )
    for name, detector in detectors.items():
        heatmaps = [np.minimum(detector(image), 1) for image, _ in strips]
        pixels = PixelMetrics()
        for heatmap, (_, mask) in zip(heatmaps, strips):
            pixels.update(heatmap, mask)
        scores, figures = (
            np.concatenate([heatmap.ravel() for heatmap in heatmaps]),
            pixels.compute(),
        )
        cells = []
        for figure, exact in (
            ("pixel_auroc", roc_auc_score(labels, scores)),
            ("pixel_average_precision", average_precision_score(labels, scores)),
        ):
            cells += [f"{exact:.6f}", f"{abs(figures[figure] - exact):.1e}"]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

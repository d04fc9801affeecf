"""What one reference costs, and what more than two are worth, on levels of the quality suite.

    python -m benchmarks.references --levels everything noise --strips 30

The references are those of several shots of a strip. One reference stands for both; more than two
are registered to Target and averaged, as `prepare_dataset.py combine --references` does. The
detectors are the classical ones that register references by themselves.
"""

import argparse
import sys

import numpy as np
import torch
from tqdm import tqdm

from arguments import whole_number
from benchmarks.quality_scores import ImageScores, pool, score_heatmap
from benchmarks.suite.levels import AMOUNTS
from benchmarks.suite.strips import make_suite_strip
from common.command_parser import command_parser
from common.errors import run_command
from data.combine import average_planes
from data.registered_copies import StripAligner
from evaluation.predictors import DetectorPredictor
from ops.classical import choose_sigma, classical_detector

METHODS = ("registered", "likelihood")
COUNTS = (1, 2, 4, 8)  # references


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("--levels", nargs="+", choices=AMOUNTS, default=["everything", "noise"])
    parser.add_argument("--strips", type=whole_number(2), default=30, help="of each level")
    return parser.parse_args(arguments)


def with_references(level: str, number: int, count: int, aligner: StripAligner) -> np.ndarray:
    """Shot 0 of a strip (3, H, W), grey levels, with `count` references: 1 or an even number."""
    shots = [make_suite_strip(level, number, shot).image for shot in range(max(1, count // 2))]
    if count == 1:
        return shots[0][[0, 1, 1]]
    if count == 2:
        return shots[0]
    return average_planes(shots[0][0], [plane for shot in shots for plane in shot[1:]], aligner)


def main() -> int:
    arguments = parse_args()
    aligner, device = StripAligner("fine", torch.device("cpu")), torch.device("cpu")
    predictors = {
        method: DetectorPredictor(classical_detector(method, choose_sigma(method, {})), device)
        for method in METHODS
    }
    for level in arguments.levels:
        scores: dict[tuple[str, int], list[ImageScores]] = {}
        for number in tqdm(range(arguments.strips), desc=level, disable=None, leave=False):
            strip = make_suite_strip(level, number, 0)
            for count in COUNTS:
                image = with_references(level, number, count, aligner)
                for method, predictor in predictors.items():
                    entry = score_heatmap(predictor(image), strip)
                    scores.setdefault((method, count), []).append(entry)
        print(f"{level}: recall at 0.1 and at 1 false alarms per strip, {arguments.strips} strips")
        for (method, count), images in scores.items():
            found = pool(images).compute()
            recalls = (found["point_recall_at_0.1"], found["point_recall_at_1"])
            print(f"  {method:12}{count:3} references   {recalls[0]:.2f}  {recalls[1]:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))

"""False alarms per strip with and without a review of the detections, on strips like the suite's.

    # the whole table: ten minutes of one core
    python -m benchmarks.review
    # labels of fewer strips of each of the seven levels: the first three have no defect
    python -m benchmarks.review --learn 7
    # of another method without a network
    python -m benchmarks.review --method likelihood

The detector is a method without a network: the strongest candidates of each strip. A classifier
(`train_defect_model.py`) and boosted trees learn from crops around the candidates of labelled
strips. The weight of each review is chosen on other labelled strips, and the tables are of further
ones. Each of the three groups has a seed of its own, none of them the suite's.

--output keeps the crops and the trained classifier, which a further call uses again. Intervals are
those of 90 % confidence, from paired bootstrap samples of strips.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from benchmarks.command_line import ROOT, make_parser
from benchmarks.suite.levels import LEVELS
from benchmarks.suite.points import Point
from benchmarks.suite.strips import SuiteStrip, make_suite_strip
from benchmarks.tables import print_header, print_row
from classifier.crops import cut, strip_planes
from classifier.defect_checkpoint import checkpoint_in, load_defect_model
from classifier.detection_table import DEFECT
from classifier.review import (
    Candidates,
    choose_weight,
    fuse,
    kind_probabilities,
    match_scores,
    paired_gain,
    review_logits,
    review_metrics,
)
from classifier.review_features import TreesReview, crop_features
from classifier.train_defect_model import parse_args as parse_training
from classifier.train_defect_model import train
from common.files import new_folder
from data.demo_strips import STRIP_SIZE
from data.folder import GOOD, mask_path
from data.registered_copies import StripAligner
from data.write_images import write_mask, write_strip
from evaluation.detections import find_peaks
from evaluation.matching import FALSE_ALARM, TrueDefect, match
from evaluation.metrics import FrocMetrics
from evaluation.predictors import DetectorPredictor
from ops.classical import METHODS, choose_sigma, classical_detector

SEEDS = {"learn": 25, "choose": 28, "test": 27}  # of the strips of each group, never the suite's
CROP_SIZE = 32  # pixels
RECALLS = (0.80, 0.85, 0.90, 0.93)
RATES = (0.03, 0.1, 1.0, 10.0)  # false alarms per strip
MARKED = 1.5  # sigmas of a point that its mask covers


@dataclass(frozen=True)
class Reviewed:
    """The candidates of one strip, their crops (N, 4, size, size) and the marks in them."""

    candidates: Candidates
    crops: np.ndarray
    marks: np.ndarray
    found: np.ndarray  # (N,) as of `match`


def main(words: list[str] | None = None) -> int:
    """Print the tables and return the exit code."""
    arguments = parse_args(words)
    print_tables(arguments)
    return 0


def parse_args(words: list[str] | None = None) -> argparse.Namespace:
    """Parse a command line (None: that of the process)."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--output", type=Path, default=ROOT / "output" / "review", help="folder for what is kept"
    )
    parser.add_argument("--method", choices=METHODS, default="registered", help="the detector")
    parser.add_argument("--levels", nargs="+", choices=LEVELS, default=list(LEVELS))
    for name, count, text in (
        ("learn", 12, "to learn from"),
        ("choose", 10, "to choose the weight on"),
        ("test", 20, "to measure on"),
    ):
        parser.add_argument(f"--{name}", type=int, default=count, help=f"strips of a level {text}")
    parser.add_argument("--candidates", type=int, default=40, help="of each strip")
    parser.add_argument("--rate", type=float, default=0.1, help="at which the weight is chosen")
    parser.add_argument("--epochs", type=int, default=12, help="of the classifier")
    parser.add_argument("--seed", type=int, default=42, help="of the classifier")
    parser.add_argument(
        "--image_size", type=int, nargs=2, default=STRIP_SIZE, help="height and width of a strip"
    )
    return parser.parse_args(words)


def print_tables(arguments: argparse.Namespace) -> None:
    """Make the strips, train both reviews, choose their weights and print what they give."""
    learn, choose, test = (gather(arguments, group) for group in SEEDS)
    arguments.output.mkdir(parents=True, exist_ok=True)
    trees = train_trees(learn)
    network = train_network(learn, arguments)
    held, shown = ([one.candidates for one in strips] for strips in (choose, test))
    choices = {
        name: choose_weight(held, logits, arguments.rate)
        for name, logits in all_logits(choose, trees, network).items()
    }
    reviewed = all_logits(test, trees, network)
    alone = [np.zeros(len(one.margins)) for one in shown]
    rows = {"detector alone": (alone, 0.0)} | {
        f"+ {name}, weight {choice.weight:g}": (reviewed[name], choice.weight)
        for name, choice in choices.items()
    }
    metrics = {name: review_metrics(shown, *row) for name, row in rows.items()}
    truths = next(iter(metrics.values())).truths
    print(
        f"`{arguments.method}`, {arguments.candidates} candidates a strip; {len(learn)} strips to "
        f"learn from, {len(choose)} to choose the weight on at {arguments.rate:g}; "
        f"{len(test)} strips with {truths} defects"
    )
    print("\nfalse alarms per strip at recall")
    print_header("detector", *(f"{recall:.2f}" for recall in RECALLS))
    for name, froc in metrics.items():
        print_row(name, *(alarms_at(froc, recall) for recall in RECALLS))
    print("\nrecall at false alarms per strip, and its gain with its interval")
    print_header("detector", *(f"{rate:g}" for rate in RATES))
    base = [match_scores(one, one.margins) for one in shown]
    for name, (logits, weight) in rows.items():
        results = [
            match_scores(one, fuse(one.margins, values, weight))
            for one, values in zip(shown, logits)
        ]
        print_row(name, *(gain_cell(paired_gain(results, base, rate)) for rate in RATES))
    print()
    for name, choice in choices.items():
        print(f"{name}: weight {choice.weight:g}, {choice.reason}")


def gather(arguments: argparse.Namespace, group: str) -> list[Reviewed]:
    """The candidates of a group's strips of every level; `group` is one of SEEDS."""
    detector = classical_detector(arguments.method, choose_sigma(arguments.method, {}))
    predictor = DetectorPredictor(detector, torch.device("cpu"))
    aligner = StripAligner("full", torch.device("cpu"))
    size = tuple(arguments.image_size)
    numbers = range(vars(arguments)[group])
    jobs = [(level, number) for level in arguments.levels for number in numbers]
    return [
        review_strip(
            make_suite_strip(*job, 0, SEEDS[group], size), predictor, aligner, arguments.candidates
        )
        for job in tqdm(jobs, desc="strips", unit="strip", disable=None)
    ]


def review_strip(
    strip: SuiteStrip, predictor: DetectorPredictor, aligner: StripAligner, count: int
) -> Reviewed:
    """The strongest `count` candidates of a strip, and their crops."""
    heatmap = predictor(strip.image)
    peaks = find_peaks(heatmap)
    points, margins = peaks.points[:count], peaks.scores[:count]
    truths = [
        TrueDefect(
            point.center,
            contrast=point.contrast,
            place=point.place,
            counts=point.presence == "T",
            box=point.box,
        )
        for point in strip.points
        if point.presence in ("T", "R12")
    ]
    marks = draw_marks([point for point in strip.points if point.presence == "T"], heatmap.shape)
    planes = strip_planes(strip.image, heatmap, aligner)
    found = match(points, truths)
    is_counted = np.array([number < 0 or truths[number].counts for number in found.tolist()])
    return Reviewed(
        Candidates(points, margins, truths),
        np.stack([cut(planes, y, x, CROP_SIZE) for y, x in points.tolist()]),
        np.stack([cut(marks, y, x, CROP_SIZE) for y, x in points.tolist()]),
        np.where(is_counted, found, -2),
    )


def draw_marks(points: list[Point], image_size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) bool of points."""
    marks = np.zeros(image_size, np.uint8)
    for point in points:
        if point.box:
            top, left, bottom, right = point.box
            marks[top:bottom, left:right] = 1
            continue
        (y, x), (sigma_y, sigma_x) = point.center, point.sigma
        axes = [max(1, round(MARKED * sigma)) for sigma in (sigma_x, sigma_y)]
        cv2.ellipse(marks, (round(x), round(y)), axes, 0, 0, 360, 1, -1)
    return marks > 0


def labelled(strips: list[Reviewed]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crops, margins and whether each is a defect, of the candidates whose label is known."""
    known = [one.found >= FALSE_ALARM for one in strips]
    return (
        np.concatenate([one.crops[where] for one, where in zip(strips, known)]),
        np.concatenate([one.candidates.margins[where] for one, where in zip(strips, known)]),
        np.concatenate([one.found[where] >= 0 for one, where in zip(strips, known)]),
    )


def train_trees(strips: list[Reviewed]) -> TreesReview:
    """Boosted trees on the crops of labelled strips."""
    crops, margins, is_defect = labelled(strips)
    return TreesReview(crop_features(crops, margins), is_defect)


def train_network(strips: list[Reviewed], arguments: argparse.Namespace) -> Path:
    """A classifier trained on the crops of labelled strips; returns its checkpoint.

    Every fifth strip measures the epochs. A classifier of the same settings that is there is taken.
    """
    settings = (arguments.method, len(strips), arguments.candidates, arguments.epochs)
    folder = arguments.output / "_".join(map(str, (*settings, arguments.seed)))
    if not folder.exists():
        with new_folder(folder) as place:
            write_crops(place / "crops", strips)
            flags = {
                "data_root": place / "crops",
                "save_dir": place / "run",
                "epochs": arguments.epochs,
                "seed": arguments.seed,
                "num_workers": 0,
                "gpu_id": -1,
            }
            words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
            train(parse_training(words))
    return checkpoint_in(folder / "run")


def write_crops(root: Path, strips: list[Reviewed]) -> None:
    """Write a data set of the labelled crops, with the marks as masks."""
    for number, one in enumerate(strips):
        split = "train" if number % 5 else "valid"
        for place, found in enumerate(one.found.tolist()):
            if found < FALSE_ALARM:
                continue
            kind, name = DEFECT if found >= 0 else GOOD, f"{number:04}_{place:02}"
            path = root / split / kind / f"{name}.tiff"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_strip(path, one.crops[place])
            if found >= 0 and one.marks[place].any():
                mask = mask_path(root, split, kind, name)
                write_mask(mask, one.marks[place].astype(np.uint8))


def all_logits(
    strips: list[Reviewed], trees: TreesReview, checkpoint: Path
) -> dict[str, list[np.ndarray]]:
    """The logits of each strip's candidates, by the name of the review."""
    model = load_defect_model(checkpoint)
    network_logits = [
        review_logits(kind_probabilities(model, one.crops), model.kinds) for one in strips
    ]
    tree_logits = [trees.logits(crop_features(one.crops, one.candidates.margins)) for one in strips]
    both = [mine + other for mine, other in zip(network_logits, tree_logits)]
    return {"crop network": network_logits, "trees": tree_logits, "both": both}


def alarms_at(metrics: FrocMetrics, recall: float) -> str:
    """The fewest false alarms per strip that give a recall."""
    rates, recalls = metrics.curve()
    reached = np.flatnonzero(recalls >= recall)
    return f"{rates[reached[0]]:.3f}" if len(reached) else "not reached"


def gain_cell(gain: tuple[float, float, float, float]) -> str:
    """A recall, its gain and the gain's interval."""
    recall, change, low, high = gain
    return f"{recall:.3f}, {change:+.3f} ({low:+.3f} to {high:+.3f})"


if __name__ == "__main__":
    sys.exit(main())

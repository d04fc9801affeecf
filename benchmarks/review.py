"""False alarms per strip with and without a review of the detections, on strips like the suite's.

    # the whole table: ten minutes of one core
    python -m benchmarks.review
    # labels of one, two, six and twelve strips of each of the seven levels, and of none
    python -m benchmarks.review --learn 1 2 6 12 --from_good 12
    # of another method without a network, or of a trained detector
    python -m benchmarks.review --method likelihood
    python -m benchmarks.review --model_path checkpoints/RUN_best.pth

The detector gives the strongest candidates of each strip. A classifier (`train_defect_model.py`)
and boosted trees learn from crops around the candidates of labelled strips, or, with --from_good,
from what `prepare_defect_data.py crops --from_good` makes of good strips. The weight of each review
is chosen on other labelled strips, and the tables are of further ones. Each group has a seed of its
own, none of them the suite's.

--output keeps the crops and the trained classifiers, which a further call uses again. Intervals are
those of 90 % confidence, from paired bootstrap samples of strips.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from benchmarks.command_line import ROOT, make_parser
from benchmarks.quality_scores import true_defects
from benchmarks.suite.levels import LEVELS
from benchmarks.suite.points import Point
from benchmarks.suite.strips import SuiteStrip, make_good_strip, make_suite_strip
from benchmarks.tables import print_header, print_row
from classifier.crops import CropFacts, CropSet, cut, strip_planes, write_crop_facts
from classifier.cut_detections import CropSettings
from classifier.cut_good_strips import cut_good_strips
from classifier.defect_checkpoint import DefectModel, checkpoint_in, load_defect_model
from classifier.defect_data import list_labelled
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
from classifier.review_strips import learn_trees
from classifier.strip_detector import StripDetector, open_detector
from classifier.train_defect_model import parse_args as parse_training
from classifier.train_defect_model import train
from common.files import new_folder
from data.demo_strips import STRIP_SIZE
from data.folder import GOOD, mask_path
from data.registered_copies import StripAligner
from data.write_images import write_mask, write_strip
from evaluation.detections import find_peaks
from evaluation.matching import FALSE_ALARM, match
from evaluation.metrics import FrocMetrics
from evaluation.stream import Predictor
from ops.classical import METHODS

SEEDS = {"learn": 25, "choose": 28, "test": 27}  # of the strips of each group, never the suite's
GOOD_SEED = 29  # of the good strips of --from_good
# of a level, the strips that few labels are of: with 18 defects, with one, and without, in turn
LABELLED_FIRST = (6, 3, 0, 7, 4, 1, 8, 5, 2)
CROP_SIZE = 32  # pixels
RECALLS = (0.80, 0.85, 0.90, 0.93)
RATES = (0.03, 0.1, 1.0, 10.0)  # false alarms per strip
FINE_RATES = np.geomspace(0.03, 10, 12)  # at which no recall may be below the detector's
BATCH, MOST_EPOCHS = 16, 60  # of the classifier's training
PAINT, NUISANCES = "robust", 10.0  # of --from_good: recipe, and detections of a strip
FORCED = 1.0  # weight of the rows without a choice
MARKED = 1.5  # sigmas of a point that its mask covers


@dataclass(frozen=True)
class Reviews:
    """Both reviews that learnt from one set of crops, and the set in words."""

    trees: TreesReview
    network: DefectModel
    learnt_from: str


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
    parser.add_argument("--model_path", type=Path, help="a trained detector in place of --method")
    parser.add_argument("--levels", nargs="+", choices=LEVELS, default=list(LEVELS))
    parser.add_argument(
        "--learn", type=int, nargs="*", default=[12], help="strips of a level to learn from"
    )
    parser.add_argument(
        "--from_good", type=int, default=0, help="good strips of a level to learn from"
    )
    for name, count, text in (("choose", 10, "choose the weight on"), ("test", 20, "measure on")):
        parser.add_argument(
            f"--{name}", type=int, default=count, help=f"strips of a level to {text}"
        )
    parser.add_argument("--candidates", type=int, default=40, help="of each strip")
    parser.add_argument("--rate", type=float, default=0.1, help="at which the weight is chosen")
    parser.add_argument("--steps", type=int, default=2000, help="of the classifier's training")
    parser.add_argument("--seed", type=int, default=42, help="of the classifier")
    parser.add_argument(
        "--image_size", type=int, nargs=2, default=STRIP_SIZE, help="height and width of a strip"
    )
    return parser.parse_args(words)


def print_tables(arguments: argparse.Namespace) -> None:
    """Make the strips and print what the reviews of each set of labels give."""
    detector = open_detector(arguments.model_path, arguments.method)
    arguments.output.mkdir(parents=True, exist_ok=True)
    choose, test = (
        gather(arguments, detector, group, range(vars(arguments)[group]))
        for group in ("choose", "test")
    )
    print(
        f"`{detector_name(arguments)}`, {arguments.candidates} candidates a strip; {len(choose)} "
        f"strips to choose the weight on at {arguments.rate:g}; {len(test)} strips with "
        f"{sum(truth.counts for one in test for truth in one.candidates.truths)} defects"
    )
    for reviews in learn_reviews(arguments, detector):
        print_reviews(reviews, choose, test, arguments.rate)


def learn_reviews(arguments: argparse.Namespace, detector: StripDetector) -> Iterator[Reviews]:
    """Both reviews for each number of labelled strips, and those without labels."""
    most = max(arguments.learn, default=0)
    strips = gather(arguments, detector, "learn", range(most)) if most else []
    order = [number for number in (*LABELLED_FIRST, *range(9, most)) if number < most]
    for count in arguments.learn:
        chosen = order[:count]
        mine = [one for place, one in enumerate(strips) if place % most in chosen]
        text = f"labels of {len(mine)} strips"
        yield Reviews(train_trees(mine), train_on_labels(mine, arguments), text)
    if arguments.from_good:
        model = train_on_good(detector, arguments)
        trees = learn_trees(Path(model.settings["data_root"]), model)
        text = f"no labels, {arguments.from_good * len(arguments.levels)} good strips"
        yield Reviews(trees, model, text)


def print_reviews(
    reviews: Reviews, choose: list[Reviewed], test: list[Reviewed], rate: float
) -> None:
    """Choose the weights of the reviews and print what they give."""
    held, shown = ([one.candidates for one in strips] for strips in (choose, test))
    choices = {
        name: choose_weight(held, logits, rate)
        for name, logits in all_logits(choose, reviews).items()
    }
    reviewed = all_logits(test, reviews)
    alone = [np.zeros(len(one.margins)) for one in shown]
    rows = {"detector alone": (alone, 0.0)} | {
        f"+ {name}, weight {choice.weight:g}": (reviewed[name], choice.weight)
        for name, choice in choices.items()
    }
    forced = {
        f"{name}, weight {FORCED:g} without a choice": (reviewed[name], FORCED) for name in choices
    }
    print(f"\n{reviews.learnt_from}: false alarms per strip at recall")
    print_header("detector", *(f"{recall:.2f}" for recall in RECALLS))
    for name, row in rows.items():
        froc = review_metrics(shown, *row)
        print_row(name, *(alarms_at(froc, recall) for recall in RECALLS))
    print("\nrecall at false alarms per strip, and its gain with its interval")
    print_header("detector", *(f"{one:g}" for one in RATES), "worst gain at 0.03 to 10")
    base = [match_scores(one, one.margins) for one in shown]
    for name, (logits, weight) in (rows | forced).items():
        results = [
            match_scores(one, fuse(one.margins, values, weight))
            for one, values in zip(shown, logits)
        ]
        worst = min((paired_gain(results, base, one)[1:] for one in FINE_RATES), key=least_certain)
        cells = [gain_cell(paired_gain(results, base, one)) for one in RATES]
        print_row(name, *cells, interval_cell(worst))
    print()
    for name, choice in choices.items():
        print(f"{name}: weight {choice.weight:g}, {choice.reason}")
    print(describe_cost(reviews, choose))


def describe_cost(reviews: Reviews, strips: list[Reviewed]) -> str:
    """How long each review takes, in a processor's own time, which other work does not lengthen."""
    crops = np.concatenate([one.crops for one in strips])
    margins = np.concatenate([one.candidates.margins for one in strips])
    began = time.process_time()
    kind_probabilities(reviews.network, crops)
    between = time.process_time()
    reviews.trees.logits(crop_features(crops, margins))
    network, trees = between - began, time.process_time() - between
    return (
        f"processor time of a detection: {1000 * network / len(crops):.2f} ms the crop network, "
        f"{1000 * trees / len(crops):.2f} ms the trees"
    )


def detector_name(arguments: argparse.Namespace) -> str:
    """The detector, as files and tables name it."""
    return arguments.model_path.stem if arguments.model_path else arguments.method


def gather(
    arguments: argparse.Namespace, detector: StripDetector, group: str, numbers: range
) -> list[Reviewed]:
    """The candidates of a group's strips of every level; `group` is one of SEEDS."""
    aligner = StripAligner("full", torch.device("cpu"))
    size = tuple(arguments.image_size)
    jobs = [(level, number) for level in arguments.levels for number in numbers]
    return [
        review_strip(
            make_suite_strip(*job, 0, SEEDS[group], size),
            detector.predictor,
            aligner,
            arguments.candidates,
        )
        for job in tqdm(jobs, desc="strips", unit="strip", disable=None)
    ]


def review_strip(
    strip: SuiteStrip, predictor: Predictor, aligner: StripAligner, count: int
) -> Reviewed:
    """The strongest `count` candidates of a strip, and their crops."""
    heatmap = predictor(strip.image)
    peaks = find_peaks(heatmap)
    points, margins = peaks.points[:count], peaks.scores[:count]
    truths = true_defects(strip)
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


def train_on_labels(strips: list[Reviewed], arguments: argparse.Namespace) -> DefectModel:
    """A classifier trained on the crops of labelled strips; every fifth strip measures the epochs.

    A classifier of the same settings that is there is taken.
    """
    name = f"{detector_name(arguments)}_{len(strips)}_{arguments.candidates}"
    return train_network(name, partial(write_crops, strips=strips), arguments)


def train_on_good(detector: StripDetector, arguments: argparse.Namespace) -> DefectModel:
    """A classifier trained on crops of good strips: their detections, and points painted there."""

    def write(root: Path) -> None:
        strips = root / "strips" / GOOD
        for level in arguments.levels:
            for number in range(arguments.from_good):
                image = make_good_strip(level, number, GOOD_SEED, tuple(arguments.image_size))
                path = strips / f"{level}_{number:03}.tiff"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_strip(path, image)
        crops, settings = CropSet(root), CropSettings(CROP_SIZE)
        cut_good_strips(crops, strips, detector, PAINT, NUISANCES, arguments.seed, settings)
        crops.finish((0.2, 0.0), arguments.seed, None)
        write_crop_facts(root, CropFacts(CROP_SIZE, settings.align))

    count = arguments.from_good * len(arguments.levels)
    return train_network(f"{detector_name(arguments)}_{count}_good", write, arguments)


def train_network(
    name: str, write: Callable[[Path], None], arguments: argparse.Namespace
) -> DefectModel:
    """A classifier trained on the data set that `write` makes, unless it is there already.

    It has as many epochs as give --steps steps, at most MOST_EPOCHS.
    """
    folder = arguments.output / f"{name}_{arguments.steps}_{arguments.seed}"
    root, run = folder / "crops", folder / "run"
    if not root.exists():
        with new_folder(root) as place:
            write(place)
    if not run.exists():
        crops = len(list_labelled(root, "train"))
        with new_folder(run) as place:
            flags = {
                "data_root": root,
                "save_dir": place,
                "batch_size": BATCH,
                "epochs": min(MOST_EPOCHS, max(1, arguments.steps * BATCH // crops)),
                "seed": arguments.seed,
                "num_workers": 0,
                "gpu_id": -1,
            }
            words = [str(word) for flag, value in flags.items() for word in (f"--{flag}", value)]
            train(parse_training(words))
    return load_defect_model(checkpoint_in(run))


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


def all_logits(strips: list[Reviewed], reviews: Reviews) -> dict[str, list[np.ndarray]]:
    """The logits of each strip's candidates, by the name of the review."""
    model, trees = reviews.network, reviews.trees
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
    recall, *change = gain
    return f"{recall:.3f}, {interval_cell(change)}"


def interval_cell(gain: Sequence[float]) -> str:
    """A gain and its interval."""
    change, low, high = gain
    return f"{change:+.3f} ({low:+.3f} to {high:+.3f})"


def least_certain(gain: tuple[float, float, float]) -> float:
    """The upper end of a gain's interval: below 0, the review is worse."""
    return gain[2]


if __name__ == "__main__":
    sys.exit(main())

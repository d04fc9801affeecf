"""How well points of Target alone and missing features are told apart, on generated strips.

    python -m benchmarks.missing --seed 12                      # every level, in ten minutes
    python -m benchmarks.missing --seed 13 --strips 12 --fit    # constants of ops/missing.py

Each strip has twelve points in Target alone and twelve that only Target lacks, of 10 to 80 grey
levels. Those count that the likelihood ratio detects above --threshold, each at the peak of its
detection. `plain` compares |Target - its median| with |mean reference - its median|, each
median over 15x15 pixels. The AUC says how well a score ranks missing features above points.
`removed` is the share of the missing features, and `points lost` that of the points, above
ops.missing.MISSING_LIMIT; for `plain`, above the limit that loses 0.5 % of all points.
"""

import cv2
import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import rankdata
from tqdm import tqdm

from benchmarks.command_line import make_parser
from benchmarks.suite.levels import AMOUNTS, SUITE_SEED
from benchmarks.suite.shots import draw_conditions, see_points
from benchmarks.suite.strips import SHOT, find_amounts, make_part, render, seeded_generator
from benchmarks.tables import print_header, print_row
from data.demo_strips import STRIP_SIZE
from data.image_files import to_batch
from evaluation.detections import find_peaks
from evaluation.matching import MATCH_RADIUS
from gaussian import MAX_GREY, TARGET
from ops.classical import DEFAULT_SIGMA, LikelihoodRatio
from ops.missing import MISSING_LIMIT, missing_probability, oddity
from ops.registration import ALIGN_MODES, Alignment

PRESENCES = ("T", "R12") * 12
MEDIAN_WINDOW = 15  # pixels along each side
MOST_LOST = 0.005  # share of the points


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--levels", nargs="+", default=list(AMOUNTS), help="levels of the suite")
    parser.add_argument("--strips", type=int, default=8, help="number of strips of each level")
    parser.add_argument("--seed", type=int, required=True, help=f"not the suite's, {SUITE_SEED}")
    parser.add_argument("--align", choices=ALIGN_MODES[1:], default="fine")
    parser.add_argument("--threshold", type=float, default=0.0, help="on the heatmap, 0-1")
    parser.add_argument(
        "--fit", action="store_true", help="print slope and constant instead of a table"
    )
    arguments = parser.parse_args()
    if arguments.seed == SUITE_SEED:
        parser.error("--seed: found the suite's own, expected another one")
    by_level = {
        level: collect(level, range(arguments.strips), arguments.seed, arguments.align)
        for level in tqdm(arguments.levels, unit="level", disable=None, leave=False)
    }
    by_level = {level: rows[rows[:, 4] > arguments.threshold] for level, rows in by_level.items()}
    if arguments.fit:
        print(np.round(fit(np.concatenate(list(by_level.values()))), 3).tolist())
    else:
        print_table(by_level)


def collect(level: str, numbers: range, seed: int, align: str) -> np.ndarray:
    """The detected points of strips of a level: (N, 5) float64.

    The columns are 1 for a missing feature, else 0; the plain score; the probability; the `oddity`;
    and the heatmap.
    """
    detector, alignment = LikelihoodRatio(DEFAULT_SIGMA), Alignment(align)
    rows = []
    for number in numbers:
        image, points = make_strip_of_points(level, number, seed)
        with torch.inference_mode():
            strips, _ = alignment(to_batch(image, torch.device("cpu")))
            heatmap = detector.heatmap(strips)[0, 0].numpy()
            planes = np.concatenate(
                [
                    plain_score(strips),
                    missing_probability(strips)[0],
                    oddity(strips)[0],
                    heatmap[None],
                ]
            )
        peaks = find_peaks(heatmap)
        for point in points:
            distances = np.hypot(*(peaks.points - point.center).T)
            near = np.flatnonzero(distances <= MATCH_RADIUS)
            if len(near):
                y, x = peaks.points[near[0]]  # the strongest comes first
                rows.append((point.presence == "R12", *planes[:, y, x]))
    return np.array(rows, dtype=np.float64)


def make_strip_of_points(level: str, number: int, seed: int) -> tuple[np.ndarray, tuple]:
    """A strip (3, H, W) in grey levels with a point for each of PRESENCES, and its points."""
    part = make_part(level, number, seed, STRIP_SIZE, PRESENCES)
    generator = seeded_generator(level, number, seed, SHOT)
    by_channel = draw_conditions(part, find_amounts(level), generator, STRIP_SIZE)
    return render(part, by_channel, STRIP_SIZE), see_points(part, by_channel[TARGET])


def plain_score(strips: torch.Tensor) -> np.ndarray:
    """(1, H, W), grey levels: how much more the mean reference is off its median than Target."""
    target, *references = strips[0].numpy() * MAX_GREY
    off = [
        np.abs(cv2.GaussianBlur(plane - median(plane), (0, 0), DEFAULT_SIGMA))
        for plane in (np.mean(references, axis=0), target)
    ]
    return (off[0] - off[1])[None]


def median(plane: np.ndarray) -> np.ndarray:
    """The median around each pixel of (H, W), grey levels, rounded."""
    levels = np.clip(np.rint(plane), 0, MAX_GREY).astype(np.uint8)
    return cv2.medianBlur(levels, MEDIAN_WINDOW).astype(np.float32)


def fit(rows: np.ndarray) -> np.ndarray:
    """The slope and the constant of the log odds, by logistic regression."""
    signs = np.where(rows[:, 0] == 1, 1, -1)[:, None]
    signed = signs * np.stack([rows[:, 3], np.ones(len(rows))], axis=1)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margin = signed @ weights
        return np.logaddexp(0, -margin).mean(), -(signed * expit(-margin)[:, None]).mean(axis=0)

    return minimize(loss, np.zeros(2), jac=True).x


def auc(is_missing: np.ndarray, scores: np.ndarray) -> float:
    """The share of pairs of a missing feature and a point that the scores rank rightly."""
    ranks, count = rankdata(scores)[is_missing], is_missing.sum()
    return (ranks.sum() - count * (count + 1) / 2) / (count * (len(scores) - count))


def print_table(by_level: dict[str, np.ndarray]) -> None:
    """Print a row for each level and one for all."""
    every = np.concatenate(list(by_level.values()))
    plain_limit = np.quantile(every[every[:, 0] == 0, 1], 1 - MOST_LOST)
    print_header(
        "level", "points", "AUC plain", "AUC", "plain removed", "removed", "points lost", "of"
    )
    for level, rows in (by_level | {"all levels": every}).items():
        is_missing, plain, probability = rows[:, 0] == 1, rows[:, 1], rows[:, 2]
        lost = (probability > MISSING_LIMIT)[~is_missing]
        print_row(
            level,
            len(rows),
            f"{auc(is_missing, plain):.3f}",
            f"{auc(is_missing, probability):.3f}",
            f"{(plain > plain_limit)[is_missing].mean():.3f}",
            f"{(probability > MISSING_LIMIT)[is_missing].mean():.3f}",
            f"{lost.mean():.4f}",
            len(lost),
        )


if __name__ == "__main__":
    main()

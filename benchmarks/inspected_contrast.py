"""The inspected contrast that is stated, beside the one at which 90 % of points really are found.

    # the likelihood ratio, a baseline, a trained network; a few minutes of one core each
    python -m benchmarks.inspected_contrast
    python -m benchmarks.inspected_contrast --method registered
    python -m benchmarks.inspected_contrast --checkpoint checkpoints/RUN_best.pth

Threshold and response are set on good strips of all levels of the suite, as if they came from one
line; with --own_kind on good strips of each level for itself. Then points are painted into other
good strips of each level, of 0.6 to 1.8 times the contrast that is stated for the strip, 20,000 in
all. The contrast at which 90 % are found is read from a curve through the shares that are found.
Beside it is the share of the points that are within 7 % of the stated contrast, which needs no
curve. The last columns are the same ratio for the contrast map: of all points, and of those in the
noisiest fifth of their strip.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.command_line import make_parser
from benchmarks.detectors import load_predictor
from benchmarks.suite.levels import GROUPS
from benchmarks.suite.strips import make_good_strip
from benchmarks.tables import print_header, print_row
from common.device import choose_device
from data.ignored_regions import IgnoredRegions
from data.image_files import DEFAULT_INPUT_MAX
from data.registered_copies import StripAligner
from data.write_images import write_strip
from evaluation.contrast_response import (
    contrast_maps,
    contrast_of,
    fit_response,
    found_heights,
    paint_points,
)
from evaluation.detector import Detector, calibrated
from evaluation.model_info import ModelInfo
from evaluation.predictors import DetectorPredictor
from ops.classical import DEFAULT_SIGMA, METHODS, baseline_name, classical_detector

SEED = 52_001  # of the strips and points of the table; nothing is set on them
GOOD_SEED = 41_003  # of the good strips that threshold and response are set on
RATIOS = (0.6, 1.8)  # contrasts of the points, in units of what is stated
NEAR = (
    0.07  # points this near to the stated contrast, as a share of it, are counted without a curve
)
NOISIEST = 0.8  # quantile of the contrast map
# good strips: of each level for all levels together, and of a level for itself
GOOD_STRIPS = {False: 3, True: 20}


@dataclass
class Painted:
    """What was found of the points of a level."""

    stated: list[float] = field(default_factory=list)  # of each strip, grey levels
    contrasts: list[float] = field(default_factory=list)  # over what is stated for the strip
    over_map: list[float] = field(default_factory=list)  # over the contrast map at the point
    is_noisy: list[bool] = field(default_factory=list)
    heights: list[float] = field(default_factory=list)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--method", choices=METHODS, default="likelihood")
    parser.add_argument("--checkpoint", type=Path, help="a network in place of a --method")
    parser.add_argument("--own_kind", action="store_true", help="a threshold for each level")
    parser.add_argument("--false_alarms", type=float, default=0.1, help="per strip, of thresholds")
    parser.add_argument("--levels", nargs="+", default=[*GROUPS["suite"], *GROUPS["hard"]])
    parser.add_argument("--strips", type=int, default=7, help="of each level, of 190 points")
    arguments = parser.parse_args()
    detector = make_detector(arguments.method, arguments.checkpoint)
    levels, own = arguments.levels, arguments.own_kind
    shared = None if own else set_on_good(detector, levels, GOOD_STRIPS[False])
    print(f"{detector.name}, {arguments.false_alarms:g} false alarms per strip")
    print_header(
        "level",
        "points",
        "stated",
        "90 % found at",
        "ratio",
        "found near stated",
        "map",
        "noisiest",
    )
    for level in levels:
        ready = shared or set_on_good(detector, [level], GOOD_STRIPS[True])
        threshold = ready.threshold(arguments.false_alarms).value
        painted = paint_level(ready, level, threshold, arguments.strips)
        print_row(level, *describe(painted, threshold))


def make_detector(method: str, checkpoint: Path | None) -> Detector:
    """The detector of --method or --checkpoint, without a threshold."""
    device = choose_device(None)
    if checkpoint:
        predictor, name, is_classical = load_predictor(checkpoint, device), checkpoint.name, False
    else:
        predictor = DetectorPredictor(classical_detector(method, DEFAULT_SIGMA), device)
        name, is_classical = baseline_name(method, DEFAULT_SIGMA), True
    info = ModelInfo("strip", DEFAULT_INPUT_MAX, predictor.align)
    return Detector(name, predictor, info, device, is_classical)


def set_on_good(detector: Detector, levels: list[str], count: int) -> Detector:
    """The detector with what `count` good strips of each level say of it."""
    with tempfile.TemporaryDirectory() as name:
        for number in range(count):
            for place, level in enumerate(levels):
                # the strips of all levels in turn, as every few of them are painted on
                path = Path(name) / f"{number:02}_{place:02}.tiff"
                write_strip(path, make_good_strip(level, number, GOOD_SEED))
        return calibrated(detector, Path(name), None, IgnoredRegions())


def paint_level(detector: Detector, level: str, threshold: float, count: int) -> Painted:
    """Paint points into `count` good strips of a level, and let the detector find them."""
    response = detector.info.contrast_response(threshold)
    aligner = StripAligner(detector.predictor.align, detector.device)
    make_map = contrast_maps(detector.predictor.align, response, detector.device)
    painted = Painted()
    for number in tqdm(range(count), level, unit="strip", disable=None, leave=False):
        strip = make_good_strip(level, number, SEED)
        stated = contrast_of(aligner(strip)[0], response, detector.device)
        needed = make_map(strip)
        generator = np.random.default_rng((SEED, number))
        image, centers, contrasts = paint_points(
            strip, np.full(strip.shape[1:], stated), generator, RATIOS
        )
        y, x = np.rint(centers).astype(int).T
        painted.stated.append(stated)
        painted.contrasts += (contrasts / stated).tolist()
        painted.over_map += (contrasts / needed[y, x]).tolist()
        painted.is_noisy += (needed[y, x] > np.quantile(needed, NOISIEST)).tolist()
        painted.heights += found_heights(detector.predictor(image), centers).tolist()
    return painted


def describe(painted: Painted, threshold: float) -> Iterator[str]:
    """The cells of a level: points, stated contrast, measured one, and their ratios."""
    found = np.array(painted.heights) > threshold
    contrasts, over_map = np.array(painted.contrasts), np.array(painted.over_map)
    is_noisy = np.array(painted.is_noisy)
    everything = np.ones(len(found), bool)
    ratio = measured_ratio(contrasts, found, everything)
    yield str(len(found))
    yield f"{np.mean(painted.stated):.1f}"
    yield f"{np.mean(painted.stated) * ratio:.1f}"
    yield f"{ratio:.3f}"
    yield f"{found[np.abs(contrasts - 1) < NEAR].mean():.3f}"
    yield f"{measured_ratio(over_map, found, everything):.3f}"
    yield f"{measured_ratio(over_map, found, is_noisy):.3f}"


def measured_ratio(ratios: np.ndarray, found: np.ndarray, counts: np.ndarray) -> float:
    """The ratio to the stated contrast at which 90 % of the points that count are found."""
    content = {"noise": "edges", "sigma": 1.0}
    content |= {"ratios": ratios[counts], "heights": found[counts].astype(float)}
    return fit_response(content, 0.5).needed


if __name__ == "__main__":
    main()

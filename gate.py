"""Whether a variant of an ONNX file may stand in for it: what both find on labelled strips, and how long both take."""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from errors import UserError
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dataset_folder import list_strips
from demo_strips import make_strip
from detections import find_peaks
from evaluation import read_strip
from matching import FALSE_ALARM, Truth, match, outcome_of, truths_of
from metrics import PointFigures
from onnx_session import SessionSettings, place_session
from predictors import OnnxPredictor
from recipes import ROBUST, paint_strip

FEWEST_POINTS = 1000  # true points, so that a drop of recall by a hundredth is ten of them
SEED = 50_000  # of the generated strips: none of a training's
ROUNDS, WARM_UPS = 9, 2  # timed calls of each file in turn, and calls before them that do not count
TARGETS = ("cpu", "cuda")

Labelled = tuple[np.ndarray, np.ndarray]  # a strip (3, H, W) in grey levels and its mask (H, W) bool


@dataclass
class Findings:
    """What a file has found above the threshold, its recall at any number of false alarms, and how long a strip takes it."""

    predictor: OnnxPredictor
    points: PointFigures = field(default_factory=PointFigures)
    hits: int = 0
    false_alarms: int = 0
    seconds: float | None = None

    def add(self, heatmap: np.ndarray, truths: list[Truth], labels: np.ndarray, threshold: float) -> None:
        peaks = find_peaks(heatmap)
        self.points.add(outcome_of(peaks, truths, labels))
        found = match(peaks.points[peaks.heights > threshold], truths, labels)
        self.hits += int((found >= 0).sum())
        self.false_alarms += int((found == FALSE_ALARM).sum())


@dataclass(frozen=True)
class Comparison:
    """A variant against float32: a report's lines, the recall that it loses, how many times as fast it is (None: not measured)."""

    lines: dict[str, str]
    recall_drop: float
    speed: float | None

    def refusal(self, largest_drop: float) -> str | None:
        """Why the variant should not be used, if so."""
        if not self.recall_drop <= largest_drop:
            return f"it finds {self.recall_drop:.1%} less of the true points than float32, expected at most {largest_drop:.1%} less"
        if self.speed is not None and self.speed <= 1:
            return f"it is {self.speed:.2f} times as fast as float32, expected a variant that is faster"
        return None


def compare_variant(
    reference: Path, variant: Path, test_path: Path | None, input_max: float, threshold: float, target: str
) -> Comparison:
    """Both files, which describe themselves, on labelled strips: those of `test_path` if it has enough points, else generated."""
    both = [Findings(OnnxPredictor(path)) for path in (reference, variant)]
    count, largest, means = 0, 0.0, []
    for image, mask in enough_strips(test_path, both[0].predictor.image_size, input_max):
        truths, labels = truths_of(mask, image)
        heatmaps = [findings.predictor(image) for findings in both]
        for findings, heatmap in zip(both, heatmaps):
            findings.add(heatmap, truths, labels, threshold)
        difference = np.abs(heatmaps[0] - heatmaps[1])
        count, largest = count + len(truths), max(largest, float(difference.max()))
        means.append(float(difference.mean()))
    _measure_speed(both, (reference, variant), target)
    strips, recalls = len(means), [findings.hits / count for findings in both]
    at_few = [findings.points.figures()["point_recall_at_0.1"] for findings in both]
    alarms = [findings.false_alarms / strips for findings in both]
    lines = {
        "compared on": f"{strips} strips with {count:,} true points",
        "heatmaps": f"differ by {largest:.2g} at most, by {statistics.mean(means):.1e} on average",
        f"recall above {threshold:.3g}": f"{recalls[1]:.4f}, float32 {recalls[0]:.4f}",
        "false alarms per strip": f"{alarms[1]:.3g}, float32 {alarms[0]:.3g}",
        "point recall at 0.1": f"{at_few[1]:.4f}, float32 {at_few[0]:.4f}",
    }
    speed = both[0].seconds / both[1].seconds if both[1].seconds else None
    times = [f"{1000 * findings.seconds:.1f} ms" for findings in both] if speed else []
    lines[f"one strip on {target}"] = (
        f"{times[1]}, float32 {times[0]}: {speed:.2f} times as fast" if speed else "speed not measured"
    )
    return Comparison(lines, recalls[0] - recalls[1], speed)


def enough_strips(test_path: Path | None, image_size: tuple[int, int], input_max: float) -> Iterator[Labelled]:
    """Labelled strips of `test_path` with together FEWEST_POINTS points; where it has fewer, generated ones."""
    known = list(_labelled(test_path, input_max)) if test_path else []
    counts = [len(truths_of(mask, image)[0]) for image, mask in known]
    if sum(counts) < FEWEST_POINTS:
        if test_path:
            print(f"{test_path}: found {sum(counts)} true points, expected {FEWEST_POINTS:,}: comparing on generated strips")
        known = generated_strips(image_size)
    points = 0
    with tqdm(total=FEWEST_POINTS, desc="comparing precisions", unit="point", disable=None, leave=False) as progress:
        for image, mask in known:
            yield image, mask
            count = len(truths_of(mask, image)[0])
            progress.update(count)
            points += count
            if points >= FEWEST_POINTS:
                return


def _labelled(test_path: Path, input_max: float) -> Iterator[Labelled]:
    for strip in list_strips(test_path):
        image, mask = read_strip(strip, input_max)
        if mask is not None:
            yield image, mask


def generated_strips(image_size: tuple[int, int]) -> Iterator[Labelled]:
    """Demo strips with the robust recipe's points, without end."""
    number = 0
    while True:
        generator = np.random.default_rng((SEED, number))
        image, mask = make_strip(generator, image_size), np.zeros(image_size, np.float32)
        paint_strip(ROBUST, image, mask, generator)
        yield image, mask > 0
        number += 1


def _measure_speed(both: list[Findings], paths: tuple[Path, Path], target: str) -> None:
    """Median seconds of a call with one strip on the target, both files in turn; none where the target is not on this machine."""
    try:
        sessions = [place_session(path, SessionSettings(target)).session for path in paths]
    except UserError:
        return
    image, _ = next(generated_strips(both[0].predictor.image_size))
    batch = both[0].predictor.as_asked(image[None])
    seconds: list[list[float]] = [[], []]
    for _ in range(WARM_UPS + ROUNDS):
        for session, times in zip(sessions, seconds):
            started = time.perf_counter()
            session.run(["output"], {"input": batch})
            times.append(time.perf_counter() - started)
    for findings, times in zip(both, seconds):
        findings.seconds = statistics.median(times[WARM_UPS:])

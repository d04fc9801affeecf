"""The precision gate: whether a variant of an ONNX file may replace the float32 file.

It compares what both detect on labelled strips, and how long both take.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.progress import progress_bar
from data.demo_strips import make_strip
from data.folder import list_strips
from data.image_files import STORED_ORDER
from data.labelled_strip import read_strip
from data.recipes import ROBUST, paint_strip
from deploy.onnx_predictor import OnnxPredictor
from deploy.session import SessionSettings
from evaluation.detections import find_peaks
from evaluation.matching import FALSE_ALARM, TrueDefect, defects_in_mask, match, match_strip
from evaluation.metrics import FrocMetrics

FEWEST_POINTS = 1000  # true points: a drop of recall by a hundredth is then ten points
GATE_SEED = 50_000  # of the generated strips, so that none is one of a training's
ROUNDS = 9  # timed calls of each file
# devices on which the gate can measure
TARGETS = ("cpu", "cuda")

# a strip (3, H, W) in grey levels 0-255 and its mask (H, W) bool
LabelledStrip = tuple[np.ndarray, np.ndarray]
# a strip, and its true defects and their label image as `defects_in_mask` returns them
AnnotatedStrip = tuple[np.ndarray, list[TrueDefect], np.ndarray]


@dataclass
class Findings:
    """A file's hits and false alarms above the threshold, and its FROC curve over all heights."""

    predictor: OnnxPredictor
    points: FrocMetrics = field(default_factory=FrocMetrics)
    hits: int = 0
    false_alarms: int = 0

    def add(
        self, heatmap: np.ndarray, truths: list[TrueDefect], labels: np.ndarray, threshold: float
    ) -> None:
        """Add a strip's heatmap (H, W) 0-1 and its true defects."""
        peaks = find_peaks(heatmap)
        self.points.update(match_strip(peaks, truths, labels))
        found = match(peaks.points[peaks.heights > threshold], truths, labels)
        self.hits += int((found >= 0).sum())
        self.false_alarms += int((found == FALSE_ALARM).sum())


@dataclass(frozen=True)
class Comparison:
    """A variant compared with float32.

    `lines` are the report's, `recall_drop` is the recall that the variant loses. `speed` is how
    many times as fast it is (None: not measured).
    """

    lines: dict[str, str]
    recall_drop: float
    speed: float | None

    def refusal(self, largest_drop: float) -> str | None:
        """Why the variant should not be used; None when it may be."""
        # `not <=` instead of `>`, so that NaN is refused too
        if not self.recall_drop <= largest_drop:
            return (
                f"it finds {self.recall_drop:.1%} less of the true points than float32, "
                f"expected at most {largest_drop:.1%} less"
            )
        if self.speed is not None and self.speed <= 1:
            return (
                f"it is {self.speed:.2f} times as fast as float32, "
                "expected a variant that is faster"
            )
        return None


def compare_variant(
    reference: Path,
    variant: Path,
    test_path: Path | None,
    input_max: float,
    threshold: float,
    target: str,
) -> Comparison:
    """Compare two files of this suite on labelled strips, and time them on the `target` device.

    The strips are those of `test_path` when they have enough points, else they are generated. Both
    count detections above `threshold`.
    """
    both = [Findings(_on_target(path, target)) for path in (reference, variant)]
    count, largest, means = 0, 0.0, []
    order = both[0].predictor.metadata.info.order
    strips = enough_strips(test_path, both[0].predictor.image_size, input_max, order)
    with progress_bar(total=FEWEST_POINTS, desc="comparing precisions", unit="point") as progress:
        for image, truths, labels in strips:
            heatmaps = [findings.predictor(image) for findings in both]
            for findings, heatmap in zip(both, heatmaps):
                findings.add(heatmap, truths, labels, threshold)
            difference = np.abs(heatmaps[0] - heatmaps[1])
            count, largest = count + len(truths), max(largest, float(difference.max()))
            means.append(float(difference.mean()))
            progress.update(len(truths))
    seconds = _measure_speed([findings.predictor for findings in both], target)
    recalls = [findings.hits / count for findings in both]
    at_few = [findings.points.compute()["point_recall_at_0.1"] for findings in both]
    alarms = [findings.false_alarms / len(means) for findings in both]
    lines = {
        "compared on": f"{len(means)} strips with {count:,} true points",
        "heatmaps": f"differ by {largest:.2g} at most, by {statistics.mean(means):.1e} on average",
        f"recall above {threshold:.3g}": f"{recalls[1]:.4f}, float32 {recalls[0]:.4f}",
        "false alarms per strip": f"{alarms[1]:.3g}, float32 {alarms[0]:.3g}",
        "point recall at 0.1": f"{at_few[1]:.4f}, float32 {at_few[0]:.4f}",
    }
    speed = seconds[0] / seconds[1] if seconds else None
    times = [f"{1000 * each:.1f} ms" for each in seconds]
    lines[f"one strip on {target}"] = (
        f"{times[1]}, float32 {times[0]}: {speed:.2f} times as fast"
        if speed
        else "speed not measured"
    )
    return Comparison(lines, recalls[0] - recalls[1], speed)


def enough_strips(
    test_path: Path | None,
    image_size: tuple[int, int],
    input_max: float,
    order: tuple[int, ...] = STORED_ORDER,
) -> Iterator[AnnotatedStrip]:
    """Labelled strips with FEWEST_POINTS true points in total.

    They are those of `test_path` when it has enough points, else generated ones of `image_size`.
    """
    labelled = _labelled_strips(test_path, input_max, order) if test_path else []
    annotated = list(_until_enough(labelled))
    points = sum(len(truths) for _, truths, _ in annotated)
    if points >= FEWEST_POINTS:
        return iter(annotated)
    if test_path:
        print(
            f"{test_path}: found {points} true points, expected {FEWEST_POINTS:,}: "
            "comparing on generated strips"
        )
    return _until_enough(generated_strips(image_size))


def _until_enough(strips: Iterable[LabelledStrip]) -> Iterator[AnnotatedStrip]:
    """Annotate strips until they have FEWEST_POINTS true points in total."""
    points = 0
    for image, mask in strips:
        truths, labels = defects_in_mask(mask, image)
        yield image, truths, labels
        points += len(truths)
        if points >= FEWEST_POINTS:
            return


def _labelled_strips(
    test_path: Path, input_max: float, order: tuple[int, ...]
) -> Iterator[LabelledStrip]:
    """The strips of a test folder that have a mask."""
    for strip in list_strips(test_path, order=order):
        image, mask = read_strip(strip, input_max)
        if mask is not None:
            yield image, mask


def generated_strips(image_size: tuple[int, int]) -> Iterator[LabelledStrip]:
    """An endless series of demo strips with the robust recipe's points."""
    number = 0
    while True:
        generator = np.random.default_rng((GATE_SEED, number))
        image, mask = make_strip(generator, image_size), np.zeros(image_size, np.float32)
        paint_strip(ROBUST, image, mask, generator)
        yield image, mask > 0
        number += 1


def _on_target(path: Path, target: str) -> OnnxPredictor:
    """A predictor on the target device; without that device, on the best one here."""
    try:
        return OnnxPredictor(path, SessionSettings(target))
    except UserError:
        return OnnxPredictor(path)


def _measure_speed(predictors: list[OnnxPredictor], target: str) -> list[float]:
    """Median seconds of a call with one strip; empty when a predictor is not on the target."""
    if any(predictor.device != target for predictor in predictors):
        return []
    image, _ = next(generated_strips(predictors[0].image_size))
    inputs = {"input": predictors[0].to_model_input(image[None])}
    calls = {
        number: partial(predictor.session.run, ["output"], inputs)
        for number, predictor in enumerate(predictors)
    }
    return list(interleaved(calls, ROUNDS, "timing precisions").values())


def interleaved(
    actions: dict[Hashable, Callable[[], Any]], rounds: int, label: str
) -> dict[Hashable, float]:
    """Median seconds of each action; every round runs all of them in turn.

    Each timed call follows an untimed one of the same action, so caches are as warm as in steady
    operation.
    """
    seconds = defaultdict(list)
    for _ in progress_bar(range(rounds), desc=label):
        for name, action in actions.items():
            action()
            started = time.perf_counter()
            action()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}

"""Results of an evaluation: detections and verdicts of each strip, metrics of all."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from common.pipeline import StageTimes
from data.folder import StripFile, unit_of
from data.ignored_regions import IgnoredRegions
from evaluation.detections import KINDS, Detection, find_peaks
from evaluation.matching import FALSE_ALARM, IGNORED, MATCH_RADIUS, TrueDefect, match_strip
from evaluation.metrics import FrocMetrics, PixelMetrics, image_figures
from evaluation.ranks import RankMetrics
from evaluation.thresholds import Threshold
from evaluation.worst_cases import WorstCases

# (3, H, W) grey levels 0-255, and (H, W) bool where nothing counts or None, to statistics by name
Measure = Callable[[np.ndarray, np.ndarray | None], dict[str, float]]
Figures = dict[str, float | None]
INSPECTED_CONTRAST = "inspected_contrast"  # a statistic of `Measure` that is no channel's


@dataclass(frozen=True)
class Rules:
    """The rules that decide on detections, hits, and pixels that do not count.

    `match_radius` is in pixels. `patch` determines where the seams of tiles lie. Without a
    threshold there are metrics, but no detections and no verdicts. `candidates` is how many of each
    strip's strongest local maxima are kept, whatever the threshold. `required_contrast`, in grey
    levels, is the largest inspected contrast of a strip that may be OK; None: any. `missing`
    gives the probability of a missing feature, to tell the detections by. Where not all strips are
    measured alike, `choose_measure` gives the one of a strip, in place of `measure`.

    With `verdict_by_score`, a strip or picture is NG where its score exceeds the threshold,
    whatever its heatmap. Detections, above the same threshold on the heatmap, then say where it is
    NG: one that is OK has none.
    """

    threshold: Threshold | None = None
    min_area: int = 1
    polarity: str = "both"
    match_radius: float = MATCH_RADIUS
    ignored: IgnoredRegions = field(default_factory=IgnoredRegions)
    patch: int | None = None
    measure: Measure | None = None
    choose_measure: Callable[[StripFile], Measure] | None = None
    candidates: int = 0
    required_contrast: float | None = None
    missing: Callable[[np.ndarray], np.ndarray] | None = None
    verdict_by_score: bool = False


@dataclass
class StripResult:
    """One strip: its score, and its detections above the threshold, strongest first.

    The score is the predictor's own, else the heatmap's maximum. Where the verdict goes by the
    score, `is_above` says whether it exceeds the threshold.

    `truths` is the number of true defects, and `found` the one that each detection has found, as of
    `match`. Both are None where the truth is not known. `candidates` are the strongest local maxima
    above the threshold and below, and `found_by_candidates` is the same as `found` for them.
    `inspected_contrast` is the contrast in grey levels at which 90 % of points are found, None
    where that is not known; if it exceeds what the rules require, the strip `is_blind`.
    """

    strip: StripFile
    score: float
    detections: Sequence[Detection] = ()
    truths: int | None = None
    found: np.ndarray | None = None
    statistics: dict[str, float] = field(default_factory=dict)
    candidates: Sequence[Detection] = ()
    found_by_candidates: np.ndarray | None = None
    inspected_contrast: float | None = None
    is_blind: bool = False
    is_above: bool | None = None

    @property
    def verdict(self) -> str:
        """`NG` with a detection or a score above the threshold, or where blind, else `OK`."""
        return "NG" if self.reason else "OK"

    @property
    def reason(self) -> str:
        """Why a strip is NG: `detections`, `contrast` or both, with a blank between; else empty.

        Where the verdict goes by the score, it is `score` in the place of `detections`.
        """
        by_score = self.is_above is not None
        reasons = {
            "score" if by_score else "detections": (
                self.is_above if by_score else bool(self.detections)
            ),
            "contrast": self.is_blind,
        }
        return " ".join(name for name, is_true in reasons.items() if is_true)

    @property
    def outcome(self) -> str:
        """`found` or `escaped` for a defective strip, `passed` or `overkill` for a good one.

        `overkill` is a good strip that is NG. Empty where the strip's kind is not known.
        """
        names = {True: ("escaped", "found"), False: ("passed", "overkill")}
        if self.strip.is_defective is None:
            return ""
        return names[self.strip.is_defective][self.verdict == "NG"]

    @property
    def statuses(self) -> list[str]:
        """`hit`, `false alarm`, `no matter` or empty, for each detection.

        `no matter` is neither a hit nor a false alarm, such as a second detection of a defect.
        Empty means that the truth is not known.
        """
        return _statuses(self.found, len(self.detections))

    @property
    def candidate_statuses(self) -> list[str]:
        """The same for each candidate."""
        return _statuses(self.found_by_candidates, len(self.candidates))


def _statuses(found: np.ndarray | None, count: int) -> list[str]:
    if found is None:
        return [""] * count
    names = {FALSE_ALARM: "false alarm", IGNORED: "no matter"}
    return [names.get(number, "hit") for number in found.tolist()]


class MetricSet:
    """All metrics of one predictor over the strips that it has scored."""

    def __init__(self) -> None:
        self.labelled: list[tuple[bool, float]] = []
        self.pixels, self.points, self.ranks = PixelMetrics(), FrocMetrics(), RankMetrics()

    def update(
        self,
        strip: StripFile,
        heatmap: np.ndarray,
        score: float,
        truth: "GroundTruth | None",
        radius: float,
    ) -> None:
        """Count a strip with its heatmap (H, W) and its score, both 0-1.

        `radius` in pixels is that of `match`.
        """
        if strip.is_defective is not None:
            self.labelled.append((strip.is_defective, score))
        peaks = find_peaks(heatmap)
        outcome = match_strip(peaks, truth.truths, truth.labels, radius) if truth else None
        self.ranks.update(peaks.scores, outcome)
        if outcome:
            self.points.update(outcome)
        if truth and truth.mask is not None:
            self.pixels.update(heatmap, truth.mask, truth.ignored)

    def merge(self, others: "list[MetricSet]") -> None:
        """Become the sum of `others`."""
        self.labelled = [entry for other in others for entry in other.labelled]
        self.pixels.merge([other.pixels for other in others])
        self.points.merge([other.points for other in others])
        self.ranks.merge([other.ranks for other in others])

    def compute(self) -> Figures:
        """Return all metrics by name, 0-1, None where they are not defined."""
        labels = [label for label, _ in self.labelled]
        scores = [score for _, score in self.labelled]
        return image_figures(labels, scores) | self.pixels.compute() | self.points.compute()


@dataclass(frozen=True)
class GroundTruth:
    """The truth about a strip: mask (H, W) bool, true defects, labels, and ignored pixels.

    `labels` (H, W) is the index of each pixel's defect, -1 for none; `ignored` is (H, W) bool.
    Mask and labels are None where the defects are known as points alone.
    """

    mask: np.ndarray | None
    truths: list[TrueDefect]
    labels: np.ndarray | None
    ignored: np.ndarray | None


@dataclass
class Evaluation:
    """The result of every strip that could be read, all metrics, and a line for every other strip.

    `problems` holds the lines of the strips that could not be used, `warnings` sentences about
    everything else that a user must know before the verdicts count. Metrics are computed once, on
    first use: after the last strip. `tells_kinds` says whether points and missing features are told
    apart. `groups` has the metrics of each group of pictures, where there are groups.
    """

    results: list[StripResult] = field(default_factory=list)
    metrics: MetricSet = field(default_factory=MetricSet)
    baselines: dict[str, MetricSet] = field(default_factory=dict)
    worst_cases: WorstCases = field(default_factory=WorstCases)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    times: StageTimes = field(default_factory=StageTimes)
    tells_kinds: bool = False
    groups: dict[str, MetricSet] = field(default_factory=dict)

    def update_metrics(
        self,
        strip: StripFile,
        heatmap: np.ndarray,
        score: float,
        truth: GroundTruth | None,
        radius: float,
    ) -> None:
        """As `MetricSet.update`, over all and in the strip's group."""
        self.metrics.update(strip, heatmap, score, truth, radius)
        if strip.group:
            group = self.groups.setdefault(strip.group, MetricSet())
            group.update(strip, heatmap, score, truth, radius)

    @property
    def has_references(self) -> bool:
        """Whether these are strips with references, and no pictures without."""
        return all(result.strip.has_references for result in self.results)

    @property
    def unit(self) -> str:
        """What was scored, in messages and on pages."""
        return unit_of([result.strip for result in self.results])

    @property
    def defect(self) -> str:
        """What is to be found, in messages and on pages."""
        return "point" if self.has_references else "defect"

    @cached_property
    def figures_by_group(self) -> dict[str, Figures]:
        """The detector's metrics in each group, by name."""
        return {name: self.groups[name].compute() for name in sorted(self.groups)}

    @property
    def mean_over_groups(self) -> Figures:
        """The mean of each metric over the groups in which it is defined; None where in none."""
        names = {name: None for figures in self.figures_by_group.values() for name in figures}
        means = {}
        for name in names:
            values = [figures[name] for figures in self.figures_by_group.values()]
            known = [value for value in values if value is not None]
            means[name] = sum(known) / len(known) if known else None
        return means

    @property
    def metrics_by_detector(self) -> dict[str, MetricSet]:
        """The metrics of the detector and of its baselines, by their names in tables."""
        return {"this detector": self.metrics, **self.baselines}

    @cached_property
    def figures_by_detector(self) -> dict[str, Figures]:
        """The computed metrics, by the names of `metrics_by_detector`."""
        return {name: metrics.compute() for name, metrics in self.metrics_by_detector.items()}

    @property
    def figures(self) -> Figures:
        """The detector's own metrics."""
        return self.figures_by_detector["this detector"]

    @cached_property
    def point_recalls(self) -> list[dict[str, object]]:
        """The rows of `FrocMetrics.table`, of the detector."""
        return self.metrics.points.table()

    def kinds(self) -> dict[str, int]:
        """Return the number of detections of each of KINDS; empty where kinds are not asked."""
        counts = Counter(
            detection.kind for result in self.results for detection in result.detections
        )
        return {kind: counts[kind] for kind in KINDS} if self.tells_kinds else {}

    def at_threshold(self) -> Figures:
        """Return `recall` and `false_alarms_per_strip` of the detections above the threshold.

        They are None where no truth is known.
        """
        known = [result for result in self.results if result.truths is not None]
        truths = sum(result.truths for result in known)
        counts = Counter(status for result in known for status in result.statuses)
        return {
            "recall": counts["hit"] / truths if truths else None,
            "false_alarms_per_strip": counts["false alarm"] / len(known) if known else None,
        }

    def inspected_contrast(self) -> Figures:
        """Return `median` and `worst` inspected contrast of the strips, and the number of `blind`.

        The first two are None where no strip has one.
        """
        known = [
            result.inspected_contrast
            for result in self.results
            if result.inspected_contrast is not None
        ]
        return {
            "median": float(np.median(known)) if known else None,
            "worst": max(known, default=None),
            "blind": sum(result.is_blind for result in self.results),
        }

"""What other thresholds would give on a scored folder, and whether its own holds what was asked.

The counts are those of all detections. --min_area and --polarity, which remove some of them, can
only lower the counts.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, gammaincinv

from evaluation.detections import LOGIT_RANGE, TIE_BREAK, logit_margin
from evaluation.results import Evaluation
from evaluation.thresholds import (
    CONFIDENCE,
    DEFAULT_RATE,
    ScoreThreshold,
    Threshold,
    bound_on_share,
    strips_needed,
)

POSITIONS = 240  # thresholds that are tried, equally spaced in logits
# largest difference between a peak's score and its logit margin
TIE_RANGE = TIE_BREAK * LOGIT_RANGE


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold, and what it gives: numbers of strips, recall and false alarms per strip.

    `rejected` strips are NG. Of them, `overkill` are good; of the others, `escaped` are defective;
    both are None where no such strip is known. Recall and false alarms are None where no truth is.
    """

    threshold: float
    rejected: int
    overkill: int | None
    escaped: int | None
    recall: float | None
    false_alarms: float | None


def operating_points(result: Evaluation, threshold: float) -> list[OperatingPoint]:
    """The operating points of a folder, by ascending threshold; `threshold` is one of them.

    They reach from the lowest strip's score to the highest. Empty without strips.
    """
    if not result.results:
        return []
    scores = np.array([scored.score for scored in result.results])
    is_defective = np.array([scored.strip.is_defective for scored in result.results])
    margins = logit_margin(np.append(scores, threshold))
    scores[[scored.is_blind for scored in result.results]] = np.inf  # NG at any threshold
    values = {*_rounded(expit(np.linspace(margins.min(), margins.max(), POSITIONS)))}
    thresholds = np.array(sorted(values | {threshold}))
    recalls, false_alarms = result.metrics.points.above(logit_margin(thresholds) + TIE_RANGE)
    groups = {kind: np.sort(scores[is_defective == kind]) for kind in (True, False)}
    above = {
        kind: len(group) - np.searchsorted(group, thresholds, side="right")
        for kind, group in groups.items()
    }
    rejected = (scores[None] > thresholds[:, None]).sum(axis=1)
    return [
        OperatingPoint(
            float(value),
            int(rejected[at]),
            int(above[False][at]) if len(groups[False]) else None,
            int(len(groups[True]) - above[True][at]) if len(groups[True]) else None,
            None if recalls is None else float(recalls[at]),
            None if false_alarms is None else float(false_alarms[at]),
        )
        for at, value in enumerate(thresholds)
    ]


def threshold_contradiction(result: Evaluation, threshold: Threshold) -> str | None:
    """A sentence if a folder has more false alarms than its threshold was set for; else None.

    It is said only if the lower bound at 95 % on the rate of false alarms, widened by their
    overdispersion over the strips as in `thresholds`, lies above the rate that was asked for.
    """
    if isinstance(threshold, ScoreThreshold):
        return _share_contradiction(result, threshold)
    known = [scored.statuses for scored in result.results if scored.truths is not None]
    counts = np.array([statuses.count("false alarm") for statuses in known])
    if threshold.target is None or not counts.any():
        return None
    dispersion = max(1.0, counts.var(ddof=1) / counts.mean()) if len(counts) > 1 else 1.0
    bound = dispersion * gammaincinv(counts.sum() / dispersion, 1 - CONFIDENCE) / len(counts)
    if bound <= threshold.target:
        return None
    value = fitting_threshold(result, threshold.target)
    return (
        f"found {counts.mean():.3g} false alarms per strip on {len(counts)} strips of known truth, "
        f"expected {threshold.target:g} as asked for: the threshold {threshold.value:.4g} does not "
        f"fit these strips. --threshold {value:.9g} would give {threshold.target:g} at most on "
        "them; better set it on other good strips like these: --good_path FOLDER"
    )


def _share_contradiction(result: Evaluation, threshold: ScoreThreshold) -> str | None:
    """As `threshold_contradiction`, of the share of good pictures that are NG.

    Its lower bound is that of a binomial count.
    """
    good = [scored for scored in result.results if scored.strip.is_defective is False]
    flagged = sum(scored.verdict == "NG" for scored in good)
    if threshold.target is None or not flagged:
        return None
    if 1 - bound_on_share(len(good) - flagged, len(good)) <= threshold.target:
        return None
    return (
        f"found {flagged} of {len(good)} good pictures NG, expected a share of "
        f"{threshold.target:g} as asked for: the threshold {threshold.value:.4g} does not fit "
        "these pictures; better set it on good pictures like these"
    )


def threshold_doubts(result: Evaluation, threshold: Threshold) -> list[str]:
    """`Threshold.doubts`, with a value where the strips of known truth suffice to suggest one."""
    target, strips = threshold.target or DEFAULT_RATE, result.metrics.points.strips
    doubts = threshold.doubts()
    if isinstance(threshold, ScoreThreshold) or not doubts or strips < strips_needed(target):
        return doubts
    value = fitting_threshold(result, target)
    return [
        f"{doubt}. On these {strips} strips of known truth, --threshold {value:.9g} gives at most "
        f"{target:g} false alarms per strip"
        for doubt in doubts
    ]


def fitting_threshold(result: Evaluation, target: float) -> float:
    """The lowest threshold of about three digits with at most `target` false alarms per strip."""
    limit = result.metrics.points.limit(target)
    if limit == -np.inf:
        return 0.0
    value = float(expit(limit))
    for digits in range(3, 12):
        rounded = _round_up(value, digits)
        if logit_margin(rounded) + TIE_RANGE >= limit:
            return rounded
    return 1.0


def _rounded(probabilities: np.ndarray) -> Iterator[float]:
    """Three digits of each probability, or of its distance from 1, whichever is finer."""
    for value in probabilities.tolist():
        yield float(f"{value:.3g}") if value < 0.5 else round(1 - float(f"{1 - value:.3g}"), 12)


def _round_up(value: float, digits: int) -> float:
    """Round a probability up to `digits` digits of its distance from 0 or 1."""
    distance = min(value, 1 - value)
    if distance <= 0:
        return value
    unit = 10.0 ** (math.floor(math.log10(distance)) + 1 - digits)
    return min(1.0, round(math.ceil(value / unit) * unit, 15))

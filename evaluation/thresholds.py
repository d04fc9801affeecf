"""The threshold: set on good strips for a rate of false alarms, with a confidence bound.

No defect is needed. The strongest detections on n held-out good strips are kept. For a target rate
r, the threshold is the peak of the strongest one that would exceed r * n, so at most r * n lie
above it.

The true rate may be higher. It has a one-sided bound at 95 %, that of a Poisson count (Garwood,
"Fiducial limits for the Poisson distribution", 1936): 3/n for no false alarm on n strips. If false
alarms come in clusters on a few strips, the bound is widened by their overdispersion. That is an
estimate: a kind of strip that is not among the n may have hundreds. The share of good strips with
any false alarm needs no such assumption. Its bound is that of a binomial count (Clopper and
Pearson, "The use of confidence or fiducial limits", 1934).

Where the verdict goes by one score for each picture, the rate is a share of good pictures, and the
binomial bound is the only one that is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import betaincinv, gammaincinv

CONFIDENCE = 0.95
HIGHEST_RATE = 10.0  # false alarms per strip up to which peaks are kept
DEFAULT_RATE = 0.1  # false alarms per strip
DISPERSION_RATES = (0.1, 1.0, 10.0)  # false alarms per strip at which clustering is measured
JOINT_DRAWS = 50_000  # from which the bound on several thresholds together is taken
UNCALIBRATED = 0.5  # threshold on the heatmap, without a calibration
NOT_HELD_OUT = "no good strip was held out: set one with --good_path FOLDER of good strips"

# {"strips": n, "peaks": descending, "maxima": each strip's highest peak, descending,
# "dispersion": variance / mean}: plain values; with "by_score": true, each strip has one peak,
# which is its score
Calibration = dict[str, Any]


@dataclass(frozen=True)
class Threshold:
    """A threshold on the heatmap, 0-1, and what good strips prove about it.

    `strips` is the number of good strips, 0 if unknown. On them there are `rate` false alarms per
    strip, for a `target` rate. At 95 % confidence, at most the share `share_bound` of good strips
    has any, and at most `bound` occur per strip, by an estimate of how they cluster.
    """

    value: float
    origin: str
    strips: int = 0
    target: float | None = None
    rate: float | None = None
    bound: float | None = None
    share_bound: float | None = None

    @property
    def is_supported(self) -> bool:
        """Whether so many good strips can prove the target rate: n strips prove 3/n at best."""
        return (
            self.target is not None
            and bool(self.strips)
            and bound_on_rate(0, self.strips) <= self.target * (1 + 1e-9)
        )

    def describe(self) -> str:
        """Return one line about the threshold, its rate and its bounds."""
        text = f"threshold {self.value:.4g} ({self.origin})"
        if self.value >= 1:
            text += ", which nothing can exceed"
        if self.target is None:
            return f"{text}: its rate of false alarms is not known"
        text += (
            f": {self.rate:.3g} false alarms per strip on {self.strips} good strips, "
            f"{self.target:g} asked for; at 95 % confidence "
            f"on at most {self.share_bound:.1%} of good strips, "
            f"and at most {self.bound:.3g} per strip if they cluster as on these"
        )
        if not self.is_supported:
            needed = strips_needed(self.target)
            text += f". So few strips cannot support {self.target:g}: expected at least {needed}"
        return text

    def doubts(self) -> list[str]:
        """Return sentences on why verdicts at this threshold prove little; empty where they do."""
        if self.origin == NOT_HELD_OUT:
            return [f"the threshold {self.value:g} was set on no strip at all: {self.origin}"]
        if self.target is None or self.is_supported:
            return []
        return [
            f"the threshold rests on {self.strips} good strip{'' if self.strips == 1 else 's'}, "
            f"expected at least {strips_needed(self.target)} to support {self.target:g} false "
            "alarms per strip: set it on more with --good_path FOLDER of good strips"
        ]


@dataclass(frozen=True)
class ScoreThreshold(Threshold):
    """A threshold on the score of a picture, and what good pictures prove about it.

    The verdict goes by it. `strips` is the number of good pictures. The share `rate` of them lies
    above it, for a `target` share. At 95 % confidence, at most the share `bound` of all good
    pictures does, which is `share_bound`, too. Where each kind of picture has a threshold of its
    own, `fewest` is the smallest number of good pictures that one of them rests on.
    """

    fewest: int | None = None

    @property
    def is_supported(self) -> bool:
        """Whether so many good pictures can prove the target share, with none of them above."""
        return (
            self.target is not None
            and bool(self.strips)
            and bound_on_share(0, self._support) <= self.target * (1 + 1e-9)
        )

    @property
    def _support(self) -> int:
        return self.strips if self.fewest is None else self.fewest

    def describe(self) -> str:
        """Return one line about the threshold, its share of good pictures and the bound."""
        text = f"threshold {self.value:.4g} ({self.origin})"
        if self.target is None:
            return f"{text}: its share of good pictures that are NG is not known"
        text += (
            f": {self.rate:.1%} of {self.strips} good pictures are NG, {self.target:.3g} asked "
            f"for; at 95 % confidence at most {self.share_bound:.1%} of good pictures are"
        )
        if not self.is_supported:
            needed = pictures_needed(self.target)
            of_kind = "" if self.fewest is None else f", {self.fewest} of one kind,"
            text += (
                f". So few pictures{of_kind} cannot support {self.target:g}: "
                f"expected at least {needed}{'' if self.fewest is None else ' of each kind'}"
            )
        return text

    def doubts(self) -> list[str]:
        """Return sentences on why verdicts at this threshold prove little; empty where they do."""
        if self.origin == NOT_HELD_OUT:
            return [f"the threshold {self.value:g} was set on no good picture at all"]
        if self.target is None or self.is_supported:
            return []
        of_kind = "" if self.fewest is None else " of one kind"
        return [
            f"the threshold rests on {self._support} good "
            f"picture{'' if self._support == 1 else 's'}{of_kind}, "
            f"expected at least {pictures_needed(self.target)} to support the share "
            f"{self.target:g} of good pictures that are NG"
        ]


def calibrate_scores(scores: Sequence[float]) -> Calibration:
    """Return what is kept of good pictures, for a verdict by their scores 0-1.

    `threshold_for` makes a `ScoreThreshold` of it. Raises `ValueError` without pictures.
    """
    return calibrate([np.array([score]) for score in scores]) | {"by_score": True}


def calibrate(heights: list[np.ndarray]) -> Calibration:
    """Return what is kept of good strips.

    `heights` are each strip's detections, as peaks on the heatmap 0-1, strongest first. Raises
    `ValueError` without strips.
    """
    if not heights:
        raise ValueError("found no good strips, expected at least one")
    count = len(heights)
    peaks = np.sort(np.concatenate(heights))[::-1][: int(HIGHEST_RATE * count) + 1]
    maxima = np.sort([strip.max(initial=0) for strip in heights])[::-1]
    return {
        "strips": count,
        "peaks": peaks.tolist(),
        "maxima": maxima.tolist(),
        "dispersion": _dispersion(heights, peaks),
    }


def is_calibration(value: object) -> bool:
    """Return whether a value read from a file has the form that `calibrate` gives."""
    if not isinstance(value, dict) or not value.keys() >= {
        "strips",
        "peaks",
        "maxima",
        "dispersion",
    }:
        return False
    lists = [value["peaks"], value["maxima"]]
    if not all(
        isinstance(each, list)
        and all(type(height) is float and 0 <= height <= 1 for height in each)
        for each in lists
    ):
        return False
    is_count = type(value["strips"]) is int and value["strips"] == len(value["maxima"]) > 0
    is_descending = all(each == sorted(each, reverse=True) for each in lists)
    return (
        is_count
        and is_descending
        and type(value["dispersion"]) is float
        and 1 <= value["dispersion"] < np.inf
    )


def threshold_for(calibration: Calibration, target: float, origin: str) -> Threshold:
    """Return the lowest threshold with at most `target` false alarms per strip of a calibration.

    Of a calibration by score, `target` is a share of good pictures, and the result is a
    `ScoreThreshold`. Raises `ValueError` for a rate that is not above 0 and at most HIGHEST_RATE,
    up to which peaks are kept, and for a share that is not between 0 and 1.
    """
    by_score = calibration.get("by_score", False)
    if by_score and not 0 < target < 1:
        raise ValueError(f"found {target:g} of good pictures, expected a share between 0 and 1")
    if not 0 < target <= HIGHEST_RATE:
        raise ValueError(
            f"found {target:g} false alarms per strip, "
            f"expected more than 0 and at most {HIGHEST_RATE:g}"
        )
    strips, peaks = calibration["strips"], np.array(calibration["peaks"])
    allowed = int(target * strips + 1e-9)
    value = float(peaks[allowed]) if len(peaks) > allowed else 0.0
    alarms = int((peaks > value).sum())
    bound = bound_on_rate(alarms, strips, calibration["dispersion"])
    alarmed = int((np.array(calibration["maxima"]) > value).sum())
    share_bound = bound_on_share(alarmed, strips)
    rate = alarms / strips
    if by_score:
        return ScoreThreshold(value, origin, strips, target, rate, share_bound, share_bound)
    return Threshold(value, origin, strips, target, rate, bound, share_bound)


def joint_threshold(
    thresholds: Sequence[ScoreThreshold], value: float, origin: str
) -> ScoreThreshold:
    """Return what the thresholds of several kinds of pictures prove together, told as one `value`.

    Each was set on good pictures of its own kind for the same target, and kinds weigh by their
    numbers of good pictures. Given its threshold, the share of a kind that is NG has a beta
    distribution, of which the bound of Clopper and Pearson is a quantile. The bound on all kinds is
    that quantile of the weighted mean of the shares. It is wider than that of one threshold on as
    many pictures: each of them is the highest of a few.
    """
    pictures = np.array([threshold.strips for threshold in thresholds])
    alarms = np.array([round(each.rate * each.strips) for each in thresholds])
    bound = 1.0
    if (alarms < pictures).all():
        draws = np.random.default_rng(0).beta(
            alarms + 1, pictures - alarms, (JOINT_DRAWS, len(pictures))
        )
        bound = float(np.quantile(draws @ pictures / pictures.sum(), CONFIDENCE))
    total = int(pictures.sum())
    rate = float(alarms.sum() / total)
    target, fewest = thresholds[0].target, int(pictures.min())
    return ScoreThreshold(value, origin, total, target, rate, bound, bound, fewest)


def strips_needed(target: float) -> int:
    """Return how many good strips without a false alarm support `target` false alarms per strip."""
    return int(np.ceil(bound_on_rate(0, 1) / target))


def pictures_needed(target: float) -> int:
    """Return how many good pictures, none of them NG, support the share `target` that are NG."""
    return int(np.ceil(np.log1p(-CONFIDENCE) / np.log1p(-target) - 1e-9))


def bound_on_rate(alarms: int, strips: int, dispersion: float = 1.0) -> float:
    """Return the 95 % upper bound on false alarms per strip, from `alarms` on `strips`."""
    return float(dispersion * gammaincinv(alarms / dispersion + 1, CONFIDENCE) / strips)


def bound_on_share(found: int, count: int, confidence: float = CONFIDENCE) -> float:
    """Return the upper bound on a share, 0-1, from `found` of `count` (Clopper and Pearson)."""
    return float(betaincinv(found + 1, count - found, confidence)) if found < count else 1.0


def _dispersion(heights: list[np.ndarray], peaks: np.ndarray) -> float:
    """Return variance over mean of the strips' false alarms, at the level where it is largest.

    It is 1 for a Poisson count.
    """
    if len(heights) < 2 or len(peaks) == 0:
        return 1.0
    levels = {peaks[min(int(rate * len(heights)), len(peaks) - 1)] for rate in DISPERSION_RATES}
    counts = [np.array([(strip >= level).sum() for strip in heights]) for level in levels]
    return float(max(1.0, *(strips.var(ddof=1) / strips.mean() for strips in counts)))

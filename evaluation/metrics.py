"""Metrics from a stream of heatmaps: numbers only, no files.

A strip adds a few kilobytes at most.
"""

import cv2
import numpy as np

from evaluation.detections import LOGIT_RANGE, logit_margin
from evaluation.matching import FALSE_ALARM, MatchResult
from evaluation.thresholds import bound_on_share

BINS = 65536  # each is 5.5e-4 of a logit wide
AUPRO_LIMITS = (0.3, 0.05)  # false positive rates up to which the per-region overlap is averaged
FALSE_ALARM_RATES = (0.1, 1.0, 10.0)  # per strip
# The metrics that are shown where there is room for a few only.
HEADLINES = ("image_auroc", "pixel_average_precision", "point_recall_at_0.1", "point_recall_at_1")
# The metrics that are shown of each group of pictures.
GROUP_METRICS = ("image_auroc", "image_average_precision", "pixel_average_precision")
GROUP_METRICS += (f"pixel_aupro_{AUPRO_LIMITS[0]}",)
REPLICATES = 500  # samples of the bootstrap
BOOTSTRAP_SEED = 4_000
INTERVAL = (2.5, 97.5)  # percentiles: 95 % confidence
CONTRAST_LIMITS = (25, 50)  # grey levels: limits of the bands that recall is reported for
AREA_LIMITS = (9, 25)  # pixels, 3x3 and 5x5: limits of the bands that recall is reported for

Recall = tuple[float, float, float]  # (value, low, high) with the ends of its interval


class PixelMetrics:
    """Pixel AUROC, average precision and per-region overlap, from histograms of pixels.

    Bins have equal width in the logit of the probability, so they are narrow where probabilities
    are close to 0 and to 1. Pixels of one bin count as ties, exactly as scikit-learn counts equal
    scores. That is the only error. It is at most the share of pairs of a background and a defect
    pixel that are less than 5.5e-4 of a logit apart (or both beyond LOGIT_RANGE).
    """

    def __init__(self) -> None:
        self.counts = np.zeros((2, BINS), dtype=np.int64)  # background, defect
        # defect pixels again, each weighted by 1 / area of its region
        self.overlap = np.zeros(BINS)
        self.regions = 0

    def update(
        self, heatmap: np.ndarray, mask: np.ndarray, ignored: np.ndarray | None = None
    ) -> None:
        """Count one strip: heatmap (H, W) of probabilities 0-1, mask (H, W) bool.

        Pixels of `ignored` (H, W) bool do not count. Raises `ValueError` for a value outside 0-1.
        """
        if not (heatmap.min() >= 0 and heatmap.max() <= 1):
            raise ValueError(
                f"found a heatmap from {heatmap.min():g} to {heatmap.max():g}, "
                "expected probabilities"
            )
        position = (logit_margin(heatmap) / LOGIT_RANGE + 1) * (BINS / 2)
        bins = np.minimum(position, BINS - 1).astype(np.int64)
        counted = np.ones_like(mask) if ignored is None else ~ignored
        defect = mask & counted
        self.counts[0] += np.bincount(bins[counted & ~mask], minlength=BINS)
        if not defect.any():
            return
        self.counts[1] += np.bincount(bins[defect], minlength=BINS)
        regions, labels = cv2.connectedComponents(defect.astype(np.uint8))
        areas = np.bincount(labels.ravel(), minlength=regions)
        self.overlap += np.bincount(bins[defect], weights=1 / areas[labels[defect]], minlength=BINS)
        self.regions += regions - 1

    def merge(self, others: "list[PixelMetrics]") -> None:
        """Become the sum of `others`."""
        self.counts = sum(other.counts for other in others)
        self.overlap = sum(other.overlap for other in others)
        self.regions = sum(other.regions for other in others)

    def compute(self) -> dict[str, float | None]:
        """Return `pixel_auroc`, `pixel_average_precision` and the `pixel_aupro_` of AUPRO_LIMITS.

        Each is 0-1, or None without background or defect pixels.
        """
        labels, scores = np.repeat((0, 1), BINS), np.tile(np.arange(BINS), 2)
        is_filled = self.counts.ravel() > 0
        metrics = _auroc_and_average_precision(
            "pixel", labels[is_filled], scores[is_filled], self.counts.ravel()[is_filled]
        )
        return metrics | {
            f"pixel_aupro_{limit}": self._per_region_overlap(limit) for limit in AUPRO_LIMITS
        }

    def _per_region_overlap(self, limit: float) -> float | None:
        """Average the mean found share of a region over false positive rates up to `limit`.

        After Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021, with the regions of
        all images pooled.
        """
        background = self.counts[0].sum()
        if not (background and self.regions):
            return None
        filled = np.flatnonzero(self.counts.any(axis=0))[::-1]
        rate = np.concatenate([[0.0], np.cumsum(self.counts[0, filled]) / background])
        overlap = np.concatenate([[0.0], np.cumsum(self.overlap[filled]) / self.regions])
        inside = rate < limit
        rates = np.append(rate[inside], limit)
        return float(
            np.trapezoid(np.append(overlap[inside], np.interp(limit, rate, overlap)), rates) / limit
        )


class FrocMetrics:
    """Recall of true defects against false alarms per strip (FROC), of strips with known truth.

    After Bunch et al., "A free-response approach to the measurement and characterization of
    radiographic-observer performance", 1978. At a rate of false alarms per strip, the detections
    count that rank above the first false alarm that would exceed the rate. A detection that ranks
    equal to it does not count, so ties cannot help.

    Intervals are percentiles of a bootstrap over whole strips, which keeps together the detections
    that one strip's pattern affects. They are never narrower than the interval for as many
    independent true defects (Clopper and Pearson, "The use of confidence or fiducial limits",
    1934), because a bootstrap has no width where all are found.
    """

    def __init__(self) -> None:
        self.strips = 0
        self._false_alarms: list[np.ndarray] = []  # scores, one array for each strip
        # for each strip (M, 3): score (-inf: not found), contrast, area
        self._truths: list[np.ndarray] = []
        self._places: list[str] = []

    def update(self, outcome: MatchResult) -> None:
        """Count one strip; all detections of a strip without true defects are false alarms."""
        is_hit = outcome.truth != FALSE_ALARM
        self.strips += 1
        self._false_alarms.append(outcome.scores[~is_hit])
        truths = np.array(
            [(-np.inf, _number(truth.contrast), _number(truth.area)) for truth in outcome.truths]
        ).reshape(-1, 3)
        truths[outcome.truth[is_hit], 0] = outcome.scores[is_hit]
        self._truths.append(truths)
        self._places += [truth.place for truth in outcome.truths]

    def merge(self, others: "list[FrocMetrics]") -> None:
        """Become the sum of `others`."""
        self.strips = sum(other.strips for other in others)
        for name in ("_false_alarms", "_truths", "_places"):
            setattr(self, name, [entry for other in others for entry in getattr(other, name)])

    @property
    def truths(self) -> int:
        """The number of true defects."""
        return len(self._places)

    def compute(self) -> dict[str, float | None]:
        """Return `point_recall_at_0.1` and so on for FALSE_ALARM_RATES, 0-1.

        Each is None without true defects.
        """
        return {f"point_recall_at_{rate:g}": self.recall(rate) for rate in FALSE_ALARM_RATES}

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Return false alarms per strip, ascending from 0, and the recall at each, 0-1.

        The curve ends at the highest of FALSE_ALARM_RATES. If there are fewer false alarms, its
        last point is the recall at all of them. It is empty without true defects.
        """
        if not self.truths:
            return np.empty(0), np.empty(0)
        false_alarms = np.append(np.sort(self._pooled_false_alarms())[::-1], -np.inf)
        false_alarms = false_alarms[: int(FALSE_ALARM_RATES[-1] * self.strips) + 1]
        scores = np.sort(self._pooled_truths()[:, 0])
        recall = 1 - np.searchsorted(scores, false_alarms, side="right") / len(scores)
        return np.arange(len(false_alarms)) / self.strips, recall

    def table(self) -> list[dict[str, object]]:
        """Return recall at each of FALSE_ALARM_RATES as (value, low, high), for each group.

        The groups are all true defects and each band of contrast, size and region. A row is
        `{"group": name, "truths": count, "recall": {rate: (value, low, high)}}`.
        """
        groups = self._groups()
        drawn = self._replicates(groups) if self.truths else {}
        found = {rate: self._found(rate) for rate in FALSE_ALARM_RATES}
        rows = []
        for name, members in groups.items():
            recalls = {
                rate: _with_interval(found[rate][members], drawn[name][rate])
                for rate in FALSE_ALARM_RATES
            }
            rows.append({"group": name, "truths": int(members.sum()), "recall": recalls})
        return rows

    def recall(self, rate: float) -> float | None:
        """Return the recall, 0-1, at any rate of false alarms per strip; None without defects."""
        return float(self._found(rate).mean()) if self.truths else None

    def by_strip(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the scores of each strip's false alarms and true defects (-inf: not found)."""
        return [(alarms, truths[:, 0]) for alarms, truths in zip(self._false_alarms, self._truths)]

    def limit(self, rate: float) -> float:
        """Return the score that a detection must exceed to count at `rate` false alarms per strip.

        It is -inf where all detections count.
        """
        false_alarms = np.sort(self._pooled_false_alarms())[::-1]
        allowed = int(rate * self.strips + 1e-9)
        return float(false_alarms[allowed]) if len(false_alarms) > allowed else -np.inf

    def above(self, limits: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return the recall, 0-1, and the false alarms per strip of detections above scores (N,).

        The recall is None without true defects, and both are None without strips.
        """
        if not self.strips:
            return None, None
        false_alarms, truths = (
            len(scores) - np.searchsorted(np.sort(scores), limits, side="right")
            for scores in (self._pooled_false_alarms(), self._pooled_truths()[:, 0])
        )
        recall = truths / self.truths if self.truths else None
        return recall, false_alarms / self.strips

    def _found(self, rate: float) -> np.ndarray:
        return self._pooled_truths()[:, 0] > self.limit(rate)

    def _replicates(self, groups: dict[str, np.ndarray]) -> dict[str, dict[float, list[float]]]:
        """Return the recalls of REPLICATES samples of strips, drawn with replacement."""
        false_alarms, truths = self._pooled_false_alarms(), self._pooled_truths()[:, 0]
        alarm_strip = np.repeat(np.arange(self.strips), list(map(len, self._false_alarms)))
        truth_strip = np.repeat(np.arange(self.strips), list(map(len, self._truths)))
        order = np.argsort(-false_alarms, kind="stable")
        false_alarms, alarm_strip = false_alarms[order], alarm_strip[order]
        # So many false alarms nearly always suffice. If many of them lie on a few strips that are
        # not drawn, all are counted.
        enough = int(4 * FALSE_ALARM_RATES[-1] * self.strips)
        generator = np.random.default_rng(BOOTSTRAP_SEED)
        drawn = {name: {rate: [] for rate in FALSE_ALARM_RATES} for name in groups}
        for _ in range(REPLICATES):
            times = np.bincount(
                generator.integers(self.strips, size=self.strips), minlength=self.strips
            )
            counted = np.cumsum(times[alarm_strip[:enough]])
            if len(counted) and counted[-1] <= FALSE_ALARM_RATES[-1] * self.strips:
                counted = np.cumsum(times[alarm_strip])
            weight = times[truth_strip]
            for rate in FALSE_ALARM_RATES:
                first_beyond = np.searchsorted(counted, rate * self.strips + 1e-9, side="right")
                limit = false_alarms[first_beyond] if first_beyond < len(false_alarms) else -np.inf
                found = weight * (truths > limit)
                for name, members in groups.items():
                    total = weight[members].sum()
                    drawn[name][rate].append(found[members].sum() / total if total else np.nan)
        return drawn

    def _groups(self) -> dict[str, np.ndarray]:
        """Return which true defects belong to each group that is not empty."""
        _, contrast, area = self._pooled_truths().T
        places = np.array(self._places)
        groups = {"all": np.ones(self.truths, dtype=bool)}
        groups |= {
            f"contrast {text}": inside
            for text, inside in _bands(contrast, CONTRAST_LIMITS, "grey levels")
        }
        groups |= {f"area {text}": inside for text, inside in _bands(area, AREA_LIMITS, "pixels")}
        groups |= {
            f"at the {place}" if place != "interior" else place: places == place
            for place in ("border", "seam", "interior")
        }
        return {name: members for name, members in groups.items() if members.any()}

    def _pooled_false_alarms(self) -> np.ndarray:
        return np.concatenate([np.empty(0), *self._false_alarms])

    def _pooled_truths(self) -> np.ndarray:
        return np.concatenate([np.empty((0, 3)), *self._truths])


def image_figures(is_defective: list[bool], scores: list[float]) -> dict[str, float | None]:
    """Return `image_auroc` and `image_average_precision`, 0-1, from one score per strip.

    Both are None without good or without defective strips.
    """
    return _auroc_and_average_precision(
        "image", np.array(is_defective, dtype=int), np.array(scores), None
    )


def _auroc_and_average_precision(
    name: str, labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None
) -> dict[str, float | None]:
    if len(np.unique(labels)) < 2:
        return {f"{name}_auroc": None, f"{name}_average_precision": None}
    # imported here because it takes two seconds, which every command would need at its start
    from sklearn.metrics import average_precision_score, roc_auc_score

    return {
        f"{name}_auroc": float(roc_auc_score(labels, scores, sample_weight=weights)),
        f"{name}_average_precision": float(
            average_precision_score(labels, scores, sample_weight=weights)
        ),
    }


def _with_interval(found: np.ndarray, drawn: list[float]) -> Recall:
    """Return the found share and its interval, the wider of the bootstrap and the binomial one."""
    hits, count = int(found.sum()), len(found)
    tail = INTERVAL[0] / 100
    least = 1 - bound_on_share(count - hits, count, 1 - tail)
    most = bound_on_share(hits, count, 1 - tail)
    low, high = np.nanpercentile(drawn, INTERVAL)
    return hits / count, float(min(low, least)), float(max(high, most))


def _bands(
    values: np.ndarray, limits: tuple[float, float], unit: str
) -> list[tuple[str, np.ndarray]]:
    low, high = limits
    texts = (f"up to {low} {unit}", f"above {low}, up to {high} {unit}", f"above {high} {unit}")
    return list(zip(texts, (values <= low, (values > low) & (values <= high), values > high)))


def _number(value: float | None) -> float:
    return np.nan if value is None else value

"""Review of the detector's detections: a new rank from its margin and the classifier's logit.

New rank = margin + weight x logit. The weight is chosen on strips that are labelled and that the
classifier has not learnt from. It is 0, the detector alone, unless they show that a review finds
more at the wanted rate of false alarms.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from classifier.defect_checkpoint import DefectModel
from classifier.defect_samples import fit_to_size
from data.folder import GOOD
from data.image_files import to_unit_range
from evaluation.detections import Peaks
from evaluation.matching import MatchResult, TrueDefect, match_strip
from evaluation.metrics import FrocMetrics

WEIGHTS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
FEWEST = 10  # held-out strips with defects: fewer show no spread
REPLICATES, BOOTSTRAP_SEED = 400, 25_200
ENOUGH = 0.95  # of the best lower bound: the smallest weight that reaches it is taken
TAIL = 5.0  # percentile of the gain that must lie above 0: 95 % confidence, one-sided
BATCH = 256  # crops that the network looks at together
MOST_LOGIT = 8.0  # a review is not trusted further: e^8 to 1


@dataclass(frozen=True)
class Candidates:
    """The detections of one strip: whole points (N, 2) as (y, x), and their margins (N,).

    `truths` are the strip's true defects, None where they are not known. `labels` (H, W) is the
    index of each pixel's defect, as of `defects_in_mask`, or None.
    """

    points: np.ndarray
    margins: np.ndarray
    truths: list[TrueDefect] | None = None
    labels: np.ndarray | None = None


@dataclass(frozen=True)
class WeightChoice:
    """The chosen weight, why, and what each weight gave on the held-out strips.

    A row is (weight, recall at the rate, gain against the detector, lower bound of the gain).
    """

    weight: float
    reason: str
    rows: tuple[tuple[float, float, float, float], ...] = ()


def kind_probabilities(model: DefectModel, crops: np.ndarray) -> np.ndarray:
    """Probabilities (N, kinds) of crops (N, C, size, size), grey levels 0-255."""
    parts = [np.empty((0, len(model.kinds)))]
    with torch.inference_mode():
        for first in range(0, len(crops), BATCH):
            fitted = np.stack(
                [fit_to_size(crop, None, model.image_size)[0] for crop in crops[first:][:BATCH]]
            )
            images = torch.from_numpy(to_unit_range(fitted)).to(torch.float32)
            parts.append(model.network(images).logits.double().softmax(dim=1).numpy())
    return np.concatenate(parts)


def review_logits(probabilities: np.ndarray, kinds: Sequence[str]) -> np.ndarray:
    """The logit (N,) of being a defect of any kind, from probabilities (N, kinds).

    It is limited to MOST_LOGIT either way.
    """
    good = probabilities[:, list(kinds).index(GOOD)]
    tiny = np.finfo(np.float64).tiny
    defect = np.delete(probabilities, list(kinds).index(GOOD), axis=1).sum(axis=1)
    logits = np.log(np.maximum(defect, tiny)) - np.log(np.maximum(good, tiny))
    return np.clip(logits, -MOST_LOGIT, MOST_LOGIT)


def fuse(margins: np.ndarray, logits: np.ndarray, weight: float) -> np.ndarray:
    """The new scores (N,); with weight 0 the margins themselves, bit by bit."""
    return margins + weight * logits if weight else margins.copy()


def match_scores(candidates: Candidates, scores: np.ndarray) -> MatchResult:
    """Match detections with the true defects anew, the highest of `scores` (N,) first."""
    order = np.argsort(-scores, kind="stable")
    peaks = Peaks(candidates.points[order], np.zeros(len(order)), scores[order])
    return match_strip(peaks, candidates.truths, candidates.labels)


def review_metrics(
    strips: Sequence[Candidates], logits: Sequence[np.ndarray], weight: float
) -> FrocMetrics:
    """FROC of the new rank over the strips whose truth is known."""
    metrics = FrocMetrics()
    for candidates, values in zip(strips, logits):
        if candidates.truths is not None:
            metrics.update(match_scores(candidates, fuse(candidates.margins, values, weight)))
    return metrics


def choose_weight(
    strips: Sequence[Candidates],
    logits: Sequence[np.ndarray],
    rate: float,
    weights: Sequence[float] = WEIGHTS,
) -> WeightChoice:
    """Choose the weight on held-out strips for `rate` false alarms per strip.

    A weight counts only if the gain in recall against the detector alone is above 0 in all but
    TAIL percent of bootstrap samples over strips. Of those, it is the smallest one whose lower
    bound reaches the share ENOUGH of the highest: closest to the detector. Otherwise, and with
    fewer than FEWEST strips with defects, it is 0.
    """
    held = [pair for pair in zip(strips, logits) if pair[0].truths is not None]
    count = sum(len(candidates.truths) for candidates, _ in held)
    defective = sum(bool(candidates.truths) for candidates, _ in held)
    if defective < FEWEST:
        return WeightChoice(
            0.0,
            f"the detector alone: {defective or 'no'} labelled strips with defects are held out "
            f"to choose on, expected at least {FEWEST}",
        )
    base = [match_scores(one, one.margins) for one, _ in held]
    rows = []
    for weight in sorted({0.0, *weights}):
        results = [match_scores(one, fuse(one.margins, values, weight)) for one, values in held]
        recall, gain, low, _ = paired_gain(results, base, rate)
        rows.append((weight, recall, gain, low))
    highest = max(row[3] for row in rows)
    best = next(row for row in rows if row[3] >= ENOUGH * highest)
    if highest <= 0:
        reason = (
            f"the detector alone: on {len(held)} held-out strips with {count} defects no weight "
            f"has a gain at {rate:g} false alarms per strip whose lower bound is above 0"
        )
        return WeightChoice(0.0, reason, tuple(rows))
    reason = (
        f"on {len(held)} held-out strips with {count} defects recall at {rate:g} false alarms per "
        f"strip rises from {rows[0][1]:.3f} to {best[1]:.3f}, at 95 % confidence by at least "
        f"{best[3]:.3f}"
    )
    return WeightChoice(best[0], reason, tuple(rows))


def paired_gain(
    results: list[MatchResult], base: list[MatchResult], rate: float
) -> tuple[float, float, float, float]:
    """Recall at `rate` false alarms per strip, its gain against `base`, and the gain's interval.

    Both are of the same strips. The ends of the interval are the percentiles TAIL and 100 - TAIL of
    REPLICATES bootstrap samples over strips, the same samples for both.
    """
    generator, count = np.random.default_rng(BOOTSTRAP_SEED), len(results)
    times = [np.ones(count, dtype=np.int64)]
    times += [
        np.bincount(generator.integers(count, size=count), minlength=count)
        for _ in range(REPLICATES)
    ]
    recalls = _recalls(results, times, rate)
    gains = recalls - _recalls(base, times, rate)
    low, high = np.nanpercentile(gains[1:], (TAIL, 100 - TAIL))
    return float(recalls[0]), float(gains[0]), float(low), float(high)


def _recalls(results: list[MatchResult], times: list[np.ndarray], rate: float) -> np.ndarray:
    """Recall at a rate for each sample of strips: `times` (strips,) says how often each counts."""
    is_alarm = [result.truth < 0 for result in results]
    alarms = np.concatenate([result.scores[where] for result, where in zip(results, is_alarm)])
    hits = np.concatenate([result.scores[~where] for result, where in zip(results, is_alarm)])
    numbers = np.arange(len(results))
    alarm_strip = np.repeat(numbers, [int(where.sum()) for where in is_alarm])
    hit_strip = np.repeat(numbers, [int((~where).sum()) for where in is_alarm])
    truths = np.array([len(result.truths) for result in results])
    order = np.argsort(-alarms, kind="stable")
    alarms, alarm_strip = alarms[order], alarm_strip[order]
    recalls = []
    for sample in times:
        first_beyond = np.searchsorted(
            np.cumsum(sample[alarm_strip]), rate * len(results) + 1e-9, side="right"
        )
        limit = alarms[first_beyond] if first_beyond < len(alarms) else -np.inf
        total = (sample * truths).sum()
        recalls.append((sample[hit_strip] * (hits > limit)).sum() / total if total else np.nan)
    return np.array(recalls)

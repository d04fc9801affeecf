"""What a review changes: new scores, what is reported before and after, and the figures of both."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from classifier.detection_table import FALSE_ALARM as FALSE_ALARM_STATUS
from classifier.detection_table import HIT
from classifier.review import WeightChoice, choose_weight, fuse, review_metrics
from classifier.review_strips import NETWORK, ReviewedStrip
from evaluation.matching import FALSE_ALARM, match
from evaluation.metrics import FALSE_ALARM_RATES, FrocMetrics
from evaluation.thresholds import bound_on_rate

NAMES = {FALSE_ALARM: FALSE_ALARM_STATUS}
NO_MATTER = "no matter"  # status of a further detection on one defect
ALONE = "detector alone"


@dataclass(frozen=True)
class Limits:
    """The scores that a detection must exceed to be reported, before and after the review.

    Both give at most `target` false alarms per strip on held-out strips, and `text` says on which.
    They are -inf, and everything is reported, where no labelled strips are held out.
    """

    before: float
    after: float
    target: float
    text: str


@dataclass(frozen=True)
class Changed:
    """A detection whose fate the review changes, with its status."""

    number: int  # of the strip
    place: int  # among the strip's detections
    status: str


@dataclass(frozen=True)
class Review:
    """Strips with their new scores (N,), statuses, and which detections are reported.

    `choices` has the weight of each review, `froc` the metrics of the detector and of each review,
    over the strips of known truth. `used` is the review that makes the new scores. `taken`, `lost`
    and `won` are what it takes away but hits, the hits among it, and what it reports in addition.
    """

    strips: list[ReviewedStrip]
    used: str
    limits: Limits
    choices: dict[str, WeightChoice]
    scores: list[np.ndarray]
    statuses: list[list[str]]
    before: list[np.ndarray]
    after: list[np.ndarray]
    froc: dict[str, FrocMetrics]
    taken: list[Changed] = field(default_factory=list)
    lost: list[Changed] = field(default_factory=list)
    won: list[Changed] = field(default_factory=list)

    @property
    def weight(self) -> float:
        """The weight by which the new scores are made."""
        return self.choices[self.used].weight


def choose_weights(
    held: Sequence[ReviewedStrip], names: Sequence[str], rate: float
) -> dict[str, WeightChoice]:
    """The weight of each review of `names` on held-out strips; 0 where there are none."""
    candidates = [one.candidates for one in held]
    return {
        name: choose_weight(candidates, [one.logits[name] for one in held], rate) for name in names
    }


def choose_limits(held: Sequence[ReviewedStrip], used: str, weight: float, rate: float) -> Limits:
    """The limits at `rate` false alarms per strip on held-out strips, with the review `used`."""
    froc = [_metrics(held, used, value) for value in (0.0, weight)]
    if not froc[0].strips:
        text = "no labelled strips are held out: every detection stays reported"
        return Limits(-np.inf, -np.inf, rate, text)
    before, after = (metrics.limit(rate) for metrics in froc)
    found = froc[1].above(np.array([after]))[1][0]
    strips = froc[1].strips
    bound = bound_on_rate(round(found * strips), strips)
    text = (
        f"set on {strips} held-out strips: {found:.3g} false alarms per strip there, {rate:g} "
        f"asked for, at 95 % confidence at most {bound:.3g}"
    )
    return Limits(before, after, rate, text)


def review(
    strips: list[ReviewedStrip],
    choices: dict[str, WeightChoice],
    limits: Limits,
    used: str = NETWORK,
) -> Review:
    """Apply chosen weights and limits to strips; the review `used` makes the new scores."""
    weight = choices[used].weight
    scores = [fuse(one.candidates.margins, one.logits[used], weight) for one in strips]
    result = Review(
        strips,
        used,
        limits,
        choices,
        scores,
        [statuses_of(one, values) for one, values in zip(strips, scores)],
        [one.candidates.margins > limits.before for one in strips],
        [values > limits.after for values in scores],
        {ALONE: _metrics(strips, NETWORK, 0.0)}
        | {
            f"+ {name}, weight {choice.weight:g}": _metrics(strips, name, choice.weight)
            for name, choice in choices.items()
        },
    )
    _find_changes(result)
    return result


def statuses_of(one: ReviewedStrip, scores: np.ndarray) -> list[str]:
    """The status of each detection under new scores (N,): matched anew where the truth is known."""
    candidates = one.candidates
    if candidates.truths is None:
        return [place.status for place in one.places]
    order = np.argsort(-scores, kind="stable")
    found = np.empty(len(order), dtype=np.int64)
    found[order] = match(candidates.points[order], candidates.truths, candidates.labels)
    return [HIT if number >= 0 else NAMES.get(number, NO_MATTER) for number in found.tolist()]


def recall_rows(froc: dict[str, FrocMetrics]) -> list[list[str]]:
    """A row for each ranking: its name, and recall at FALSE_ALARM_RATES with its interval."""
    rows = []
    for name, metrics in froc.items():
        if metrics.truths:
            recalls = metrics.table()[0]["recall"]
            cells = [recalls[rate] for rate in FALSE_ALARM_RATES]
            rows.append([name, *(f"{at:.3f} ({low:.3f} to {high:.3f})" for at, low, high in cells)])
    return rows


def count_rows(result: Review) -> list[list[object]]:
    """Rows of counts before and after: detections reported, hits, false alarms, and NG strips."""
    rows = []
    for name, reported in (("before", result.before), ("after", result.after)):
        statuses = [
            status
            for which, known in zip(reported, result.statuses)
            for is_in, status in zip(which, known)
            if is_in
        ]
        rejected = sum(bool(which.any()) for which in reported)
        counts = (len(statuses), statuses.count(HIT), statuses.count(FALSE_ALARM_STATUS))
        rows.append([name, *counts, rejected, len(reported) - rejected])
    return rows


def _metrics(strips: Sequence[ReviewedStrip], name: str, weight: float) -> FrocMetrics:
    return review_metrics(
        [one.candidates for one in strips], [one.logits[name] for one in strips], weight
    )


def _find_changes(result: Review) -> None:
    """Fill `taken`, `lost` and `won`, the largest change of rank first."""
    changes = []
    for number, one in enumerate(result.strips):
        differs = np.flatnonzero(result.before[number] != result.after[number])
        for place in differs.tolist():
            change = abs(result.scores[number][place] - one.candidates.margins[place])
            changed = Changed(number, place, result.statuses[number][place])
            changes.append((change, changed, bool(result.after[number][place])))
    for _, changed, is_won in sorted(changes, key=lambda entry: -entry[0]):
        if is_won:
            result.won.append(changed)
        else:
            (result.lost if changed.status == HIT else result.taken).append(changed)

"""Recall at K: how many known defects are among the K strongest detections of all strips."""

from dataclasses import dataclass

import numpy as np

from evaluation.matching import FALSE_ALARM, MatchResult

RANKS = (30, 50, 150, 500)  # detections that a person looks at, the strongest first


@dataclass(frozen=True)
class RankRecall:
    """How many of `truths` known defects are among the `k` strongest detections."""

    k: int
    found: int
    truths: int

    @property
    def recall(self) -> float:
        """The share of the known defects, 0-1."""
        return self.found / self.truths


class RankMetrics:
    """Recall at each of RANKS, over strips whose defects are known and over others.

    Detections of strips without a known defect take places among the strongest, too, and so do
    those that are not counted otherwise, such as a second one of a defect. A defect counts if its
    detection is stronger than the first one that has no place, so ties cannot help.
    """

    def __init__(self) -> None:
        self.truths = 0
        self._strongest = np.empty(0)  # scores of all strips, as many as ever matter
        self._found: list[np.ndarray] = []  # scores of the detections that have found a defect

    def update(self, scores: np.ndarray, outcome: MatchResult | None) -> None:
        """Count a strip's detections (N,), and those that found a defect where that is known."""
        self._keep(scores)
        if outcome:
            self.truths += len(outcome.truths)
            self._found.append(outcome.scores[outcome.truth != FALSE_ALARM])

    def merge(self, others: "list[RankMetrics]") -> None:
        """Become the sum of `others`."""
        self.truths = sum(other.truths for other in others)
        self._strongest = np.empty(0)
        self._keep(np.concatenate([other._strongest for other in others]))
        self._found = [scores for other in others for scores in other._found]

    def compute(self) -> list[RankRecall]:
        """Return one entry for each of RANKS, none without a known defect."""
        if not self.truths:
            return []
        found = np.concatenate([np.empty(0), *self._found])
        return [RankRecall(k, int((found > self._limit(k)).sum()), self.truths) for k in RANKS]

    def figures(self) -> dict[str, float | None]:
        """Return `point_recall_in_top_30` and so on for RANKS, None without a known defect."""
        found = {entry.k: entry.recall for entry in self.compute()}
        return {f"point_recall_in_top_{k}": found.get(k) for k in RANKS}

    def _limit(self, k: int) -> float:
        return float(self._strongest[k]) if len(self._strongest) > k else -np.inf

    def _keep(self, scores: np.ndarray) -> None:
        merged = np.concatenate([self._strongest, scores])
        self._strongest = np.sort(merged)[::-1][: RANKS[-1] + 1]

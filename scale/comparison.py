"""Whether settings find more than the default ones: by a bootstrap over strips, and by counting.

Thirty points cannot tell a recall of 0.50 from one of 0.54. So settings are recommended only where
both hold at 95 %: the interval of the difference, of a bootstrap over strips and seeds, lies above
0; and of the strips on which the two differ, so many are better that chance does not explain it
(sign test). The second holds for few strips too, for which a bootstrap is too sure.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from evaluation.metrics import INTERVAL
from scale.found_points import BOOTSTRAP_SEED, REPLICATES, FoundPoints, draw_strips
from scale.spec import Objective

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Estimate:
    """A figure, and the ends of its interval at 95 %."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """The recall of some settings minus that of the default ones, over the counted points.

    `better` and `worse` are numbers of strips, and `chance` is the probability of such numbers, or
    of more unequal ones, where both settings find the same.
    """

    difference: Estimate
    better: int
    worse: int
    chance: float

    @property
    def is_better(self) -> bool:
        """Whether the settings find more, as far as the strips can tell."""
        return self.difference.low > 0 and self.better > self.worse and self.chance < SIGNIFICANCE


def estimate(
    runs: list[FoundPoints], objective: Objective, counted: np.ndarray | None = None
) -> Estimate:
    """The mean recall of trainings of the same settings, which differ in their seeds."""
    return _estimate(_recall(runs, objective, counted), _drawn(runs, objective, counted))


def compare(
    runs: list[FoundPoints],
    default: list[FoundPoints],
    objective: Objective,
    counted: np.ndarray | None = None,
) -> Comparison:
    """Compare trainings of some settings with those of the default ones: same strips, same seeds.

    Only points on `counted` strips (strips,) bool enter it; None: all.
    """
    difference = _estimate(
        _recall(runs, objective, counted) - _recall(default, objective, counted),
        _drawn(runs, objective, counted) - _drawn(default, objective, counted),
    )
    more = _found_by_strip(runs, objective) - _found_by_strip(default, objective)
    more = more if counted is None else more[counted]
    better, worse = int((more > 1e-9).sum()), int((more < -1e-9).sum())
    chance = binomtest(better, better + worse).pvalue if better + worse else 1.0
    return Comparison(difference, better, worse, float(chance))


def _estimate(value: float, drawn: np.ndarray) -> Estimate:
    low, high = np.nanpercentile(drawn, INTERVAL)
    return Estimate(value, float(low), float(high))


def _recall(runs: list[FoundPoints], objective: Objective, counted: np.ndarray | None) -> float:
    once = np.ones((1, len(runs[0].strips)), dtype=int)
    return float(np.mean([run.recalls(objective, once, counted)[0] for run in runs]))


def _drawn(runs: list[FoundPoints], objective: Objective, counted: np.ndarray | None) -> np.ndarray:
    """The mean recall of each sample of strips, over as many seeds, drawn again as well.

    The samples of strips and seeds are the same for all settings, so that differences are paired.
    """
    times = draw_strips(len(runs[0].strips))
    recalls = np.stack([run.recalls(objective, times, counted) for run in runs])
    generator = np.random.default_rng((BOOTSTRAP_SEED, len(runs)))
    chosen = generator.integers(len(runs), size=(len(runs), REPLICATES))
    return np.take_along_axis(recalls, chosen, axis=0).mean(axis=0)


def _found_by_strip(runs: list[FoundPoints], objective: Objective) -> np.ndarray:
    """The number of points found on each strip, a mean over the runs."""
    counts = [
        np.bincount(run.owners, run.found(objective), minlength=len(run.strips)) for run in runs
    ]
    return np.mean(counts, axis=0)

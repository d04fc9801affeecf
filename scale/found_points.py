"""Which known points a checkpoint finds, at which rank, and on which strips.

A training's metrics are sums over all strips. To draw strips again, as a bootstrap does, and to say
which point is found by whom, the scores of each strip are kept.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import UserError
from common.files import atomic_write, read_notes
from data.folder import list_strips
from evaluation.detections import find_peaks
from evaluation.evaluate import evaluate
from evaluation.matching import defects_in_mask
from evaluation.predictors import TorchPredictor
from evaluation.ranks import RANKS
from evaluation.results import StripResult
from evaluation.stream import Prediction
from evaluation.thresholds import HIGHEST_RATE
from scale.spec import Objective
from training.checkpoint import build_network, load_checkpoint, model_info

MOST_OF_STRIP = RANKS[-1] + 1  # strongest detections of a strip that can have a place among K
SPARE = 4  # times as many detections as count are kept, for samples that lack some strips
REPLICATES = 1000  # samples of the bootstrap
BOOTSTRAP_SEED = 50_000


@dataclass(frozen=True)
class StripPoints:
    """What a checkpoint finds on one strip.

    `points` are the known ones (y, x), and `scores` those of the detections that have found them
    (-inf: none has). `false_alarms` are the scores of detections that have not, None where the
    truth is not known, and `strongest` the scores of all detections, strongest first.
    """

    name: str
    points: list[list[float]]
    scores: list[float]
    false_alarms: list[float] | None
    strongest: list[float]


class FoundPoints:
    """The strips of a scored folder, and the recall on them."""

    def __init__(self, strips: list[StripPoints]):
        self.strips = strips
        self.scores = np.array([score for strip in strips for score in strip.scores])
        self.owners = np.repeat(np.arange(len(strips)), [len(strip.scores) for strip in strips])
        self.is_known = np.array([strip.false_alarms is not None for strip in strips])

    def recall(self, objective: Objective) -> float:
        """The recall, 0-1, as a training's metric of that name."""
        return float(self.recalls(objective, np.ones((1, len(self.strips)), dtype=int))[0])

    def recalls(
        self, objective: Objective, times: np.ndarray, counted: np.ndarray | None = None
    ) -> np.ndarray:
        """The recall of each sample: `times` (N, strips) says how often it has each strip.

        Only points on `counted` strips (strips,) bool enter it (None: all), while the detections of
        all strips take places. A sample without such a point has the recall NaN.
        """
        ranked, owners = self._ranked(objective)
        is_counted = np.ones(len(self.owners), bool) if counted is None else counted[self.owners]
        recalls = np.full(len(times), np.nan)
        for number, weights in enumerate(times):
            of_points = weights[self.owners] * is_counted
            if not of_points.sum():
                continue
            limit = self._limit(objective, ranked, np.cumsum(weights[owners]), weights)
            recalls[number] = (of_points * (self.scores > limit)).sum() / of_points.sum()
        return recalls

    def found(self, objective: Objective) -> np.ndarray:
        """Whether each known point is found, (points,) bool, in the order of the strips."""
        ranked, owners = self._ranked(objective)
        weights = np.ones(len(self.strips), dtype=int)
        return self.scores > self._limit(objective, ranked, np.cumsum(weights[owners]), weights)

    def ranks(self) -> list[int | None]:
        """The rank of each point's detection among those of all strips, from 1.

        None: not found, or weaker than the detections that are kept.
        """
        ranked = np.sort(self._ranked(Objective(k=RANKS[0]))[0])
        above = len(ranked) - np.searchsorted(ranked, self.scores, side="right")
        lowest = ranked.min(initial=np.inf)
        return [int(n) + 1 if s >= lowest else None for n, s in zip(above, self.scores)]

    def _ranked(self, objective: Objective) -> tuple[np.ndarray, np.ndarray]:
        """The scores that take places, strongest first, and the number of each one's strip."""
        by_strip = [
            strip.strongest if objective.k else strip.false_alarms or [] for strip in self.strips
        ]
        owners = np.repeat(np.arange(len(by_strip)), list(map(len, by_strip)))
        scores = np.array([score for scores in by_strip for score in scores])
        order = np.argsort(-scores, kind="stable")
        return scores[order], owners[order]

    def _limit(
        self, objective: Objective, ranked: np.ndarray, places: np.ndarray, weights: np.ndarray
    ) -> float:
        """The score that a detection must exceed, where `places` are taken up to each one."""
        rate = objective.false_alarms or 0.0
        allowed = objective.k or rate * weights[self.is_known].sum() + 1e-9
        first_beyond = np.searchsorted(places, allowed, side="right")
        return float(ranked[first_beyond]) if first_beyond < len(ranked) else -np.inf

    def save(self, path: Path) -> None:
        """Write everything as JSON."""
        content = [
            vars(strip) | {"scores": [s if np.isfinite(s) else None for s in strip.scores]}
            for strip in self.strips
        ]
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(content))


def read_found_points(path: Path) -> FoundPoints | None:
    """What `FoundPoints.save` wrote, None where that is missing or damaged."""
    content = read_notes(path)
    if not isinstance(content, list):
        return None
    try:
        strips = [
            StripPoints(**strip | {"scores": [-np.inf if s is None else s for s in scores]})
            for strip in content
            for scores in [strip["scores"]]
        ]
    except (TypeError, KeyError):
        return None
    return FoundPoints(strips)


def find_points(
    checkpoint: Path, folder: Path, names: dict[str, str], device: torch.device
) -> FoundPoints:
    """Score a folder with a checkpoint. `names` are those of the strips by their paths in it.

    Raises `UserError` when a strip cannot be scored.
    """
    content: dict[str, Any] = load_checkpoint(checkpoint)
    info = model_info(content)
    network = build_network(content, checkpoint)
    predictor = TorchPredictor(network, info.patch, device, info.align, info.weighting)
    strips = list_strips(folder, content.get("img_format"), order=info.order)
    strongest: dict[str, np.ndarray] = {}
    points: dict[str, list[list[float]]] = {}

    def keep(result: StripResult, prediction: Prediction, number: int) -> None:
        link, centers = result.strip.relative.as_posix(), result.strip.points or ()
        if prediction.mask is not None:
            truths = defects_in_mask(prediction.mask, prediction.image)[0]
            centers = [truth.center for truth in truths]
        strongest[link] = find_peaks(prediction.heatmap).scores[:MOST_OF_STRIP]
        points[link] = [list(center) for center in centers]

    result = evaluate(predictor, strips, info.input_max, "finding points", on_strip=keep)
    if result.problems:
        raise UserError("\n".join(result.problems))
    by_strip = result.metrics.points.by_strip()
    known, found = iter(by_strip), []
    lowest = _lowest_of([*strongest.values()], SPARE * MOST_OF_STRIP)
    lowest_alarm = _lowest_of(
        [alarms for alarms, _ in by_strip], SPARE * HIGHEST_RATE * len(strips)
    )
    for scored in result.results:
        link = scored.strip.relative.as_posix()
        alarms, scores = next(known) if scored.truths is not None else (None, np.empty(0))
        found.append(
            StripPoints(
                names[link],
                points[link],
                scores.tolist(),
                None if alarms is None else alarms[alarms >= lowest_alarm].tolist(),
                strongest[link][strongest[link] >= lowest].tolist(),
            )
        )
    return FoundPoints(found)


def _lowest_of(scores: list[np.ndarray], most: float) -> float:
    """The lowest of the `most` strongest scores; those below it are not kept."""
    pooled = np.sort(np.concatenate([np.empty(0), *scores]))[::-1]
    return float(pooled[int(most)]) if len(pooled) > most else -np.inf


def draw_strips(count: int) -> np.ndarray:
    """How often each of `count` strips is in each of REPLICATES samples: (REPLICATES, count)."""
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    return np.stack(
        [
            np.bincount(generator.integers(count, size=count), minlength=count)
            for _ in range(REPLICATES)
        ]
    )

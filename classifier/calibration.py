"""How far a classifier's confidence can be trusted, from what it says of held-out images.

- *temperature*: divides the logits, so that of images with confidence 0.9 nine in ten are right
  (Guo et al., "On calibration of modern neural networks", 2017).
- *unsure*: an image below the confidence from which on a target error holds on held-out images.
- *unknown*: an image whose features are unlike those of all training images (Sun et al.,
  "Out-of-distribution detection with deep nearest neighbors", 2022).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from common.errors import UserError
from evaluation.thresholds import bound_on_share

BINS = 15  # of equal width, of the calibration error
TEMPERATURES = (0.05, 20.0)  # ends of the range in which a temperature is looked for
TEMPERATURE_SPREAD = 0.5  # standard deviation of its logarithm, before any image is seen
# of the proof that it helps: parts, and standard errors of a gain (95 %, one-sided)
FOLDS, PROOF = 10, 1.645
# A limit lies so far beyond the image that sets it, or half-way to the next one. Two runtimes
# differ by less, and would disagree on that image otherwise.
SLACK = 1e-4
LEAST_PROBABILITY = 1e-30
MOST_IMAGES = 10**6  # of a stored calibration
UNUSABLE = "found an unusable calibration, expected that of a training or of an exported file"


@dataclass(frozen=True)
class Calibration:
    """What a classifier says of the N images of valid/, of which its training learnt nothing.

    `confidences` (N,) are the probabilities of the predicted kinds at `temperature`, `is_right`
    (N,) says which kinds are right, and `distances` are those to the training's nearest image,
    empty where they are not known.
    """

    temperature: float = 1.0
    confidences: tuple[float, ...] = ()
    is_right: tuple[bool, ...] = ()
    distances: tuple[float, ...] = ()

    def lowest_sure(self, target_error: float) -> float:
        """As `confidence_for_error`, from these images."""
        return confidence_for_error(
            np.array(self.confidences), np.array(self.is_right, bool), target_error
        )

    def count_without_mistake(self) -> int:
        """How many of the most confident of these images are right, up to the first wrong one."""
        order = np.argsort(-np.array(self.confidences), kind="stable")
        wrong = np.flatnonzero(~np.array(self.is_right, bool)[order])
        return int(wrong[0]) if len(wrong) else len(order)

    def highest_known(self, target_unknown: float) -> float:
        """The distance above which an image is unknown; infinite where none is known.

        At most a share `target_unknown` of images like those of valid/ lies above it, where valid/
        has 1 / `target_unknown` images or more (Vovk et al., "Algorithmic learning in a random
        world", 2005). With fewer it is the highest distance of valid/.
        """
        if not self.distances:
            return math.inf
        count = len(self.distances)
        # no share of rounding may raise the rank
        rank = min(count, math.ceil((count + 1) * (1 - target_unknown) - 1e-9))
        ordered = [*sorted(self.distances), math.inf]
        highest, above = ordered[max(rank, 1) - 1 : max(rank, 1) + 1]
        return min(highest + SLACK, (highest + above) / 2)

    def plain(self) -> dict[str, Any]:
        """The content of a JSON file; `read_calibration` reads it."""
        lists = {name: list(value) for name, value in vars(self).items() if name != "temperature"}
        return {"temperature": self.temperature, **lists}


def read_calibration(content: object) -> Calibration:
    """The calibration of `Calibration.plain`. Raises `UserError` for anything else."""
    names = ("temperature", "confidences", "is_right", "distances")
    if not isinstance(content, dict) or set(content) != set(names):
        raise UserError(UNUSABLE)
    temperature, *lists = (content[name] for name in names)
    if not all(isinstance(values, list) and len(values) <= MOST_IMAGES for values in lists):
        raise UserError(UNUSABLE)
    confidences, is_right, distances = lists
    is_usable = (
        type(temperature) is float
        and TEMPERATURES[0] <= temperature <= TEMPERATURES[1]
        and len(confidences) == len(is_right)
        and len(distances) in (0, len(confidences))
        and all(type(value) is float and 0 <= value <= 1.001 for value in confidences)
        and all(type(value) is bool for value in is_right)
        and all(type(value) is float and -0.001 <= value <= 1.001 for value in distances)
    )
    if not is_usable:
        raise UserError(UNUSABLE)
    return Calibration(temperature, tuple(confidences), tuple(is_right), tuple(distances))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature at which logits (N, K) say best what the labels (N,) are, or 1.

    Before any image its logarithm is taken as normal around 0 with a standard deviation of
    TEMPERATURE_SPREAD, so that a few images that are all right do not make the network certain of
    everything. It stays 1 unless it helps on images that it was not fitted on: by cross-validation
    over FOLDS parts, the mean gain in log-likelihood of an image has to lie above 0. A temperature
    below 1, which makes the network surer, needs a gain of PROOF standard errors: the same images
    chose the epoch, so that the network looks better on them than it is.
    """
    parts = np.arange(len(labels)) % FOLDS
    gains = np.zeros(len(labels))
    for part in np.unique(parts):
        held = parts == part
        if held.all():
            return 1.0
        temperature = _best_temperature(logits[~held], labels[~held])
        gains[held] = _log_likelihoods(logits[held], labels[held], temperature)
    gains -= _log_likelihoods(logits, labels, 1.0)
    found = _best_temperature(logits, labels)
    error = gains.std() / math.sqrt(len(gains))
    return found if gains.mean() > (0.0 if found > 1 else PROOF * error) else 1.0


def _best_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    def loss(log_temperature: float) -> float:
        prior = (log_temperature / TEMPERATURE_SPREAD) ** 2 / 2
        return prior - _log_likelihoods(logits, labels, math.exp(log_temperature)).sum()

    ends = tuple(map(math.log, TEMPERATURES))
    found = math.exp(minimize_scalar(loss, bounds=ends, method="bounded").x)
    return min(max(found, TEMPERATURES[0]), TEMPERATURES[1])


def _log_likelihoods(logits: np.ndarray, labels: np.ndarray, temperature: float) -> np.ndarray:
    """The logarithm (N,) of each label's probability at a temperature."""
    shares = log_softmax(logits.astype(np.float64) / temperature, axis=1)
    return shares[np.arange(len(labels)), labels]


def at_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (N, K) whose logits are divided by a temperature."""
    logits = np.log(np.maximum(probabilities.astype(np.float64), LEAST_PROBABILITY))
    return np.exp(log_softmax(logits / temperature, axis=1))


@dataclass(frozen=True)
class ConfidenceBin:
    """Images whose confidence is above `low` and up to `high`.

    `confidence` and `accuracy` are means over the `count` images.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def confidence_bins(confidences: np.ndarray, is_right: np.ndarray) -> list[ConfidenceBin]:
    """The bins, lowest first, that hold any of the images (N,)."""
    numbers = np.clip(np.ceil(confidences * BINS).astype(int) - 1, 0, BINS - 1)
    bins = []
    for number in np.unique(numbers).tolist():
        chosen = numbers == number
        bins.append(
            ConfidenceBin(
                number / BINS,
                (number + 1) / BINS,
                int(chosen.sum()),
                float(confidences[chosen].mean()),
                float(is_right[chosen].mean()),
            )
        )
    return bins


def calibration_error(bins: list[ConfidenceBin]) -> float | None:
    """The expected calibration error: the mean difference of confidence and accuracy, 0-1.

    Each bin counts by its images (Naeini et al., "Obtaining well calibrated probabilities using
    Bayesian binning", 2015). None without images.
    """
    total = sum(one.count for one in bins)
    if not total:
        return None
    return sum(one.count * abs(one.confidence - one.accuracy) for one in bins) / total


def confidence_for_error(
    confidences: np.ndarray, is_right: np.ndarray, target_error: float
) -> float:
    """The lowest confidence from which on so small an error holds; infinite where none does.

    Of the images (N,) that have it or more, the 95 % upper bound on the share of wrong ones
    (Clopper and Pearson) is at most `target_error`. The bound is that of one confidence: that the
    lowest one is chosen makes it slightly too low.
    """
    order = np.argsort(-confidences, kind="stable")
    sorted_confidences, wrong = confidences[order], np.cumsum(~is_right[order])
    for count in range(len(order), 0, -1):
        lowest = sorted_confidences[count - 1]
        if count < len(order) and sorted_confidences[count] == lowest:
            continue  # images of equal confidence are sure together or not at all
        if bound_on_share(int(wrong[count - 1]), count) <= target_error:
            below = sorted_confidences[count] if count < len(order) else 0.0
            return float(max(lowest - SLACK, (lowest + below) / 2))
    return math.inf

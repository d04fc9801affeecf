"""A stream of predictions: strips in order, checked, while the next ones are being read."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from common.errors import UserError, failures_as_user_errors, prefix_errors
from common.pipeline import READERS, StageTimes, grouped, in_order, threads
from data.folder import StripFile
from data.ignored_regions import IgnoredRegions

BROKEN_NETWORK = "the model's weights are broken"
PROBABILITY_ROUNDING = 1e-6  # a softmax may exceed 1 by this much
# (3, H, W) grey levels 0-255 to a heatmap (H, W) of probabilities 0-1
Predictor = Callable[[np.ndarray], np.ndarray]
# a strip to its image and its mask, as `read_strip`
Load = Callable[[StripFile], tuple[np.ndarray, np.ndarray | None]]


@runtime_checkable
class BatchPredictor(Protocol):
    """A predictor of `batch` strips at once.

    `prepare` takes one strip, in any thread. `predict` then takes at most `batch` prepared ones.
    """

    batch: int

    def prepare(self, image: np.ndarray) -> np.ndarray: ...

    def predict(self, prepared: list[np.ndarray]) -> Sequence[np.ndarray]: ...


class SingleStripAdapter:
    """Any predictor as a `BatchPredictor` of one strip at a time."""

    batch = 1

    def __init__(self, predictor: Predictor):
        self.predictor = predictor

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Return the image itself."""
        return image

    def predict(self, prepared: list[np.ndarray]) -> list[np.ndarray]:
        """Return the heatmap of each image."""
        return [self.predictor(image) for image in prepared]


@dataclass(frozen=True)
class Prediction:
    """A strip, (3, H, W) grey levels 0-255, and its heatmap, (H, W) float32 0-1, 0 where ignored.

    `mask` and `ignored` are (H, W) bool. `mask` is None where it is not known what is a defect,
    `ignored` where everything counts.
    """

    strip: StripFile
    image: np.ndarray
    mask: np.ndarray | None
    ignored: np.ndarray | None
    heatmap: np.ndarray


@dataclass(frozen=True)
class _LoadedStrip:
    strip: StripFile
    image: np.ndarray
    mask: np.ndarray | None
    ignored: np.ndarray | None
    prepared: np.ndarray


def iter_predictions(
    predictor: Predictor | BatchPredictor,
    strips: list[StripFile],
    load: Load,
    regions: IgnoredRegions,
    times: StageTimes,
) -> Iterator[Prediction | UserError]:
    """Yield a prediction for each strip in order, or the `UserError` of a strip that has none.

    The next strips are read in the meantime.
    """
    batches = predictor if isinstance(predictor, BatchPredictor) else SingleStripAdapter(predictor)

    def read(strip: StripFile) -> _LoadedStrip | UserError:
        try:
            with times.of("loading"), failures_as_user_errors():
                image, mask = load(strip)
                ignored = regions.of(strip.path, image.shape[1:])
            with times.of("preprocessing"), prefix_errors(strip.path):
                return _LoadedStrip(strip, image, mask, ignored, batches.prepare(image))
        except UserError as error:
            return error

    with threads(READERS) as readers:
        for group in grouped(
            in_order(readers, read, strips, batches.batch + READERS), batches.batch
        ):
            with times.of("inference"):
                heatmaps = iter(
                    _predict_group(
                        batches, [entry for entry in group if isinstance(entry, _LoadedStrip)]
                    )
                )
            for entry in group:
                yield (
                    entry
                    if isinstance(entry, UserError)
                    else _checked(entry, next(heatmaps), times)
                )


def _predict_group(
    batches: BatchPredictor, group: list[_LoadedStrip]
) -> Sequence[np.ndarray | UserError]:
    """Return the heatmaps of strips; if the call fails, predict each strip alone.

    So one bad strip does not lose the others.
    """
    try:
        with failures_as_user_errors():
            return batches.predict([entry.prepared for entry in group]) if group else []
    except UserError as error:
        return (
            [error]
            if len(group) == 1
            else [heatmap for entry in group for heatmap in _predict_group(batches, [entry])]
        )


def _checked(
    entry: _LoadedStrip, heatmap: np.ndarray | UserError, times: StageTimes
) -> Prediction | UserError:
    try:
        with times.of("post-processing"), prefix_errors(entry.strip.path):
            if isinstance(heatmap, UserError):
                raise heatmap
            return Prediction(
                entry.strip,
                entry.image,
                entry.mask,
                entry.ignored,
                _probabilities(heatmap, entry.ignored),
            )
    except UserError as error:
        return error


def checked_heatmap(
    strip: StripFile, image: np.ndarray, predictor: Predictor, ignored: np.ndarray | None
) -> np.ndarray:
    """Return a predictor's heatmap of a strip, (H, W) float32 0-1, 0 where `ignored`.

    Raises `UserError` for another range.
    """
    with prefix_errors(strip.path):
        return _probabilities(predictor(image), ignored)


def _probabilities(heatmap: np.ndarray, ignored: np.ndarray | None) -> np.ndarray:
    lowest, highest = heatmap.min(), heatmap.max()
    if not (lowest >= 0 and highest <= 1 + PROBABILITY_ROUNDING):
        raise UserError(
            f"found a heatmap from {lowest:g} to {highest:g}, expected 0 to 1: {BROKEN_NETWORK}"
        )
    heatmap = np.minimum(heatmap, 1)
    return heatmap if ignored is None else np.where(ignored, np.float32(0), heatmap)

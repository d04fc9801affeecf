"""A stream of predictions: strips in order, checked, while the next ones are being read."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from common.errors import UserError, failures_as_user_errors, prefix_errors
from common.pipeline import READERS, StageTimes, grouped, in_order, threads
from data.folder import StripFile
from data.ignored_regions import IgnoredRegions
from data.image_files import CHANNEL_NAMES

BROKEN_NETWORK = "the model's weights are broken"
PROBABILITY_ROUNDING = 1e-6  # a softmax may exceed 1 by this much


@dataclass(frozen=True)
class ScoredHeatmap:
    """What a predictor may return in place of a heatmap alone.

    `heatmap` is (H, W) float32 0-1. `score`, 0-1, says how likely the image is defective; of a bare
    heatmap it is the maximum. `panels` are pictures of the image by the captions under which they
    are shown between the image and the heatmap: (H, W) or, in red, green and blue, (H, W, 3) uint8.
    `threshold`, 0-1, is the image's own, where images of several kinds have several; None means
    that of the rules.
    """

    heatmap: np.ndarray
    score: float
    panels: dict[str, np.ndarray] = field(default_factory=dict)
    threshold: float | None = None


# (C, H, W) grey levels 0-255 to a heatmap (H, W) of probabilities 0-1, with a score or alone
Predictor = Callable[[np.ndarray], np.ndarray | ScoredHeatmap]
# a strip to its image and its mask, as `read_strip`
Load = Callable[[StripFile], tuple[np.ndarray, np.ndarray | None]]


@runtime_checkable
class BatchPredictor(Protocol):
    """A predictor of `batch` strips at once.

    `prepare` takes one strip, in any thread. `predict` then takes at most `batch` prepared ones.
    """

    batch: int

    def prepare(self, image: np.ndarray) -> np.ndarray: ...

    def predict(self, prepared: list[np.ndarray]) -> Sequence[np.ndarray | ScoredHeatmap]: ...


class SingleStripAdapter:
    """Any predictor as a `BatchPredictor` of one strip at a time."""

    batch = 1

    def __init__(self, predictor: Predictor):
        self.predictor = predictor

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Return the image itself."""
        return image

    def predict(self, prepared: list[np.ndarray]) -> list[np.ndarray | ScoredHeatmap]:
        """Return the heatmap of each image."""
        return [self.predictor(image) for image in prepared]


@dataclass(frozen=True)
class Prediction:
    """A strip, (3, H, W) grey levels 0-255, and its heatmap, (H, W) float32 0-1, 0 where ignored.

    `mask` and `ignored` are (H, W) bool. `mask` is None where it is not known what is a defect,
    `ignored` where everything counts. `score` is the predictor's own, else the heatmap's maximum.
    `panels` and `threshold` are those of a `ScoredHeatmap`. A picture without references is
    (C, H, W).
    """

    strip: StripFile
    image: np.ndarray
    mask: np.ndarray | None
    ignored: np.ndarray | None
    heatmap: np.ndarray
    score: float
    panels: dict[str, np.ndarray] = field(default_factory=dict)
    has_own_score: bool = False
    threshold: float | None = None

    @property
    def shown(self) -> dict[str, np.ndarray]:
        """What is shown beside the heatmap, by caption: (H, W) grey levels or (H, W, 3) uint8.

        These are the channels of a strip, or a picture as it looks, and then the panels.
        """
        if self.strip.has_references:
            channels = dict(zip(CHANNEL_NAMES, self.image))
        elif len(self.image) == 1:
            channels = {"picture": self.image[0]}
        else:
            levels = np.clip(self.image, 0, 255).astype(np.uint8)
            channels = {"picture": np.moveaxis(levels, 0, -1)}
        return channels | self.panels


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
) -> Sequence[np.ndarray | ScoredHeatmap | UserError]:
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
    entry: _LoadedStrip, heatmap: np.ndarray | ScoredHeatmap | UserError, times: StageTimes
) -> Prediction | UserError:
    try:
        with times.of("post-processing"), prefix_errors(entry.strip.path):
            if isinstance(heatmap, UserError):
                raise heatmap
            own = heatmap if isinstance(heatmap, ScoredHeatmap) else None
            probabilities, score = _scored(heatmap, entry.ignored)
            return Prediction(
                entry.strip,
                entry.image,
                entry.mask,
                entry.ignored,
                probabilities,
                score,
                own.panels if own else {},
                has_own_score=own is not None,
                threshold=own.threshold if own else None,
            )
    except UserError as error:
        return error


def checked_heatmap(
    strip: StripFile, image: np.ndarray, predictor: Predictor, ignored: np.ndarray | None
) -> tuple[np.ndarray, float]:
    """Return a predictor's heatmap of a strip, (H, W) float32 0-1, 0 where `ignored`, and score.

    Raises `UserError` for another range.
    """
    with prefix_errors(strip.path):
        return _scored(predictor(image), ignored)


def _scored(
    result: np.ndarray | ScoredHeatmap, ignored: np.ndarray | None
) -> tuple[np.ndarray, float]:
    """The checked heatmap of a predictor's result, and its own score or the heatmap's maximum."""
    if not isinstance(result, ScoredHeatmap):
        heatmap = _probabilities(result, ignored)
        return heatmap, float(heatmap.max())
    if not 0 <= result.score <= 1 + PROBABILITY_ROUNDING:
        raise UserError(f"found a score of {result.score:g}, expected 0 to 1: {BROKEN_NETWORK}")
    return _probabilities(result.heatmap, ignored), min(float(result.score), 1.0)


def _probabilities(heatmap: np.ndarray, ignored: np.ndarray | None) -> np.ndarray:
    lowest, highest = heatmap.min(), heatmap.max()
    if not (lowest >= 0 and highest <= 1 + PROBABILITY_ROUNDING):
        raise UserError(
            f"found a heatmap from {lowest:g} to {highest:g}, expected 0 to 1: {BROKEN_NETWORK}"
        )
    heatmap = np.minimum(heatmap, 1)
    return heatmap if ignored is None else np.where(ignored, np.float32(0), heatmap)

"""The places of a folder that the report shows, as small pictures; only a few are kept."""

from dataclasses import dataclass

import numpy as np

from common.numbers import three_digits
from evaluation.detections import Detection
from evaluation.matching import TrueDefect
from evaluation.stream import Prediction

PICTURES = 12  # misses, and as many false alarms and hits, that are kept at any time
STRONGEST = 24  # strips without known truth whose strongest detection is kept
BELOW_THRESHOLD = 6  # strips without a detection whose highest place is kept
CROP_REACH = 24  # pixels around the place, on each side
PICTURE_REACH = 48  # the same on pictures without references, whose defects are larger
LIMITS = {
    "misses": PICTURES,
    "false_alarms": PICTURES,
    "hits": PICTURES,
    "strongest": STRONGEST,
    "below_threshold": BELOW_THRESHOLD,
}


@dataclass(frozen=True)
class WorstCase:
    """A place on a strip, its `rank` (higher is shown first) and its surroundings.

    `crops` are those of `Prediction.shown`, (h, w) or (h, w, 3), and of the heatmap (h, w) 0-1.
    They hold `reach` pixels on each side of the place.
    """

    file: str
    place: tuple[int, int]  # (y, x) on the strip
    offset: tuple[int, int]  # (y, x) of the place in the crops
    rank: float
    caption: str
    crops: tuple[np.ndarray, ...]
    reach: int = CROP_REACH


class WorstCases:
    """The places of each kind of LIMITS, and at most so many.

    `misses` are true defects without a detection, highest contrast first; `false_alarms` the
    highest first; `hits` the lowest first, as a higher threshold would lose them first. On strips
    whose truth is not known, `strongest` are the strongest detection of each strip, highest first,
    and `below_threshold` the highest place of each strip without a detection, highest first.
    `captions` are those of the crops.
    """

    def __init__(self) -> None:
        self.misses: list[WorstCase] = []
        self.false_alarms: list[WorstCase] = []
        self.hits: list[WorstCase] = []
        self.strongest: list[WorstCase] = []
        self.below_threshold: list[WorstCase] = []
        self.captions: tuple[str, ...] = ()

    def add_miss(self, prediction: Prediction, truth: TrueDefect) -> None:
        """Add a true defect that no detection found, unless worse ones fill the list."""
        y, x = (round(at) for at in truth.center)
        contrast = truth.contrast or 0.0
        highest = three_digits(_highest_near(prediction.heatmap, y, x))
        caption = f"contrast {contrast:.0f}, heatmap {highest}"
        self._keep("misses", prediction, (y, x), contrast, caption)

    def add_false_alarm(self, prediction: Prediction, detection: Detection) -> None:
        """Add a false alarm, unless worse ones fill the list."""
        self._keep_detection("false_alarms", prediction, detection, detection.margin)

    def add_hit(self, prediction: Prediction, detection: Detection) -> None:
        """Add a detection of a true defect, unless lower ones fill the list."""
        self._keep_detection("hits", prediction, detection, -detection.margin)

    def add_strongest(self, prediction: Prediction, detection: Detection, others: int) -> None:
        """Add a strip's strongest detection, beside which it has so many `others`."""
        what = "strip" if prediction.strip.has_references else "picture"
        more = f"; {others} more on this {what}" if others else ""
        self._keep_detection("strongest", prediction, detection, detection.margin, more)

    def add_below_threshold(self, prediction: Prediction) -> None:
        """Add the highest place of a strip without a detection."""
        heatmap = prediction.heatmap
        y, x = (int(at) for at in np.unravel_index(heatmap.argmax(), heatmap.shape))
        height = float(heatmap[y, x])
        caption = f"heatmap {three_digits(height)}"
        self._keep("below_threshold", prediction, (y, x), height, caption)

    def merge(self, others: "list[WorstCases]") -> None:
        """Become the first of all of `others`."""
        self.captions = next((other.captions for other in others if other.captions), ())
        for kind in LIMITS:
            setattr(
                self, kind, _first(kind, [case for each in others for case in getattr(each, kind)])
            )

    def _keep_detection(
        self, kind: str, prediction: Prediction, detection: Detection, rank: float, more: str = ""
    ) -> None:
        contrast = (
            f"contrasts {detection.contrast_ref1:+.0f} and {detection.contrast_ref2:+.0f}"
            if prediction.strip.has_references
            else f"contrast {detection.contrast:+.0f}"
        )
        caption = (
            f"heatmap {three_digits(detection.peak)}, {contrast}"
            f"{f', {detection.kind}' if detection.kind else ''}{more}"
        )
        self._keep(kind, prediction, (detection.y, detection.x), rank, caption)

    def _keep(
        self, kind: str, prediction: Prediction, place: tuple[int, int], rank: float, caption: str
    ) -> None:
        cases = getattr(self, kind)
        if len(cases) == LIMITS[kind] and rank <= cases[-1].rank:
            return
        reach = CROP_REACH if prediction.strip.has_references else PICTURE_REACH
        top, left = (max(0, at - reach) for at in place)
        part = np.s_[top : place[0] + reach + 1, left : place[1] + reach + 1]
        shown = prediction.shown
        self.captions = tuple(shown)
        # copied, so that the strip itself is not kept
        crops = tuple(plane[part].copy() for plane in (*shown.values(), prediction.heatmap))
        offset = (place[0] - top, place[1] - left)
        file = prediction.strip.relative.as_posix()
        case = WorstCase(file, place, offset, rank, caption, crops, reach)
        cases[:] = _first(kind, [*cases, case])


def _first(kind: str, cases: list[WorstCase]) -> list[WorstCase]:
    return sorted(cases, key=lambda case: (-case.rank, case.file, case.place))[: LIMITS[kind]]


def _highest_near(heatmap: np.ndarray, y: int, x: int) -> float:
    return float(heatmap[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4].max())

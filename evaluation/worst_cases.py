"""The places of a folder that the report shows, as small pictures; only a few are kept."""

from dataclasses import dataclass

import numpy as np

from common.numbers import three_digits
from evaluation.detections import Detection
from evaluation.matching import TrueDefect

PICTURES = 12  # misses, and as many false alarms and hits, that are kept at any time
STRONGEST = 24  # strips without known truth whose strongest detection is kept
BELOW_THRESHOLD = 6  # strips without a detection whose highest place is kept
CROP_REACH = 24  # pixels around the place, on each side
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

    `crops` (4, h, w) are Target, Ref1, Ref2 (0-255) and the heatmap (0-1).
    """

    file: str
    place: tuple[int, int]  # (y, x) on the strip
    offset: tuple[int, int]  # (y, x) of the place in the crops
    rank: float
    caption: str
    crops: np.ndarray


class WorstCases:
    """The places of each kind of LIMITS, and at most so many.

    `misses` are true defects without a detection, highest contrast first; `false_alarms` the
    highest first; `hits` the lowest first, as a higher threshold would lose them first. On strips
    whose truth is not known, `strongest` are the strongest detection of each strip, highest first,
    and `below_threshold` the highest place of each strip without a detection, highest first.
    """

    def __init__(self) -> None:
        self.misses: list[WorstCase] = []
        self.false_alarms: list[WorstCase] = []
        self.hits: list[WorstCase] = []
        self.strongest: list[WorstCase] = []
        self.below_threshold: list[WorstCase] = []

    def add_miss(
        self, file: str, truth: TrueDefect, image: np.ndarray, heatmap: np.ndarray
    ) -> None:
        """Add a true defect that no detection found, unless worse ones fill the list.

        `image` is (3, H, W) in grey levels 0-255, `heatmap` (H, W), 0-1.
        """
        y, x = (round(at) for at in truth.center)
        contrast = truth.contrast or 0.0
        caption = f"contrast {contrast:.0f}, heatmap {three_digits(_highest_near(heatmap, y, x))}"
        self._keep("misses", file, (y, x), contrast, caption, image, heatmap)

    def add_false_alarm(
        self, file: str, detection: Detection, image: np.ndarray, heatmap: np.ndarray
    ) -> None:
        """Add a false alarm, unless worse ones fill the list; pictures are as in `add_miss`."""
        self._keep_detection("false_alarms", file, detection, detection.margin, "", image, heatmap)

    def add_hit(
        self, file: str, detection: Detection, image: np.ndarray, heatmap: np.ndarray
    ) -> None:
        """Add a detection of a true defect, unless lower ones fill the list."""
        self._keep_detection("hits", file, detection, -detection.margin, "", image, heatmap)

    def add_strongest(
        self, file: str, detection: Detection, others: int, image: np.ndarray, heatmap: np.ndarray
    ) -> None:
        """Add a strip's strongest detection, beside which it has so many `others`."""
        more = f"; {others} more on this strip" if others else ""
        self._keep_detection("strongest", file, detection, detection.margin, more, image, heatmap)

    def add_below_threshold(self, file: str, image: np.ndarray, heatmap: np.ndarray) -> None:
        """Add the highest place of a strip without a detection."""
        y, x = (int(at) for at in np.unravel_index(heatmap.argmax(), heatmap.shape))
        height = float(heatmap[y, x])
        self._keep(
            "below_threshold",
            file,
            (y, x),
            height,
            f"heatmap {three_digits(height)}",
            image,
            heatmap,
        )

    def merge(self, others: "list[WorstCases]") -> None:
        """Become the first of all of `others`."""
        for kind in LIMITS:
            setattr(
                self, kind, _first(kind, [case for each in others for case in getattr(each, kind)])
            )

    def _keep_detection(
        self,
        kind: str,
        file: str,
        detection: Detection,
        rank: float,
        more: str,
        image: np.ndarray,
        heatmap: np.ndarray,
    ) -> None:
        caption = (
            f"heatmap {three_digits(detection.peak)}, "
            f"contrasts {detection.contrast_ref1:+.0f} and {detection.contrast_ref2:+.0f}"
            f"{f', {detection.kind}' if detection.kind else ''}{more}"
        )
        self._keep(kind, file, (detection.y, detection.x), rank, caption, image, heatmap)

    def _keep(
        self,
        kind: str,
        file: str,
        place: tuple[int, int],
        rank: float,
        caption: str,
        image: np.ndarray,
        heatmap: np.ndarray,
    ) -> None:
        cases = getattr(self, kind)
        if len(cases) == LIMITS[kind] and rank <= cases[-1].rank:
            return
        top, left = (max(0, at - CROP_REACH) for at in place)
        part = np.s_[top : place[0] + CROP_REACH + 1, left : place[1] + CROP_REACH + 1]
        crops = np.stack([*(channel[part] for channel in image[:3]), heatmap[part]])
        offset = (place[0] - top, place[1] - left)
        cases[:] = _first(kind, [*cases, WorstCase(file, place, offset, rank, caption, crops)])


def _first(kind: str, cases: list[WorstCase]) -> list[WorstCase]:
    return sorted(cases, key=lambda case: (-case.rank, case.file, case.place))[: LIMITS[kind]]


def _highest_near(heatmap: np.ndarray, y: int, x: int) -> float:
    return float(heatmap[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4].max())

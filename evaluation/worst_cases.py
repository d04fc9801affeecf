"""The worst misses and the worst false alarms of a folder, as small pictures: no more than so many
are kept at any time.
"""

from dataclasses import dataclass

import numpy as np

from evaluation.detections import Detection
from evaluation.matching import TrueDefect

PICTURES = 12  # of each
CROP_REACH = 24  # pixels around the place that is shown


@dataclass(frozen=True)
class WorstCase:
    """A place on a strip: `rank` ranks it, `crops` (4, h, w) are Target, Ref1, Ref2 (0-255) and the
    heatmap (0-1).
    """

    file: str
    place: tuple[int, int]  # (y, x) on the strip
    offset: tuple[int, int]  # (y, x) of the place in the crops
    rank: float
    caption: str
    crops: np.ndarray


class WorstCases:
    """Misses, those of the highest contrast first, and false alarms, those of the highest score
    first.
    """

    def __init__(self) -> None:
        self.misses: list[WorstCase] = []
        self.false_alarms: list[WorstCase] = []

    def add_miss(
        self, file: str, truth: TrueDefect, image: np.ndarray, heatmap: np.ndarray
    ) -> None:
        y, x = (round(at) for at in truth.center)
        contrast = truth.contrast or 0.0
        caption = f"contrast {contrast:.0f}, heatmap {_highest_near(heatmap, y, x):.3g}"
        self._keep(self.misses, file, (y, x), contrast, caption, image, heatmap)

    def add_false_alarm(
        self, file: str, detection: Detection, image: np.ndarray, heatmap: np.ndarray
    ) -> None:
        caption = f"heatmap {detection.peak:.3g}, contrasts {detection.contrast_ref1:.0f} and {detection.contrast_ref2:.0f}"
        self._keep(
            self.false_alarms,
            file,
            (detection.y, detection.x),
            detection.score,
            caption,
            image,
            heatmap,
        )

    def merge(self, others: "list[WorstCases]") -> None:
        """Become the worst of `others`."""
        for name in ("misses", "false_alarms"):
            setattr(
                self,
                name,
                _keep_highest([exhibit for other in others for exhibit in getattr(other, name)]),
            )

    def _keep(
        self,
        cases: list[WorstCase],
        file: str,
        place: tuple[int, int],
        rank: float,
        caption: str,
        image: np.ndarray,
        heatmap: np.ndarray,
    ) -> None:
        if len(cases) == PICTURES and rank <= cases[-1].rank:
            return
        top, left = (max(0, at - CROP_REACH) for at in place)
        part = np.s_[top : place[0] + CROP_REACH + 1, left : place[1] + CROP_REACH + 1]
        crops = np.stack([*(channel[part] for channel in image[:3]), heatmap[part]])
        offset = (place[0] - top, place[1] - left)
        cases[:] = _keep_highest([*cases, WorstCase(file, place, offset, rank, caption, crops)])


def _keep_highest(exhibits: list[WorstCase]) -> list[WorstCase]:
    return sorted(exhibits, key=lambda exhibit: (-exhibit.rank, exhibit.file, exhibit.place))[
        :PICTURES
    ]


def _highest_near(heatmap: np.ndarray, y: int, x: int) -> float:
    return float(heatmap[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4].max())

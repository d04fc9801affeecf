"""The worst misses and false alarms of a folder, as small pictures; only a few are kept."""

from dataclasses import dataclass

import numpy as np

from evaluation.detections import Detection
from evaluation.matching import TrueDefect

PICTURES = 12  # misses, and as many false alarms, that are kept at any time
CROP_REACH = 24  # pixels around the place, on each side


@dataclass(frozen=True)
class WorstCase:
    """A place on a strip, its `rank` (higher is worse) and its surroundings.

    `crops` (4, h, w) are Target, Ref1, Ref2 (0-255) and the heatmap (0-1).
    """

    file: str
    place: tuple[int, int]  # (y, x) on the strip
    offset: tuple[int, int]  # (y, x) of the place in the crops
    rank: float
    caption: str
    crops: np.ndarray


class WorstCases:
    """Misses, highest contrast first, and false alarms, highest score first."""

    def __init__(self) -> None:
        self.misses: list[WorstCase] = []
        self.false_alarms: list[WorstCase] = []

    def add_miss(
        self, file: str, truth: TrueDefect, image: np.ndarray, heatmap: np.ndarray
    ) -> None:
        """Add a true defect that no detection found, unless worse ones fill the list.

        `image` is (3, H, W) in grey levels 0-255, `heatmap` (H, W), 0-1.
        """
        y, x = (round(at) for at in truth.center)
        contrast = truth.contrast or 0.0
        caption = f"contrast {contrast:.0f}, heatmap {_highest_near(heatmap, y, x):.3g}"
        self._keep(self.misses, file, (y, x), contrast, caption, image, heatmap)

    def add_false_alarm(
        self, file: str, detection: Detection, image: np.ndarray, heatmap: np.ndarray
    ) -> None:
        """Add a false alarm, unless worse ones fill the list; pictures are as in `add_miss`."""
        caption = (
            f"heatmap {detection.peak:.3g}, "
            f"contrasts {detection.contrast_ref1:.0f} and {detection.contrast_ref2:.0f}"
        )
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
                _keep_highest([case for other in others for case in getattr(other, name)]),
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


def _keep_highest(cases: list[WorstCase]) -> list[WorstCase]:
    return sorted(cases, key=lambda case: (-case.rank, case.file, case.place))[:PICTURES]


def _highest_near(heatmap: np.ndarray, y: int, x: int) -> float:
    return float(heatmap[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4].max())

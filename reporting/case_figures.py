"""The report's pictures of places: a strip's channels, or a picture, and the heatmap, enlarged."""

import base64
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import cv2
import numpy as np

from evaluation.worst_cases import CROP_REACH, WorstCase
from reporting.output_folder import PANELS_ENDING, strip_file
from reporting.pictures import BACKDROP, GAP, RING_RADIUS, drawn, heat

ENLARGEMENT = 4  # screen pixels per strip pixel
LOSSLESS = 101  # OpenCV's WebP quality above 100 means lossless


@dataclass(frozen=True)
class ShownFile:
    """A strip's name, and the URL of its panels relative to the report (None: no panels)."""

    name: str
    link: str | None


def case_figures(
    cases: list[WorstCase], color: tuple[int, int, int], folder: Path
) -> list[dict[str, object]]:
    """What the template shows of each case: its picture, file, place and caption.

    `color` is that of the ring around the place, BGR, and `folder` the report's.
    """
    shown = []
    for case in cases:
        picture = draw_worst_case(case, color)
        webp = cv2.imencode(".webp", picture, (cv2.IMWRITE_WEBP_QUALITY, LOSSLESS))[1].tobytes()
        height, width = picture.shape[:2]
        shown.append(
            {
                "file": shown_file(Path(case.file), folder),
                "place": case.place,
                "caption": case.caption,
                "height": height,
                "width": width,
                "webp": base64.b64encode(webp).decode(),
            }
        )
    return shown


def shown_file(relative: Path, folder: Path) -> ShownFile:
    """A strip's file below `folder`, with a link where its panels are there."""
    panels = strip_file(Path(), relative, PANELS_ENDING)
    # unlike Path.is_file, os.path.isfile returns False for a name that is too long
    exists = os.path.isfile(folder / panels)
    return ShownFile(relative.as_posix(), quote(os.fsencode(panels.as_posix())) if exists else None)


def draw_worst_case(case: WorstCase, color: tuple[int, int, int]) -> np.ndarray:
    """Draw the crops and the heatmap side by side, enlarged, with a ring around the place.

    `color` is the ring's, BGR. Returns (H, W, 3) uint8, BGR, ENLARGEMENT times the size of the
    strip's pixels, or less for a larger reach. The place is in the middle of each panel; BACKDROP
    fills what lies outside the strip.
    """
    *planes, heatmap = case.crops
    enlargement = ENLARGEMENT * CROP_REACH // case.reach
    panels = [
        _centered(panel, case.offset, case.reach, enlargement)
        for panel in (*map(drawn, planes), heat(heatmap))
    ]
    middle = panels[0].shape[0] // 2
    for panel in panels:
        cv2.circle(panel, (middle, middle), enlargement * RING_RADIUS, color, 1, cv2.LINE_AA)
    gap = np.full((panels[0].shape[0], GAP, 3), BACKDROP, np.uint8)
    others = [part for panel in panels[1:] for part in (gap, panel)]
    return np.concatenate([panels[0], *others], axis=1)


def _centered(
    crop: np.ndarray, offset: tuple[int, int], reach: int, enlargement: int
) -> np.ndarray:
    """An enlarged square around the point at `offset` (y, x) of a crop (h, w, 3) uint8."""
    side = 2 * reach + 1
    square = np.full((side, side, 3), BACKDROP, np.uint8)
    top, left = (reach - at for at in offset)
    square[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    return np.repeat(np.repeat(square, enlargement, axis=0), enlargement, axis=1)

"""One HTML file about a scored folder, for people.

It opens from disk, without a network, and holds all that it shows.
"""

import base64
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import cv2
import numpy as np
from markupsafe import Markup

from common.files import atomic_write
from evaluation.metrics import FALSE_ALARM_RATES
from evaluation.results import Evaluation, StripResult
from evaluation.thresholds import Threshold
from evaluation.worst_cases import CROP_REACH, WorstCase
from reporting.charts import froc_chart, score_histograms
from reporting.pictures import BACKDROP, DETECTED, GAP, RING_RADIUS, TRUTH, grey, heat
from reporting.tables import MISSING, NEEDS_TRUTHS
from reporting.templating import render

ENLARGEMENT = 4  # of the pictures of misses and false alarms
LOSSLESS = 101  # OpenCV's quality of a WebP file
UNKNOWN = "\N{EN DASH}"
GROUPS_OF_STRIPS = {False: "good", True: "defective", None: "unknown"}
NEEDS_KNOWN = "needs good strips, or defective ones with masks"
REASONS = MISSING | {"recall": NEEDS_TRUTHS, "false": NEEDS_KNOWN}  # by a figure's first word
COMPARED = (
    *(f"point_recall_at_{rate:g}" for rate in FALSE_ALARM_RATES),
    "pixel_average_precision",
    "image_auroc",
)


@dataclass(frozen=True)
class ShownMetric:
    """A metric as the report names it, and what it needs to have a value."""

    name: str
    value: float | None
    needs: str


@dataclass(frozen=True)
class ShownFile:
    """A strip's name, and the URL of its panels beside the report; None where there are none."""

    name: str
    link: str | None


def write_report(
    path: Path,
    result: Evaluation,
    threshold: Threshold,
    drift: list[str],
    settings: dict[str, object],
) -> None:
    """What came out of a folder at a `threshold`.

    That is verdicts, figures, curves, the worst mistakes and every strip. `drift` are sentences of
    warning, `settings` what the run was started with, by name. Panels that lie beside `path` are
    linked. No text need be escaped, or be valid. Raises `UserError` where the file system refuses.
    """
    page = render(
        "report.html",
        threshold=threshold.describe(),
        drift=drift,
        problems=result.problems,
        rejected=sum(scored.verdict == "NG" for scored in result.results),
        metrics=_metrics(result),
        recalls=result.point_recalls,
        rates=FALSE_ALARM_RATES,
        detectors=_compared(result),
        froc=_froc(result),
        histograms=_histograms(result, threshold),
        misses=_exhibits(result.gallery.misses, TRUTH, path.parent),
        false_alarms=_exhibits(result.gallery.false_alarms, DETECTED, path.parent),
        truths=result.board.points.truths,
        known_strips=result.board.points.strips,
        needs_truths=NEEDS_TRUTHS,
        needs_known=NEEDS_KNOWN,
        strips=[_strip(scored, path.parent) for scored in result.results],
        unknown=UNKNOWN,
        settings=settings,
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _metrics(result: Evaluation) -> list[ShownMetric]:
    """Those that are one number: at the threshold, then of all heatmaps."""
    at_threshold = result.at_threshold().items()
    others = result.figures.items()
    return [
        *(_shown(f"{name} at the threshold", value) for name, value in at_threshold),
        *(_shown(name, value) for name, value in others if not name.startswith("point")),
    ]


def _compared(result: Evaluation) -> dict[str, list[ShownMetric]]:
    """The detector's metrics and its baselines', by name; nothing without baselines."""
    if not result.baselines:
        return {}
    compared = result.figures_by_detector.items()
    return {name: [_shown(each, values[each]) for each in COMPARED] for name, values in compared}


def _shown(name: str, value: float | None) -> ShownMetric:
    label = re.sub("auroc|aupro", lambda found: found[0].upper(), name.replace("_", " "))
    first_word = re.match("[a-z]+", name)[0]
    return ShownMetric(label, value, REASONS[first_word])


def _froc(result: Evaluation) -> Markup | None:
    if not result.board.points.truths:
        return None
    curves = {name: board.points.curve() for name, board in result.boards.items()}
    return froc_chart(curves, FALSE_ALARM_RATES)


def _histograms(result: Evaluation, threshold: Threshold) -> Markup | None:
    scores = {
        name: [scored.score for scored in result.results if scored.strip.is_defective is kind]
        for kind, name in GROUPS_OF_STRIPS.items()
    }
    scores = {name: values for name, values in scores.items() if values}
    return score_histograms(scores, threshold.value) if scores else None


def _exhibits(
    exhibits: list[WorstCase],
    color: tuple[int, int, int],
    folder: Path,
) -> list[dict[str, object]]:
    shown = []
    for exhibit in exhibits:
        picture = draw_exhibit(exhibit, color)
        webp = cv2.imencode(".webp", picture, (cv2.IMWRITE_WEBP_QUALITY, LOSSLESS))[1].tobytes()
        height, width = picture.shape[:2]
        shown.append(
            {
                "file": _file(Path(exhibit.file), folder),
                "place": exhibit.place,
                "caption": exhibit.caption,
                "height": height,
                "width": width,
                "webp": base64.b64encode(webp).decode(),
            }
        )
    return shown


def draw_exhibit(exhibit: WorstCase, color: tuple[int, int, int]) -> np.ndarray:
    """Target, Ref1, Ref2 and heatmap side by side, ENLARGEMENT times as large, the place ringed.

    Returns (H, W, 3) uint8, BGR. The place is in the middle of each; where the strip ends before
    the picture does, the background goes on.
    """
    *channels, heatmap = exhibit.crops
    panels = [_centered(panel, exhibit.offset) for panel in (*map(grey, channels), heat(heatmap))]
    middle = panels[0].shape[0] // 2
    for panel in panels:
        cv2.circle(panel, (middle, middle), ENLARGEMENT * RING_RADIUS, color, 1, cv2.LINE_AA)
    gap = np.full((panels[0].shape[0], GAP, 3), BACKDROP, np.uint8)
    others = [part for panel in panels[1:] for part in (gap, panel)]
    return np.concatenate([panels[0], *others], axis=1)


def _centered(crop: np.ndarray, offset: tuple[int, int]) -> np.ndarray:
    """A crop (h, w, 3), enlarged, in a square whose middle is the point at `offset` (y, x)."""
    side = 2 * CROP_REACH + 1
    square = np.full((side, side, 3), BACKDROP, np.uint8)
    top, left = (CROP_REACH - at for at in offset)
    square[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    return np.repeat(np.repeat(square, ENLARGEMENT, axis=0), ENLARGEMENT, axis=1)


def _strip(scored: StripResult, folder: Path) -> dict[str, object]:
    """A strip's row in the table."""
    return {
        "file": _file(scored.strip.relative, folder),
        "kind": scored.strip.kind,
        "verdict": scored.verdict,
        "score": scored.score,
        "detections": len(scored.detections),
        "strongest": scored.detections[0] if scored.detections else None,
    }


def _file(relative: Path, folder: Path) -> ShownFile:
    panels = relative.with_name(f"{relative.stem}_panels.png")
    there = os.path.isfile(folder / panels)  # unlike Path.is_file, it takes a name that is too long
    return ShownFile(relative.as_posix(), quote(os.fsencode(panels.as_posix())) if there else None)

"""The HTML report on a scored folder.

It is one self-contained file: it opens from disk and loads nothing from a network.
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

ENLARGEMENT = 4  # screen pixels per strip pixel, in the pictures of misses and false alarms
LOSSLESS = 101  # OpenCV's WebP quality above 100 means lossless
UNKNOWN = "\N{EN DASH}"
GROUPS_OF_STRIPS = {False: "good", True: "defective", None: "unknown"}
NEEDS_KNOWN = "needs good strips, or defective ones with masks"
# what a metric needs, by the first word of its name
REASONS = MISSING | {"recall": NEEDS_TRUTHS, "false": NEEDS_KNOWN}
COMPARED_METRICS = (
    *(f"point_recall_at_{rate:g}" for rate in FALSE_ALARM_RATES),
    "pixel_average_precision",
    "image_auroc",
)


@dataclass(frozen=True)
class ShownMetric:
    """A metric under the report's name; `needs` says what an undefined one lacks."""

    name: str
    value: float | None
    needs: str


@dataclass(frozen=True)
class ShownFile:
    """A strip's name, and the URL of its panels relative to the report (None: no panels)."""

    name: str
    link: str | None


def write_report(
    path: Path,
    result: Evaluation,
    threshold: Threshold,
    drift: list[str],
    settings: dict[str, object],
) -> None:
    """Write the report on a folder that was scored at `threshold`.

    It shows verdicts, metrics, curves, the worst mistakes and every strip. `drift` holds warning
    sentences, `settings` the run's settings by name. The report links panels that lie beside
    `path`. Text need be neither escaped nor valid Unicode. Raises `UserError` when the file cannot
    be written.
    """
    page = render(
        "report.html",
        threshold=threshold.describe(),
        warnings=result.warnings,
        drift=drift,
        problems=result.problems,
        rejected=sum(scored.verdict == "NG" for scored in result.results),
        metrics=_metrics(result),
        recalls=result.point_recalls,
        rates=FALSE_ALARM_RATES,
        detectors=_detector_metrics(result),
        froc=_froc(result),
        histograms=_histograms(result, threshold),
        misses=_case_figures(result.worst_cases.misses, TRUTH, path.parent),
        false_alarms=_case_figures(result.worst_cases.false_alarms, DETECTED, path.parent),
        truths=result.metrics.points.truths,
        known_strips=result.metrics.points.strips,
        needs_truths=NEEDS_TRUTHS,
        needs_known=NEEDS_KNOWN,
        strips=[_strip_row(scored, path.parent) for scored in result.results],
        unknown=UNKNOWN,
        settings=settings,
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _metrics(result: Evaluation) -> list[ShownMetric]:
    """The metrics that are one number: first those at the threshold, then the others."""
    at_threshold = result.at_threshold().items()
    others = result.figures.items()
    return [
        *(_shown(f"{name} at the threshold", value) for name, value in at_threshold),
        *(_shown(name, value) for name, value in others if not name.startswith("point")),
    ]


def _detector_metrics(result: Evaluation) -> dict[str, list[ShownMetric]]:
    """COMPARED_METRICS of the detector and its baselines, by name; empty without baselines."""
    if not result.baselines:
        return {}
    detectors = result.figures_by_detector.items()
    return {
        detector: [_shown(metric, values[metric]) for metric in COMPARED_METRICS]
        for detector, values in detectors
    }


def _shown(name: str, value: float | None) -> ShownMetric:
    """A metric by its name in metrics.json, with the label that the report shows."""
    label = re.sub("auroc|aupro", lambda found: found[0].upper(), name.replace("_", " "))
    first_word = re.match("[a-z]+", name)[0]
    return ShownMetric(label, value, REASONS[first_word])


def _froc(result: Evaluation) -> Markup | None:
    if not result.metrics.points.truths:
        return None
    curves = {name: metrics.points.curve() for name, metrics in result.metrics_by_detector.items()}
    return froc_chart(curves, FALSE_ALARM_RATES)


def _histograms(result: Evaluation, threshold: Threshold) -> Markup | None:
    scores = {
        name: [scored.score for scored in result.results if scored.strip.is_defective is kind]
        for kind, name in GROUPS_OF_STRIPS.items()
    }
    scores = {name: values for name, values in scores.items() if values}
    return score_histograms(scores, threshold.value) if scores else None


def _case_figures(
    cases: list[WorstCase],
    color: tuple[int, int, int],
    folder: Path,
) -> list[dict[str, object]]:
    """What the template shows of each case: its picture, file, place and caption."""
    shown = []
    for case in cases:
        picture = draw_worst_case(case, color)
        webp = cv2.imencode(".webp", picture, (cv2.IMWRITE_WEBP_QUALITY, LOSSLESS))[1].tobytes()
        height, width = picture.shape[:2]
        shown.append(
            {
                "file": _file(Path(case.file), folder),
                "place": case.place,
                "caption": case.caption,
                "height": height,
                "width": width,
                "webp": base64.b64encode(webp).decode(),
            }
        )
    return shown


def draw_worst_case(case: WorstCase, color: tuple[int, int, int]) -> np.ndarray:
    """Draw Target, Ref1, Ref2 and heatmap side by side, enlarged, with a ring around the place.

    `color` is the ring's, BGR. Returns (H, W, 3) uint8, BGR, ENLARGEMENT times the size of the
    strip's pixels. The place is in the middle of each panel; BACKDROP fills what lies outside the
    strip.
    """
    *channels, heatmap = case.crops
    panels = [_centered(panel, case.offset) for panel in (*map(grey, channels), heat(heatmap))]
    middle = panels[0].shape[0] // 2
    for panel in panels:
        cv2.circle(panel, (middle, middle), ENLARGEMENT * RING_RADIUS, color, 1, cv2.LINE_AA)
    gap = np.full((panels[0].shape[0], GAP, 3), BACKDROP, np.uint8)
    others = [part for panel in panels[1:] for part in (gap, panel)]
    return np.concatenate([panels[0], *others], axis=1)


def _centered(crop: np.ndarray, offset: tuple[int, int]) -> np.ndarray:
    """An enlarged square around the point at `offset` (y, x) of a crop (h, w, 3) uint8."""
    side = 2 * CROP_REACH + 1
    square = np.full((side, side, 3), BACKDROP, np.uint8)
    top, left = (CROP_REACH - at for at in offset)
    square[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    return np.repeat(np.repeat(square, ENLARGEMENT, axis=0), ENLARGEMENT, axis=1)


def _strip_row(scored: StripResult, folder: Path) -> dict[str, object]:
    """What the table of strips shows of a strip."""
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
    # unlike Path.is_file, os.path.isfile returns False for a name that is too long
    exists = os.path.isfile(folder / panels)
    return ShownFile(relative.as_posix(), quote(os.fsencode(panels.as_posix())) if exists else None)

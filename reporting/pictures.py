"""All pictures except those of the HTML report.

Strips are drawn pixel for pixel, since a defect has only nine pixels. Curves are drawn with
matplotlib.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile

from common.files import atomic_write
from data.image_files import encode_image
from evaluation.detections import Detection
from evaluation.results import StripResult
from evaluation.stream import Prediction
from reporting.lettering import write_text
from reporting.output_folder import CONTRAST_ENDING, HEATMAP_ENDING, PANELS_ENDING, strip_file

PANELS = ("Target", "Ref1", "Ref2", "|T-R1|", "|T-R2|", "double detection", "heatmap")
DIFFERENCE_SHOWN = 80.0  # grey levels from which a difference is drawn white
GAP, CAPTION = 6, 22  # pixels: gap between panels, height of a caption above them
BACKDROP = (32, 32, 32)  # BGR, as all colours here
TRUTH, DETECTED = (80, 220, 80), (60, 140, 255)
RING_RADIUS, DETECTION_RADIUS = 10, 5  # pixels: ring around a true defect, circle at a detection


def save_panels(
    path: Path,
    image: np.ndarray,
    heatmap: np.ndarray,
    mask: np.ndarray | None,
    title: str,
    detections: Sequence[Detection] = (),
    points: Sequence[tuple[float, float]] = (),
) -> None:
    """Write the seven PANELS of one strip as a PNG.

    `image` is (3, H, W) grey levels 0-255, `heatmap` (H, W) 0-1, `mask` (H, W) bool or None. True
    defects without a mask are `points` (y, x).
    Detections are circled in every panel; true defects get a larger ring in Target and heatmap.
    Differences of DIFFERENCE_SHOWN grey levels and more are white. Raises `UserError` when the file
    cannot be written.
    """
    target, ref1, ref2 = image
    differences = [np.abs(target - ref1), np.abs(target - ref2)]
    differences.append(np.minimum(*differences))
    panels = [grey(channel) for channel in image] + [
        grey(difference * (255 / DIFFERENCE_SHOWN)) for difference in differences
    ]
    panels.append(heat(heatmap))
    _save_sheet(path, dict(zip(PANELS, panels)), mask, title, detections, points)


def save_picture_panels(
    path: Path,
    shown: dict[str, np.ndarray],
    heatmap: np.ndarray,
    mask: np.ndarray | None,
    title: str,
    detections: Sequence[Detection] = (),
    points: Sequence[tuple[float, float]] = (),
) -> None:
    """Write what is shown of a picture without references, and its heatmap, as a PNG.

    `shown` is `Prediction.shown`; the other arguments are as in `save_panels`.
    """
    panels = {caption: drawn(plane) for caption, plane in shown.items()}
    sheet = panels | {"heatmap": heat(heatmap)}
    _save_sheet(path, sheet, mask, title, detections, points)


def _save_sheet(
    path: Path,
    named: dict[str, np.ndarray],
    mask: np.ndarray | None,
    title: str,
    detections: Sequence[Detection],
    points: Sequence[tuple[float, float]],
) -> None:
    """Mark defects and detections in panels (H, W, 3) uint8, BGR, and write them side by side."""
    panels = list(named.values())
    for panel in (panels[0], panels[-1]):
        if mask is not None:
            _ring_defects(panel, mask)
        for y, x in points:
            cv2.circle(panel, (round(x), round(y)), RING_RADIUS, TRUTH, 1, cv2.LINE_AA)
    for panel in panels:
        for detection in detections:
            top, left, bottom, right = detection.box
            radius = DETECTION_RADIUS + max(bottom - top, right - left) // 2
            cv2.circle(panel, (detection.x, detection.y), radius, DETECTED, 1, cv2.LINE_AA)
    save_png(path, side_by_side(panels, tuple(named), title))


@dataclass(frozen=True)
class StripWriter:
    """Writes the heatmap and panels of a strip or picture; an `OnStrip` callback of `evaluate`.

    The files lie in `output_dir`, under the sub-folder that the strip came from. The heatmap is a
    float32 TIFF of probabilities. The panels are a PNG, drawn for the first `pictures_per_kind`
    strips of each kind (None: for all). Where `contrast_map` is given, a float32 TIFF holds what it
    returns for (3, H, W): the contrast in grey levels that a point at each pixel needs.
    """

    output_dir: Path
    pictures_per_kind: int | None = None
    contrast_map: Callable[[np.ndarray], np.ndarray] | None = None

    def __call__(self, result: StripResult, prediction: Prediction, number: int) -> None:
        relative = result.strip.relative
        with atomic_write(strip_file(self.output_dir, relative, HEATMAP_ENDING)) as temporary:
            tifffile.imwrite(temporary, prediction.heatmap)
        if self.contrast_map:
            with atomic_write(strip_file(self.output_dir, relative, CONTRAST_ENDING)) as temporary:
                tifffile.imwrite(temporary, self.contrast_map(prediction.image))
        if self.pictures_per_kind is None or number <= self.pictures_per_kind:
            title = f"{relative.as_posix()}   {result.verdict}   score {result.score:.4f}"
            path = strip_file(self.output_dir, relative, PANELS_ENDING)
            has_references = prediction.strip.has_references
            (save_panels if has_references else save_picture_panels)(
                path,
                prediction.image if has_references else prediction.shown,
                prediction.heatmap,
                prediction.mask,
                title,
                result.detections,
                prediction.strip.points or (),
            )


def draw_samples(
    samples: list[dict[str, np.ndarray]], heatmaps: np.ndarray | None = None
) -> np.ndarray:
    """Draw training samples, one per row: three channels, mask and, if given, heatmap.

    `samples` are N items of the training set, `heatmaps` (N, h, w) 0-1. Returns a picture
    (H, W, 3) uint8, BGR, at twice the size of the samples' pixels.
    """
    captions = ("Target", "Ref1", "Ref2", "mask: in Target only", "heatmap")
    rows = []
    for number, sample in enumerate(samples):
        panels = [
            grey(plane * 255) for plane in (*sample["three_channel_input"], *sample["target_mask"])
        ]
        if heatmaps is not None:
            panels.append(heat(heatmaps[number]))
        doubled = [
            cv2.resize(panel, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST) for panel in panels
        ]
        rows.append(side_by_side(doubled, captions[: len(panels)], ""))
    return np.concatenate(rows)


def save_curves(path: Path, history: list[dict[str, Any]], headlines: Sequence[str]) -> None:
    """Write training curves over the epochs as a PNG: loss, schedules and validation metrics.

    The schedules are the learning rate (`lr`) and the entries of the history before it, such as
    gamma. The metrics are those of `headlines` that the run validates. Raises `UserError` when the
    file cannot be written.
    """
    # imported here, as it takes a second that every command would spend at its start;
    # `Figure` instead of pyplot needs no display and keeps no figure open
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [entry["epoch"] for entry in history]
    metrics = [
        name
        for name in (f"valid_{metric}" for metric in headlines)
        if any(name in entry for entry in history)  # not every epoch need be validated
    ]
    figure = Figure(figsize=(15 if metrics else 10, 4), layout="constrained")
    axes = figure.subplots(1, 3 if metrics else 2)
    axes[0].plot(epochs, [entry["loss"] for entry in history], marker=".")
    entries = list(history[-1])
    scheduled = [name for name in entries[: entries.index("lr")] if name not in ("epoch", "loss")]
    changing = [name for name in scheduled if len({entry[name] for entry in history}) > 1]
    changes = f" (its {' and '.join(changing)} changes)" if changing else ""
    axes[0].set(title=f"training loss{changes}", yscale="log")
    for name in scheduled:
        axes[1].plot(epochs, [entry[name] for entry in history], marker=".", label=name)
    rate = axes[1].twinx()
    rate.plot(
        epochs,
        [entry["lr"] for entry in history],
        color="tab:orange",
        marker=".",
        label="learning rate (right)",
    )
    rate.set(yscale="log")
    axes[1].set(title=" and ".join([*scheduled, "learning rate"]))
    axes[1].legend(handles=[*axes[1].get_lines(), *rate.get_lines()], loc="center left")
    for name in metrics:
        values = [np.nan if entry.get(name) is None else entry[name] for entry in history]
        axes[-1].plot(
            epochs, values, marker=".", label=name.removeprefix("valid_").replace("_", " ")
        )
    if metrics:
        axes[-1].set(title="validation", ylim=(0, 1.02))
        axes[-1].legend(loc="lower right")
    for axis in axes:
        axis.set(xlabel="epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def save_png(path: Path, picture: np.ndarray) -> None:
    """Write a picture (H, W, 3) uint8, BGR. Raises `UserError` when the file cannot be written."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(encode_image(path, picture))


def grey(plane: np.ndarray) -> np.ndarray:
    """Convert (H, W) grey levels, clipped to 0-255, to a picture (H, W, 3) uint8."""
    return cv2.cvtColor(np.clip(plane, 0, 255).astype(np.uint8), cv2.COLOR_GRAY2BGR)


def drawn(plane: np.ndarray) -> np.ndarray:
    """Convert (H, W) grey levels or (H, W, 3) red, green and blue to (H, W, 3) uint8, BGR."""
    return grey(plane) if plane.ndim == 2 else np.ascontiguousarray(plane[:, :, ::-1], np.uint8)


def heat(heatmap: np.ndarray) -> np.ndarray:
    """Convert (H, W) probabilities 0-1 to a false-colour picture (H, W, 3) uint8, BGR."""
    return cv2.applyColorMap(np.clip(heatmap * 255, 0, 255).astype(np.uint8), cv2.COLORMAP_INFERNO)


def _ring_defects(panel: np.ndarray, mask: np.ndarray) -> None:
    """Draw a ring around each component of a mask (H, W) into a panel (H, W, 3), in place."""
    _, _, boxes, centers = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    for box, (x, y) in list(zip(boxes, centers))[1:]:
        half_size = max(box[cv2.CC_STAT_WIDTH], box[cv2.CC_STAT_HEIGHT]) // 2
        cv2.circle(panel, (round(x), round(y)), RING_RADIUS + int(half_size), TRUTH, 1, cv2.LINE_AA)


def side_by_side(panels: list[np.ndarray], captions: tuple[str, ...], title: str) -> np.ndarray:
    """Panels of one size in a row, each below its caption, all below a title (empty: no title)."""
    height, width = panels[0].shape[:2]
    top = CAPTION * (2 if title else 1)
    sheet = np.full((height + top + GAP, len(panels) * (width + GAP) + GAP, 3), BACKDROP, np.uint8)
    if title:
        write_text(sheet, title, GAP, CAPTION - 7)
    for number, (panel, caption) in enumerate(zip(panels, captions)):
        x = GAP + number * (width + GAP)
        write_text(sheet, caption, x, top - 7)
        sheet[top : top + height, x : x + width] = panel
    return sheet

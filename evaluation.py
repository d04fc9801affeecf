"""A predictor run over a folder: scores, figures and files. Both inference scripts and the trainer are thin around it."""

import csv
import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from errors import UserError, about
from pathlib import Path

import numpy as np
import tifffile
from tqdm import tqdm

from dataloader import DEFAULT_INPUT_MAX, load_image, load_mask
from dataset_folder import GOOD, StripFile, list_strips
from distributed import ALONE, Processes
from files import replace_file
from gaussian import STRIP_DEFECTS_RANGE, paint_defects
from inspection import inspect_strips
from metrics import PixelFigures, image_figures
from visualize import save_panels

BROKEN_NETWORK = "the model's weights are broken"
ROUNDING = 1e-6  # by which a softmax may exceed 1
Predictor = Callable[[np.ndarray], np.ndarray]  # (3, H, W) grey levels 0-255 to a heatmap (H, W) of probabilities 0-1


@dataclass
class Evaluation:
    """What came out: a score for every strip that could be read, the figures, and a line for every one that could not."""

    scores: list[tuple[StripFile, float]] = field(default_factory=list)
    figures: dict[str, float | None] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def evaluate(
    predictor: Predictor,
    strips: list[StripFile],
    input_max: float = DEFAULT_INPUT_MAX,
    label: str = "scoring strips",
    output_dir: Path | None = None,
    pictures_per_kind: int | None = None,
    use_masks: bool = True,
    processes: Processes = ALONE,
) -> Evaluation:
    """Score every strip by its heatmap's maximum. What is wrong with one strip ends up in `problems`; the others go on.

    With `output_dir` every strip's heatmap (float32 TIFF, probabilities) and seven panels (PNG; of the first
    `pictures_per_kind` of each kind only, None: all) are written there under the sub-folders that they came from. With several
    `processes` each scores its share, and all of them get the whole result.
    """
    result, pixels, seen = Evaluation(), PixelFigures(), Counter()
    has_masks = use_masks and any(strip.mask or strip.painted_with for strip in strips)
    for strip in tqdm(processes.share(strips), desc=label, unit="strip", disable=processes.hides_progress, leave=False):
        try:
            image, mask = read_strip(strip, input_max)
            heatmap = _heatmap_of(strip, image, predictor)
        except UserError as error:
            result.problems.append(str(error))
            continue
        result.scores.append((strip, float(heatmap.max())))
        seen[strip.kind] += 1
        if has_masks and mask is not None:
            pixels.add(heatmap, mask)
        if output_dir:
            draw = pictures_per_kind is None or seen[strip.kind] <= pictures_per_kind
            _write_strip(output_dir / strip.relative.with_suffix(""), strip, image, heatmap, mask, draw)
    result.scores = [score for scores in processes.gather(result.scores) for score in scores]
    result.problems = [problem for problems in processes.gather(result.problems) for problem in problems]
    pixels.counts = sum(processes.gather(pixels.counts))
    labelled = [(strip.is_defective, score) for strip, score in result.scores if strip.kind is not None]
    result.figures = image_figures([label for label, _ in labelled], [score for _, score in labelled]) | pixels.figures()
    return result


def evaluate_folder(
    predictor: Predictor,
    folder: Path,
    output_dir: Path,
    img_format: str | None,
    use_masks: bool,
    input_max: float,
    patch: int = 1,
    image_size: tuple[int, int] | None = None,
) -> int:
    """Score a folder, write everything, print the figures and what could not be used. Returns the command's exit code.

    Strips must be of `image_size` (None: of one size) and not smaller than a patch. Raises `UserError` when none can be used.
    """
    if folder.absolute() in (output_dir.absolute(), *output_dir.absolute().parents):
        raise UserError(f"{output_dir}: found an output folder among the strips of {folder}, expected one elsewhere")
    strips = list_strips(folder, img_format, use_masks)
    inspection = inspect_strips(strips, input_max, patch, image_size)
    result = evaluate(predictor, inspection.usable, input_max, output_dir=output_dir)
    result.problems[:0] = inspection.problems
    if not result.scores:
        raise UserError(f"{folder}: none of {len(strips)} strips could be used; the first: {result.problems[0]}")
    write_results(output_dir, result)
    for line in describe_figures(result.figures):
        print(line)
    for problem in result.problems:
        print(f"error: {problem}", file=sys.stderr)
    print(f"{len(result.scores)} of {len(strips)} strips scored: scores.csv, metrics.json, heatmaps and panels are in {output_dir}")
    return 1 if result.problems else 0


def write_results(output_dir: Path, result: Evaluation) -> None:
    """`scores.csv` (file, kind, score) and `metrics.json` (the figures and how many strips they rest on)."""
    with (
        replace_file(output_dir / "scores.csv") as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(("file", "kind", "score"))
        writer.writerows((strip.relative.as_posix(), strip.kind or "", f"{score:.9g}") for strip, score in result.scores)
    summary = result.figures | {"strips": len(result.scores), "problems": result.problems}
    with replace_file(output_dir / "metrics.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def describe_figures(figures: dict[str, float | None]) -> list[str]:
    """One line a figure; one that needs what was not there says so."""
    missing = {"image": "needs good and defective strips", "pixel": "needs strips with masks"}
    return [
        f"{name.replace('_', ' '):24}{f'{value:.4f}' if value is not None else 'not defined: ' + missing[name.split('_')[0]]}"
        for name, value in figures.items()
    ]


def read_strip(strip: StripFile, input_max: float) -> tuple[np.ndarray, np.ndarray | None]:
    """The strip, (3, H, W) grey levels 0-255, and its mask, (H, W) bool; None where it is not known what is a defect."""
    image = load_image(strip.path, input_max)
    if strip.mask:
        return image, load_mask(strip.mask, image.shape[1:])
    mask = np.zeros(image.shape[1:], dtype=np.float32)
    if strip.painted_with:
        paint_defects(image, mask, np.random.default_rng(strip.painted_with), STRIP_DEFECTS_RANGE)
    return image, mask > 0 if strip.painted_with or strip.kind == GOOD else None


def _heatmap_of(strip: StripFile, image: np.ndarray, predictor: Predictor) -> np.ndarray:
    with about(strip.path):
        heatmap = predictor(image)
        lowest, highest = heatmap.min(), heatmap.max()
        if not (lowest >= 0 and highest <= 1 + ROUNDING):
            raise UserError(f"found a heatmap from {lowest:g} to {highest:g}, expected 0 to 1: {BROKEN_NETWORK}")
    return np.minimum(heatmap, 1)


def _write_strip(stem: Path, strip: StripFile, image: np.ndarray, heatmap: np.ndarray, mask: np.ndarray | None, draw: bool) -> None:
    with replace_file(stem.with_name(f"{stem.name}_heatmap.tiff")) as temporary:
        tifffile.imwrite(temporary, heatmap)
    if draw:
        title = f"{strip.relative.as_posix()}   score {heatmap.max():.4f}"
        save_panels(stem.with_name(f"{stem.name}_panels.png"), image, heatmap, mask, title)

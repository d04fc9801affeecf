"""Cut-outs around detections of a scored folder, with labels from statuses or from a person."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from classifier.crops import Crop, CropSet, crop_name, cut, read_heatmap, strip_planes
from classifier.detection_table import (
    DetectedPlace,
    label_of_status,
    read_detections,
    read_labels,
    sorted_previews,
)
from common.errors import UserError
from common.notes import warn
from common.progress import progress_bar
from data.folder import list_strips
from data.image_files import STORED_ORDER, load_image
from data.masks import load_masks
from data.pictures import hash_of_pixels
from data.registered_copies import StripAligner


@dataclass(frozen=True)
class CropSettings:
    """How strips are read and cut: `size` is a crop's side in pixels, `align` one of ALIGN_MODES.

    `order` has the numbers of Target, Ref1 and Ref2 among the files' channels.
    """

    size: int = 32
    align: str = "full"
    input_max: float = 255.0
    img_format: str | None = None
    order: tuple[int, ...] = STORED_ORDER

    def aligner(self) -> StripAligner | None:
        """What aligns the references; None where they stay as they are."""
        return None if self.align == "none" else StripAligner(self.align, torch.device("cpu"))


def cut_detections(
    crops: CropSet,
    detections: Path,
    folder: Path,
    heatmaps: Path,
    labels: Path | None,
    settings: CropSettings,
) -> None:
    """Cut out every detection of the strips in `folder` and add it to `crops`.

    `heatmaps` is the folder that the scoring wrote. Labels come from `labels`, a CSV file or a
    folder of sorted previews, and else from the statuses. Raises `UserError` for detections of
    other strips, or outside of them, and as the readers.
    """
    strips = list_strips(folder, settings.img_format, order=settings.order)
    places = read_detections(detections, strips, folder)
    names = [
        crop_name(number, place.strip, place.y, place.x) for number, place in enumerate(places)
    ]
    kinds = choose_labels(places, names, labels)
    aligner = settings.aligner()
    numbers: dict[Path, list[int]] = {}
    for number, place in enumerate(places):
        numbers.setdefault(place.strip.path, []).append(number)
    for found in progress_bar(numbers.values(), desc="cutting crops", unit="strip"):
        strip = places[found[0]].strip
        image = load_image(strip.path, settings.input_max, order=settings.order)
        crops.strips.add(hash_of_pixels(image))
        size = image.shape[1:]
        mask = load_masks(strip.masks, size) if strip.masks else None
        planes = strip_planes(image, read_heatmap(heatmaps, strip, size), aligner)
        for number in found:
            place = places[number]
            require_place_inside(place, size, detections)
            at = place.y, place.x, settings.size
            marks = None if mask is None else cut(mask, *at)
            crops.add(
                Crop(strip, place.y, place.x, place.score, kinds[number], cut(planes, *at), marks),
                names[number],
            )


def choose_labels(
    places: Sequence[DetectedPlace], names: Sequence[str], labels: Path | None
) -> list[str | None]:
    """The label of each detection, None where it has none. Raises `UserError` as the readers."""
    kinds = [label_of_status(place.status) for place in places]
    if labels is None:
        return kinds
    if not labels.exists():
        raise UserError(f"{labels}: found no such file or folder, expected labels")
    if labels.is_file():
        given, unmatched = read_labels(labels, places)
        if unmatched:
            warn(f"{labels}: found {unmatched} rows without a detection near them; left out")
        return [given.get(number, kind) for number, kind in enumerate(kinds)]
    sorted_ones = sorted_previews(labels)
    if unknown := sorted(set(sorted_ones) - set(names)):
        raise UserError(f"{labels}: found {unknown[0]}.png, expected previews of these detections")
    return [sorted_ones.get(name, kind) for name, kind in zip(names, kinds)]


def require_place_inside(place: DetectedPlace, size: tuple[int, int], detections: Path) -> None:
    """Raise `UserError` for a detection outside of its strip of `size` (height, width)."""
    if not (0 <= place.y < size[0] and 0 <= place.x < size[1]):
        raise UserError(
            f"{detections}: found a detection at y {place.y}, x {place.x} of "
            f"{place.strip.relative}, expected one inside {tuple(size)} (height, width)"
        )

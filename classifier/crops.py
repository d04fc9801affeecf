"""Cut-outs of strips around detections: Target, aligned references and heatmap, as a data set.

Each is a TIFF of four channels, grey levels 0-255 float32, with the detection in the middle, and a
preview that a person can look at. All cut-outs of one strip lie in one split.
"""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from classifier.split import assign_splits, group_of, join_groups
from common.errors import UserError, prefix_errors
from common.files import read_notes
from data.folder import GOOD, StripFile, mask_path
from data.image_files import encode_image, read_pixels
from data.pictures import hash_of_pixels
from data.registered_copies import StripAligner
from data.write_images import write_mask, write_strip
from gaussian import MAX_GREY
from ops.registration import ALIGN_MODES
from reporting.output_folder import HEATMAP_ENDING, strip_file
from reporting.tables import write_json, write_table

CROP_CHANNELS = ("Target", "Ref1", "Ref2", "heatmap")
COLUMNS = ("crop", "file", "y", "x", "label", "score")
TABLE, FACTS = "crops.csv", "crops.json"
UNLABELLED, PREVIEWS = "unlabelled", "previews"  # folders beside the splits
ZOOM, GAP = 4, 2  # of a preview: times the pixels, and pixels between two channels
LEAST_RANGE = 64.0  # grey levels that a preview shows from black to white, at least
LONGEST_STEM = 80  # characters of a strip's name in the name of its crops


@dataclass(frozen=True)
class Crop:
    """A cut-out (4, size, size) of a strip around (y, x), with its label (None: not known).

    `mask` (size, size) bool marks the pixels of defects; None where these are not known. `score` is
    the detection's margin.
    """

    strip: StripFile
    y: int
    x: int
    score: float
    label: str | None
    planes: np.ndarray
    mask: np.ndarray | None = None


def cut(planes: np.ndarray, y: int, x: int, size: int) -> np.ndarray:
    """Cut (..., size, size) out of (..., H, W) with the pixel (y, x) at size // 2.

    Beyond the edges the pixels of the edge are repeated.
    """
    ys, xs = (
        np.clip(np.arange(size) + place - size // 2, 0, length - 1)
        for place, length in zip((y, x), planes.shape[-2:])
    )
    return planes[..., ys[:, None], xs[None, :]]


def strip_planes(
    image: np.ndarray, heatmap: np.ndarray, aligner: StripAligner | None
) -> np.ndarray:
    """Target, Ref1, Ref2 and heatmap (4, H, W) float32, 0-255, as CROP_CHANNELS.

    `image` is (3, H, W) in grey levels, `heatmap` (H, W) 0-1. `aligner` None leaves the references
    as they are.
    """
    strips = aligner(image)[0] if aligner else image
    planes = np.concatenate([strips, heatmap[None] * MAX_GREY])
    return np.clip(planes, 0, MAX_GREY).astype(np.float32)


def read_heatmap(folder: Path, strip: StripFile, image_size: tuple[int, int]) -> np.ndarray:
    """The heatmap (H, W) float32 that a scoring wrote for a strip into `folder`.

    Raises `UserError`, naming the file, for a missing one and for one of another size.
    """
    path = strip_file(folder, strip.relative, HEATMAP_ENDING)
    with prefix_errors(path):
        if not path.is_file():
            raise UserError("found no heatmap, expected the folder that the scoring wrote")
        heatmap, _ = read_pixels(path)
        if heatmap.shape != tuple(image_size):
            raise UserError(
                f"found a heatmap of {heatmap.shape}, expected {tuple(image_size)} (height, width) "
                "like its strip"
            )
    return heatmap.astype(np.float32)


@dataclass(frozen=True)
class CropFacts:
    """How the crops of a set were made: a review of detections must cut alike.

    `size` is their side in pixels, `align` how references were aligned, and `strips` has the hashes
    of the pixels of the strips that were cut.
    """

    size: int
    align: str
    strips: frozenset[str] = frozenset()

    def entry(self) -> dict[str, Any]:
        """The facts as plain values."""
        return {"size": self.size, "align": self.align, "strips": sorted(self.strips)}


def write_crop_facts(root: Path, facts: CropFacts) -> None:
    """Write the facts of a set beside it."""
    write_json(root / FACTS, facts.entry() | {"channels": CROP_CHANNELS})


def read_crop_facts(root: Path) -> CropFacts | None:
    """The facts of a set of crops; None for a set of other pictures."""
    return crop_facts_of(read_notes(root / FACTS))


def crop_facts_of(entry: object) -> CropFacts | None:
    """The facts that plain values hold; None where they hold none. Earlier ones name no strips."""
    if not isinstance(entry, dict):
        return None
    size, align, strips = entry.get("size"), entry.get("align"), entry.get("strips", [])
    is_usable = type(size) is int and size > 0 and align in ALIGN_MODES
    if not is_usable or not isinstance(strips, list) or not all(map(_is_text, strips)):
        return None
    return CropFacts(size, align, frozenset(strips))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


class _Written(NamedTuple):
    """A crop on disk, before it has its split."""

    crop: Crop
    name: str
    content: str


class CropSet:
    """Writes crops into a new folder, and divides them among the splits at the end.

    `strips` has the hashes of the strips that were cut.
    """

    def __init__(self, root: Path):
        self.root, self.strips = root, set[str]()
        self._written: list[_Written] = []

    def add(self, crop: Crop, name: str) -> None:
        """Write a crop and its preview."""
        write_strip(self._unlabelled(name), crop.planes)
        folder = self.root / PREVIEWS
        path = (folder / crop.label if crop.label else folder) / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_image(path, preview(crop.planes)))
        content = hash_of_pixels(crop.planes)
        # the pixels are on disk: thousands of strips have more than the memory holds
        kept = replace(crop, planes=crop.planes[:0], mask=_mask_to_write(crop))
        self._written.append(_Written(kept, name, content))

    def finish(
        self, shares: tuple[float, float], seed: int, group_by: re.Pattern | None
    ) -> dict[str, int]:
        """Move labelled crops to their splits, and write masks and `crops.csv`.

        Crops of one strip, of one group of strips, and equal ones share a split. Returns the number
        of crops by label; the empty label is of those without one.
        """
        labelled = [written for written in self._written if written.crop.label]
        names = [written.crop.strip.relative.as_posix() for written in labelled]
        splits: list[str] = []
        if labelled:
            groups = [group_of(name, group_by) for name in names]
            joined = join_groups(groups, [written.content for written in labelled])
            kinds = [written.crop.label for written in labelled]
            splits = assign_splits(kinds, joined, shares, seed)
        paths = {
            written.name: self._place(written, split) for written, split in zip(labelled, splits)
        }
        rows = [
            (
                paths.get(name, f"{UNLABELLED}/{name}.tiff"),
                crop.strip.relative.as_posix(),
                crop.y,
                crop.x,
                crop.label or "",
                f"{crop.score:.6g}",
            )
            for crop, name, _ in self._written
        ]
        write_table(self.root / TABLE, COLUMNS, rows)
        if len(labelled) == len(self._written) and self._unlabelled("a").parent.is_dir():
            self._unlabelled("a").parent.rmdir()
        counts: dict[str, int] = {}
        for written in self._written:
            label = written.crop.label or ""
            counts[label] = counts.get(label, 0) + 1
        return counts

    def _unlabelled(self, name: str) -> Path:
        return self.root / UNLABELLED / f"{name}.tiff"

    def _place(self, written: _Written, split: str) -> str:
        """Move a crop to its split, write its mask, and return its path in the set."""
        label = written.crop.label
        path = self.root / split / label / f"{written.name}.tiff"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self._unlabelled(written.name), path)
        if written.crop.mask is not None:
            file = mask_path(self.root, split, label, written.name)
            write_mask(file, written.crop.mask.astype(np.uint8))
        return path.relative_to(self.root).as_posix()


def _mask_to_write(crop: Crop) -> np.ndarray | None:
    """The mask of a labelled defect; None where nothing is marked, and for other crops.

    A nuisance beside a defect is `good`, whose mask is empty without a file.
    """
    if crop.label in (None, GOOD) or crop.mask is None or not crop.mask.any():
        return None
    return crop.mask


def preview(planes: np.ndarray) -> np.ndarray:
    """The channels of a crop (4, size, size) side by side, enlarged: (h, w) uint8.

    Target and references share one range of grey levels, so that they can be compared.
    """
    strips = planes[:3]
    low, high = float(strips.min()), float(strips.max())
    middle, reach = (low + high) / 2, max(high - low, LEAST_RANGE)
    shown = [(plane - middle) / reach * MAX_GREY + MAX_GREY / 2 for plane in strips]
    tiles = []
    for plane in (*shown, planes[3]):
        tile = np.clip(plane, 0, MAX_GREY).astype(np.uint8)
        tile = cv2.resize(tile, None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_NEAREST)
        tiles += [tile, np.full((len(tile), GAP), 255, np.uint8)]
    return np.hstack(tiles[:-1])


def crop_name(number: int, strip: StripFile, y: int, x: int) -> str:
    """The name of a crop without suffix: its number in the table, its strip and its place."""
    stem = re.sub(r"[^\w.-]", "_", "_".join(strip.relative.with_suffix("").parts))
    return f"{number:05}_{stem[-LONGEST_STEM:]}_y{y}_x{x}"

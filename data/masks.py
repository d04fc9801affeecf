"""Ground truth masks, read as a viewer shows them: what is marked, whatever the file's coding."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tifffile

from common.errors import UserError, prefix_errors
from common.storage import fetch
from data.image_files import CHANNEL_COUNTS, read_pixels
from data.listing import IMAGE_SUFFIXES

JPG_SUFFIXES = (".jpg", ".jpeg")
# Largest share of a strip that defects may cover: above it, background and defects are exchanged.
LARGEST_SHARE = 0.5
# Smallest value of a mark in a JPG: its compression loses smaller ones, and invents them elsewhere.
LEAST_JPG_MARK = 128


def load_masks(
    paths: Iterable[Path], image_size: tuple[int, int], largest_share: float = LARGEST_SHARE
) -> np.ndarray:
    """Load the mask that several files hold together, as `load_mask`."""
    mask = np.zeros(image_size, dtype=bool)
    for path in paths:
        mask |= load_mask(path, image_size, largest_share)
    return mask


def load_mask(
    path: Path, image_size: tuple[int, int], largest_share: float = LARGEST_SHARE
) -> np.ndarray:
    """Load a mask as (H, W) bool, True where something is marked, such as a defect.

    Marked is what does not look black. In a coloured image with a plain background of another grey,
    it is what differs from that grey, and where the opacity differs, only what can be seen.

    Raises `UserError`, naming the file, when it cannot be read, its size is not `image_size`
    (height, width), or more than `largest_share` of it is marked.
    """
    with prefix_errors(path):
        pixels, _ = read_pixels(path)
        mask = _find_marks(path, _as_shown(path, pixels))
        if mask.shape != tuple(image_size):
            raise UserError(
                f"found a mask of {mask.shape}, "
                f"expected {tuple(image_size)} (height, width) like its image"
            )
        if mask.mean() > largest_share:
            raise UserError(
                f"found a mask that marks {mask.mean():.0%} of the image, "
                f"expected at most {largest_share:.0%}: is it inverted? "
                "Defects must be white, the rest black"
            )
        return mask


def marks_something(paths: Iterable[Path]) -> bool:
    """Whether a mask that several files hold together marks any pixel; not what cannot be read."""
    for path in paths:
        try:
            if _find_marks(path, _as_shown(path, read_pixels(path)[0])).any():
                return True
        except UserError:
            continue
    return False


def _as_shown(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Return the pixels with TIFF's colours of a palette, and with black for what looks black."""
    if path.suffix.lower() not in IMAGE_SUFFIXES["tiff"]:
        return pixels
    with tifffile.TiffFile(fetch(path), _multifile=False) as tiff:
        page = tiff.pages.first
        photometric, colours = page.photometric, page.colormap
    if photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        white = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1
        return ~pixels if pixels.dtype == bool else white - pixels
    if photometric == tifffile.PHOTOMETRIC.PALETTE and colours is not None and pixels.ndim == 2:
        return np.moveaxis(colours[:, pixels], 0, -1)
    return pixels


def _find_marks(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Return (H, W) bool of (H, W) or (H, W, C); of any other shape, pixels that are not 0."""
    if pixels.ndim == 3 and 1 in pixels.shape:
        pixels = pixels.squeeze()
    if pixels.ndim == 3 and pixels.shape[2] in CHANNEL_COUNTS:
        return _coloured_marks(path, pixels)
    return _marks_in_grey(path, pixels)


def _coloured_marks(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Return the marks of an image in colours, and perhaps with opacity: (H, W, 3 or 4)."""
    colours, opacity = pixels[:, :, :3], pixels[:, :, 3:]
    is_visible = np.ones(pixels.shape[:2], dtype=bool)
    if opacity.size and opacity.min() != opacity.max():
        is_visible = opacity[:, :, 0] > 0
    is_grey = (colours == colours[:, :, :1]).all(axis=2)
    if not is_visible.all() and (seen := colours[is_visible]).size and (seen == seen[0]).all():
        return is_visible  # one colour on nothing, which may be black
    if is_grey.all() or path.suffix.lower() in JPG_SUFFIXES:
        return is_visible & _marks_in_grey(path, colours.max(axis=2))
    levels, counts = np.unique(colours[is_grey & is_visible][:, 0], return_counts=True)
    background = levels[counts.argmax()] if counts.sum() > is_visible.sum() / 2 else 0
    return is_visible & (colours != background).any(axis=2)


def _marks_in_grey(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Return which pixels are not 0; in a JPG, which blurs edges, those above half of the largest.

    Raises `UserError`, without the path, for a JPG with faint marks.
    """
    if path.suffix.lower() not in JPG_SUFFIXES:
        return pixels != 0
    highest = pixels.max()
    if 0 < highest < LEAST_JPG_MARK:
        raise UserError(
            f"found a JPG mask with values up to {highest}, expected 255 on defects: "
            "JPG changes small values, PNG keeps them"
        )
    return pixels > highest / 2

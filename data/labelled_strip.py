"""A strip and its true defects, known from its mask, from painting, or from its kind."""

import numpy as np

from data.folder import GOOD, StripFile
from data.image_files import load_image, load_mask
from data.recipes import paint_strip


def read_strip(strip: StripFile, input_max: float) -> tuple[np.ndarray, np.ndarray | None]:
    """Return a strip (3, H, W), grey levels 0-255, and its mask (H, W) bool.

    The mask is None where it is not known what is a defect. Raises `UserError` for a file that
    cannot be used.
    """
    image = load_image(strip.path, input_max)
    if strip.mask:
        return image, load_mask(strip.mask, image.shape[1:])
    mask = np.zeros(image.shape[1:], dtype=np.float32)
    if strip.painted_with:
        paint_strip(strip.painted_by, image, mask, np.random.default_rng(strip.painted_with))
    return image, mask > 0 if strip.painted_with or strip.kind == GOOD else None

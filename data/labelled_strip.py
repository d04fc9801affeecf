"""A strip and its true defects, known from its mask, from painting, or from its kind."""

import numpy as np

from data.folder import StripFile
from data.image_files import load_image
from data.masks import load_masks
from data.recipes import paint_strip


def read_strip(strip: StripFile, input_max: float) -> tuple[np.ndarray, np.ndarray | None]:
    """Return a strip (3, H, W), grey levels 0-255, and its mask (H, W) bool.

    The mask is None where it is not known which pixels are a defect's. Raises `UserError` for a
    file that cannot be used.
    """
    image = load_image(strip.path, input_max, order=strip.order)
    if strip.mask:
        return image, load_masks(strip.masks, image.shape[1:])
    if strip.points is not None:
        return image, None
    mask = np.zeros(image.shape[1:], dtype=np.float32)
    if strip.painted_with:
        generator = np.random.default_rng(strip.painted_with)
        paint_strip(strip.painted_by, image, mask, generator, strip.painted_points)
    return image, mask > 0 if strip.painted_with or strip.is_defective is False else None

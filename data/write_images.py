"""Write strips and masks as files that the readers of this package take."""

from pathlib import Path

import numpy as np
import tifffile

from data.image_files import encode_image


def write_strip(path: Path, image: np.ndarray) -> None:
    """Write (C, H, W) as a TIFF, channels first, or as a PNG in OpenCV's channel order.

    Raises `UserError` when OpenCV cannot encode it, and `OSError` when it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tiff":
        tifffile.imwrite(path, image, photometric="minisblack", planarconfig="separate")
    else:
        path.write_bytes(encode_image(path, np.moveaxis(image, 0, 2)))


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write a mask (H, W) uint8 {0, 1} as an image of 0 and 255.

    Raises `UserError` when OpenCV cannot encode it, and `OSError` when it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_image(path, mask * 255))

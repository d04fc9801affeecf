"""A small data set of labelled images and small networks, for the defect classifier's tests."""

from pathlib import Path

import cv2
import numpy as np

from data.folder import GOOD, mask_path
from data.image_files import encode_image
from data.write_images import write_mask

SIZE = (24, 32)  # (height, width)
KINDS = ("spot", "刮痕")
# settings of a small network of any type of `transformers`; each type has some of them
TINY = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 32,
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "embedding_size": 8,
    "image_size": 56,
}


def draw(generator: np.random.Generator, kind: str, channels: int = 1) -> tuple:
    """An image (H, W, channels) uint8 of a kind, and its mask (H, W) uint8."""
    image = generator.normal(120, 6, (*SIZE, channels))
    mask = np.zeros(SIZE, np.uint8)
    y, x = (int(generator.integers(5, side - 5)) for side in SIZE)
    if kind == "spot":
        cv2.circle(mask, (x, y), 3, 1, -1)
    elif kind != GOOD:
        cv2.line(mask, (x - 4, y), (x + 4, y + 3), 1, 1)
    image[mask > 0] += 70 if kind == "spot" else -70
    return np.clip(image, 0, 255).astype(np.uint8), mask


def write_image(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_image(path, image))
    return path


def write_data(
    root: Path, count: int = 6, channels: int = 1, masked: float = 1.0, seed: int = 0
) -> Path:
    """Images of `good` and KINDS in train/ and half as many in valid/; a share has masks."""
    generator = np.random.default_rng(seed)
    for split, images in (("train", count), ("valid", count // 2)):
        for kind in (GOOD, *KINDS):
            for number in range(images):
                image, mask = draw(generator, kind, channels)
                write_image(root / split / kind / f"{number}.png", image)
                if kind != GOOD and number < masked * images:
                    write_mask(mask_path(root, split, kind, str(number)), mask)
    return root

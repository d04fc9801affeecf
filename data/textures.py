"""The classes of the texture data set, each a function that draws or cuts one good picture.

Three surfaces and two objects are drawn, `target` is the first channel of a demo strip, and brick,
grass and gravel are photos that scikit-image ships. Training and test are cut from different parts
of a photo.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from common.errors import UserError
from data.demo_strips import (
    add_sensor_noise,
    apply_exposure,
    draw_exposure,
    draw_pattern,
    sample_to_sensor,
)
from data.drawn_objects import draw_chip, draw_gear
from data.drawn_surfaces import draw_brushed_metal, draw_fabric, draw_leather

TRAINING_SHARE = 0.55  # of a photo's columns; the rest is for the test
PHOTO_ZOOM = (0.8, 1.0)  # pixels of the photo per pixel, before they are limited by its parts
PHOTO_TURN = 3.0  # degrees to either side


class Piece(NamedTuple):
    """What a good picture shows, before light and camera: grey levels, and where a part is.

    `levels` (H, W) are float32, `part` (H, W) bool: everywhere on a surface.
    """

    levels: np.ndarray
    part: np.ndarray


# draws a piece of (size, size) pixels, for the test if the last argument says so
Draw = Callable[[np.random.Generator, int, bool], Piece]


def shoot(piece: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Take a picture of a piece (H, W): light, gain and noise as of a demo strip's channel.

    Returns (H, W) uint8.
    """
    exposure = draw_exposure(generator, piece.shape)
    return np.rint(add_sensor_noise(apply_exposure(piece, exposure), exposure, generator)).astype(
        np.uint8
    )


def _surface(draw: Callable[[np.random.Generator, int], np.ndarray]) -> Draw:
    def piece(generator: np.random.Generator, size: int, is_test: bool) -> Piece:
        return Piece(draw(generator, size), np.ones((size, size), bool))

    return piece


def _object(draw: Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]) -> Draw:
    def piece(generator: np.random.Generator, size: int, is_test: bool) -> Piece:
        return Piece(*draw(generator, size))

    return piece


def _photo(name: str) -> Draw:
    """Cut a square out of one part of a photo, turned a little, and mirrored half of the time."""

    def piece(generator: np.random.Generator, size: int, is_test: bool) -> Piece:
        photo = _load_photo(name)
        # side by side, since perspective makes bricks larger further down
        border = round(photo.shape[1] * TRAINING_SHARE)
        photo = photo[:, border:] if is_test else photo[:, :border]
        if generator.random() < 0.5:
            photo = photo[:, ::-1]
        angle = np.deg2rad(generator.uniform(-PHOTO_TURN, PHOTO_TURN))
        cos, sin = np.cos(angle), np.sin(angle)
        room = (min(photo.shape) - 2) / (cos + abs(sin))
        side = min(size * generator.uniform(*PHOTO_ZOOM), room * generator.uniform(0.9, 1.0))
        reach = side * (cos + abs(sin)) / 2
        y, x = (generator.uniform(reach, length - 1 - reach) for length in photo.shape)
        rows, columns = ((np.indices((size, size)) + 0.5) / size - 0.5) * side
        map_y = (y + rows * cos + columns * sin).astype(np.float32)
        map_x = (x + columns * cos - rows * sin).astype(np.float32)
        levels = cv2.remap(np.ascontiguousarray(photo), map_x, map_y, cv2.INTER_CUBIC)
        return Piece(levels, np.ones((size, size), bool))

    return piece


@lru_cache
def _load_photo(name: str) -> np.ndarray:
    """A photo of scikit-image's, (H, W) float32 grey levels.

    Raises `UserError` where scikit-image is missing.
    """
    try:
        from skimage import data
    except ImportError:
        raise UserError(
            f"--classes: found {name} but no package scikit-image, which has the photo, expected "
            "it installed (pip install -r requirements-autoencoder.txt) or other classes"
        ) from None
    return np.asarray(getattr(data, name)(), np.float32)


def _draw_target(generator: np.random.Generator, size: int) -> np.ndarray:
    return sample_to_sensor(draw_pattern(generator, (size, size)), (size, size))


# in a fixed order: a class's place is part of the seed of its pictures
CLASSES: dict[str, Draw] = {
    "fabric": _surface(draw_fabric),
    "brushed_metal": _surface(draw_brushed_metal),
    "leather": _surface(draw_leather),
    "brick": _photo("brick"),
    "grass": _photo("grass"),
    "gravel": _photo("gravel"),
    "gear": _object(draw_gear),
    "chip": _object(draw_chip),
    "target": _surface(_draw_target),
}
# whose pieces serve as a foreign texture in the others
FOREIGN = ("fabric", "brushed_metal", "leather")

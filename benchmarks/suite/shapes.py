"""Shapes of the suite's points: equal Gaussian spots, so that defocus changes them exactly.

A shape is a number of spots around its centre, (y, x) in pixels. A point is the shape of one spot.
"""

from functools import lru_cache

import numpy as np

Spots = tuple[tuple[float, float], ...]

POINT: Spots = ((0.0, 0.0),)
POINT_SIGMA = (0.7, 1.6)  # pixels, along y and along x
HOT_PIXEL_SIGMA = 0.1  # pixels: on a pixel's middle, its neighbours show nothing
SHAPES = ("point", "scratch", "ring", "stain", "pair", "hot pixel")
SCRATCH_LENGTH = (5.0, 10.0)  # pixels
RING_RADIUS = (2.0, 3.5)  # pixels
STAIN_RADIUS = (1.5, 3.0)  # pixels
PAIR_DISTANCE = (3.0, 4.5)  # pixels
LINE_SIGMA = (0.6, 1.0)  # pixels, of the spots of scratches and rings
STAIN_SIGMA = (1.2, 1.8)  # pixels, of the spots of stains
STAIN_SPOTS = 12
SPACING = 0.5  # pixels between the spots of scratches and rings
FINENESS = 0.25  # pixels between the places where `peak_height` looks


def draw_shape(
    generator: np.random.Generator, shape: str
) -> tuple[Spots, tuple[float, float] | None]:
    """The spots of a shape and their sigma (y, x) in pixels, None for that of a point."""
    angle = generator.uniform(0, np.pi)
    direction = np.array([np.sin(angle), np.cos(angle)])
    if shape == "scratch":
        length = generator.uniform(*SCRATCH_LENGTH)
        along = np.linspace(-length / 2, length / 2, int(length / SPACING) + 1)
        return _spots(along[:, None] * direction), _equal(generator.uniform(*LINE_SIGMA))
    if shape == "ring":
        radius = generator.uniform(*RING_RADIUS)
        angles = np.linspace(0, 2 * np.pi, int(2 * np.pi * radius / SPACING) + 1, endpoint=False)
        circle = radius * np.stack([np.sin(angles), np.cos(angles)], axis=1)
        return _spots(circle), _equal(generator.uniform(*LINE_SIGMA))
    if shape == "stain":
        radius = generator.uniform(*STAIN_RADIUS) * np.sqrt(generator.uniform(size=STAIN_SPOTS))
        angles = generator.uniform(0, 2 * np.pi, STAIN_SPOTS)
        spread = np.stack([radius * np.sin(angles), radius * np.cos(angles)], axis=1)
        return _spots(spread - spread.mean(axis=0)), _equal(generator.uniform(*STAIN_SIGMA))
    if shape == "pair":
        half = generator.uniform(*PAIR_DISTANCE) / 2 * direction
        return _spots(np.stack([-half, half])), None
    if shape == "hot pixel":
        return POINT, _equal(HOT_PIXEL_SIGMA)
    return POINT, None


@lru_cache(maxsize=256)
def peak_height(spots: Spots, sigma: tuple[float, float]) -> float:
    """The largest value of the sum of the spots, of which each is 1 at its own centre."""
    if spots == POINT:
        return 1.0
    reach = reach_of(spots)
    steps = np.arange(-reach, reach + FINENESS, FINENESS)
    return float(sum_spots(spots, sigma, steps[:, None], steps[None, :]).max())


def sum_spots(spots: Spots, sigma: tuple[float, float], y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The sum of the spots, each 1 at its centre, at distances (y, x) from the shape's centre."""
    return sum(
        np.exp(-0.5 * (((y - at_y) / sigma[0]) ** 2 + ((x - at_x) / sigma[1]) ** 2))
        for at_y, at_x in spots
    )


def reach_of(spots: Spots) -> float:
    """The largest distance of a spot from the shape's centre along an axis, in pixels."""
    return max(abs(value) for spot in spots for value in spot)


def _spots(places: np.ndarray) -> Spots:
    return tuple((float(y), float(x)) for y, x in places)


def _equal(sigma: float) -> tuple[float, float]:
    return float(sigma), float(sigma)

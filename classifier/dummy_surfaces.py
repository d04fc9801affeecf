"""Surfaces of the dummy set: grain, brushed metal, woven fabric and pads, each without a part.

A part that is missing is one of the surface's own: a pad, a length of thread, a piece of material.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from data.demo_strips import smooth_noise
from data.drawn_surfaces import draw_brushed_metal, draw_fabric

BASE = (95.0, 150.0)  # grey levels, the mean of a surface
# spread of a surface in grey levels: what is 30 levels stronger is seen at once
GRAIN_SPREAD, BRUSHED_SPREAD, WOVEN_SPREAD = 6.0, 7.0, 9.0
PAD_HEIGHT = (60.0, 90.0)  # grey levels that a pad is brighter than what lies around it
PAD_PITCH = (13.0, 20.0)  # pixels from pad to pad
PAD_SHARE = (0.5, 0.66)  # of the pitch that a pad takes
FINE = 4  # fine pixels per pixel, in which pads and broken edges are drawn


class Surface(NamedTuple):
    """What a good picture shows, before light and camera: (H, W) float32 grey levels.

    `remove(generator)` gives the levels without one part, and how far each pixel belongs to that
    part, 0-1, both (H, W) float32. `highest` is the largest contrast of a missing part.
    """

    levels: np.ndarray
    remove: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]
    highest: float = 255.0


def grain(generator: np.random.Generator, size: int) -> Surface:
    """A cast surface: grain of two sizes, and slow clouds."""
    levels = (
        smooth_noise(generator, (size, size), 0.8, 0.8)
        + 0.7 * smooth_noise(generator, (size, size), 2.5, 2.5)
        + 0.4 * smooth_noise(generator, (size, size), 12, 12)
    )
    levels = _of_spread(levels, GRAIN_SPREAD, generator)
    return Surface(levels, lambda random: _break_out(levels, random))


def brushed(generator: np.random.Generator, size: int) -> Surface:
    """Brushed metal, upright or lying."""
    levels = np.rot90(draw_brushed_metal(generator, size), int(generator.integers(2)))
    levels = _of_spread(levels, BRUSHED_SPREAD, generator)
    return Surface(levels, lambda random: _break_out(levels, random))


def woven(generator: np.random.Generator, size: int) -> Surface:
    """A twill, in which a length of thread may be missing."""
    levels = _of_spread(draw_fabric(generator, size), WOVEN_SPREAD, generator)
    return Surface(levels, lambda random: _pull_thread(levels, random))


def pads(generator: np.random.Generator, size: int) -> Surface:
    """Rows of bright pads, round or square, on a darker board; each is a little different."""
    pitch = generator.uniform(*PAD_PITCH)
    half = pitch * generator.uniform(*PAD_SHARE) / 2
    height = generator.uniform(*PAD_HEIGHT)
    is_round = generator.random() < 0.5
    ground = _of_spread(smooth_noise(generator, (size, size), 1.2, 1.2), 3.0, generator) - 35
    start = generator.uniform(0, pitch, 2) - pitch
    places = [
        (y, x)
        for y in np.arange(start[0], size + pitch, pitch)
        for x in np.arange(start[1], size + pitch, pitch)
    ]
    covers = np.zeros((size, size), np.float32)
    levels = ground.copy()
    for y, x in places:
        cover = _pad(size, y, x, half * generator.uniform(0.94, 1.06), is_round)
        covers = np.maximum(covers, cover)
        levels += cover * (height + generator.normal(0, 3))
    levels += 2.5 * covers * smooth_noise(generator, (size, size), 0.8, 0.8)
    inside = [place for place in places if all(half + 1 < at < size - half - 1 for at in place)]

    def remove(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        y, x = inside[int(random.integers(len(inside)))]
        cover = _pad(size, y, x, half * 1.08, is_round)
        return levels + cover * (ground - levels), cover

    return Surface(levels, remove, height)


def _pad(size: int, y: float, x: float, half: float, is_round: bool) -> np.ndarray:
    """How far each pixel of (size, size) belongs to a pad around (y, x), 0-1."""
    down, right = np.arange(size)[:, None] - y, np.arange(size)[None] - x
    distance = np.hypot(down, right) if is_round else np.maximum(abs(down), abs(right))
    return np.clip(half - distance + 0.5, 0, 1).astype(np.float32)


def _break_out(levels: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A piece is broken out: straight edges, a dark ground, and a bright edge on one side."""
    size = len(levels)
    radius = generator.uniform(0.065, 0.12) * size
    middle = generator.uniform(radius + 3, size - radius - 3, 2)
    angles = np.sort(generator.uniform(0, 2 * np.pi, int(generator.integers(5, 8))))
    reach = radius * generator.uniform(0.7, 1.3, len(angles))
    corners = np.stack(
        [middle[0] + reach * np.cos(angles), middle[1] + reach * np.sin(angles)], axis=1
    )
    drawn = np.zeros((size * FINE, size * FINE), np.uint8)
    cv2.fillPoly(drawn, [np.rint(corners[:, ::-1] * FINE).astype(np.int32)], 255)
    cover = cv2.resize(drawn, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    ground = float(levels.mean()) - 60 + 3 * smooth_noise(generator, levels.shape, 1.5, 1.5)
    lit = np.clip(cover - np.roll(cover, (-1, -1), (0, 1)), 0, 1)  # the edge that faces the light
    return levels + cover * (ground - levels) + 45 * lit, cover


def _pull_thread(
    levels: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A length of thread is missing, down or across: a dark channel with uneven ends."""
    size = len(levels)
    width, length = generator.uniform(4.0, 6.5), generator.uniform(0.25, 0.6) * size
    place = generator.uniform(width + 2, size - width - 2)
    start = generator.uniform(2, size - length - 2)
    across, along = np.indices((size, size), np.float32)
    across = across - place - 0.5 * smooth_noise(generator, (size, size), 6, 6)
    along = along - start + 1.2 * smooth_noise(generator, (size, size), 1.5, 1.5)
    sides = np.clip(width / 2 - abs(across) + 0.5, 0, 1)
    cover = (sides * np.clip(along, 0, 1) * np.clip(length - along, 0, 1)).astype(np.float32)
    if generator.random() < 0.5:
        cover = np.ascontiguousarray(cover.T)
    ground = float(levels.mean()) - 60 + 4 * smooth_noise(generator, levels.shape, 1.5, 3)
    return levels + cover * (ground - levels), cover


def _of_spread(levels: np.ndarray, spread: float, generator: np.random.Generator) -> np.ndarray:
    """The levels with another spread, around a mean of BASE."""
    levels = (levels - levels.mean()) / (levels.std() + 1e-6)
    return (generator.uniform(*BASE) + spread * levels).astype(np.float32)


# in a fixed order, in which pictures take turns
SURFACES = {"grain": grain, "brushed": brushed, "woven": woven, "pads": pads}

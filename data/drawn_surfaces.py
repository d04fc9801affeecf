"""Drawn surfaces of the texture data set: woven fabric, brushed metal and leather.

Each function draws one piece (size, size), float32 grey levels without light and camera noise. All
pieces of a surface are made alike; only what varies from piece to piece in production is random.
"""

import cv2
import numpy as np
from scipy.spatial import cKDTree

from data.demo_strips import smooth_noise

FINE = 2  # fine pixels per pixel: threads and lines would alias
WARP_PITCH, WEFT_PITCH = 7.0, 6.0  # pixels from thread to thread
TWILL = 4.0  # threads from one step of the weave to the next one of the same thread
CELL = 9.0  # pixels, the mean distance of two cells of leather


def draw_fabric(generator: np.random.Generator, size: int) -> np.ndarray:
    """Draw a twill: threads that pass over two and under two, a little askew and uneven."""
    side = size * FINE
    y, x = _turned_grid(generator, side, degrees=2.0)
    across, down = (
        place / FINE
        + generator.uniform(0, 100)
        + 0.9 * smooth_noise(generator, (side, side), 40 * FINE, 40 * FINE)
        for place in (x, y)
    )
    warp_height, warp_round, warp_tone = _threads(generator, across, down, WARP_PITCH, WEFT_PITCH)
    weft_height, weft_round, weft_tone = _threads(generator, down, across, WEFT_PITCH, WARP_PITCH)
    is_warp = warp_height > -weft_height
    height = np.where(is_warp, warp_height, -weft_height)
    grain = smooth_noise(generator, (side, side), 1.0 * FINE, 0.6 * FINE)
    levels = np.where(is_warp, 112 + warp_tone, 90 + weft_tone) + 22 * height + 4 * grain
    levels += 38 * (np.where(is_warp, warp_round, weft_round) - 0.6)
    return _to_pixels(levels, size)


def _threads(
    generator: np.random.Generator,
    across: np.ndarray,
    along: np.ndarray,
    pitch: float,
    other_pitch: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Height -1 to 1, roundness 0-1 and tone in grey levels of the thread at each place (h, w)."""
    number = np.floor(across / pitch)
    inside = 2 * (across / pitch - number) - 1
    height = np.sin(2 * np.pi * (number + along / other_pitch) / TWILL)
    index = (number - number.min()).astype(int)
    return height, 1 - inside**2, generator.normal(0, 3, index.max() + 1)[index]


def draw_brushed_metal(generator: np.random.Generator, size: int) -> np.ndarray:
    """Draw metal with the fine lines of brushing, from side to side, of many lengths."""
    side = round(size * 1.2) + 8  # room to turn
    shape = (side, side)
    levels = (
        138
        + 9 * smooth_noise(generator, shape, 0.55, 60)
        + 7 * smooth_noise(generator, shape, 0.8, 14)
        + 5 * smooth_noise(generator, shape, 3, 90)
        + 4 * smooth_noise(generator, shape, 40, 60)
    )
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), generator.uniform(-1.5, 1.5), 1.0)
    levels = cv2.warpAffine(levels, turn, (side, side), flags=cv2.INTER_CUBIC)
    start = (side - size) // 2
    return levels[start : start + size, start : start + size].astype(np.float32)


def draw_leather(generator: np.random.Generator, size: int) -> np.ndarray:
    """Draw cells of uneven size with dark creases between them."""
    cells = round(size / CELL) + 4
    rows, columns = np.indices((cells, cells), np.float32) - 1.5
    seeds = np.stack([rows, columns + 0.5 * (rows % 2)], axis=2).reshape(-1, 2)
    seeds = (seeds + generator.uniform(-0.38, 0.38, seeds.shape)) * CELL
    bend = 1.5 * np.stack([smooth_noise(generator, (size, size), 6, 6) for _ in range(2)], axis=2)
    places = np.moveaxis(np.indices((size, size), np.float32), 0, 2) + bend
    distances, owners = cKDTree(seeds).query(places.reshape(-1, 2), k=2)
    crease = np.clip((distances[:, 1] - distances[:, 0]) / 3.5, 0, 1).reshape(size, size)
    tone = generator.normal(0, 5, len(seeds))[owners[:, 0]].reshape(size, size)
    levels = 62 + 48 * crease * (2 - crease) + tone * crease
    levels += 5 * smooth_noise(generator, (size, size), 30, 30)
    levels += 4 * smooth_noise(generator, (size, size), 0.7, 0.7)
    return cv2.GaussianBlur(levels.astype(np.float32), (0, 0), 0.6)


def _turned_grid(
    generator: np.random.Generator, side: int, degrees: float
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (y, x) of a square of fine pixels, turned by up to `degrees` to either side."""
    angle = np.deg2rad(generator.uniform(-degrees, degrees))
    y, x = np.indices((side, side), np.float32)
    return y * np.cos(angle) + x * np.sin(angle), x * np.cos(angle) - y * np.sin(angle)


def _to_pixels(levels: np.ndarray, size: int) -> np.ndarray:
    fine = cv2.GaussianBlur(levels.astype(np.float32), (0, 0), 0.4 * FINE)
    return cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA)

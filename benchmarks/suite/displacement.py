"""How the channels of a strip are displaced: shifts of rows, constant or along the strip."""

import cv2
import numpy as np

from benchmarks.suite.levels import Amounts
from data.demo_strips import OVERSAMPLING, PATTERN_MARGIN

SMALLEST_SHIFT = 0.3  # pixels: the least length of a constant shift
WANDER_WAVES = (250.0, 1000.0)  # rows: the wavelengths of a wandering shift
WANDER_SHARE_X = (0.1, 0.4)  # of the largest wander: strips wander far less across than along


def draw_shift(generator: np.random.Generator, amounts: Amounts, height: int) -> np.ndarray:
    """The shift (y, x) of each row of a reference, (H, 2) in pixels."""
    shift = np.zeros((height, 2))
    if amounts.shift:
        constant = np.zeros(2)
        while np.hypot(*constant) < SMALLEST_SHIFT:
            constant = generator.uniform(-amounts.shift, amounts.shift, 2)
        shift += constant
    if amounts.wander:
        shift[:, 0] += amounts.wander * generator.uniform(0.5, 1) * draw_wander(generator, height)
        shift[:, 1] += (
            amounts.wander * generator.uniform(*WANDER_SHARE_X) * draw_wander(generator, height)
        )
    return shift


def draw_wander(generator: np.random.Generator, height: int) -> np.ndarray:
    """A smooth curve over the rows, (H,), whose lowest value is -1 and whose highest is 1."""
    wavelengths = np.exp(generator.uniform(*np.log(WANDER_WAVES), 3))
    phases = generator.uniform(0, 2 * np.pi, 3)
    curve = np.sin(2 * np.pi * np.arange(height)[:, None] / wavelengths + phases).sum(axis=1)
    return 2 * (curve - curve.min()) / np.ptp(curve) - 1


def move_rows(pattern: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """A pattern on the fine grid, moved down and to the right by `shift`.

    `shift` is (H, 2): (y, x) in camera pixels for each camera row.
    """
    if not shift.any():
        return pattern
    height, width = pattern.shape
    rows = (np.arange(height) + 0.5) / OVERSAMPLING - 0.5 - PATTERN_MARGIN
    fine_shift = [np.interp(rows, np.arange(len(shift)), along) * OVERSAMPLING for along in shift.T]
    from_y = (np.arange(height) - fine_shift[0])[:, None]
    from_x = np.arange(width) - fine_shift[1][:, None]
    maps = from_x.astype(np.float32), np.broadcast_to(from_y, pattern.shape).astype(np.float32)
    return cv2.remap(pattern, *maps, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def move_point(center: tuple[float, float], shift: np.ndarray) -> tuple[float, float]:
    """The place (y, x) to which a shift (H, 2) moves a point: the row of arrival decides."""
    y = center[0]
    # The shifts of adjacent rows differ by a few hundredths of a pixel, so each iteration divides
    # the error by about fifty.
    for _ in range(4):
        move_y, move_x = (np.interp(y, np.arange(len(shift)), along) for along in shift.T)
        y = center[0] + move_y
    return float(y), float(center[1] + move_x)

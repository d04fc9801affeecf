"""Drawn objects of the texture data set: a gear and a chip, which turn and shift.

Each function draws one part on its ground: grey levels (size, size) float32 without light and
camera noise, and where the part is (size, size) bool. The light comes from the upper left and does
not turn with the part.
"""

import cv2
import numpy as np

from data.demo_strips import smooth_noise

FINE = 3  # fine pixels per pixel
LARGEST_SHIFT = 0.06  # of the picture's side, in y and in x
SCALES = (0.97, 1.03)
TEETH = 16
PINS = 7  # on each of the chip's two sides
# lines of print: distance from the middle and width of a stroke in shares of the side, and signs,
# each 3 x 5 cells of a stroke's width as the bits of a number, row by row
PRINT = (
    (-0.03, 0.017, (0o75557, 0o44744, 0o71747, 0o55711, 0o26227, 0o75757)),
    (0.085, 0.012, (0o71747, 0o75711, 0o55711, 0o75157, 0o00700, 0o72222, 0o57555)),
)
PRINT_LEVEL = 120.0  # grey levels
SHADING = 60.0  # grey levels of a step that faces the light
SHADOW = 30.0  # grey levels, beside the part


def draw_gear(generator: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a turned gear wheel, at any angle, on a conveyor belt."""
    side = size * FINE
    levels, height = np.full((side, side), 150, np.float32), np.zeros((side, side), np.float32)
    turn = np.linspace(0, 2 * np.pi, 16 * TEETH, endpoint=False)
    tooth = np.clip(2.5 * np.cos(TEETH * turn), -1, 1)
    outline = (0.37 + 0.028 * tooth)[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    _fill(height, outline, 1.0)
    _ring(height, (0, 0), 0.305, 0.7)  # the web is lower than rim and hub
    _ring(height, (0, 0), 0.145, 1.0)
    for angle in np.arange(6) * np.pi / 3:
        _ring(height, (0.225 * np.sin(angle), 0.225 * np.cos(angle)), 0.042, 0.0)
    _ring(height, (0, 0), 0.075, 0.0)
    _fill(height, np.array([(0.02, 0.06), (0.02, 0.1), (-0.02, 0.1), (-0.02, 0.06)]), 0.0)
    y, x = (np.indices((side, side), np.float32) + 0.5) / side - 0.5
    radius = np.hypot(y, x)
    marks = smooth_noise(generator, (side, 8), 0.7 * FINE, 2.0)[:, 0]  # of the lathe
    levels += 5 * np.interp(radius, np.arange(side) / side, marks)
    levels -= 14 * ((radius > 0.145) & (radius < 0.305))
    return _place(generator, size, levels, height, degrees=180.0, ground=52.0)


def draw_chip(generator: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a chip with its pins and print, nearly upright, on a board."""
    side = size * FINE
    levels, height = np.full((side, side), 190, np.float32), np.zeros((side, side), np.float32)
    for pin in (np.arange(PINS) - (PINS - 1) / 2) * 0.085:
        for sign in (-1, 1):
            _box(height, (sign * 0.235, pin), (0.16, 0.036), 0.45)
            _box(levels, (sign * 0.292, pin), (0.05, 0.036), 165)
    _box(height, (0, 0), (0.36, 0.64), 1.0)
    _box(levels, (0, 0), (0.36, 0.64), 66)
    _ring(height, (0.125, -0.265), 0.022, 0.75)  # marks the first pin
    _box(height, (0, -0.3), (0.06, 0.03), 0.7)
    for row, stroke, numbers in PRINT:
        for place, number in enumerate(numbers):
            _glyph(levels, (row, -0.2 + place * 4.2 * stroke), stroke, number)
    levels += 2.5 * smooth_noise(generator, (side, side), 0.8 * FINE, 0.8 * FINE)
    return _place(generator, size, levels, height, degrees=12.0, ground=98.0)


def _place(
    generator: np.random.Generator,
    size: int,
    levels: np.ndarray,
    height: np.ndarray,
    degrees: float,
    ground: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Turn and shift a part, drawn in fine pixels around the middle, and light it.

    `height` is 0 where the ground shows through, up to 1; the turn is up to `degrees` to either
    side.
    """
    side = size * FINE
    matrix = cv2.getRotationMatrix2D(
        (side / 2, side / 2), generator.uniform(-degrees, degrees), generator.uniform(*SCALES)
    )
    matrix[:, 2] += generator.uniform(-LARGEST_SHIFT, LARGEST_SHIFT, 2) * side
    levels, height = (cv2.warpAffine(plane, matrix, (side, side)) for plane in (levels, height))
    part = cv2.GaussianBlur(np.minimum(1, 4 * height), (0, 0), 0.3 * FINE)
    round_height = cv2.GaussianBlur(height, (0, 0), 0.8 * FINE)
    lit = SHADING * FINE * (_slope(round_height, 0) + _slope(round_height, 1))
    shade = np.roll(cv2.GaussianBlur(part, (0, 0), 2 * FINE), (2 * FINE, 2 * FINE), (0, 1))
    belt = ground + 5 * smooth_noise(generator, (side, side), 0.7 * FINE, 0.7 * FINE)
    belt += 4 * smooth_noise(generator, (side, side), 20 * FINE, 20 * FINE) - SHADOW * shade
    tone = levels + lit + generator.uniform(-6, 6)
    tone += 2.5 * smooth_noise(generator, (side, side), 0.6 * FINE, 0.6 * FINE)
    picture = (part * tone + (1 - part) * belt).astype(np.float32)
    small, cover = (
        cv2.resize(plane, (size, size), interpolation=cv2.INTER_AREA) for plane in (picture, part)
    )
    return cv2.GaussianBlur(small, (0, 0), 0.5), cover > 0.5


def _slope(height: np.ndarray, axis: int) -> np.ndarray:
    return np.clip(np.gradient(height, axis=axis), -0.3, 0.3)


def _fill(plane: np.ndarray, corners: np.ndarray, value: float) -> None:
    """Fill a polygon of corners (y, x), in shares of the side from the middle."""
    fine = np.rint((corners[:, ::-1] + 0.5) * len(plane)).astype(np.int32)
    cv2.fillPoly(plane, [fine], value)


def _ring(plane: np.ndarray, centre: tuple[float, float], radius: float, value: float) -> None:
    """Fill a circle around (y, x), in shares of the side from the middle."""
    y, x = (round((place + 0.5) * len(plane)) for place in centre)
    cv2.circle(plane, (x, y), round(radius * len(plane)), value, cv2.FILLED)


def _glyph(plane: np.ndarray, corner: tuple[float, float], stroke: float, number: int) -> None:
    """Print one sign of PRINT with its upper left cell at (y, x)."""
    for cell in range(15):
        if number >> (14 - cell) & 1:
            y, x = corner[0] + cell // 3 * stroke, corner[1] + cell % 3 * stroke
            _box(plane, (y, x), (stroke, stroke), PRINT_LEVEL)


def _box(
    plane: np.ndarray, centre: tuple[float, float], sides: tuple[float, float], value: float
) -> None:
    """Fill an upright rectangle (height, width) around (y, x), in shares of the side."""
    half_y, half_x = sides[0] / 2, sides[1] / 2
    corners = [(-half_y, -half_x), (-half_y, half_x), (half_y, half_x), (half_y, -half_x)]
    _fill(plane, np.array(corners) + centre, value)

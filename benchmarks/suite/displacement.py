"""How the channels of a strip are displaced: shifts of rows, bent parts and vibration."""

from dataclasses import dataclass

import cv2
import numpy as np

from benchmarks.suite.levels import Amounts
from data.demo_strips import OVERSAMPLING, PATTERN_MARGIN
from gaussian import REF1, REF2
from ops.filters import gaussian_window

SMALLEST_SHIFT = 0.3  # pixels: the least length of a constant shift
WANDER_WAVES = (250.0, 1000.0)  # rows: the wavelengths of a wandering shift
WANDER_SHARE_X = (0.1, 0.4)  # of the largest wander: strips wander far less across than along
BEND_COUNT = (1, 3)  # fewest and most bent parts of a shot
BEND_SIGMA = (20.0, 45.0)  # pixels, along y and along x
# channels that differ from the others in a bent part: a bent Target moves both references
BENT = ((REF1,), (REF2,), (REF1, REF2))
VIBRATION_ROWS = (0.0, 2.0)  # rows: sigma of the Gaussian that correlates a vibration


@dataclass(frozen=True)
class Bend:
    """A part of the strip that is displaced, by a Gaussian of the distance to its centre."""

    center: tuple[float, float]  # (y, x) in pixels
    sigma: tuple[float, float]  # pixels
    largest: tuple[float, float]  # (y, x) in pixels, at the centre

    def at(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """The displacement (y, x) in pixels at each of the rows `y` and columns `x`: (2, h, w)."""
        along_y, along_x = (
            np.exp(-0.5 * ((places - center) / sigma) ** 2)
            for places, center, sigma in zip((y, x), self.center, self.sigma)
        )
        return np.multiply.outer(self.largest, np.outer(along_y, along_x))


@dataclass(frozen=True)
class Displacement:
    """Where a channel shows the part: each pixel moves by what is said of its place of arrival."""

    shift: np.ndarray  # (H, 2): (y, x) in pixels, smooth over the rows
    bends: tuple[Bend, ...] = ()
    jitter: np.ndarray | None = None  # (H,): pixels in x, of each camera row by itself

    def move_pattern(self, pattern: np.ndarray) -> np.ndarray:
        """A pattern on the fine grid, displaced."""
        if not self.bends and self.jitter is None:
            return move_rows(pattern, self.shift)
        y, x = (
            (np.arange(length) + 0.5) / OVERSAMPLING - 0.5 - PATTERN_MARGIN
            for length in pattern.shape
        )
        last = len(self.shift) - 1
        moved = np.stack([np.interp(y, np.arange(last + 1), along) for along in self.shift.T])
        if self.jitter is not None:
            moved[1] += self.jitter[np.clip(np.rint(y).astype(int), 0, last)]
        moved = moved[:, :, None] + sum(bend.at(y, x) for bend in self.bends)
        maps = (
            np.arange(length).reshape(shape) - OVERSAMPLING * along
            for length, shape, along in zip(pattern.shape, ((-1, 1), (1, -1)), moved)
        )
        from_y, from_x = (
            np.broadcast_to(along, pattern.shape).astype(np.float32) for along in maps
        )
        return cv2.remap(pattern, from_x, from_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)

    def move_point(self, center: tuple[float, float]) -> tuple[float, float]:
        """The place (y, x) to which a point goes, without the jitter of the rows."""
        if not self.bends:
            return move_point(center, self.shift)
        rows, (y, x) = np.arange(len(self.shift)), center
        for _ in range(6):  # as in `move_point`
            bent = sum(bend.at(np.array([y]), np.array([x]))[:, 0, 0] for bend in self.bends)
            moved = [np.interp(y, rows, along) for along in self.shift.T] + bent
            y, x = np.add(center, moved)
        return float(y), float(x)

    def mean_jitter(self, weights: np.ndarray) -> float:
        """The mean jitter of the rows in pixels, with weights (H,): how much each row counts."""
        return 0.0 if self.jitter is None else float(np.average(self.jitter, weights=weights))


def draw_bends(
    generator: np.random.Generator, amounts: Amounts, image_size: tuple[int, int]
) -> list[tuple[tuple[int, ...], Bend]]:
    """The bent parts of a shot, each with the channels that show it displaced."""
    if not amounts.bend[1]:
        return []
    bends = []
    for _ in range(generator.integers(BEND_COUNT[0], BEND_COUNT[1] + 1)):
        center = tuple(generator.uniform(0, length) for length in image_size)
        angle, largest = generator.uniform(0, 2 * np.pi), generator.uniform(*amounts.bend)
        bend = Bend(
            center,
            tuple(generator.uniform(*BEND_SIGMA, 2)),
            (largest * np.sin(angle), largest * np.cos(angle)),
        )
        bends.append((BENT[generator.integers(len(BENT))], bend))
    return bends


def draw_jitter(generator: np.random.Generator, amounts: Amounts, height: int) -> np.ndarray | None:
    """The vibration of a channel: (H,) pixels in x, white or correlated over a few rows."""
    if not amounts.vibration[1]:
        return None
    jitter, sigma = generator.standard_normal(height), generator.uniform(*VIBRATION_ROWS)
    if generator.integers(2):
        window = gaussian_window(max(sigma, 0.1), 6)
        jitter = np.convolve(np.pad(jitter, 6, "reflect"), window, "valid")
    jitter -= jitter.mean()
    return generator.uniform(*amounts.vibration) * jitter / jitter.std()


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

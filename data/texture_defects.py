"""Defects of the texture data set: scratches, stains, pits, warps and foreign textures.

They shape the material before it is lit and photographed. None of the code is shared with the
pseudo-defects that detectors train and validate on: a detector that has only learned the look of
these must not look good here.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from data.demo_strips import smooth_noise
from gaussian import MAX_GREY

USUAL_SIDE = 192  # pixels of the picture's side for which lengths are given; others scale
WINDOW = 24  # pixels around a spot whose spread says how much a defect must stand out
# grey levels, and share of the spread around it: what is just visible to somebody who looks for it
LEAST_CONTRAST, LEAST_SHARE = 10.0, 0.8
STRENGTHS = (1.0, 4.0)  # times that, log-uniform: many are faint
MOST_CONTRAST = 110.0  # grey levels
LEAST_VISIBLE = 0.35  # share of the just visible contrast that the mean change must have
FEWEST_PIXELS = 6  # of a mask
MARGIN = 8  # pixels from the border to a defect's middle
THIN = 1.4  # times the contrast: a thin line needs more to be seen
ATTEMPTS = 20  # to draw a defect that is visible where it lies


class Spot(NamedTuple):
    """Where a defect lies: the middle (y, x), its contrast in grey levels, pixels per length."""

    y: float
    x: float
    contrast: float
    scale: float


# draws a defect into levels (H, W) at a spot, with a texture of (H, W) at hand; returns the new
# levels and how far each pixel belongs to the defect, 0-1, both (H, W) float32
Damage = Callable[
    [np.ndarray, Spot, np.random.Generator, np.ndarray], tuple[np.ndarray, np.ndarray]
]


def damage(
    levels: np.ndarray,
    part: np.ndarray,
    kind: str,
    generator: np.random.Generator,
    foreign: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a defect of one of the KINDS on the part of a piece.

    `levels` (H, W) are float32 grey levels, `part` (H, W) bool is where it may lie, and `foreign`
    (H, W) another texture. Returns the new levels and the defect's mask (H, W) bool.
    """
    scale = len(levels) / USUAL_SIDE
    margin = round(MARGIN * scale)
    spots = np.argwhere(part[margin:-margin, margin:-margin]) + margin
    best = levels, np.zeros(levels.shape, bool), -1.0
    for _ in range(ATTEMPTS):
        y, x = spots[generator.integers(len(spots))].tolist()
        least = _just_visible(levels, y, x)
        contrast = min(least * _log_uniform(generator, *STRENGTHS), MOST_CONTRAST)
        spot = Spot(y, x, contrast, scale)
        damaged, cover = KINDS[kind](levels, spot, generator, foreign)
        if kind != "warp":  # which may bend the part's outline
            damaged = np.where(part, damaged, levels)
            cover = cover * part
        damaged, mask = np.clip(damaged, 0, MAX_GREY).astype(np.float32), cover > 0.3
        if mask.sum() < FEWEST_PIXELS:
            continue
        visible = float(abs(damaged - levels)[mask].mean()) / least
        if visible > best[2]:
            best = damaged, mask, visible
        if visible >= LEAST_VISIBLE:
            break
    return best[:2]


def _just_visible(levels: np.ndarray, y: int, x: int) -> float:
    """Grey levels by which a defect at (y, x) must stand out from the texture around it."""
    rows, columns = (slice(max(0, place - WINDOW), place + WINDOW + 1) for place in (y, x))
    return LEAST_CONTRAST + LEAST_SHARE * float(levels[rows, columns].std())


def _scratch(
    levels: np.ndarray, spot: Spot, generator: np.random.Generator, foreign: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One to three thin lines that bend a little and vary in depth, side by side."""
    cover = np.zeros(levels.shape, np.float32)
    heading = generator.uniform(0, 2 * np.pi)
    for line in range(int(generator.integers(1, 4))):
        steps = max(8, round(_log_uniform(generator, 22, 120) * spot.scale))
        headings = heading + generator.normal(0, 0.12) + np.cumsum(generator.normal(0, 0.03, steps))
        path = np.cumsum(np.stack([np.cos(headings), np.sin(headings)], axis=1), axis=0)  # (x, y)
        aside = generator.normal(0, 5 * spot.scale, 2) * (line > 0)
        path += np.array([spot.x, spot.y]) + aside - path[steps // 2]
        drawn = np.zeros(levels.shape, np.uint8)
        cv2.polylines(
            drawn, [np.rint(path * 16).astype(np.int32)], False, 255, 1, cv2.LINE_AA, shift=4
        )
        width = generator.uniform(0.4, 1.1) * max(1.0, spot.scale)
        soft = cv2.GaussianBlur(drawn.astype(np.float32), (0, 0), width)
        cover = np.maximum(cover, soft / max(float(soft.max()), 1e-6))
    depth = np.clip(0.85 + 0.3 * smooth_noise(generator, levels.shape, 12, 12), 0.3, 1.3)
    sign = 1 if generator.random() < 0.6 else -1
    ridge = 0.35 * np.roll(cover, (1, 1), (0, 1))  # what was pushed up beside the groove
    return levels + sign * THIN * spot.contrast * depth * (cover - ridge), cover


def _stain(
    levels: np.ndarray, spot: Spot, generator: np.random.Generator, foreign: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A drop that dried: an uneven area with a soft edge, and often a rim."""
    inside = _outline(levels.shape, spot, _log_uniform(generator, 6, 26), generator)
    cover = np.clip(0.5 + inside / generator.uniform(0.15, 0.5), 0, 1)
    rim = generator.uniform(0, 0.7) * np.exp(-((inside / 0.12) ** 2))
    sign = -1 if generator.random() < 0.7 else 1
    uneven = 1 + 0.15 * smooth_noise(generator, levels.shape, 5, 5)
    return levels + sign * spot.contrast * (0.7 * cover * uneven + rim), cover


def _pits(
    levels: np.ndarray, spot: Spot, generator: np.random.Generator, foreign: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One to six small hollows, dark, with a bright edge on the side away from the light."""
    y, x = np.indices(levels.shape, np.float32)
    changed, cover = levels.astype(np.float32), np.zeros(levels.shape, np.float32)
    for pit in range(int(generator.integers(1, 7))):
        aside = generator.normal(0, 8 * spot.scale, 2) * (pit > 0)
        radius = generator.uniform(1.6, 4.2) * spot.scale
        stretch = generator.uniform(0.75, 1.3)
        down, right = (y - spot.y - aside[0]) * stretch, (x - spot.x - aside[1]) / stretch
        hollow = np.exp(-((np.hypot(down, right) / radius) ** 4))
        edge = np.exp(-((np.hypot(down - 0.8 * radius, right - 0.8 * radius) / radius) ** 2))
        changed += 1.2 * spot.contrast * (0.7 * edge * (1 - hollow) - hollow)
        cover = np.maximum(cover, np.maximum(hollow, 0.9 * edge * (1 - hollow)))
    return changed, cover


def _warp(
    levels: np.ndarray, spot: Spot, generator: np.random.Generator, foreign: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The material is pushed aside, twisted or swollen within a circle."""
    y, x = np.indices(levels.shape, np.float32)
    down, right = y - spot.y, x - spot.x
    reach = _log_uniform(generator, 16, 38) * spot.scale
    bump = np.clip(1 - (down**2 + right**2) / reach**2, 0, None) ** 2
    amount = _log_uniform(generator, 4, 13) * spot.scale
    way = generator.integers(3)
    if way == 0:
        angle = generator.uniform(0, 2 * np.pi)
        move_y, move_x = amount * bump * np.sin(angle), amount * bump * np.cos(angle)
    elif way == 1:
        turn = 5 * amount / reach * bump * generator.choice([-1, 1])
        move_y = down * (np.cos(turn) - 1) + right * np.sin(turn)
        move_x = right * (np.cos(turn) - 1) - down * np.sin(turn)
    else:
        swell = np.maximum(amount / reach * bump * generator.choice([-2.0, 3.0]), -0.7)
        move_y, move_x = down * swell, right * swell
    bent = cv2.remap(
        levels.astype(np.float32),
        (x + move_x).astype(np.float32),
        (y + move_y).astype(np.float32),
        cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REFLECT,
    )
    moved = np.hypot(move_y, move_x)
    # all of it is the defect, not only those places where its texture differs by more
    return np.where(moved > 0.02, bent, levels), np.clip(moved / (2.4 * spot.scale), 0, 1)


def _foreign(
    levels: np.ndarray, spot: Spot, generator: np.random.Generator, foreign: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A piece of another material, about as bright and as rough as what it covers."""
    inside = _outline(levels.shape, spot, _log_uniform(generator, 7, 28), generator)
    cover = np.clip(0.5 + inside / 0.15, 0, 1)
    area = cover > 0.5
    if not area.any():
        return levels, cover
    turned = np.rot90(foreign, int(generator.integers(4)))
    turned = np.roll(turned, tuple(generator.integers(0, len(levels), 2).tolist()), (0, 1))
    rough = max(float(levels[area].std()), spot.contrast / 2) * generator.uniform(0.6, 1.2)
    level = float(levels[area].mean()) + generator.choice([-1, 1]) * 0.35 * spot.contrast
    other = level + rough * (turned - turned[area].mean()) / (turned[area].std() + 1e-3)
    opacity = generator.uniform(0.6, 1.0)
    return levels + opacity * cover * (other - levels), cover


def _outline(
    shape: tuple[int, int], spot: Spot, radius: float, generator: np.random.Generator
) -> np.ndarray:
    """How far inside an uneven outline each pixel lies, in radii (H, W): negative outside."""
    y, x = np.indices(shape, np.float32)
    angle = np.arctan2(y - spot.y, x - spot.x)
    uneven = np.ones(shape, np.float32)
    for waves in (1, 2, 3, 5):
        uneven += (
            0.16
            / waves**0.5
            * generator.normal()
            * np.cos(waves * angle + generator.uniform(0, 2 * np.pi))
        )
    radius = radius * spot.scale * np.clip(uneven, 0.35, 1.8)
    return 1 - np.hypot(y - spot.y, x - spot.x) / radius


def _log_uniform(generator: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(generator.uniform(np.log(low), np.log(high))))


# folder of each kind, and how it is drawn
KINDS: dict[str, Damage] = {
    "scratch": _scratch,
    "stain": _stain,
    "pits": _pits,
    "warp": _warp,
    "foreign": _foreign,
}

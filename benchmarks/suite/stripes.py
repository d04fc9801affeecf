"""Stripes: lines of the part that each channel of a strip shows with another strength."""

from dataclasses import dataclass

import numpy as np

from data.demo_strips import OVERSAMPLING, PATTERN_MARGIN

STRIPE_COUNT = (2, 5)  # fewest and most stripes of a strip
STRIPE_WIDTH = (1.0, 3.0)  # pixels
STRIPE_STRENGTH = (12.0, 30.0)  # grey levels, bright or dark
STRIPE_FACTOR = (0.6, 1.4)  # by which each channel multiplies a stripe's strength


@dataclass(frozen=True)
class Stripe:
    """A bright or dark line of the part."""

    start: tuple[float, float]  # (y, x) in pixels; may lie beyond the strip
    stop: tuple[float, float]
    strength: float  # grey levels, negative where the line is dark


def draw_stripes(generator: np.random.Generator, image_size: tuple[int, int]) -> tuple[Stripe, ...]:
    """Lines along or across the strip; half of them span it completely."""
    stripes = []
    for _ in range(generator.integers(STRIPE_COUNT[0], STRIPE_COUNT[1] + 1)):
        along = int(generator.integers(2))
        length = image_size[along] * generator.uniform(0.3, 0.8)
        first = generator.uniform(0, image_size[along] - length)
        line = generator.uniform(0, image_size[1 - along])
        spans = {
            1 - along: (line, line + generator.uniform(*STRIPE_WIDTH)),
            along: (first, first + length),
        }
        if generator.integers(2):
            spans[along] = (-PATTERN_MARGIN - 1, image_size[along] + PATTERN_MARGIN)
        strength = generator.choice([-1.0, 1.0]) * generator.uniform(*STRIPE_STRENGTH)
        stripes.append(Stripe(*zip(spans[0], spans[1]), strength))
    return tuple(stripes)


def add_stripes(
    pattern: np.ndarray, stripes: tuple[Stripe, ...], factors: np.ndarray
) -> np.ndarray:
    """A copy of a pattern on the fine grid with stripes; factors multiply their strengths."""
    pattern = pattern.copy()
    for stripe, factor in zip(stripes, factors):
        cover_y, cover_x = (_cover(*span) for span in zip(stripe.start, stripe.stop, pattern.shape))
        rows, columns = (
            slice(cover.nonzero()[0].min(), cover.nonzero()[0].max() + 1)
            for cover in (cover_y, cover_x)
        )
        pattern[rows, columns] += (
            stripe.strength * factor * np.outer(cover_y[rows], cover_x[columns])
        )
    return pattern


def _cover(start: float, stop: float, length: int) -> np.ndarray:
    """The share 0-1 of each of `length` fine pixels between two places along one axis.

    `start` and `stop` are in camera pixels.
    """
    pixels = np.arange(length)
    start, stop = ((value + 0.5 + PATTERN_MARGIN) * OVERSAMPLING for value in (start, stop))
    return np.clip(np.minimum(pixels + 1, stop) - np.maximum(pixels, start), 0, 1)

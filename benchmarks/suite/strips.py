"""The strips of the quality suite: levels of difference between the channels, known points.

Patterns are those of the demo strips. A point is added after exposure and gain, so that its
contrast is in grey levels of the shot whatever the gain. It is painted into each of its channels,
at the place to which that channel's shift moves it. The shots of a strip share pattern, stripes and
points, and nothing else. Seed, level, number and shot determine a strip completely.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from benchmarks.suite.displacement import draw_shift, move_point, move_rows
from benchmarks.suite.levels import AMOUNTS, LEVELS, SUITE_SEED, Amounts
from benchmarks.suite.points import (
    CHANNELS,
    DISTRACTORS,
    Point,
    draw_points,
    paint_on_shot,
    presences,
)
from benchmarks.suite.stripes import STRIPE_FACTOR, Stripe, add_stripes, draw_stripes
from data.demo_strips import (
    STRIP_SIZE,
    add_sensor_noise,
    apply_exposure,
    draw_exposure,
    draw_pattern,
    sample_to_sensor,
)
from gaussian import REF1, REF2, TARGET

PART, POINTS, SHOT = range(3)  # purposes of a generator


@dataclass(frozen=True)
class SuiteStrip:
    """One shot of one strip: image (3, H, W) float32, grey levels 0-255, and its points.

    The points are those of all channels.
    """

    level: str
    number: int
    shot: int
    image: np.ndarray
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Part:
    """Everything that the shots of a strip share."""

    pattern: np.ndarray  # on the fine grid, with its margin
    stripes: tuple[Stripe, ...]
    points: tuple[Point, ...]


def make_suite_strip(
    level: str,
    number: int,
    shot: int,
    seed: int = SUITE_SEED,
    image_size: tuple[int, int] = STRIP_SIZE,
) -> SuiteStrip:
    """Shot `shot` of strip `number` of a level; `image_size` is (height, width).

    Raises `ValueError` where the level is unknown or the strip is too small for its points.
    """
    part = make_part(level, number, seed, tuple(image_size), presences(number))
    image = shoot_part(
        part, level, seeded_generator(level, number, seed, SHOT, shot), tuple(image_size)
    )
    return SuiteStrip(level, number, shot, image, part.points)


def make_good_strip(
    level: str, number: int, seed: int, image_size: tuple[int, int] = STRIP_SIZE
) -> np.ndarray:
    """A strip (3, H, W) like those of a level, with distractors only and another seed.

    Settings and thresholds may be chosen on such strips. Raises `ValueError` for SUITE_SEED, as
    nothing may be chosen on the parts of the suite.
    """
    if seed == SUITE_SEED:
        raise ValueError(f"found seed {seed}, expected another one: it is the suite's own")
    part = make_part(level, number, seed, tuple(image_size), DISTRACTORS)
    return shoot_part(
        part, level, seeded_generator(level, number, seed, SHOT, 0), tuple(image_size)
    )


def seeded_generator(
    level: str, number: int, seed: int, purpose: int, shot: int = 0
) -> np.random.Generator:
    """The generator of one purpose.

    Its seed begins with SUITE_SEED whatever `seed` is, so that no other script has the same one.
    """
    return np.random.default_rng((SUITE_SEED, seed, LEVELS.index(level), number, purpose, shot))


@lru_cache(maxsize=2)  # callers mostly make the shots of a strip in sequence
def make_part(
    level: str, number: int, seed: int, image_size: tuple[int, int], presences: tuple[str, ...]
) -> Part:
    """The part with a point for each of `presences`. Its pattern is shared and read-only."""
    generator = seeded_generator(level, number, seed, PART)
    pattern = draw_pattern(generator, image_size)
    pattern.flags.writeable = False
    stripes = draw_stripes(generator, image_size) if AMOUNTS[level].striped else ()
    bounds = calculate_bounds(pattern, stripes, AMOUNTS[level], image_size)
    return Part(
        pattern,
        stripes,
        draw_points(seeded_generator(level, number, seed, POINTS), presences, bounds, image_size),
    )


def shoot_part(
    part: Part, level: str, generator: np.random.Generator, image_size: tuple[int, int]
) -> np.ndarray:
    """A shot (3, H, W) float32, grey levels 0-255, with shifted references."""
    amounts, channels = AMOUNTS[level], []
    for channel in (TARGET, REF1, REF2):
        shift = (
            np.zeros((image_size[0], 2))
            if channel == TARGET
            else draw_shift(generator, amounts, image_size[0])
        )
        factors = generator.uniform(*STRIPE_FACTOR, len(part.stripes))
        exposure = draw_exposure(
            generator,
            image_size,
            amounts.gain,
            amounts.offset,
            amounts.illumination,
            amounts.noise_sigma,
        )
        pattern = add_stripes(part.pattern, part.stripes, factors)
        lit = apply_exposure(sample_to_sensor(move_rows(pattern, shift), image_size), exposure)
        for point in part.points:
            if channel in CHANNELS[point.presence]:
                paint_on_shot(lit, point, move_point(point.center, shift))
        channels.append(add_sensor_noise(lit, exposure, generator))
    return np.stack(channels)


def calculate_bounds(
    pattern: np.ndarray, stripes: tuple[Stripe, ...], amounts: Amounts, image_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The darkest and brightest shot (H, W) of a level, grey levels, with one sigma of noise."""
    strengths = np.array([stripe.strength for stripe in stripes])
    spread = amounts.offset + amounts.illumination + amounts.noise_sigma[1]
    bounds = []
    for side in (-1, 1):
        factors = np.where(side * strengths > 0, STRIPE_FACTOR[1], STRIPE_FACTOR[0])
        seen = sample_to_sensor(add_stripes(pattern, stripes, factors), image_size)
        bounds.append((1 + side * amounts.gain) * seen + side * spread)
    return bounds[0], bounds[1]

"""The strips of the quality suite: levels of difference between the channels, known points.

Patterns are those of the demo strips. The shots of a strip share pattern, stripes, points and
clutter, and nothing else. Seed, level, number and shot determine a strip completely.
"""

from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np

from benchmarks.suite.levels import AMOUNTS, SUITE_SEED, Amounts
from benchmarks.suite.placement import distractors, draw_clutter, draw_points, presences
from benchmarks.suite.points import Point
from benchmarks.suite.shots import (
    Conditions,
    Part,
    align_conditions,
    draw_conditions,
    expose,
    light_channel,
    noise_sigma,
    see_points,
)
from benchmarks.suite.stripes import STRIPE_FACTOR, Stripe, add_stripes, draw_stripes
from data.demo_strips import STRIP_SIZE, draw_lines, draw_pattern, sample_to_sensor
from gaussian import MAX_GREY, TARGET

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
class AlignedStrip:
    """A shot whose references show the part as Target does, but for noise.

    Image and sigma of the noise of each pixel are (3, H, W), in grey levels.
    """

    image: np.ndarray
    noise_sigma: np.ndarray


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
    part, by_channel = shoot_part(level, number, shot, seed, tuple(image_size))
    image = render(part, by_channel, tuple(image_size))
    return SuiteStrip(level, number, shot, image, see_points(part, by_channel[TARGET]))


def make_aligned_strip(
    level: str,
    number: int,
    shot: int,
    seed: int = SUITE_SEED,
    image_size: tuple[int, int] = STRIP_SIZE,
) -> AlignedStrip:
    """The same shot with the same Target and noise, and with references that are aligned to it.

    They are displaced, lit and blurred as Target is, and a point that Target shares is clean.
    Nothing but noise, clutter and points differs.
    """
    part, by_channel = shoot_part(level, number, shot, seed, tuple(image_size))
    part = replace(part, points=tuple(replace(point, dirt=None) for point in part.points))
    by_channel = align_conditions(by_channel)
    lit = [
        light_channel(part, number, one, tuple(image_size)) for number, one in enumerate(by_channel)
    ]
    return AlignedStrip(
        np.stack([expose(*channel) for channel in zip(lit, by_channel)]),
        np.stack([noise_sigma(*channel) for channel in zip(lit, by_channel)]),
    )


def make_good_strip(
    level: str, number: int, seed: int, image_size: tuple[int, int] = STRIP_SIZE
) -> np.ndarray:
    """A strip (3, H, W) like those of a level, with distractors only and another seed.

    Settings and thresholds may be chosen on such strips. Raises `ValueError` for SUITE_SEED, as
    nothing may be chosen on the parts of the suite.
    """
    return make_marked_strip(level, number, seed, 0, image_size).image


def make_marked_strip(
    level: str, number: int, seed: int, defects: int, image_size: tuple[int, int] = STRIP_SIZE
) -> SuiteStrip:
    """The same with so many defects. It lacks missing features: where only its defects are marked,
    these would count as false alarms.
    """
    if seed == SUITE_SEED:
        raise ValueError(f"found seed {seed}, expected another one: it is the suite's own")
    amounts, size = find_amounts(level), tuple(image_size)
    part = make_part(level, number, seed, size, ("T",) * defects + distractors(amounts))
    by_channel = draw_conditions(
        part, amounts, seeded_generator(level, number, seed, SHOT, 0), size
    )
    points = see_points(part, by_channel[TARGET])
    return SuiteStrip(level, number, 0, render(part, by_channel, size), points)


def shoot_part(
    level: str, number: int, shot: int, seed: int, image_size: tuple[int, int]
) -> tuple[Part, list[Conditions]]:
    """The part of a strip, and the conditions of each channel of one of its shots."""
    amounts = find_amounts(level)
    part = make_part(level, number, seed, image_size, presences(number, amounts))
    generator = seeded_generator(level, number, seed, SHOT, shot)
    return part, draw_conditions(part, amounts, generator, image_size)


def render(part: Part, by_channel: list[Conditions], image_size: tuple[int, int]) -> np.ndarray:
    """A shot (3, H, W) float32, grey levels 0-255, under the conditions of its channels."""
    return np.stack(
        [
            expose(light_channel(part, channel, conditions, image_size), conditions)
            for channel, conditions in enumerate(by_channel)
        ]
    )


def find_amounts(level: str) -> Amounts:
    """The amounts of a level. Raises `ValueError` where there is no such level."""
    if level not in AMOUNTS:
        raise ValueError(f"found level {level!r}, expected one of {', '.join(AMOUNTS)}")
    return AMOUNTS[level]


def seeded_generator(
    level: str, number: int, seed: int, purpose: int, shot: int = 0
) -> np.random.Generator:
    """The generator of one purpose.

    Its seed begins with SUITE_SEED whatever `seed` is, so that no other script has the same one.
    """
    return np.random.default_rng(
        (SUITE_SEED, seed, tuple(AMOUNTS).index(level), number, purpose, shot)
    )


@lru_cache(maxsize=2)  # callers mostly make the shots of a strip in sequence
def make_part(
    level: str, number: int, seed: int, image_size: tuple[int, int], presences: tuple[str, ...]
) -> Part:
    """The part with a point for each of `presences`. Its pattern is shared and read-only."""
    generator = seeded_generator(level, number, seed, PART)
    amounts = AMOUNTS[level]
    pattern = _draw_pattern(generator, amounts, image_size)
    pattern.flags.writeable = False
    stripes = draw_stripes(generator, image_size) if amounts.striped else ()
    bounds = calculate_bounds(pattern, stripes, amounts, image_size)
    return Part(
        pattern,
        stripes,
        draw_points(
            seeded_generator(level, number, seed, POINTS), presences, bounds, image_size, amounts
        ),
        draw_clutter(generator, amounts, image_size),
    )


def _draw_pattern(
    generator: np.random.Generator, amounts: Amounts, image_size: tuple[int, int]
) -> np.ndarray:
    if not amounts.pitch:
        return draw_pattern(generator, image_size)
    return draw_pattern(generator, image_size, (partial(draw_lines, pitch_range=amounts.pitch),))


def calculate_bounds(
    pattern: np.ndarray, stripes: tuple[Stripe, ...], amounts: Amounts, image_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The darkest and brightest shot (H, W) of a level, grey levels, with one sigma of noise."""
    strengths = np.array([stripe.strength for stripe in stripes])
    variance = amounts.noise_sigma[1] ** 2 + amounts.signal_noise[1] * MAX_GREY
    sigma = np.sqrt(variance + amounts.column_noise[1] ** 2)
    spread = amounts.offset + amounts.illumination + sigma
    bounds = []
    for side, overexposure in zip((-1, 1), amounts.overexposure):
        factors = np.where(side * strengths > 0, STRIPE_FACTOR[1], STRIPE_FACTOR[0])
        seen = sample_to_sensor(add_stripes(pattern, stripes, factors), image_size)
        bounds.append(overexposure * (1 + side * amounts.gain) * seen + side * spread)
    return bounds[0], bounds[1]

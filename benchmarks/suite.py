"""The strips of the quality suite: seven levels of what differs between the channels, with points
of known place and contrast.

    python -m benchmarks.suite --output FILE.png     # one strip of each level, to look at

Patterns are those of the demo strips. A point is a Gaussian with a sub-pixel centre, added to what
was lit and amplified, so that its contrast is in grey levels of the shot whatever the gain. One in
Target only is a defect; every other one is a feature of the part, painted into each of its channels
where that channel's shift has moved it. Several shots of a strip have the same pattern, stripes and
points and nothing else in common. Seed, level, number and shot decide everything.
"""

import argparse
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from data.demo_strips import (
    ILLUMINATION_SPREAD,
    OFFSET_SPREAD,
    OVERSAMPLING,
    PATTERN_MARGIN,
    SENSOR_NOISE_SIGMA,
    STRIP_SIZE,
    add_sensor_noise,
    apply_exposure,
    draw_exposure,
    draw_pattern,
    sample_to_sensor,
)
from evaluation.matching import region_of
from gaussian import (
    MAX_GREY,
    REF1,
    REF2,
    TARGET,
    TARGET_ONLY,
    WITH_BOTH,
    WITH_REF1,
    WITH_REF2,
    paint_point,
)
from ops.tiling import PATCH_SIZES

# of the suite alone: what is trained, chosen or calibrated has other seeds
SUITE_SEED = 604_171_983
STRIP_COUNT = 20  # strips of a level, numbered from 0
SHOT_COUNT = 3  # shots of a strip, numbered from 0

CHANNELS = {  # presence to the channels that a point is in
    "T": TARGET_ONLY,  # a defect
    "T1": WITH_REF1,
    "T2": WITH_REF2,
    "T12": WITH_BOTH,
    "R1": (REF1,),
    "R2": (REF2,),
    "R12": (REF1, REF2),  # a missing feature
}
# how many points in Target only have strip 0, 1, ... of each ten
DEFECTS = (0, 0, 0, 1, 1, 1, 18, 18, 18, 18)
DISTRACTORS = ("T1", "T2", "T12", "R1", "R2") * 2  # of every strip
MISSING_FEATURES = ("R12", "R12")  # of every strip of the suite; a good strip has none

# grey levels, equally often, dark as often as bright where both fit
CONTRASTS = (10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 60.0, 80.0)
POINT_SIGMA = (0.7, 1.6)  # pixels, along y and along x
# equally often, so half of the points lie in the interior
PLACES = ("border", "seam", "interior", "interior")
SMALLEST_DISTANCE = 12.0  # pixels between two centres
MOST_TRIES = 5000  # to find a place for a point

SMALLEST_SHIFT = 0.3  # pixels, the length of a constant shift
WANDER_WAVES = (250.0, 1000.0)  # rows, the wavelengths of a wandering shift
WANDER_SHARE_X = (0.1, 0.4)  # of the largest wander: it is across the strip much less than along it
STRIPE_COUNT = (2, 5)  # fewest and most of a strip
STRIPE_WIDTH = (1.0, 3.0)  # pixels
STRIPE_STRENGTH = (12.0, 30.0)  # grey levels, bright or dark
STRIPE_FACTOR = (0.6, 1.4)  # what each channel makes of a stripe's strength

PART, POINTS, SHOT = range(3)  # what a generator is for


@dataclass(frozen=True)
class Amounts:
    """How much the channels of a level differ."""

    gain: float = 0.0  # each channel's gain is 1 +- this
    offset: float = 0.0  # grey levels
    illumination: float = 0.0  # grey levels
    noise_sigma: tuple[float, float] = SENSOR_NOISE_SIGMA  # grey levels, drawn for each channel
    shift: float = 0.0  # pixels in y and in x, the largest constant shift of a reference
    wander: float = 0.0  # pixels, the largest shift that comes and goes along the strip
    striped: bool = False


LIT = {"gain": 0.12, "offset": OFFSET_SPREAD, "illumination": ILLUMINATION_SPREAD}
AMOUNTS = {
    "clean": Amounts(noise_sigma=(1.0, 1.0)),
    "gain": Amounts(**LIT),
    "shift": Amounts(shift=0.9),
    "wandering": Amounts(wander=0.9),
    "noise": Amounts(noise_sigma=(5.0, 5.0)),
    "stripes": Amounts(striped=True),
    "everything": Amounts(**LIT, noise_sigma=(1.5, 5.0), shift=0.45, wander=0.45, striped=True),
}
LEVELS = tuple(AMOUNTS)


@dataclass(frozen=True)
class Point:
    """A Gaussian point; centre and sigma (y, x) in pixels of Target, whole numbers in the middle of
    a pixel.

    The amplitude is that of the centre: where it lies between pixels the brightest of them shows
    less, at the worst 60 %.
    """

    center: tuple[float, float]
    sigma: tuple[float, float]
    amplitude: float  # grey levels, negative where the point is dark
    presence: str  # one of CHANNELS
    place: str  # one of PLACES

    @property
    def contrast(self) -> float:
        """Grey levels, positive."""
        return abs(self.amplitude)


@dataclass(frozen=True)
class SuiteStrip:
    """One shot of one strip: image (3, H, W) float32, grey levels 0-255, and every point of it, in
    whichever channel.
    """

    level: str
    number: int
    shot: int
    image: np.ndarray
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Stripe:
    """A bright or dark line of the part: first and last (y, x) in pixels, may lie beyond the strip,
    and strength in grey levels.
    """

    start: tuple[float, float]
    stop: tuple[float, float]
    strength: float


@dataclass(frozen=True)
class Part:
    """What the shots of a strip have in common. The pattern is on the fine grid with its margin."""

    pattern: np.ndarray
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

    Raises `ValueError` where the level is unknown or the points do not fit into so small a strip.
    """
    part = _make_part(level, number, seed, tuple(image_size), _presences(number))
    image = _shoot_part(part, level, _generator(level, number, seed, SHOT, shot), tuple(image_size))
    return SuiteStrip(level, number, shot, image, part.points)


def make_good_strip(
    level: str, number: int, seed: int, image_size: tuple[int, int] = STRIP_SIZE
) -> np.ndarray:
    """A strip (3, H, W) like those of a level, of another seed, with distractors alone: to choose
    settings and thresholds on.

    Raises `ValueError` for SUITE_SEED: nothing may be chosen on the suite's own parts.
    """
    if seed == SUITE_SEED:
        raise ValueError(f"found seed {seed}, expected another one: it is the suite's own")
    part = _make_part(level, number, seed, tuple(image_size), DISTRACTORS)
    return _shoot_part(part, level, _generator(level, number, seed, SHOT, 0), tuple(image_size))


def _presences(number: int) -> tuple[str, ...]:
    """One for each point of strip `number` of the suite."""
    return ("T",) * DEFECTS[number % len(DEFECTS)] + DISTRACTORS + MISSING_FEATURES


def _generator(
    level: str, number: int, seed: int, purpose: int, shot: int = 0
) -> np.random.Generator:
    """The suite's number goes first, whatever the seed: no other script's generators begin like
    these.
    """
    return np.random.default_rng((SUITE_SEED, seed, LEVELS.index(level), number, purpose, shot))


@lru_cache(maxsize=2)  # the shots of a strip mostly follow one another
def _make_part(
    level: str, number: int, seed: int, image_size: tuple[int, int], presences: tuple[str, ...]
) -> Part:
    """The part with one point of each of `presences`. Its pattern is read-only: it is shared."""
    generator = _generator(level, number, seed, PART)
    pattern = draw_pattern(generator, image_size)
    pattern.flags.writeable = False
    stripes = _draw_stripes(generator, image_size) if AMOUNTS[level].striped else ()
    bounds = _calculate_bounds(pattern, stripes, AMOUNTS[level], image_size)
    return Part(
        pattern,
        stripes,
        _draw_points(_generator(level, number, seed, POINTS), presences, bounds, image_size),
    )


def _shoot_part(
    part: Part, level: str, generator: np.random.Generator, image_size: tuple[int, int]
) -> np.ndarray:
    """A shot (3, H, W) float32, grey levels 0-255; references are shifted, Target is not."""
    amounts, channels = AMOUNTS[level], []
    for channel in (TARGET, REF1, REF2):
        shift = (
            np.zeros((image_size[0], 2))
            if channel == TARGET
            else _draw_shift(generator, amounts, image_size[0])
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
        pattern = _add_stripes(part.pattern, part.stripes, factors)
        lit = apply_exposure(sample_to_sensor(move_rows(pattern, shift), image_size), exposure)
        for point in part.points:
            if channel in CHANNELS[point.presence]:
                _paint(lit, point, _move_point(point.center, shift))
        channels.append(add_sensor_noise(lit, exposure, generator))
    return np.stack(channels)


def _draw_shift(generator: np.random.Generator, amounts: Amounts, height: int) -> np.ndarray:
    """How far each row of a reference is moved, (H, 2): (y, x) in pixels."""
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
    """A smooth curve over the rows that goes from -1 to 1 or back, and mostly to and fro in
    between.
    """
    wavelengths = np.exp(generator.uniform(*np.log(WANDER_WAVES), 3))
    phases = generator.uniform(0, 2 * np.pi, 3)
    curve = np.sin(2 * np.pi * np.arange(height)[:, None] / wavelengths + phases).sum(axis=1)
    return 2 * (curve - curve.min()) / np.ptp(curve) - 1


def move_rows(pattern: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """A pattern on the fine grid, moved by `shift` (H, 2), (y, x) camera pixels for each camera
    row, down and to the right.
    """
    if not shift.any():
        return pattern
    height, width = pattern.shape
    rows = (np.arange(height) + 0.5) / OVERSAMPLING - 0.5 - PATTERN_MARGIN
    fine_shift = [np.interp(rows, np.arange(len(shift)), along) * OVERSAMPLING for along in shift.T]
    from_y, from_x = (
        (np.arange(height) - fine_shift[0])[:, None],
        np.arange(width) - fine_shift[1][:, None],
    )
    maps = from_x.astype(np.float32), np.broadcast_to(from_y, pattern.shape).astype(np.float32)
    return cv2.remap(pattern, *maps, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def _move_point(center: tuple[float, float], shift: np.ndarray) -> tuple[float, float]:
    """Where a shift (H, 2) moves a point (y, x): the row that it arrives at decides how far."""
    y = center[0]
    # rows' shifts differ by a few hundredths of a pixel, so each round divides the error by fifty
    for _ in range(4):
        move_y, move_x = (np.interp(y, np.arange(len(shift)), along) for along in shift.T)
        y = center[0] + move_y
    return float(y), float(center[1] + move_x)


def _draw_stripes(
    generator: np.random.Generator, image_size: tuple[int, int]
) -> tuple[Stripe, ...]:
    """Lines along or across the strip, half of them over the whole of it."""
    stripes = []
    for _ in range(generator.integers(STRIPE_COUNT[0], STRIPE_COUNT[1] + 1)):
        along = int(generator.integers(2))
        length = image_size[along] * generator.uniform(0.3, 0.8)
        first, line = (
            generator.uniform(0, image_size[along] - length),
            generator.uniform(0, image_size[1 - along]),
        )
        spans = {
            1 - along: (line, line + generator.uniform(*STRIPE_WIDTH)),
            along: (first, first + length),
        }
        if generator.integers(2):
            spans[along] = (-PATTERN_MARGIN - 1, image_size[along] + PATTERN_MARGIN)
        strength = generator.choice([-1.0, 1.0]) * generator.uniform(*STRIPE_STRENGTH)
        stripes.append(Stripe(*zip(spans[0], spans[1]), strength))
    return tuple(stripes)


def _add_stripes(
    pattern: np.ndarray, stripes: tuple[Stripe, ...], factors: np.ndarray
) -> np.ndarray:
    """A copy of a pattern on the fine grid with the stripes in it, each one's strength times its
    factor.
    """
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
    """How much of each of `length` fine pixels lies between two places in camera pixels along one
    axis, 0-1.
    """
    pixels = np.arange(length)
    start, stop = ((value + 0.5 + PATTERN_MARGIN) * OVERSAMPLING for value in (start, stop))
    return np.clip(np.minimum(pixels + 1, stop) - np.maximum(pixels, start), 0, 1)


def _calculate_bounds(
    pattern: np.ndarray, stripes: tuple[Stripe, ...], amounts: Amounts, image_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The darkest and the brightest (H, W) that a shot of a level can be, in grey levels, with one
    sigma of noise.
    """
    strengths = np.array([stripe.strength for stripe in stripes])
    spread = amounts.offset + amounts.illumination + amounts.noise_sigma[1]
    bounds = []
    for side in (-1, 1):
        factors = np.where(side * strengths > 0, STRIPE_FACTOR[1], STRIPE_FACTOR[0])
        seen = sample_to_sensor(_add_stripes(pattern, stripes, factors), image_size)
        bounds.append((1 + side * amounts.gain) * seen + side * spread)
    return bounds[0], bounds[1]


def _draw_points(
    generator: np.random.Generator,
    presences: tuple[str, ...],
    bounds: tuple[np.ndarray, np.ndarray],
    image_size: tuple[int, int],
) -> tuple[Point, ...]:
    """One point of each of `presences`, far enough from one another, none of them clipped in any
    shot.
    """
    points: list[Point] = []
    places, contrasts = (
        _deal(generator, PLACES, len(presences)),
        _deal(generator, CONTRASTS, len(presences)),
    )
    for presence, place, contrast in zip(presences, places, contrasts):
        sigma = tuple(generator.uniform(*POINT_SIGMA, 2).tolist())
        amplitude = float(generator.choice([-1.0, 1.0]) * contrast)
        center, amplitude = _find_center(
            generator, place, amplitude, [point.center for point in points], bounds, image_size
        )
        points.append(Point(center, sigma, amplitude, presence, place))
    return tuple(points)


def _deal(generator: np.random.Generator, cards: tuple, count: int) -> list:
    """`count` cards from one shuffled deck after another, so that every card comes equally often."""
    return [
        cards[number]
        for _ in range(-(-count // len(cards)))
        for number in generator.permutation(len(cards))
    ][:count]


def _find_center(
    generator: np.random.Generator,
    place: str,
    amplitude: float,
    others: list[tuple[float, float]],
    bounds: tuple[np.ndarray, np.ndarray],
    image_size: tuple[int, int],
) -> tuple[tuple[float, float], float]:
    """A centre (y, x) in such a place, far from `others`, and the amplitude, its sign changed where
    only that one fits.
    """
    for _ in range(MOST_TRIES):
        center = tuple(float(generator.uniform(0, length - 1)) for length in image_size)
        if region_of(center, image_size, PATCH_SIZES["strip"]) != place or any(
            np.hypot(*np.subtract(center, other)) < SMALLEST_DISTANCE for other in others
        ):
            continue
        for signed in (amplitude, -amplitude):
            if _fits(center, signed, bounds):
                return center, signed
    raise ValueError(
        f"found no room for {len(others) + 1} points on a strip of {image_size} (height, width), expected a larger one"
    )


def _fits(
    center: tuple[float, float], amplitude: float, bounds: tuple[np.ndarray, np.ndarray]
) -> bool:
    """Whether a peak is never clipped, on whichever pixel next to its centre (y, x) a shift puts
    it.
    """
    pixels = tuple(slice(int(value), int(value) + 2) for value in center)
    darkest, brightest = bounds[0][pixels].min(), bounds[1][pixels].max()
    return bool(
        min(darkest, darkest + amplitude) >= 0 and max(brightest, brightest + amplitude) <= MAX_GREY
    )


def _paint(lit: np.ndarray, point: Point, center: tuple[float, float]) -> None:
    """Add a point to a channel (H, W), in place, around a centre (y, x) that may lie beyond the
    edge.
    """
    paint_point(lit, center, point.sigma, point.amplitude)


def draw_levels(number: int, rows: int, seed: int = SUITE_SEED) -> np.ndarray:
    """A picture (h, w, 3) uint8 of the first rows of each level's strip: Target with its defects
    ringed, and |T-R1| four times.
    """
    panels = []
    for level in LEVELS:
        strip = make_suite_strip(level, number, 0, seed, STRIP_SIZE)
        target, difference = (
            strip.image[TARGET, :rows],
            np.abs(strip.image[TARGET] - strip.image[REF1])[:rows],
        )
        for name, plane in ((level, target), ("|T-R1| x4", 4 * difference)):
            panel = cv2.cvtColor(np.clip(plane, 0, MAX_GREY).astype(np.uint8), cv2.COLOR_GRAY2BGR)
            panel = cv2.resize(panel, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
            for point in strip.points if plane is target else ():
                if point.presence == "T":
                    y, x = (round(2 * value + 0.5) for value in point.center)
                    cv2.circle(panel, (x, y), 14, (80, 220, 80))
                    cv2.putText(
                        panel,
                        f"{point.amplitude:+.0f}",
                        (min(x + 12, panel.shape[1] - 26), max(y - 9, 10)),
                        cv2.FONT_HERSHEY_SIMPLEX,
                        0.35,
                        (80, 220, 80),
                    )
            panel = cv2.copyMakeBorder(panel, 22, 0, 0, 6, cv2.BORDER_CONSTANT, value=(32, 32, 32))
            panels.append(
                cv2.putText(panel, name, (2, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (230, 230, 230))
            )
    return np.concatenate(panels, axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="PNG file")
    parser.add_argument("--number", type=int, default=6, help="which strip of each level")
    parser.add_argument("--rows", type=int, default=300, help="how many of its rows")
    arguments = parser.parse_args()
    if not cv2.imwrite(str(arguments.output), draw_levels(arguments.number, arguments.rows)):
        raise SystemExit(f"{arguments.output}: could not be written")


if __name__ == "__main__":
    main()

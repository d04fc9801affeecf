"""The strips of the quality suite: seven levels of difference between the channels, known points.

    python -m benchmarks.suite --output FILE.png     # a picture with one strip of each level

Patterns are those of the demo strips. A point is a Gaussian with a sub-pixel centre. It is added
after exposure and gain, so that its contrast is in grey levels of the shot whatever the gain. A
point in Target only is a defect. Every other point is a feature of the part: it is painted into
each of its channels, at the place to which that channel's shift moves it. The shots of a strip
share pattern, stripes and points, and nothing else. Seed, level, number and shot determine a strip
completely.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from benchmarks.command_line import make_parser
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

# of the suite only: trainings, choices and calibrations use other seeds
SUITE_SEED = 604_171_983
STRIP_COUNT = 20  # strips of a level, numbered from 0
SHOT_COUNT = 3  # shots of a strip, numbered from 0

CHANNELS = {  # presence of a point to the channels that contain it
    "T": TARGET_ONLY,  # a defect
    "T1": WITH_REF1,
    "T2": WITH_REF2,
    "T12": WITH_BOTH,
    "R1": (REF1,),
    "R2": (REF2,),
    "R12": (REF1, REF2),  # a missing feature
}
# number of defects of strip 0, 1, ... of each ten strips
DEFECTS = (0, 0, 0, 1, 1, 1, 18, 18, 18, 18)
DISTRACTORS = ("T1", "T2", "T12", "R1", "R2") * 2  # in every strip
MISSING_FEATURES = ("R12", "R12")  # in every strip of the suite; `make_good_strip` has none

# grey levels: equally often, and dark as often as bright where both fit
CONTRASTS = (10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 60.0, 80.0)
POINT_SIGMA = (0.7, 1.6)  # pixels, along y and along x
# drawn equally often: half of the points lie in the interior
PLACES = ("border", "seam", "interior", "interior")
SMALLEST_DISTANCE = 12.0  # pixels between two centres
MOST_TRIES = 5000  # attempts to find a centre for a point

SMALLEST_SHIFT = 0.3  # pixels: the least length of a constant shift
WANDER_WAVES = (250.0, 1000.0)  # rows: the wavelengths of a wandering shift
WANDER_SHARE_X = (0.1, 0.4)  # of the largest wander: strips wander far less across than along
STRIPE_COUNT = (2, 5)  # fewest and most stripes of a strip
STRIPE_WIDTH = (1.0, 3.0)  # pixels
STRIPE_STRENGTH = (12.0, 30.0)  # grey levels, bright or dark
STRIPE_FACTOR = (0.6, 1.4)  # by which each channel multiplies a stripe's strength

PART, POINTS, SHOT = range(3)  # purposes of a generator


@dataclass(frozen=True)
class Amounts:
    """How much the channels of a level differ."""

    gain: float = 0.0  # largest deviation of a channel's gain from 1
    offset: float = 0.0  # grey levels
    illumination: float = 0.0  # grey levels
    noise_sigma: tuple[float, float] = SENSOR_NOISE_SIGMA  # grey levels, drawn for each channel
    shift: float = 0.0  # pixels in y and in x: the largest constant shift of a reference
    wander: float = 0.0  # pixels: the largest shift that varies along the strip
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
    """A Gaussian point, with centre and sigma (y, x) in pixels of Target.

    A whole number is the middle of a pixel. The amplitude is that at the centre: where the centre
    lies between pixels, the brightest of them shows less, in the worst case 60 %.
    """

    center: tuple[float, float]
    sigma: tuple[float, float]
    amplitude: float  # grey levels, negative where the point is dark
    presence: str  # one of CHANNELS
    place: str  # one of PLACES

    @property
    def contrast(self) -> float:
        """The size of the amplitude in grey levels, positive."""
        return abs(self.amplitude)


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
class Stripe:
    """A bright or dark line of the part."""

    start: tuple[float, float]  # (y, x) in pixels; may lie beyond the strip
    stop: tuple[float, float]
    strength: float  # grey levels, negative where the line is dark


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


def presences(number: int) -> tuple[str, ...]:
    """The presence of each point of strip `number` of the suite."""
    return ("T",) * DEFECTS[number % len(DEFECTS)] + DISTRACTORS + MISSING_FEATURES


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
    stripes = _draw_stripes(generator, image_size) if AMOUNTS[level].striped else ()
    bounds = calculate_bounds(pattern, stripes, AMOUNTS[level], image_size)
    return Part(
        pattern,
        stripes,
        _draw_points(seeded_generator(level, number, seed, POINTS), presences, bounds, image_size),
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
        pattern = _add_stripes(part.pattern, part.stripes, factors)
        lit = apply_exposure(sample_to_sensor(move_rows(pattern, shift), image_size), exposure)
        for point in part.points:
            if channel in CHANNELS[point.presence]:
                paint_on_shot(lit, point, move_point(point.center, shift))
        channels.append(add_sensor_noise(lit, exposure, generator))
    return np.stack(channels)


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


def _draw_stripes(
    generator: np.random.Generator, image_size: tuple[int, int]
) -> tuple[Stripe, ...]:
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


def _add_stripes(
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


def calculate_bounds(
    pattern: np.ndarray, stripes: tuple[Stripe, ...], amounts: Amounts, image_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The darkest and brightest shot (H, W) of a level, grey levels, with one sigma of noise."""
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
    """A point for each of `presences`, far enough from one another and clipped in no shot."""
    points: list[Point] = []
    places = _deal(generator, PLACES, len(presences))
    contrasts = _deal(generator, CONTRASTS, len(presences))
    for presence, place, contrast in zip(presences, places, contrasts):
        sigma = tuple(generator.uniform(*POINT_SIGMA, 2).tolist())
        amplitude = float(generator.choice([-1.0, 1.0]) * contrast)
        center, amplitude = _find_center(
            generator, place, amplitude, [point.center for point in points], bounds, image_size
        )
        points.append(Point(center, sigma, amplitude, presence, place))
    return tuple(points)


def _deal(generator: np.random.Generator, cards: tuple, count: int) -> list:
    """`count` cards from shuffled decks, one after another: every card comes equally often."""
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
    """A centre (y, x) in a place, far from the `others`, and the amplitude.

    The amplitude changes its sign where only the opposite sign fits. Raises `ValueError` where no
    centre is found in MOST_TRIES attempts.
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
        f"found no room for {len(others) + 1} points on a strip of {image_size} (height, width), "
        "expected a larger one"
    )


def _fits(
    center: tuple[float, float], amplitude: float, bounds: tuple[np.ndarray, np.ndarray]
) -> bool:
    """Whether no shot clips a peak, on whichever pixel beside its centre (y, x) it comes to lie."""
    pixels = tuple(slice(int(value), int(value) + 2) for value in center)
    darkest, brightest = bounds[0][pixels].min(), bounds[1][pixels].max()
    return bool(
        min(darkest, darkest + amplitude) >= 0 and max(brightest, brightest + amplitude) <= MAX_GREY
    )


def paint_on_shot(lit: np.ndarray, point: Point, center: tuple[float, float]) -> None:
    """Add a point to a channel (H, W) in place. Its centre (y, x) may lie beyond the edge."""
    paint_point(lit, center, point.sigma, point.amplitude)


def draw_levels(number: int, rows: int, seed: int = SUITE_SEED) -> np.ndarray:
    """A picture (h, w, 3) uint8 of the first rows of each level's strip.

    It shows Target with rings around the defects, and |T-R1| multiplied by four.
    """
    panels = []
    for level in LEVELS:
        strip = make_suite_strip(level, number, 0, seed, STRIP_SIZE)
        target = strip.image[TARGET, :rows]
        difference = np.abs(strip.image[TARGET] - strip.image[REF1])[:rows]
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
    parser = make_parser(__doc__)
    parser.add_argument("--output", type=Path, required=True, help="PNG file")
    parser.add_argument("--number", type=int, default=6, help="which strip of each level")
    parser.add_argument("--rows", type=int, default=300, help="how many of its rows")
    arguments = parser.parse_args()
    if not cv2.imwrite(str(arguments.output), draw_levels(arguments.number, arguments.rows)):
        raise SystemExit(f"{arguments.output}: could not be written")


if __name__ == "__main__":
    main()

"""Which points a strip of the suite has, and where: drawn at random, and clipped in no shot."""

from typing import NamedTuple

import numpy as np

from benchmarks.suite.levels import Amounts
from benchmarks.suite.points import Dirt, Point
from benchmarks.suite.shapes import POINT, POINT_SIGMA, SHAPES, Spots, draw_shape
from evaluation.matching import region_of
from gaussian import MAX_GREY
from ops.tiling import PATCH_SIZES

# number of defects of strip 0, 1, ... of each ten strips
DEFECTS = (0, 0, 0, 1, 1, 1, 18, 18, 18, 18)
DISTRACTORS = ("T1", "T2", "T12", "R1", "R2") * 2  # in every strip
MISSING_FEATURES = ("R12", "R12")  # in every strip of the suite; `make_good_strip` has none

# grey levels: equally often, and dark as often as bright where both fit
CONTRASTS = (10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 60.0, 80.0)
# drawn equally often: half of the points lie in the interior
PLACES = ("border", "seam", "interior", "interior")
SMALLEST_DISTANCE = 12.0  # pixels between two centres
MOST_TRIES = 5000  # attempts to find a centre for a point

# of a dirty level: how a reference shows a point that it shares with Target
DIRT_DISTANCE = 1.0  # pixels: the largest distance from where the point belongs
DIRT_WIDENING = (1.0, 1.6)  # a factor of sigma
DIRT_STRENGTH = (0.7, 1.4)  # a factor of the amplitude


CLUTTER_STRENGTH = (2.0, 6.0)  # grey levels, bright or dark
CLUTTER_SIGMA = (1.2, 3.5)  # pixels, along y and along x
ONE_CHANNEL = ("T", "R1", "R2")  # the presences of clutter


class Figure(NamedTuple):
    """What a point looks like: one of shapes.SHAPES, its spots, and their sigma in pixels."""

    shape: str
    spots: Spots
    sigma: tuple[float, float]


def distractors(amounts: Amounts) -> tuple[str, ...]:
    """The presence of each distractor of a strip."""
    return DISTRACTORS + ("R1", "R2") * amounts.busy


def presences(number: int, amounts: Amounts) -> tuple[str, ...]:
    """The presence of each point of strip `number` of a level of the suite."""
    defects = ("T",) * DEFECTS[number % len(DEFECTS)]
    return defects + distractors(amounts) + MISSING_FEATURES


def draw_points(
    generator: np.random.Generator,
    presences: tuple[str, ...],
    bounds: tuple[np.ndarray, np.ndarray],
    image_size: tuple[int, int],
    amounts: Amounts,
) -> tuple[Point, ...]:
    """A point for each of `presences`, far enough from one another and clipped in no shot."""
    points: list[Point] = []
    places = _deal(generator, PLACES, len(presences))
    contrasts = _deal(generator, CONTRASTS, len(presences))
    shapes = (
        _deal(generator, SHAPES, len(presences)) if amounts.shaped else [SHAPES[0]] * len(places)
    )
    for presence, place, contrast, shape in zip(presences, places, contrasts, shapes):
        sigma = tuple(generator.uniform(*POINT_SIGMA, 2).tolist())
        amplitude = float(generator.choice([-1.0, 1.0]) * contrast)
        figures = [Figure("point", POINT, sigma)]
        if amounts.shaped and (shape != "hot pixel" or presence == "T"):  # of one sensor alone
            # a pattern too dense for a shape leaves room for a point
            figures.insert(0, _draw_figure(generator, shape, sigma))
        dirt = _draw_dirt(generator, presence) if amounts.dirty else None
        others = [point.center for point in points]
        figure, center, amplitude = _find_room(
            generator, place, amplitude, figures, others, bounds, image_size
        )
        if figure.shape == "hot pixel":
            center = tuple(float(round(value)) for value in center)
        points.append(
            Point(
                center, figure.sigma, amplitude, presence, place, figure.shape, figure.spots, dirt
            )
        )
    return tuple(points)


def _draw_figure(
    generator: np.random.Generator, shape: str, point_sigma: tuple[float, float]
) -> Figure:
    spots, sigma = draw_shape(generator, shape)
    return Figure(shape, spots, sigma or point_sigma)


def _find_room(
    generator: np.random.Generator,
    place: str,
    amplitude: float,
    figures: list[Figure],
    others: list[tuple[float, float]],
    bounds: tuple[np.ndarray, np.ndarray],
    image_size: tuple[int, int],
) -> tuple[Figure, tuple[float, float], float]:
    """The first of the figures for which there is room, its centre (y, x) and its amplitude.

    Raises `ValueError` where there is room for none.
    """
    for figure in figures:
        found = _find_center(generator, place, amplitude, figure.spots, others, bounds, image_size)
        if found:
            return figure, *found
    raise ValueError(
        f"found no room for {len(others) + 1} points on a strip of {image_size} (height, width), "
        "expected a larger one"
    )


def _draw_dirt(generator: np.random.Generator, presence: str) -> tuple[Dirt, Dirt] | None:
    """How each reference shows a point of Target; None for one that Target does not share."""
    if presence not in ("T1", "T2", "T12"):
        return None
    copies = []
    for _ in range(2):
        angle = generator.uniform(0, 2 * np.pi)
        distance = DIRT_DISTANCE * np.sqrt(generator.uniform())
        copies.append(
            Dirt(
                (float(distance * np.sin(angle)), float(distance * np.cos(angle))),
                float(generator.uniform(*DIRT_WIDENING)),
                float(generator.uniform(*DIRT_STRENGTH)),
            )
        )
    return copies[0], copies[1]


def draw_clutter(
    generator: np.random.Generator, amounts: Amounts, image_size: tuple[int, int]
) -> tuple[Point, ...]:
    """Faint soft blobs, each in one channel alone: background, and no defect even in Target."""
    if not amounts.clutter[1]:
        return ()
    blobs = []
    for presence in ONE_CHANNEL:
        for _ in range(generator.integers(amounts.clutter[0], amounts.clutter[1] + 1)):
            center = tuple(float(generator.uniform(0, length - 1)) for length in image_size)
            sigma = tuple(generator.uniform(*CLUTTER_SIGMA, 2).tolist())
            amplitude = float(generator.choice([-1.0, 1.0]) * generator.uniform(*CLUTTER_STRENGTH))
            blobs.append(Point(center, sigma, amplitude, presence, "interior"))
    return tuple(blobs)


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
    spots: Spots,
    others: list[tuple[float, float]],
    bounds: tuple[np.ndarray, np.ndarray],
    image_size: tuple[int, int],
) -> tuple[tuple[float, float], float] | None:
    """A centre (y, x) in a place, far from the `others`, and the amplitude.

    The amplitude changes its sign where only the opposite sign fits. None where no centre is found
    in MOST_TRIES attempts.
    """
    for _ in range(MOST_TRIES):
        center = tuple(float(generator.uniform(0, length - 1)) for length in image_size)
        if region_of(center, image_size, PATCH_SIZES["strip"]) != place or any(
            np.hypot(*np.subtract(center, other)) < SMALLEST_DISTANCE for other in others
        ):
            continue
        for signed in (amplitude, -amplitude):
            if _fits(center, signed, spots, bounds):
                return center, signed
    return None


def _fits(
    center: tuple[float, float],
    amplitude: float,
    spots: Spots,
    bounds: tuple[np.ndarray, np.ndarray],
) -> bool:
    """Whether no shot clips a peak, on whichever pixel beside its centre (y, x) it comes to lie.

    A shape has a peak at each of its spots.
    """
    for spot in spots:
        pixels = tuple(
            slice(max(int(value), 0), max(int(value), 0) + 2) for value in np.add(center, spot)
        )
        seen = [bound[pixels] for bound in bounds]
        if seen[0].size == 0:
            continue  # beyond the edge
        darkest, brightest = seen[0].min(), seen[1].max()
        if (
            min(darkest, darkest + amplitude) < 0
            or max(brightest, brightest + amplitude) > MAX_GREY
        ):
            return False
    return True

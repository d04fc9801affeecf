"""The points of the suite's strips: which there are, where they lie, and how they are painted.

A point is a Gaussian with a sub-pixel centre. A point in Target only is a defect. Every other point
is a feature of the part.
"""

from dataclasses import dataclass

import numpy as np

from evaluation.matching import region_of
from gaussian import (
    MAX_GREY,
    REF1,
    REF2,
    TARGET_ONLY,
    WITH_BOTH,
    WITH_REF1,
    WITH_REF2,
    paint_point,
)
from ops.tiling import PATCH_SIZES

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


def presences(number: int) -> tuple[str, ...]:
    """The presence of each point of strip `number` of the suite."""
    return ("T",) * DEFECTS[number % len(DEFECTS)] + DISTRACTORS + MISSING_FEATURES


def draw_points(
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

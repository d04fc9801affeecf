"""The points of the suite's strips: what they are, how a channel shows them, how they are painted.

A point is a Gaussian with a sub-pixel centre, or another shape made of Gaussians. A point in Target
only is a defect. Every other point is a feature of the part.
"""

from dataclasses import dataclass, replace

import numpy as np

from benchmarks.suite.shapes import POINT, Spots, peak_height, reach_of, sum_spots
from gaussian import (
    PAINTED_SIGMAS,
    REF1,
    REF2,
    TARGET_ONLY,
    WITH_BOTH,
    WITH_REF1,
    WITH_REF2,
    paint_point,
)

CHANNELS = {  # presence of a point to the channels that contain it
    "T": TARGET_ONLY,  # a defect
    "T1": WITH_REF1,
    "T2": WITH_REF2,
    "T12": WITH_BOTH,
    "R1": (REF1,),
    "R2": (REF2,),
    "R12": (REF1, REF2),  # a missing feature
}


@dataclass(frozen=True)
class Dirt:
    """How a reference shows a point of Target elsewhere, larger and of another strength.

    Clipping may take some of a copy, never of the point itself.
    """

    offset: tuple[float, float]  # (y, x) in pixels
    widening: float
    strength: float


@dataclass(frozen=True)
class Point:
    """A point, with centre and sigma (y, x) in pixels of Target.

    A whole number is the middle of a pixel. The amplitude is that of the brightest place, for a
    Gaussian its centre: where that lies between pixels, the brightest of them shows less, in the
    worst case 60 %.
    """

    center: tuple[float, float]
    sigma: tuple[float, float]
    amplitude: float  # grey levels, negative where the point is dark
    presence: str  # one of CHANNELS
    place: str  # one of PLACES
    shape: str = "point"  # one of shapes.SHAPES
    spots: Spots = POINT
    dirt: tuple[Dirt, Dirt] | None = None  # of Ref1 and of Ref2, of a point shared with Target

    @property
    def contrast(self) -> float:
        """The size of the amplitude in grey levels, positive."""
        return abs(self.amplitude)

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """The pixels of a shape as (top, left, bottom, right), the last two beyond it.

        None for a single spot, which a detection near its centre finds.
        """
        if self.spots == POINT:
            return None
        spots = np.add(self.spots, self.center)
        first = np.floor(spots.min(axis=0) - self.sigma).astype(int).tolist()
        stop = (np.ceil(spots.max(axis=0) + self.sigma).astype(int) + 1).tolist()
        return first[0], first[1], stop[0], stop[1]

    def row_weights(self, rows: np.ndarray) -> np.ndarray:
        """How much each of `rows` shows of the point, (H,), in any unit."""
        y = rows[:, None] - self.center[0] - np.array(self.spots)[:, 0]
        return np.exp(-0.5 * (y / self.sigma[0]) ** 2).sum(axis=1)

    def blurred(self, sigma: float) -> "Point":
        """The point out of focus: a Gaussian of `sigma` pixels keeps its sum, not its contrast.

        A hot pixel is one of the sensor and stays as it is.
        """
        if not sigma or self.shape == "hot pixel":
            return self
        wider = tuple(float(np.hypot(along, sigma)) for along in self.sigma)
        kept = np.prod(self.sigma) / np.prod(wider)
        kept *= peak_height(self.spots, wider) / peak_height(self.spots, self.sigma)
        return replace(self, sigma=wider, amplitude=float(self.amplitude * kept))

    def in_reference(self, number: int) -> "Point":
        """The point as it is on the part that reference `number`, 1 or 2, shows."""
        if self.dirt is None:
            return self
        dirt = self.dirt[number - 1]
        return replace(
            self,
            center=tuple(np.add(self.center, dirt.offset).tolist()),
            sigma=tuple(dirt.widening * along for along in self.sigma),
            amplitude=dirt.strength * self.amplitude,
        )


def paint_on_shot(
    lit: np.ndarray, point: Point, center: tuple[float, float], jitter: np.ndarray | None = None
) -> None:
    """Add a point to a channel (H, W) in place. Its centre (y, x) may lie beyond the edge.

    `jitter` (H,) moves each row by so many pixels in x.
    """
    if jitter is None and point.spots == POINT:
        paint_point(lit, center, point.sigma, point.amplitude)
        return
    reach = reach_of(point.spots) + PAINTED_SIGMAS * max(point.sigma)
    window = tuple(slice(max(int(at - reach), 0), max(int(at + reach) + 2, 0)) for at in center)
    y, x = (np.arange(length)[part] for part, length in zip(window, lit.shape))
    moved = np.zeros(len(y)) if jitter is None else jitter[window[0]]
    shape = sum_spots(
        point.spots, point.sigma, (y - center[0])[:, None], x - center[1] - moved[:, None]
    )
    lit[window] += point.amplitude / peak_height(point.spots, point.sigma) * shape

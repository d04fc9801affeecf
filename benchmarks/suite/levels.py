"""The levels of the quality suite: how much the channels of a strip differ."""

from dataclasses import dataclass

from data.demo_strips import ILLUMINATION_SPREAD, OFFSET_SPREAD, SENSOR_NOISE_SIGMA

# of the suite only: trainings, choices and calibrations use other seeds
SUITE_SEED = 604_171_983
STRIP_COUNT = 20  # strips of a level, numbered from 0
SHOT_COUNT = 3  # shots of a strip, numbered from 0


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

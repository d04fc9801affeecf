"""The levels of the quality suite: how much the channels of a strip differ.

There are two groups. Each level of the first one, LEVELS, has one difference alone. On those of the
second one, HARD_LEVELS, channels differ as those of the demo strips do in gain, offset,
illumination and shift, and in what the level is named after.
"""

from dataclasses import dataclass

from data.demo_strips import (
    GAIN_SPREAD,
    ILLUMINATION_SPREAD,
    OFFSET_SPREAD,
    REFERENCE_SHIFT,
    SENSOR_NOISE_SIGMA,
)

# of the suite only: trainings, choices and calibrations use other seeds
SUITE_SEED = 604_171_983
STRIP_COUNT = 20  # strips of a level, numbered from 0
SHOT_COUNT = 3  # shots of a strip, numbered from 0

Range = tuple[float, float]  # the least and the largest amount


@dataclass(frozen=True)
class Amounts:
    """How much the channels of a level differ. A range is drawn for each channel of each shot."""

    gain: float = 0.0  # largest deviation of a channel's gain from 1
    offset: float = 0.0  # grey levels
    illumination: float = 0.0  # grey levels
    noise_sigma: Range = SENSOR_NOISE_SIGMA  # grey levels
    shift: float = 0.0  # pixels in y and in x: the largest constant shift of a reference
    wander: float = 0.0  # pixels: the largest shift that varies along the strip
    striped: bool = False
    blur: Range = (0.0, 0.0)  # pixels: sigma of the Gaussian that defocus is
    # grey levels: the variance of the noise is noise_sigma^2 and this times the grey level
    signal_noise: Range = (0.0, 0.0)
    column_noise: Range = (0.0, 0.0)  # grey levels: sigma of an offset of each column
    vibration: Range = (0.0, 0.0)  # pixels in x, root of the mean square over the rows
    bend: Range = (0.0, 0.0)  # pixels in y and x: largest displacement inside a bent part
    pitch: Range | None = None  # pixels between the lines of which the pattern then consists
    # a factor of the exposure of all channels of a shot: above 1, bright areas are clipped
    overexposure: Range = (1.0, 1.0)
    # of JPEG, 0-100: each channel becomes 8 bits and is compressed by itself
    jpeg_quality: tuple[int, int] | None = None
    clutter: tuple[int, int] = (0, 0)  # faint soft blobs in each channel alone
    shaped: bool = False  # points have all the shapes of shapes.SHAPES
    dirty: bool = False  # references show a point that Target shares elsewhere and otherwise
    busy: int = 0  # further points of each reference alone


LIT = {"gain": 0.12, "offset": OFFSET_SPREAD, "illumination": ILLUMINATION_SPREAD}
USUAL = {  # the differences between the channels of the demo strips
    "gain": GAIN_SPREAD,
    "offset": OFFSET_SPREAD,
    "illumination": ILLUMINATION_SPREAD,
    "shift": REFERENCE_SHIFT,
}
# Seeds count the levels: a new one comes last.
AMOUNTS = {
    "clean": Amounts(noise_sigma=(1.0, 1.0)),
    "gain": Amounts(**LIT),
    "shift": Amounts(shift=0.9),
    "wandering": Amounts(wander=0.9),
    "noise": Amounts(noise_sigma=(5.0, 5.0)),
    "stripes": Amounts(striped=True),
    "everything": Amounts(**LIT, noise_sigma=(1.5, 5.0), shift=0.45, wander=0.45, striped=True),
    "defocus": Amounts(**USUAL, blur=(0.0, 0.9)),
    "photon": Amounts(
        **USUAL, noise_sigma=(1.0, 2.0), signal_noise=(0.03, 0.12), column_noise=(0.5, 1.5)
    ),
    "vibration": Amounts(**USUAL, vibration=(0.1, 0.35)),
    "fine pitch": Amounts(**USUAL, pitch=(3.5, 7.0)),
    "bent": Amounts(**USUAL, bend=(0.4, 1.0)),
    "compressed": Amounts(**USUAL, overexposure=(1.2, 1.4), jpeg_quality=(85, 92)),
    "shapes": Amounts(**USUAL, shaped=True),
    "dirt": Amounts(**USUAL, dirty=True, busy=10),
    "clutter": Amounts(**USUAL, clutter=(5, 12)),
    "all hard": Amounts(
        **USUAL,
        noise_sigma=(1.0, 2.0),
        signal_noise=(0.02, 0.06),
        column_noise=(0.3, 0.8),
        blur=(0.0, 0.6),
        vibration=(0.05, 0.2),
        bend=(0.2, 0.6),
        overexposure=(1.0, 1.2),
        jpeg_quality=(90, 95),
        clutter=(1, 3),
        shaped=True,
        dirty=True,
        busy=5,
    ),
}
LEVELS = tuple(AMOUNTS)[:7]
HARD_LEVELS = tuple(AMOUNTS)[7:]
GROUPS = {"suite": LEVELS, "hard": HARD_LEVELS}

"""What differs between the channels of good strips: place by a fraction of a pixel, light, noise
and stripes.

Everything is done to a patch (3, h, w) float32 in grey levels, in place and not clipped. Pure NumPy
and OpenCV; the amounts are settings, and every number is drawn from the generator that is given.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from gaussian import REF1, REF2, WITH_BOTH, WITH_REF1, WITH_REF2

# standard normals, drawn once: fresh ones take longer than all the rest of a sample, more would
# leave the cache
BANK_SIZE = 2**18
BANK_SEED = 20
CUBIC = -0.5  # of the interpolating cubic: Keys's, which has the smallest error
# sigma of (a - b) between neighbours of the difference of two channels, of the noise of each
NEIGHBOUR_DIFFERENCE_GAIN = 2.0
MAD_TO_SIGMA = 1.4826  # of a normal distribution: sigma per median absolute deviation
NOISE_ROWS = 16  # every sixteenth row says enough of a patch's noise

FLIPS = (None, 0, 1, -1)  # as OpenCV says it: not at all, in y, in x, in both

# besides all channels: never Target alone, which would be a defect,
STRIPE_PRESENCES = ((REF1,), (REF2,), WITH_REF1, WITH_REF2)
# and never both references without Target, which is a missing feature


@dataclass(frozen=True)
class AugmentationSettings:
    """How much the channels of a good patch may differ.

    The severity of a patch, 0-1, multiplies what says so.
    """

    # pixels in y and x, times severity; a reference that was registered is still off by this much
    shift: float = 0.3
    # of the patches: edges that were etched or binarised lie where no registration can follow
    wobble_share: float = 0.2
    # pixels in y and x, times severity; the largest local displacement, of both references alike
    wobble: float = 1.5
    # pixels over which neighbours are displaced together
    wobble_cell: tuple[float, float] = (16.0, 48.0)
    gain: float = 0.12  # 1 +- this, times severity: lamps and cameras that are matched badly
    offset: float = 8.0  # grey levels, times severity
    # grey levels, times severity; one slow wave along y and a slope across x
    illumination: float = 6.0
    # of the wave, in a patch: slow against any point
    illumination_periods: tuple[float, float] = (0.1, 1.0)
    # grey levels, uniform up to this times a severity of its own; comes on top of the strip's own
    # noise
    noise: float = 5.0
    noise_factor: tuple[float, float] = (0.6, 1.4)  # each channel's own, of the patch's noise
    # of the patches: enough to learn them, and few enough to learn bare patterns
    stripe_share: float = 0.3
    stripe_count: tuple[int, int] = (1, 3)  # fewest and most in a patch that has any
    # pixels: as narrow as points, so that only their length tells
    stripe_width: tuple[float, float] = (1.0, 3.0)
    # grey levels of either sign: as faint and as strong as points
    stripe_strength: tuple[float, float] = (8.0, 40.0)
    # each channel's own: a stripe is seldom equally bright in two shots
    stripe_factor: tuple[float, float] = (0.4, 1.6)
    # of the stripes are in all channels, the rest in a reference, with or without Target
    stripe_everywhere: float = 0.7
    # of the stripes run along y or x, as rolling and cutting leave them; the rest anyhow
    stripe_straight: float = 0.8
    stripe_whole: float = 0.5  # of the stripes cross the whole patch; the rest are parts of
    stripe_length: tuple[float, float] = (20.0, 100.0)  # pixels: longer than any point


def shuffle_channels(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A copy of a patch with the roles of its channels dealt anew, flipped in y and in x half of
    the time each.
    """
    flip = FLIPS[generator.integers(len(FLIPS))]
    shuffled = image.take(generator.permutation(len(image)), axis=0)
    for plane in shuffled if flip is not None else ():
        cv2.flip(plane, flip, plane)
    return shuffled


def augment(
    image: np.ndarray, amounts: AugmentationSettings, generator: np.random.Generator
) -> None:
    """Make three shots of a good patch (3, h, w) out of three that are alike: stripes, then place,
    light and noise of each.
    """
    severity = generator.random()
    if generator.random() < amounts.stripe_share:
        add_stripes(image, amounts, generator)
    displace(image, amounts, severity, generator)
    jitter_illumination(image, amounts, severity, generator)
    add_noise(image, amounts, generator)


def add_stripes(
    image: np.ndarray, amounts: AugmentationSettings, generator: np.random.Generator
) -> None:
    """Bright or dark lines of the part, of another strength in each channel that has them."""
    count = generator.integers(amounts.stripe_count[0], amounts.stripe_count[1] + 1)
    for chances in generator.random((count, 14)).tolist():
        which, where, sign, strength = chances[:4]
        channels = (
            WITH_BOTH
            if which < amounts.stripe_everywhere
            else STRIPE_PRESENCES[int(len(STRIPE_PRESENCES) * where)]
        )
        strength = lerp(amounts.stripe_strength, strength) * (1 if sign < 0.5 else -1)
        place, cover = _draw_stripe(image.shape[1:], amounts, chances[7:])
        for channel, share in zip(channels, chances[4:7]):
            under = image[channel, *place]
            under += np.float32(strength * lerp(amounts.stripe_factor, share)) * cover


def displace(
    image: np.ndarray,
    amounts: AugmentationSettings,
    severity: float,
    generator: np.random.Generator,
) -> None:
    """Move each reference against Target, and sometimes parts of both, by cubic interpolation; the
    border is repeated.
    """
    shifts = generator.uniform(-amounts.shift, amounts.shift, (2, 2)) * severity
    for channel, shift in zip((REF1, REF2), shifts):
        shift_plane(image[channel], shift)
    if generator.random() < amounts.wobble_share:
        elastic_displacement(image[REF1:], amounts, severity, generator)


def shift_plane(plane: np.ndarray, shift: np.ndarray) -> None:
    """Move a plane (h, w) in place by `shift` (y, x), within a pixel: down and to the right.

    The border is repeated.
    """
    kernel_y, kernel_x = map(_cubic_kernel, shift.tolist())
    cv2.sepFilter2D(plane, -1, kernel_x, kernel_y, plane, borderType=cv2.BORDER_REPLICATE)


def elastic_displacement(
    references: np.ndarray,
    amounts: AugmentationSettings,
    severity: float,
    generator: np.random.Generator,
) -> None:
    """Move parts of both references (2, h, w) in place by one smooth displacement.

    What one of them alone does not share with Target is no defect anyway; what neither does,
    because Target's edges lie elsewhere, looks like one.
    """
    size, cell = references.shape[1:], generator.uniform(*amounts.wobble_cell)
    nodes = [max(2, round(length / cell)) for length in size]
    coarse = generator.uniform(-amounts.wobble, amounts.wobble, (*nodes, 2)) * severity
    places = cv2.resize(coarse.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
    places += _grid(size)
    for plane in references:
        plane[...] = cv2.remap(
            plane, places, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )


def jitter_illumination(
    image: np.ndarray,
    amounts: AugmentationSettings,
    severity: float,
    generator: np.random.Generator,
) -> None:
    """Give each channel its own gain, offset and slow illumination, a sum of a wave along y and a
    slope across x.
    """
    count, height, width = image.shape
    gain, offset, slope = generator.uniform(-1, 1, (3, count, 1)) * severity
    periods, phase = generator.random((2, count, 1))
    angles = (
        2
        * np.pi
        * (lerp(amounts.illumination_periods, periods) / height * np.arange(height) + phase)
    )
    rows = amounts.offset * offset + amounts.illumination / 2 * severity * np.sin(angles)
    columns = amounts.illumination / 2 * slope * (np.arange(width) * (2 / (width - 1)) - 1)
    rows, columns = rows.astype(np.float32)[:, :, None], columns.astype(np.float32)
    for plane, factor, along_y, along_x in zip(
        image, (1 + amounts.gain * gain[:, 0]).tolist(), rows, columns
    ):
        cv2.scaleAdd(plane, factor, along_y + along_x, plane)


def add_noise(
    image: np.ndarray, amounts: AugmentationSettings, generator: np.random.Generator
) -> None:
    """Normal noise, of its own sigma in each channel.

    A quiet camera may be out of place, so the severity is its own.
    """
    sigma = generator.uniform(0, amounts.noise) * generator.random()
    sigmas = sigma * generator.uniform(*amounts.noise_factor, len(image))
    size = image[0].size
    for plane, sigma, start in zip(image, sigmas, generator.integers(0, BANK_SIZE, len(image))):
        cv2.scaleAdd(_bank(size)[start : start + size].reshape(plane.shape), sigma, plane, plane)


def measure_noise(one: np.ndarray, other: np.ndarray) -> float:
    """Sigma in grey levels of the noise in each of two channels (h, w), from neighbours in x of
    their difference.

    Pattern, gain and light cancel there mostly, and the median does not see edges and points.
    """
    difference = one[::NOISE_ROWS] - other[::NOISE_ROWS]
    steps = np.abs(difference[:, 1:] - difference[:, :-1]).ravel()
    middle = len(steps) // 2
    return MAD_TO_SIGMA / NEIGHBOUR_DIFFERENCE_GAIN * float(np.partition(steps, middle)[middle])


def _draw_stripe(
    size: tuple[int, int], amounts: AugmentationSettings, chances: list[float]
) -> tuple[tuple[slice, slice], np.ndarray]:
    """Which part of a patch (h, w) a stripe may cover, and how much of each pixel there, float32
    0-1, from seven numbers 0-1.
    """
    straight, whole, turn, width, length, *middle = chances
    angle = math.pi / 2 * (turn < 0.5) if straight < amounts.stripe_straight else math.pi * turn
    along_y, along_x = math.sin(angle), math.cos(angle)
    half_width = lerp(amounts.stripe_width, width) / 2
    half_length = (
        sum(size) if whole < amounts.stripe_whole else lerp(amounts.stripe_length, length) / 2
    )
    middle = [share * side for share, side in zip(middle, size)]
    reach = [
        abs(one) * half_length + abs(other) * half_width + 1
        for one, other in ((along_y, along_x), (along_x, along_y))
    ]
    place = tuple(
        slice(max(int(at - away), 0), int(max(at + away, 0)) + 1) for at, away in zip(middle, reach)
    )
    y, x = (
        np.arange(side, dtype=np.float32)[part] - at for side, part, at in zip(size, place, middle)
    )
    off_middle, off_axis = along_y * y[:, None] + along_x * x, along_x * y[:, None] - along_y * x
    cover = np.minimum(half_width + 0.5 - np.abs(off_axis), half_length + 0.5 - np.abs(off_middle))
    return place, np.clip(cover, 0, 1)


@lru_cache(maxsize=4)
def _grid(size: tuple[int, int]) -> np.ndarray:
    """The place (x, y) of every pixel: (h, w, 2) float32. Read-only: it is shared."""
    grid = np.stack(
        np.meshgrid(*(np.arange(length, dtype=np.float32) for length in size[::-1])), axis=2
    )
    grid.flags.writeable = False
    return grid


@lru_cache(maxsize=4)
def _bank(longest: int) -> np.ndarray:
    """BANK_SIZE standard normals, float32, the first `longest` once more at the end.

    Read-only: they are shared.
    """
    normals = np.random.default_rng(BANK_SEED).standard_normal(BANK_SIZE, dtype=np.float32)
    bank = np.concatenate([normals, normals[:longest]])
    bank.flags.writeable = False
    return bank


def lerp(bounds: tuple[float, float], share: float | np.ndarray) -> float | np.ndarray:
    """What lies at a share, 0-1, of the way from one bound to the other."""
    return bounds[0] + share * (bounds[1] - bounds[0])


def _cubic_kernel(shift: float) -> np.ndarray:
    """Five weights, float32, that move a row of pixels by `shift`, within a pixel, towards its end."""
    return np.array([_cubic(abs(tap + shift)) for tap in range(-2, 3)], np.float32)


def _cubic(distance: float) -> float:
    """The weight of a pixel at a distance in pixels."""
    if distance <= 1:
        return ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
    return CUBIC * (((distance - 5) * distance + 8) * distance - 4) if distance < 2 else 0.0

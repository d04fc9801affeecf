"""Differences between the channels of good strips: sub-pixel shifts, light, noise and stripes.

All functions change a patch (3, h, w) float32 in grey levels, in place, without clipping. They use
NumPy and OpenCV only. The amounts are settings, and every random number comes from the generator
that is given.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from gaussian import REF1, REF2, WITH_BOTH, WITH_REF1, WITH_REF2

# Standard normals, drawn once: drawing new ones takes longer than all the rest of a sample, and a
# larger bank would exceed the processor's cache.
BANK_SIZE = 2**18
BANK_SEED = 20
CUBIC = -0.5  # parameter of the interpolating cubic: that of Keys, which has the smallest error
# A pixel of the difference of two channels differs from its neighbour by this many sigmas of the
# noise of each channel.
NEIGHBOUR_DIFFERENCE_GAIN = 2.0
MAD_TO_SIGMA = 1.4826  # sigma per median absolute deviation, of a normal distribution
NOISE_ROWS = 16  # every sixteenth row is enough to measure a patch's noise

FLIPS = (None, 0, 1, -1)  # OpenCV's codes: no flip, in y, in x, in both

# Channels of a stripe that is not in all of them: never Target alone, which would be a defect, and
# never both references without Target, which would be a missing feature.
STRIPE_PRESENCES = ((REF1,), (REF2,), WITH_REF1, WITH_REF2)


@dataclass(frozen=True)
class AugmentationSettings:
    """How much the channels of a good patch may differ.

    The severity of a patch, 0-1, multiplies the amounts that say so.
    """

    # pixels in y and x, times severity; the error that remains after registration
    shift: float = 0.3
    # share of the patches; no registration can follow edges displaced by etching or binarising
    wobble_share: float = 0.2
    # pixels in y and x, times severity; the largest local displacement, the same in both references
    wobble: float = 1.5
    # pixels over which neighbours are displaced together
    wobble_cell: tuple[float, float] = (16.0, 48.0)
    gain: float = 0.12  # 1 +- this, times severity: badly matched lamps and cameras
    offset: float = 8.0  # grey levels, times severity
    # grey levels, times severity; one slow wave along y and a slope across x
    illumination: float = 6.0
    # periods of the wave in a patch: much slower than any point
    illumination_periods: tuple[float, float] = (0.1, 1.0)
    # grey levels, uniform up to this, times a severity of its own; added to the strip's own noise
    noise: float = 5.0
    noise_factor: tuple[float, float] = (0.6, 1.4)  # times the patch's noise, for each channel
    # share of the patches: enough to learn stripes, few enough to learn bare patterns
    stripe_share: float = 0.3
    stripe_count: tuple[int, int] = (1, 3)  # fewest and most in a patch that has any
    # pixels: as narrow as points, so that only the length distinguishes them
    stripe_width: tuple[float, float] = (1.0, 3.0)
    # grey levels of either sign: as faint and as strong as points
    stripe_strength: tuple[float, float] = (8.0, 40.0)
    # times the strength, for each channel: a stripe is seldom equally bright in two shots
    stripe_factor: tuple[float, float] = (0.4, 1.6)
    # share of the stripes that are in all channels; the rest is in a reference, with or without
    # Target
    stripe_everywhere: float = 0.7
    # share of the stripes along y or x, as rolling and cutting leave them; the rest has any angle
    stripe_straight: float = 0.8
    stripe_whole: float = 0.5  # share of the stripes that cross the whole patch
    stripe_length: tuple[float, float] = (20.0, 100.0)  # pixels, of the others: longer than points


def shuffle_channels(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a copy of a patch with its channels permuted, and flipped in y and in x at random.

    The probability of each flip is one half.
    """
    flip = FLIPS[generator.integers(len(FLIPS))]
    shuffled = image.take(generator.permutation(len(image)), axis=0)
    for plane in shuffled if flip is not None else ():
        cv2.flip(plane, flip, plane)
    return shuffled


def augment(
    image: np.ndarray, amounts: AugmentationSettings, generator: np.random.Generator
) -> None:
    """Make a good patch (3, h, w) look like three shots: stripes, then shift, light and noise."""
    severity = generator.random()
    if generator.random() < amounts.stripe_share:
        add_stripes(image, amounts, generator)
    displace(image, amounts, severity, generator)
    jitter_illumination(image, amounts, severity, generator)
    add_noise(image, amounts, generator)


def add_stripes(
    image: np.ndarray, amounts: AugmentationSettings, generator: np.random.Generator
) -> None:
    """Add bright or dark lines of the part, with another strength in each channel that has them."""
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
    """Move each reference against Target, and in some patches parts of both.

    The interpolation is cubic, and border pixels are repeated outwards. `severity` is 0-1.
    """
    shifts = generator.uniform(-amounts.shift, amounts.shift, (2, 2)) * severity
    for channel, shift in zip((REF1, REF2), shifts):
        shift_plane(image[channel], shift)
    if generator.random() < amounts.wobble_share:
        elastic_displacement(image[REF1:], amounts, severity, generator)


def shift_plane(plane: np.ndarray, shift: np.ndarray) -> None:
    """Move a plane (h, w) in place by `shift` (y, x), at most a pixel: down and to the right.

    Border pixels are repeated outwards.
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

    A difference from one reference alone is no defect in any case. A difference from both, which
    arises where Target's edges are displaced, looks like one.
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
    """Give each channel its own gain, offset and slow illumination.

    The illumination is the sum of a wave along y and a slope across x. `severity` is 0-1.
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
    """Add normal noise, with another sigma in each channel.

    It has its own severity, because a camera with little noise may be badly registered.
    """
    sigma = generator.uniform(0, amounts.noise) * generator.random()
    sigmas = sigma * generator.uniform(*amounts.noise_factor, len(image))
    size = image[0].size
    for plane, sigma, start in zip(image, sigmas, generator.integers(0, BANK_SIZE, len(image))):
        cv2.scaleAdd(_bank(size)[start : start + size].reshape(plane.shape), sigma, plane, plane)


def measure_noise(one: np.ndarray, other: np.ndarray) -> float:
    """Return sigma in grey levels of the noise of two channels (h, w), taken as equal in both.

    It is measured from neighbours in x of the channels' difference. There, pattern, gain and light
    mostly cancel, and the median ignores edges and points.
    """
    difference = one[::NOISE_ROWS] - other[::NOISE_ROWS]
    steps = np.abs(difference[:, 1:] - difference[:, :-1]).ravel()
    middle = len(steps) // 2
    return MAD_TO_SIGMA / NEIGHBOUR_DIFFERENCE_GAIN * float(np.partition(steps, middle)[middle])


def _draw_stripe(
    size: tuple[int, int], amounts: AugmentationSettings, chances: list[float]
) -> tuple[tuple[slice, slice], np.ndarray]:
    """Return the part of a patch (h, w) that a stripe may cover, and its share of each pixel there.

    The shares are float32, 0-1. `chances` are seven random numbers, 0-1.
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
    """Return the place (x, y) of every pixel: (h, w, 2) float32, read-only because it is shared."""
    grid = np.stack(
        np.meshgrid(*(np.arange(length, dtype=np.float32) for length in size[::-1])), axis=2
    )
    grid.flags.writeable = False
    return grid


@lru_cache(maxsize=4)
def _bank(longest: int) -> np.ndarray:
    """Return BANK_SIZE standard normals, float32, with the first `longest` repeated at the end.

    They are read-only because they are shared.
    """
    normals = np.random.default_rng(BANK_SEED).standard_normal(BANK_SIZE, dtype=np.float32)
    bank = np.concatenate([normals, normals[:longest]])
    bank.flags.writeable = False
    return bank


def lerp(bounds: tuple[float, float], share: float | np.ndarray) -> float | np.ndarray:
    """Interpolate linearly between the bounds; `share`, 0-1, is 0 at the first bound."""
    return bounds[0] + share * (bounds[1] - bounds[0])


def _cubic_kernel(shift: float) -> np.ndarray:
    """Return five weights, float32, that move a row towards its end by `shift`, at most a pixel."""
    return np.array([_cubic(abs(tap + shift)) for tap in range(-2, 3)], np.float32)


def _cubic(distance: float) -> float:
    """Return the weight of a pixel at a distance in pixels."""
    if distance <= 1:
        return ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
    return CUBIC * (((distance - 5) * distance + 8) * distance - 4) if distance < 2 else 0.0

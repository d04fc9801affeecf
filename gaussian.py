"""Synthetic points: their shape, and how the classic recipe paints them.

A defect of the classic recipe is a small Gaussian. It is centred on a pixel, zero outside its
window of 3x3 or 3x5 pixels, added to the grey levels, and clipped. Every point is in Target. One or
two are in Target only: these are the defects to be found. Every other one is also in Ref1, in Ref2
or in both, and so is background.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

TARGET, REF1, REF2 = 0, 1, 2
TARGET_ONLY = (TARGET,)
WITH_REF1 = (TARGET, REF1)
WITH_REF2 = (TARGET, REF2)
WITH_BOTH = (TARGET, REF1, REF2)

# (height, width) and sigma (y, x), in pixels; each shape is half of the defects
SHAPES = (((3, 3), (1.3, 1.3)), ((3, 5), (1.0, 1.5)))
AMPLITUDES = (-80.0, -60.0, 60.0, 80.0)  # grey levels of 255, equally often
PAINTED_SHARE = 0.5  # of the training patches; nothing is painted into the others
# fewest and most defects painted into a whole strip, for a test or a comparison
STRIP_DEFECTS_RANGE = (4, 10)
MAX_TARGET_ONLY = 2  # defects in one patch or strip
MASK_LEVEL = 0.1  # of the unit Gaussian; the whole window of both shapes lies above it
MAX_GREY = 255.0  # largest grey level; painting clips to 0..MAX_GREY
# A sub-pixel point is painted within so many sigmas of its centre: beyond, it is less than 4
# millionths of its peak.
PAINTED_SIGMAS = 5.0


@dataclass(frozen=True)
class Defect:
    """A point defect of the classic recipe, centred on a pixel.

    Centre (y, x), size (height, width) and sigma (y, x) are in pixels, the amplitude in grey
    levels.
    """

    center: tuple[int, int]
    size: tuple[int, int]
    sigma: tuple[float, float]
    amplitude: float


@lru_cache(maxsize=64)
def unit_gaussian(size: tuple[int, int], sigma: tuple[float, float]) -> np.ndarray:
    """Return the Gaussian's window, float32 of `size`, 1.0 in the middle.

    It is read-only because it is cached.
    """
    y, x = (np.arange(length) - length // 2 for length in size)
    window = np.exp(-0.5 * ((y[:, None] / sigma[0]) ** 2 + (x[None, :] / sigma[1]) ** 2)).astype(
        np.float32
    )
    window.flags.writeable = False
    return window


def paint(image: np.ndarray, defect: Defect) -> None:
    """Add a defect to a grey image (H, W), in place, clipped to 0-255; float32 or uint8 (rounded).

    The centre may be any pixel of the image; the part beyond the border is cut off.
    """
    target, window = _overlap(image, defect)
    # np.clip would take three times as long
    painted = np.minimum(np.maximum(target + defect.amplitude * window, 0.0), MAX_GREY)
    target[...] = painted if image.dtype.kind == "f" else np.rint(painted)


def mark(mask: np.ndarray, defect: Defect) -> None:
    """Set a mask (H, W) to 1, in place, where the defect's unit Gaussian exceeds MASK_LEVEL."""
    target, window = _overlap(mask, defect)
    target[window > MASK_LEVEL] = 1


def paint_point(
    image: np.ndarray, center: tuple[float, float], sigma: tuple[float, float], amplitude: float
) -> None:
    """Add a Gaussian point to a grey image (H, W) of floats, in place, without clipping.

    The centre (y, x) is in pixels and may lie anywhere; whole numbers are the middles of pixels.
    Sigma (y, x) is in pixels, the amplitude in grey levels.
    """
    ((place, profile),) = point_profiles([center], [sigma], [False], image)
    image[place] += amplitude * profile


def point_profiles(
    centers: Sequence[tuple[float, float]],
    sigmas: Sequence[tuple[float, float]],
    flat: Sequence[bool],
    image: np.ndarray,
) -> list[tuple[tuple[slice, slice], np.ndarray]]:
    """Return, for each point, the part of an image (H, W) that it covers, and its profile there.

    A profile is 1.0 at its centre and has the image's type. Centres and sigmas are (y, x) in
    pixels. A flat point is an ellipse with a soft edge, level up to about one sigma and zero at
    about two: exp(-(r^2/2)^3), r in sigmas. All points are computed together, which takes half the
    time for a few small ones.
    """
    (rows, squares_y), (columns, squares_x) = map(
        _squares_along, zip(*centers), zip(*sigmas), image.shape
    )
    profiles_y, profiles_x = (
        np.exp((-0.5 * squares).astype(image.dtype)) for squares in (squares_y, squares_x)
    )
    profiles = []
    for number, (place, is_flat) in enumerate(zip(zip(rows, columns), flat)):
        if is_flat:
            half = (squares_y[number, place[0], None] + squares_x[number, place[1]]) / 2
            # `half**3` would take ten times as long
            profile = np.exp(-half * half * half).astype(image.dtype)
        else:
            profile = profiles_y[number, place[0], None] * profiles_x[number, place[1]]
        profiles.append((place, profile))
    return profiles


def draw_defect(generator: np.random.Generator, image_size: tuple[int, int]) -> Defect:
    """Draw a defect of random shape and amplitude.

    Its centre is any pixel of an image of `image_size` (height, width), border pixels included.
    """
    height, width = image_size
    size, sigma = SHAPES[generator.integers(len(SHAPES))]
    amplitude = AMPLITUDES[generator.integers(len(AMPLITUDES))]
    return Defect(
        (int(generator.integers(height)), int(generator.integers(width))), size, sigma, amplitude
    )


def allocate_channels(generator: np.random.Generator, count: int) -> list[tuple[int, ...]]:
    """Return the channels of each of `count` defects, the target-only ones first.

    One or two defects are target-only, but fewer than half of all. The rest is divided evenly among
    Ref1, Ref2 and both; of a remainder, Ref1 gets the first and Ref2 the second. Seven defects may
    give 2 target-only, 2 with Ref1, 2 with Ref2, 1 with both. Raises `ValueError` below three
    defects, where there is no such allocation.
    """
    if count < 3:
        raise ValueError(
            f"found {count} defects, expected at least 3: fewer than half of them are target-only, "
            "and at least one"
        )
    target_only = int(generator.integers(1, min(MAX_TARGET_ONLY, (count - 1) // 2) + 1))
    share, remainder = divmod(count - target_only, 3)
    with_ref1, with_ref2 = share + (remainder >= 1), share + (remainder >= 2)
    return (
        [TARGET_ONLY] * target_only
        + [WITH_REF1] * with_ref1
        + [WITH_REF2] * with_ref2
        + [WITH_BOTH] * share
    )


def paint_defects(
    image: np.ndarray,
    mask: np.ndarray,
    generator: np.random.Generator,
    count_range: tuple[int, int],
    shifts: Sequence[tuple[float, float]] | None = None,
) -> list[tuple[Defect, tuple[int, ...]]]:
    """Paint a random number of defects into (C, H, W) and mark the target-only ones in the mask.

    Both change in place. The image holds grey levels 0-255 and begins with Target, Ref1 and Ref2;
    the mask is (H, W). `count_range` is (fewest, most), both included. `shifts` says by how many
    pixels (y, x) each channel shows the part away from its place in Target, if that is known. A
    shared point belongs to the part, so it moves with it: it is painted at its own place in each
    channel, without a window. Returns every defect with its channels.
    """
    count = int(generator.integers(count_range[0], count_range[1] + 1))
    painted = [
        (draw_defect(generator, mask.shape), channels)
        for channels in allocate_channels(generator, count)
    ]
    for defect, channels in painted:
        for channel in channels:
            if shifts is None or channels == TARGET_ONLY:
                paint(image[channel], defect)
            else:
                place = tuple(at + shift for at, shift in zip(defect.center, shifts[channel]))
                paint_point(image[channel], place, defect.sigma, defect.amplitude)
                np.clip(image[channel], 0, MAX_GREY, out=image[channel])
        if channels == TARGET_ONLY:
            mark(mask, defect)
    return painted


def _overlap(image: np.ndarray, defect: Defect) -> tuple[np.ndarray, np.ndarray]:
    """Return a view of the image under the defect's window, and the matching part of the window."""
    image_y, window_y = _overlap_along(defect.center[0], defect.size[0], image.shape[0])
    image_x, window_x = _overlap_along(defect.center[1], defect.size[1], image.shape[1])
    return image[image_y, image_x], unit_gaussian(defect.size, defect.sigma)[window_y, window_x]


def _overlap_along(center: int, size: int, length: int) -> tuple[slice, slice]:
    first = center - size // 2
    start, stop = max(first, 0), min(first + size, length)
    return slice(start, stop), slice(start - first, stop - first)


def _squares_along(
    centers: tuple[float, ...], sigmas: tuple[float, ...], length: int
) -> tuple[list[slice], np.ndarray]:
    """Return each point's slice of pixels within PAINTED_SIGMAS along an axis, and distances.

    The distances, (points, length), are those of all pixels, in sigmas and squared.
    """
    center, sigma = np.array(centers), np.array(sigmas)
    first = np.minimum(np.maximum(np.floor(center - PAINTED_SIGMAS * sigma) + 1, 0), length).astype(
        int
    )
    stop = np.minimum(np.maximum(np.ceil(center + PAINTED_SIGMAS * sigma), first), length).astype(
        int
    )
    squares = ((np.arange(length) - center[:, None]) / sigma[:, None]) ** 2
    return [slice(*ends) for ends in zip(first.tolist(), stop.tolist())], squares

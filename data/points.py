"""The points of the robust recipe: where they lie, in which channels, how they are painted."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data.augmentation import lerp
from gaussian import (
    MAX_GREY,
    REF1,
    REF2,
    TARGET,
    TARGET_ONLY,
    WITH_BOTH,
    WITH_REF1,
    WITH_REF2,
    point_profiles,
)

# Channels of background points, equally often. Never both references without Target: that would be
# a missing feature, which looks like a defect of the other sign.
BACKGROUND_PRESENCES = (WITH_REF1, WITH_REF2, WITH_BOTH, (REF1,), (REF2,))


@dataclass(frozen=True)
class PointSettings:
    """The points that the robust recipe paints; ranges are uniform unless marked log-uniform."""

    # share of the patches; once a network is right on bare patterns, more of them teach it little
    painted_share: float = 0.9
    # share of the points that are in Target only: fewer than half, so that a point as such is not
    # evidence of a defect
    defect_share: float = 0.4
    # share of the defects that also show faintly in one or both references: ghosts, and defects
    # that repeat weakly
    leak_share: float = 0.3
    # share of the contrast in Target; up to the upper end the point still counts as a defect
    leak: tuple[float, float] = (0.05, 0.3)
    # grey levels of either sign, log-uniform: faint points are the hard ones
    contrast: tuple[float, float] = (5.0, 100.0)
    # share of the points whose contrast depends on the patch's noise, and is just visible in it
    noise_share: float = 0.3
    noise_contrast: tuple[float, float] = (2.5, 8.0)  # sigmas of that noise, log-uniform
    # sigmas of the noise after a filter of the point's own shape: fainter points look like noise
    least_visibility: float = 4.0
    # grey levels: a fainter point teaches nothing, even on a patch without noise
    smallest_contrast: float = 4.0
    # pixels, log-uniform: from one pixel to about four across
    sigma: tuple[float, float] = (0.6, 1.8)
    large_share: float = 0.1  # share of the points that are larger: marks on binary boards
    # pixels, log-uniform; the upper end limits the sigma of elongated points too
    large_sigma: tuple[float, float] = (1.8, 5.0)
    # grey levels, log-uniform: such marks are as black and white as the board
    large_contrast: tuple[float, float] = (20.0, 255.0)
    elongation: tuple[float, float] = (1.0, 2.5)  # log-uniform, along y or x: scratches and smears
    flat_share: float = 0.15  # share of the points that are level inside and have a soft edge
    large_flat_share: float = 0.5  # the same share of the large points
    # times a background point's contrast, for each channel
    shared_factor: tuple[float, float] = (0.85, 1.15)
    # share of Target's contrast that a reference has at least where it shares a point: with less,
    # defect and background could not be told apart
    shared_least: float = 0.8
    # pixels in y and x by which a point lies elsewhere in a reference: dust does not move with the
    # part
    jitter: float = 0.4
    # pixels outside the patch where a centre may still lie, because tiles cut points
    beyond_border: float = 1.0
    # distance between two points, in sigmas of the larger one, so that neither hides the other
    clearance: float = 3.0
    tries: int = 3  # attempts to place a point at such a distance; then it is left out
    mask_level: float = 0.2  # of the unit profile: higher pixels are marked, and the nearest one
    # grey levels by which a defect must change Target to be marked: a saturated pattern hides it
    visible_change: float = 3.0
    # share of its contrast that clipping must leave, unless the rest is clearly visible
    visible_share: float = 0.5
    # grey levels that, left after clipping, are visible in nearly any noise, whatever their share
    clearly_visible: float = 20.0


class SpreadPoint(NamedTuple):
    """A point with its centre (y, x) and its amplitude in each channel.

    Centres and sigma are in pixels. An amplitude is in grey levels, 0 where the channel lacks the
    point.
    """

    presence: tuple[int, ...]
    centers: tuple[tuple[float, float], ...]
    sigma: tuple[float, float]
    amplitudes: tuple[float, ...]
    is_flat: bool


def draw_points(
    generator: np.random.Generator,
    amounts: PointSettings,
    count: int,
    image_size: tuple[int, int],
    noise: float,
) -> list[SpreadPoint]:
    """Draw at most `count` points in a patch (height, width) whose noise has a sigma of `noise`.

    `noise` is in grey levels. Points keep a distance from each other. A point without room is left
    out.
    """
    chances = generator.random((18, count))
    is_large = chances[3] < amounts.large_share
    sigmas = _sigmas(chances[4:7], amounts, is_large)
    contrasts = _contrasts(chances[:3], amounts, is_large, sigmas, noise)
    centers = _draw_centers(generator, amounts, sigmas.max(axis=1).tolist(), image_size)
    jitters = (amounts.jitter * (2 * chances[7:11] - 1)).T.reshape(-1, 2, 2).tolist()
    flat = (chances[11] < np.where(is_large, amounts.large_flat_share, amounts.flat_share)).tolist()
    points = []
    spreads = chances[12:18].T.tolist()
    for contrast, sigma, center, jitter, is_flat, spread in zip(
        contrasts, sigmas.tolist(), centers, jitters, flat, spreads
    ):
        presence, factors = _assign_channels(spread, amounts)
        if center:
            places = center, *((center[0] + y, center[1] + x) for y, x in jitter)
            points.append(
                SpreadPoint(
                    presence,
                    places,
                    tuple(sigma),
                    tuple(contrast * factor for factor in factors),
                    is_flat,
                )
            )
    return points


def paint_points(
    image: np.ndarray, mask: np.ndarray, points: list[SpreadPoint], amounts: PointSettings
) -> None:
    """Add points to a patch (3, h, w), in place without clipping, and mark defects in its mask.

    The mask is (h, w). A defect is not marked if clipping to 0-255 would leave too little of it.
    """
    shown = [
        (point, channel) for point in points for channel in WITH_BOTH if point.amplitudes[channel]
    ]
    centers = [point.centers[channel] for point, channel in shown]
    sigmas, flat = [point.sigma for point, _ in shown], [point.is_flat for point, _ in shown]
    profiles = point_profiles(centers, sigmas, flat, mask) if shown else []
    for (point, channel), (place, profile) in zip(shown, profiles):
        # a view, because `image[...] +=` would copy the result back onto itself
        under = image[channel, *place]
        under += point.amplitudes[channel] * profile
    for (point, channel), (place, profile) in zip(shown, profiles):
        if point.presence != TARGET_ONLY or channel != TARGET:
            continue
        nearest = tuple(
            min(max(round(at), 0), length - 1)
            for at, length in zip(point.centers[TARGET], mask.shape)
        )
        peak = point.amplitudes[TARGET] * float(
            profile[nearest[0] - place[0].start, nearest[1] - place[1].start]
        )
        if _is_visible(float(image[TARGET][nearest]), peak, amounts):
            mask[place][profile > amounts.mask_level] = 1
            mask[nearest] = 1


def _is_visible(painted: float, added: float, amounts: PointSettings) -> bool:
    """Return whether clipping leaves enough of the grey levels `added` to a pixel.

    `painted` is the pixel's grey level afterwards.
    """
    change = abs(_clip(painted) - _clip(painted - added))
    return change >= max(
        amounts.visible_change, min(amounts.visible_share * abs(added), amounts.clearly_visible)
    )


def _clip(level: float) -> float:
    return min(max(level, 0.0), MAX_GREY)


def _contrasts(
    chances: np.ndarray,
    amounts: PointSettings,
    is_large: np.ndarray,
    sigmas: np.ndarray,
    noise: float,
) -> list[float]:
    """Return grey levels of either sign for points of `sigmas` (count, 2).

    `chances` are three random numbers, 0-1, for each.
    """
    by_level = _log_interpolate(amounts.contrast, chances[0])
    by_noise = noise * _log_interpolate(amounts.noise_contrast, chances[0])
    contrasts = np.where(
        chances[1] < amounts.noise_share, np.maximum(by_noise, amounts.smallest_contrast), by_level
    )
    contrasts = np.where(is_large, _log_interpolate(amounts.large_contrast, chances[0]), contrasts)
    contrasts = np.maximum(
        contrasts, amounts.least_visibility * noise / np.sqrt(np.pi * sigmas.prod(axis=1))
    )
    return np.where(chances[2] < 0.5, contrasts, -contrasts).tolist()


def _sigmas(chances: np.ndarray, amounts: PointSettings, is_large: np.ndarray) -> np.ndarray:
    """Return (count, 2): (y, x) in pixels, from three random numbers 0-1 for each point."""
    short = np.where(
        is_large,
        _log_interpolate(amounts.large_sigma, chances[0]),
        _log_interpolate(amounts.sigma, chances[0]),
    )
    long = np.minimum(
        short * _log_interpolate(amounts.elongation, chances[1]), amounts.large_sigma[1]
    )
    along_y = chances[2] < 0.5
    return np.stack([np.where(along_y, long, short), np.where(along_y, short, long)], axis=1)


def _draw_centers(
    generator: np.random.Generator,
    amounts: PointSettings,
    sigmas: list[float],
    image_size: tuple[int, int],
) -> list[tuple[float, float] | None]:
    """Return a centre (y, x) for each point, by its larger sigma, or None where there is no room.

    Each is apart from those before it.
    """
    reach = np.array(image_size) + 2 * amounts.beyond_border
    tried = generator.random((len(sigmas), amounts.tries, 2)) * reach - amounts.beyond_border - 0.5
    centers: list[tuple[float, float] | None] = []
    for sigma, candidates in zip(sigmas, tried.tolist()):
        taken = [
            (other, max(size, sigma) * amounts.clearance)
            for other, size in zip(centers, sigmas)
            if other
        ]
        free = (
            (y, x)
            for y, x in candidates
            if all(math.hypot(y - at[0], x - at[1]) >= apart for at, apart in taken)
        )
        centers.append(next(free, None))
    return centers


def _assign_channels(
    chances: list[float], amounts: PointSettings
) -> tuple[tuple[int, ...], list[float]]:
    """Return the channels that a point counts as being in, and its factor in each channel.

    A factor multiplies the contrast. A defect that leaks has small factors in references. `chances`
    are six random numbers, 0-1.
    """
    kind, where, leaks, *shares = chances
    if kind < amounts.defect_share:
        factors = [1.0, 0.0, 0.0]
        if leaks < amounts.leak_share:
            for channel in ((REF1,), (REF2,), (REF1, REF2))[int(3 * where)]:
                factors[channel] = lerp(amounts.leak, shares[0])
        return TARGET_ONLY, factors
    presence = BACKGROUND_PRESENCES[int(len(BACKGROUND_PRESENCES) * where)]
    factors = [
        lerp(amounts.shared_factor, share) if channel in presence else 0.0
        for channel, share in enumerate(shares)
    ]
    least = amounts.shared_least * factors[TARGET]
    return presence, [
        max(factor, least) if channel in presence else 0.0 for channel, factor in enumerate(factors)
    ]


def _log_interpolate(bounds: tuple[float, float], share: np.ndarray) -> np.ndarray:
    return bounds[0] * (bounds[1] / bounds[0]) ** share

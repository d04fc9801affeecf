"""Shots of a part: the conditions of each channel, drawn at random, and the image that they give.

Optics come first: defocus blurs pattern, points and clutter alike, then each row is shot where the
displacement has moved the part. Gain, offset and illumination change the pattern alone, so that a
point's contrast is in grey levels of the shot whatever they are. Noise is added, what exceeds the
range is clipped, and the image is compressed.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from benchmarks.suite.displacement import Displacement, draw_bends, draw_jitter, draw_shift
from benchmarks.suite.levels import Amounts
from benchmarks.suite.points import CHANNELS, Point, paint_on_shot
from benchmarks.suite.stripes import STRIPE_FACTOR, Stripe, add_stripes
from data.demo_strips import (
    OVERSAMPLING,
    Exposure,
    apply_exposure,
    draw_exposure,
    sample_to_sensor,
)
from gaussian import MAX_GREY, REF1, REF2, TARGET


@dataclass(frozen=True)
class Part:
    """Everything that the shots of a strip share."""

    pattern: np.ndarray  # on the fine grid, with its margin
    stripes: tuple[Stripe, ...]
    points: tuple[Point, ...]
    clutter: tuple[Point, ...] = ()  # blobs, of which each is in one channel alone


@dataclass(frozen=True)
class Conditions:
    """How one channel of one shot shows the part."""

    displacement: Displacement
    stripe_factors: np.ndarray  # by which it multiplies the strength of each stripe
    exposure: Exposure
    noise: np.ndarray  # (H, W), in units of the noise's sigma at each pixel
    blur: float = 0.0  # pixels: sigma of the defocus
    signal_noise: float = 0.0  # grey levels: variance of the noise for each grey level
    columns: np.ndarray | None = None  # (W,) grey levels: the offset of each column
    jpeg_quality: int | None = None  # 0-100


def draw_conditions(
    part: Part, amounts: Amounts, generator: np.random.Generator, image_size: tuple[int, int]
) -> list[Conditions]:
    """The conditions of Target, Ref1 and Ref2. Only references are shifted or wander."""
    height, width = image_size
    is_clipped = amounts.overexposure != (1.0, 1.0)
    overexposure = generator.uniform(*amounts.overexposure) if is_clipped else 1.0
    bends = draw_bends(generator, amounts, image_size)
    by_channel = []
    for channel in (TARGET, REF1, REF2):
        shift = (
            np.zeros((height, 2)) if channel == TARGET else draw_shift(generator, amounts, height)
        )
        displacement = Displacement(
            shift,
            tuple(bend for channels, bend in bends if channel in channels),
            draw_jitter(generator, amounts, height),
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
        # A level without a difference draws nothing for it: earlier levels keep their numbers.
        extras = {}
        if amounts.blur[1]:
            extras["blur"] = generator.uniform(*amounts.blur)
        if amounts.signal_noise[1]:
            extras["signal_noise"] = generator.uniform(*amounts.signal_noise)
        if amounts.column_noise[1]:
            extras["columns"] = generator.normal(0, generator.uniform(*amounts.column_noise), width)
        if amounts.jpeg_quality:
            least, most = amounts.jpeg_quality
            extras["jpeg_quality"] = int(generator.integers(least, most + 1))
        exposure = replace(exposure, gain=overexposure * exposure.gain)
        noise = generator.standard_normal(image_size)
        by_channel.append(Conditions(displacement, factors, exposure, noise, **extras))
    return by_channel


def align_conditions(by_channel: list[Conditions]) -> list[Conditions]:
    """The conditions of a shot whose references show the part as Target does, but for noise.

    They have Target's displacement, exposure, defocus and strength of stripes, and their own noise.
    """
    target = by_channel[TARGET]
    return [
        replace(
            conditions,
            displacement=target.displacement,
            stripe_factors=target.stripe_factors,
            exposure=replace(target.exposure, noise_sigma=conditions.exposure.noise_sigma),
            blur=target.blur,
        )
        for conditions in by_channel
    ]


def light_channel(
    part: Part, channel: int, conditions: Conditions, image_size: tuple[int, int]
) -> np.ndarray:
    """A channel (H, W) float64 in grey levels before noise, neither clipped nor compressed."""
    pattern = add_stripes(part.pattern, part.stripes, conditions.stripe_factors)
    if conditions.blur:
        pattern = cv2.GaussianBlur(pattern, (0, 0), conditions.blur * OVERSAMPLING)
    displaced = conditions.displacement.move_pattern(pattern)
    lit = apply_exposure(sample_to_sensor(displaced, image_size), conditions.exposure)
    for point in (*part.points, *part.clutter):
        if channel in CHANNELS[point.presence]:
            seen = _displace(point, channel, conditions)
            is_fixed = point.shape == "hot pixel"
            jitter = None if is_fixed else conditions.displacement.jitter
            paint_on_shot(lit, seen, seen.center, jitter)
    return lit


def see_points(part: Part, target: Conditions) -> tuple[Point, ...]:
    """The points as Target shows them: displaced, and with what defocus leaves of the contrast."""
    seen, rows = [], np.arange(len(target.displacement.shift))
    for point in part.points:
        moved = _displace(point, TARGET, target)
        if point.shape != "hot pixel" and target.displacement.jitter is not None:
            weights = moved.row_weights(rows)
            y, x = moved.center
            moved = replace(moved, center=(y, x + target.displacement.mean_jitter(weights)))
        seen.append(moved)
    return tuple(seen)


def _displace(point: Point, channel: int, conditions: Conditions) -> Point:
    """A point as a channel shows it, without the jitter of the rows."""
    if point.shape == "hot pixel":
        return point
    point = point if channel == TARGET else point.in_reference(channel)
    point = point.blurred(conditions.blur)
    return replace(point, center=conditions.displacement.move_point(point.center))


def noise_sigma(lit: np.ndarray, conditions: Conditions) -> np.ndarray:
    """Sigma of the noise of each pixel of a channel (H, W), grey levels."""
    sigma = conditions.exposure.noise_sigma
    if not conditions.signal_noise:
        return np.full(lit.shape, sigma)
    return np.sqrt(sigma**2 + conditions.signal_noise * np.maximum(lit, 0))


def expose(lit: np.ndarray, conditions: Conditions) -> np.ndarray:
    """The channel (H, W) float32, grey levels 0-255: with noise, clipped, and compressed."""
    columns = 0.0 if conditions.columns is None else conditions.columns
    image = lit + columns + noise_sigma(lit, conditions) * conditions.noise
    image = np.clip(image, 0, MAX_GREY).astype(np.float32)
    return image if conditions.jpeg_quality is None else compress(image, conditions.jpeg_quality)


def compress(image: np.ndarray, quality: int) -> np.ndarray:
    """(H, W) float32, grey levels 0-255, as JPEG of 8 bits gives it back: in blocks of 8x8."""
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality]
    _, coded = cv2.imencode(".jpg", np.rint(image).astype(np.uint8), flags)
    return cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE).astype(np.float32)

"""Procedural strips, as from a line camera: conductor patterns on a substrate, in three shots.

A pattern consists of lines, mesh, vias or routing, in one to three sections along the strip. It is
drawn three times finer than the camera's pixels, with rough edges and with grain of the material.
Each channel is a shot of it with its own sub-pixel shift, gain, offset, slow illumination and
noise. The amounts are constant, so that metrics can be compared over time.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

STRIP_SIZE = (976, 176)  # (height, width) in pixels
GAIN_SPREAD = 0.08  # each channel's gain is 1 +- this
OFFSET_SPREAD = 6.0  # grey levels
ILLUMINATION_SPREAD = 5.0  # grey levels; one slow wave along the strip and a slope across it
SENSOR_NOISE_SIGMA = (1.5, 3.0)  # grey levels, drawn for each channel
REFERENCE_SHIFT = 0.4  # pixels in y and x, each reference against Target
OVERSAMPLING = 3  # fine pixels per camera pixel along each axis
PATTERN_MARGIN = 4  # camera pixels drawn beyond the strip on every side, as room for the shifts

# draws its tracks onto a section of the fine grid, (h, w) uint8
Family = Callable[[np.random.Generator, np.ndarray], None]

_SUBPIXEL_BITS = 4  # OpenCV draws at 1/16 of a fine pixel


@dataclass(frozen=True)
class Exposure:
    """How one channel shows the part: gain (a factor), illumination (H, W), offset and noise.

    All but the gain are in grey levels.
    """

    gain: float
    offset: float
    illumination: np.ndarray
    noise_sigma: float  # grey levels


def make_strip(
    generator: np.random.Generator, image_size: tuple[int, int] = STRIP_SIZE
) -> np.ndarray:
    """Draw a good strip (3, H, W) float32, grey levels 0-255.

    Target, Ref1 and Ref2 are three shots of one pattern.
    """
    return make_strip_and_shifts(generator, image_size)[0]


def make_strip_and_shifts(
    generator: np.random.Generator, image_size: tuple[int, int] = STRIP_SIZE
) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Draw a strip as `make_strip` does, and return each channel's shift as well.

    A shift (y, x) is in pixels, from a feature's place in Target to its place in the channel.
    """
    pattern = draw_pattern(generator, image_size)
    shifts = [(0.0, 0.0), *generator.uniform(-REFERENCE_SHIFT, REFERENCE_SHIFT, (2, 2))]
    return np.stack(
        [render_channel(pattern, generator, image_size, shift) for shift in shifts]
    ), shifts


def draw_pattern(
    generator: np.random.Generator,
    image_size: tuple[int, int],
    families: tuple[Family, ...] | None = None,
) -> np.ndarray:
    """Draw the part: grey levels, float32, on the fine grid with PATTERN_MARGIN around it.

    Each section is of one of the `families`, those of the demo strips where they are None.
    """
    families = families or _FAMILIES
    height, width = ((length + 2 * PATTERN_MARGIN) * OVERSAMPLING for length in image_size)
    conductor = np.zeros((height, width), np.uint8)
    for top, bottom in _sections(generator, height):
        draw = families[generator.integers(len(families))]
        draw(generator, conductor[top:bottom])
        if top:
            bar = int(generator.integers(3, 9)) * OVERSAMPLING
            conductor[top : top + bar] = 255 * int(generator.integers(2))
    coverage = (
        cv2.GaussianBlur(_roughen(generator, conductor), (0, 0), 0.5 * OVERSAMPLING).astype(
            np.float32
        )
        / 255
    )
    substrate = generator.uniform(60, 100) + _grain(
        generator, (height, width), generator.uniform(3, 6), stretch=1.0
    )
    metal = generator.uniform(150, 190) + _grain(
        generator, (height, width), generator.uniform(5, 10), stretch=5.0
    )
    edge = 4 * coverage * (1 - coverage)  # etched flanks reflect less
    levels = substrate + coverage * (metal - substrate) - generator.uniform(10, 30) * edge
    return cv2.GaussianBlur(levels, (0, 0), 0.45 * OVERSAMPLING)


def render_channel(
    pattern: np.ndarray,
    generator: np.random.Generator,
    image_size: tuple[int, int],
    shift: tuple[float, float],
) -> np.ndarray:
    """Render one channel (H, W), grey levels 0-255, of the pattern moved by `shift` (y, x) pixels.

    Gain, offset, illumination and noise are drawn at random.
    """
    exposure = draw_exposure(generator, image_size)
    return add_sensor_noise(
        apply_exposure(sample_to_sensor(shift_pattern(pattern, shift), image_size), exposure),
        exposure,
        generator,
    )


def shift_pattern(pattern: np.ndarray, shift: tuple[float, float]) -> np.ndarray:
    """Move a pattern on the fine grid by `shift` (y, x) camera pixels: down and to the right."""
    matrix = np.float32([[1, 0, shift[1] * OVERSAMPLING], [0, 1, shift[0] * OVERSAMPLING]])
    return cv2.warpAffine(
        pattern, matrix, pattern.shape[::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )


def sample_to_sensor(pattern: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Average a pattern on the fine grid over the camera's pixels: (H, W) float32 grey levels.

    The margin is cut off.
    """
    margin = PATTERN_MARGIN * OVERSAMPLING
    return cv2.resize(
        pattern[margin:-margin, margin:-margin], image_size[::-1], interpolation=cv2.INTER_AREA
    )


def draw_exposure(
    generator: np.random.Generator,
    image_size: tuple[int, int],
    gain_spread: float = GAIN_SPREAD,
    offset_spread: float = OFFSET_SPREAD,
    illumination_spread: float = ILLUMINATION_SPREAD,
    noise_sigma: tuple[float, float] = SENSOR_NOISE_SIGMA,
) -> Exposure:
    """Draw a random exposure within the given amounts, those of the constants of the same names."""
    height, width = image_size
    wave = np.sin(
        2 * np.pi * (np.arange(height) / height * generator.uniform(0.3, 1.5) + generator.uniform())
    )
    slope = np.linspace(-1, 1, width) * generator.uniform(-1, 1)
    illumination = illumination_spread * (wave[:, None] + slope[None, :]) / 2
    gain = 1 + generator.uniform(-gain_spread, gain_spread)
    return Exposure(
        gain,
        generator.uniform(-offset_spread, offset_spread),
        illumination,
        generator.uniform(*noise_sigma),
    )


def apply_exposure(sampled: np.ndarray, exposure: Exposure) -> np.ndarray:
    """Apply gain, offset and illumination to (H, W): float64 grey levels, not clipped yet."""
    return exposure.gain * sampled + exposure.offset + exposure.illumination


def add_sensor_noise(
    lit: np.ndarray, exposure: Exposure, generator: np.random.Generator
) -> np.ndarray:
    """Add the camera's noise to (H, W): float32 grey levels, clipped to 0-255."""
    return np.clip(lit + generator.normal(0, exposure.noise_sigma, lit.shape), 0, 255).astype(
        np.float32
    )


def _sections(generator: np.random.Generator, height: int) -> list[tuple[int, int]]:
    count = int(generator.integers(1, 4))
    borders = np.sort(generator.uniform(0.2, 0.8, count - 1)) * height
    edges = [0, *borders.astype(int).tolist(), height]
    return [(top, bottom) for top, bottom in zip(edges, edges[1:]) if bottom > top]


def draw_lines(
    generator: np.random.Generator,
    canvas: np.ndarray,
    pitch_range: tuple[float, float] = (7.0, 22.0),
) -> None:
    """Draw parallel tracks, straight or at a slight angle, over the whole section.

    The distance of their middles is drawn from `pitch_range`, in camera pixels.
    """
    angle = generator.choice([0.0, 90.0, 45.0, generator.uniform(-12, 12)])
    _parallel(
        canvas,
        angle,
        pitch=generator.uniform(*pitch_range),
        duty=generator.uniform(0.35, 0.6),
        phase=generator.uniform(),
    )


def _mesh(generator: np.random.Generator, canvas: np.ndarray) -> None:
    """Draw two sets of thin wires that cross."""
    pitch = generator.uniform(11, 26)
    duty = generator.uniform(0.18, 0.35)
    angle = generator.choice([0.0, 30.0, 45.0])
    for direction in (angle, angle + 90 if angle else 90.0):
        _parallel(canvas, direction, pitch, duty, phase=generator.uniform())


def _vias(generator: np.random.Generator, canvas: np.ndarray) -> None:
    """Draw annular pads on a grid, square or staggered, some rows joined by tracks."""
    pitch = generator.uniform(16, 30)
    radius, hole = pitch * generator.uniform(0.25, 0.38), generator.uniform(0.3, 0.6)
    stagger = generator.choice([0.0, 0.5])
    phase_y, phase_x = generator.uniform(0, pitch, 2)
    height, width = (length / OVERSAMPLING for length in canvas.shape)
    for row in range(-1, int(height / pitch) + 2):
        y = phase_y + row * pitch
        if generator.uniform() < 0.3:
            _polyline(canvas, [(y, -5), (y, width + 5)], radius * 0.6)
        for column in range(-1, int(width / pitch) + 2):
            x = phase_x + (column + stagger * (row % 2)) * pitch
            _disc(canvas, (y, x), radius, 255)
            _disc(canvas, (y, x), radius * hole, 0)


def _routing(generator: np.random.Generator, canvas: np.ndarray) -> None:
    """Draw bundles of tracks down the section, with 45 degree jogs and pads at the tracks' ends."""
    height, width = (length / OVERSAMPLING for length in canvas.shape)
    x = generator.uniform(-4, 8)
    while x < width + 4:
        tracks = int(generator.integers(1, 6))
        pitch = generator.uniform(6, 12)
        track = generator.uniform(2.2, 4.5)
        path = _jogging_path(generator, height)
        for number in range(tracks):
            end = len(path) if generator.uniform() < 0.7 else int(generator.integers(2, len(path)))
            points = [(y, x + dx + number * pitch) for y, dx in path[:end]]
            _polyline(canvas, points, track)
            for pad in (points[-1], points[0]):
                if generator.uniform() < 0.5:
                    _disc(canvas, pad, track * generator.uniform(0.9, 1.3), 255)
        x += tracks * pitch + generator.uniform(5, 22)


def _jogging_path(generator: np.random.Generator, height: float) -> list[tuple[float, float]]:
    """Return points (y, x offset) from above the section to below it, straight or at 45 degrees."""
    y, x, path = -10.0, 0.0, [(-10.0, 0.0)]
    while y < height + 10:
        y += generator.uniform(25, 140)
        path.append((y, x))
        jog = generator.uniform(-14, 14)
        y, x = y + abs(jog), x + jog
        path.append((y, x))
    return path


_FAMILIES: tuple[Family, ...] = (
    draw_lines,
    _mesh,
    _vias,
    _routing,
    _routing,
)


def _parallel(canvas: np.ndarray, angle: float, pitch: float, duty: float, phase: float) -> None:
    """Draw lines at `angle` degrees from vertical, `pitch` camera pixels apart.

    The lines cover the share `duty` of the area.
    """
    height, width = (length / OVERSAMPLING for length in canvas.shape)
    across = np.array([np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))])  # (y, x)
    along = np.array([across[1], -across[0]])
    reach = (height + width) / 2 + pitch
    middle = np.array([height / 2, width / 2])
    for distance in np.arange(-reach + phase * pitch, reach, pitch):
        foot = middle + distance * across
        _polyline(canvas, [foot - 2 * reach * along, foot + 2 * reach * along], pitch * duty)


def _polyline(canvas: np.ndarray, points: list[tuple[float, float]], width: float) -> None:
    """Draw a track through points (y, x), all in camera pixels."""
    corners = np.array([_fixed_point(point) for point in points], np.int32)
    cv2.polylines(
        canvas,
        [corners],
        False,
        255,
        max(1, round(width * OVERSAMPLING)),
        cv2.LINE_AA,
        _SUBPIXEL_BITS,
    )


def _disc(canvas: np.ndarray, center: tuple[float, float], radius: float, value: int) -> None:
    """Draw a filled circle at (y, x), all in camera pixels."""
    fixed_radius = round(radius * OVERSAMPLING * 2**_SUBPIXEL_BITS)
    cv2.circle(
        canvas, _fixed_point(center), fixed_radius, value, cv2.FILLED, cv2.LINE_AA, _SUBPIXEL_BITS
    )


def _fixed_point(point: tuple[float, float]) -> tuple[int, int]:
    """(y, x) in camera pixels to OpenCV's (x, y) in sixteenths of a fine pixel."""
    y, x = (round(float(value) * OVERSAMPLING * 2**_SUBPIXEL_BITS) for value in point)
    return x, y


def _roughen(generator: np.random.Generator, conductor: np.ndarray) -> np.ndarray:
    """Roughen edges as etching does: displace points by fractions of a camera pixel.

    Neighbouring points are displaced alike.
    """
    y, x = np.indices(conductor.shape, dtype=np.float32)
    amount = generator.uniform(0.1, 0.3) * OVERSAMPLING
    move_y, move_x = (
        smooth_noise(generator, conductor.shape, 1.5 * OVERSAMPLING, 1.5 * OVERSAMPLING) * amount
        for _ in range(2)
    )
    return cv2.remap(
        conductor, x + move_x, y + move_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )


def _grain(
    generator: np.random.Generator, shape: tuple[int, int], sigma: float, stretch: float
) -> np.ndarray:
    """Return the material's texture in grey levels: fine grain and slow mottling.

    The grain is longer along the strip by `stretch`, as rolling marks are.
    """
    fine = smooth_noise(generator, shape, 0.7 * OVERSAMPLING * stretch, 0.7 * OVERSAMPLING)
    mottling = smooth_noise(generator, shape, 12 * OVERSAMPLING, 8 * OVERSAMPLING)
    return (sigma * (0.85 * fine + 0.5 * mottling)).astype(np.float32)


def smooth_noise(
    generator: np.random.Generator, shape: tuple[int, int], sigma_y: float, sigma_x: float
) -> np.ndarray:
    """Return Gaussian noise of unit variance, float32, smoothed by the given sigmas in fine pixels.

    Smoother noise is drawn on a coarser grid.
    """
    step = max(1, int(min(sigma_y, sigma_x) / 2))
    small = tuple(-(-length // step) for length in shape)
    noise = generator.standard_normal(small, dtype=np.float32)
    noise = cv2.GaussianBlur(
        noise, (0, 0), sigmaX=sigma_x / step, sigmaY=sigma_y / step, borderType=cv2.BORDER_REFLECT
    )
    noise /= noise.std() + 1e-6
    return cv2.resize(noise, shape[::-1], interpolation=cv2.INTER_LINEAR) if step > 1 else noise

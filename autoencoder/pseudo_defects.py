"""Pseudo-defects: what is painted into good pictures to train on, and to validate without defects.

The sources are CutPaste with its patch, its scar and both (Li et al. 2021), blended patches as in
NSA (Schlueter et al. 2022), and a foreign texture as in DRAEM (Zavrtanik et al. 2021), whose
texture is made of filtered noise, since nothing is downloaded here. Unlike in these sources, size,
rotation and contrast are ranges that the user names after the line's own defects.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from common.errors import UserError
from gaussian import MAX_GREY

KINDS = ("cutpaste", "scar", "3way", "blend", "texture")
PATCH_ASPECT = (1.0, 3.3)  # length over width of a patch, log-uniform: that of CutPaste
SCAR_ASPECT = (4.0, 12.0)  # the same of a scar
THINNEST = 1.5  # pixels; a thinner scar would have gaps
RESIZED = (0.7, 1.3)  # scale of a blended patch against its source: that of NSA
EDGE_POINTS = 64  # around a blended patch, at which it meets the picture
FOREIGN_LEVEL = (40.0, 215.0)  # mean grey level of a foreign texture
FOREIGN_SPREAD = 50.0  # its standard deviation in grey levels, before its contrast is set
LEAST_CHANGE = 1.0  # grey levels by which every marked pixel changes: less could not be seen
ATTEMPTS = 8  # to find a place where clipping leaves a change of half the contrast


@dataclass(frozen=True)
class Place:
    """Where a pseudo-defect lies: a rotated rectangle and the pixels (rows, columns) around it.

    `along` and `across` (h, w) are each pixel's coordinates on the rectangle's two axes, in pixels
    from its centre (y, x); `length` and `width` are its sides.
    """

    rows: slice
    columns: slice
    centre: tuple[float, float]
    angle: float  # radians from x, with y downwards
    length: float
    width: float
    along: np.ndarray
    across: np.ndarray


@dataclass(frozen=True)
class PseudoDefects:
    """Paints one defect of one of `kinds` at a time.

    `size` is the range of the longer side in pixels, log-uniform; `rotation` the largest angle to
    either side in degrees, uniform; `contrast` the range of the root mean square of the change in
    grey levels (0-255), log-uniform. A defect that is larger than the picture is scaled down.

    Raises `UserError` for an unknown kind and for a range that is empty or not positive.
    """

    kinds: tuple[str, ...] = KINDS
    size: tuple[float, float] = (4.0, 60.0)
    rotation: float = 45.0
    contrast: tuple[float, float] = (10.0, 80.0)

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise UserError(
                f"--defect_kinds: found {', '.join(unknown) or 'none'}, "
                f"expected some of {', '.join(KINDS)}"
            )
        for flag, bounds, least in (
            ("--defect_size", self.size, 1.0),
            ("--defect_contrast", self.contrast, LEAST_CHANGE),
        ):
            if not least <= bounds[0] <= bounds[1] < math.inf:
                raise UserError(
                    f"{flag}: found {bounds[0]:g} {bounds[1]:g}, "
                    f"expected a range of numbers from {least:g} up, the smaller one first"
                )
        if not 0 <= self.rotation <= 180:
            raise UserError(
                f"--defect_rotation: found {self.rotation:g}, expected 0 to 180 degrees"
            )

    def paint(
        self,
        image: np.ndarray,
        generator: np.random.Generator,
        donors: Sequence[np.ndarray] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Paint one defect into a copy of a picture (C, H, W), grey levels 0-255.

        Patches are taken from one of the `donors`, other good pictures (C, h, w), or where there
        are none from the picture itself. Returns the painted picture, float32, and its mask (H, W)
        bool: exactly the pixels that changed, each by LEAST_CHANGE or more in some channel.
        """
        image = np.ascontiguousarray(image, np.float32)
        best = image, np.zeros(image.shape[1:], bool), -1.0
        for _ in range(ATTEMPTS):
            kind = self.kinds[generator.integers(len(self.kinds))]
            contrast = _log_uniform(generator, self.contrast)
            painted, mask = self._paint_kind(kind, contrast, image, generator, donors)
            left = float(np.sqrt(np.mean((painted - image)[:, mask] ** 2))) / contrast
            if left > best[2]:
                best = painted, mask, left
            if left > 0.5:
                break
        return best[:2]

    def _paint_kind(
        self,
        kind: str,
        contrast: float,
        image: np.ndarray,
        generator: np.random.Generator,
        donors: Sequence[np.ndarray] | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        if kind == "3way":  # the two kinds of damage of CutPaste's 3-way classification
            kind = ("cutpaste", "scar")[generator.integers(2)]
        place = self._draw_place(kind, image.shape[1:], generator)
        under = image[:, place.rows, place.columns]
        if kind == "texture":
            shape = _noise_shape(place, generator)
            profile, other = shape.astype(np.float32), _foreign_texture(under.shape, generator)
        elif kind == "blend":
            radius = np.hypot(place.along / (place.length / 2), place.across / (place.width / 2))
            shape = _at_least_one(radius <= 1, radius)
            profile = np.clip(2 * (1 - radius), 0, 1).astype(np.float32) + 1e-3
            donor = donors[generator.integers(len(donors))] if donors else image
            other = _blended(image, place, donor, generator)
        else:
            radius = np.maximum(
                abs(place.along) / (place.length / 2), abs(place.across) / (place.width / 2)
            )
            shape = _at_least_one(radius <= 1, radius)
            profile, other = shape.astype(np.float32), _patch(image, place, 1.0, generator)
        change = _with_contrast((other - under)[:, shape], profile[shape], contrast, generator)
        return _changed(image, place, shape, change)

    def _draw_place(
        self, kind: str, image_size: tuple[int, int], generator: np.random.Generator
    ) -> Place:
        """Draw a rectangle whose every corner lies in the picture (height, width)."""
        length = _log_uniform(generator, self.size)
        aspect = _log_uniform(generator, SCAR_ASPECT if kind == "scar" else PATCH_ASPECT)
        width = min(length, max(length / aspect, THINNEST))
        angle = math.radians(generator.uniform(-self.rotation, self.rotation))
        if generator.random() < 0.5:  # as often high as wide
            angle += math.pi / 2
        cos, sin = math.cos(angle), math.sin(angle)
        extent = (
            length * abs(sin) + width * abs(cos),
            length * abs(cos) + width * abs(sin),
        )
        shrink = min(1.0, *(side / reach for side, reach in zip(image_size, extent)))
        slices, centre = [], []
        for side, reach in zip(image_size, extent):
            cells = min(side, max(1, math.ceil(reach * shrink)))
            start = int(generator.integers(side - cells + 1))
            slices.append(slice(start, start + cells))
            centre.append(start + (cells - 1) / 2)
        y, x = np.ogrid[slices[0], slices[1]]
        y, x = y - centre[0], x - centre[1]
        along, across = x * cos + y * sin, y * cos - x * sin
        length, width = length * shrink, width * shrink
        return Place(*slices, tuple(centre), angle, length, width, along, across)


def _changed(
    image: np.ndarray, place: Place, shape: np.ndarray, change: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Add `change` (C, n) to the n pixels of `shape` (h, w), and mark exactly these.

    What would stay as it is, by chance or by clipping, changes by LEAST_CHANGE: a mask with holes
    would teach a network that damage has holes.
    """
    painted, mask = image.copy(), np.zeros(image.shape[1:], bool)
    mask[place.rows, place.columns] = shape
    before = image[:, mask]
    after = np.clip(before + change, 0, MAX_GREY).astype(np.float32)
    still = (abs(after - before) < LEAST_CHANGE).all(axis=0)
    inwards = np.where(before < MAX_GREY / 2, LEAST_CHANGE, -LEAST_CHANGE)
    painted[:, mask] = np.where(still, before + inwards, after)
    return painted, mask


def _with_contrast(
    change: np.ndarray, profile: np.ndarray, contrast: float, generator: np.random.Generator
) -> np.ndarray:
    """Give a change (C, n) a root mean square of `contrast` grey levels.

    A stronger one becomes more transparent. To a weaker one, such as a patch of an even surface,
    comes a constant times the `profile` (n,), brighter or darker at random: CutPaste's jitter.
    """
    square = float(np.mean(change**2))
    if square >= contrast**2:
        return change * (contrast / math.sqrt(square))
    # the constant o solves mean((change + o profile)^2) = contrast^2
    spread, shared = float(np.mean(profile**2)), float(np.mean(change * profile))
    root = math.sqrt(shared**2 + spread * (contrast**2 - square))
    sign = 1 if generator.random() < 0.5 else -1
    return change + (sign * root - shared) / spread * profile


def _patch(
    donor: np.ndarray, place: Place, scale: float, generator: np.random.Generator
) -> np.ndarray:
    """Cut an upright rectangle out of a donor (C, H, W), and turn it as `place`: (C, h, w).

    Beyond the donor's border the picture goes on mirrored.
    """
    centre = []
    for side, reach in zip(donor.shape[1:], (place.width, place.length)):
        margin = min(reach / scale, side - 1) / 2
        centre.append(generator.uniform(margin, side - 1 - margin))
    map_y = (centre[0] + place.across / scale).astype(np.float32)
    map_x = (centre[1] + place.along / scale).astype(np.float32)
    planes = [
        cv2.remap(plane, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        for plane in np.ascontiguousarray(donor, np.float32)
    ]
    return np.stack(planes)


def _blended(
    image: np.ndarray, place: Place, donor: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """A donor's patch that meets the picture without a step all around its ellipse: (C, h, w).

    NSA solves Poisson's equation. Here each pixel takes the mean of the steps along the edge,
    weighted by the inverse square of its distance, which needs no solver.
    """
    patch = _patch(donor, place, _log_uniform(generator, RESIZED), generator)
    turn = np.linspace(0, 2 * np.pi, EDGE_POINTS, endpoint=False)
    along, across = place.length / 2 * np.cos(turn), place.width / 2 * np.sin(turn)
    cos, sin = math.cos(place.angle), math.sin(place.angle)
    height, width = place.along.shape
    y = along * sin + across * cos + (height - 1) / 2
    x = along * cos - across * sin + (width - 1) / 2
    y, x = np.clip(np.rint(y), 0, height - 1), np.clip(np.rint(x), 0, width - 1)
    edge = (slice(None), y.astype(int), x.astype(int))
    steps = image[:, place.rows, place.columns][edge] - patch[edge]  # (C, EDGE_POINTS)
    rows, columns = np.arange(height)[:, None, None], np.arange(width)[None, :, None]
    weights = 1 / ((rows - y) ** 2 + (columns - x) ** 2 + 0.5)
    weights = (weights / weights.sum(axis=2, keepdims=True)).astype(np.float32)
    return patch + np.moveaxis(weights @ steps.T, 2, 0)


def _noise_shape(place: Place, generator: np.random.Generator) -> np.ndarray:
    """A blob with an uneven edge within the rectangle: (h, w) bool, one pixel at least.

    It stands for DRAEM's thresholded Perlin noise.
    """
    radius = np.hypot(place.along / (place.length / 2), place.across / (place.width / 2))
    cells = tuple(max(2, round(3 * length / max(radius.shape))) for length in radius.shape)
    noise = generator.uniform(-0.5, 0.5, (cells[0] + 1, cells[1] + 1)).astype(np.float32)
    noise = cv2.resize(noise, radius.shape[::-1], interpolation=cv2.INTER_CUBIC)
    inside = radius + 0.35 + 0.7 * noise
    return _at_least_one((inside <= 1) & (radius <= 1), radius)


def _foreign_texture(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Grain or strokes of a random scale and direction, in grey levels: (C, h, w)."""
    height, width = shape[1:]
    reach = math.ceil(math.hypot(height, width)) + 2
    sigma = _log_uniform(generator, (0.5, 4.0))
    noise = generator.standard_normal((reach, reach), dtype=np.float32)
    stretched = sigma * _log_uniform(generator, (1.0, 6.0))
    noise = cv2.GaussianBlur(noise, (0, 0), sigmaX=stretched, sigmaY=sigma)
    turn = cv2.getRotationMatrix2D(((reach - 1) / 2,) * 2, generator.uniform(0, 180), 1.0)
    turn[:, 2] -= (reach - width) / 2, (reach - height) / 2
    noise = cv2.warpAffine(noise, turn, (width, height), borderMode=cv2.BORDER_REFLECT)
    noise = (noise - noise.mean()) / (noise.std() + 1e-6)
    if generator.random() < 0.5:
        noise = np.sign(noise)  # two materials rather than grain
    levels = generator.uniform(*FOREIGN_LEVEL, shape[0]).astype(np.float32)
    return levels[:, None, None] + np.float32(FOREIGN_SPREAD) * noise


def _at_least_one(shape: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """The shape (h, w) bool, with its innermost pixel where it has none."""
    if not shape.any():
        shape.flat[radius.argmin()] = True
    return shape


def _log_uniform(generator: np.random.Generator, bounds: tuple[float, float]) -> float:
    return float(bounds[0] * (bounds[1] / bounds[0]) ** generator.random())

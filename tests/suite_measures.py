"""What the tests of the suite measure in its strips."""

import cv2
import numpy as np

from data import demo_strips

CROWDED = 6  # the number of a strip with 18 points in Target only
SIZE = (240, 180)  # (height, width) in pixels: small, but with room for thirty points
FINE_SIZE = tuple(
    (length + 2 * demo_strips.PATTERN_MARGIN) * demo_strips.OVERSAMPLING for length in SIZE
)
REACH = 6  # pixels around a centre that hold a point


def measure(spot, center):
    """Amplitude, centre and sigma of a Gaussian spot on zero, from its moments."""
    (top, left), side = (round(value) - REACH for value in center), 2 * REACH + 1
    window = spot[top : top + side, left : left + side].astype(float)
    y, x = np.indices(window.shape)
    mass = window.sum()
    middle = [(window * axis).sum() / mass for axis in (y, x)]
    sigma = [np.sqrt((window * (axis - at) ** 2).sum() / mass) for axis, at in zip((y, x), middle)]
    return mass / (2 * np.pi * np.prod(sigma)), np.add(middle, (top, left)), sigma


def measure_shift(image, reference, rows=slice(None)):
    """How far the reference is moved against Target, (y, x) in pixels, by least squares over
    smoothed and flattened channels.
    """
    target, moved = (
        cv2.GaussianBlur(image[channel, rows], (0, 0), 1.5) for channel in (0, reference)
    )
    target, moved = (plane - cv2.GaussianBlur(plane, (0, 0), 12) for plane in (target, moved))
    shift, inner = np.zeros(2), (slice(6, -6), slice(6, -6))
    for _ in range(5):
        back = cv2.warpAffine(
            moved,
            np.float32([[1, 0, -shift[1]], [0, 1, -shift[0]]]),
            moved.shape[::-1],
            flags=cv2.INTER_CUBIC,
        )
        columns = [plane[inner].ravel() for plane in (*np.gradient(target), target)]
        shift -= np.linalg.lstsq(
            np.stack(columns, axis=1), (back - target)[inner].ravel(), rcond=None
        )[0][:2]
    return shift

"""The local field and the rows' shifts: beside NumPy, and on strips whose shifts are known exactly.

A pattern is displaced on a grid that is three times finer than the camera's.
"""

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage

from data.demo_strips import (
    OVERSAMPLING,
    PATTERN_MARGIN,
    STRIP_SIZE,
    draw_pattern,
    sample_to_sensor,
)
from ops.field import (
    FIELD_PRIOR,
    FIELD_ROUNDS,
    FIELD_SIGMA,
    FIELD_STIFFNESS,
    OUTLIER,
    TAPER,
    LocalShifts,
    follow_lines,
)
from ops.filters import DERIVATIVE
from ops.registration import Alignment
from ops.warp import LARGEST_SHIFT, Warper, shift_slightly
from tests.test_registration import align, batch, expose, pattern, residual, shot, texture

SIZE = (250, 176)


def local_shifts(target: np.ndarray, *references: np.ndarray) -> LocalShifts:
    """The shifts of channels (H, W) in grey levels, with no curve and no gain before."""
    strips = batch(target, *references, dtype=torch.float64)
    return LocalShifts(strips[:, :1], strips[:, :1] - strips[:, 1:])


def slopes(target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return tuple(ndimage.correlate1d(target, DERIVATIVE, axis, mode="nearest") for axis in (0, 1))


def weights(size: tuple[int, int]) -> np.ndarray:
    """(H, W): they rise from 0 at the edge to 1."""
    y, x = (np.minimum(np.arange(n) + 0.5, n - 0.5 - np.arange(n)) / TAPER for n in size)
    return np.outer(np.minimum(y, 1), np.minimum(x, 1))


def clip(difference: np.ndarray) -> np.ndarray:
    limit = OUTLIER * np.abs(difference).mean()
    return np.clip(difference, -limit, limit)


def noise_power(difference: np.ndarray) -> float:
    return np.pi / 2 * np.abs(difference).mean() ** 2


def reference_field(target: np.ndarray, difference: np.ndarray) -> np.ndarray:
    """(2, H, W): the field by least squares around every pixel, without blocks."""
    weight = weights(target.shape)

    def pool(plane: np.ndarray) -> np.ndarray:
        sums = [
            ndimage.gaussian_filter(each, FIELD_SIGMA, mode="constant", truncate=3)
            for each in (weight * plane, np.ones_like(plane))
        ]
        return sums[0] / sums[1]

    down, across = slopes(target)
    matrix = np.array([[pool(a * b) for b in (down, across)] for a in (down, across)])
    held = noise_power(difference) / (4 * np.pi * FIELD_SIGMA**2) / FIELD_PRIOR**2
    held += FIELD_STIFFNESS * (matrix[0, 0] + matrix[1, 1]).mean()
    matrix = np.moveaxis(matrix, (0, 1), (-2, -1)) + held * np.eye(2)
    field = np.zeros((2, *target.shape))
    difference = clip(difference)
    for _ in range(FIELD_ROUNDS):
        left = difference - down * field[0] - across * field[1]
        sums = np.array([pool(slope * left) for slope in (down, across)]) - held * field
        steps = np.linalg.solve(matrix, np.moveaxis(sums, 0, -1)[..., None])[..., 0]
        field = np.clip(field + np.moveaxis(steps, -1, 0), -1, 1)
    return field


def reference_rows(target: np.ndarray, difference: np.ndarray, field: np.ndarray) -> np.ndarray:
    """(H,): the rows' shifts after a field, (2, H, W)."""
    down, across = slopes(target)
    weight = weights(target.shape)
    information = (weight * across**2).sum(axis=1)
    left = clip(difference) - down * field[0] - across * field[1]
    steps = (weight * across * left).sum(axis=1) / information
    variance = noise_power(difference) / information
    # the upper median of both, as of the largest half
    middle = len(steps) // 2
    prior = np.sort(steps**2)[middle] / 0.455 - np.sort(variance)[middle]
    return steps * max(prior, 1e-6) / (max(prior, 1e-6) + variance)


@pytest.mark.parametrize("scene", [texture(), pattern(0, SIZE)], ids=["texture", "pattern"])
def test_field_and_rows_are_those_of_numpy(scene):
    generator = np.random.default_rng(0)
    shifts = [(0.2, -0.3), (-0.1, 0.25)]
    target, *references = (
        shot(scene, SIZE, shift) + generator.normal(0, 2, SIZE) for shift in ((0, 0), *shifts)
    )
    references[1] = ndimage.shift(references[1], (0, 0.2), mode="nearest")
    found = local_shifts(target, *references)
    field = found.field()
    rows = found.row_shifts(*field)[0, ..., 0].numpy()
    for number, reference in enumerate(references):
        difference = (target - reference) / 255
        own = np.array([plane[0, number].numpy() for plane in field])
        expected = reference_field(target / 255, difference)
        # the blocks are a smaller part of the Gaussian in the middle than at the border
        assert np.abs(own - expected).max() < 0.05 and np.abs(own - expected).mean() < 0.003
        expected = reference_rows(target / 255, difference, own)
        assert np.abs(rows[number] - expected).max() < 1e-9 < np.abs(rows[number]).max()


def displaced(
    drawn: np.ndarray, size: tuple[int, int], shift_y: np.ndarray, shift_x: np.ndarray
) -> np.ndarray:
    """A shot (H, W) of a pattern on the fine grid, displaced by planes (H, W) in camera pixels.

    All fine rows of a camera's row move alike, as one exposure takes them.
    """
    y, x = np.indices(drawn.shape, dtype=np.float32)
    moves = [
        np.repeat(np.pad(plane, PATTERN_MARGIN, mode="edge"), OVERSAMPLING, axis=0).repeat(
            OVERSAMPLING, axis=1
        )
        for plane in (shift_y, shift_x)
    ]
    from_y, from_x = (
        (own - OVERSAMPLING * move).astype(np.float32) for own, move in zip((y, x), moves)
    )
    moved = cv2.remap(drawn, from_x, from_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    return sample_to_sensor(moved, size).astype(np.float64)


def bend(seed: int, size: tuple[int, int], amount: float) -> np.ndarray:
    """A displacement (H, W) that varies over the part, at most `amount` pixels."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=size), (60, 40))
    return amount * field / np.abs(field).max()


@pytest.mark.parametrize("seed", [1, 4])
def test_shifts_of_vibrating_rows_are_recovered(seed):
    generator = np.random.default_rng(seed)
    drawn, still = draw_pattern(generator, STRIP_SIZE), np.zeros(STRIP_SIZE)
    vibration = generator.normal(0, 0.35, (2, STRIP_SIZE[0]))
    target = displaced(drawn, STRIP_SIZE, still, still) + generator.normal(0, 2, STRIP_SIZE)
    references = [
        displaced(drawn, STRIP_SIZE, still, still + rows[:, None])
        + generator.normal(0, 2, STRIP_SIZE)
        for rows in vibration
    ]
    found = local_shifts(target, *references)
    field = found.field()
    rows = field[1].mean(dim=3, keepdim=True) + found.row_shifts(*field)
    off = rows[0, ..., 0].numpy() - vibration
    assert np.sqrt(np.mean(off**2)) < 0.12 and np.median(np.abs(off)) < 0.05
    # what is left of the difference
    strips = batch(target, *references)
    ratio = residual(align(strips, "fine")[0]) / residual(align(strips, "full")[0])
    assert ratio.max() < 0.7


@pytest.mark.parametrize("seed", [0, 4])
def test_the_field_of_a_bent_part_is_recovered(seed):
    generator = np.random.default_rng(seed)
    drawn = draw_pattern(generator, STRIP_SIZE)
    still = np.zeros(STRIP_SIZE)
    fields = np.array(
        [[bend(10 * number + axis, STRIP_SIZE, 0.8) for axis in (0, 1)] for number in (1, 2)]
    )
    channels = [displaced(drawn, STRIP_SIZE, *shift) for shift in ((still, still), *fields)]
    strips = batch(*(channel + generator.normal(0, 2, STRIP_SIZE) for channel in channels))
    _, _, _, shifts, _ = follow_lines(
        strips, strips[:, 1:], torch.zeros(1, 2, 2, STRIP_SIZE[0], 1), torch.zeros(1, 2, 2)
    )
    off = shifts[1][0].numpy() - fields[:, 1]
    ratio = residual(align(strips, "fine")[0]) / residual(align(strips, "full")[0])
    assert np.sqrt(np.mean(off**2)) < 0.1 and ratio.max() < 0.7


@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_without_a_pattern_nothing_moves(noise):
    generator = np.random.default_rng(0)
    channels = [120 + noise * generator.normal(size=STRIP_SIZE) for _ in range(3)]
    found = local_shifts(*channels)
    field = found.field()
    assert all(plane.square().mean().sqrt() < 0.04 for plane in field)
    assert found.row_shifts(*field).abs().max() < 0.01


def test_a_still_strip_keeps_what_the_curve_alone_makes_of_it():
    """Lines that neither bend nor vibrate: field and rows move by hundredths of a pixel."""
    generator = np.random.default_rng(0)
    scene = pattern(2)
    target, *references = (
        expose(shot(scene, STRIP_SIZE, shift), generator, gain, 3)
        for shift, gain in (((0, 0), 1.0), ((0.3, -0.4), 0.95), ((-0.2, 0.4), 1.05))
    )
    strips = batch(target, *references)
    full, fine = (align(strips, mode)[0][:, 1:] for mode in ("full", "fine"))
    assert (full - fine).square().mean().sqrt() < 0.5 / 255


def test_interpolation_of_small_shifts():
    """Beside the scene itself, whose waves are at least five pixels long, and a cubic spline."""
    scene, size = texture(), (128, 128)
    still = shot(scene, size)
    y, x = np.indices(size, dtype=float)
    shift = [0.5 * np.sin(x / 20 + y / 30), 0.5 * np.cos(x / 25 - y / 20)]
    expected = scene(y + shift[0], x + shift[1])
    fields = [torch.from_numpy(plane)[None, None] for plane in shift]
    moved = shift_slightly(torch.from_numpy(still)[None, None], *fields)[0, 0].numpy()
    spline = ndimage.map_coordinates(still, [y + shift[0], x + shift[1]], order=3, mode="nearest")
    errors = [np.sqrt(np.mean((each - expected)[8:-8, 8:-8] ** 2)) for each in (moved, spline)]
    assert errors[0] < 0.01 * expected.std() and errors[0] < 4 * errors[1]


@pytest.mark.parametrize("size, columns", [((96, 88), 1), ((97, 41), 1), ((40, 333), 2)])
@pytest.mark.parametrize("is_reused", [True, False])
def test_another_shift_along_x_is_as_a_warp_from_the_start(size, columns, is_reused):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 2, *size, generator=generator, dtype=torch.float64)
    first, second = LARGEST_SHIFT * (
        2 * torch.rand(2, 3, 2, 2, size[0], columns, generator=generator, dtype=torch.float64) - 1
    )
    second[:, :, 0] = first[:, :, 0]
    warper = Warper(images, LARGEST_SHIFT, columns, is_reused)
    warper.warp(first)
    again = warper.warp_along_x(second[:, :, 1])
    expected = Warper(images, LARGEST_SHIFT, columns, is_reused).warp(second)
    assert (again - expected).abs().max() < 1e-12


def test_references_with_nothing_in_common_with_target_do_not_become_worse():
    target, *references = (shot(texture(seed), SIZE) for seed in (1, 2, 3))
    strips = batch(target, *references)
    aligned, _ = Alignment("fine")(strips)
    assert (residual(aligned) <= residual(strips) + 1e-6).all()

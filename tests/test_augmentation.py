from dataclasses import replace

import cv2
import numpy as np
import pytest

from data.augmentation import (
    AugmentationSettings,
    add_noise,
    add_stripes,
    augment,
    displace,
    jitter_illumination,
    measure_noise,
    shift_plane,
    shuffle_channels,
)

AMOUNTS = AugmentationSettings()


def texture(seed=0):
    """A patch of three equal channels whose places can be told apart to a fraction of a pixel."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal((128, 128)), (0, 0), 2.5)
    return np.stack([(128 + 30 * noise / noise.std()).astype(np.float32)] * 3)


def measure_shift(plane, reference):
    """(y, x) in pixels by which `reference` is moved against `plane`, by least squares, for shifts
    below a pixel.
    """
    inner, shift = (slice(8, -8), slice(8, -8)), np.zeros(2)
    for _ in range(4):
        back = cv2.warpAffine(
            reference,
            np.float32([[1, 0, -shift[1]], [0, 1, -shift[0]]]),
            (128, 128),
            flags=cv2.INTER_CUBIC,
        )
        slopes = np.stack([slope[inner].ravel() for slope in np.gradient(plane)], axis=1)
        shift -= np.linalg.lstsq(slopes, (back - plane)[inner].ravel(), rcond=None)[0]
    return shift


def test_channels_are_dealt_in_every_order_and_flipped_every_way():
    image = np.arange(3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5)
    for strip in (image, np.asfortranarray(image)):
        seen = {
            shuffle_channels(strip, np.random.default_rng(seed)).tobytes() for seed in range(400)
        }
        flipped = (strip, strip[:, ::-1], strip[:, :, ::-1], strip[:, ::-1, ::-1])
        orders = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
        assert seen == {
            np.ascontiguousarray(one[list(order)]).tobytes() for one in flipped for order in orders
        }
        assert np.array_equal(strip, image)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.4, -0.3), (-0.9, 0.7)])
def test_a_plane_is_moved_down_and_to_the_right(shift):
    y, x = np.indices((60, 70))

    def wave(y, x):
        return (128 + 50 * np.sin(0.5 * y + 0.2 * x) + 50 * np.cos(0.6 * x - 0.3 * y)).astype(
            np.float32
        )

    plane = wave(y, x)
    shift_plane(plane, np.array(shift))
    assert np.abs(plane - wave(y - shift[0], x - shift[1]))[3:-3, 3:-3].max() < 1


def test_references_move_and_target_does_not():
    image = texture()
    shifts = []
    for seed in range(40):
        moved = image.copy()
        displace(moved, replace(AMOUNTS, wobble_share=0.0), 1.0, np.random.default_rng(seed))
        assert np.array_equal(moved[0], image[0])
        shifts += [measure_shift(image[0], plane) for plane in moved[1:]]
    # OpenCV's own cubic, with which this is measured, is off by up to 0.05
    assert abs(np.abs(shifts).max() - AMOUNTS.shift) < 0.06
    still = image.copy()
    displace(still, AMOUNTS, 0.0, np.random.default_rng(0))
    assert np.abs(still - image).max() < 0.01


def test_a_wobble_moves_parts_of_both_references_differently_but_alike():
    image = texture()
    displace(image, replace(AMOUNTS, shift=0.0, wobble_share=1.0), 1.0, np.random.default_rng(1))
    flow = cv2.calcOpticalFlowFarneback(
        *image[:2].clip(0, 255).astype(np.uint8), None, 0.5, 1, 15, 5, 7, 1.5, 0
    )[8:-8, 8:-8]
    assert 0.2 < flow.std() < 1.0 and np.abs(flow).max() < 2.0
    assert np.array_equal(image[1], image[2])


def test_gain_offset_and_illumination_stay_within_their_amounts_and_differ_between_channels():
    for seed in range(40):
        dark, bright = np.zeros((3, 128, 96), np.float32), np.full((3, 128, 96), 100, np.float32)
        for image in (dark, bright):
            jitter_illumination(image, AMOUNTS, 0.5, np.random.default_rng(seed))
        assert np.abs(dark).max() <= 0.5 * (AMOUNTS.offset + AMOUNTS.illumination) + 1e-4
        gain = (bright - dark) / 100
        assert np.abs(gain - 1).max() <= 0.5 * AMOUNTS.gain + 1e-5 and np.ptp(gain[:, 0, 0]) > 0
        assert np.ptp(gain, axis=(1, 2)).max() < 1e-5
        assert (
            np.abs(np.diff(dark, axis=1)).max() < 0.3 and np.abs(np.diff(dark, axis=2)).max() < 0.1
        )


def test_noise_is_normal_fresh_and_of_another_sigma_in_each_channel():
    sigmas = []
    for seed in range(200):
        image = np.zeros((3, 64, 64), np.float32)
        add_noise(image, AMOUNTS, np.random.default_rng(seed))
        sigmas.append(image.std(axis=(1, 2)))
        assert np.abs(np.corrcoef(image.reshape(3, -1)) - np.eye(3)).max() < 0.1
    sigmas = np.array(sigmas)
    assert (
        sigmas.max() <= 1.05 * AMOUNTS.noise * AMOUNTS.noise_factor[1]
        and np.median(sigmas) < 0.4 * AMOUNTS.noise
    )
    ratios = sigmas.max(axis=1) / sigmas.min(axis=1)
    assert 1.9 < ratios.max() < 2.6


@pytest.mark.parametrize("sigma", [1.0, 4.0])
def test_noise_is_measured_beside_a_pattern_and_points(sigma):
    image = texture()
    image[1] = 1.1 * image[1] + 7
    image[0, 40:60, 40:60] += 80
    image += sigma * np.random.default_rng(0).standard_normal(image.shape).astype(np.float32)
    assert measure_noise(image[0], image[1]) == pytest.approx(sigma, rel=0.25)


def test_stripes_are_narrow_and_never_in_target_alone_nor_in_both_references_alone():
    amounts, seen = replace(AMOUNTS, stripe_count=(1, 1)), []
    for seed in range(300):
        image = np.zeros((3, 128, 128), np.float32)
        add_stripes(image, amounts, np.random.default_rng(seed))
        peaks = np.abs(image).max(axis=(1, 2))
        if not peaks.any():
            continue  # it lies in a corner
        seen.append(tuple(np.flatnonzero(peaks).tolist()))
        assert peaks.max() <= amounts.stripe_strength[1] * amounts.stripe_factor[1]
        present = image[list(seen[-1])]
        assert np.ptp(np.sign(present[present != 0])) == 0
        assert (present[0] != 0).sum() < 182 * 5.3
        others = present / np.abs(present).max(axis=(1, 2), keepdims=True)
        assert np.allclose(others, others[0], atol=1e-5)  # one stripe, of another strength in each
    assert set(seen) == {(0, 1, 2), (1,), (2,), (0, 1), (0, 2)}
    assert 0.6 < np.mean([channels == (0, 1, 2) for channels in seen]) < 0.8


def test_mild_patches_are_common_and_nothing_is_out_of_bounds():
    differences = []
    for seed in range(200):
        image = texture()
        augment(image, replace(AMOUNTS, stripe_share=0.0), np.random.default_rng(seed))
        assert np.isfinite(image).all()
        differences.append(np.abs(image[0] - image[1]).mean())
    assert np.quantile(differences, 0.1) < 4 and np.quantile(differences, 0.9) > 8

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import ndimage, signal

from benchmarks.suite.strips import make_good_strip
from ops.classical import HALF, LikelihoodRatio
from ops.filters import avg_pool_blocks, enlarge, gaussian_mean
from ops.likelihood import likelihood_ratio, line_filter, matched_filter, noise_at_edges

SIGMAS = (0.5, 1.0, 2.0)  # pixels
LINE_ASPECT, NOTHING = 12.0, 5.0


def direct_filter(image, sigma_y, sigma_x):
    """The Gaussian filter in SciPy, in units of what it leaves of white noise of 1."""
    windows = []
    for sigma in (sigma_y, sigma_x):
        reach = int(3 * sigma + 0.5)
        windows.append(np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2)))
    weights = np.outer(*windows)
    padded = np.pad(image, [(len(window) // 2,) * 2 for window in windows])
    inside = np.pad(np.ones(image.shape), [(len(window) // 2,) * 2 for window in windows])
    return signal.oaconvolve(padded, weights, mode="valid") / np.sqrt(
        signal.oaconvolve(inside, weights**2, mode="valid")
    )


def direct_line_filter(image, sigma):
    """The filter of a line down the image: sums of four rows, with as many rows of noise as fit."""
    height = image.shape[0]
    across = direct_filter(image, 1e-9, sigma)
    rows = np.arange(height) // 4
    place = np.arange(rows[-1] + 1)
    distance = place[:, None] - rows
    line_sigma = LINE_ASPECT * sigma / 4
    weights = np.exp(-((distance / line_sigma) ** 2) / 2)
    weights *= np.abs(distance) <= int(3 * line_sigma + 0.5)
    filtered = weights @ across / np.sqrt((weights**2).sum(axis=1))[:, None]
    return filtered[rows]


def direct_ratio(differences, noise, sigma):
    """The ratio from the covariance of the differences, one hypothesis after another."""
    inverse = np.linalg.inv(np.eye(2) + np.ones((2, 2)))

    def log_likelihood(direction, filter_plane):
        filtered = np.stack([filter_plane(plane) for plane in differences])
        filtered *= math.sqrt(2) / noise
        along = np.einsum("i,ij,jyx->yx", direction, inverse, filtered)
        return along**2 / (2 * direction @ inverse @ direction)

    def of_a_point(plane):
        return direct_filter(plane, sigma, sigma)

    target, with_ref1, with_ref2 = (np.array(u, float) for u in ((1, 1), (0, 1), (1, 0)))
    rivals = [
        log_likelihood(with_ref1, of_a_point),
        log_likelihood(with_ref2, of_a_point),
        log_likelihood(target, lambda plane: direct_line_filter(plane, sigma)),
        log_likelihood(target, lambda plane: direct_line_filter(plane.T, sigma).T),
        np.full(noise.shape, NOTHING),
    ]
    rival = ndimage.maximum_filter(np.max(rivals, axis=0), 3)
    return np.maximum(log_likelihood(target, of_a_point) - rival, 0)


def mean_around(plane):
    blocks = avg_pool_blocks(torch.from_numpy(plane)[None, None])
    return enlarge(gaussian_mean(blocks, 9.0), *plane.shape)[0, 0].numpy()


def direct_noise(strip, sigma):
    """The noise before and after the filter, over grey levels, and what edges that moved add.

    Returns it and what the squared differences grow by, for a grey level and a squared gradient.
    """
    differences = strip[:1] - strip[1:]
    filtered = np.stack([direct_filter(plane, sigma, sigma) for plane in differences])
    powers = [
        np.minimum(planes**2, (5 * np.abs(planes).mean()) ** 2).mean(axis=0)
        for planes in (differences, filtered)
    ]
    local = np.sqrt(mean_around(np.mean(powers, axis=0))) + 1 / 255
    weights = np.array([-1, 9, -45, 0, 45, -9, 1]) / 60
    level = strip[1:].mean(axis=0)
    steepness = sum(ndimage.correlate1d(level, weights, k, mode="nearest") ** 2 for k in (0, 1))
    squares = np.minimum((differences**2).mean(axis=0), 9 * local**2)
    explaining = np.stack([level, steepness, np.ones_like(level)]).reshape(3, -1).T
    growth = max(0.0, np.linalg.lstsq(explaining, squares.ravel(), rcond=None)[0][0])
    rest = squares - growth * level
    moved = max(0.0, np.polyfit(steepness.ravel(), rest.ravel(), 1)[0])
    base = squares.mean() - moved * steepness.mean() - growth * level.mean()
    around = mean_around(level)
    least = (base + growth * level.mean()) / 4
    here, around = (np.maximum(base + growth * plane, least) for plane in (level, around))
    variance = local**2 * here / around + 4 * moved * steepness
    reach = int(3 * sigma + 0.5)
    window = np.exp(-(np.arange(-reach, reach + 1) ** 2) / sigma**2)
    for axis in (0, 1):
        variance = ndimage.convolve1d(variance, window / window.sum(), axis, mode="nearest")
    return np.sqrt(variance), growth, moved


def noise_map(strip):
    differences = strip[:, :1] - strip[:, 1:]
    filtered = matched_filter(differences, 1.0)
    return noise_at_edges(strip, differences, filtered, 1.0)[0, 0].numpy()


def random_strip():
    generator = np.random.default_rng(0)
    image = ndimage.gaussian_filter(generator.normal(0, 300, (147, 152)), 3) + 120
    image = image + generator.normal(0, 4, (3, 147, 152))
    for y, x in ((0, 0), (146, 80), (70, 151), (60, 60)):
        image[0, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] += 40
    return image / 255


def demo_strip():
    image = make_good_strip("gain", 0, 5, (200, 150)).astype(float)
    image[0, :3, :3] += 100  # defects in a corner, at an edge and inside
    image[0, 100:103, 147:] -= 100
    image[0, 60:63, 70:73] += 100
    return image / 255


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("make", [random_strip, demo_strip])
def test_the_ratio_is_that_of_the_formula_everywhere(make, sigma):
    strip = make()
    expected = direct_ratio(strip[:1] - strip[1:], direct_noise(strip, sigma)[0], sigma)
    strip = torch.from_numpy(strip)[None]
    ratio = likelihood_ratio(strip, sigma)[0, 0].numpy()
    assert expected.max() > 5 and np.abs(ratio - expected).max() < 1e-4 * expected.max()
    in_single = likelihood_ratio(strip.float(), sigma)[0, 0].numpy()
    assert np.abs(in_single - expected).max() < 2e-4 * expected.max()


def test_edges_that_moved_are_noise_and_flat_ground_is_none():
    generator = np.random.default_rng(2)
    x = np.arange(150)
    moved = generator.normal(0, 0.3, (200, 1))  # pixels, of each row of Target
    bars = [120 + 60 * np.sin((x - place) * 2 * np.pi / 12) for place in (moved, 0 * moved)]
    image = np.stack([bars[0], bars[1], bars[1]])
    image[:, :, 75:] = 120
    image += generator.normal(0, 2, image.shape)
    image[0, 100:103, 120:123] += 20
    noise, _, moved = direct_noise(image / 255, 1.0)
    assert math.sqrt(moved) == pytest.approx(0.3, rel=0.15)
    strip = torch.from_numpy(image)[None] / 255
    assert noise_map(strip) == pytest.approx(noise, rel=1e-4)
    ratio = likelihood_ratio(strip, 1.0)[0, 0]
    place = np.unravel_index(int(ratio.argmax()), ratio.shape)
    assert place == pytest.approx((101, 121), abs=1) and ratio.max() > 4 * ratio[:, :72].max()


def test_bright_pixels_have_the_noise_of_photons():
    generator = np.random.default_rng(3)
    level = np.where(np.arange(152) % 12 < 6, 40.0, 200.0) + np.zeros((300, 1))
    sigma = np.sqrt(2 + 0.1 * level)
    strip = level + sigma * generator.standard_normal((3, *level.shape))
    noise = noise_map(torch.from_numpy(strip)[None] / 255) * 255
    dark, bright = (
        np.median(noise[ndimage.binary_erosion(level == grey, iterations=2)]) for grey in (40, 200)
    )
    assert bright / dark == pytest.approx(math.sqrt(22 / 6), rel=0.04)
    # the local noise, with a grey level that is added to it
    assert math.hypot(dark, bright) / math.sqrt(2) == pytest.approx(math.sqrt(28) + 1, rel=0.04)
    even = level + 4 * generator.standard_normal((3, *level.shape))
    noise = noise_map(torch.from_numpy(even)[None] / 255)
    assert noise.std() / noise.mean() < 0.05


@pytest.mark.parametrize(
    "noise_filter",
    [
        *(partial(matched_filter, sigma=sigma) for sigma in SIGMAS),
        *(partial(line_filter, sigma=1.0, axis=axis) for axis in (2, 3)),
    ],
)
def test_white_noise_keeps_its_variance_up_to_the_border(noise_filter):
    noise = torch.randn(10, 1000, 23, 26, generator=torch.Generator().manual_seed(0))
    deviation = noise_filter(noise).std(dim=(0, 1))
    # each of the 598 values varies by 0.7 %
    assert deviation.min() > 0.95 and deviation.max() < 1.05


def strip_of(shape, strengths):
    """A strip (1, 3, H, W) whose channels have a shape (H, W) of some strengths in grey levels."""
    noise = np.random.default_rng(1).normal(100, 2, (3, *shape.shape))
    return torch.from_numpy(noise + np.multiply.outer(np.array(strengths), shape))[None] / 255


def point(center):
    y, x = np.mgrid[:60, :64] - np.reshape(center, (2, 1, 1))
    return np.exp(-(y**2 + x**2) / 2)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("center", [(20, 22), (0, 22), (59, 63)])
def test_only_a_point_in_target_alone_is_likely(sign, center):
    alone = likelihood_ratio(strip_of(sign * point(center), (40, 0, 0)), 1.0)[0, 0]
    place = np.unravel_index(int(alone.argmax()), alone.shape)
    assert place == pytest.approx(center, abs=1) and alone.max() > 30
    for strengths in ((40, 40, 0), (40, 0, 38), (0, 40, 0), (0, 0, 40), (40, 36, 0), (0, 40, -40)):
        assert likelihood_ratio(strip_of(sign * point(center), strengths), 1.0).max() < 1


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_line_is_no_row_of_points(axis, sign):
    line = np.zeros((120, 130))
    np.moveaxis(line, axis, 0)[50:52] = sign
    strip = strip_of(line, (20, 5, 8))
    assert likelihood_ratio(strip, 1.0).max() < 1
    strip[:, 0, 50:53, 50:53] += sign * 110 / 255
    seen = likelihood_ratio(strip, 1.0)[0, 0]
    place = np.unravel_index(int(seen.argmax()), seen.shape)
    assert place == pytest.approx((51, 51), abs=1) and seen.max() > 10


def test_the_heatmap_ranks_strong_and_weak_ratios():
    strips = torch.full((1, 3, 60, 50), 0.4)
    heights = []
    for strength in (0.02, 0.3, 0.31, 0.58, 0.6):
        strips[:, 0, 30, 25] = 0.4 + strength
        heatmap = LikelihoodRatio(1.0).heatmap(strips)[0, 0, 30, 25].double()
        expected = likelihood_ratio(strips, 1.0)[0, 0, 30, 25].double()
        assert float(HALF * heatmap / (1 - heatmap)) == pytest.approx(float(expected), rel=1e-3)
        heights.append(float(heatmap))
    assert heights == sorted(heights) and len(set(heights)) == len(heights)

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from benchmarks.suite import make_good_strip
from ops.classical import HALF, LikelihoodRatio
from ops.differences import local_noise
from ops.likelihood import likelihood_ratio, matched_filter

SIGMAS = (0.5, 1.0, 2.0)  # pixels


def direct_filter(image, sigma):
    """The Gaussian filter in SciPy, in units of what it leaves of white noise of 1."""
    reach = int(4 * sigma + 0.5)
    window = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    weights = np.outer(window, window)
    inside = ndimage.convolve(np.ones(image.shape), weights**2, mode="constant")
    return ndimage.convolve(image, weights, mode="constant") / np.sqrt(inside)


def direct_ratio(differences, noise, sigma):
    """The ratio from the covariance of the differences, one pixel's hypotheses after another."""
    inverse = np.linalg.inv(np.eye(2) + np.ones((2, 2)))
    filtered = np.stack([direct_filter(plane, sigma) for plane in differences])
    filtered *= math.sqrt(2) / noise

    def log_likelihood(direction):
        along = np.einsum("i,ij,jyx->yx", direction, inverse, filtered)
        return along**2 / (2 * direction @ inverse @ direction)

    alone, *rivals = (log_likelihood(np.array(u, float)) for u in ((1, 1), (0, 1), (1, 0)))
    rival = ndimage.maximum_filter(np.maximum(*rivals), 3)
    same_sign = filtered[0] * filtered[1] > 0
    return np.where(same_sign, np.maximum(alone - rival, 0), 0)


def random_differences():
    return np.random.default_rng(0).normal(0, 6, (2, 47, 52)) / 255


def strip_differences():
    image = make_good_strip("gain", 0, 5, (200, 150)).astype(float)
    image[0, :3, :3] += 40  # defects in a corner, at an edge and inside
    image[0, 100:103, 147:] -= 40
    image[0, 60:63, 70:73] += 40
    return (image[:1] - image[1:]) / 255


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("make", [random_differences, strip_differences])
def test_the_ratio_is_that_of_the_formula_everywhere(make, sigma):
    differences = torch.from_numpy(make())[None]
    noise = local_noise(differences)[0, 0].numpy()
    expected = direct_ratio(differences[0].numpy(), noise, sigma)
    ratio = likelihood_ratio(differences, sigma)[0, 0].numpy()
    assert expected.max() > 0.5 and np.abs(ratio - expected).max() < 1e-9 * expected.max()
    in_single = likelihood_ratio(differences.float(), sigma)[0, 0].numpy()
    assert np.abs(in_single - expected).max() < 1e-4 * expected.max()


@pytest.mark.parametrize("sigma", SIGMAS)
def test_white_noise_keeps_its_variance_up_to_the_border(sigma):
    noise = torch.randn(10, 1000, 24, 24, generator=torch.Generator().manual_seed(0))
    deviation = matched_filter(noise, sigma).std(dim=(0, 1))
    # each of the 576 values varies by 0.7 %
    assert deviation.min() > 0.95 and deviation.max() < 1.05


def point(strengths, center=(20, 22), size=(40, 44)):
    """Differences (1, 2, H, W) that a point of 1 px leaves, and the noise under it."""
    y, x = np.mgrid[: size[0], : size[1]] - np.reshape(center, (2, 1, 1))
    shape = np.exp(-(y**2 + x**2) / 2)
    noise = np.random.default_rng(1).normal(0, 2, (3, *size))
    differences = noise[:1] - noise[1:] + np.multiply.outer(np.array(strengths), shape)
    return torch.from_numpy(differences)[None] / 255


@pytest.mark.parametrize("sign", [1, -1])
def test_only_a_point_in_target_alone_is_likely(sign):
    places = [(20, 22), (0, 22), (39, 43)]
    for center in places:
        alone = likelihood_ratio(point((sign * 40, sign * 40), center), 1.0)[0, 0].numpy()
        assert np.unravel_index(alone.argmax(), alone.shape) == pytest.approx(center, abs=1)
        assert alone.max() > 30
        for strengths in ((40, 0), (0, 40), (40, 4), (-40, -4), (40, -40)):
            assert likelihood_ratio(point(strengths, center), 1.0).max() < 3


def test_the_heatmap_ranks_strong_and_weak_ratios():
    strips = torch.full((1, 3, 60, 50), 0.4)
    heights = []
    for strength in (0.02, 0.3, 0.31, 0.58, 0.6):
        strips[:, 0, 30, 25] = 0.4 + strength
        differences = strips[:, :1] - strips[:, 1:]
        heatmap = LikelihoodRatio(1.0).heatmap(strips)[0, 0, 30, 25].double()
        expected = likelihood_ratio(differences, 1.0)[0, 0, 30, 25].double()
        assert float(HALF * heatmap / (1 - heatmap)) == pytest.approx(float(expected), rel=1e-3)
        heights.append(float(heatmap))
    assert heights == sorted(heights) and len(set(heights)) == len(heights)

import cv2
import numpy as np
import pytest
import torch

from data.demo_strips import make_strip
from evaluation.predictors import DetectorPredictor, LastAlignment
from ops.classical import (
    METHODS,
    SIGMAS,
    DoubleDetection,
    Smoothing,
    ToleranceEnvelope,
    baseline_name,
    choose_sigma,
    classical_detector,
)


def run(detector, image):
    return detector(torch.from_numpy(np.asarray(image, np.float32) / 255)[None])[0, 0].numpy() * 255


def spot(channels, size=(30, 40), level=100.0, step=50.0):
    image = np.full((3, *size), level, np.float32)
    image[list(channels), 14:17, 19:22] += step
    return image


@pytest.mark.parametrize("sigma", SIGMAS)
def test_smoothing_is_opencv_s_gaussian(sigma):
    plane = np.random.default_rng(0).random((50, 60)).astype(np.float32)
    size = 2 * int(3 * sigma + 0.5) + 1
    expected = cv2.GaussianBlur(plane, (size, size), sigma, borderType=cv2.BORDER_REPLICATE)
    assert (
        np.abs(Smoothing(sigma)(torch.from_numpy(plane)[None, None])[0, 0].numpy() - expected).max()
        < 1e-6
    )


def test_double_detection_is_the_smaller_difference():
    image = make_strip(np.random.default_rng(1), (200, 150))
    expected = np.minimum(np.abs(image[0] - image[1]), np.abs(image[0] - image[2]))
    assert np.abs(run(DoubleDetection(), image) - expected).max() < 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_what_is_in_target_alone_is_found_and_nothing_else(method):
    detector = classical_detector(method, choose_sigma(method, {}))
    for step in (50.0, -50.0):
        found = run(detector, spot([0], step=step)).max()
        # those two are in units of noise: there is none
        is_relative = method in ("registered", "likelihood")
        assert (200 < found < 255) if is_relative else (10 < found <= 50.01)
        for channels in ([1], [2], [0, 1], [0, 2], [0, 1, 2]):
            assert run(detector, spot(channels, step=step)).max() < 0.01


def test_the_envelope_forgives_an_edge_that_moves_by_a_pixel():
    image = np.full((3, 30, 40), 50, np.float32)
    image[0, :, 20:], image[1, :, 21:], image[2, :, 19:] = 200, 200, 200
    assert run(ToleranceEnvelope(), image).max() == 0 and run(DoubleDetection(), image).max() == 0
    image[2] = image[1]
    assert run(ToleranceEnvelope(), image).max() == 0 and run(DoubleDetection(), image).max() > 100
    image[1:, :, 20:22] = 50
    assert run(ToleranceEnvelope(), image).max() > 100


def test_registered_channels_differ_by_their_noise_alone():
    generator = np.random.default_rng(3)
    image = make_strip(generator, (200, 150))  # shifted by up to 0.4 px, and each lit differently
    image[0, 100:103, 70:73] += 25
    plain, registered = (
        run(classical_detector(method, 0.0), image) for method in ("double", "registered")
    )
    assert np.unravel_index(registered.argmax(), registered.shape) == pytest.approx(
        (101, 71), abs=1
    )
    assert np.unravel_index(plain.argmax(), plain.shape) != pytest.approx((101, 71), abs=3)


@pytest.mark.parametrize("method", METHODS)
def test_heatmaps_are_shares_of_the_range_whatever_comes(method):
    extreme = np.random.default_rng(2).choice([0.0, 255.0], (3, 20, 20))
    heatmap = run(classical_detector(method, 1.0 if method != "double" else 0.0), extreme) / 255
    assert heatmap.min() >= 0 and heatmap.max() <= 1 + 1e-6


def test_names_and_the_choice_of_a_gaussian():
    assert (
        baseline_name("double", 0.0) == "double detection, plain"
        and choose_sigma("double", {"double": 2.0}) == 0.0
    )
    assert (
        baseline_name("envelope", choose_sigma("envelope", {"envelope": 1.5}))
        == "tolerance envelope, Gaussian of 1.5 px"
    )


def test_one_alignment_for_all_sigmas_changes_no_heatmap():
    images = [make_strip(np.random.default_rng(number), (96, 80)) for number in range(2)]
    for method in ("registered", "likelihood"):
        last = LastAlignment()
        modules = [classical_detector(method, sigma) for sigma in (1.0, 1.5)]
        alone = [DetectorPredictor(module, torch.device("cpu")) for module in modules]
        sharing = [DetectorPredictor(module, torch.device("cpu"), last) for module in modules]
        for image in (images[0], images[1], images[0]):
            for one, other in zip(alone, sharing):
                assert np.array_equal(one(image), other(image))

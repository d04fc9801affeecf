import json
import math

import cv2
import numpy as np
import pytest

from data.demo_strips import OVERSAMPLING, PATTERN_MARGIN, draw_pattern, make_strip, render_channel
from evaluation.drift import (
    STATISTICS,
    alignment_statistics,
    channel_statistics,
    drift_warnings,
    in_words,
    noise_sigma,
    training_ranges,
)
from gaussian import paint_defects
from ops.registration import MEASURES
from tests.conftest import SMALL_SIZE

STRIPS = 80
TRAINING, FOLDER = 30, 40  # strips


@pytest.fixture(scope="module")
def strips() -> list[np.ndarray]:
    return [make_strip(np.random.default_rng((5, number)), SMALL_SIZE) for number in range(STRIPS)]


@pytest.fixture(scope="module")
def good(strips) -> list[dict[str, float]]:
    return [channel_statistics(strip) for strip in strips]


def clean_channel(seed):
    """What a camera without noise sees, (H, W) grey levels."""
    pattern = draw_pattern(np.random.default_rng(seed), SMALL_SIZE)
    margin = PATTERN_MARGIN * OVERSAMPLING
    return cv2.resize(
        pattern[margin:-margin, margin:-margin], SMALL_SIZE[::-1], interpolation=cv2.INTER_AREA
    )


def shifted_strip(seed, shift):
    """Target and two references, of which the first one is moved by `shift` (y, x) pixels and the
    second one not at all.
    """
    pattern = draw_pattern(np.random.default_rng(seed), SMALL_SIZE)
    shifts = [(0.0, 0.0), shift, (0.0, 0.0)]
    return np.stack(
        [
            render_channel(pattern, np.random.default_rng((seed, n)), SMALL_SIZE, move)
            for n, move in enumerate(shifts)
        ]
    )


def clipped(image):
    return np.clip(image, 0, 255).astype(np.float32)


def changed(image, channel, gain=1.0, offset=0.0):
    image = image.copy()
    image[channel] = image[channel] * gain + offset
    return clipped(image)


def with_noise(image, sigma, seed=0):
    noise = np.random.default_rng(seed).normal(0, np.reshape(sigma, (-1, 1, 1)), image.shape)
    return (image + noise).astype(np.float32)


def test_brightness_and_contrast_of_channels_that_can_be_worked_out_by_hand():
    halves = np.zeros((3, 20, 20), np.float32)
    halves[:, 10:] = 1
    image = (
        halves * np.float32([40, 60, 20])[:, None, None] + np.float32([100, 50, 120])[:, None, None]
    )
    statistics = channel_statistics(image)
    assert tuple(statistics) == STATISTICS and all(
        type(value) is float for value in statistics.values()
    )
    assert [statistics[f"{channel}_mean"] for channel in ("target", "ref1", "ref2")] == [
        120,
        80,
        130,
    ]
    assert [statistics[f"{channel}_spread"] for channel in ("target", "ref1", "ref2")] == [
        20,
        30,
        10,
    ]
    assert [statistics[f"{channel}_noise"] for channel in ("target", "ref1", "ref2")] == [0, 0, 0]
    assert [statistics[f"{channel}_difference"] for channel in ("ref1", "ref2")] == [-40, 10]
    assert [statistics[f"{channel}_contrast"] for channel in ("ref1", "ref2")] == [1.5, 0.5]
    assert [statistics[f"{channel}_residual"] for channel in ("ref1", "ref2")] == pytest.approx(
        [0, 0], abs=0.01
    )


@pytest.mark.parametrize("sigma", [1.5, 2.0, 3.0])
def test_known_noise_is_found_on_most_patterns(sigma):
    found = [
        noise_sigma(with_noise(clean_channel(seed)[None], sigma, seed)[0]) for seed in range(20)
    ]
    assert np.mean([0.85 * sigma < value < 1.15 * sigma for value in found]) >= 0.9
    # the largest is under thin lines at 45 degrees
    assert 0.9 * sigma < min(found) and max(found) < 1.5 * sigma


def test_noise_without_a_pattern_and_its_gain():
    image = with_noise(np.full((1, 400, 200), 100.0), 2.0)
    assert noise_sigma(image[0]) == pytest.approx(2.0, rel=0.03)
    assert noise_sigma(image[0] * 3 - 50) == pytest.approx(3 * noise_sigma(image[0]), rel=1e-3)


def residual(image):
    return channel_statistics(image)["ref1_residual"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("direction", [(0.0, 1.0), (0.7, -0.7)])
def test_the_residual_grows_with_the_shift(seed, direction):
    at = {
        step: residual(shifted_strip(seed, (step * direction[0], step * direction[1])))
        for step in (0, 0.2, 0.4, 0.8, 1.5)
    }
    assert sorted(at.values()) == list(at.values()) and at[0] < 0.5 * at[0.2]
    assert at[0.8] == pytest.approx(2 * at[0.4], rel=0.15)


@pytest.mark.parametrize("seed", range(3))
def test_gain_and_offset_of_a_reference_do_not_change_its_residual(seed):
    image = shifted_strip(seed, (0.2, 0.3))
    for gain, offset in ((0.6, 0.0), (1.0, 30.0), (1.1, -5.0)):
        assert residual(changed(image, 1, gain, offset)) == pytest.approx(residual(image), rel=0.01)
    assert residual(changed(image, 0, 0.6)) == pytest.approx(0.6 * residual(image), rel=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_noise_hardly_changes_the_residual(seed):
    image = shifted_strip(seed, (0.2, 0.3))
    assert residual(with_noise(image, 6.0)) == pytest.approx(residual(image), rel=0.05)


def test_the_residual_of_references_that_show_something_else(strips):
    image = shifted_strip(0, (0.0, 0.3))
    constant = np.full(SMALL_SIZE, 80, np.float32)
    unrelated = strips[1][0]
    negative = 255 - image[1]
    alike, of_constant, of_unrelated, of_negative = (
        residual(np.stack([image[0], reference, image[2]]))
        for reference in (image[1], constant, unrelated, negative)
    )
    assert 4 * alike < of_constant
    assert of_unrelated == pytest.approx(of_constant, rel=0.1)
    assert of_negative == pytest.approx(2**0.5 * of_constant, rel=0.05)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("level", [0.0, 97.3, 255.0])
def test_constant_strips_give_zeros(level):
    statistics = channel_statistics(np.full((3, *SMALL_SIZE), level, np.float32))
    rest = {name: value for name, value in statistics.items() if not name.endswith("mean")}
    assert statistics["target_mean"] == pytest.approx(level)
    assert set(rest.values()) == {0.0}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dead", [0, 1, 2])
def test_a_dead_channel_gives_finite_numbers(strips, dead):
    for level in (0.0, 97.3, 255.0):
        image = strips[0].copy()
        image[dead] = level
        assert all(math.isfinite(value) for value in channel_statistics(image).values())


def test_a_strip_whose_file_has_the_channels_last(strips, good):
    channels_last = np.ascontiguousarray(np.moveaxis(strips[0], 0, 2))
    assert channel_statistics(np.moveaxis(channels_last, 2, 0)) == pytest.approx(good[0])


def test_ranges_are_plain_numbers_around_all_training_strips(good):
    ranges = training_ranges(good)
    assert tuple(ranges) == STATISTICS and json.loads(json.dumps(ranges)) == ranges
    for name, (lowest, highest) in ranges.items():
        assert type(lowest) is type(highest) is float
        assert all(lowest <= strip[name] <= highest for strip in good)
        assert lowest >= 0 or name.endswith("difference")


@pytest.mark.parametrize("count", [1, 2, 10])
def test_training_strips_that_are_all_alike_leave_room(good, count):
    for name, (lowest, highest) in training_ranges(good[:1] * count).items():
        assert lowest < good[0][name] < highest


def test_the_margin_is_the_wider_the_fewer_training_strips_there_are(good):
    few, many = training_ranges(good[:2]), training_ranges(good[:2] * 20)
    assert all(
        few[name][1] - few[name][0] > 2 * (many[name][1] - many[name][0])
        for name in ("target_mean", "ref1_difference")
    )


@pytest.mark.parametrize("training", [1, 2, 3, 6, 30])
@pytest.mark.parametrize("seed", range(5))
def test_good_strips_of_the_same_kind_are_no_drift(good, training, seed):
    order = np.random.default_rng(seed).permutation(STRIPS)
    ranges = training_ranges([good[number] for number in order[:training]])
    assert drift_warnings([good[number] for number in order[-FOLDER:]], ranges) == []


def test_defects_are_no_drift(strips, good):
    ranges = training_ranges(good[:TRAINING])
    painted = []
    for number, strip in enumerate(strips[-FOLDER:]):
        image = strip.copy()
        paint_defects(
            image, np.zeros(SMALL_SIZE, np.float32), np.random.default_rng(number), (10, 10)
        )
        painted.append(channel_statistics(image))
    assert drift_warnings(painted, ranges) == []


SHIFTED = np.float32([[1, 0, 1.5], [0, 1, 0]])
DRIFTS = {
    "target_mean": lambda strip: clipped(strip * 0.4),
    # about twice the demo strips' noise, and less than three times
    "target_noise": lambda strip: with_noise(strip, 4.0),
    "ref2_noise": lambda strip: with_noise(strip, [0, 0, 4.0]),
    "ref1_contrast": lambda strip: changed(strip, 1, gain=1.3),
    "ref2_contrast": lambda strip: changed(strip, 0, gain=1.3),
    "ref1_difference": lambda strip: changed(strip, 1, offset=40),
    "ref2_residual": lambda strip: np.stack(
        [
            *strip[:2],
            cv2.warpAffine(strip[2], SHIFTED, SMALL_SIZE[::-1], borderMode=cv2.BORDER_REFLECT),
        ]
    ),
}


@pytest.mark.parametrize("name", DRIFTS)
def test_a_drift_is_reported(strips, good, name):
    ranges = training_ranges(good[:TRAINING])
    folder = [channel_statistics(DRIFTS[name](strip)) for strip in strips[-FOLDER:]]
    assert any(f" ({name}): found " in sentence for sentence in drift_warnings(folder, ranges))


def folder_of(inside, outside):
    return [{"ref1_noise": 2.0}] * inside + [{"ref1_noise": 9.0}] * outside


@pytest.mark.parametrize("inside, outside", [(40, 0), (36, 4), (4, 1), (9, 1)])
def test_a_few_strips_outside_are_no_drift(inside, outside):
    assert drift_warnings(folder_of(inside, outside), {"ref1_noise": [1.0, 3.0]}) == []


@pytest.mark.parametrize("inside, outside", [(35, 5), (8, 2), (1, 2), (1, 1), (0, 1)])
def test_more_than_a_tenth_of_the_strips_or_their_median_outside_are_drift(inside, outside):
    assert len(drift_warnings(folder_of(inside, outside), {"ref1_noise": [1.0, 3.0]})) == 1


def test_a_warning_says_which_statistic_and_what_was_found_and_expected():
    (sentence,) = drift_warnings(folder_of(1, 3), {"ref1_noise": [1.0, 3.25]})
    assert sentence.startswith("Ref1's noise (ref1_noise): found ")
    for part in ("9 grey levels", "3 of 4 strips", "1 to 3.25 grey levels"):
        assert part in sentence
    names = [*STATISTICS, *alignment_statistics(np.zeros((2, len(MEASURES))))]
    assert len({in_words(name) for name in names} - set(names)) == len(names)
    (sentence,) = drift_warnings([{"ref2_contrast": 0.5}], {"ref2_contrast": [0.8, 1.25]})
    assert "0.8 to 1.25," in sentence and "grey levels" not in sentence


def test_no_strips_and_statistics_that_only_one_side_knows(good):
    assert drift_warnings([], training_ranges(good)) == []
    assert drift_warnings(folder_of(0, 1), {}) == []
    known = training_ranges(good[:6])
    del known["target_noise"]
    assert drift_warnings(good[6:], known | {"of_a_later_version": [1.0, 2.0]}) == []

import itertools
from collections import Counter

import numpy as np
import pytest

from gaussian import (
    AMPLITUDES,
    TARGET_ONLY,
    WITH_BOTH,
    WITH_REF1,
    WITH_REF2,
    Defect,
    allocate_channels,
    draw_defect,
    mark,
    paint,
    paint_defects,
    paint_point,
    point_profiles,
    unit_gaussian,
)


def test_the_wide_shape_is_three_rows_by_five_columns_with_the_larger_sigma_along_x():
    image, mask = np.zeros((11, 11), np.float32), np.zeros((11, 11), np.float32)
    defect = Defect((5, 5), (3, 5), (1.0, 1.5), 100.0)
    paint(image, defect)
    mark(mask, defect)
    assert image[5, 5] == 100
    assert image[4, 5] == pytest.approx(100 * np.exp(-0.5))
    assert image[5, 6] == pytest.approx(100 * np.exp(-0.5 / 1.5**2))
    assert image[4, 3] == pytest.approx(100 * np.exp(-0.5 - 0.5 * (2 / 1.5) ** 2))
    assert np.array_equal(np.argwhere(mask).min(0), [4, 3]) and np.array_equal(
        np.argwhere(mask).max(0), [6, 7]
    )
    assert mask.sum() == 15 and (image > 0).sum() == 15


def test_the_round_shape_marks_its_nine_pixels():
    mask = np.zeros((9, 9), np.uint8)
    mark(mask, Defect((4, 4), (3, 3), (1.3, 1.3), -60.0))
    assert mask.sum() == 9
    assert unit_gaussian((3, 3), (1.3, 1.3))[0, 0] == pytest.approx(np.exp(-1 / 1.3**2))


@pytest.mark.parametrize(
    "center, rows, columns",
    [((0, 0), 2, 3), ((0, 19), 2, 3), ((9, 0), 2, 3), ((9, 19), 2, 3), ((5, 19), 3, 3)],
)
def test_a_defect_on_the_border_is_cut_off(center, rows, columns):
    image, mask = np.full((10, 20), 50, np.float32), np.zeros((10, 20), np.float32)
    defect = Defect(center, (3, 5), (1.0, 1.5), 80.0)
    paint(image, defect)
    mark(mask, defect)
    assert image[center] == 130
    assert mask.sum() == rows * columns == (image != 50).sum()


@pytest.mark.parametrize("amplitude", AMPLITUDES)
def test_uint8_and_float32_agree_and_clip(amplitude):
    for level in (10, 128, 250):
        whole, exact = np.full((9, 9), level, np.uint8), np.full((9, 9), level, np.float32)
        for image in (whole, exact):
            paint(image, Defect((4, 4), (3, 3), (1.3, 1.3), amplitude))
        assert exact.min() >= 0 and exact.max() <= 255
        assert np.array_equal(whole, np.rint(exact).astype(np.uint8))


def test_allocation_of_the_contract():
    generator = np.random.default_rng(0)
    seen = {tuple(sorted(Counter(allocate_channels(generator, 7)).items())) for _ in range(50)}
    expected_two = {TARGET_ONLY: 2, WITH_REF1: 2, WITH_REF2: 2, WITH_BOTH: 1}
    expected_one = {TARGET_ONLY: 1, WITH_REF1: 2, WITH_REF2: 2, WITH_BOTH: 2}
    assert seen == {tuple(sorted(expected.items())) for expected in (expected_one, expected_two)}


@pytest.mark.parametrize("count", range(3, 11))
def test_target_only_defects_are_one_or_two_and_fewer_than_half(count):
    for seed in range(20):
        channels = Counter(allocate_channels(np.random.default_rng(seed), count))
        assert sum(channels.values()) == count
        assert 1 <= channels[TARGET_ONLY] <= 2 and channels[TARGET_ONLY] < count / 2
        shares = [channels[WITH_REF1], channels[WITH_REF2], channels[WITH_BOTH]]
        assert shares == sorted(shares, reverse=True) and shares[0] - shares[-1] <= 1


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_defects_have_no_allocation(count):
    with pytest.raises(ValueError, match="at least 3"):
        allocate_channels(np.random.default_rng(0), count)


def test_defects_lie_anywhere_and_have_every_shape_and_amplitude():
    generator = np.random.default_rng(1)
    defects = [draw_defect(generator, (6, 9)) for _ in range(3000)]
    assert {defect.center for defect in defects} == {(y, x) for y in range(6) for x in range(9)}
    assert Counter(defect.amplitude for defect in defects).keys() == set(AMPLITUDES)
    shapes = Counter((defect.size, defect.sigma) for defect in defects)
    assert set(shapes) == {((3, 3), (1.3, 1.3)), ((3, 5), (1.0, 1.5))}
    assert min(shapes.values()) > 1300


def test_target_gets_all_defects_and_the_mask_only_those_that_no_reference_has():
    image, mask = np.full((3, 200, 200), 128, np.float32), np.zeros((200, 200), np.float32)
    painted = paint_defects(image, mask, np.random.default_rng(3), (10, 10))
    assert len(painted) == 10
    for defect, channels in painted:
        assert 0 in channels
        y, x = defect.center
        assert mask[y, x] == (channels == TARGET_ONLY)
        assert [image[channel, y, x] != 128 for channel in range(3)] == [
            channel in channels for channel in range(3)
        ]
    assert not np.array_equal(image[1], image[2])


def test_a_shared_point_lies_where_each_channel_shows_the_part():
    shifts = [(0.0, 0.0), (0.4, -0.3), (-1.6, 2.25)]
    moved, still = np.full((3, 200, 200), 128, np.float32), np.full((3, 200, 200), 128, np.float32)
    masks = np.zeros((2, 200, 200), np.float32)
    painted = paint_defects(moved, masks[0], np.random.default_rng(4), (10, 10), shifts)
    assert painted == paint_defects(
        still, masks[1], np.random.default_rng(4), (10, 10)
    ) and np.array_equal(*masks)
    lonely = 0
    for (defect, channels), channel in itertools.product(painted, range(3)):
        (top, left), (y, x) = (max(at - 7, 0) for at in defect.center), defect.center
        if any(
            max(abs(y - other.center[0]), abs(x - other.center[1])) < 15
            for other, _ in painted
            if other is not defect
        ):
            continue  # its window has another point, too
        window = (slice(top, y + 8), slice(left, x + 8))
        if channels == TARGET_ONLY:
            assert np.array_equal(moved[channel][window], still[channel][window])
        elif channel in channels and min(y, x) > 7 and max(y, x) < 192:
            weights = np.abs(moved[channel][window] - 128)
            middle = [(weights * axis).sum() / weights.sum() for axis in np.indices(weights.shape)]
            assert middle == pytest.approx([7 + shift for shift in shifts[channel]], abs=0.05)
            lonely += 1
    assert lonely > 8


def test_the_number_of_defects_covers_its_range():
    counts = set()
    for seed in range(60):
        image, mask = np.zeros((3, 50, 50), np.float32), np.zeros((50, 50), np.float32)
        counts.add(len(paint_defects(image, mask, np.random.default_rng(seed), (4, 6))))
    assert counts == {4, 5, 6}


@pytest.mark.parametrize("center", [(20.3, 31.8), (19.5, 30.5), (20.0, 31.0)])
def test_a_point_has_its_centre_of_mass_and_its_sigmas_where_it_says(center):
    image = np.zeros((41, 61))
    paint_point(image, center, (1.1, 2.0), -30.0)
    y, x = np.indices(image.shape)
    middle = [(image * axis).sum() / image.sum() for axis in (y, x)]
    sigma = [
        np.sqrt((image * (axis - at) ** 2).sum() / image.sum()) for axis, at in zip((y, x), middle)
    ]
    assert middle == pytest.approx(center, abs=1e-3) and sigma == pytest.approx(
        (1.1, 2.0), abs=1e-2
    )
    assert image.sum() == pytest.approx(-30 * 2 * np.pi * 1.1 * 2.0, rel=1e-4)


def test_a_flat_point_is_level_inside_and_has_a_soft_edge():
    _, (place, profile) = point_profiles(
        [(9, 9), (30.25, 20.0)], [(1, 1), (6.0, 3.0)], [False, True], np.zeros((61, 41))
    )
    image = np.zeros((61, 41))
    image[place] = profile
    assert image[30, 20] > 0.999 and image[30, 22] > 0.98 and image[33, 20] > 0.99
    assert 0.05 < image[30, 24] < 0.5 and image[30, 27] < 1e-3 and image[44, 20] < 1e-3
    assert (image * np.arange(61)[:, None]).sum() / image.sum() == pytest.approx(30.25, abs=1e-2)


def test_a_point_beyond_the_border_is_cut_off():
    image, whole = np.zeros((10, 12), np.float32), np.zeros((30, 32))
    paint_point(image, (-0.8, 11.6), (1.0, 1.5), 50.0)
    paint_point(whole, (9.2, 21.6), (1.0, 1.5), 50.0)
    assert np.allclose(image, whole[10:20, 10:22], atol=1e-3) and image.max() > 20
    paint_point(image, (40.0, -9.0), (1.0, 1.0), 50.0)
    assert np.allclose(image, whole[10:20, 10:22], atol=1e-3)

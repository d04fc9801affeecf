"""The harder levels of the suite: their strips hold what their names say, in its amounts."""

from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest

from benchmarks.suite import placement, shots
from benchmarks.suite import strips as suite_strips
from benchmarks.suite.levels import AMOUNTS, HARD_LEVELS, LEVELS, SUITE_SEED
from benchmarks.suite.picture import draw_levels
from benchmarks.suite.points import Point
from benchmarks.suite.shapes import POINT, SHAPES, draw_shape, peak_height, sum_spots
from benchmarks.suite.strips import (
    make_aligned_strip,
    make_good_strip,
    make_suite_strip,
    shoot_part,
)
from data import demo_strips
from tests.suite_measures import CROWDED, FINE_SIZE, SIZE, measure, measure_shift

pytestmark = pytest.mark.usefixtures("no_parts_kept")


def shoot(level, number=CROWDED, shot=0, points=False):
    """A part, without its points if not asked for, and the conditions of one of its shots."""
    part, every = shoot_part(level, number, shot, SUITE_SEED, SIZE)
    return part if points else replace(part, points=()), every


def light(part, every):
    return np.stack(
        [shots.light_channel(part, number, one, SIZE) for number, one in enumerate(every)]
    )


def test_the_levels_that_seeds_count_keep_their_numbers():
    assert list(AMOUNTS) == [*LEVELS, *HARD_LEVELS]
    assert LEVELS == ("clean", "gain", "shift", "wandering", "noise", "stripes", "everything")
    assert HARD_LEVELS[0] == "defocus" and len(HARD_LEVELS) == 10


@pytest.mark.parametrize("level", HARD_LEVELS)
def test_level_number_shot_and_seed_determine_a_strip(level):
    strip = make_suite_strip(level, CROWDED, 1, image_size=SIZE)
    suite_strips.make_part.cache_clear()
    again = make_suite_strip(level, CROWDED, 1, image_size=SIZE)
    assert np.array_equal(strip.image, again.image) and strip.points == again.points
    assert strip.image.dtype == np.float32 and strip.image.shape == (3, *SIZE)
    assert strip.image.min() >= 0 and strip.image.max() <= 255
    shot = make_suite_strip(level, CROWDED, 2, image_size=SIZE)
    assert all((one != other).mean() > 0.4 for one, other in zip(strip.image, shot.image))
    for one, other in zip(strip.points, shot.points):  # of one part
        assert np.abs(np.subtract(one.center, other.center)).max() < 2
    presences = Counter(point.presence for point in strip.points)
    busy = AMOUNTS[level].busy
    expected = {"T": 18, "T1": 2, "T2": 2, "T12": 2, "R1": 2 + busy, "R2": 2 + busy, "R12": 2}
    assert presences == expected


@pytest.mark.parametrize("level", HARD_LEVELS)
def test_a_good_strip_has_no_defect(level, monkeypatch):
    image = make_good_strip(level, 2, 11, SIZE)
    assert image.shape == (3, *SIZE) and np.array_equal(image, make_good_strip(level, 2, 11, SIZE))
    parts = []
    monkeypatch.setattr(suite_strips, "render", lambda part, *arguments: parts.append(part))
    make_good_strip(level, 2, 11, SIZE)
    assert {point.presence for point in parts[0].points} == {"T1", "T2", "T12", "R1", "R2"}
    with pytest.raises(ValueError, match="the suite's own"):
        make_good_strip(level, 0, SUITE_SEED, SIZE)


@pytest.mark.parametrize("level", HARD_LEVELS)
def test_a_defect_is_in_target_alone_where_and_as_strongly_as_it_says(level):
    part, every = shoot(level, points=True)
    seen = make_suite_strip(level, CROWDED, 0, image_size=SIZE).points
    without = light(replace(part, points=()), every)
    found, jitter = 0, every[0].displacement.jitter
    for point, truth in zip(part.points, seen):
        if point.presence != "T":
            continue
        alone = light(replace(part, points=(point,)), every) - without
        assert not alone[1:].any()
        # vibration may move the rows of a scratch closer to one another
        assert np.abs(alone[0]).max() <= truth.contrast * (1.05 if jitter is not None else 1.001)
        inside = min(min(at, end - 1 - at) for at, end in zip(truth.center, SIZE)) > 12
        if truth.shape == "hot pixel":
            assert (alone[0] != 0).sum() == 1 and alone[0].min() + alone[0].max() == pytest.approx(
                truth.amplitude
            )
            assert np.unravel_index(np.abs(alone[0]).argmax(), SIZE) == truth.center
        elif truth.box:
            top, left, bottom, right = truth.box
            assert np.abs(alone[0]).max() > 0.8 * truth.contrast
            outside = np.abs(alone[0]).copy()
            outside[max(top, 0) : bottom, max(left, 0) : right] = 0
            # vibration moves its rows out of the box a little
            assert outside.max() < 0.75 * truth.contrast
        elif inside:
            amplitude, middle, _ = measure(alone[0], truth.center)
            assert np.abs(np.subtract(middle, truth.center)).max() < 0.03
            if jitter is None:
                assert amplitude == pytest.approx(truth.amplitude, rel=0.02)
        found += 1
    assert found == 18


@pytest.mark.parametrize("level", HARD_LEVELS)
def test_nothing_clips_the_peak_of_a_defect(level):
    part, every = shoot(level, points=True)
    lit = light(part, every)[0]
    for point in shots.see_points(part, every[0]):
        if point.presence == "T":
            y, x = (round(value) for value in point.center)
            window = lit[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            assert window.max() < 256 and window.min() > -1


def test_each_channel_has_a_focus_of_its_own(pattern):
    step = np.where(np.arange(FINE_SIZE[1]) < FINE_SIZE[1] // 2, 60.0, 180.0)[None, :]
    pattern(step)
    blurs = []
    for number in range(4):
        part, every = shoot("defocus", number)
        profiles = np.diff(light(part, every)[:, 120], axis=1)[:, 60:120]
        widths = []
        for profile in profiles:
            at = np.arange(len(profile))
            share = np.clip(profile, 0, None) / np.clip(profile, 0, None).sum()
            middle = (share * at).sum()
            near = share * (np.abs(at - middle) < 5)
            widths.append((near * (at - middle) ** 2).sum() / near.sum())
        expected = [one.blur**2 for one in every]
        assert np.subtract(widths, widths[0]) == pytest.approx(
            np.subtract(expected, expected[0]), abs=0.12
        )
        blurs += [one.blur for one in every]
    assert 0 <= min(blurs) < 0.2 and 0.7 < max(blurs) <= 0.9


def test_defocus_keeps_the_sum_of_a_point_and_lowers_its_contrast():
    generator = np.random.default_rng(3)
    y, x = np.arange(-30, 31)[:, None], np.arange(-30, 31)[None, :]
    for shape in SHAPES[:-1]:
        spots, sigma = draw_shape(generator, shape)
        sharp = Point((0.0, 0.0), sigma or (0.8, 1.1), 40.0, "T", "interior", shape, spots)
        blurred = sharp.blurred(0.8)
        planes = [
            point.amplitude
            / peak_height(point.spots, point.sigma)
            * sum_spots(point.spots, point.sigma, y, x)
            for point in (sharp, blurred)
        ]
        assert planes[1].sum() == pytest.approx(planes[0].sum(), rel=1e-3)
        assert blurred.contrast < 0.95 * sharp.contrast == 38
        expected = cv2.GaussianBlur(planes[0], (0, 0), 0.8)
        assert np.abs(planes[1] - expected).max() < 0.03 * 40


def test_noise_grows_with_the_grey_level_and_columns_have_offsets(pattern):
    pattern(np.linspace(20, 220, FINE_SIZE[0])[:, None])
    offsets, slopes = [], []
    for number in range(4):
        part, every = shoot("photon", number)
        lit = light(part, every)
        for channel, one in enumerate(every):
            residual = shots.expose(lit[channel], one) - lit[channel]
            columns = residual.mean(axis=0)
            assert np.corrcoef(columns, one.columns)[0, 1] > 0.8
            offsets.append(one.columns.std())
            variance = (residual - columns).reshape(24, -1).var(axis=1) * 240 / 239
            level = lit[channel].reshape(24, -1).mean(axis=1)
            slope, constant = np.polyfit(level, variance, 1)
            assert slope == pytest.approx(one.signal_noise, abs=0.012)
            assert constant == pytest.approx(one.exposure.noise_sigma**2, abs=1.2)
            slopes.append(slope)
            assert 1 <= one.exposure.noise_sigma <= 2
    assert 0.02 < min(slopes) < 0.06 and 0.09 < max(slopes) < 0.13
    assert 0.4 < min(offsets) < 0.9 and 1.1 < max(offsets) < 1.7


@pytest.mark.usefixtures("texture")
def test_each_row_of_every_channel_vibrates():
    spreads, neighbours = [], []
    for number in range(6):
        part, every = shoot("vibration", number)
        still = [replace(one, displacement=replace(one.displacement, jitter=None)) for one in every]
        for channel, (moved, lit) in enumerate(zip(light(part, every), light(part, still))):
            slope = np.gradient(lit, axis=1)
            shift = -(slope * (moved - lit)).sum(axis=1) / (slope**2).sum(axis=1)
            jitter = every[channel].displacement.jitter
            assert np.corrcoef(shift, jitter)[0, 1] > 0.97
            assert 0.9 < shift.std() / jitter.std() < 1.2  # slopes are measured too flat
            spreads.append(shift.std())
            neighbours.append(np.corrcoef(jitter[1:], jitter[:-1])[0, 1])
    assert 0.09 < min(spreads) < 0.17 and 0.28 < max(spreads) < 0.38
    assert min(np.abs(neighbours)) < 0.15 and max(neighbours) > 0.6


def test_lines_are_as_close_as_they_say():
    for number in range(4):
        part, _ = shoot("fine pitch", number)
        crop = part.pattern[:300, :300]
        crop = crop - cv2.GaussianBlur(crop, (0, 0), 20)
        spectrum = np.abs(np.fft.fft2(crop * np.outer(np.hanning(300), np.hanning(300))))
        y, x = np.unravel_index(spectrum.argmax(), spectrum.shape)
        pixels = np.hypot(np.fft.fftfreq(300)[y], np.fft.fftfreq(300)[x]) * demo_strips.OVERSAMPLING
        assert 3.3 < 1 / pixels < 7.6


@pytest.mark.usefixtures("texture")
def test_a_bent_part_is_displaced_smoothly_and_locally():
    largest = []
    for number in range(8):
        part, every = shoot("bent", number)
        bends = [bend for one in every[1:] for bend in one.displacement.bends]
        assert every[0].displacement.bends == () and 1 <= len(bends) <= 6
        image = light(part, every)
        for reference in (1, 2):
            field = every[reference].displacement
            for bend in field.bends:
                y, x = (int(np.clip(at, 24, length - 25)) for at, length in zip(bend.center, SIZE))
                rows, columns = np.arange(y - 24, y + 25), np.arange(x - 24, x + 25)
                expected = field.shift[y] + sum(
                    other.at(rows, columns)[:, 6:-6, 6:-6].mean(axis=(1, 2))
                    for other in field.bends
                )
                window = image[:, :, columns[0] : columns[-1] + 1]
                found = measure_shift(window, reference, slice(rows[0], rows[-1] + 1))
                assert np.abs(found - expected).max() < 0.25
                largest.append(np.hypot(*bend.largest))
    assert 0.4 <= min(largest) < 0.6 and 0.8 < max(largest) <= 1


def test_bright_areas_are_clipped_and_blocks_are_compressed():
    shares, gains = [], []
    for number in range(6):
        part, every = shoot("compressed", number)
        for lit, one in zip(light(part, every), every):
            image = shots.expose(lit, one)
            assert 85 <= one.jpeg_quality <= 92 and np.array_equal(image, np.rint(image))
            assert 1 < np.abs(image - np.clip(lit, 0, 255)).mean() < 4
            # another round on the same blocks finds nothing left to take away
            again = np.abs(shots.compress(image, one.jpeg_quality) - image)
            shifted = image[4:-4, 4:-4]
            elsewhere = np.abs(shots.compress(shifted, one.jpeg_quality) - shifted)
            assert again.mean() < 0.25 * elsewhere.mean()
            shares.append((lit > 255).mean())
            gains.append(one.exposure.gain)
    assert max(shares) > 0.05 and min(gains) > 1.1 and max(gains) < 1.62


def test_points_have_every_shape():
    points = [
        point
        for number in (6, 7, 8, 9)
        for point in make_suite_strip("shapes", number, 0, image_size=SIZE).points
    ]
    defects = Counter(point.shape for point in points if point.presence == "T")
    assert set(defects) == set(SHAPES) and min(defects.values()) >= 8
    assert "hot pixel" not in {point.shape for point in points if point.presence != "T"}
    for point in points:
        assert (point.box is None) == (point.shape in ("point", "hot pixel"))
        if point.box:
            top, left, bottom, right = point.box
            assert 3 <= bottom - top <= 16 and 3 <= right - left <= 16
            assert top <= point.center[0] <= bottom and left <= point.center[1] <= right


def test_references_show_shared_points_elsewhere_and_have_points_of_their_own():
    part, every = shoot("dirt", points=True)
    still = [replace(one, displacement=every[0].displacement) for one in every]
    without = light(replace(part, points=()), still)
    distances, strengths = [], []
    for point in part.points:
        if point.presence not in ("T1", "T2", "T12"):
            assert point.dirt is None
            continue
        alone = light(replace(part, points=(point,)), still) - without
        for channel in (1, 2):
            if not alone[channel].any():
                continue
            copy = point.in_reference(channel)
            distances.append(np.hypot(*np.subtract(copy.center, point.center)))
            strengths.append(copy.amplitude / point.amplitude)
            if min(min(at, end - at) for at, end in zip(point.center, SIZE)) > 12:
                amplitude, middle, sigma = measure(alone[channel], point.center)
                assert amplitude == pytest.approx(copy.amplitude, rel=0.05)
                assert np.abs(np.subtract(middle, copy.center)).max() < 0.05
                assert sigma == pytest.approx(copy.sigma, rel=0.05)
    assert len(distances) == 8 and 0.4 < max(distances) <= 1 and min(distances) > 0
    assert 0.7 <= min(strengths) < 1 < max(strengths) <= 1.4
    assert AMOUNTS["dirt"].busy == 10


def test_clutter_is_faint_soft_and_in_one_channel_and_no_point():
    part, every = shoot("clutter")
    counts = Counter(blob.presence for blob in part.clutter)
    assert set(counts) == {"T", "R1", "R2"} and all(5 <= count <= 12 for count in counts.values())
    assert {blob.center for blob in part.clutter}.isdisjoint(
        point.center for point in make_suite_strip("clutter", CROWDED, 0, image_size=SIZE).points
    )
    without = light(replace(part, clutter=()), every)
    for blob in part.clutter:
        alone = np.abs(light(replace(part, clutter=(blob,)), every) - without)
        assert alone.any(axis=(1, 2)).sum() == 1
        assert 2 <= blob.contrast <= 6 and alone.max() <= blob.contrast
        assert 1.2 <= min(blob.sigma) <= max(blob.sigma) <= 3.5


def test_the_mixture_has_everything():
    part, every = shoot("all hard", points=True)
    assert all(one.blur and one.signal_noise and one.jpeg_quality for one in every)
    assert all(one.columns is not None and one.displacement.jitter is not None for one in every)
    assert any(one.displacement.bends for one in every) and part.clutter
    assert any(point.dirt for point in part.points)
    assert any(point.spots != POINT for point in part.points)
    assert every[1].exposure.gain != every[2].exposure.gain


@pytest.mark.parametrize("level", ["gain", "shift", "stripes", *HARD_LEVELS])
def test_an_aligned_strip_differs_in_noise_alone(level):
    aligned = make_aligned_strip(level, CROWDED, 1, image_size=SIZE)
    strip = make_suite_strip(level, CROWDED, 1, image_size=SIZE)
    assert np.array_equal(aligned.image[0], strip.image[0])
    assert not np.array_equal(aligned.image[1], strip.image[1])
    if AMOUNTS[level].jpeg_quality:
        return  # noise is no longer white
    part, every = shoot(level, shot=1)
    bare = shots.align_conditions(every)
    image = suite_strips.render(replace(part, clutter=()), bare, SIZE)
    for reference in (1, 2):
        difference = image[0] - image[reference]
        difference -= np.median(difference, axis=0)
        sigma = np.hypot(aligned.noise_sigma[0], aligned.noise_sigma[reference])
        assert (difference / sigma).std() == pytest.approx(1, abs=0.03)


def test_the_picture_shows_the_levels_that_are_asked_for(monkeypatch):
    monkeypatch.setattr("benchmarks.suite.picture.STRIP_SIZE", SIZE)
    picture = draw_levels(CROWDED, 60, levels=("shapes", "dirt"))
    assert len(np.split(picture, 4, axis=1)) == 4 and picture.dtype == np.uint8


def test_there_is_a_place_for_every_point_of_a_busy_strip():
    for level in ("dirt", "all hard"):
        points = make_suite_strip(level, CROWDED, 0, image_size=SIZE).points
        assert {point.place for point in points} == set(placement.PLACES)

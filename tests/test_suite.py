import hashlib
import platform
from collections import Counter

import cv2
import numpy as np
import pytest

from benchmarks.suite import displacement, placement, shots, stripes
from benchmarks.suite import picture as suite_picture
from benchmarks.suite import points as suite_points
from benchmarks.suite import strips as suite_strips
from benchmarks.suite.levels import AMOUNTS, HARD_LEVELS, LEVELS, STRIP_COUNT, SUITE_SEED, Amounts
from benchmarks.suite.points import CHANNELS
from benchmarks.suite.strips import make_good_strip, make_suite_strip
from data import demo_strips
from ops.tiling import calculate_kept_ranges
from tests.suite_measures import CROWDED, FINE_SIZE, SIZE, measure, measure_shift

RECORDED_WITH = ("5.0.0", "2.4.6", "x86_64")
has_recorded_libraries = pytest.mark.skipif(
    (cv2.__version__, np.__version__, platform.machine()) != RECORDED_WITH,
    reason="bits depend on the libraries",
)
pytestmark = pytest.mark.usefixtures("no_parts_kept")


@pytest.fixture
def shifts(monkeypatch):
    """The shifts of the references in the order of their shots, each (H, 2) in pixels."""
    drawn, draw = [], shots.draw_shift

    def spy(*arguments):
        drawn.append(draw(*arguments))
        return drawn[-1]

    monkeypatch.setattr(shots, "draw_shift", spy)
    return drawn


@pytest.fixture
def unpainted(monkeypatch):
    """The image of a strip without its points, everything else the same."""

    def make(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(shots, "paint_on_shot", lambda *arguments: None)
            return make_suite_strip(*arguments, image_size=SIZE).image

    return make


def part_of(level, number):
    presences = placement.presences(number, AMOUNTS[level])
    return suite_strips.make_part(level, number, SUITE_SEED, SIZE, presences)


def points_of(level, number):
    return part_of(level, number).points


def draw_expected(points, channel, shift):
    """What the points add to a channel whose rows are moved by `shift` (H, 2): a sum over every
    pixel, without a window.
    """
    expected, (y, x), rows = np.zeros(SIZE), np.indices(SIZE), np.arange(SIZE[0])
    for point in points:
        if channel in CHANNELS[point.presence]:
            center_y = point.center[0]
            # the row that shows it; rows beyond the strip are moved like the last one
            if shift.any():
                center_y = np.interp(
                    center_y,
                    np.r_[-9, rows, SIZE[0] + 9] - np.pad(shift[:, 0], 1, "edge"),
                    np.r_[-9, rows, SIZE[0] + 9],
                )
            center_x = point.center[1] + np.interp(center_y, rows, shift[:, 1])
            exponent = ((y - center_y) / point.sigma[0]) ** 2 + (
                (x - center_x) / point.sigma[1]
            ) ** 2
            expected += point.amplitude * np.exp(-exponent / 2)
    return expected


def test_a_demo_strip_is_made_of_the_same_numbers_in_the_same_order():
    generator, twin, size = np.random.default_rng(7), np.random.default_rng(7), (200, 150)
    strip = demo_strips.make_strip(generator, size)
    pattern = demo_strips.draw_pattern(twin, size)
    shifts = [(0.0, 0.0), *twin.uniform(-0.4, 0.4, (2, 2))]
    for channel, (y, x) in zip(strip, shifts):
        matrix = np.float32([[1, 0, x * 3], [0, 1, y * 3]])
        moved = cv2.warpAffine(
            pattern,
            matrix,
            pattern.shape[::-1],
            flags=cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REFLECT,
        )
        seen = cv2.resize(moved[12:-12, 12:-12], size[::-1], interpolation=cv2.INTER_AREA)
        wave = np.sin(2 * np.pi * (np.arange(200) / 200 * twin.uniform(0.3, 1.5) + twin.uniform()))
        illumination = (
            5.0 * (wave[:, None] + (np.linspace(-1, 1, 150) * twin.uniform(-1, 1))[None, :]) / 2
        )
        gain = 1 + twin.uniform(-0.08, 0.08)
        offset = twin.uniform(-6.0, 6.0)
        noise = twin.normal(0, twin.uniform(1.5, 3.0), size)
        assert np.array_equal(
            channel, np.clip(gain * seen + offset + illumination + noise, 0, 255).astype(np.float32)
        )
    assert generator.bit_generator.state == twin.bit_generator.state


@has_recorded_libraries
def test_a_demo_strip_has_the_bits_that_were_recorded():
    recorded = "bbfe3c920bdebbae1c48e367a3b71991ad3759dd196fff7d628358a73c617ca6"
    assert (
        hashlib.sha256(demo_strips.make_strip(np.random.default_rng(7)).tobytes()).hexdigest()
        == recorded
    )


@has_recorded_libraries
def test_the_suite_has_the_bits_that_were_recorded():
    recorded = "962ec02905cbd11cce7bd11d9a7b914f32b2607381f12df11d442718d12c7776"
    strips = b"".join(
        make_suite_strip(level, CROWDED, 0, image_size=SIZE).image.tobytes() for level in LEVELS
    )
    assert hashlib.sha256(strips).hexdigest() == recorded
    recorded = "1722c1b2edab09ca321fcf0bfd8099281cf7d715f0deceac8aaf2253c862a7f5"
    strips = b"".join(
        make_suite_strip(level, 13, 2, image_size=SIZE).image.tobytes()
        + make_good_strip(level, 3, 77, SIZE).tobytes()
        for level in LEVELS
    )
    assert hashlib.sha256(strips).hexdigest() == recorded


@has_recorded_libraries
def test_the_harder_levels_have_the_bits_that_were_recorded():
    recorded = "cf0374cce9219746d3f59417aea302571ece393d2fcd7d48f7a81e8816fe7a0e"
    strips = b"".join(
        make_suite_strip(level, CROWDED, 1, image_size=SIZE).image.tobytes()
        for level in HARD_LEVELS
    )
    assert hashlib.sha256(strips).hexdigest() == recorded


@pytest.mark.parametrize("level", LEVELS)
def test_seed_level_number_and_shot_decide_everything(level):
    strip = make_suite_strip(level, CROWDED, 1, image_size=SIZE)
    other_shot = make_suite_strip(level, CROWDED, 0, image_size=list(SIZE))
    other_number = make_suite_strip(level, CROWDED + 1, 1, image_size=SIZE)
    other_seed = make_suite_strip(level, CROWDED, 1, 5, SIZE)
    suite_strips.make_part.cache_clear()
    again = make_suite_strip(level, CROWDED, 1, image_size=SIZE)
    assert np.array_equal(strip.image, again.image) and strip.points == again.points
    assert strip.image.dtype == np.float32 and strip.image.shape == (3, *SIZE)
    assert (strip.level, strip.number, strip.shot) == (level, CROWDED, 1)
    assert other_shot.points == strip.points
    assert all((one != other).mean() > 0.99 for one, other in zip(strip.image, other_shot.image))
    for other in (other_number, other_seed):
        assert {point.center for point in other.points}.isdisjoint(
            point.center for point in strip.points
        )
        assert np.abs(other.image - strip.image).mean() > 5
    assert strip.image.min() >= 0 and strip.image.max() <= 255


def test_no_two_levels_show_the_same_part():
    strips = [make_suite_strip(level, 0, 0, image_size=SIZE) for level in LEVELS]
    assert len({strip.points[0].center for strip in strips}) == len(LEVELS)
    correlations = np.corrcoef([strip.image[0].ravel() for strip in strips]) - np.eye(len(LEVELS))
    assert np.abs(correlations).max() < 0.6


def test_a_point_is_painted_where_and_as_strongly_as_it_says():
    for point in make_suite_strip("clean", CROWDED, 0, image_size=SIZE).points:
        lit, center = np.zeros(SIZE), (100 + point.center[0] % 1, 80 + point.center[1] % 1)
        suite_points.paint_on_shot(lit, point, center)
        amplitude, middle, sigma = measure(lit, center)
        assert amplitude == pytest.approx(point.amplitude, rel=0.01)
        assert np.abs(middle - center).max() < 0.01
        assert sigma == pytest.approx(point.sigma, rel=0.01)
        assert 0.6 * point.contrast <= np.abs(lit).max() <= point.contrast == abs(point.amplitude)


@pytest.mark.parametrize("level", LEVELS)
def test_a_point_is_in_the_channels_of_its_presence_and_moves_with_each(level, unpainted, shifts):
    strip = make_suite_strip(level, CROWDED, 2, image_size=SIZE)
    difference = strip.image - unpainted(level, CROWDED, 2)
    for channel, shift in enumerate([np.zeros((SIZE[0], 2)), *shifts[:2]]):
        assert np.abs(difference[channel] - draw_expected(strip.points, channel, shift)).max() < 0.1
    assert {point.presence for point in strip.points} == set(CHANNELS) and {
        point.place for point in strip.points
    } == set(placement.PLACES)
    assert CHANNELS == {
        "T": (0,),
        "T1": (0, 1),
        "T2": (0, 2),
        "T12": (0, 1, 2),
        "R1": (1,),
        "R2": (2,),
        "R12": (1, 2),
    }


def test_a_point_that_a_shift_moves_off_the_strip_paints_nothing():
    lit = np.zeros(SIZE)
    suite_points.paint_on_shot(
        lit, suite_points.Point((0.0, 100.3), (1.0, 1.5), 40.0, "R1", "border"), (-20.0, 100.3)
    )
    assert not lit.any()


def test_a_shift_moves_pattern_and_points_to_the_same_place():
    shift = displacement.draw_shift(
        np.random.default_rng(3), Amounts(shift=0.5, wander=0.9), SIZE[0]
    )
    y, x = (
        np.arange(length) / demo_strips.OVERSAMPLING
        - demo_strips.PATTERN_MARGIN
        + (1 / demo_strips.OVERSAMPLING - 1) / 2
        for length in FINE_SIZE
    )
    for center in ((20.3, 30.8), (110.6, 90.1), (220.0, 150.4)):
        spot = np.exp(
            -0.5 * (((y - center[0])[:, None] / 1.5) ** 2 + ((x - center[1]) / 1.5) ** 2)
        ).astype(np.float32)
        moved = demo_strips.sample_to_sensor(displacement.move_rows(spot, shift), SIZE)
        expected = displacement.move_point(center, shift)
        assert np.abs(measure(moved, center)[1] - expected).max() < 0.03
        assert np.abs(np.subtract(expected, center) - shift[round(center[0])]).max() < 0.02


def test_numbers_of_points_and_their_contrasts(pattern):
    pattern(128.0)
    for level in LEVELS:
        strips = [points_of(level, number) for number in range(STRIP_COUNT)]
        defects = [sum(point.presence == "T" for point in points) for points in strips]
        assert defects == [0, 0, 0, 1, 1, 1, 18, 18, 18, 18] * 2
        for points in strips:
            others = Counter(point.presence for point in points if point.presence != "T")
            assert others == {"T1": 2, "T2": 2, "T12": 2, "R1": 2, "R2": 2, "R12": 2}
        every = [point for points in strips for point in points]
        contrasts = Counter(point.contrast for point in every if point.presence == "T")
        assert (
            sorted(contrasts) == [10, 15, 20, 25, 30, 40, 60, 80] and min(contrasts.values()) >= 16
        )
        places = Counter(point.place for point in every)
        shares = [places[name] / len(every) for name in ("border", "seam", "interior")]
        assert shares == pytest.approx([0.25, 0.25, 0.5], abs=0.02)
        assert 0.4 < np.mean([point.amplitude > 0 for point in every]) < 0.6
        sigmas = np.array([point.sigma for point in every])
        assert 0.7 <= sigmas.min() < 0.75 and 1.55 < sigmas.max() <= 1.6
        assert (sigmas.max(axis=1) / sigmas.min(axis=1)).max() > 1.8


@pytest.mark.parametrize("level", ("clean", "everything"))
def test_points_lie_where_they_say_and_apart(level):
    lines = [
        [start - 0.5 for start, _ in calculate_kept_ranges(length, 128)[1:]] for length in SIZE
    ]
    to_edges = []
    for number in (CROWDED, CROWDED + 1, CROWDED + 2):
        points = points_of(level, number)
        centers = np.array([point.center for point in points])
        distances = np.hypot(
            *(centers[:, None] - centers[None]).transpose(2, 0, 1)
        ) + 1000 * np.eye(len(points))
        assert distances.min() >= 12
        for point in points:
            edge = min(
                min(value + 0.5, length - 0.5 - value) for value, length in zip(point.center, SIZE)
            )
            seam = min(
                abs(value - line) for value, along in zip(point.center, lines) for line in along
            )
            assert edge >= 0.5
            assert point.place == ("border" if edge <= 5 else "seam" if seam <= 3 else "interior")
            to_edges.append(edge)
    assert min(to_edges) < 1


def test_the_sign_is_the_one_that_is_not_clipped(pattern):
    for levels, sign in ((215.0, -1), (40.0, 1)):
        pattern(levels)
        for level in ("clean", "noise"):
            suite_strips.make_part.cache_clear()
            strong = [point.amplitude for point in points_of(level, CROWDED) if point.contrast > 30]
            assert len(strong) > 5 and {np.sign(amplitude) for amplitude in strong} == {sign}


def test_no_gain_clips_a_point(pattern):
    # 80 more are 230 at a gain of 1, but 259 at the largest gain, offset and illumination
    pattern(150.0)
    strong = [
        point.amplitude
        for number in range(6, 10)
        for point in points_of("gain", number)
        if point.contrast == 80
    ]
    assert strong and max(strong) < 0


@pytest.mark.parametrize("level", LEVELS)
def test_what_is_taken_for_the_darkest_and_the_brightest_holds_for_every_shot(level, unpainted):
    part = part_of(level, CROWDED)
    darkest, brightest = suite_strips.calculate_bounds(
        part.pattern, part.stripes, AMOUNTS[level], SIZE
    )
    for shot in range(4):
        target = unpainted(level, CROWDED, shot)[0]  # the one that is not shifted
        # beyond one sigma on one side: 0.16
        assert (target < darkest).mean() < 0.17 and (target > brightest).mean() < 0.17
        for axis in (0, 1):  # and so along every stripe
            assert (
                max(
                    (target < darkest).mean(axis=axis).max(),
                    (target > brightest).mean(axis=axis).max(),
                )
                < 0.4
            )


def test_points_that_do_not_fit_are_refused(pattern):
    with pytest.raises(ValueError, match=r"room for \d+ points on a strip of \(128, 128\)"):
        make_suite_strip("clean", CROWDED, 0, image_size=(128, 128))  # without a seam
    pattern(254.5)  # with noise neither sign fits
    with pytest.raises(ValueError, match="found no room"):
        points_of("noise", CROWDED)
    with pytest.raises(ValueError):
        make_suite_strip("unheard-of", 0, 0, image_size=SIZE)


@pytest.mark.usefixtures("texture")
def test_constant_shifts_are_in_their_range_and_the_same_everywhere(unpainted):
    measured = []
    for number in range(8):
        image = unpainted("shift", number, number % 3)
        for reference in (1, 2):
            measured.append(measure_shift(image, reference))
            upper, lower = (
                measure_shift(image, reference, rows) for rows in (slice(0, 120), slice(120, 240))
            )
            assert np.abs(upper - lower).max() < 0.06
    measured = np.array(measured)
    assert np.hypot(*measured.T).min() > 0.27 and np.abs(measured).max() < 0.93
    assert (
        (np.abs(measured).max(axis=0) > 0.7).all()
        and (measured.min(axis=0) < 0).all()
        and (measured.max(axis=0) > 0).all()
    )


@pytest.mark.usefixtures("texture")
@pytest.mark.parametrize("level, largest", [("wandering", 0.9), ("everything", 0.9)])
def test_a_wandering_shift_changes_along_the_strip(level, largest, unpainted, shifts):
    for number in range(3):
        image = unpainted(level, number, 0)
        for reference, shift in zip((1, 2), shifts[-2:]):
            assert shift.shape == (SIZE[0], 2) and np.abs(shift).max() <= largest
            assert (
                np.ptp(shift[:, 0]) > 1.2 * np.ptp(shift[:, 1]) > 0.1 and np.ptp(shift[:, 0]) > 0.4
            )
            assert np.abs(np.diff(shift, axis=0)).max() < 0.05
            for start in range(0, SIZE[0], 60):
                rows = slice(start, start + 60)
                assert (
                    np.abs(measure_shift(image, reference, rows) - shift[rows].mean(axis=0)).max()
                    < 0.1
                )


@pytest.mark.usefixtures("texture")
@pytest.mark.parametrize("level", ("clean", "gain", "noise", "stripes"))
def test_other_levels_have_no_shift(level, unpainted):
    image = unpainted(level, 0, 0)
    assert max(np.abs(measure_shift(image, reference)).max() for reference in (1, 2)) < 0.05


def test_noise_gain_and_offset_are_those_of_the_level(pattern, unpainted):
    pattern(128.0)
    expected = {
        "clean": (1, 1),
        "gain": (1.5, 3),
        "shift": (1.5, 3),
        "wandering": (1.5, 3),
        "noise": (5, 5),
        "everything": (1.5, 5),
    }
    for level, (smallest, largest) in expected.items():
        channels = np.concatenate([unpainted(level, number, 0) for number in range(8)])
        noise = [
            np.median(np.abs(np.diff(channel, n=2, axis=1))) / 0.6745 / np.sqrt(6)
            for channel in channels
        ]
        assert 0.97 * smallest < min(noise) <= max(noise) < 1.03 * largest
        means = channels.mean(axis=(1, 2))
        slow = [np.ptp(cv2.GaussianBlur(channel, (0, 0), 8)) for channel in channels]
        if level in ("gain", "everything"):
            assert 103 < means.min() < 119 and 137 < means.max() < 153 and np.median(slow) > 4
        else:
            assert np.abs(means - 128).max() < 0.2 and max(slow) < 2


def test_stripes_are_in_all_channels_with_differing_strength(pattern, unpainted, monkeypatch):
    pattern(128.0)
    monkeypatch.setattr(stripes, "STRIPE_COUNT", (1, 1))
    factors, widths, strengths, directions = [], [], [], set()
    for number in range(16):
        (stripe,) = part_of("stripes", number).stripes
        spans = np.subtract(stripe.stop, stripe.start)
        across = int(np.argmin(spans))
        first, last = int(stripe.start[across]) - 1, int(stripe.stop[across]) + 2
        if first < 0 or last > SIZE[across]:
            continue
        middle = int(
            np.clip(
                (stripe.start[1 - across] + stripe.stop[1 - across]) / 2, 25, SIZE[1 - across] - 25
            )
        )
        box = [slice(first, last + 1), slice(middle - 25, middle + 25)]
        image = unpainted("stripes", number, 0)[:, *(box if across == 0 else box[::-1])] - 128
        # of each channel, across the stripe
        profiles = image.mean(axis=2 - across) / stripe.strength
        factors.append(profiles.sum(axis=1) / spans[across])
        middles = (profiles * np.arange(first, last + 1)).sum(axis=1) / profiles.sum(axis=1)
        assert np.abs(middles - (stripe.start[across] + stripe.stop[across]) / 2).max() < 0.25
        widths.append(spans[across])
        strengths.append(stripe.strength)
        directions.add(across)
    factors = np.array(factors)
    assert len(factors) > 10 and directions == {0, 1}
    assert (
        0.5 < factors.min() < 0.75
        and 1.25 < factors.max() < 1.5
        and np.median(np.ptp(factors, axis=1)) > 0.2
    )
    assert 1 <= min(widths) < 1.5 and 2.5 < max(widths) <= 3
    assert {np.sign(strength) for strength in strengths} == {-1, 1} and np.abs(
        strengths
    ).min() >= 12


def test_stripes_are_in_two_levels_alone():
    for level in LEVELS:
        part = part_of(level, 0)
        assert (
            (2 <= len(part.stripes) <= 5)
            if level in ("stripes", "everything")
            else part.stripes == ()
        )


@pytest.mark.parametrize("level", LEVELS)
def test_a_good_strip_has_distractors_alone_and_no_part_of_the_suite(level, monkeypatch):
    image = make_good_strip(level, 2, 11, SIZE)
    assert image.shape == (3, *SIZE) and image.dtype == np.float32
    assert np.array_equal(image, make_good_strip(level, 2, 11, SIZE)) and not np.array_equal(
        image, make_good_strip(level, 3, 11, SIZE)
    )
    assert np.abs(image - make_suite_strip(level, 2, 0, image_size=SIZE).image).mean() > 5
    parts = []
    monkeypatch.setattr(suite_strips, "render", lambda part, *arguments: parts.append(part))
    make_good_strip(level, 2, 11, SIZE)
    assert Counter(point.presence for point in parts[0].points) == {
        "T1": 2,
        "T2": 2,
        "T12": 2,
        "R1": 2,
        "R2": 2,
    }


def test_no_seed_makes_a_part_of_the_demo_data_set():
    ours = {
        suite_strips.seeded_generator("clean", 0, seed, purpose).random()
        for seed in (0, 1, 42)
        for purpose in range(3)
    }
    demo = {
        np.random.default_rng((seed, split, 0, number)).random()
        for seed in (0, 1, 42)
        for split in range(3)
        for number in range(5)
    }
    assert len(ours) == 9 and ours.isdisjoint(demo)


def test_nothing_is_calibrated_on_the_suite_itself():
    with pytest.raises(ValueError, match="the suite's own"):
        make_good_strip("clean", 0, SUITE_SEED, SIZE)


def test_the_picture_shows_every_level(monkeypatch):
    monkeypatch.setattr(suite_picture, "STRIP_SIZE", SIZE)
    picture = suite_picture.draw_levels(CROWDED, 100)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    panels = np.split(picture[22:], 2 * len(LEVELS), axis=1)
    ringed = [bool((panel == (80, 220, 80)).all(axis=2).any()) for panel in panels]
    assert ringed == [True, False] * len(LEVELS)

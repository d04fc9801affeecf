import numpy as np
import pytest

from evaluation.detections import (
    MOST_PER_STRIP,
    NEIGHBOURHOOD,
    PackedDetections,
    contrasts_at,
    detect,
    find_peaks,
    logit_margin,
)

SIZE = (40, 50)


def checked_heatmap(**heights):
    """Single pixels by name `y_x`, on zero."""
    heatmap = np.zeros(SIZE, np.float32)
    for name, height in heights.items():
        heatmap[tuple(map(int, name.strip("p").split("_")))] = height
    return heatmap


def blank(size=SIZE):
    return np.full((3, *size), 100, np.float32)


def test_peaks_come_strongest_first_and_none_stands_beside_a_higher_one():
    heatmap = checked_heatmap(p10_10=0.5, p10_13=0.9, p30_30=0.7, p30_34=0.6, p0_49=0.2)
    peaks = find_peaks(heatmap)
    assert peaks.points.tolist() == [[10, 13], [30, 30], [30, 34], [0, 49]]
    assert peaks.heights.tolist() == pytest.approx([0.9, 0.7, 0.6, 0.2])


@pytest.mark.parametrize("seed", range(3))
def test_peaks_are_the_local_maxima_that_a_search_by_hand_finds(seed):
    heatmap = np.random.default_rng(seed).random(SIZE).astype(np.float32)
    by_hand = set()
    for y, x in np.ndindex(SIZE):
        around = heatmap[
            max(0, y - NEIGHBOURHOOD) : y + NEIGHBOURHOOD + 1,
            max(0, x - NEIGHBOURHOOD) : x + NEIGHBOURHOOD + 1,
        ]
        if heatmap[y, x] == around.max():
            by_hand.add((y, x))
    assert set(map(tuple, find_peaks(heatmap).points.tolist())) == by_hand


def test_a_plateau_is_one_detection_in_its_middle_and_zero_is_none():
    heatmap = np.zeros(SIZE, np.float32)
    heatmap[10:15, 20:27] = 1
    assert find_peaks(heatmap).points.tolist() == [[12, 23]]
    assert find_peaks(np.zeros(SIZE, np.float32)).points.shape == (0, 2)
    assert len(find_peaks(np.full(SIZE, 0.25, np.float32)).points) == 1


def test_saturated_peaks_are_ranked_by_what_stands_around_them():
    heatmap = checked_heatmap(p10_10=1, p30_30=1, p20_40=1)
    heatmap[30, 31], heatmap[20, 41] = 0.999, 0.9
    peaks = find_peaks(heatmap)
    assert peaks.points.tolist() == [[30, 30], [20, 40], [10, 10]]
    assert len(set(peaks.scores.tolist())) == 3 and set(peaks.heights.tolist()) == {1.0}


def test_the_surroundings_only_break_ties():
    heatmap = checked_heatmap(p10_10=0.9999, p30_30=0.99991)
    heatmap[9:12, 9:12] = np.maximum(heatmap[9:12, 9:12], 0.9998)
    assert find_peaks(heatmap).points.tolist() == [[30, 30], [10, 10]]


def test_the_margin_is_the_logit_cut_off_where_float32_ends():
    margins = logit_margin(np.array([0, 0.25, 0.5, 0.75, 1], np.float32))
    assert margins.tolist() == pytest.approx([-18, np.log(1 / 3), 0, np.log(3), 18])


def test_no_more_than_so_many_peaks_are_kept_and_these_are_the_strongest():
    heatmap = np.random.default_rng(0).random((400, 400)).astype(np.float32)
    peaks = find_peaks(heatmap)
    assert len(peaks.points) == MOST_PER_STRIP
    weakest = peaks.heights.min()
    assert (find_peaks(heatmap, float(weakest)).heights > weakest).all() and peaks.heights[
        0
    ] == heatmap.max()


def test_area_and_box_are_those_of_the_pixels_above_the_threshold():
    heatmap = np.zeros(SIZE, np.float32)
    heatmap[10:13, 20:25] = 0.6
    heatmap[11, 22] = 0.9
    heatmap[13, 25] = 0.55  # touches by a corner
    (detection,) = detect(heatmap, blank(), 0.5)
    assert (detection.y, detection.x, detection.area, detection.box) == (
        11,
        22,
        16,
        (10, 20, 14, 26),
    )
    assert detection.peak == pytest.approx(0.9)


def test_two_maxima_in_one_component_share_its_pixels_by_distance():
    heatmap = np.zeros(SIZE, np.float32)
    heatmap[10, 10:15], heatmap[10, 15:20] = np.linspace(0.9, 0.6, 5), np.linspace(0.59, 0.8, 5)
    first, second = detect(heatmap, blank(), 0.5)
    assert (first.area, first.box, second.area, second.box) == (
        5,
        (10, 10, 11, 15),
        5,
        (10, 15, 11, 20),
    )


def test_small_ones_and_those_of_the_other_polarity_are_left_out():
    image, heatmap = blank(), np.zeros(SIZE, np.float32)
    for y, x, step in ((10, 10, 40), (30, 30, -40)):
        image[0, y - 1 : y + 2, x - 1 : x + 2] += step
        heatmap[y, x] = 0.9
    heatmap[30, 31] = 0.8
    assert [
        (d.y, round(d.contrast_ref1), round(d.contrast_ref2)) for d in detect(heatmap, image, 0.5)
    ] == [
        (30, -40, -40),
        (10, 40, 40),
    ]
    assert [d.y for d in detect(heatmap, image, 0.5, polarity="bright")] == [10]
    assert [d.y for d in detect(heatmap, image, 0.5, polarity="dark")] == [30]
    assert [d.y for d in detect(heatmap, image, 0.5, min_area=2)] == [30]
    assert (
        detect(heatmap, image, 0.95) == [] and detect(np.zeros(SIZE, np.float32), image, 0.0) == []
    )


def test_the_threshold_itself_is_not_above_it():
    height = np.float32(0.3)
    assert detect(checked_heatmap(p5_5=height), blank(), float(height)) == []


def test_contrast_is_free_of_gain_between_the_channels():
    image = blank()
    image[1] *= 1.2
    image[2] -= 30
    image[0, 19:22, 19:22] += 25
    assert contrasts_at(image, np.array([[20, 20], [0, 0]])).round(3).tolist() == [[25, 25], [0, 0]]


def test_packed_detections_come_out_as_they_went_in():
    image = np.random.default_rng(2).normal(100, 5, (3, *SIZE)).astype(np.float32)
    heatmap = np.zeros(SIZE, np.float32)
    heatmap[10, 10:13], heatmap[30, 40] = 0.7, 0.9
    found = detect(heatmap, image, 0.5)
    packed = PackedDetections(found)
    assert (
        list(packed) == found
        and len(packed) == 2
        and packed[1].box == (10, 10, 11, 13)
        and len(PackedDetections()) == 0
    )


def test_memory_and_order_do_not_depend_on_the_layout():
    heatmap = np.random.default_rng(1).random((60, 70)).astype(np.float32)
    turned = np.asfortranarray(heatmap)
    assert find_peaks(turned).points.tolist() == find_peaks(heatmap).points.tolist()

import numpy as np
import pytest

from evaluation.detections import Peaks, find_peaks
from evaluation.matching import (
    FALSE_ALARM,
    IGNORED,
    TrueDefect,
    defects_in_mask,
    match,
    match_strip,
    region_of,
)
from ops.tiling import calculate_kept_ranges


def points(*places):
    return np.array(places).reshape(-1, 2)


def test_each_truth_is_found_once_by_the_strongest_detection_near_it():
    truths = [TrueDefect((10, 10)), TrueDefect((30, 30))]
    assert match(points((10, 12), (30, 31), (10, 9), (50, 50)), truths).tolist() == [
        0,
        1,
        IGNORED,
        FALSE_ALARM,
    ]


def test_a_detection_takes_the_nearest_truth_and_leaves_the_other_to_the_next():
    truths = [TrueDefect((10, 10)), TrueDefect((10, 15))]
    # the second is too far from the other one
    assert match(points((10, 12), (10, 11)), truths).tolist() == [0, IGNORED]
    assert match(points((10, 13), (10, 12)), truths).tolist() == [1, 0]


@pytest.mark.parametrize("radius", [1.0, 3.0, 5.0])
def test_moved_out_of_the_radius_a_hit_becomes_a_miss_and_a_false_alarm(radius):
    inside, outside = (20, 20 + int(radius)), (20, 21 + int(radius))
    assert match(points(inside), [TrueDefect((20, 20))], radius=radius).tolist() == [0]
    assert match(points(outside), [TrueDefect((20, 20))], radius=radius).tolist() == [FALSE_ALARM]


def test_a_large_region_is_found_anywhere_on_its_own_pixels():
    mask = np.zeros((60, 60), bool)
    mask[10:50, 20:24] = True
    truths, labels = defects_in_mask(mask, np.zeros((3, 60, 60), np.float32))
    assert match(points((12, 21), (48, 22), (12, 28)), truths, labels).tolist() == [
        0,
        IGNORED,
        FALSE_ALARM,
    ]


def test_a_box_is_found_anywhere_in_it_and_not_on_its_far_edge():
    truth = TrueDefect((15, 15), box=(10, 10, 21, 21))
    assert match(points((10, 20)), [truth]).tolist() == [0]
    assert match(points((10, 21)), [truth]).tolist() == [FALSE_ALARM]


def test_what_does_not_count_is_neither_hit_nor_false_alarm_nor_miss():
    truths = [TrueDefect((10, 10), counts=False), TrueDefect((40, 40))]
    peaks = Peaks(
        points((10, 10), (40, 40), (70, 70)),
        np.array([0.9, 0.8, 0.7], np.float32),
        np.array([3.0, 2.0, 1.0]),
    )
    outcome = match_strip(peaks, truths)
    assert (
        outcome.truth.tolist() == [0, FALSE_ALARM]
        and outcome.scores.tolist() == [2.0, 1.0]
        and outcome.truths == (truths[1],)
    )


def test_nothing_found_and_nothing_there():
    assert match(points(), [TrueDefect((1, 1))]).tolist() == [] and match(
        points((1, 1)), []
    ).tolist() == [FALSE_ALARM]
    assert defects_in_mask(np.zeros((20, 20), bool), np.zeros((3, 20, 20), np.float32))[0] == []
    outcome = match_strip(find_peaks(np.zeros((20, 20), np.float32)), [])
    assert len(outcome.scores) == len(outcome.truth) == 0


def test_the_regions_of_a_mask_with_their_area_contrast_and_place():
    image = np.full((3, 976, 176), 100, np.float32)
    mask = np.zeros((976, 176), bool)
    seam = calculate_kept_ranges(976, 128)[3][0]
    for y, x in ((500, 3), (seam + 1, 30), (40, 30)):
        mask[y - 1 : y + 2, x - 2 : x + 3] = True
        image[0, y - 2 : y + 3, x - 2 : x + 3] += 30
    image[2, 35:45, 25:35] += 60  # Ref2 sees it the other way round
    truths, labels = defects_in_mask(mask, image, 128)
    assert [(truth.center, truth.area, truth.place) for truth in truths] == [
        ((40.0, 30.0), 15, "interior"),
        ((seam + 1.0, 30.0), 15, "seam"),
        ((500.0, 3.0), 15, "border"),
    ]
    assert (
        [round(truth.contrast) for truth in truths] == [0, 30, 30]
        and labels.max() == 2
        and labels[0, 100] == -1
    )


def test_seams_lie_between_the_tiles_and_only_where_there_are_any():
    first = calculate_kept_ranges(200, 128)[1][0]
    assert [region_of((first + step, 60), (200, 128), 128) for step in (-4, -3, 2, 3)] == [
        "interior",
        "seam",
        "seam",
        "interior",
    ]
    assert (
        region_of((first, 60), (200, 128), None) == "interior"
        and region_of((first, 4), (200, 128), 128) == "border"
    )

import pickle

import cv2
import numpy as np
import pytest
from monai.metrics.froc import compute_fp_tp_probs_nd, compute_froc_curve_data
from sklearn.metrics import average_precision_score, roc_auc_score

from evaluation.detections import find_peaks
from evaluation.matching import FALSE_ALARM, MatchResult, TrueDefect, defects_in_mask, match_strip
from evaluation.metrics import FALSE_ALARM_RATES, FrocMetrics, PixelMetrics, image_figures


def random_strips(seed, count=4, spread=2.0):
    generator = np.random.default_rng(seed)
    for _ in range(count):
        mask = generator.random((60, 50)) < 0.05
        logits = generator.normal(0, 3, mask.shape) + spread * mask
        yield (1 / (1 + np.exp(-logits))).astype(np.float32), mask


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spread", [0.0, 2.0, 10.0])
def test_pixel_figures_agree_with_scikit_learn_on_all_pixels(seed, spread):
    pixels, heatmaps, masks = PixelMetrics(), [], []
    for heatmap, mask in random_strips(seed, spread=spread):
        pixels.update(heatmap, mask)
        heatmaps.append(heatmap.ravel())
        masks.append(mask.ravel())
    figures = pixels.compute()
    labels, scores = np.concatenate(masks), np.concatenate(heatmaps)
    assert figures["pixel_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)
    assert figures["pixel_average_precision"] == pytest.approx(
        average_precision_score(labels, scores), abs=1e-3
    )


def test_probabilities_close_to_one_and_to_zero_are_told_apart():
    heatmap = np.array([[1 - 2e-6, 1 - 1e-6, 1e-7, 2e-7]], np.float32)
    pixels = PixelMetrics()
    pixels.update(heatmap, np.array([[False, True, False, True]]))
    assert pixels.compute()["pixel_auroc"] == pytest.approx(0.75)


def test_equal_scores_are_ties():
    pixels = PixelMetrics()
    pixels.update(np.full((4, 4), 0.5, np.float32), np.eye(4, dtype=bool))
    chance = {
        "pixel_auroc": 0.5,
        "pixel_average_precision": 0.25,
        "pixel_aupro_0.3": 0.15,
        "pixel_aupro_0.05": 0.025,
    }
    assert pixels.compute() == pytest.approx(chance)


def test_certain_answers():
    pixels = PixelMetrics()
    mask = np.eye(5, dtype=bool)
    pixels.update(mask.astype(np.float32), mask)
    assert len(pixels.compute()) == 4 and set(pixels.compute().values()) == {1.0}


def test_the_order_of_strips_does_not_matter_and_memory_does_not_grow():
    forward, backward = PixelMetrics(), PixelMetrics()
    strips = list(random_strips(7))
    for strip in strips:
        forward.update(*strip)
    for strip in reversed(strips):
        backward.update(*strip)
    assert np.array_equal(forward.counts, backward.counts)
    assert (
        forward.overlap == pytest.approx(backward.overlap) and forward.regions == backward.regions
    )
    assert len(pickle.dumps(forward)) < len(pickle.dumps(PixelMetrics())) + 10


def test_what_cannot_be_told_is_none_and_not_a_number():
    pixels = PixelMetrics()
    pixels.update(np.full((4, 4), 0.3, np.float32), np.zeros((4, 4), bool))
    assert len(pixels.compute()) == 4 and set(pixels.compute().values()) == {None}
    assert image_figures([], []) == {"image_auroc": None, "image_average_precision": None}
    assert image_figures([True, True], [0.1, 0.9])["image_auroc"] is None


def test_image_figures():
    assert image_figures([False, True, False, True], [0.1, 0.9, 0.2, 0.8]) == {
        "image_auroc": 1.0,
        "image_average_precision": 1.0,
    }
    assert image_figures([False, True], [0.9, 0.1])["image_auroc"] == 0.0


@pytest.mark.parametrize("value", [np.nan, -0.1, 1.5])
def test_heatmaps_that_are_no_probabilities_are_refused(value):
    heatmap = np.full((4, 4), 0.5, np.float32)
    heatmap[0, 0] = value
    with pytest.raises(ValueError, match="expected probabilities"):
        PixelMetrics().update(heatmap, np.zeros((4, 4), bool))


def test_per_region_overlap_agrees_with_the_definition_over_all_thresholds():
    pixels, strips = PixelMetrics(), []
    for heatmap, mask in random_strips(5, spread=3.0):
        mask = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))) > 0
        pixels.update(heatmap, mask)
        strips.append((heatmap, mask))
    background = np.concatenate([heatmap[~mask] for heatmap, mask in strips])
    regions = [
        heatmap[labels == number] for heatmap, mask in strips for labels, number in regions_of(mask)
    ]
    thresholds = np.unique(np.concatenate([heatmap.ravel() for heatmap, _ in strips]))[::-1]
    rates = [0.0, *share_from(thresholds, background)]
    overlaps = [0.0, *np.mean([share_from(thresholds, region) for region in regions], axis=0)]
    for limit in (0.3, 0.05):
        fine = np.linspace(0, limit, 20001)
        expected = np.trapezoid(np.interp(fine, rates, overlaps), fine) / limit
        assert pixels.compute()[f"pixel_aupro_{limit}"] == pytest.approx(expected, abs=2e-3)


def share_from(thresholds, values):
    """For each threshold, the share of the values that are not below it."""
    return 1 - np.searchsorted(np.sort(values), thresholds) / len(values)


def regions_of(mask):
    count, labels = cv2.connectedComponents(mask.astype(np.uint8))
    return [(labels, number) for number in range(1, count)]


def test_per_region_overlap_weighs_a_small_region_like_a_large_one():
    mask = np.zeros((100, 100), bool)
    mask[10:40, 10:40] = mask[70, 70] = True
    heatmap = np.full((100, 100), 0.1, np.float32)
    heatmap[10:40, 10:40] = 0.9
    heatmap[70, 70] = 0.001
    pixels = PixelMetrics()
    pixels.update(heatmap, mask)
    assert pixels.compute()["pixel_aupro_0.3"] == pytest.approx(0.5 + 0.5 * 0.15 * 0, abs=0.01)


def test_ignored_pixels_count_nowhere():
    generator = np.random.default_rng(3)
    heatmap = generator.random((50, 40)).astype(np.float32)
    mask = generator.random((50, 40)) < 0.1
    ignored = np.zeros((50, 40), bool)
    ignored[:, :20] = True
    whole, half = PixelMetrics(), PixelMetrics()
    whole.update(heatmap, mask & ~ignored, ignored)
    half.update(heatmap[:, 20:], mask[:, 20:])
    assert whole.compute() == half.compute()


def random_outcomes(seed, strips=12):
    generator = np.random.default_rng(seed)
    for _ in range(strips):
        image = generator.normal(100, 3, (3, 80, 60)).astype(np.float32)
        mask = np.zeros((80, 60), bool)
        for y, x in generator.integers(4, 56, (int(generator.integers(4)), 2)):
            mask[y - 1 : y + 2, x - 1 : x + 2] = True
        heatmap = (
            (generator.random((80, 60)) ** 4 + 0.5 * mask * generator.random((80, 60)))
            .clip(0, 1)
            .astype(np.float32)
        )
        yield heatmap, mask, defects_in_mask(mask, image)


def figures_of(outcomes):
    points = FrocMetrics()
    for outcome in outcomes:
        points.update(outcome)
    return points


@pytest.mark.parametrize("seed", range(4))
def test_recall_against_false_alarms_agrees_with_monai(seed):
    points, false_alarms, hits, targets = FrocMetrics(), [], [], 0
    for heatmap, _, (truths, labels) in random_outcomes(seed):
        peaks = find_peaks(heatmap)
        points.update(match_strip(peaks, truths, labels, radius=0.0))  # on its own pixels, as there
        # there a score of 0 is "not found"
        strip = compute_fp_tp_probs_nd(peaks.scores + 100, peaks.points, labels + 1)
        false_alarms.append(strip[0])
        hits.append(strip[1])
        targets += strip[2]
    rates, recalls = compute_froc_curve_data(
        np.concatenate(false_alarms).astype(np.float32),
        np.concatenate(hits),
        targets,
        points.strips,
    )
    assert points.truths == targets > 5
    for rate in FALSE_ALARM_RATES:
        allowed = recalls[rates <= rate + 1e-9].max()
        assert points.compute()[f"point_recall_at_{rate:g}"] == pytest.approx(allowed)
    ours = dict(zip(*points.curve()))
    theirs = {rate: recalls[rates == rate].max() for rate in set(rates.tolist()) if rate in ours}
    assert len(theirs) > 20 and all(
        ours[rate] == pytest.approx(recall) for rate, recall in theirs.items()
    )


def hits_and_false_alarms(hit_scores, alarm_scores, missed=0):
    """One strip whose detections have the given scores."""
    scores = np.array([*hit_scores, *alarm_scores])
    truth = np.array([*range(len(hit_scores)), *[FALSE_ALARM] * len(alarm_scores)], dtype=np.int64)
    order = np.argsort(-scores, kind="stable")
    return MatchResult(
        scores[order], truth[order], (TrueDefect((0, 0)),) * (len(hit_scores) + missed)
    )


def test_recall_at_a_rate_by_hand():
    strips = [hits_and_false_alarms([9, 5, 1], [7], missed=1)] + [
        hits_and_false_alarms([], [4, 3])
    ] * 9
    figures = figures_of(strips).compute()
    assert figures == {
        "point_recall_at_0.1": 0.5,
        "point_recall_at_1": 0.5,
        "point_recall_at_10": 0.75,
    }


def test_a_detection_level_with_the_first_false_alarm_too_many_is_not_found():
    # 0.1 of 9 strips allows none
    strips = [hits_and_false_alarms([5, 4], [4])] + [hits_and_false_alarms([], [])] * 8
    assert figures_of(strips).compute()["point_recall_at_0.1"] == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_a_worse_false_alarm_never_raises_recall_and_the_order_of_strips_does_not_matter(seed):
    generator = np.random.default_rng(seed)
    strips = [
        hits_and_false_alarms(generator.normal(1, 1, 3), generator.normal(0, 1, 5), missed=1)
        for _ in range(10)
    ]
    before = figures_of(strips)
    more = hits_and_false_alarms([], generator.normal(0, 1, 3))
    worse = MatchResult(
        np.append(strips[0].scores, -99.0),
        np.append(strips[0].truth, FALSE_ALARM),
        strips[0].truths,
    )
    assert all(
        after <= now
        for after, now in zip(
            figures_of([worse, *strips[1:]]).compute().values(), before.compute().values()
        )
    )
    shuffled = [strips[number] for number in generator.permutation(10)]
    assert figures_of(shuffled).compute() == before.compute()
    assert figures_of([*shuffled, more]).table()[0]["truths"] == 40


def test_merged_parts_are_the_whole():
    strips = [
        hits_and_false_alarms([3.0, 1.0], [2.0]),
        hits_and_false_alarms([], [5.0]),
        hits_and_false_alarms([4.0], [0.5], missed=2),
    ]
    whole, merged = figures_of(strips), FrocMetrics()
    merged.merge([figures_of(strips[:1]), figures_of(strips[1:])])
    assert merged.compute() == whole.compute() and merged.table() == whole.table()


def test_the_interval_holds_the_recall_of_strips_drawn_alike():
    generator = np.random.default_rng(8)

    def draw():
        return hits_and_false_alarms(generator.normal(2, 1.5, 4), generator.normal(0, 1, 6))

    truth = figures_of([draw() for _ in range(3000)]).compute()["point_recall_at_1"]
    intervals = [
        figures_of([draw() for _ in range(40)]).table()[0]["recall"][1.0] for _ in range(40)
    ]
    inside = sum(low <= truth <= high for _, low, high in intervals)
    assert 33 <= inside <= 40 and all(low <= value <= high for value, low, high in intervals)
    assert np.mean([high - low for _, low, high in intervals]) < 0.5


def test_groups_hold_the_truths_that_they_name():
    truths = (
        TrueDefect((0, 0), 9, 20.0, "border"),
        TrueDefect((0, 0), 15, 30.0, "seam"),
        TrueDefect((0, 0), 40, 70.0),
        TrueDefect((0, 0)),
    )
    points = figures_of([MatchResult(np.array([3.0, 2.0]), np.array([2, 0]), truths)])
    rows = {row["group"]: (row["truths"], row["recall"][1.0][0]) for row in points.table()}
    assert rows["all"] == (4, 0.5) and rows["contrast up to 25 grey levels"] == (1, 1.0)
    assert rows["contrast above 25, up to 50 grey levels"] == (1, 0.0) and rows[
        "area above 25 pixels"
    ] == (1, 1.0)
    assert (
        rows["at the border"] == (1, 1.0)
        and rows["at the seam"] == (1, 0.0)
        and rows["interior"] == (2, 0.5)
    )


def test_without_truths_or_strips_nothing_is_made_up():
    assert set(FrocMetrics().compute().values()) == {None} and FrocMetrics().table() == []
    only_good = figures_of([hits_and_false_alarms([], [1.0])])
    assert set(only_good.compute().values()) == {None} and only_good.table() == []


@pytest.mark.parametrize("strips, broken", [(2, 1), (1000, 20)])
def test_a_few_strips_of_nothing_but_false_alarms_count_in_full(strips, broken):
    crowded = hits_and_false_alarms([], np.arange(1000.0) + 5)
    points = figures_of([crowded] * broken + [hits_and_false_alarms([4.0], [])] * (strips - broken))
    assert set(points.compute().values()) == {0.0}


def test_where_all_or_none_are_found_there_is_still_doubt():
    for hits, missed, expected in ((3, 0, (1.0, 0.292, 1.0)), (0, 4, (0.0, 0.0, 0.602))):
        points = figures_of([hits_and_false_alarms([9.0] * hits, [], missed=missed)] * 1)
        assert points.table()[0]["recall"][1.0] == pytest.approx(expected, abs=1e-3)

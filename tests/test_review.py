"""The review of detections: measures, fusion, the choice of its weight, command and benchmark."""

import numpy as np
import pytest

from classifier.review import (
    MOST_LOGIT,
    Candidates,
    choose_weight,
    fuse,
    match_scores,
    review_logits,
    review_metrics,
)
from classifier.review_features import TreesReview, crop_features
from common.errors import UserError
from evaluation.detections import Peaks
from evaluation.matching import TrueDefect, match_strip
from evaluation.metrics import FrocMetrics

RATE = 0.5  # false alarms per strip


def make_candidates(count=40, seed=1):
    """Strips with three true defects and nine detections each; a third of these are hits.

    A hit's margin is only a little higher on the mean than that of a false alarm.
    """
    strips = []
    for number in range(count):
        generator = np.random.default_rng((seed, number))
        points = np.stack(np.divmod(np.arange(9), 3), axis=1) * 20 + 10
        order = generator.permutation(9)
        truths = [TrueDefect(tuple(map(float, points[place]))) for place in order[:3]]
        margins = generator.normal(0, 1, 9)
        margins[order[:3]] += 1.0
        by_margin = np.argsort(-margins)
        strips.append(Candidates(points[by_margin], margins[by_margin], truths))
    return strips


def is_hit(candidates):
    centers = {truth.center for truth in candidates.truths}
    return np.array([tuple(map(float, point)) in centers for point in candidates.points])


def make_logits(strips, strength, seed=2):
    """Of a review that tells hits by `strength` logits, with noise of one."""
    generator = np.random.default_rng(seed)
    return [
        np.where(is_hit(one), strength, -strength) + generator.normal(0, 1, len(one.points))
        for one in strips
    ]


def test_weight_0_is_the_detectors_own_rank_bit_by_bit():
    strips = make_candidates()
    wild = [np.full(9, np.nan) for _ in strips]
    expected = FrocMetrics()
    for one in strips:
        peaks = Peaks(one.points, np.zeros(9), one.margins)
        expected.update(match_strip(peaks, one.truths))
        assert fuse(one.margins, wild[0], 0.0).tobytes() == one.margins.tobytes()
        outcome = match_scores(one, fuse(one.margins, wild[0], 0.0))
        assert outcome.scores.tobytes() == match_strip(peaks, one.truths).scores.tobytes()
    found = review_metrics(strips, wild, 0.0)
    for mine, own in zip(found.curve(), expected.curve()):
        assert np.array_equal(mine, own)


@pytest.mark.parametrize("seed", range(5))
def test_a_review_that_knows_nothing_gets_weight_0(seed):
    strips = make_candidates(seed=seed)
    choice = choose_weight(strips, make_logits(strips, 0.0, seed), RATE)
    assert choice.weight == 0 and "detector alone" in choice.reason


def test_a_review_that_is_wrong_gets_weight_0():
    strips = make_candidates()
    choice = choose_weight(strips, make_logits(strips, -2.0), RATE)
    assert choice.weight == 0
    assert all(gain < 0 for weight, _, gain, _ in choice.rows if weight)


def test_a_good_review_gets_a_weight_that_helps_on_other_strips():
    strips, others = make_candidates(), make_candidates(seed=7)
    choice = choose_weight(strips, make_logits(strips, 2.0), RATE)
    assert choice.weight > 0 and "rises from" in choice.reason
    logits = make_logits(others, 2.0, 8)
    alone, reviewed = (review_metrics(others, logits, weight) for weight in (0, choice.weight))
    assert (
        reviewed.above(np.array([reviewed.limit(RATE)]))[0]
        > 0.2 + (alone.above(np.array([alone.limit(RATE)]))[0])
    )


def test_a_gain_on_one_strip_is_no_reason_for_a_weight():
    strips = make_candidates(20)
    logits = [np.zeros(9) for _ in strips]
    logits[3] = np.where(is_hit(strips[3]), 5.0, 0.0)
    choice = choose_weight(strips, logits, RATE)
    assert choice.weight == 0 and max(gain for _, _, gain, _ in choice.rows) > 0


def test_without_labelled_strips_the_weight_is_0():
    unknown = [Candidates(np.zeros((1, 2), int), np.ones(1)) for _ in range(3)]
    choice = choose_weight(unknown, [np.ones(1)] * 3, RATE)
    assert choice.weight == 0 and "no labelled strips" in choice.reason


def test_the_review_s_logit_is_that_of_all_kinds_of_defect_together():
    probabilities = np.array([[0.5, 0.25, 0.25], [0.9, 0.1, 0.0], [1.0, 0.0, 0.0]])
    found = review_logits(probabilities, ("good", "burr", "dust"))
    assert np.allclose(found, [0.0, np.log(1 / 9), -MOST_LOGIT])
    swapped = review_logits(probabilities[:, [1, 0, 2]], ("burr", "good", "dust"))
    assert np.allclose(found, swapped)


def make_crops(count, seed=3):
    """Crops of noise; every other one has a point in the middle of Target alone."""
    generator = np.random.default_rng(seed)
    crops = generator.normal(100, 3, (count, 4, 24, 24)).astype(np.float32)
    is_defect = np.arange(count) % 2 == 0
    crops[is_defect, 0, 11:14, 11:14] += 30
    crops[~is_defect, :3, 11:14, 11:14] += 30  # on all three channels: no defect
    return crops, is_defect


def test_trees_learn_what_the_middle_of_a_crop_shows():
    crops, is_defect = make_crops(120)
    features = crop_features(crops, np.zeros(len(crops)))
    assert 28 <= features.shape[1] <= 45 and np.isfinite(features).all()
    trees = TreesReview(features[:80], is_defect[:80])
    logits = trees.logits(features[80:])
    assert ((logits > 0) == is_defect[80:]).mean() > 0.95
    assert trees.logits(features[:0]).shape == (0,)


def test_measures_of_a_crop_do_not_depend_on_the_others():
    crops, _ = make_crops(6)
    margins = np.arange(6.0)
    together = crop_features(crops, margins)
    for number in range(6):
        one = slice(number, number + 1)
        assert np.allclose(crop_features(crops[one], margins[one]), together[one], 1e-4, 1e-4)


def test_trees_need_both_kinds_and_crops_of_four_channels():
    crops, _ = make_crops(4)
    features = crop_features(crops, np.zeros(4))
    with pytest.raises(UserError, match="found 0 defects of 4 crops"):
        TreesReview(features, np.zeros(4, bool))
    with pytest.raises(UserError, match=r"found crops of \(3, 24, 24\)"):
        crop_features(crops[:, :3], np.zeros(4))

"""The review of detections: measures, fusion, the choice of its weight, command and benchmark."""

import csv
import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from benchmarks import classifier
from benchmarks import review as benchmark
from benchmarks.suite.levels import LEVELS, SUITE_SEED
from benchmarks.suite.placement import DEFECTS
from classifier.crops import read_crop_facts
from classifier.cut_detections import CropSettings
from classifier.defect_checkpoint import load_defect_model
from classifier.prepare_defect_data import parse_args as parse_crops
from classifier.prepare_defect_data import prepare
from classifier.review import (
    FEWEST,
    MOST_LOGIT,
    Candidates,
    WeightChoice,
    choose_weight,
    fuse,
    match_scores,
    review_logits,
    review_metrics,
)
from classifier.review_detections import parse_args, review_detections
from classifier.review_features import TreesReview, crop_features
from classifier.review_report import write_review
from classifier.review_result import Limits, review
from classifier.review_strips import (
    NETWORK,
    TREES,
    ScoredFolder,
    crop_facts,
    cut_places,
    review_folder,
)
from classifier.train_defect_model import parse_args as parse_training
from classifier.train_defect_model import train
from common.errors import UserError
from data.folder import list_strips
from evaluation.detections import Peaks
from evaluation.evaluate import evaluate
from evaluation.matching import TrueDefect, match_strip
from evaluation.metrics import FrocMetrics
from evaluation.predictors import DetectorPredictor
from evaluation.results import Rules
from evaluation.thresholds import Threshold
from ops.classical import classical_detector
from reporting.pictures import StripWriter
from reporting.tables import write_results
from tests.defect_images import write_data

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


def test_of_weights_that_are_nearly_equal_the_smallest_is_taken():
    strips = make_candidates()
    sure = [np.where(is_hit(one), 100.0, -100.0) for one in strips]
    choice = choose_weight(strips, sure, RATE, (1.0, 2.0, 4.0))
    assert choice.weight == 1 and len({row[3] for row in choice.rows[1:]}) == 1


def test_few_held_out_strips_prove_nothing():
    strips = make_candidates(FEWEST)
    logits = make_logits(strips, 5.0)
    assert choose_weight(strips, logits, RATE).weight > 0
    good = [replace(one, truths=[]) for one in strips]
    few = choose_weight([*strips[1:], *good], [*logits[1:], *logits], RATE)
    assert few.weight == 0 and f"alone: {FEWEST - 1} labelled strips with defects" in few.reason


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


def score(folder, output):
    """What a classical detector finds in the strips of a folder, in the files of a scoring."""
    predictor = DetectorPredictor(classical_detector("smoothed", 1.0), torch.device("cpu"))
    threshold = Threshold(0.06, "as given")
    strips, rules = list_strips(folder), Rules(threshold)
    result = evaluate(predictor, strips, rules=rules, on_strip=StripWriter(output, 0))
    write_results(output, result, threshold, [])
    return output / "detections.csv"


TINY = ("--epochs", 1, "--gpu_id", -1, "--num_workers", 0, "--decoder_channels", 8, 4)
TINY += ("--head_channels", 8)


@pytest.fixture(scope="module")
def place(dataset, tmp_path_factory):
    """Scored strips of test/ and valid/, crops of test/, and a classifier of the crops."""
    place = tmp_path_factory.mktemp("review")
    for split in ("test", "valid"):
        (place / split).mkdir()
        score(dataset / split, place / split)
    words = ("crops", "--detections", place / "test" / "detections.csv")
    words += ("--strips", dataset / "test", "--align", "none", "--size", 16)
    words += ("--output_dir", place / "crops", "--valid_share", 0, "--test_share", 0)
    assert prepare(parse_crops([str(word) for word in words])) == 0
    words = ("--data_root", place / "crops", "--save_dir", place / "run", *TINY)
    train(parse_training([str(word) for word in words]))
    return place


def flags(place, dataset, output, *more):
    words = ("--checkpoint", place / "run", "--detections", place / "test" / "detections.csv")
    words += ("--strips", dataset / "test", "--output_dir", output, *more)
    return [str(word) for word in words]


def run_review(*words):
    return review_detections(parse_args(flags(*words)))


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_without_held_out_strips_the_detector_decides_alone(place, dataset, tmp_path, capsys):
    assert run_review(place, dataset, tmp_path / "out") == 0
    assert "weight 0, the detector alone: no labelled strips" in capsys.readouterr().out
    rows = table(tmp_path / "out" / "detections.csv")
    before = table(place / "test" / "detections.csv")
    assert [(row["file"], row["y"], row["x"]) for row in rows] == [
        (row["file"], row["y"], row["x"]) for row in before
    ]
    for row, own in zip(rows, before):
        assert row["score"] == row["margin"] == own["margin"]
        assert row["status"] == own["status"] and row["reported"] == "1"
        assert row["review"] in ("good", "defect") and 0.5 <= float(row["confidence"]) <= 1
    kept = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert kept["weight"] == kept["taken_away"] == kept["lost"] == 0


def test_held_out_strips_and_the_rival_are_in_the_report(place, dataset, tmp_path, capsys):
    held = ("--valid_detections", place / "valid" / "detections.csv")
    held += ("--valid_strips", dataset / "valid", "--rival", "trees")
    rate = ("--target_false_alarms", 1)
    assert run_review(place, dataset, tmp_path / "out", *held, *rate) == 0
    printed = capsys.readouterr().out
    assert "verdicts: crop network, set on 4 held-out strips" in printed
    page = (tmp_path / "out" / "report.html").read_text()
    for name in ("detector alone", "+ crop network, weight", "+ trees, weight", "+ both, weight"):
        assert name in page and name in printed
    kept = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert kept["choices"].keys() == {"crop network", "trees", "both"}
    rows, limit = table(tmp_path / "out" / "detections.csv"), kept["limit"]
    for row in rows:
        above = limit is None or float(row["score"]) > limit
        assert row["reported"] == str(int(above))
    reported = {row["file"] for row in rows if row["reported"] == "1"}
    verdicts = table(tmp_path / "out" / "verdicts.csv")
    assert {row["file"] for row in verdicts if row["verdict"] == "NG"} == reported
    assert len(verdicts) == 4


@pytest.mark.parametrize("used", [NETWORK, TREES])
def test_what_is_taken_away_and_lost_is_counted_and_shown(used, place, dataset, tmp_path):
    model = (
        load_defect_model(place / "run" / "best_accuracy.pth")
        if (place / "run" / "best_accuracy.pth").exists()
        else load_defect_model(place / "run" / "last.pth")
    )
    scored = ScoredFolder(place / "test" / "detections.csv", dataset / "test", place / "test")
    settings = CropSettings(16, "none")
    strips = review_folder(scored, settings, model, None)
    hits = [
        (n, p)
        for n, one in enumerate(strips)
        for p, d in enumerate(one.places)
        if d.status == "hit"
    ]
    alarms = [
        (n, p)
        for n, one in enumerate(strips)
        for p, d in enumerate(one.places)
        if d.status == "false alarm"
    ]
    assert len(hits) > 1 and len(alarms) > 1
    told = []
    for number, one in enumerate(strips):
        values = np.zeros(len(one.places))
        for place_of in (hits[0], *alarms):
            if place_of[0] == number:
                values[place_of[1]] = -50.0
        told.append(replace(one, logits={NETWORK: np.zeros(len(values))} | {used: values}))
    lowest = min(one.candidates.margins.min() for one in told if len(one.places)) - 1
    limits = Limits(lowest, lowest, 1.0, "as given")
    choices = {NETWORK: WeightChoice(0.5, "as given")} | {used: WeightChoice(1.0, "as given")}
    result = review(told, choices, limits, used)
    assert len(result.taken) == len(alarms) and len(result.lost) == 1 and not result.won
    output = tmp_path / "out"
    output.mkdir()
    write_review(output, result, model.kinds, partial(cut_places, scored, settings), {})
    assert len(list((output / "taken_away").glob("*.png"))) == min(len(alarms), 24)
    assert len(list((output / "lost").glob("*.png"))) == 1
    rows = table(output / "detections.csv")
    assert [row["status"] for row in rows if row["reported"] == "0"].count("hit") == 1
    assert not [row for row in rows if row["status"] == "false alarm" and row["reported"] == "1"]
    page = (output / "report.html").read_text()
    assert f"Taken away ({len(alarms)})" in page and "no longer reported (1)" in page


def test_held_out_strips_that_the_classifier_learnt_from_are_refused(place, dataset, tmp_path):
    shutil.copytree(dataset / "test", tmp_path / "copies")
    held = ("--valid_strips", tmp_path / "copies")
    held += ("--valid_detections", place / "test" / "detections.csv")
    words = flags(place, dataset, tmp_path / "out", *held)
    words[words.index("--strips") + 1] = str(dataset / "valid")
    words[words.index("--detections") + 1] = str(place / "valid" / "detections.csv")
    with pytest.raises(
        UserError, match=r"copies/\S+: found a strip whose crops the classifier has"
    ):
        review_detections(parse_args(words))
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_knows_how_its_crops_were_cut(place, tmp_path):
    path = next((place / "run").glob("best_accuracy.pth"), place / "run" / "last.pth")
    model = load_defect_model(path)
    facts = read_crop_facts(place / "crops")
    assert crop_facts(model) == facts and (facts.size, facts.align) == (16, "none")
    moved = {**model.settings, "data_root": str(tmp_path / "moved")}
    assert crop_facts(replace(model, settings=moved)) == facts
    # an earlier one leaves them to the set
    earlier = {name: value for name, value in model.settings.items() if name != "crops"}
    assert crop_facts(replace(model, settings=earlier)) == facts
    gone = {**earlier, "data_root": str(tmp_path / "moved")}
    with pytest.raises(UserError, match=r"leaves the size of its crops to \S+moved, expected"):
        crop_facts(replace(model, settings=gone))


def test_what_cannot_be_reviewed_is_refused_by_name(place, dataset, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    text = (place / "test" / "detections.csv").read_text()
    (other / "detections.csv").write_text(text.replace("strip_", "part_"))
    words = ("--heatmaps", place / "test")
    with pytest.raises(UserError, match=r"other/detections\.csv: line 2: .* of \S*part_\d"):
        run_review(place, dataset, tmp_path / "a", *words, "--detections", other / "detections.csv")
    held = ("--valid_detections", place / "test" / "detections.csv")
    with pytest.raises(UserError, match=r"--valid_strips .*: found the strips to review"):
        run_review(place, dataset, tmp_path / "b", *held, "--valid_strips", dataset / "test")
    with pytest.raises(SystemExit):
        parse_args(flags(place, dataset, tmp_path / "c", *held))
    with pytest.raises(SystemExit):
        parse_args(flags(place, dataset, tmp_path / "c", "--score_by", "both"))
    with pytest.raises(UserError, match=r"crops\.csv: found no readable table"):
        rival = ("--rival", "trees", "--crops", tmp_path / "none")
        run_review(place, dataset, tmp_path / "d", *rival)
    data = write_data(tmp_path / "grey")
    (folder,) = train(
        parse_training([str(w) for w in ("--data_root", data, "--save_dir", tmp_path / "g", *TINY)])
    )
    with pytest.raises(
        UserError, match="of 1-channel images, expected one of crops with 4 channels"
    ):
        run_review(place, dataset, tmp_path / "e", "--checkpoint", folder)
    assert not any((tmp_path / name).exists() for name in "abcde")


def test_the_benchmark_has_a_row_for_each_review(tmp_path, capsys):
    words = ["--levels", LEVELS[0], "--learn", 7, "--from_good", 2, "--choose", 7, "--test", 8]
    words += ["--steps", 1, "--image_size", 240, 180, "--candidates", 20, "--output", tmp_path]
    assert classifier.main(["--review", *map(str, words)]) == 0
    printed = capsys.readouterr().out
    assert "7 strips to choose the weight on at 0.1; 8 strips with 39 defects" in printed
    assert "labels of 7 strips: false" in printed and "no labels, 2 good strips: false" in printed
    for row in ("detector alone", "+ crop network, weight", "+ trees, weight", "+ both, weight"):
        assert printed.count(f"\n| {row}") == 4
    assert printed.count("| crop network, weight 1 without a choice |") == 2
    seeds = (*benchmark.SEEDS.values(), benchmark.GOOD_SEED)
    assert SUITE_SEED not in seeds and len(set(seeds)) == 4


def test_few_labels_are_of_strips_with_many_defects_one_and_none():
    order = benchmark.LABELLED_FIRST
    counts = [DEFECTS[number] for number in order]
    assert counts == [18, 1, 0] * 3 and set(order) == set(range(9))

"""The ceiling of the suite's levels, and the scores that the quality benchmark keeps of groups."""

import json
from argparse import Namespace

import numpy as np
import pytest

from benchmarks.ceiling import FILTERS, MatchedFilter, likelihood_ratio
from benchmarks.quality import SCORES_VERSION, QualityBenchmark
from benchmarks.quality_scores import (
    NOT_FOUND,
    print_suite_tables,
    score_heatmap,
    score_strip,
    share_above,
)
from benchmarks.suite.levels import AMOUNTS, HARD_LEVELS, LEVELS
from benchmarks.suite.strips import AlignedStrip, make_aligned_strip, make_suite_strip
from evaluation import metrics
from gaussian import paint_point
from tests.suite_measures import CROWDED, SIZE

ONE_PIXEL = MatchedFilter((1.0,), 0.0, 1)


def make_noise(sigmas, seed=0):
    """An aligned strip of noise alone, of one grey level."""
    generator = np.random.default_rng(seed)
    noise_sigma = np.broadcast_to(np.reshape(sigmas, (3, 1, 1)), (3, *SIZE))
    return AlignedStrip(128 + noise_sigma * generator.standard_normal((3, *SIZE)), noise_sigma)


@pytest.mark.parametrize("matched", FILTERS)
def test_a_wider_gaussian_takes_away_what_is_flat(matched):
    for sigma, kernel in zip(matched.sigmas, matched.kernels()):
        assert kernel.shape[0] % 2 == 1 and kernel.shape[0] >= 6 * sigma
        assert kernel.max() == kernel[kernel.shape[0] // 2, kernel.shape[1] // 2] > 0.5
        total = kernel.sum() / np.abs(kernel).sum()
        assert total == pytest.approx(0 if matched.wider else 1, abs=1e-9)


@pytest.mark.parametrize("sigmas", [(1.0, 1.0, 1.0), (2.0, 6.0, 3.0), (8.0, 2.0, 2.0)])
def test_the_ratio_is_in_units_of_the_noise_of_each_channel(sigmas):
    heat = likelihood_ratio(make_noise(sigmas), MatchedFilter((1.0,), 0.0, 0))
    ratio = heat / (1 - heat)
    # half the square of a normal variable exceeds 2 with 4.6 %, less what has another explanation
    assert 0.0005 < (ratio > 2).mean() < 0.046
    assert (ratio > 8).mean() < 1e-3


def test_only_a_point_in_target_alone_is_likely():
    for channels in ((0,), (0, 1), (0, 2), (0, 1, 2), (1,), (2,)):
        strip = make_noise((2.0, 2.0, 2.0))
        for channel in channels:
            paint_point(strip.image[channel], (100.3, 80.7), (1.0, 1.0), 30.0)
        for matched in (ONE_PIXEL, FILTERS[-1]):
            heat = likelihood_ratio(strip, matched)[98:103, 78:84].max()
            assert (heat > 0.95) == (channels == (0,)), (channels, matched)


@pytest.mark.parametrize("level", ["shift", "defocus", "vibration", "bent", "fine pitch", "photon"])
def test_perfect_references_show_every_clear_defect(level):
    aligned = make_aligned_strip(level, CROWDED, 0, image_size=SIZE)
    strip = make_suite_strip(level, CROWDED, 0, image_size=SIZE)
    scores = score_heatmap(likelihood_ratio(aligned, ONE_PIXEL), strip)
    best = dict(zip(scores["truth"], scores["scores"]))
    clear = [
        best.get(number, -np.inf)
        for number, (contrast, _) in enumerate(scores["truths"])
        if contrast >= 30
    ]
    false_alarms = [score for score, truth in zip(scores["scores"], scores["truth"]) if truth == -1]
    assert len(clear) > 3 and min(clear) > max(false_alarms)


def test_a_detection_anywhere_on_a_shape_finds_it():
    strip = make_suite_strip("shapes", CROWDED, 0, image_size=SIZE)
    defects = [point for point in strip.points if point.presence == "T"]
    number, scratch = next(
        (number, point) for number, point in enumerate(defects) if point.shape == "scratch"
    )
    end = np.rint(np.add(scratch.center, scratch.spots[0])).astype(int)
    assert np.hypot(*(end - scratch.center)) > 2
    heat = np.zeros(SIZE, np.float32)
    heat[tuple(np.clip(end, 0, np.array(SIZE) - 1))] = 0.9
    assert number in score_heatmap(heat, strip)["truth"]


def test_scores_that_were_kept_before_there_were_groups_are_found(tmp_path):
    (tmp_path / "scores").mkdir()
    for name, content in (
        ("gaussians", {"smoothed": 0.5}),
        ("suite_20x3_key", ["kept"]),
        ("hard_20x3_key", ["of the hard group"]),
    ):
        path = tmp_path / "scores" / f"{name}_v{SCORES_VERSION}.json"
        path.write_text(json.dumps(content))
    benchmark = QualityBenchmark(Namespace(output=tmp_path, runs=0, strips=20, shots=3))
    assert benchmark.find_sigmas("suite") == {"smoothed": 0.5}
    assert benchmark.score_group("suite", "key", None) == ["kept"]
    assert benchmark.score_group("hard", "key", None) == ["of the hard group"]


def test_each_group_has_a_table_of_its_own(capsys, monkeypatch):
    monkeypatch.setattr(metrics, "REPLICATES", 5)

    def brightest(image):
        return np.clip(image[0] - image[1:].max(axis=0), 0, 255) / 256

    for group, levels in (("suite", LEVELS), ("hard", HARD_LEVELS)):
        images = [
            score_strip(brightest, make_suite_strip(level, number, 0, image_size=SIZE))
            for level in levels
            for number in (3, CROWDED)
        ]
        print_suite_tables({"brightest": [images]}, group)
        printed = capsys.readouterr().out
        others = sum(10 + 2 * AMOUNTS[level].busy for level in levels)
        counts = f"{2 * len(levels)} strips with {19 * len(levels)} defects and {2 * others}"
        assert printed.startswith(f"{group}: {counts} distractors; one threshold for all")
        assert printed.count(f"| detector | {' | '.join(levels)} |") == (
            4 if group == "suite" else 5
        )


def test_what_is_not_found_counts_for_no_rate_of_false_alarms():
    values = [0.5, -3.0, NOT_FOUND, NOT_FOUND]
    assert share_above(values, -np.inf)[0] == 0.5 and share_above(values, 0.0)[0] == 0.25

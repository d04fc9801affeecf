"""The benchmark of the defect classifier, with tiny settings."""

import json

import numpy as np
import pytest

from benchmarks import classifier, classifier_data
from benchmarks.classifier_rows import (
    BASE,
    BOARD_FLAGS,
    BOARD_ROWS,
    FLIPS,
    RECOMMENDED,
    ROWS,
    TABLES,
    TINY,
    TREES,
)
from benchmarks.classifier_runs import score_run, train_once
from benchmarks.classifier_trees import picture_measures
from benchmarks.command_line import as_words
from classifier.defect_data import list_labelled
from classifier.dummy_set import DEFECTS, draw_picture
from classifier.dummy_surfaces import SURFACES
from classifier.train_defect_model import parse_args as parse_training
from data.folder import GOOD
from tests.printed_tables import cells


def run(capsys, output, *flags):
    words = ["--tiny", "--quick", "--output", str(output), *flags]
    assert classifier.main(words) == 0
    return capsys.readouterr().out


def test_every_row_is_a_training_and_differs_from_the_others():
    assert len({row.name for row in ROWS}) == len(ROWS)
    settings = []
    for row in ROWS:
        assert row.table in TABLES
        words = as_words("--data_root", "x", *row.training_flags)
        test = (row.images, row.masked, row.averages_flips)
        settings.append((str(vars(parse_training(words))), *test))
    assert [row.name for row in ROWS[:4]] == [RECOMMENDED, FLIPS, TREES, BASE]
    assert settings[0][:-1] == settings[1][:-1]  # one training, tested twice
    assert settings[2] == settings[3]  # the trees have no settings of their own
    assert len(set(settings)) == len(ROWS) - 1
    for _, _, flags in BOARD_ROWS:
        parse_training(as_words("--data_root", "x", *BOARD_FLAGS, *flags))


def test_finished_results_are_kept_and_shown(capsys, tmp_path, monkeypatch):
    rows = ("--rows", RECOMMENDED, FLIPS, "trees", BASE, "masks for none")
    first = run(capsys, tmp_path, "--rows", RECOMMENDED, FLIPS, "trees", "--jobs", "2")
    assert f"| {RECOMMENDED} |" in first and f"| {BASE}" not in first
    printed = run(capsys, tmp_path, *rows, "--jobs", "2")
    assert 0 <= float(cells(printed, TREES)[1]) <= 1
    found = cells(printed, "masks for none")
    expected = float(found[2]) - float(cells(printed, BASE)[2])
    assert float(found[-1]) == pytest.approx(expected, abs=2e-3)
    for row in (RECOMMENDED, FLIPS, TREES, BASE):
        assert cells(printed, row)[-1] == "-"
    counts = np.array([cells(printed, kind)[1:6] for kind in (GOOD, *DEFECTS)], int)
    assert counts.sum(axis=1).tolist() == [8, 2, 2, 2, 2]
    for figure in ("accuracy", "IoU", "Dice"):
        assert cells(printed, figure)[-1] in ("no", "floor", "goal")
    monkeypatch.setattr(classifier, "train_once", None)  # nothing is left to do
    monkeypatch.setattr(classifier, "score_trees", None)
    assert run(capsys, tmp_path, *rows) == printed
    found = [path.read_text() for path in tmp_path.glob("results_seed42/*.json")]
    # the flips have no training of their own
    assert len(list(tmp_path.glob("trainings_v*/*.log"))) == 3
    assert len(set(found)) == len(found) == len(rows) - 1  # but other figures
    assert {"accuracy", "confusion", "kinds"} <= set(json.loads(found[0]))


def test_a_part_has_fewer_pictures_masks_or_kinds_to_learn_from_and_the_same_test(tmp_path):
    root = classifier_data.dummy_set(tmp_path, 1, is_tiny=True)
    part = classifier_data.part_of(root, tmp_path, masked=0.5)
    learnt = list_labelled(part, "train")
    masked = [picture.kind for picture in learnt if picture.mask]
    assert len(learnt) == 16 and sorted(masked) == sorted(DEFECTS)
    few = list_labelled(classifier_data.part_of(root, tmp_path, images=8), "train")
    assert [picture.kind for picture in few].count(GOOD) == 4 and len(few) == 8
    lacking = classifier_data.part_of(root, tmp_path, without=DEFECTS[0])
    for split in ("train", "valid"):
        assert DEFECTS[0] not in {picture.kind for picture in list_labelled(lacking, split)}
    for other in (part, lacking):
        names = [
            [(one.path.name, one.kind, bool(one.mask)) for one in list_labelled(place, "test")]
            for place in (root, other)
        ]
        assert names[0] == names[1]


def test_a_run_in_two_stages_is_scored_by_its_second_one(tmp_path):
    root = classifier_data.dummy_set(tmp_path, 1, is_tiny=True)
    run = train_once(tmp_path, root, [*TINY, "--two_stages", "--stage1_epochs", 2], 1)
    assert len(score_run(run, root)["curve"]) == 1


@pytest.mark.parametrize("share", [0.05, 0.1, 0.25, 0.5])
def test_a_share_of_the_masks_shows_several_surfaces(share):
    chosen = np.flatnonzero(classifier_data.draw_share(125, share, np.random.default_rng(3)))
    assert len(chosen) == round(share * 125)
    assert len(set(chosen % len(SURFACES))) > 2


def test_measures_tell_a_scratch_from_a_good_picture():
    measured = {
        kind: np.stack(
            [picture_measures(draw_picture(kind, 4 * n, 96, 3)[0][None]) for n in range(6)]
        )
        for kind in (GOOD, "scratch")
    }
    assert np.isfinite(np.concatenate(list(measured.values()))).all()
    good, scratch = (values for values in measured.values())
    apart = (good.max(axis=0) < scratch.min(axis=0)) | (good.min(axis=0) > scratch.max(axis=0))
    assert apart.any()

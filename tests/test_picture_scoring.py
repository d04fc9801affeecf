"""Pictures without references through evaluation, thresholds, tables and report."""

import csv
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from common.errors import UserError
from data.folder import good_strips
from data.ignored_regions import IgnoredRegions
from data.image_files import Channels, encode_image
from data.pictures import list_pictures, read_picture
from evaluation.calibration import calibrate_on
from evaluation.detections import contrasts_at, detect
from evaluation.evaluate import _gather, evaluate
from evaluation.matching import defects_in_mask
from evaluation.operating_points import threshold_contradiction
from evaluation.results import Rules
from evaluation.stream import ScoredHeatmap
from evaluation.thresholds import (
    ScoreThreshold,
    bound_on_share,
    calibrate_scores,
    is_calibration,
    joint_threshold,
    pictures_needed,
    threshold_for,
)
from reporting.descriptions import describe_groups
from reporting.lettering import write_text
from reporting.score_pictures import PictureSettings, score_pictures, take_in

CONTRAST = 60  # grey levels, of the painted squares
GROUPS = {"bottle": (40, 50), "瓶盖": (60, 36)}  # (height, width)
TOP = 9  # pixels whose mean is a picture's score


def draw(generator, size, channels):
    """(H, W, C) uint8: grey with noise."""
    return np.rint(generator.normal(100, 4, (*size, channels))).astype(np.uint8)


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_image(path, pixels))


def write_groups(root, channels=1, good=3, bad=2):
    for name, size in GROUPS.items():
        generator = np.random.default_rng(len(name))
        for number in range(good):
            write(root / name / "test/good" / f"{number}.png", draw(generator, size, channels))
        for number in range(bad):
            image, mask = draw(generator, size, channels), np.zeros(size, np.uint8)
            image[20:26, 10:16] += np.uint8(CONTRAST)
            mask[20:26, 10:16] = 255
            write(root / name / "test/凹痕" / f"{number}.png", image)
            write(root / name / "ground_truth/凹痕" / f"{number}_mask.png", mask)
    return root


def predict(image):
    """How far a pixel is from the picture's grey; the score is the mean of the TOP highest."""
    levels = image.mean(axis=0)
    heatmap = np.float32(np.abs(levels - np.median(levels)) / 255)
    score = float(np.sort(heatmap.ravel())[-TOP:].mean())
    output = np.full(levels.shape, np.median(levels), np.uint8)
    return ScoredHeatmap(heatmap, score, {"output": output})


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    return write_groups(tmp_path_factory.mktemp("pictures") / "groups")


@pytest.fixture(scope="module")
def scored(groups, tmp_path_factory):
    """A folder that was scored, at a threshold set on its good pictures."""
    settings = PictureSettings(output_dir=tmp_path_factory.mktemp("scored"), candidates=2)
    intake = take_in(groups, settings)
    good = good_strips(intake.verification.usable)
    calibration = calibrate_on(predict, good, 255.0, IgnoredRegions(), read_picture)
    threshold = threshold_for(calibration, 0.2, "set here")

    def write_more(result):
        scores = [f"{each.score:.4f}" for each in result.results]
        (settings.output_dir / "submission.csv").write_text("\n".join(scores))

    more = {"write_more": write_more, "more_tables": ["submission.csv"]}
    code = score_pictures(predict, "model.pth", intake, threshold, settings, {"a": "1"}, **more)
    assert code == 0
    return settings.output_dir


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_verdicts_go_by_score_and_a_picture_that_is_ok_has_no_detections(scored):
    rows = rows_of(scored / "scores.csv")
    columns = ["file", "group", "kind", "score", "verdict", "detections", "reason"]
    assert list(rows[0]) == columns and len(rows) == 10
    assert rows[0]["file"] == "bottle/test/good/0.png" and rows[0]["group"] == "bottle"
    assert {row["verdict"] for row in rows if row["kind"] == "凹痕"} == {"NG"}
    # of six good pictures, a fifth at most
    assert [row["verdict"] for row in rows if row["kind"] == "good"].count("NG") == 1
    for row in rows:
        assert row["reason"] == ("score" if row["verdict"] == "NG" else "")
        assert (int(row["detections"]) > 0) == (row["verdict"] == "NG")


def test_tables_have_one_contrast_against_the_surroundings(scored):
    detections = [row for row in rows_of(scored / "detections.csv") if "凹痕" in row["file"]]
    assert "contrast" in detections[0] and not any("ref" in name for name in detections[0])
    hits = [row for row in detections if row["status"] == "hit"]
    assert len(hits) == 4
    # the 3x3 pixels around a corner of the square are not all defective
    assert all(CONTRAST / 3 < float(row["contrast"]) < CONTRAST + 8 for row in hits)
    assert "contrast" in rows_of(scored / "candidates.csv")[0]
    content = json.loads((scored / "detections.json").read_text())
    named = content["strips"]["瓶盖/test/凹痕/0.png"]
    assert named["verdict"] == "NG" and "contrast" in named["detections"][0]


def test_metrics_are_given_over_all_for_each_group_and_as_their_mean(scored):
    metrics = json.loads((scored / "metrics.json").read_text())
    assert metrics["image_auroc"] == 1 and metrics["threshold"]["target"] == 0.2
    assert list(metrics["groups"]) == list(GROUPS)
    for group in metrics["groups"].values():
        assert group["pictures"] == 5 and group["image_auroc"] == 1 and group["escaped"] == 0
        assert group["verdicts"]["NG"] == 2 + group["overkill"]
        assert 0.5 < group["pixel_aupro_0.3"] <= 1
    overlap = [group["pixel_aupro_0.3"] for group in metrics["groups"].values()]
    assert metrics["mean_over_groups"]["pixel_aupro_0.3"] == pytest.approx(np.mean(overlap))


def test_the_panels_are_the_picture_those_of_the_predictor_and_the_heatmap(scored):
    for group, (height, width) in GROUPS.items():
        path = scored / group / "test/凹痕/0_panels.png"
        sheet = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
        assert sheet.shape[1] == 6 + 3 * (width + 6) and sheet.shape[0] > height
        output = sheet[-6 - height : -6, 6 + width + 6 :][:, :width]
        assert abs(float(np.median(output)) - 100) <= 1


@pytest.mark.skipif(not hasattr(cv2, "FontFace"), reason="OpenCV 4 has Latin letters alone")
def test_chinese_names_are_written_into_pictures_and_not_as_boxes():
    drawn = [np.zeros((30, 40, 3), np.uint8) for _ in range(3)]
    for sheet, letter in zip(drawn, "織布?"):
        write_text(sheet, letter, 5, 20)
        assert sheet.any()
    for first, second in ((0, 1), (0, 2), (1, 2)):  # a box for a missing letter is always the same
        assert (drawn[first] != drawn[second]).any()


def test_opencv_4_takes_a_font_of_the_system_for_other_letters_or_leaves_them_out(monkeypatch):
    monkeypatch.delattr(cv2, "FontFace", raising=False)
    drawn = [np.zeros((30, 40, 3), np.uint8) for _ in range(3)]
    for sheet, letter in zip(drawn, "жЩ?"):  # letters that the font of matplotlib has
        write_text(sheet, letter, 5, 20)
        assert sheet[5:24].any() and not sheet[26:].any()
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert (drawn[first] != drawn[second]).any()
    sheet = np.zeros((30, 40, 3), np.uint8)
    write_text(sheet, "\U000f1234?", 5, 20)  # a letter that no font has
    assert (sheet == drawn[2]).all()


def test_the_report_speaks_of_pictures_and_shows_the_groups(scored):
    page = (scored / "report.html").read_text(encoding="utf-8")
    shown = re.sub(r"<(style|script).*?</\1>|<[^>]*>", "", page, flags=re.DOTALL)
    for text in ("10 pictures:", "Figures of each group", "瓶盖", "mean over groups", "model.pth"):
        assert text in shown
    assert "picture, output, heatmap" in shown
    assert "contrast +" in shown and "Ref1" not in shown
    assert not re.findall(r"\bstrips?\b", shown)
    table = page[page.index('<table id="strips">') :]
    head, body = table.split("</thead>")[0], table.split("<tbody>")[1].split("</tr>")[0]
    columns = len(re.findall("<th(?! colspan)[ >]", head))
    assert columns == body.count("<td") == head.count("<col ") + head.count("<col>")
    assert (scored / "submission.csv").read_text().count("\n") == 9


def test_the_report_says_that_kinds_have_thresholds_of_their_own(groups, scored, tmp_path):
    note = "in the verdicts each kind of picture has its own"
    assert note not in (scored / "report.html").read_text(encoding="utf-8")
    settings = PictureSettings(output_dir=tmp_path, pictures_per_kind=0)

    def strict(image):
        return replace(predict(image), threshold=0.0)

    threshold = ScoreThreshold(0.9, "as given")
    assert score_pictures(strict, "m", take_in(groups, settings), threshold, settings, {}) == 0
    assert {row["verdict"] for row in rows_of(tmp_path / "scores.csv")} == {"NG"}
    assert note in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_colour_pictures_are_scored_and_cropped_in_colour(tmp_path):
    root = write_groups(tmp_path / "in", channels=3, good=1, bad=1)
    red = np.zeros((*GROUPS["bottle"], 3), np.uint8)
    red[:, :, 2] = 200  # OpenCV's order
    red[5:9, 5:9] = 255
    write(root / "bottle/test/凹痕/1.png", red)
    write(root / "bottle/ground_truth/凹痕/1_mask.png", (red[:, :, 0] > 0).astype(np.uint8))
    result = evaluate(
        predict,
        list_pictures(root),
        rules=Rules(ScoreThreshold(0.0, "as given"), verdict_by_score=True),
        load=read_picture,
    )
    assert not result.problems
    case = next(case for case in result.worst_cases.hits if case.file.endswith("凹痕/1.png"))
    picture, output, heatmap = case.crops
    assert tuple(picture[-1, -1]) == (200, 0, 0) and output.ndim == heatmap.ndim == 2
    assert result.worst_cases.captions == ("picture", "output")


def test_a_bad_picture_among_many_is_a_problem_and_none_usable_an_error(tmp_path, capsys):
    root = write_groups(tmp_path / "in", good=1, bad=1)
    write(root / "bottle/test/good/alpha.png", np.zeros((9, 9, 4), np.uint8))
    settings = PictureSettings(output_dir=tmp_path / "out")
    threshold = ScoreThreshold(0.5, "as given")
    intake = take_in(root, settings)
    assert score_pictures(predict, "model", intake, threshold, settings, {}) == 1
    seen = capsys.readouterr()
    assert "alpha.png: found 4 channels" in seen.err and "4 of 5 pictures scored" in seen.out
    with pytest.raises(UserError, match="among the pictures of"):
        take_in(root, PictureSettings(output_dir=root / "out"))
    write(tmp_path / "none/bad.png", np.zeros((9, 9), np.uint8))
    colour = PictureSettings(output_dir=tmp_path / "out", channels=Channels.COLOUR)
    with pytest.raises(UserError, match=r"none of 1 pictures could be used; .* expected colour"):
        take_in(tmp_path / "none", colour)


def test_a_score_that_is_no_probability_is_refused(groups):
    broken = lambda image: ScoredHeatmap(predict(image).heatmap, float("nan"))  # noqa: E731
    result = evaluate(broken, list_pictures(groups)[:1], load=read_picture)
    assert "found a score of nan, expected 0 to 1" in result.problems[0]


def test_the_contrast_of_a_picture_is_that_against_its_surroundings():
    image = np.full((3, 40, 40), 50, np.float32)
    image[:, 19:22, 19:22] += np.array([10, 20, 30], np.float32)[:, None, None]
    assert contrasts_at(image, np.array([[20, 20]]), has_references=False).tolist() == [[20, 20]]
    heatmap = np.zeros((40, 40), np.float32)
    heatmap[20, 20] = 0.9
    (found,) = detect(heatmap, image, 0.5, has_references=False)
    assert found.contrast == 20 and found.is_bright
    assert detect(heatmap, image[:1], 0.5, polarity="dark", has_references=False) == []
    mask = heatmap > 0
    assert defects_in_mask(mask, image[:1], has_references=False)[0][0].contrast == 10


def test_a_score_threshold_is_set_for_a_share_of_good_pictures():
    scores = np.linspace(0.2, 0.7, 101).tolist()
    calibration = calibrate_scores(scores)
    assert is_calibration(calibration)
    threshold = threshold_for(calibration, 0.05, "here")
    assert isinstance(threshold, ScoreThreshold)
    above = sum(score > threshold.value for score in scores)
    assert above == 5 and threshold.rate == above / 101
    assert threshold.bound == threshold.share_bound == bound_on_share(5, 101)
    assert "5.0% of 101 good pictures are NG" in threshold.describe()
    assert threshold.is_supported and not threshold.doubts()
    few = threshold_for(calibrate_scores(scores[:20]), 0.05, "here")
    assert not few.is_supported and f"expected at least {pictures_needed(0.05)}" in few.doubts()[0]
    with pytest.raises(ValueError, match="share between 0 and 1"):
        threshold_for(calibration, 1.0, "here")


@pytest.mark.parametrize("target", [0.01, 0.05, 0.1, 0.3])
def test_the_pictures_that_are_needed_are_the_fewest_that_support_a_share(target):
    needed = pictures_needed(target)
    assert bound_on_share(0, needed) <= target < bound_on_share(0, needed - 1)


def test_the_bound_holds_on_fresh_good_pictures():
    """The share of all good pictures above the threshold is within its bound 95 % of the time."""
    generator, held, draws = np.random.default_rng(0), 0, 400
    for _ in range(draws):
        calibration = calibrate_scores(np.sort(generator.random(80)).tolist())
        threshold = threshold_for(calibration, 0.05, "here")
        held += 1 - threshold.value <= threshold.share_bound  # scores are uniform
    assert held >= 0.93 * draws


@pytest.mark.parametrize("pictures", [[8] * 9, [40, 12, 5], [60, 60]], ids=str)
def test_the_bound_on_several_thresholds_together_holds_on_fresh_good_pictures(pictures):
    """Each kind has a threshold of its own, set on few pictures; kinds are as frequent as there."""
    generator, held, pooled, draws = np.random.default_rng(1), 0, 0, 300
    for _ in range(draws):
        scores = [generator.random(count) for count in pictures]
        own = [threshold_for(calibrate_scores(part.tolist()), 0.05, "here") for part in scores]
        together = joint_threshold(own, 0.9, "here")
        share = np.average([1 - each.value for each in own], weights=pictures)
        held += share <= together.share_bound
        found = sum((part > each.value).sum() for part, each in zip(scores, own))
        assert together.rate == pytest.approx(found / sum(pictures))
        pooled += share <= bound_on_share(found, sum(pictures))
    assert 0.93 * draws <= held
    # what one threshold on as many pictures would prove does not hold for the highest of few
    assert pictures != [8] * 9 or pooled < 0.6 * draws


def test_thresholds_of_several_kinds_are_as_well_supported_as_the_weakest():
    scores = np.random.default_rng(2).random(100).tolist()
    enough, few = (
        threshold_for(calibrate_scores(part), 0.05, "here") for part in (scores, scores[:12])
    )
    assert joint_threshold([enough, enough], 0.9, "here").is_supported
    together = joint_threshold([enough, few], 0.9, "here")
    assert together.strips == 112 and not together.is_supported
    needed = f"expected at least {pictures_needed(0.05)} of each kind"
    assert "12 of one kind" in together.describe() and needed in together.describe()
    assert "rests on 12 good pictures of one kind" in together.doubts()[0]


def test_a_folder_with_too_many_good_pictures_ng_is_contradicted(groups):
    rules = Rules(ScoreThreshold(0.0, "here", 100, 0.05, 0.05, 0.1, 0.1), verdict_by_score=True)
    result = evaluate(predict, list_pictures(groups), rules=rules, load=read_picture)
    assert "found 6 of 6 good pictures NG" in threshold_contradiction(result, rules.threshold)
    assert threshold_contradiction(result, ScoreThreshold(0.0, "as given")) is None


def test_processes_that_share_the_pictures_count_the_groups_together(groups):
    pictures = list_pictures(groups)
    bottles = [picture for picture in pictures if picture.group == "bottle"]
    shares = [bottles[::2], [picture for picture in pictures if picture not in bottles[::2]]]
    parts = [evaluate(predict, share, load=read_picture) for share in shares]
    whole = _gather(parts[0], SimpleNamespace(gather=lambda result: parts))
    expected = evaluate(predict, pictures, load=read_picture)
    assert list(parts[0].groups) == ["bottle"] and list(whole.groups) == list(GROUPS)
    assert whole.figures_by_group == expected.figures_by_group
    assert describe_groups(whole) == describe_groups(expected)


def test_the_lines_on_groups_stand_in_columns_and_name_what_is_not_defined(groups):
    pictures = [
        picture
        for picture in list_pictures(groups)
        if picture.group == "bottle" or picture.kind == "good"
    ]
    title, bottle, cap, mean = describe_groups(evaluate(predict, pictures, load=read_picture))
    assert title.split()[:3] == ["group", "image", "auroc"] and "瓶盖" in cap
    assert cap.split()[1:] == ["-"] * 4 and mean.split()[3:] == bottle.split()[1:]
    assert bottle.index("1.0000") == title.index("image auroc") == mean.index("1.0000")
    assert cap.index("-") == title.index("image auroc") - 2  # two characters of two columns each

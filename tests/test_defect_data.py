"""Labelled pictures of the defect classifier: reading them, and making sets of them."""

import csv
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch

from benchmarks import classifier_data
from classifier.check_data import CHECKS
from classifier.crops import read_crop_facts
from classifier.defect_data import (
    list_labelled,
    order_kinds,
    read_labelled,
    unused_masks,
)
from classifier.dummy_set import (
    CONTRAST,
    CONTRAST_PERCENTILE,
    DEFECTS,
    FEWEST_PIXELS,
    STAIN_CONTRAST,
    draw_picture,
)
from classifier.prepare_defect_data import parse_args, prepare
from classifier.tool import TOOL
from common.errors import UserError
from data.demo_strips import GAIN_SPREAD
from data.folder import list_strips, mask_path
from data.image_files import Channels, encode_image, load_image
from data.write_images import write_mask, write_strip
from evaluation.evaluate import evaluate
from evaluation.predictors import DetectorPredictor
from evaluation.results import Rules
from evaluation.thresholds import Threshold
from ops.classical import classical_detector
from reporting.pictures import StripWriter
from reporting.tables import write_results
from tests.conftest import run, run_module
from training.checkpoint import save_checkpoint

SIZE = (12, 16)


def draw(*seed, channels=1, size=SIZE):
    """(H, W, C) uint8, in OpenCV's order."""
    return np.random.default_rng(seed).integers(0, 255, (*size, channels), dtype=np.uint8)


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_image(path, pixels))
    return path


def spot(size=SIZE):
    mask = np.zeros(size, np.uint8)
    mask[3:6, 4:9] = 1
    return mask


@pytest.fixture
def root(tmp_path):
    """A set of two kinds and good pictures, with a mask of one defective picture in each split."""
    root = tmp_path / "set"
    for place, split in enumerate(("train", "valid", "test")):
        for kind in ("good", "scratch", "凹痕"):
            for number in range(2):
                write(root / split / kind / f"{number}.png", draw(place, len(kind), number))
        write_mask(mask_path(root, split, "scratch", "0"), spot())
    return root


def test_masks_of_every_split_are_found_and_a_good_picture_has_an_empty_one(root):
    for split, folder in (
        ("train", "ground_truth_train"),
        ("valid", "ground_truth_valid"),
        ("test", "ground_truth"),
    ):
        pictures = {
            (picture.kind, picture.path.stem): picture for picture in list_labelled(root, split)
        }
        assert order_kinds(kind for kind, _ in pictures) == ["good", "scratch", "凹痕"]
        assert pictures["scratch", "0"].mask == root / folder / "scratch" / "0_mask.png"
        truths = {key: read_labelled(picture, 255)[1] for key, picture in pictures.items()}
        assert (truths["scratch", "0"] == spot()).all() and not truths["good", "0"].any()
        assert truths["scratch", "1"] is None and not pictures["scratch", "1"].has_truth_mask
        assert pictures["good", "0"].has_truth_mask and unused_masks(root, split) == []


def test_channels_are_those_of_the_file_and_colours_are_red_first(tmp_path):
    folder = tmp_path / "train" / "OK"
    write(folder / "colour.png", draw(1, channels=3))
    for count in (2, 4):
        planes = np.moveaxis(draw(2, channels=count), 2, 0).astype(np.float32)
        write_strip(folder / f"planes_{count}.tiff", planes)
    write(folder / "grey.png", draw(3))
    pictures = {picture.path.stem: picture for picture in list_labelled(tmp_path, "train")}
    assert {picture.kind for picture in pictures.values()} == {"good"}
    colour, _ = read_labelled(pictures["colour"], 255)
    assert (colour == np.moveaxis(draw(1, channels=3)[..., ::-1], 2, 0)).all()
    for count in (2, 4):
        image, _ = read_labelled(pictures[f"planes_{count}"], 255, count)
        assert (image == np.moveaxis(draw(2, channels=count), 2, 0)).all()
    assert read_labelled(pictures["grey"], 255)[0].shape == (1, *SIZE)
    repeated, _ = read_labelled(pictures["grey"], 255, 3)
    assert repeated.shape == (3, *SIZE) and (repeated == draw(3)[..., 0]).all()
    with pytest.raises(UserError, match=r"planes_4.tiff: found 4 channels, expected 3"):
        read_labelled(pictures["planes_4"], 255, 3)
    with pytest.raises(UserError, match=r"colour.png: found 3 channels, expected 1"):
        read_labelled(pictures["colour"], 255, 1)
    with pytest.raises(UserError, match=r"grey.png: found 1 channel, expected 5"):
        read_labelled(pictures["grey"], 255, 5)


def test_bad_pictures_get_one_line(root):
    write(root / "train" / "loose.png", draw(1))
    with pytest.raises(UserError, match=r"loose.png: found a picture without a label"):
        list_labelled(root, "train")
    write(root / "valid" / "scratch" / "0.jpg", draw(1))
    with pytest.raises(UserError, match=r"found another picture of that name"):
        list_labelled(root, "valid")
    with pytest.raises(UserError, match="nowhere: found no such folder"):
        list_labelled(root / "nowhere", "train")
    assert list_labelled(root / "test", "valid") == []
    write_mask(mask_path(root, "test", "scratch", "0"), spot((12, 17)))
    write(root / "test" / "scratch" / "1.png", draw(1).astype(np.uint16) * 200)
    (root / "test" / "凹痕" / "0.png").write_bytes(b"no picture")
    found = {(picture.kind, picture.path.stem): picture for picture in list_labelled(root, "test")}
    for key, words in (
        (("scratch", "0"), r"0_mask.png: found a mask of \(12, 17\), .* like its image$"),
        (("scratch", "1"), r"1.png: found values up to .* needs --input_max 65535"),
        (("凹痕", "0"), r"0.png: found no readable image"),
    ):
        with pytest.raises(UserError, match=words):
            read_labelled(found[key], 255)
    assert read_labelled(found["scratch", "1"], 65535)[0].max() <= 255
    write(root / "test" / "scratch" / "alpha.png", draw(1, channels=4))
    (alpha,) = (p for p in list_labelled(root, "test") if p.path.stem == "alpha")
    with pytest.raises(UserError, match="found 4 channels, the last of them alpha"):
        read_labelled(alpha, 255)
    write_mask(mask_path(root, "train", "scratch", "nobody"), spot())
    (root / "train" / "loose.png").unlink()
    (line,) = unused_masks(root, "train")
    assert "nobody_mask.png: found a mask without" in line


def test_an_axis_of_channels_that_no_file_names_is_the_shorter_one(tmp_path):
    path = tmp_path / "train" / "good" / "a.tiff"
    path.parent.mkdir(parents=True)
    tifffile.imwrite(path, draw(4, channels=5).astype(np.float32), metadata=None)
    (picture,) = list_labelled(tmp_path, "train")
    assert read_labelled(picture, 255)[0].shape == (5, *SIZE)


def command(*words):
    """The exit code of the command."""
    return prepare(parse_args([str(word) for word in words]))


def contents(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_a_dummy_picture_depends_on_its_kind_number_and_seed_alone(tmp_path):
    words = ("--size", 48, "--num_normal", 5)
    for name, more in (("one", (8, 3)), ("two", (8, 3)), ("more", (12, 3)), ("other", (8, 4))):
        count, seed = more
        flags = (*words, "--num_defect", count, "--seed", seed, "--output_dir", tmp_path / name)
        assert command("dummy", *flags) == 0
    one, two, more, other = (contents(tmp_path / name) for name in ("one", "two", "more", "other"))
    assert one == two and one.keys() == other.keys() and not set(one.values()) & set(other.values())
    assert set(one.values()) < set(more.values())
    assert len(one) == 5 + 2 * 8 and "train/good/0000.png" in one
    masked = {
        split: list_labelled(tmp_path / "more", split) for split in ("train", "valid", "test")
    }
    assert {split: len(pictures) for split, pictures in masked.items()} == {
        "train": 7,
        "valid": 5,
        "test": 5,
    }
    for pictures in masked.values():
        for picture in pictures:
            image, mask = read_labelled(picture, 255)
            assert image.shape == (1, 48, 48) and mask.any() == (picture.kind != "good")
    assert command("--check_data", "--data_root", tmp_path / "more") == 0


def test_defects_have_the_contrast_of_their_kind_and_faint_ones_half_of_it():
    contrasts = {kind: [] for kind in DEFECTS}
    for kind, found in contrasts.items():
        for number in range(16):
            strong, mask = draw_picture(kind, number, 96, 5)
            faint, same = draw_picture(kind, number, 96, 5, is_faint=True)
            assert (mask == same).all() and mask.sum() >= FEWEST_PIXELS
            # all random numbers are the same, so that half of the defect is the only difference
            change = 2 * abs(strong.astype(float) - faint)
            found.append(np.percentile(change[mask], CONTRAST_PERCENTILE))
            assert change[~mask].mean() < 0.1 * change[mask].mean()
    low, high = 1 - GAIN_SPREAD, 1 + GAIN_SPREAD
    for kind, found in contrasts.items():
        least, most = STAIN_CONTRAST if kind == "stain" else CONTRAST
        # pixels that end at black or white lose a part
        assert least * low - 2 <= np.percentile(found, 10) and max(found) <= most * high + 2, kind
        assert max(found) - min(found) > (most - least) / 2


def test_brightness_does_not_tell_defective_dummy_pictures_from_good_ones():
    def levels(*kinds):
        return np.array(
            [draw_picture(kind, n, 96, 2)[0].mean() for kind in kinds for n in range(32)]
        )

    good, defective = levels("good"), levels("spot", "scratch")
    wins = (defective[:, None] > good[None]).mean()
    assert 0.3 < wins < 0.7
    # dust that good pictures have, too: a pixel far from its neighbours
    grain = draw_picture("good", 0, 96, 2)[0].astype(np.float32)
    assert (abs(grain - cv2.medianBlur(grain, 3)) > 20).any()


@pytest.fixture
def shots(tmp_path):
    """Defective pictures of two kinds from six boards, one mask in four, and good pictures."""
    for kind, other in (("scratch", 0), ("凹痕", 1)):
        for board in range(6):
            for number in range(2):
                name = f"board{board}_{number}"
                write(tmp_path / "bad" / kind / f"{name}.png", draw(10, other, board, number))
                if number and board % 2:
                    write_mask(tmp_path / "masks" / kind / f"{name}_mask.png", spot())
    for board in range(6):
        for number in range(4):
            name = f"board{board}_{number}.png"
            write(tmp_path / "ok" / f"line{number % 2}" / name, draw(11, board, number))
    return tmp_path


def organize(shots, *more, output="set"):
    flags = ("--defect_images", shots / "bad", "--defect_masks", shots / "masks")
    flags += ("--normal_images", shots / "ok", "--output_dir", shots / output)
    return command("organize", *flags, *more)


def names(root, split, kind):
    return {path.name for path in (root / split / kind).iterdir()}


def test_organized_pictures_are_split_by_kind_the_same_for_the_same_seed(shots):
    assert organize(shots) == organize(shots, output="again") == 0
    assert organize(shots, "--seed", 7, output="other") == 0
    one, again, other = (contents(shots / name) for name in ("set", "again", "other"))
    assert one == again and one != other and len(one) == 24 + 24 + 6
    assert sorted(one.values()) == sorted(other.values())
    counts = {
        (split, kind): len(names(shots / "set", split, kind))
        for split in ("train", "valid", "test")
        for kind in ("good", "scratch", "凹痕")
    }
    assert [counts[split, "scratch"] for split in ("train", "valid", "test")] == [8, 2, 2]
    assert [counts[split, "good"] for split in ("train", "valid", "test")] == [14, 5, 5]
    assert "line1_board0_1.png" in "".join(one)
    masks = [
        picture
        for split in ("train", "valid", "test")
        for picture in list_labelled(shots / "set", split)
        if picture.mask
    ]
    assert len(masks) == 6 and all((read_labelled(p, 255)[1] == spot()).all() for p in masks)
    assert command("--check_data", "--output_dir", shots / "set") == 0


def test_groups_and_copies_stay_on_one_side(shots):
    for number in range(3):  # copies of a board, under other names and in another format
        copy = shots / "bad" / "scratch" / f"board9_{number}.tiff"
        tifffile.imwrite(copy, draw(10, 0, 0, 0)[..., 0])
    assert organize(shots, "--group_by", r"board(\d)") == 0
    boards = {
        split: {
            name.split("board")[1][0]
            for kind in ("good", "scratch", "凹痕")
            for name in names(shots / "set", split, kind)
        }
        for split in ("train", "valid", "test")
    }
    assert sum(map(len, boards.values())) == 7 and all(boards.values())
    (home,) = (split for split, found in boards.items() if "9" in found)
    assert "0" in boards[home]  # the copies' board and that of the original
    assert command("--check_data", "--data_root", shots / "set") == 0


def test_links_are_the_files_themselves(shots):
    assert organize(shots, "--link") == 0
    for path in (shots / "set").rglob("*.png"):
        assert path.stat().st_nlink == 2 or path.is_symlink()


def test_organize_writes_nothing_where_something_is_wrong_or_only_checked(shots, capsys):
    assert organize(shots, "--check_data") == 0 and not (shots / "set").exists()
    write_mask(shots / "masks" / "scratch" / "board0_0_mask.png", spot((12, 17)))
    write_mask(shots / "masks" / "scratch" / "nobody_mask.png", spot())
    (shots / "ok" / "line0" / "board0_0.png").write_bytes(b"no picture")
    write(shots / "ok" / "line1" / "copy.png", draw(10, 0, 3, 1))
    assert organize(shots) == 1 and not (shots / "set").exists()
    rows = dict(re.findall(r"^\| ([^|]+) \| (\d+) \| ", capsys.readouterr().out, re.MULTILINE))
    assert {check for check, count in rows.items() if count != "0" and check in CHECKS} == {
        "masks that do not fit their picture",
        "masks without a picture",
        "files that cannot be read",
        "the same pixels under two labels",
    }


def test_the_check_finds_every_fault_and_writes_nothing(root, capsys):
    write(root / "test" / "good" / "copy.png", draw(0, 4, 0))  # of train/good
    write(root / "test" / "scratch" / "good.png", draw(2, 4, 1))  # of test/good
    write_mask(mask_path(root, "valid", "scratch", "1"), 0 * spot())
    write_mask(mask_path(root, "valid", "good", "1"), spot())
    write_mask(mask_path(root, "valid", "scratch", "0"), spot((5, 5)))
    write_mask(mask_path(root, "train", "scratch", "7"), spot())
    write(root / "train" / "good" / "colour.png", draw(9, channels=3))
    write(root / "train" / "loose.png", draw(9, 9))
    write(root / "train" / "凹痕" / "1.bmp", draw(9, 8))
    write(root / "valid" / "burr" / "1.png", draw(9, 7))
    (root / "valid" / "凹痕" / "0.png").write_bytes(b"")
    before = contents(root)
    assert command("--check_data", "--data_root", root) == 1
    rows = dict(re.findall(r"^\| ([^|]+) \| (\d+) \| ", capsys.readouterr().out, re.MULTILINE))
    assert {check: int(rows[check]) for check in CHECKS} == dict.fromkeys(CHECKS, 1) | {
        "kinds missing in a split": 2
    }
    assert contents(root) == before


def test_a_kind_whose_folders_are_empty_is_a_row_that_every_split_misses(root, capsys):
    for split in ("train", "valid", "test"):
        (root / split / "hole").mkdir()
    assert command("--check_data", "--data_root", root) == 1
    printed = capsys.readouterr().out
    assert "| hole | 0 | 0 | 0 | 0 |" in printed
    assert "| kinds missing in a split | 3 | train has no hole |" in printed


@pytest.mark.parametrize(
    "spoil, words, line",
    [
        (lambda shots: write(shots / "bad" / "a.png", draw(1)), (), "beside folders of kinds"),
        (lambda shots: write(shots / "bad" / "OK" / "a.png", draw(1)), (), "name of a kind"),
        (lambda shots: write(shots / "ok" / "line0" / "board0_0.bmp", draw(1)), (), "of that name"),
        (lambda shots: (shots / "void").mkdir(), ("--defect_masks", "void"), "found no masks"),
        (lambda shots: (shots / "void").mkdir(), ("--normal_images", "void"), "no pictures"),
        (lambda shots: None, ("--defect_images", "nowhere"), "no such folder"),
        (lambda shots: None, ("--group_by", "lot(.)"), r"--group_by: found no 'lot\(.\)' in"),
        (lambda shots: None, ("--group_by", "board"), "--group_by: found 1 group of pictures"),
        (lambda shots: (shots / "set").write_bytes(b""), (), "expected a new folder"),
    ],
)
def test_sources_that_cannot_be_organized_get_one_line(shots, spoil, words, line):
    spoil(shots)
    words = [shots / word if word in ("void", "nowhere") else word for word in words]
    with pytest.raises(UserError, match=line) as caught:
        organize(shots, *words)
    assert "\n" not in str(caught.value)


def test_one_kind_alone_is_refused(shots):
    with pytest.raises(UserError, match="one kind alone, defect, expected two"):
        command(
            *("organize", "--defect_images", shots / "bad" / "scratch"),
            *("--output_dir", shots / "set"),
        )


def test_the_command_runs_as_a_file_from_any_folder_and_as_a_module(root, tmp_path):
    flags = ("--check_data", "--data_root", root)
    done = run("classifier/prepare_defect_data.py", *flags, cwd=tmp_path, genuine=True)
    assert done.returncode == 0 and "| scratch | 2 | 2 | 2 | 3 |" in done.stdout, done.stderr
    assert run_module("classifier.prepare_defect_data", *flags).stdout == done.stdout


@pytest.mark.parametrize(
    "words, line",
    [
        ([], "expected one of organize"),
        (["--check_data"], "or --check_data --data_root ROOT"),
        (["--input_max", "9", "dummy", "--output_dir", "a"], "found flags before dummy"),
        (["--check_data", "dummy", "--output_dir", "a"], "--check_data: found dummy"),
        (["dummy", "--output_dir", "a", "--valid_share", ".5", "--test_share", ".5"], "1 or more"),
        (["dummy", "--output_dir", "a", "--size", "8"], "48 to 1024"),
        (["organize", "--group_by", "("], "expected a regular expression"),
        (["crops", "--output_dir", "a", "--detections", "b"], "expected --detections and --strips"),
        (["crops", "--output_dir", "a", "--from_good", "b"], "either --model_path or --method"),
    ],
)
def test_flags_that_do_not_go_together_are_a_usage_error(words, line, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_args(words)
    assert line in capsys.readouterr().err


@pytest.fixture(scope="module")
def scored(dataset, tmp_path_factory):
    """What a classical detector finds in the strips of the test, in the files of a scoring."""
    output, threshold = tmp_path_factory.mktemp("scored"), Threshold(0.06, "as given")
    predictor = DetectorPredictor(classical_detector("smoothed", 1.0), torch.device("cpu"))
    strips, rules = list_strips(dataset / "test"), Rules(threshold)
    result = evaluate(predictor, strips, rules=rules, on_strip=StripWriter(output, 0))
    write_results(output, result, threshold, [])
    return output


def cut_crops(scored, dataset, output, *more):
    flags = ("--detections", scored / "detections.csv", "--strips", dataset / "test")
    return command("crops", *flags, "--output_dir", output, *more)


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_crops_have_the_detection_in_their_middle_and_its_status_as_label(
    scored, dataset, tmp_path
):
    assert cut_crops(scored, dataset, tmp_path / "crops", "--align", "none", "--size", 24) == 0
    facts = read_crop_facts(tmp_path / "crops")
    assert (facts.size, facts.align) == (24, "none") and read_crop_facts(tmp_path) is None
    rows, detections = table(tmp_path / "crops" / "crops.csv"), table(scored / "detections.csv")
    assert list(rows[0]) == ["crop", "file", "y", "x", "label", "score"]
    meaning = {"hit": "defect", "false alarm": "good"}
    assert [(row["file"], row["y"], row["x"], row["label"]) for row in rows] == [
        (row["file"], row["y"], row["x"], meaning.get(row["status"], "")) for row in detections
    ]
    assert {row["label"] for row in rows} >= {"defect", "good"}
    strips = {load_image(dataset / "test" / row["file"]).tobytes() for row in rows}
    assert len(facts.strips) == len(strips) > 1
    sides = {}
    for row in rows:
        strip, (y, x) = load_image(dataset / "test" / row["file"]), (int(row["y"]), int(row["x"]))
        crop = load_image(tmp_path / "crops" / row["crop"], channels=Channels.ALL)
        assert crop.shape == (4, 24, 24) and (crop[:3, 12, 12] == strip[:, y, x]).all()
        # beyond the edges the edge is repeated
        wide = np.pad(strip, ((0, 0), (24, 24), (24, 24)), mode="edge")
        assert (crop[:3] == wide[:, y + 12 : y + 36, x + 12 : x + 36]).all()
        assert crop[3, 12, 12] == crop[3, 9:16, 9:16].max() > 0.06 * 255
        if row["label"]:
            sides.setdefault(row["file"], set()).add(row["crop"].split("/")[0])
    assert all(len(splits) == 1 for splits in sides.values())
    pictures = [
        picture
        for split in ("train", "valid", "test")
        for picture in list_labelled(tmp_path / "crops", split)
        if picture.kind == "defect"
    ]
    for picture in pictures:
        _, mask = read_labelled(picture, 255, 4)
        assert mask[9:16, 9:16].any()
    previews = {path.stem for path in (tmp_path / "crops" / "previews").rglob("*.png")}
    assert previews == {Path(row["crop"]).stem for row in rows}


def test_references_are_aligned_as_asked(scored, dataset, tmp_path):
    header, *lines = (scored / "detections.csv").read_text().splitlines()
    table_of_one = tmp_path / "detections.csv"
    table_of_one.write_text(
        "\n".join([header, *(li for li in lines if li.startswith("good/strip_0"))])
    )

    def far(align):
        flags = ("--detections", table_of_one, "--strips", dataset / "test", "--heatmaps", scored)
        assert command("crops", *flags, "--output_dir", tmp_path / align, "--align", align) == 0
        crops = [
            load_image(tmp_path / align / row["crop"], channels=Channels.ALL)
            for row in table(tmp_path / align / "crops.csv")
            if row["label"] == "good"
        ]
        return np.mean([abs(crop[0] - crop[1]).mean() for crop in crops])

    assert far("full") < 0.7 * far("none")


def test_labels_come_from_a_reviewed_table_or_from_sorted_previews(
    scored, dataset, tmp_path, capsys
):
    rows = table(scored / "detections.csv")
    reviewed = tmp_path / "reviewed.csv"
    lines = [f"{row['file']},{int(row['y']) + 1},{row['x']},Dust" for row in rows[:2]]
    lines += [f"{rows[2]['file']},{rows[2]['y']},{rows[2]['x']},nuisance", "gone.tiff,1,1,Dust"]
    reviewed.write_text("\n".join(["file,y,x,label", *lines]))
    none = ("--align", "none")
    assert cut_crops(scored, dataset, tmp_path / "one", "--labels", reviewed, *none) == 0
    assert "found 1 rows without a detection" in capsys.readouterr().err
    one = table(tmp_path / "one" / "crops.csv")
    assert [row["label"] for row in one[:3]] == ["Dust", "Dust", "good"]

    unknown = tmp_path / "unknown"
    shutil.copytree(scored, unknown)
    text = re.sub(r",(hit|false alarm|no matter),", ",,", (scored / "detections.csv").read_text())
    (unknown / "detections.csv").write_text(text)
    assert cut_crops(unknown, dataset, tmp_path / "first", *none) == 0
    assert "to label the others, sort" in capsys.readouterr().out
    previews = sorted((tmp_path / "first" / "previews").glob("*.png"))
    assert len(previews) == len(rows) == len(list((tmp_path / "first" / "unlabelled").iterdir()))
    for number, path in enumerate(previews[:-1]):
        folder = path.parent / ("burr" if number % 3 else "OK")
        folder.mkdir(exist_ok=True)
        path.rename(folder / path.name)
    labels = ("--labels", tmp_path / "first" / "previews")
    assert cut_crops(unknown, dataset, tmp_path / "second", *labels, *none) == 0
    second = table(tmp_path / "second" / "crops.csv")
    found = {Path(row["crop"]).stem: row["label"] for row in second}
    assert [found[path.stem] for path in previews] == [
        *("burr" if number % 3 else "good" for number in range(len(previews) - 1)),
        "",
    ]
    assert (tmp_path / "second" / second[-1]["crop"]).parent.name in ("unlabelled", "burr", "good")


def test_good_strips_give_nuisances_and_painted_defects(dataset, tmp_path):
    flags = ("--from_good", dataset / "train" / "good", "--method", "smoothed", "--align", "none")
    flags += ("--target_false_alarms", 4)
    for name in ("one", "two"):
        assert command("crops", *flags, "--output_dir", tmp_path / name) == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    rows = table(tmp_path / "one" / "crops.csv")
    labels = [row["label"] for row in rows]
    assert labels.count("good") == 12 and labels.count("defect") > 12
    strongest = max(rows, key=lambda row: float(row["score"]))
    assert strongest["label"] == "defect"
    for split in ("train", "valid", "test"):
        for picture in list_labelled(tmp_path / "one", split):
            _, mask = read_labelled(picture, 255, 4)
            assert mask.any() == (picture.kind == "defect")


def test_a_network_scores_good_strips_with_its_own_alignment(dataset, make_checkpoint, tmp_path):
    flags = ("--from_good", dataset / "train" / "good", "--align", "none", "--paint", "none")
    flags += ("--target_false_alarms", 2, "--output_dir", tmp_path / "crops")
    assert command("crops", *flags, "--model_path", make_checkpoint()) == 0
    rows = table(tmp_path / "crops" / "crops.csv")
    assert [row["label"] for row in rows] == ["good"] * 6
    crop = load_image(tmp_path / "crops" / rows[0]["crop"], channels=Channels.ALL)
    peak = crop[3, 16, 16] / 255
    assert np.log(peak / (1 - peak)) == pytest.approx(float(rows[0]["score"]), abs=1e-2)


@pytest.mark.parametrize(
    "text, line",
    [
        ("file,y,x\n", "found no detections, expected some"),
        ("file,y\n", "found no column x, expected file, y, x"),
        ("file,y,x\ngood/strip_0.tiff,1,1\n", "line 2: found no column margin or score"),
        ("file,y,x,score\nother.tiff,1,1,2\n", "line 2: found a detection of other.tiff"),
        ("file,y,x,score\ngood/strip_0.tiff,1,nan,2\n", "line 2: found x 'nan'"),
        ("file,y,x,score\ngood/strip_0.tiff,1,150,2\n", r"expected one inside \(200, 150\)"),
    ],
)
def test_detections_that_do_not_fit_get_one_line(text, line, scored, dataset, tmp_path):
    path = tmp_path / "detections.csv"
    path.write_text(text)
    flags = ("--detections", path, "--strips", dataset / "test", "--heatmaps", scored)
    with pytest.raises(UserError, match=line):
        command("crops", *flags, "--output_dir", tmp_path / "crops", "--align", "none")
    assert not (tmp_path / "crops").exists()


def test_crops_need_the_heatmaps_fitting_labels_and_a_strip_detector(scored, dataset, tmp_path):
    for words, line in (
        (("--heatmaps", tmp_path), r"strip_\d_heatmap.tiff: found no heatmap"),
        (("--labels", tmp_path / "nowhere"), "nowhere: found no such file or folder"),
        (("--labels", tmp_path), "found no previews in folders"),
        (("--labels", scored / "scores.csv"), "found no column y"),
    ):
        with pytest.raises(UserError, match=line):
            cut_crops(scored, dataset, tmp_path / "crops", *words)
    other = write(tmp_path / "sorted" / "good" / "99999_other.png", draw(1))
    with pytest.raises(UserError, match=r"99999_other\.png, expected previews of these"):
        cut_crops(scored, dataset, tmp_path / "crops", "--labels", other.parent.parent)
    model = tmp_path / "model.pth"
    save_checkpoint(model, {"tool": TOOL, "model_state_dict": {}})
    flags = ("--from_good", dataset / "train" / "good", "--output_dir", tmp_path / "crops")
    with pytest.raises(UserError, match=r"model\.pth: found a model of the defect classifier"):
        command("crops", *flags, "--model_path", model)


@pytest.fixture
def boards(tmp_path):
    """Two groups of six boards in DeepPCB's layout, each with two defects."""
    for group in ("00041", "20085"):
        folder = tmp_path / "PCBData" / f"group{group}"
        (folder / f"{group}_not").mkdir(parents=True)
        for number in range(6):
            name = f"{group}{number:03}"
            cells = np.random.default_rng((int(group), number)).random((20, 20)) > 0.5
            template = np.kron(cells, np.ones((8, 8))).astype(np.uint8)[..., None] * 255
            board = template.copy()
            board[20:28, 40:52] = 255 - board[20:28, 40:52]
            board[0:6, 150:160] = 255 - board[0:6, 150:160]
            write(folder / group / f"{name}_temp.jpg", template)
            write(folder / group / f"{name}_test.jpg", board)
            boxes = folder / f"{group}_not" / f"{name}.txt"
            boxes.write_text("38 18 54 30 3\n150 0 160 6 6\n")
    return tmp_path / "PCBData"


def test_deeppcb_is_split_by_groups_of_boards(boards, tmp_path):
    flags = ("--source", boards, "--size", 32)
    for group in ("00041", "20085"):
        root = tmp_path / group
        assert command("deeppcb", *flags, "--test_groups", group, "--output_dir", root) == 0
        for split in ("train", "valid", "test"):
            pictures = list_labelled(root, split)
            assert {picture.kind for picture in pictures} == {"mousebite", "pin-hole"}
            assert all(
                (picture.path.name[:5] == group) == (split == "test") for picture in pictures
            )
            for picture in pictures:
                image, mask = read_labelled(picture, 255, 2)
                differs = abs(image[0] - image[1]) > 128
                assert image.shape == (2, 32, 32) and mask[16, 16] and differs[mask].mean() > 0.9
    with pytest.raises(UserError, match="--test_groups: found 7, expected some of 00041, 20085"):
        command("deeppcb", *flags, "--test_groups", 7, "--output_dir", tmp_path / "set")
    next(boards.glob("*/*_not/*.txt")).write_text("1 2 3 4 7\n")
    with pytest.raises(UserError, match="found the type 7, expected 1 to 6"):
        command("deeppcb", *flags, "--output_dir", tmp_path / "set")


def test_the_benchmark_takes_boards_with_their_templates_or_alone(boards, tmp_path):
    both, alone = (
        classifier_data.boards(boards, tmp_path, "00041", has_template) for has_template in (1, 0)
    )
    for split in ("train", "valid", "test"):
        pairs = list(zip(list_labelled(both, split), list_labelled(alone, split), strict=True))
        assert pairs
        for picture, grey in pairs:
            assert (picture.kind, picture.path.stem) == (grey.kind, grey.path.stem)
            image, mask = read_labelled(picture, 255, 2)
            board, same_mask = read_labelled(grey, 255, 1)
            assert np.array_equal(image[:1], board) and np.array_equal(mask, same_mask)

import os

import numpy as np
import pytest

from common.errors import UserError
from data import verify
from data.folder import list_strips, split_beside
from data.image_files import load_and_count
from data.listing import list_images
from data.verify import VerifiedFiles, verify_strips

GOOD = np.full((3, 150, 140), 100, np.float32)


def test_the_layout_gives_kinds_and_masks(dataset):
    strips = list_strips(dataset / "test")
    assert [strip.relative.as_posix() for strip in strips] == [
        "bright_spots/strip_2.tiff",
        "bright_spots/strip_3.tiff",
        "good/strip_0.tiff",
        "good/strip_1.tiff",
    ]
    assert [strip.is_defective for strip in strips] == [True, True, False, False]
    assert strips[0].mask == dataset / "ground_truth" / "bright_spots" / "strip_2_mask.png"
    assert strips[2].mask is None
    assert all(strip.mask is None for strip in list_strips(dataset / "test", use_masks=False))


def test_one_kind_alone_is_known_too(dataset):
    strips = list_strips(dataset / "valid" / "bright_spots")
    assert [(strip.kind, strip.mask.parent.parent.name) for strip in strips] == [
        ("bright_spots", "ground_truth_valid")
    ] * 2


def test_strips_outside_of_the_layout_have_no_kind(strip_file, tmp_path):
    strip_file(GOOD)
    assert [(strip.kind, strip.is_defective, strip.mask) for strip in list_strips(tmp_path)] == [
        (None, None, None)
    ]


def test_valid_and_test_are_looked_up_only_beside_train_good(dataset):
    assert split_beside(dataset / "train" / "good", "valid") == dataset / "valid"
    assert split_beside(dataset / "train", "valid") is None
    assert split_beside(dataset / "test" / "good", "valid") is None


def test_linked_folders_are_walked_once_and_broken_links_are_errors(tmp_path, strip_file):
    strip_file(GOOD, "elsewhere/b.tiff")
    strip_file(GOOD, "strips/a.tiff")
    (tmp_path / "strips" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "strips")
    (tmp_path / "strips" / "broken.tiff").symlink_to(tmp_path / "nowhere.tiff")
    strips = list_strips(tmp_path / "strips")
    assert [strip.relative.as_posix() for strip in strips] == [
        "a.tiff",
        "broken.tiff",
        "linked/b.tiff",
    ]
    verification = verify_strips(strips, 255, 128)
    assert (
        len(verification.usable) == 2
        and "broken.tiff: found no readable image (No such file" in verification.problems[0]
    )


def test_folders_without_images_are_refused(tmp_path, strip_file):
    with pytest.raises(UserError, match="no such path"):
        list_images(tmp_path / "missing")
    with pytest.raises(UserError, match=r"found no images, expected files ending in \.tif"):
        list_images(tmp_path)
    path = strip_file(GOOD)
    with pytest.raises(UserError, match="a file, expected a folder"):
        list_images(path)
    with pytest.raises(UserError, match=r"\.png, \.jpg"):
        list_images(tmp_path, "png_jpg")
    (tmp_path / "picture.png").write_bytes(b"")
    with pytest.raises(UserError, match="several formats"):
        list_images(tmp_path)
    assert list_images(tmp_path, "tiff") == [path]


def test_every_bad_file_is_named_and_the_others_are_usable(tmp_path, strip_file):
    for number in range(3):
        strip_file(GOOD, f"good_{number}.tiff")
    strip_file(GOOD[:, :, :135], "narrow.tiff")
    strip_file(GOOD[:, :120], "small.tiff")
    strip_file(GOOD * np.nan, "nan.tiff")
    (tmp_path / "text.tiff").write_text("no image")
    verification = verify_strips(list_strips(tmp_path), 255, 128)
    assert verification.image_size == (150, 140)
    assert [strip.path.name for strip in verification.usable] == [
        "good_0.tiff",
        "good_1.tiff",
        "good_2.tiff",
    ]
    problems = {problem.split(": ")[0].split("/")[-1]: problem for problem in verification.problems}
    assert set(problems) == {"narrow.tiff", "small.tiff", "nan.tiff", "text.tiff"}
    assert "(150, 135) (height, width), expected (150, 140)" in problems["narrow.tiff"]
    assert "120 pixels" in problems["small.tiff"] and "at least 128" in problems["small.tiff"]


def test_a_size_that_is_asked_for_beats_the_usual_one(tmp_path, strip_file):
    strip_file(GOOD)
    verification = verify_strips(list_strips(tmp_path), 255, image_size=(976, 176))
    assert not verification.usable and "expected (976, 176)" in verification.problems[0]


def test_a_data_set_of_the_range_0_to_1_is_refused_and_a_dark_strip_is_not(tmp_path, strip_file):
    strip_file(GOOD / 255, "first.tiff")
    with pytest.raises(UserError, match="--input_max 1"):
        verify_strips(list_strips(tmp_path), 255, 128)
    assert verify_strips(list_strips(tmp_path), 1, 128).usable
    strip_file(GOOD, "second.tiff")
    assert len(verify_strips(list_strips(tmp_path), 255, 128).usable) == 2


def test_masks_that_are_wrong_or_missing_are_problems(tmp_path, strip_file):
    for name in ("right", "wrong", "missing"):
        strip_file(GOOD, f"test/scratch/{name}.tiff")
    strip_file(np.zeros((150, 140), np.uint8), "ground_truth/scratch/right_mask.tif")
    strip_file(np.zeros((140, 150), np.uint8), "ground_truth/scratch/wrong_mask.tif")
    verification = verify_strips(list_strips(tmp_path / "test"), 255, 128)
    assert [strip.path.name for strip in verification.usable] == ["right.tiff"]
    assert "missing.tiff: found no mask missing_mask" in verification.problems[0]
    assert (
        "wrong_mask.tif: found a mask of (140, 150), expected (150, 140)"
        in verification.problems[1]
    )


def test_what_was_good_and_has_not_changed_is_not_read_again(tmp_path, strip_file, monkeypatch):
    paths = [strip_file(GOOD, f"test/scratch/{name}.tiff") for name in "abc"]
    for name in "abc":
        strip_file(np.zeros((150, 140), np.uint8), f"ground_truth/scratch/{name}_mask.tif")
    bad = tmp_path / "test" / "scratch" / "bad.tiff"
    bad.write_text("no image")
    strips, memory = list_strips(tmp_path / "test"), tmp_path / "memory.json"
    read = []
    monkeypatch.setattr(
        verify,
        "load_and_count",
        lambda path, *more, **named: read.append(path) or load_and_count(path, *more, **named),
    )

    def look(input_max=255.0):
        read.clear()
        good_files = VerifiedFiles(memory)
        found = verify_strips(strips, input_max, 128, good_files=good_files)
        good_files.save()
        return found, len(good_files.unchanged)

    (first, unchanged_first), (again, unchanged_again) = look(), look()
    assert unchanged_first == 0 and unchanged_again == 6 and read == [bad]
    assert (again.usable, again.problems, again.image_size) == (
        first.usable,
        first.problems,
        first.image_size,
    )
    os.utime(paths[0], ns=(1, 1))
    look()
    assert sorted(read) == sorted([paths[0], bad])
    look(input_max=300.0)
    assert len(read) == 4
    memory.write_text("[damaged")
    assert look()[1] == 0 and len(read) == 4


def test_names_that_differ_only_in_the_suffix_are_problems(tmp_path, strip_file):
    strip_file(GOOD, "a.tif")
    strip_file(GOOD, "a.tiff")
    strip_file(GOOD, "b.tiff")
    verification = verify_strips(list_strips(tmp_path), 255, 128)
    assert [strip.path.name for strip in verification.usable] == ["b.tiff"] and len(
        verification.problems
    ) == 2

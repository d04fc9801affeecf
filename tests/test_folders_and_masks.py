"""Folders and masks as people have them: what is found, what is left out, and what is refused."""

import os
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from common.errors import UserError
from data.folder import (
    describe_kinds,
    list_strips,
    require_good_only,
    require_one_split,
    split_beside,
    truth_without_strip,
)
from data.ignored_regions import IgnoredRegions
from data.image_files import load_image
from data.labelled_strip import read_strip
from data.listing import list_images
from data.masks import load_mask
from data.splits import find_dataset
from data.verify import verify_strips
from inference_pytorch import infer, parse_args

SIZE = (130, 140)
MARKS = np.zeros(SIZE, np.uint8)
MARKS[60:65, 40:45] = MARKS[100:105, 120:125] = 255  # 50 pixels
STRIP = np.full((3, *SIZE), 90, np.uint8)


def write(path: Path, pixels: np.ndarray) -> Path:
    """A strip (3, H, W) or a mask (H, W) as the file that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels.ndim == 3:
        tifffile.imwrite(path, pixels, photometric="minisblack")
    else:
        cv2.imwrite(str(path), pixels)
    return path


def make_split(root: Path, kinds: tuple[str, ...] = ("good", "bright"), count: int = 2) -> Path:
    for kind in kinds:
        for number in range(count):
            write(root / kind / f"{number}.tif", STRIP)
    return root


LAYOUTS = (
    "ground_truth/bright/{n}_mask.png",
    "ground_truth/bright/{n}.png",
    "ground_truth/bright/{n}_MASK.PNG",
    "ground_truth/bright/{n}_gt.png",
    "ground_truth/bright/{n}_label.bmp",
    "ground_truth/bright/{n}-mask.tif",
    "ground_truth/bright/{n}.tif.png",
    "ground_truth/bright/{n}/000.png",
    "groundtruth/Bright/{n}_mask.png",
    "Masks/bright/{n}_mask.png",
    "masks/{n}.png",
    "gt/test/bright/{n}.png",
    "ground_truth_test/bright/{n}_mask.png",
    "test/bright/{n}_mask.png",
    "test/bright/masks/{n}.png",
    "test/ground_truth/bright/{n}.png",
)


@pytest.mark.parametrize("pattern", LAYOUTS)
def test_masks_are_found_by_their_usual_names(tmp_path, pattern):
    test = make_split(tmp_path / "test")
    for number in range(2):
        write(tmp_path / pattern.format(n=number), np.roll(MARKS, number, axis=0))
    bright, good = list_strips(test)[:2], list_strips(test)[2:]
    assert [strip.relative.as_posix() for strip in bright] == ["bright/0.tif", "bright/1.tif"]
    for number, strip in enumerate(bright):
        _, mask = read_strip(strip, 255)
        assert np.array_equal(mask, np.roll(MARKS, number, axis=0) > 0)
    assert [strip.mask for strip in good] == [None, None] and truth_without_strip(test) == []


@pytest.mark.parametrize("name", ["ground_truth_valid", "val_masks", "masks/val", "gt/Valid"])
def test_masks_of_the_validation_split_are_its_own(tmp_path, name):
    for split in ("val", "test"):
        make_split(tmp_path / split, count=1)
    write(tmp_path / name / "bright" / "0_mask.png", MARKS)
    write(tmp_path / "masks" / "bright" / "0_mask.png", np.roll(MARKS, 5))
    found = [list_strips(tmp_path / split)[0].mask for split in ("val", "test")]
    assert found == [tmp_path / name / "bright/0_mask.png", tmp_path / "masks/bright/0_mask.png"]


def test_the_masks_in_a_folder_of_their_strip_count_together(tmp_path):
    test = make_split(tmp_path / "test", count=1)
    write(
        tmp_path / "ground_truth/bright/0/000.png", np.where(np.arange(130)[:, None] < 80, MARKS, 0)
    )
    write(
        tmp_path / "ground_truth/bright/0/001.png", np.where(np.arange(130)[:, None] < 80, 0, MARKS)
    )
    strip = verify_strips(list_strips(test), 255).usable[0]
    assert len(strip.masks) == 2 and read_strip(strip, 255)[1].sum() == 50


def test_every_mask_that_is_not_used_is_named_and_none_goes_to_another_kind(tmp_path):
    test = make_split(tmp_path / "test", ("good", "bright", "dark"), count=1)
    used = write(tmp_path / "ground_truth/bright/0_mask.png", MARKS)
    unused = [
        write(tmp_path / "ground_truth" / name, MARKS)
        for name in ("bright/0_gt.png", "bright/7.png", "scratch/0_mask.png", "notes.png", "0.png")
    ]
    strips = list_strips(test)
    assert [strip.mask for strip in strips] == [used, None, None]
    assert {line.split(": ")[0] for line in truth_without_strip(test)} == set(map(str, unused))


def palette(background: tuple[int, int, int], index: int):
    def save(path: Path) -> None:
        image = Image.fromarray(np.where(MARKS > 0, 1 - index, index).astype(np.uint8), "P")
        colours = [0] * 768
        colours[3 * index : 3 * index + 3] = background
        colours[3 * (1 - index) : 3 * (1 - index) + 3] = [255, 0, 0]
        image.putpalette(colours)
        image.save(path)

    return save


MASK_FILES = {
    "plain.bmp": lambda path: cv2.imwrite(str(path), MARKS),
    "one_bit.tif": lambda path: Image.fromarray(MARKS).convert("1").save(path),
    "white_is_zero.tif": lambda path: tifffile.imwrite(path, 255 - MARKS, photometric="miniswhite"),
    "white_is_zero_one_bit.tif": lambda path: tifffile.imwrite(
        path, MARKS == 0, photometric="miniswhite"
    ),
    "white_background.png": palette((255, 255, 255), 0),
    "white_background_last.png": palette((255, 255, 255), 1),
    "black_background.png": palette((0, 0, 0), 1),
    "palette.tif": palette((0, 0, 0), 1),
    "opacity.png": lambda path: Image.fromarray(
        np.dstack([np.full((*SIZE, 3), 255, np.uint8), MARKS])
    ).save(path),
    "black_on_nothing.png": lambda path: Image.fromarray(
        np.dstack([np.zeros((*SIZE, 3), np.uint8), MARKS])
    ).save(path),
    "labels.png": lambda path: cv2.imwrite(str(path), np.where(MARKS > 0, 2, 0).astype(np.uint8)),
    "opaque.png": lambda path: cv2.imwrite(str(path), np.dstack([MARKS] * 3 + [MARKS * 0 + 255])),
}


@pytest.mark.parametrize("name", MASK_FILES)
def test_masks_are_read_as_they_look(tmp_path, name):
    MASK_FILES[name](tmp_path / name)
    assert np.array_equal(load_mask(tmp_path / name, SIZE), MARKS > 0)


def test_inverted_and_faint_masks_are_refused_with_a_question(tmp_path):
    with pytest.raises(UserError, match=r"inverted.png: found a mask that marks 100% .*inverted\?"):
        load_mask(write(tmp_path / "inverted.png", 255 - MARKS), SIZE)
    faint = tmp_path / "faint.jpg"
    cv2.imwrite(str(faint), MARKS // 64)
    with pytest.raises(UserError, match=r"faint.jpg: found a JPG mask with values up to"):
        load_mask(faint, SIZE)


def test_a_mask_of_a_defective_strip_that_marks_nothing_is_named(tmp_path, capsys):
    test = make_split(tmp_path / "test", count=1)
    write(tmp_path / "ground_truth/bright/0.png", MARKS * 0)
    verify_strips(list_strips(test), 255)
    assert "bright/0.png: found a mask that marks nothing" in capsys.readouterr().err


def test_a_mask_channel_that_says_what_to_inspect_is_noticed(tmp_path, capsys):
    regions = IgnoredRegions(mask_channel=3)
    everything = write(tmp_path / "all.tif", np.stack([*STRIP, MARKS * 0 + 255]))
    with pytest.raises(UserError, match=r"all.tif: found that channel 3 is not 0 in 100%"):
        regions.of(everything, SIZE)
    most = write(tmp_path / "most.tif", np.stack([*STRIP, 255 - MARKS]))
    assert regions.of(most, SIZE).sum() == SIZE[0] * SIZE[1] - 50
    assert "--mask_channel 3: more than half of a strip is ignored" in capsys.readouterr().err
    inverted = write(tmp_path / "mask.png", MARKS * 0 + 255)
    with pytest.raises(UserError, match=r"mask.png: found no pixel that is 0"):
        IgnoredRegions(ignore_mask=inverted).of(most, SIZE)


@pytest.mark.parametrize(
    "folder, meant",
    [(".", "train/Good"), ("train", "train/Good"), ("test", "test/OK"), ("bad_ones", None)],
)
def test_folders_that_hold_more_than_good_strips_are_not_trained_on(tmp_path, folder, meant):
    make_split(tmp_path / "train", ("Good",))
    make_split(tmp_path / "test", ("OK", "NG"))
    make_split(tmp_path / "bad_ones", ("ng", "monday"))
    with pytest.raises(UserError) as error:
        find_dataset(tmp_path / folder, tmp_path, 128, None, 255, "classic")
    assert (
        f"did you mean {tmp_path / meant}?" in str(error.value)
        if meant
        else "ng/" in str(error.value)
    )


def test_a_training_folder_of_other_names_finds_its_data_set(tmp_path, capsys):
    make_split(tmp_path / "Train", ("Normal",))
    make_split(tmp_path / "Val", ("ok", "NG"))
    unused = write(tmp_path / "masks_val/NG/9.png", MARKS)
    dataset = find_dataset(tmp_path / "Train/Normal", tmp_path, 128, None, 255, "classic")
    assert [strip.is_defective for strip in dataset.valid] == [True, True, False, False]
    printed = capsys.readouterr()
    assert "valid: strips by folder: NG 2 (defective), ok 2 (good)" in printed.out
    assert f"warning: {unused}: found a mask without a strip of its name" in printed.err
    assert split_beside(tmp_path / "Train", "valid") is None  # its strips are not known to be good
    shutil.move(tmp_path / "Train/Normal", tmp_path / "plain/train")
    make_split(tmp_path / "plain/test", ("good",))
    assert split_beside(tmp_path / "plain/train", "test") == tmp_path / "plain/test"
    require_good_only(tmp_path / "plain/train")


def test_good_and_defective_folders_count_as_what_they_say(tmp_path):
    strips = list_strips(make_split(tmp_path / "test", ("Good", "NG", "normal", "OK"), count=1))
    assert [strip.is_defective for strip in strips] == [False, True, False, False]
    assert describe_kinds(strips) == (
        "strips by folder: Good 1 (good), NG 1 (defective), OK 1 (good), normal 1 (good)"
    )
    described = describe_kinds(list_strips(make_split(tmp_path / "other", ("gut", "schlecht"))))
    assert described.startswith("strips by folder: gut 2 (defective), schlecht 2 (defective); none")
    assert "good, ok, normal" in described
    many = list_strips(make_split(tmp_path / "days", tuple(map(str, range(30))), count=1))
    assert describe_kinds(many).count("defective") == 20 and "10 more folders" in (
        describe_kinds(many)
    )


def test_a_whole_data_set_is_not_scored_as_one_folder(tmp_path):
    make_split(tmp_path / "train")
    make_split(tmp_path / "test")
    with pytest.raises(UserError, match=f"test/, train/ in it.*did you mean {tmp_path}/test"):
        require_one_split(tmp_path)
    require_one_split(tmp_path / "test")


def test_what_other_programs_leave_is_left_out_and_said_once(tmp_path, capsys):
    test = make_split(tmp_path / "test", count=1)
    for name in (".ipynb_checkpoints/0-checkpoint.tif", "@eaDir/0.tif", "good/__MACOSX/0.tif"):
        write(test / name, STRIP)
    (test / "good/._0.tif").write_bytes(bytes(4096))
    (test / "good/Thumbs.db").write_bytes(bytes(99))
    for _ in range(2):
        assert [strip.kind for strip in list_strips(test)] == ["bright", "good"]
    said = capsys.readouterr().err
    assert said.count("note:") == 1 and f"{test}: left out what other programs keep there" in said
    assert ".ipynb_checkpoints, @eaDir, good/._0.tif and 1 more" in said


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs another user's folder")
def test_a_folder_that_may_not_be_read_is_an_error():
    with tempfile.TemporaryDirectory() as name:  # the folders of pytest are root's alone
        root = Path(name)
        make_split(root)
        root.chmod(0o755)
        (root / "bright").chmod(0o700)
        os.seteuid(65534)
        try:
            with pytest.raises(UserError, match=r"bright: found a folder that cannot be read"):
                list_strips(root)
        finally:
            os.seteuid(0)


def test_the_thumbnail_before_a_strip_is_not_the_strip(tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    for name, options in (("marked.tif", {"subfiletype": 1}), ("unmarked.tif", {})):
        with tifffile.TiffWriter(tmp_path / name) as tiff:
            tiff.write(pixels[::4, ::4], photometric="rgb", **options)
            tiff.write(pixels, photometric="rgb")
        assert np.array_equal(load_image(tmp_path / name), np.moveaxis(pixels, 2, 0))
    assert capsys.readouterr().err.count("left out all but the largest image") == 1


def test_bmp_strips_are_read_and_cut_ones_refused(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "0.bmp"), pixels)
    assert list_images(tmp_path) == list_images(tmp_path, "png_jpg") == [tmp_path / "0.bmp"]
    assert np.array_equal(load_image(tmp_path / "0.bmp"), np.moveaxis(pixels, 2, 0))
    encoded = (tmp_path / "0.bmp").read_bytes()
    (tmp_path / "0.bmp").write_bytes(encoded[:-500])
    with pytest.raises(UserError, match=r"0.bmp: found no readable image"):
        load_image(tmp_path / "0.bmp")


def test_a_folder_is_scored_by_these_names(tmp_path, capsys):
    test = make_split(tmp_path / "test", ("OK", "NG"), count=1)
    defective = STRIP.astype(np.float32) + np.random.default_rng(0).normal(0, 1, STRIP.shape)
    defective[0][MARKS > 0] += 80
    write(test / "NG/0.tif", defective.astype(np.uint8))
    write(tmp_path / "masks/NG/0.png", MARKS)
    write(tmp_path / "masks/NG/9.png", MARKS)
    flags = ["--method", "smoothed", "--threshold", "0.1", "--gpu_id", "-1"]
    flags += ["--test_path", str(test), "--output_dir", str(tmp_path / "out")]
    assert infer(parse_args(flags)) == 0
    printed = capsys.readouterr()
    assert "strips by folder: NG 1 (defective, 1 with a mask or points), OK 1 (good)" in printed.out
    assert "1.0000 of the true points found" in printed.out
    assert f"warning: {tmp_path}/masks/NG/9.png: found a mask without a strip" in printed.err

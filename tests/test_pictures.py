"""Pictures without references: listing in every layout, reading, and the split of good ones."""

import re

import cv2
import numpy as np
import pytest
import tifffile

from common.errors import UserError
from data.image_files import Channels, encode_image
from data.picture_channels import count_channels
from data.pictures import (
    describe_groups,
    list_good_pictures,
    list_pictures,
    list_test_pictures,
    picture_hash,
    read_picture,
    split_good,
    truth_without_picture,
    verify_pictures,
)

SIZE = (12, 16)


def draw(seed, channels=1, size=SIZE):
    """(H, W, C) uint8, in OpenCV's order."""
    return np.random.default_rng(seed).integers(0, 255, (*size, channels), dtype=np.uint8)


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_image(path, pixels))
    return path


def write_kind(root, seed=0, channels=1, good=3):
    """One kind of object in the layout of MVTec AD; sizes differ."""
    for number in range(good):
        write(root / "train" / "good" / f"{number}.png", draw((seed, number), channels))
        write(root / "test" / "good" / f"{number}.png", draw((seed, 10 + number), channels))
    write(root / "test" / "划痕" / "0.png", draw((seed, 20), channels, (20, 30)))
    mask = np.zeros((20, 30), np.uint8)
    mask[3:6, 4:9] = 255
    write(root / "ground_truth" / "划痕" / "0_mask.png", mask)
    return root


@pytest.fixture
def groups(tmp_path):
    root = tmp_path / "several"
    for seed, name in enumerate(("bottle", "瓶盖")):
        write_kind(root / name, seed)
    return root


def relative(pictures):
    return [picture.relative.as_posix() for picture in pictures]


def test_a_data_set_of_one_kind_gives_its_test_pictures_and_its_good_ones(tmp_path):
    root = write_kind(tmp_path / "bottle")
    pictures = list_pictures(root)
    assert pictures == list_test_pictures(root)
    assert relative(pictures)[::3] == ["test/good/0.png", "test/划痕/0.png"]
    assert {(picture.kind, picture.group) for picture in pictures} == {("good", ""), ("划痕", "")}
    assert pictures[-1].mask == root / "ground_truth" / "划痕" / "0_mask.png"
    assert list_pictures(root, use_masks=False)[-1].mask is None
    assert relative(list_good_pictures(root)) == [f"train/good/{number}.png" for number in range(3)]
    assert relative(list_pictures(root / "test"))[-1] == "划痕/0.png"
    assert list_pictures(root / "test" / "划痕")[0].mask == pictures[-1].mask
    assert describe_groups(pictures) == ""


def test_groups_begin_the_names_of_their_pictures(groups):
    pictures = list_pictures(groups)
    assert relative(pictures)[::4] == ["bottle/test/good/0.png", "瓶盖/test/good/0.png"]
    assert [picture.group for picture in pictures] == ["bottle"] * 4 + ["瓶盖"] * 4
    assert sum(picture.mask is not None for picture in pictures) == 2
    assert all(groups / picture.relative == picture.path for picture in pictures)
    good = list_good_pictures(groups)
    assert relative(good)[::3] == ["bottle/train/good/0.png", "瓶盖/train/good/0.png"]
    assert {picture.kind for picture in good} == {"good"}
    assert describe_groups(pictures) == "pictures by group: bottle 4, 瓶盖 4"
    assert truth_without_picture(groups) == []
    write(groups / "瓶盖" / "ground_truth" / "划痕" / "9_mask.png", draw(0))
    assert "9_mask.png: found a mask without" in truth_without_picture(groups)[0]


def test_a_flat_folder_holds_good_pictures_and_each_folder_in_it_is_a_group(tmp_path):
    write(tmp_path / "a" / "1.png", draw(1))
    write(tmp_path / "b" / "deep" / "1.png", draw(2))
    write(tmp_path / "0.png", draw(3))
    good = list_good_pictures(tmp_path)
    assert [(picture.relative.as_posix(), picture.group) for picture in good] == [
        ("0.png", ""),
        ("a/1.png", "a"),
        ("b/deep/1.png", "b"),
    ]
    assert list_test_pictures(tmp_path) == []
    assert [picture.kind for picture in list_pictures(tmp_path)] == [None, "a", "b"]
    assert list_pictures(tmp_path / "0.png")[0].path == tmp_path / "0.png"


def test_data_sets_that_lack_what_is_asked_are_refused(groups, tmp_path):
    root = write_kind(tmp_path / "one")
    (root / "test").rename(root / "others")
    with pytest.raises(UserError, match="one: found a data set without test/, expected"):
        list_pictures(root)
    (groups / "bottle" / "train").rename(groups / "bottle" / "others")
    with pytest.raises(UserError, match="bottle: found no train/, expected good pictures"):
        list_good_pictures(groups)
    write(tmp_path / "flat" / "bad" / "0.png", draw(0))
    with pytest.raises(UserError, match="flat: found bad/ in it, expected"):
        list_good_pictures(tmp_path / "flat")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
@pytest.mark.parametrize("count", [1, 3])
def test_channels_are_counted_from_headers_as_decoded(tmp_path, suffix, count):
    path = write(tmp_path / f"picture{suffix}", draw(0, count))
    assert count_channels(path) == count
    picture = list_pictures(tmp_path)[0]
    assert picture.channels is {1: Channels.GREY, 3: Channels.COLOUR}[count]
    image, mask = read_picture(picture, 255.0)
    assert image.shape == (count, *SIZE) and image.dtype == np.float32 and mask is None
    if suffix == ".png":
        assert np.array_equal(image, np.moveaxis(draw(0, count)[:, :, ::-1], -1, 0))


def test_opacity_and_two_channels_are_refused_by_name(tmp_path):
    alpha = write(tmp_path / "alpha.png", draw(0, 4))
    with pytest.raises(UserError, match=r"alpha\.png: found 4 channels, .*alpha.*expected 1"):
        list_pictures(tmp_path)
    alpha.rename(tmp_path / "b.png")
    write(tmp_path / "a.png", draw(0, 3))
    pictures = list_pictures(tmp_path)
    verified = verify_pictures(pictures, 255.0)
    assert len(verified.usable) == 1 and "b.png: found 4 channels" in verified.problems[0]


@pytest.mark.parametrize(
    ("extra", "alpha"), [("unspecified", ""), ("unassalpha", ", the last of them alpha (opacity)")]
)
@pytest.mark.parametrize(("count", "photometric"), [(2, "minisblack"), (4, "rgb")])
def test_a_tiff_has_opacity_where_it_says_so(tmp_path, extra, alpha, count, photometric):
    path = tmp_path / "picture.tiff"
    tifffile.imwrite(path, draw(0, count), photometric=photometric, extrasamples=[extra])
    line = f"{path}: found {count} channels{alpha}, expected 1 (grey) or 3 (colour) and no alpha ch"
    with pytest.raises(UserError, match=f"^{re.escape(line)}"):
        list_pictures(tmp_path)


def test_a_palette_with_transparency_counts_as_it_decodes(tmp_path):
    from PIL import Image

    path = tmp_path / "palette.png"
    Image.fromarray(draw(0)[:, :, 0]).convert("P").save(path, transparency=0)
    assert count_channels(path) == cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape[2] == 4


def test_grey_and_colour_in_one_folder_are_refused(tmp_path):
    write(tmp_path / "a.png", draw(0, 1))
    write(tmp_path / "b.png", draw(0, 3))
    with pytest.raises(UserError, match=r"grey pictures \(a\.png\) and colour pictures \(b\.png\)"):
        list_pictures(tmp_path)
    grey = list_pictures(tmp_path, channels=Channels.GREY)
    assert read_picture(grey[0], 255.0)[0].shape[0] == 1
    with pytest.raises(UserError, match=r"b\.png: found a picture in colour .*expected grey \(1\)"):
        read_picture(grey[1], 255.0)


def test_grey_and_colour_groups_are_all_read_in_colour(groups, tmp_path, capsys):
    write_kind(groups / "grid", 7, channels=3)
    write(groups / "grid" / "test" / "good" / "broken.png", draw(0, 4))
    pictures = list_pictures(groups)
    noted = capsys.readouterr().err
    assert noted.count("\n") == 1
    assert "the grey pictures of bottle, 瓶盖 in colour, as three equal channels" in noted
    verified = verify_pictures(pictures, 255.0)
    assert len(verified.usable) == len(pictures) - 1 == 12
    assert "broken.png: found 4 channels" in verified.problems[0]
    for picture in verified.usable:
        image, mask = read_picture(picture, 255.0)
        assert image.shape[0] == 3 and mask is not None
        assert (image == image[:1]).all() == (picture.group != "grid")
    good = list_good_pictures(groups)
    assert {picture.channels for picture in good} == {Channels.COLOUR}
    assert list_pictures(groups, channels=Channels.COLOUR) == pictures
    # a model of grey pictures does not read colour, and one of colour no folder that is all grey
    with pytest.raises(UserError, match=r"expected grey \(1\)"):
        grey = list_pictures(groups, channels=Channels.GREY)
        read_picture(next(picture for picture in grey if picture.group == "grid"), 255.0)
    alone = list_pictures(groups / "bottle", channels=Channels.COLOUR)
    assert len(verify_pictures(alone, 255.0).problems) == len(alone)


def test_a_group_that_mixes_grey_and_colour_is_refused(groups):
    write_kind(groups / "grid", 7, channels=3)
    write(groups / "grid" / "train" / "good" / "9.png", draw(0, 1))
    with pytest.raises(UserError, match=r"grey pictures \(grid/train/good/9\.png\), expected one"):
        list_good_pictures(groups)
    # one picture among many, where a model says what it reads
    write(groups / "grid" / "test" / "good" / "9.png", draw(0, 1))
    verified = verify_pictures(list_pictures(groups, channels=Channels.COLOUR), 255.0)
    assert len(verified.usable) == 12 and len(verified.problems) == 1
    assert "9.png: found a picture in grey" in verified.problems[0]


def test_pictures_of_several_sizes_are_verified_and_read_with_their_masks(groups):
    pictures = list_pictures(groups)
    verified = verify_pictures(pictures, 255.0)
    assert verified.usable == pictures and not verified.problems
    image, mask = read_picture(pictures[3], 255.0)
    assert image.shape == (1, 20, 30) and mask.sum() == 15
    image, mask = read_picture(pictures[0], 255.0)
    assert mask.shape == SIZE and not mask.any()


def test_copies_have_one_hash_in_any_format(tmp_path):
    pixels = draw(0, 3)
    paths = [write(tmp_path / "a.png", pixels), write(tmp_path / "b.bmp", pixels)]
    tifffile.imwrite(tmp_path / "c.tif", pixels[:, :, ::-1], photometric="rgb")
    other = write(tmp_path / "d.png", draw(1, 3))
    hashes = {picture_hash(path) for path in (*paths, tmp_path / "c.tif")}
    assert len(hashes) == 1 and picture_hash(other) not in hashes


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.01, 0.3, 0.99])
def test_no_picture_is_on_both_sides_and_every_group_is_on_each(tmp_path, seed, share):
    for group, count in (("a", 6), ("b", 2)):
        for number in range(count):
            write(tmp_path / group / f"{number}.png", draw((len(group), count, number)))
    for copy in ("a/copy.png", "b/copy.png"):  # of one picture, also in the other group
        write(tmp_path / copy, draw((1, 6, 0)))
    pictures = list_good_pictures(tmp_path)
    train, valid = split_good(pictures, share, seed)
    assert sorted(relative(train) + relative(valid)) == relative(pictures)
    contents = [{picture_hash(picture.path) for picture in part} for part in (train, valid)]
    assert not contents[0] & contents[1]
    own = [picture.relative.stem for picture in train if picture.group == "b"]
    assert {picture.group for picture in train} == {picture.group for picture in valid}
    assert "0" in own or "1" in own
    assert split_good(pictures, share, seed) == (train, valid)


def test_the_seed_chooses_the_pictures(tmp_path):
    for number in range(12):
        write(tmp_path / f"{number}.png", draw(number))
    pictures = list_good_pictures(tmp_path)
    assert len({tuple(relative(split_good(pictures, 0.25, seed)[1])) for seed in range(4)}) > 1
    assert len(split_good(pictures, 0.25, 0)[1]) == 3


def test_copies_of_a_single_picture_cannot_be_split(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.png", draw(0))
    with pytest.raises(UserError, match=r"found 1 different pictures among 2, .*at least two"):
        split_good(list_good_pictures(tmp_path), 0.1, 0)

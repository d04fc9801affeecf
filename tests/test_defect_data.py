"""Labelled pictures of the defect classifier: reading them, and making sets of them."""

import cv2
import numpy as np
import pytest
import tifffile

from classifier.defect_data import (
    content_hash,
    list_labelled,
    order_kinds,
    read_labelled,
    unused_masks,
)
from common.errors import UserError
from data.folder import mask_path
from data.image_files import encode_image
from data.write_images import write_mask, write_strip

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
    colours = write(folder / "colour.png", draw(1, channels=3))
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
    copy = folder / "copy.tiff"
    write_strip(copy, np.ascontiguousarray(np.moveaxis(cv2.imread(str(colours))[..., ::-1], 2, 0)))
    assert content_hash(copy) == content_hash(colours) != content_hash(folder / "grey.png")


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
        (("scratch", "0"), r"0_mask.png: found a mask of \(12, 17\)"),
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

import sys

import cv2
import numpy as np
import pytest

from common.errors import UserError
from data import textures
from data.demo_strips import OFFSET_SPREAD
from data.folder import list_strips
from data.image_files import Channels, load_image
from data.masks import load_mask
from data.pictures import list_good_pictures, list_test_pictures
from data.texture_defects import KINDS, damage
from data.textures import CLASSES, shoot
from prepare_dataset import next_command, parse_args
from tests.test_prepare_dataset import build, contents

SIZE = 64
PHOTOS = ("brick", "grass", "gravel")
FEW = ("--size", SIZE, "--train", 2, "--good", 1, "--defective", 5)


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("textures") / "set"
    build("textures", "--output", folder, *FEW, "--classes", *CLASSES, "織物=fabric")
    return folder


def test_every_class_has_its_pictures_and_masks(data_set):
    for name in (*CLASSES, "織物"):
        root = data_set / name
        pictures = {path.relative_to(root).as_posix() for path in root.rglob("*.png")}
        assert pictures == {
            "train/good/000.png",
            "train/good/001.png",
            "test/good/000.png",
            *(f"test/{kind}/000.png" for kind in KINDS),
            *(f"ground_truth/{kind}/000_mask.png" for kind in KINDS),
        }
        strips = list_strips(root / "test")
        assert [strip.is_defective for strip in strips] == [
            strip.kind != "good" for strip in strips
        ]
        for strip in strips:
            picture = load_image(strip.path, channels=Channels.GREY)
            assert picture.shape == (1, SIZE, SIZE) and picture.std() > 4
            assert (strip.mask is not None) == strip.is_defective
            if strip.mask:
                assert 6 <= load_mask(strip.mask, (SIZE, SIZE)).sum() < SIZE**2 / 2
    every = [
        path.read_bytes() for path in data_set.rglob("0*[0-9].png") if "fabric" not in str(path)
    ]
    assert len(set(every)) == len(every)


def test_the_data_set_is_read_as_groups_of_grey_pictures(data_set):
    good, test = list_good_pictures(data_set), list_test_pictures(data_set)
    groups = {*CLASSES, "織物"}
    assert {picture.group for picture in good} == {picture.group for picture in test} == groups
    assert len(good) == 2 * len(groups) and len(test) == (1 + len(KINDS)) * len(groups)
    assert {picture.channels for picture in (*good, *test)} == {Channels.GREY}
    assert sum(picture.mask is not None for picture in test) == len(KINDS) * len(groups)


def test_the_same_seed_gives_the_same_files_whatever_other_classes(data_set, tmp_path):
    build("textures", "--output", tmp_path / "one", *FEW, "--classes", "chip", "織物=fabric")
    build("textures", "--output", tmp_path / "other", *FEW, "--classes", "chip", "--seed", 7)
    one, other = contents(tmp_path / "one" / "chip"), contents(tmp_path / "other" / "chip")
    assert one == contents(data_set / "chip")
    assert one.keys() == other.keys()
    assert not {data for data in one.values()} & {data for data in other.values()}
    assert contents(tmp_path / "one" / "織物") == contents(data_set / "fabric")


@pytest.mark.parametrize("name", PHOTOS)
def test_training_and_test_are_cut_from_different_parts_of_a_photo(name, monkeypatch):
    """With a photo that is black on the training's side and white on the other one."""
    photo = np.zeros((200, 400), np.float32)
    photo[:, round(400 * textures.TRAINING_SHARE) :] = 255
    monkeypatch.setattr(textures, "_load_photo", lambda name: photo)
    for seed in range(30):
        for size in (40, 400):
            train, test = (
                CLASSES[name](np.random.default_rng(seed), size, is_test).levels
                for is_test in (False, True)
            )
            assert train.shape == test.shape == (size, size)
            assert train.max() < 0.01 and test.min() > 254.99


@pytest.mark.parametrize("name", ["gear", "chip"])
def test_objects_turn_and_shift(name):
    pieces = [CLASSES[name](np.random.default_rng(seed), 64, False) for seed in range(12)]
    centres = np.array([np.argwhere(piece.part).mean(axis=0) for piece in pieces])
    assert (np.ptp(centres, axis=0) > 3).all()
    for piece in pieces:
        assert 0.15 < piece.part.mean() < 0.6
        border = np.ones((64, 64), bool)
        border[1:-1, 1:-1] = False
        assert not (piece.part & border).any()
    moved = [
        np.roll(piece.part, tuple(np.rint(31.5 - centre).astype(int)), (0, 1))
        for piece, centre in zip(pieces, centres)
    ]
    apart = [(one ^ two).sum() / one.sum() for one, two in zip(moved, moved[1:])]
    assert np.median(apart) > 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_a_defect_is_visible_where_its_mask_is_and_nowhere_else(kind):
    foreign = CLASSES["leather"](np.random.default_rng(9), 96, True).levels
    shares = []
    for seed in range(12):
        name = ("fabric", "gear", "target")[seed % 3]
        generator = np.random.default_rng((seed, 5))
        levels, part = CLASSES[name](generator, 96, True)
        damaged, mask = damage(levels, part, kind, generator, foreign)
        change = abs(damaged - levels)
        assert mask.dtype == bool and mask.any() and damaged.dtype == np.float32
        assert damaged.min() >= 0 and damaged.max() <= 255
        near = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=9) > 0
        # but for the ends of a scratch whose middle lies beside the part
        assert change[~near].max(initial=0) < 0.6 * change.max()
        assert change[mask].mean() > 3
        if kind != "warp":
            assert not (mask & ~part).any() and (change[~part] == 0).all()
        shares.append(change[mask].sum() / change.sum())
    assert np.median(shares) > 0.7


def test_pictures_are_lit_as_strips_are():
    flat = np.full((64, 64), 100, np.float32)
    means = [shoot(flat, np.random.default_rng(seed)).mean() for seed in range(60)]
    assert 84 < min(means) < 93 and 107 < max(means) < 108 + OFFSET_SPREAD + 3


def test_without_scikit_image_one_line_names_the_package(monkeypatch, tmp_path):
    textures._load_photo.cache_clear()
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(UserError, match="--classes: found brick but no package scikit-image"):
        build("textures", "--output", tmp_path / "set", *FEW, "--classes", "fabric", "brick")
    assert list(tmp_path.iterdir()) == []
    build("textures", "--output", tmp_path / "set", *FEW, "--classes", "leather")


@pytest.mark.parametrize(
    ("classes", "text"),
    [
        (["fabrics"], "--classes: found fabrics, expected some of fabric"),
        (["fabric", "fabric"], "--classes: found fabric twice"),
        (["甲=fabric", "甲=chip"], "--classes: found 甲 twice"),
        (["test=fabric"], "--classes: found test=fabric, expected FOLDER=fabric"),
        (["a/b=fabric"], "--classes: found a/b=fabric"),
        (["..=fabric"], "--classes: found ..=fabric"),
    ],
)
def test_wrong_classes_are_refused(classes, text, tmp_path):
    with pytest.raises(UserError, match=text.replace("..=", r"\.\.=")):
        build("textures", "--output", tmp_path / "set", *FEW, "--classes", *classes)
    assert list(tmp_path.iterdir()) == []


def test_the_next_command_trains_the_tool_without_references(tmp_path):
    arguments = parse_args(["textures", "--output", str(tmp_path / "set")])
    assert (arguments.train, arguments.good, arguments.defective) == (80, 40, 50)
    assert len(arguments.classes) >= 7 and arguments.size == 192
    assert next_command(arguments).startswith("bash autoencoder/train.sh ")

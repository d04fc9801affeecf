"""The data sets of benchmarks/classifier.py: made where they are missing, and parts of them."""

import os
import shutil
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from classifier.deeppcb_crops import write_deeppcb
from classifier.defect_data import SPLITS, LabelledPicture, list_labelled, read_labelled
from classifier.dummy_set import write_dummy_set
from common.files import new_folder
from data.folder import GOOD, mask_path
from data.image_files import DEFAULT_INPUT_MAX, encode_image

# good pictures of each split, and as many defective ones; fixed before the first training
COUNTS = {"train": 500, "valid": 200, "test": 500}
TINY_COUNTS = {"train": 8, "valid": 8, "test": 8}
SIZE, TINY_SIZE = 96, 48  # pixels of a side
MASK_SEED = 3  # of the choice of pictures with a mask
CROP_SIZE = 32  # of DeepPCB, in pixels: larger crops were no better on other boards


def dummy_set(folder: Path, seed: int, is_tiny: bool) -> Path:
    """The dummy set of a seed; drawn where it is missing."""
    counts, size = (TINY_COUNTS, TINY_SIZE) if is_tiny else (COUNTS, SIZE)
    root, total = folder / f"dummy_seed{seed}", sum(counts.values())
    if not root.exists():
        shares = counts["valid"] / total, counts["test"] / total
        with new_folder(root) as place:
            write_dummy_set(place, total, total, size, seed, shares)
    return root


def part_of(
    root: Path,
    folder: Path,
    images: int | None = None,
    masked: float = 1.0,
    without: str | None = None,
) -> Path:
    """The data set with fewer pictures, masks or kinds to learn from, as links in `folder`.

    `images` is the number of pictures in train/, about the same share of each kind; None: all.
    `masked` is the share of the defective pictures in train/ that have a mask, the same of each
    kind, drawn at random: every fourth one would always show the same surface. `without` is a kind
    that train/ and valid/ lack. test/ is that of `root`.
    """
    if images is None and masked == 1 and without is None:
        return root
    place = folder / f"{root.name}_images{images or 'all'}_masked{masked:g}_without_{without}"
    if place.exists():
        return place
    generator = np.random.default_rng(MASK_SEED)
    with new_folder(place) as made:
        for split in SPLITS:
            pictures = list_labelled(root, split)
            share = images / len(pictures) if images and split == "train" else 1.0
            for kind, same in groupby(pictures, lambda picture: picture.kind):
                if kind == without and split != "test":
                    continue
                of_kind = list(same)
                of_kind = of_kind[: round(share * len(of_kind))]
                chosen = draw_share(len(of_kind), masked, generator)
                for picture, is_chosen in zip(of_kind, chosen):
                    _link(made, split, picture, split != "train" or is_chosen)
    return place


def draw_share(count: int, share: float, generator: np.random.Generator) -> np.ndarray:
    """Which of `count` are in a share of them, drawn at random: (count,) bool."""
    return generator.permutation(count) < round(share * count)


def boards(source: Path, folder: Path, test_group: str, has_template: bool) -> Path:
    """Crops of DeepPCB whose group `test_group` tests: board and template, or the board alone."""
    root = folder / f"deeppcb_test_{test_group}"
    if not root.exists():
        with new_folder(root) as place:
            write_deeppcb(place, source, CROP_SIZE, 0, [test_group])
    if has_template:
        return root
    alone = root.with_name(f"{root.name}_board_alone")
    if not alone.exists():
        with new_folder(alone) as made:
            for split in SPLITS:
                for picture in list_labelled(root, split):
                    _link_masks(made, split, picture)
                    crop, _ = read_labelled(picture, DEFAULT_INPUT_MAX)
                    path = made / split / picture.kind / f"{picture.path.stem}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(encode_image(path, crop[0].astype(np.uint8)))
    return alone


def read_all(
    pictures: Sequence[LabelledPicture], kinds: Sequence[str]
) -> tuple[list[np.ndarray], np.ndarray]:
    """The pictures (C, H, W), 0-255, and the numbers (N,) of their kinds."""
    images = [read_labelled(picture, DEFAULT_INPUT_MAX)[0] for picture in pictures]
    return images, np.array([kinds.index(picture.kind) for picture in pictures])


def _link(root: Path, split: str, picture: LabelledPicture, is_masked: bool) -> None:
    _place(picture.path, root / split / picture.kind / picture.path.name)
    if is_masked and picture.kind != GOOD:
        _link_masks(root, split, picture)


def _link_masks(root: Path, split: str, picture: LabelledPicture) -> None:
    for mask in picture.masks:
        _place(mask, mask_path(root, split, picture.kind, picture.path.stem, mask.suffix))


def _place(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)

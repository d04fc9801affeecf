"""Labelled pictures on disk: their kinds, and masks of all, some or none of the defective ones.

ROOT/train/KIND/NAME.EXT, ROOT/valid/KIND/..., ROOT/test/KIND/...
ROOT/ground_truth_train/KIND/NAME_mask.EXT    masks of train/
ROOT/ground_truth_valid/KIND/...              masks of valid/
ROOT/ground_truth/KIND/...                    masks of test/

The kind without a defect is `good`; the other names that `data.folder` takes for it mean it, too. A
picture has any number of channels: one of grey, three of colour, or those of a cut-out of a strip.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UserError
from data.folder import GOOD, StripFile, is_good, list_strips, split_folder, truth_without_strip
from data.image_files import Channels, load_image
from data.listing import IMAGE_SUFFIXES, list_files
from data.masks import load_masks
from data.pictures import LARGEST_DEFECT

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class LabelledPicture:
    """One picture: its file, its kind, and the file of its mask (None: it has none).

    `has_truth_mask` says whether it is known which pixels are a defect's: from the mask, or because
    a good picture has none. `more_masks` are further files of the same mask.
    """

    path: Path
    kind: str
    mask: Path | None
    has_truth_mask: bool
    more_masks: tuple[Path, ...] = ()

    @property
    def masks(self) -> tuple[Path, ...]:
        """All files of the mask, none where there is none."""
        return (self.mask, *self.more_masks) if self.mask else ()


def list_labelled(root: Path, split: str) -> list[LabelledPicture]:
    """The pictures of a split (`train`, `valid` or `test`) of a data set, sorted by their path.

    Empty where the split has no folder, so that who needs it says so. Raises `UserError` for a
    missing data set, for a picture that lies in no folder of a kind, for two pictures of one name
    and for a folder of a split without pictures.
    """
    root = Path(os.path.abspath(root))
    if not root.is_dir():
        raise UserError(f"{root}: found no such folder, expected a data set with train/KIND/")
    folder = split_folder(root, split)
    if folder is None:
        return []
    strips = list_all_formats(folder)
    keys: dict[Path, Path] = {}
    for strip in strips:
        if strip.kind is None:
            raise UserError(
                f"{strip.path}: found a picture without a label, expected it in a folder that "
                f"names its kind, such as {folder.name}/{GOOD}"
            )
        key = strip.relative.with_suffix("")
        if keys.setdefault(key, strip.path) != strip.path:
            raise UserError(
                f"{strip.path}: found another picture of that name, {keys[key].name}, expected "
                "names that differ without their suffix"
            )
    return [labelled(strip) for strip in strips]


def list_all_formats(folder: Path) -> list[StripFile]:
    """`list_strips` for files of all formats together, sorted. Raises `UserError` as it does."""
    suffixes = {path.suffix.lower() for path in list_files(folder)}
    formats = [name for name, ends in IMAGE_SUFFIXES.items() if suffixes & set(ends)]
    if not formats:
        raise UserError(f"{folder}: found no images, expected pictures in folders of their kinds")
    strips = [
        strip
        for name in formats
        for strip in (list_strips(folder, name) if _has_pictures(folder, name) else [])
    ]
    return sorted(strips, key=lambda strip: strip.relative)


def _has_pictures(folder: Path, img_format: str) -> bool:
    """Whether files of a format are pictures: masks beside them may have another format."""
    try:
        list_strips(folder, img_format, use_masks=False)
    except UserError:
        return False
    return True


def labelled(strip: StripFile) -> LabelledPicture:
    """The labelled picture of a file in a folder of a kind."""
    kind = GOOD if is_good(strip.kind) else strip.kind
    has_truth = strip.mask is not None or kind == GOOD
    return LabelledPicture(strip.path, kind, strip.mask, has_truth, strip.more_masks)


def unused_masks(root: Path, split: str) -> list[str]:
    """A line about every mask of a split that fits none of its pictures."""
    folder = split_folder(Path(os.path.abspath(root)), split)
    return truth_without_strip(folder) if folder else []


def describe_unused(lines: list[str]) -> list[str]:
    """A sentence about the masks that `unused_masks` has lines about; none without any."""
    if not lines:
        return []
    first = lines[0].split(": ")[0]
    return [
        f"found masks that belong to no image and are left out: {len(lines)}, the first {first}; "
        "python -m classifier.prepare_defect_data --check_data lists what is wrong with a data set"
    ]


def order_kinds(kinds: Iterable[str]) -> list[str]:
    """The different kinds in the order of a classifier's classes: `good` first, others sorted."""
    return sorted(set(kinds), key=lambda kind: (kind != GOOD, kind))


def read_labelled(
    picture: LabelledPicture,
    input_max: float,
    channels: int | None = None,
    is_of_model: bool = False,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return a picture (C, H, W) float32, grey levels 0-255, and its mask (H, W) bool.

    `channels` is the number that it must have, None any: a grey picture becomes three equal
    channels where three are wanted. `input_max` is the largest value of the files; `is_of_model` as
    in `load_image`. The mask of a good picture is empty, without a file; it is None where it is not
    known.

    Raises `UserError`, naming the file, for one that cannot be read, has other channels or values
    outside 0 to `input_max`, and for a mask of another size.
    """
    image = load_image(picture.path, input_max, Channels.ALL, is_of_model=is_of_model)
    if channels == 3 and len(image) == 1:
        image = np.repeat(image, 3, axis=0)
    if channels not in (None, len(image)):
        found = "1 channel" if len(image) == 1 else f"{len(image)} channels"
        raise UserError(f"{picture.path}: found {found}, expected {channels}")
    if picture.mask:
        return image, load_masks(picture.masks, image.shape[1:], LARGEST_DEFECT)
    return image, np.zeros(image.shape[1:], dtype=bool) if picture.has_truth_mask else None
